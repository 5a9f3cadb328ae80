"""From a conversation to a prompt: messages in the forms that clients have, and the options of templates."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest

from tinyllm.errors import InvalidInputError
from tinyllm.models.text.chat_prompt import TemplateOptions, chat_prompt, split_options
from tinyllm.models.text.chat_template import ChatTemplate
from tinyllm.models.text.messages import template_messages

PLAIN = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</{{ m.role }}>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
TRIMMED = PLAIN.replace("m.content", "m.content | trim")
THINKING = "{% if enable_thinking is defined and not enable_thinking %}NO{% endif %}" + PLAIN
EFFORT = "{{ reasoning_effort | default('medium') }}" + PLAIN
CALL = {"id": "c", "type": "function", "function": {"name": "now", "arguments": '{"a": 1}'}}
TALK = [{"role": "user", "content": "Hi "}, {"role": "assistant", "content": " Well, "}]


def prompt(source: str = PLAIN, messages: Any = None, **options: Any) -> str:
    return chat_prompt(ChatTemplate({"default": source}, {}), messages or TALK, split_options(options)[0])


@pytest.mark.parametrize("role", ["system", "user", "assistant", "tool"])
def test_a_key_that_is_none_is_as_if_left_out(role: str) -> None:
    """Any of them, in a message, its parts and its calls, alone and together."""
    message: dict[str, Any] = {"role": role, "content": "said"} | (
        {"tool_calls": [CALL]} if role == "assistant" else {}
    )
    names = ["name", "refusal", "tool_call_id", "reasoning_content", *(() if role == "assistant" else ("tool_calls",))]
    wanted = template_messages([message])
    for count in range(1, len(names) + 1):
        for some in combinations(names, count):
            assert template_messages([message | dict.fromkeys(some)]) == wanted
    if role == "assistant":
        with_none = CALL | {"index": None, "function": CALL["function"] | {"parsed_arguments": None}}  # type: ignore[operator]
        assert template_messages([message | {"tool_calls": [with_none]}]) == wanted
        assert "None" not in prompt(messages=[message | {"content": None}])
    assert (
        template_messages([message | {"content": [{"type": "text", "text": "said", "cache_control": None}]}]) == wanted
    )


@pytest.mark.parametrize("source", [PLAIN, TRIMMED, THINKING, EFFORT])
def test_a_developer_is_the_system(source: str) -> None:
    said = [prompt(source, [{"role": role, "content": "Be kind."}, *TALK]) for role in ("system", "developer")]
    assert said[0] == said[1] and "<system>Be kind." in said[0]


@pytest.mark.parametrize("text", ["", None, "Let me see."])
@pytest.mark.parametrize("count", [1, 2])
def test_a_template_without_tools_writes_calls_and_results_as_texts(text: str | None, count: int) -> None:
    result = {"role": "tool", "tool_call_id": "c", "content": "noon"}
    text_of_call = '<tool_call>\n{"name": "now", "arguments": {"a": 1}}\n</tool_call>'
    called = {"role": "assistant", "content": text, "tool_calls": [CALL] * count}
    told = "\n".join([*([text] if text else []), *[text_of_call] * count])
    results = "\n".join(["<tool_response>\nnoon\n</tool_response>"] * count)
    wanted = prompt(messages=[TALK[0], {"role": "assistant", "content": told}, {"role": "user", "content": results}])
    assert prompt(messages=[TALK[0], called, *[result] * count]) == wanted
    with pytest.raises(InvalidInputError, match="continue_final_message: expected a final message of text alone"):
        prompt(messages=[TALK[0], called], continue_final_message=True)


def test_messages_as_the_openai_package_dumps_them() -> None:
    """They are what the client said: no None is printed, and arguments are what the model wrote."""
    chat = pytest.importorskip("openai.types.chat")
    call = chat.ChatCompletionMessageFunctionToolCall.model_validate(CALL)
    arguments = "{% for c in m.tool_calls or [] %}{{ c.function.arguments.a }}{% endfor %}</{{"
    source = "{% set tools = tools %}" + PLAIN.replace("</{{", arguments)
    for fields in ({"content": "said"}, {"tool_calls": [call]}, {"content": "said", "tool_calls": [call]}):
        dumped = chat.ChatCompletionMessage(role="assistant", **fields).model_dump()
        text = prompt(source, [TALK[0], dumped])
        said = fields.get("content", "") + ("1" if "tool_calls" in fields else "")
        assert f"<assistant>{said}</assistant>" in text and "None" not in text


def test_reasoning_has_the_name_that_a_template_reads() -> None:
    for name in ("reasoning", "reasoning_content", "thinking"):
        for read in ("reasoning", "reasoning_content", "thinking"):
            source = f"{{% for m in messages %}}{{{{ m.{read} }}}}{{% endfor %}}"
            assert prompt(source, [{"role": "assistant", "content": "a", name: "hm"}]) == "hm"


def test_other_keys_reach_the_template() -> None:
    source = "{% for m in messages %}{{ m.name }}:{{ m.mood.now }}{% endfor %}"
    assert prompt(source, [{"role": "user", "content": "a", "name": "Bo", "mood": {"now": "glad"}}]) == "Bo:glad"


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ({"content": [{"type": "image_url"}]}, "messages.0: content.0: expected a text"),
        ({"tool_calls": [3]}, "messages.0: tool_calls.0: expected an object, got 3"),
        ({"tool_calls": [{"function": {"name": "a", "arguments": "{"}}]}, "arguments: expected JSON, got"),
        ({"tool_calls": [{"function": {"name": "a", "arguments": "[]"}}]}, "arguments: expected a JSON object"),
    ],
)
def test_what_no_template_could_write(message: dict[str, Any], error: str) -> None:
    with pytest.raises(InvalidInputError, match=error):
        template_messages([{"role": "assistant"} | message])


@pytest.mark.parametrize("source", [PLAIN, TRIMMED, THINKING])
@pytest.mark.parametrize("content", ["Sure", "Sure, ", "", " a\n b ", "Hi "])
@pytest.mark.parametrize("role", ["assistant", "user"])
def test_the_final_message_goes_on_as_in_transformers(source: str, content: str, role: str) -> None:
    """Its text is the end of the prompt, also where it was said before."""
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    messages = [*TALK, {"role": role, "content": content}]
    ((wanted,), _) = utils.render_jinja_template([messages], chat_template=source, continue_final_message=True)
    assert prompt(source, messages, continue_final_message=True) == wanted


def test_the_generation_prompt_is_there_unless_told_otherwise() -> None:
    assert prompt() == prompt(add_generation_prompt=True) == prompt(add_generation_prompt=False) + "<assistant>"
    assert not prompt(continue_final_message=True).endswith("<assistant>")


def test_variables_reach_the_template() -> None:
    assert prompt(THINKING, chat_template_kwargs={"enable_thinking": False}).startswith("NO")
    assert prompt(THINKING, chat_template_kwargs={"enable_thinking": True}) == prompt(THINKING) == prompt()
    assert prompt(EFFORT, reasoning_effort="high").startswith("high") and prompt(EFFORT).startswith("medium")


def test_no_reasoning_is_what_a_model_gives_that_cannot() -> None:
    """And one that thinks unless told otherwise is told."""
    assert prompt(THINKING, reasoning_effort="none").startswith("NO")
    assert prompt(reasoning_effort="none") == prompt() == prompt(chat_template_kwargs={"enable_thinking": False})
    assert prompt(EFFORT, reasoning_effort="none").startswith("none")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (
            {"reasoning_effort": "high"},
            "reasoning_effort: this model's chat template has no such variable; expected none",
        ),
        ({"reasoning_effort": 3}, "reasoning_effort: expected a text, got 3"),
        ({"chat_template_kwargs": {"enable_thinkin": True}}, "chat_template_kwargs.enable_thinkin: this model's chat"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs: messages: expected it as a field"),
        ({"chat_template_kwargs": [1]}, "chat_template_kwargs: expected names with values, got"),
        ({"chat_template_kwargs": {1: 2}}, "chat_template_kwargs: expected names with values, got"),
        ({"add_generation_prompt": "yes"}, "add_generation_prompt: expected true or false, got 'yes'"),
        ({"continue_final_message": 1}, "continue_final_message: expected true or false, got 1"),
        (
            {"continue_final_message": True, "add_generation_prompt": True},
            "add_generation_prompt: expected false beside",
        ),
    ],
)
def test_options_that_cannot_be_honoured_are_named(options: dict[str, Any], error: str) -> None:
    with pytest.raises(InvalidInputError, match=error):
        prompt(**options)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (PLAIN, {"role": "assistant", "content": "a", "tool_calls": [CALL]}),
        ("{{ messages[0].content }}", {"role": "assistant", "content": "a"}),
    ],
)
def test_a_final_message_that_cannot_go_on(source: str, message: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError, match="continue_final_message: "):
        prompt(source, [TALK[0], message], continue_final_message=True)


def test_options_are_told_apart() -> None:
    options, rest = split_options({"reasoning_effort": "low", "continue_final_message": None, "top_k": 3})
    assert options == TemplateOptions(reasoning_effort="low") and options.given == {"reasoning_effort": "low"}
    assert rest == {"top_k": 3}
