"""The bodies of requests. A field that is not declared here is refused by its name, one that is declared is
honoured."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, ConfigDict, Field, StringConstraints

from tinyllm.openai.body import Body, Neutral

# lists end at their first wrong item: an error for each of a million takes minutes, and one is told
Text = Annotated[str, StringConstraints(min_length=1)]
StopText = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
TokenIds = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, fail_fast=True)]
MOST_CHOICES = 128
MOST_PROMPTS = 256
MOST_MESSAGES, MOST_PARTS = 10_000, 1024
MOST_BIASES = 4096
MOST_STOP_TOKENS = 1024


def _few_biases(value: Any) -> Any:
    """Counts entries before each of them is looked at, as all that are wrong would have an error."""
    if isinstance(value, dict) and len(value) > MOST_BIASES:
        raise ValueError(f"expected at most {MOST_BIASES} tokens")
    return value


class StreamOptions(Body):
    """What a stream contains beside the reply."""

    neutral: ClassVar[Neutral] = {"include_obfuscation": (False,)}
    include_usage: bool = False


class SamplingRequest(Body):
    """What chat completions and completions both take. Fields that OpenAI's API lacks have the names that other servers
    gave them."""

    neutral: ClassVar[Neutral] = {
        "length_penalty": (1, 1.0),
        "use_beam_search": (False,),
        "early_stopping": (False,),
        "spaces_between_special_tokens": (True,),
        "bad_words": ([],),
    }
    idle = frozenset(
        ("metadata", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "service_tier", "store")
    )
    model: Text
    max_tokens: int | None = Field(
        None, description="Most tokens of a reply; -1: as many as fit; unset: as the server's settings say."
    )
    min_tokens: int | None = None
    temperature: float | None = Field(None, description="0 takes the most likely token each time; unset: 1.")
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: (
        Annotated[
            dict[Annotated[str, StringConstraints(pattern="^[0-9]{1,9}$")], float],
            Field(max_length=MOST_BIASES),
            BeforeValidator(_few_biases),
        ]
        | None
    ) = None
    seed: int | None = Field(
        None, ge=-(2**63), lt=2**63, description="Makes the reply repeatable; choice i has seed + i."
    )
    stop: StopText | Annotated[list[StopText], Field(max_length=64, fail_fast=True)] | None = None
    stop_token_ids: Annotated[list[int], Field(max_length=MOST_STOP_TOKENS, fail_fast=True)] | None = None
    ignore_eos: bool | None = None
    include_stop_str_in_output: bool | None = Field(None, description="Whether a reply shows what stopped it.")
    skip_special_tokens: bool | None = Field(
        None, description="Whether texts leave out special tokens; unset: they do."
    )
    prompt_logprobs: int | None = Field(
        None, ge=0, le=20, description="Tells the log probabilities of the prompt's tokens, with so many alternatives."
    )
    n: int | None = Field(None, ge=1, le=MOST_CHOICES)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    priority: int | None = Field(None, ge=-100, le=100, description="The lower, the earlier.")
    guided_json: dict[str, Any] | bool | str | None = Field(None, description="A JSON schema that the reply follows.")
    guided_regex: Text | None = Field(None, description="A regular expression that the reply matches.")
    guided_choice: Annotated[list[Text], Field(min_length=1, fail_fast=True)] | None = Field(
        None, description="Texts of which the reply is one."
    )
    user: str | None = Field(None, description="Goes into the log.")


class Part(Body):
    """A part of a conversation. Keys that are not declared here stay as they are, for templates that know them."""

    model_config = ConfigDict(extra="allow")


class TextPart(Part):
    """A part of a message. Only texts are supported."""

    type: Literal["text"]
    text: str


Content = str | Annotated[list[TextPart], Field(min_length=1, max_length=MOST_PARTS, fail_fast=True)]


class System(Part):
    """Instructions that the model gets before the conversation."""

    role: Literal["system", "developer"]
    content: Content


class User(Part):
    """A message of the user."""

    role: Literal["user"]
    content: Content


class CalledFunction(Part):
    """The function of a call. `arguments` is a JSON object as text."""

    name: Text
    arguments: str


class ToolCall(Part):
    """A call that the model made."""

    id: Text
    type: Literal["function"] = "function"
    function: CalledFunction


class Assistant(Part):
    """A message of the model."""

    role: Literal["assistant"]
    content: Content | None = None
    tool_calls: Annotated[list[ToolCall], Field(fail_fast=True)] | None = None
    refusal: None = None
    audio: None = None
    function_call: None = None


class Tool(Part):
    """The result of a call."""

    role: Literal["tool"]
    content: Content
    tool_call_id: Text


Message = Annotated[System | User | Assistant | Tool, Field(discriminator="role")]
Messages = Annotated[list[Message], Field(min_length=1, max_length=MOST_MESSAGES, fail_fast=True)]


class Function(Body):
    """What a function is called and takes. `parameters` is a JSON schema."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolSpec(Body):
    """A function that the model may call."""

    type: Literal["function"]
    function: Function


