"""From bodies to sequences, without a server."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pytest

from tests.openai.fakes import make_llm
from tinyllm.openai.errors import ApiError, api_error
from tinyllm.openai.requests import check_model, parse_body, prepare_chat, prepare_completion
from tinyllm.openai.schema import ChatRequest, CompletionRequest

CHAT: dict[str, Any] = {"model": "fake", "messages": [{"role": "user", "content": "hello"}]}
TEXT: dict[str, Any] = {"model": "fake", "prompt": "once"}
BIASES = {str(token): 1 for token in range(4097)}


def text(token_ids: list[int]) -> str:
    return "".join(map(chr, token_ids))


def test_a_conversation_becomes_a_sequence_for_each_choice() -> None:
    """All have one prompt, and a seed of their own."""
    body = CHAT | {"n": 3, "seed": 7, "max_completion_tokens": 5, "stop": ["x"], "top_logprobs": 2, "logprobs": True}
    (group,) = prepare_chat(make_llm(), parse_body(ChatRequest, body)).groups
    assert [text(sequence.prompt) for sequence in group] == ["<user>hello;<assistant>"] * 3
    assert [sequence.seed for sequence in group] == [7, 8, 9]
    params = group[0].params
    assert (params.max_tokens, params.temperature, params.stop, params.logprobs) == (5, 1.0, ("x",), 2)


def test_prompts_become_groups_in_their_order() -> None:
    body = TEXT | {"prompt": ["ab", "c"], "n": 2, "echo": True, "logit_bias": {"42": 1}}
    prepared = prepare_completion(make_llm(), parse_body(CompletionRequest, body))
    assert [[text(sequence.prompt) for sequence in group] for group in prepared.groups] == [["ab"] * 2, ["c"] * 2]
    assert prepared.echoed == ("ab", "c") and dict(prepared.sequences[0].params.logit_bias) == {42: 1.0}


def test_descriptions_change_nothing_of_a_format() -> None:
    """That of the format is taken, as those inside its schema are."""
    schema = {"type": "object", "properties": {"city": {"type": "string", "description": "its name"}}}
    formats = [{"name": "place", "schema": schema} | extra for extra in ({}, {"description": "A place."})]
    bodies = [CHAT | {"response_format": {"type": "json_schema", "json_schema": f}} for f in formats]
    plain, described = (prepare_chat(make_llm(), parse_body(ChatRequest, body)).sequences[0] for body in bodies)
    assert plain.params.grammar == described.params.grammar is not None and plain.prompt == described.prompt


@pytest.mark.parametrize(
    ("kind", "body", "param", "message"),
    [
        (ChatRequest, CHAT | {"temprature": 1}, "temprature", "temprature: not supported. Did you mean 'temperature'?"),
        (ChatRequest, {"model": "fake"}, "messages", "messages: expected a value, got none"),
        (ChatRequest, CHAT | {"messages": [{"role": "user"}]}, "messages.0.content", "messages.0.content: expected a"),
        (ChatRequest, CHAT | {"stop": [1]}, "stop.0", "stop.0: expected "),
        (CompletionRequest, TEXT | {"prompt": [[]]}, "prompt.0", "prompt.0: expected "),
        (CompletionRequest, [], "body", "body: expected "),
        (CompletionRequest, TEXT | {"stop": "x" * 1025}, "stop", "stop: expected "),
        (CompletionRequest, TEXT | {"stop": ["x" * 1025]}, "stop.0", "stop.0: expected "),
        (CompletionRequest, TEXT | {"stop_token_ids": [1] * 1025}, "stop_token_ids", "stop_token_ids: expected "),
        (CompletionRequest, TEXT | {"logit_bias": BIASES}, "logit_bias", "logit_bias: expected at most 4096 tokens"),
        (CompletionRequest, TEXT | {"prompt": ["a"] * 257}, "prompt", "prompt: expected "),
        (CompletionRequest, TEXT | dict.fromkeys(map(str, range(300)), 1), "body", "body: expected at most 256 fields"),
        (ChatRequest, CHAT | {"messages": CHAT["messages"] * 10_001}, "messages", "messages: expected "),
    ],
)
def test_a_body_of_another_form(kind: Any, body: Any, param: str, message: str) -> None:
    """The innermost place is told, without the names of the schema's alternatives."""
    with pytest.raises(ApiError) as caught:
        parse_body(kind, body)
    assert (caught.value.status, caught.value.param) == (400, param) and str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("extra", "status", "param"),
    [
        ({"prompt": "x" * 5000}, 400, "prompt"),
        ({"prompt": ["a", "x" * 5000]}, 400, "prompt.1"),
        ({"top_p": 2.0}, 400, "top_p"),
        ({"guided_json": {"type": "strin"}}, 400, "guided_json"),
        ({"stream_options": {"include_usage": True}}, 400, "stream_options"),
    ],
)
def test_a_request_that_cannot_run_names_its_field(extra: dict[str, Any], status: int, param: str) -> None:
    with pytest.raises(Exception) as caught:
        prepare_completion(make_llm(), parse_body(CompletionRequest, TEXT | extra))
    error = api_error(caught.value, "req_1")
    assert (error.status, error.param) == (status, param) and error.body()["error"]["type"] == "invalid_request_error"


def test_choices_share_what_a_request_says() -> None:
    """However many there are, its lists are checked and held once."""
    body = TEXT | {"prompt": ["a", "b"], "n": 128, "seed": -1, "logit_bias": {"5": 1}, "stop": ["x"]}
    sequences = prepare_completion(make_llm(), parse_body(CompletionRequest, body)).sequences
    assert len(sequences) == 256 and len({id(sequence.params) for sequence in sequences}) == 1
    assert [sequence.seed for sequence in sequences[:3]] == [2**63 - 1, 0, 1]


