"""From the body of a request to the sequences that the engine runs. Whatever is wrong with a request is found here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import ValidationError

from tinyllm.engine.grammar.call_forms import form_of
from tinyllm.engine.sampling.params import SamplingParams
from tinyllm.engine.sequence import SEEDS, Sequence
from tinyllm.errors import InvalidInputError, quoted
from tinyllm.llm import LLM
from tinyllm.models.text.call_tags import TAGS
from tinyllm.models.text.chat_prompt import TemplateOptions, split_options
from tinyllm.models.text.token_ids import checked_ids
from tinyllm.openai.body import Body
from tinyllm.openai.call_formats import FORMAT_TAGS
from tinyllm.openai.call_parts import CallForm
from tinyllm.openai.constraints import Constraint, chosen_tools, reply_constraint, tools_constraint
from tinyllm.openai.conversation import encode_text, prompt_text
from tinyllm.openai.errors import ApiError, api_error, validation_error
from tinyllm.openai.reasoning import HARMONY_TAGS, THINK_TOKENS, thought_end
from tinyllm.openai.schema import ChatRequest, CompletionRequest, SamplingRequest, TemplateFields

_SAME_IN_BOTH = (
    "max_tokens",
    "min_tokens",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "frequency_penalty",
    "presence_penalty",
    "stop",
    "stop_token_ids",
    "ignore_eos",
    "include_stop_str_in_output",
    "skip_special_tokens",
    "prompt_logprobs",
)
"""Fields of a request that are fields of `SamplingParams` by the same name."""
MOST_SEQUENCES = 1024
MOST_PROMPT_LOGPROBS = 500_000
"""Log probabilities that a reply tells of prompts, alternatives included."""
BodyType = TypeVar("BodyType", bound=Body)


@dataclass(frozen=True)
class PreparedRequest:
    """A request that was found right, with the sequences that it asks for.

    Args:
        request: the body.
        groups: for each prompt the sequences of its choices.
        tools: names of the tools that may be called; None: the reply is text alone.
        call_form: in which forms it calls them.
        thinks: whether the reply may have thoughts, which no grammar is about.
        thought_end: what ends the thought that the prompt begins for the model.
        harmony: whether the reply is messages with heads.
        echoed: for each prompt the text that its replies begin with, where the request asks for that.
    """

    request: ChatRequest | CompletionRequest
    groups: list[list[Sequence]]
    tools: frozenset[str] | None = None
    call_form: CallForm = "any"
    thinks: bool = False
    thought_end: str | None = None
    harmony: bool = False
    echoed: tuple[str, ...] = ()

    @property
    def with_usage(self) -> bool:
        """Whether the stream ends with a chunk that counts tokens."""
        return self.request.stream_options is not None and self.request.stream_options.include_usage

    @property
    def sequences(self) -> list[Sequence]:
        """All choices, in the order of their prompts."""
        return [sequence for group in self.groups for sequence in group]


def parse_body(kind: type[BodyType], body: Any) -> BodyType:
    """A body as its schema has it. Raises `ApiError` that names the field which is wrong."""
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        raise validation_error(error.errors(include_url=False), body, kind.model_fields) from error


def check_model(model: str, served: str) -> None:
    """Raises `ApiError` 404 where a request asks for another model than the one that is served."""
    if model != served:
        raise ApiError(404, f"model: expected {served!r}, got {quoted(model)}", "model", "model_not_found")


def request_constraint(llm: LLM, request: ChatRequest | CompletionRequest) -> Constraint | None:
    """What the replies to a request have to follow. Raises `ApiError` with the field that is wrong."""
    constraint = reply_constraint(request)
    if isinstance(request, ChatRequest):
        tools, required = chosen_tools(request)
        if tools:
            form = form_of(llm.chat_template.templates.values()) if llm.chat_template else ""
            return tools_constraint(request, tools, required, constraint, form)
    return constraint


def prepare_chat(llm: LLM, request: ChatRequest, constraint: Constraint | None = None) -> PreparedRequest:
    """A request for the next message of a conversation.

    Args:
        constraint: that of the request, where it is compiled already.

    Raises:
        ApiError, InvalidInputError, UnsupportedError: with the field that is wrong.
    """
    _check_stream(request)
    if request.max_tokens is not None and request.max_completion_tokens not in (None, request.max_tokens):
        raise ApiError(
            400, "max_completion_tokens: expected it or max_tokens, got both, with two values", "max_completion_tokens"
        )
    if request.top_logprobs and not request.logprobs:
        raise ApiError(400, "top_logprobs: expected logprobs: true beside it, got none", "top_logprobs")
    tools, required = chosen_tools(request)
    prompt = prompt_text(llm, request.messages, tools, template_options(request))
    constraint = _ready(llm, request, constraint)
    settings = _sampling_settings(llm, request)
    if request.max_completion_tokens is not None:
        settings["max_tokens"] = request.max_completion_tokens
    if request.logprobs:
        settings["logprobs"] = request.top_logprobs or 0
    params = _sampling_params(llm, settings, constraint)
    thinks = constraint is None or (constraint.field == "tools" and not required)
    harmony = constraint is None and {*HARMONY_TAGS} <= llm.tokenizer.special_tokens.keys()
    shown = (*TAGS, *FORMAT_TAGS) if tools else ()
    shown += THINK_TOKENS if thinks else ()
    shown += HARMONY_TAGS if harmony else ()
    group = _choices(llm, encode_text(llm, prompt), request.n or 1, params, constraint, shown)
    names = frozenset(tool.function.name for tool in required or tools)
    form = "any" if constraint is None else constraint.call_form
    _check_told([group])
    end = thought_end(prompt) if thinks else None
    return PreparedRequest(request, [group], names if tools else None, form, thinks, end, harmony)


def prepare_completion(llm: LLM, request: CompletionRequest, constraint: Constraint | None = None) -> PreparedRequest:
    """A request for texts that continue prompts. Raises as `prepare_chat` does."""
    _check_stream(request)
    choices = request.n or 1
    if request.best_of not in (None, choices):
        raise ApiError(
            400,
            f"best_of: not supported, other than as n ({choices}), got {request.best_of}",
            "best_of",
            "unsupported_field",
        )
    prompts: Any = request.prompt
    if isinstance(prompts, str) or isinstance(prompts[0], int):
        prompts = [prompts]
    if len(prompts) * choices > MOST_SEQUENCES:
        raise ApiError(
            400,
            f"n: expected at most {MOST_SEQUENCES} replies to all prompts together, got {len(prompts) * choices}",
            "n",
        )
    settings, constraint = _sampling_settings(llm, request), _ready(llm, request, constraint)
    if request.logprobs is not None:
        settings["logprobs"] = request.logprobs
        if request.echo:
            settings["prompt_logprobs"] = max(request.logprobs, request.prompt_logprobs or 0)
    params = _sampling_params(llm, settings, constraint)
    groups = []
    for number, prompt in enumerate(prompts):
        try:
            token_ids = encode_text(llm, prompt, True) if isinstance(prompt, str) else prompt
            groups.append(_choices(llm, token_ids, choices, params, constraint))
        except InvalidInputError as error:
            text = str(error)
            if len(prompts) == 1 or not text.startswith("prompt: "):
                raise
            place, code = f"prompt.{number}", api_error(error, "").code
            raise ApiError(400, f"{place}: {text.removeprefix('prompt: ')}", place, code) from error
    _check_told(groups)
    skips = request.skip_special_tokens is not False
    texts = [p if isinstance(p, str) else llm.tokenizer.decode(p, skips) for p in prompts] if request.echo else []
    return PreparedRequest(request, groups, echoed=tuple(texts))


def _ready(llm: LLM, request: ChatRequest | CompletionRequest, constraint: Constraint | None) -> Constraint | None:
    """The constraint of a request with its grammar compiled."""
    constraint = constraint or request_constraint(llm, request)
    return None if constraint is None else constraint.ready(llm.grammars)


def template_options(fields: TemplateFields) -> TemplateOptions:
    """What a request says of the chat template. Raises `InvalidInputError` where that excludes itself."""
    names = set(TemplateFields.model_fields)
    return split_options(fields.model_dump(include=names))[0]


def _check_stream(request: SamplingRequest) -> None:
    if request.prompt_logprobs is not None and request.stream:
        raise ApiError(400, "prompt_logprobs: not supported together with stream", "prompt_logprobs")
    if request.stream_options is not None and not request.stream:
        raise ApiError(400, "stream_options: expected stream: true beside it, got none", "stream_options")


def _check_told(groups: list[list[Sequence]]) -> None:
    sequences = [sequence for group in groups for sequence in group]
    each = sequences[0].params.prompt_logprobs
    told = 0 if each is None else (each + 1) * sum(len(sequence.prompt) for sequence in sequences)
    if told > MOST_PROMPT_LOGPROBS:
        raise ApiError(
            400,
            f"prompt_logprobs: expected at most {MOST_PROMPT_LOGPROBS} of all replies together, got {told}",
            "prompt_logprobs",
        )


def _sampling_settings(llm: LLM, request: SamplingRequest) -> dict[str, Any]:
    """The fields of `SamplingParams` that a request sets. OpenAI's temperature is 1 where neither the request nor the
    model says one."""
    settings = {name: value for name in _SAME_IN_BOTH if (value := getattr(request, name)) is not None}
    default = llm.sampling_defaults.values.get("temperature", 1.0)
    settings["temperature"] = default if request.temperature is None else request.temperature
    if request.seed is not None:
        settings["seed"] = request.seed % SEEDS
    if request.logit_bias:
        settings["logit_bias"] = {int(token): bias for token, bias in request.logit_bias.items()}
    return settings


def _sampling_params(llm: LLM, settings: dict[str, Any], constraint: Constraint | None) -> SamplingParams:
    """The settings of all sequences of a request. They are checked and held once, as lists in them may be long."""
    params = llm.sampling(settings | ({} if constraint is None else {"grammar": constraint.grammar}))
    params.check_vocabulary(llm.config.vocab_size)
    return params


def _choices(
    llm: LLM,
    token_ids: list[int],
    count: int,
    params: SamplingParams,
    constraint: Constraint | None,
    shown: tuple[str, ...] = (),
) -> list[Sequence]:
    """A sequence for each choice of a prompt. Choice `i` has the seed of the request plus `i`, and its own state of the
    grammar. shown: texts of special tokens that replies do not leave out."""
    most = llm.context - (params.max_tokens != 0)
    prompt = checked_ids(token_ids, llm.config.vocab_size, most, llm.context)
    compiled = None if constraint is None else constraint.compiled
    sequences, tokenizer = [], llm.tokenizer.showing(shown)
    for index in range(count):
        state = None if compiled is None else llm.grammars.begin(compiled)
        sequences.append(
            Sequence(prompt, params, tokenizer, llm.stop_token_ids, llm.context, grammar=state, choice=index)
        )
    return sequences