Tools = Annotated[list[ToolSpec], Field(max_length=MOST_CHOICES, fail_fast=True)]


class NamedFunction(Body):
    """A function by name."""

    name: Text


class NamedTool(Body):
    """The tool that has to be called."""

    type: Literal["function"]
    function: NamedFunction


class JsonSchema(Body):
    """A schema with a name. It is enforced, whatever `strict` says."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None
    description: str | None = Field(None, description="For people, as those inside the schema.")


class TextFormat(Body):
    """Any text."""

    type: Literal["text"]


class JsonObjectFormat(Body):
    """Any JSON object."""

    type: Literal["json_object"]


class JsonSchemaFormat(Body):
    """JSON that a schema validates."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


ResponseFormat = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]


class TemplateFields(Body):
    """How the chat template writes the prompt, besides messages and tools."""

    chat_template_kwargs: dict[str, Any] | None = Field(None, description="Variables of the chat template.")
    reasoning_effort: Text | None = Field(None, description="For templates that know it; `none` for all.")
    add_generation_prompt: bool | None = Field(None, description="Whether the model's turn begins; unset: it does.")
    continue_final_message: bool | None = Field(
        None, description="Whether the reply goes on with the text of the last message."
    )


class ChatRequest(SamplingRequest, TemplateFields):
    """A conversation whose next message is wanted."""

    neutral = SamplingRequest.neutral | {"modalities": (["text"],)}
    messages: Messages
    max_completion_tokens: int | None = Field(None, description="As max_tokens.")
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    tools: Tools | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    safety_identifier: str | None = Field(None, description="Goes into the log.")


Prompts = (
    Text
    | TokenIds
    | Annotated[
        Annotated[list[Text], Field(fail_fast=True)] | Annotated[list[TokenIds], Field(fail_fast=True)],
        Field(min_length=1, max_length=MOST_PROMPTS),
    ]
)


class CompletionRequest(SamplingRequest):
    """Prompts that are continued as they are, without the chat template."""

    neutral = SamplingRequest.neutral | {"suffix": ("",)}
    prompt: Prompts
    logprobs: int | None = Field(None, ge=0, le=20)
    echo: bool | None = None
    best_of: int | None = Field(None, ge=1, le=MOST_CHOICES, description="Must be n.")


class TokenizeRequest(TemplateFields):
    """A text or a conversation whose tokens are wanted."""

    model: Text | None = None
    prompt: str | None = None
    messages: Messages | None = None
    tools: Tools | None = None
    add_special_tokens: bool = Field(True, description="Whether those that begin a text are added to a prompt.")


class DetokenizeRequest(Body):
    """Tokens whose text is wanted."""

    model: Text | None = None
    tokens: Annotated[list[int], Field(fail_fast=True)]