@pytest.mark.parametrize("choices", [1, 2])
def test_a_text_beyond_the_context_is_refused_before_it_is_tokenized(choices: int) -> None:
    llm = make_llm()
    most = llm.context * llm.tokenizer.longest_token
    prompts = ["a"] * (choices - 1) + ["x" * (most + 1)]
    request = parse_body(CompletionRequest, TEXT | {"prompt": prompts})
    with (
        patch.object(type(llm.tokenizer), "encode", side_effect=lambda text, special=False: [97] * min(len(text), 9)),
        pytest.raises(Exception, match=f"has {most + 1} characters, of which at most {most} fit") as caught,
    ):
        prepare_completion(llm, request)
    error = api_error(caught.value, "req_1")
    assert (error.status, error.param) == (400, "prompt" if choices == 1 else "prompt.1")


def test_log_probabilities_of_prompts_are_bounded_together() -> None:
    body = TEXT | {"prompt": "a" * 2900, "prompt_logprobs": 20}
    assert prepare_completion(make_llm(), parse_body(CompletionRequest, body | {"n": 8})).sequences
    with pytest.raises(ApiError, match=r"^prompt_logprobs: expected at most 500000 .* got 548100"):
        prepare_completion(make_llm(), parse_body(CompletionRequest, body | {"n": 9}))


def test_a_model_that_is_not_here() -> None:
    check_model("fake", "fake")
    with pytest.raises(ApiError, match="model: expected 'fake', got 'gpt'") as caught:
        check_model("gpt", "fake")
    assert (caught.value.status, caught.value.code) == (404, "model_not_found")


@pytest.mark.parametrize("rows", [100, 128, 200])
@pytest.mark.parametrize("door", ["logit_bias", "stop_token_ids", "prompt", "prompts"])
def test_token_ids_are_held_to_the_rows_of_the_matrix(rows: int, door: str) -> None:
    """Whether the tokenizer has more (those are refused, by name) or fewer: rows without a token are the model's."""
    llm = make_llm()
    llm.config = replace(llm.config, vocab_size=rows)
    for token in (99, 100, 127, 128, 199, 200):
        field, value = {
            "logit_bias": ("logit_bias", {str(token): 1}),
            "stop_token_ids": ("stop_token_ids", [token]),
            "prompt": ("prompt", [97, token]),
            "prompts": ("prompt", [[97], [token]]),
        }[door]
        request = parse_body(CompletionRequest, TEXT | {"prompt": [97]} | {field: value})
        if token < rows:
            assert prepare_completion(llm, request).sequences
            continue
        with pytest.raises(Exception, match=f"from 0 to {rows - 1}, got {token}") as caught:
            prepare_completion(llm, request)
        error = api_error(caught.value, "req_1")
        assert error.status == 400 and str(error.param).startswith(field)


def test_the_final_message_goes_on() -> None:
    body = CHAT | {"messages": [*CHAT["messages"], {"role": "assistant", "content": "Well, "}]}
    request = parse_body(ChatRequest, body | {"continue_final_message": True})
    assert text(prepare_chat(make_llm(), request).sequences[0].prompt) == "<user>hello;<assistant>Well, "
    request = parse_body(ChatRequest, body | {"add_generation_prompt": False})
    assert text(prepare_chat(make_llm(), request).sequences[0].prompt) == "<user>hello;<assistant>Well, ;"


def test_keys_of_messages_that_only_some_templates_know() -> None:
    """They reach these, and are no matter to others."""
    user = {"role": "user", "content": [{"type": "text", "text": "hello", "cache_control": {"type": "ephemeral"}}]}
    said = {"role": "assistant", "content": None, "reasoning": "hm", "annotations": [{}], "tool_calls": []}
    body = CHAT | {"messages": [user | {"name": "Bo", "mood": 3}, said]}
    request = parse_body(ChatRequest, body)
    assert text(prepare_chat(make_llm(), request).sequences[0].prompt) == "<user>hello;<assistant>;<assistant>"
    llm = make_llm(template="{% for m in messages %}{{ m.name }}{{ m.mood }}{{ m.reasoning_content }};{% endfor %}")
    assert text(prepare_chat(llm, request).sequences[0].prompt) == "Bo3;hm;"


def test_null_is_as_if_left_out() -> None:
    """In every field and at every depth that a schema declares, and in fields of other servers."""
    full = CHAT | {"tools": [{"type": "function", "function": {"name": "a"}}], "stream": True, "stream_options": {}}
    wanted = parse_body(ChatRequest, full)
    nulls = dict.fromkeys(set(ChatRequest.model_fields) - full.keys()) | {"unheard_of": None}
    user = full["messages"][0] | {"name": None, "tool_calls": None}
    tool = {"type": "function", "function": {"name": "a", "parameters": None, "strict": None, "other": None}}
    deep = {"messages": [user], "tools": [tool], "stream_options": {"include_usage": None}}
    assert parse_body(ChatRequest, full | nulls | deep) == wanted
    with pytest.raises(ApiError, match="messages: expected a value, got none"):
        parse_body(ChatRequest, full | {"messages": None})


def test_no_limit_is_the_context() -> None:
    for field in ("max_tokens", "max_completion_tokens"):
        (sequence,) = prepare_chat(make_llm(), parse_body(ChatRequest, CHAT | {field: -1})).sequences
        assert sequence.longest == sequence.limit == make_llm().context
