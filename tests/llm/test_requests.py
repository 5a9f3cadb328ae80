"""What `LLM` and `Chat` take and refuse, on a model that needs no numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_overloads, get_type_hints

import numpy as np
import pytest

from tests.cli.fake_model import CONTEXT, VOCABULARY, fake_llm
from tests.models.kinds import byte_level
from tests.openai.fakes import TEMPLATE, make_llm
from tinyllm.batch.run import prepare
from tinyllm.errors import InvalidInputError
from tinyllm.llm import LLM, Completion
from tinyllm.openai.requests import parse_body, prepare_chat
from tinyllm.openai.schema import ChatRequest
from tinyllm.registry.registry import Registry
from tinyllm.settings.read import read_settings

IDS = "an integer from 0 to 127"
KINDS = "expected text, or a list of chat messages or of token ids, got"
USER = {"role": "user", "content": "hi"}


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("", "expected some text, got an empty prompt"),
        ([], f"{KINDS} an empty list"),
        (None, f"{KINDS} NoneType"),
        (7, f"{KINDS} int"),
        ((), f"{KINDS} an empty list"),
        (np.array([1.0, 2.0]), f"{KINDS} a list of float"),
        (np.array(3), f"{KINDS} int"),
        (np.array([True]), f"{KINDS} a list of bool"),
        ({1, 2}, f"{KINDS} set"),
        (USER, f"{KINDS} dict"),
        ([1, "a"], f"{KINDS} a list of int, str"),
        ([1, True], f"{KINDS} a list of bool, int"),
        ([1, VOCABULARY], f"token id: expected {IDS}, got 128"),
    ],
)
def test_wrong_prompts_are_named(prompt: Any, said: str) -> None:
    with pytest.raises(InvalidInputError) as error:
        fake_llm().generate(prompt)
    assert str(error.value) == f"prompt: {said}"


@pytest.mark.parametrize(
    ("prompts", "said"),
    [
        (["hi", ""], "prompts[1]: expected some text"),
        (["x" * CONTEXT, "hi"], "prompts[0]: has "),
        ([[1], [2], [3, VOCABULARY]], "prompts[2]: token id"),
        ([[USER], [{"content": "x"}]], "prompts[1]: chat: messages[0]: expected an object with a role"),
    ],
)
def test_a_wrong_prompt_in_a_batch_is_named_by_its_index(prompts: Any, said: str) -> None:
    with pytest.raises(InvalidInputError) as error:
        fake_llm().generate(prompts)
    assert str(error.value).startswith(said)


def test_a_wrong_setting_is_not_blamed_on_a_prompt() -> None:
    with pytest.raises(InvalidInputError, match=r"^sampling: top_p"):
        fake_llm().generate(["a", "b"], top_p=3)


def test_raw_takes_no_messages() -> None:
    llm = fake_llm()
    with pytest.raises(InvalidInputError, match="raw takes text or token ids, got chat messages"):
        llm.generate([USER], raw=True)
    assert llm.generate([104, 105], raw=True, max_tokens=4) == llm.generate("hi", raw=True, max_tokens=4)


@pytest.mark.parametrize("ids", [[1, 2.0], [1, True], ["a"], "ab", [1, -1], [1, None], np.array([1.0, 2.0]), [[1, 2]]])
def test_logits_take_whole_numbers_alone(ids: Any) -> None:
    with pytest.raises(InvalidInputError, match="prompt: token id"):
        fake_llm().logits(ids)


@pytest.mark.parametrize("ids", [None, 5, {1}])
def test_logits_take_a_list(ids: Any) -> None:
    with pytest.raises(InvalidInputError, match="prompt: token ids: expected a list of integers"):
        fake_llm().logits(ids)


def test_logits_take_arrays_of_whole_numbers() -> None:
    expected = fake_llm().logits([1, 2, 3])
    for ids in ((1, 2, 3), np.array([1, 2, 3]), np.array([1, 2, 3], np.uint8)):
        np.testing.assert_array_equal(fake_llm().logits(ids), expected)  # type: ignore[arg-type]


def in_form(form: str, ids: Any) -> Any:
    """Token ids as a caller may have them."""
    if form == "tuple":
        return tuple(map(tuple, ids)) if isinstance(ids[0], list) else tuple(ids)
    array = pytest.importorskip("torch").tensor(ids) if "torch" in form else np.array(ids, np.uint16)
    return [*array] if "numbers" in form else array


FORMS = ["tuple", "numpy", "torch", "numbers of numpy", "numbers of torch"]


@pytest.mark.parametrize("form", FORMS)
def test_token_ids_may_be_arrays_of_any_library(form: str) -> None:
    llm, ids, batch = fake_llm(), [104, 105, 33], [[104, 105], [33, 34]]
    given = in_form(form, ids)
    assert llm.encode(given) == ids and all(type(token) is int for token in llm.encode(given))
    expected = llm.generate(ids, max_tokens=4)
    assert llm.generate(given, max_tokens=4) == expected
    assert "".join(piece.text for piece in llm.stream(given, max_tokens=4)) == expected.text
    assert llm.generate(in_form(form, batch), max_tokens=4) == llm.generate(batch, max_tokens=4)
    assert llm.generate([given], max_tokens=4) == [expected]
    np.testing.assert_array_equal(llm.logits(given), llm.logits(ids))
    stop = in_form(form, expected.token_ids[2:3])
    assert llm.generate(ids, max_tokens=4, stop_token_ids=stop).token_ids == expected.token_ids[:2]


@pytest.mark.parametrize("form", FORMS)
def test_a_tokenizer_takes_arrays(form: str, tmp_path: Path) -> None:
    tokenizer = byte_level(tmp_path)
    assert tokenizer.decode(in_form(form, tokenizer.encode("hello w"))) == "hello w"


def test_settings_give_the_number_of_tokens() -> None:
    llm = fake_llm()
    llm.registry = Registry(
        settings=read_settings(Path("/nonexistent"), {"TINYLLM_MAX_TOKENS": "7", "XDG_CONFIG_HOME": "/nonexistent"})
    )
    assert len(llm.generate("hello").token_ids) == 7
    assert sum(len(piece.token_ids) for piece in llm.stream("hello")) == 7
    assert len(llm.chat().send("hello")) == 7
    assert len(llm.generate("hello", max_tokens=3).token_ids) == 3


def test_a_type_checker_sees_one_completion_or_a_list() -> None:
    assert [get_type_hints(o)["return"] for o in get_overloads(LLM.generate)] == [Completion, list[Completion]]


@pytest.mark.parametrize("content", ["said", None, [{"type": "text", "text": "in"}, {"type": "text", "text": "parts"}]])
def test_messages_of_the_openai_package_give_one_prompt_at_every_door(content: Any) -> None:
    """In Python, over HTTP and in a file of requests."""
    chat = pytest.importorskip("openai.types.chat")
    call = {"id": "c", "type": "function", "function": {"name": "now", "arguments": "{}"}}
    calls = {"tool_calls": None if content else [call]}
    typed = chat.ChatCompletionMessage.model_validate({"role": "assistant", "content": None} | calls)
    said = typed.model_dump() | {"content": content}
    messages = [
        USER | {"name": None},
        said,
        *([] if content else [{"role": "tool", "tool_call_id": "c", "content": "1"}]),
    ]
    llm = make_llm(template="{% if tools %}{% endif %}" + TEMPLATE)
    body = {"model": "fake", "messages": messages}
    over_http = prepare_chat(llm, parse_body(ChatRequest, body))
    in_a_file = prepare(llm, "fake", "/v1/chat/completions", body)
    prompts = [llm.encode(messages), *(prepared.sequences[0].prompt for prepared in (over_http, in_a_file))]
    assert prompts[0] == prompts[1] == prompts[2] and "None" not in "".join(map(chr, prompts[0]))


def test_a_reply_tells_of_its_prompt() -> None:
    found = fake_llm().generate("hi", raw=True, prompt_logprobs=1, max_tokens=0)
    assert (found.text, found.token_ids, found.finish_reason, found.logprobs) == ("", [], "length", None)
    assert found.prompt_logprobs is not None and [e and e.token_id for e in found.prompt_logprobs] == [None, ord("i")]
    assert fake_llm().generate("hi", raw=True, max_tokens=1).prompt_logprobs is None


def test_options_of_the_chat_template() -> None:
    """In a single prompt, a batch, a stream and a chat; they are refused where no template writes the prompt."""
    llm = make_llm(template=TEMPLATE + "{{ mood }}")
    options: dict[str, Any] = {"chat_template_kwargs": {"mood": "glad"}, "max_tokens": 1}
    wanted = llm.encode("<user>hi;<assistant>glad", raw=True)
    assert llm.generate("hi", **options).prompt_token_ids == wanted
    assert [reply.prompt_token_ids for reply in llm.generate(["hi", [USER]], **options)] == [wanted, wanted]
    chat = llm.chat()
    assert [p.token_ids for p in llm.stream("hi", **options)] == [p.token_ids for p in chat.stream("hi", **options)]
    assert chat.prompt_tokens == len(wanted)
    said = [USER, {"role": "assistant", "content": "Well, "}]
    assert llm.generate(said, continue_final_message=True, max_tokens=1).prompt_token_ids[-6:] == llm.encode(
        "Well, ", True
    )
    for prompt, raw in (("hi", True), ([104], False), ([104], True)):
        with pytest.raises(InvalidInputError, match="chat_template_kwargs: expected a prompt that the chat template"):
            llm.generate(prompt, raw=raw, **options)


def test_a_prompt_that_fills_the_context_is_scored() -> None:
    """Where nothing is to follow, no token's room is kept free."""
    model = fake_llm()
    scored = model.generate([7] * CONTEXT, prompt_logprobs=0, max_tokens=0)
    assert len(scored.prompt_logprobs or ()) == CONTEXT and scored.finish_reason == "length"
    with pytest.raises(InvalidInputError, match=f"at most {CONTEXT - 1} fit"):
        model.generate([7] * CONTEXT, max_tokens=1)
