"""Chat templates in the families' formats: rendered as transformers does, their turns end where the template says, and
what a template writes for a reply is read back as that reply."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import tokenizers
from tokenizers import decoders, models
from transformers.utils.chat_template_utils import render_jinja_template

from tests.engine.grammar.replies import accepts, tokenizer
from tests.openai.test_reasoning import read
from tinyllm.engine.grammar.call_forms import form_of
from tinyllm.engine.grammar.grammar import Grammar
from tinyllm.engine.grammar.grammars import Grammars
from tinyllm.models.text.chat_prompt import TemplateOptions, chat_prompt
from tinyllm.models.text.chat_template import ChatTemplate
from tinyllm.models.text.messages import template_messages
from tinyllm.models.text.tokenizer import Tokenizer
from tinyllm.models.text.turn_ends import turn_ends
from tinyllm.openai.reasoning import HARMONY_TAGS, HarmonyReader, ReplyReader, TaggedReader, thought_end
from tinyllm.openai.tool_calls import ToolCallParser

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "a < b", "parameters": PARAMETERS}}]
SCHEMAS = {"weather": PARAMETERS}
ARGUMENTS = {"city": "L'île \"d'Yeu\" 🙂", "days": 3}
ASKS: dict[str, Any] = {"role": "user", "content": "Weather?"}
CALLS: dict[str, Any] = {
    "role": "assistant",
    "content": None,
    "reasoning_content": "One < two.",
    "tool_calls": [{"id": "abcdefghi", "type": "function", "function": {"name": "weather", "arguments": ARGUMENTS}}],
}
RESULT = {"role": "tool", "tool_call_id": "abcdefghi", "content": "wet"}
SAYS = {"role": "assistant", "content": "It is wet.", "reasoning_content": "Well."}


@dataclass(frozen=True)
class Family:
    """A template, the special tokens of its tokenizer, and those that end a turn. thinks: whether its replies have
    thoughts."""

    template: str
    special: tuple[str, ...]
    ends: frozenset[str]
    thinks: bool = True


def family(template: str, special: str, ends: str, thinks: bool = True) -> Family:
    return Family(template, tuple(special.split()), frozenset(ends.split()), thinks)


CHATML = (
    "{% if tools %}<|im_start|>system\n{% for t in tools %}{{ t | tojson }}\n{% endfor %}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.reasoning_content and m.role == 'assistant' %}"
    "<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}{{ m.content }}"
    "{% for c in m.tool_calls %}CALL{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
HERMES = (
    '<tool_call>\n{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}\n</tool_call>'
)
XML = (
    "<tool_call>\n<function={{ c.function.name }}>\n{% for k, v in c.function.arguments.items() %}<parameter={{ k }}>\n"
    "{{ v if v is string else v | tojson }}\n</parameter>\n{% endfor %}</function>\n</tool_call>"
)
PYTHON = (
    "<|tool_call_start|>[{{ c.function.name }}({% for k, v in c.function.arguments.items() %}{{ k }}={{ v | tojson }}"
    "{% if not loop.last %}, {% endif %}{% endfor %})]<|tool_call_end|>"
)
HARMONY = (
    "{% if tools %}<|start|>developer<|message|>{{ tools | tojson }}<|end|>{% endif %}{% for m in messages %}"
    "{% if m.role == 'assistant' %}{% if m.thinking %}<|start|>assistant<|channel|>analysis<|message|>{{ m.thinking }}"
    "<|end|>{% endif %}{% for c in m.tool_calls %}<|start|>assistant to=functions.{{ c.function.name }}"
    "<|channel|>commentary json<|message|>{{ c.function.arguments | tojson }}<|call|>{% else %}"
    "<|start|>assistant<|channel|>final<|message|>{{ m.content }}<|return|>{% endfor %}"
    "{% else %}<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}{{ reasoning_effort }}"
)
MISTRAL = (
    "{{ bos_token }}{% if tools %}[AVAILABLE_TOOLS]{{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}"
    "{% for m in messages %}{% if m.role == 'user' %}[INST]{{ m.content }}[/INST]{% elif m.role == 'tool' %}"
    "[TOOL_RESULTS]{{ m.content }}[/TOOL_RESULTS]{% else %}{% if m.reasoning %}[THINK]{{ m.reasoning }}[/THINK]"
    "{% endif %}"
    "{{ m.content }}{% for c in m.tool_calls %}[TOOL_CALLS]{{ c.function.name }}[ARGS]"
    "{{ c.function.arguments | tojson }}"
    "{% endfor %}</s>{% endif %}{% endfor %}"
)
LLAMA = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{% if loop.first and tools %}"
    "{% for t in tools %}{{ t | tojson(indent=4) }}\n\n{% endfor %}{% endif %}{% if m.tool_calls %}"
    '{% set c = m.tool_calls[0].function %}{"name": "{{ c.name }}", "parameters": {{ c.arguments | tojson }}}'
    "{% else %}{{ m.content | trim }}{% endif %}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
PHI = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% if loop.first and tools %}<|tool|>{{ tools | tojson }}"
    "<|/tool|>{% endif %}{% if m.tool_calls %}<|tool_call|>[{% for c in m.tool_calls %}{{ c.function | tojson }}"
    "{% endfor %}]<|/tool_call|>{% endif %}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
GRANITE = (
    "{% if tools %}<|start_of_role|>tools<|end_of_role|>{{ tools | tojson(indent=4) }}<|end_of_text|>\n{% endif %}"
    "{% for m in messages %}<|start_of_role|>{{ m.role }}<|end_of_role|>{{ m.content }}"
    "{% if m.tool_calls %}<|tool_call|>"
    "[{% for c in m.tool_calls %}{{ c.function | tojson }}{% endfor %}]{% endif %}<|end_of_text|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start_of_role|>assistant<|end_of_role|>{% endif %}"
)
GLM = (
    "[gMASK]<sop>{% if tools %}<|system|>\n{% for t in tools %}{{ t | tojson(ensure_ascii=False) }}\n"
    "{% endfor %}{% endif %}"
    "{% for m in messages %}{% if m.role == 'tool' %}<|observation|>\n{{ m.content }}{% else %}<|{{ m.role }}|>"
    "{% if m.reasoning_content %}\n<think>{{ m.reasoning_content }}</think>{% endif %}\n{{ m.content }}"
    "{% for c in m.tool_calls %}\n<tool_call>{{ c.function.name }}\n{% for k, v in c.function.arguments.items() %}"
    "<arg_key>{{ k }}</arg_key>\n<arg_value>{{ v if v is string else v | tojson }}</arg_value>\n"
    "{% endfor %}</tool_call>"
    "{% endfor %}{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
COHERE = (
    "{{ bos_token }}{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}<|START_OF_TURN_TOKEN|>"
    "<|{{ m.role | upper }}_TOKEN|>{% if m.thinking and m.role == 'assistant' %}<|START_THINKING|>{{ m.thinking }}"
    '<|END_THINKING|>{% endif %}{{ m.content }}{% for c in m.tool_calls %}<|START_ACTION|>[\n    {"tool_call_id": "0", '
    '"tool_name": "{{ c.function.name }}", "parameters": {{ c.function.arguments | tojson }}}\n]<|END_ACTION|>'
    "{% endfor %}"
    "<|END_OF_TURN_TOKEN|>{% endfor %}"
    "{% if add_generation_prompt %}<|START_OF_TURN_TOKEN|><|ASSISTANT_TOKEN|>{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for t in tools or [] %}<|turn>system\n<|tool>declaration:{{ t.function.name }}<tool|><turn|>\n"
    "{% endfor %}{% for m in messages %}{% if m.role == 'tool' %}<|tool_response>{{ m.content }}<tool_response|>"
    "{% else %}<|turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{% if m.reasoning_content %}"
    "<|channel>thought\n{{ m.reasoning_content }}\n<channel|>{% endif %}{{ m.content }}{% for c in m.tool_calls %}"
    "<|tool_call>call:{{ c.function.name }}{ {%- for k, v in c.function.arguments.items() -%}{{ k }}:"
    '{% if v is string %}<|"|>{{ v }}<|"|>{% else %}{{ v | tojson }}{% endif %}{% if not loop.last %},{% endif %}'
    "{% endfor %}}<tool_call|>{% endfor %}<turn|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|turn>model\n{% endif %}"
)
IM = "<|endoftext|> <|im_start|> <|im_end|>"
FAMILIES = {
    "qwen3": family(CHATML.replace("CALL", HERMES), IM, "<|im_end|> <|endoftext|>"),
    "qwen3.5": family(CHATML.replace("CALL", XML), IM, "<|im_end|> <|endoftext|>"),
    "lfm2": family(CHATML.replace("CALL", PYTHON), IM, "<|im_end|> <|endoftext|>"),
    "gpt_oss": family(
        HARMONY, f"<|return|> <|call|> <|endoftext|> {' '.join(HARMONY_TAGS)}", "<|return|> <|call|> <|endoftext|>"
    ),
    "mistral": family(MISTRAL, "<s> </s> [INST] [/INST] [TOOL_CALLS] [ARGS] [THINK] [/THINK]", "</s>"),
    "llama": family(
        LLAMA, "<|end_of_text|> <|eom_id|> <|eot_id|> <|python_tag|>", "<|end_of_text|> <|eom_id|> <|eot_id|>", False
    ),
    "phi4": family(PHI, "<|user|> <|assistant|> <|end|> <|endoftext|>", "<|end|> <|endoftext|>", False),
    "granite": family(GRANITE, "<|end_of_text|> <|start_of_role|> <|tool_call|>", "<|end_of_text|>", False),
    "glm4": family(GLM, "<|endoftext|> <|user|> <|assistant|> <|observation|>", "<|endoftext|> <|user|>"),
    "gemma4": family(GEMMA, "<eos> <|turn> <turn|> <|channel> <|tool_response>", "<eos> <turn|> <|tool_response>"),
    "cohere2": family(
        COHERE, "<|START_ACTION|> <|END_ACTION|> <|END_OF_TURN_TOKEN|> <|START_THINKING|>", "<|END_OF_TURN_TOKEN|>"
    ),
}
OPTIONS = {"qwen3": {"enable_thinking": False}, "gpt_oss": {"reasoning_effort": "high"}}


def template_of(its: Family) -> ChatTemplate:
    return ChatTemplate({"default": its.template}, {"bos_token": "<s>"})


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("tools", [None, TOOLS])
def test_templates_render_as_with_transformers(name: str, tools: Any) -> None:
    its = FAMILIES[name]
    for chat in ([ASKS], [ASKS, SAYS], [ASKS, CALLS, RESULT], [ASKS, CALLS, RESULT, SAYS]):
        for begins in (True, False):
            for extra in ({}, OPTIONS.get(name, {})):
                expected, _ = render_jinja_template(
                    [template_messages(chat)],
                    tools=tools,
                    chat_template=its.template,
                    add_generation_prompt=begins,
                    bos_token="<s>",
                    **extra,
                )
                options = TemplateOptions(chat_template_kwargs=extra, add_generation_prompt=begins)
                assert chat_prompt(template_of(its), chat, options, tools) == expected[0]


@pytest.mark.parametrize("name", FAMILIES)
def test_turns_end_where_the_families_end_them(name: str) -> None:
    its = FAMILIES[name]
    backend = tokenizers.Tokenizer(models.BPE({"a": 0}, []))
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(list(its.special))
    made = Tokenizer(backend, "made")
    assert turn_ends(made, template_of(its)) == {made.special_tokens[end] for end in its.ends}


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("reply", [CALLS, SAYS], ids=["calls", "says"])
def test_a_reply_is_read_back_as_the_template_writes_it(name: str, reply: dict[str, Any]) -> None:
    its = FAMILIES[name]
    prompt = chat_prompt(template_of(its), [ASKS], TemplateOptions(), TOOLS)
    options = TemplateOptions(add_generation_prompt=False)
    whole = chat_prompt(template_of(its), [ASKS, reply], options, TOOLS)
    assert whole.startswith(prompt)
    written = whole[len(prompt) :].rstrip("\n")
    written = next((written.removesuffix(end) for end in its.ends if written.endswith(end)), written)
    tagged = TaggedReader(ToolCallParser(SCHEMAS, schemas=SCHEMAS), thought_end(prompt))
    reader: ReplyReader = HarmonyReader(SCHEMAS) if name == "gpt_oss" else tagged
    thought, text, calls = read(reader, list(written))
    assert thought == (reply["reasoning_content"] if its.thinks else "")
    assert text.strip() == (reply["content"] or "")
    assert calls == ([("weather", ARGUMENTS)] if "tool_calls" in reply else [])


HELD = {"qwen3": "", "qwen3.5": "qwen_xml", "mistral": "mistral", "llama": "", "phi4": "phi", "granite": "granite"}
HELD |= {"glm4": "glm", "cohere2": "cohere"}


@pytest.mark.parametrize("name", HELD)
def test_a_grammar_takes_calls_as_the_template_writes_them(name: str) -> None:
    pytest.importorskip("llguidance")
    its = FAMILIES[name]
    form = form_of([its.template])
    assert form == HELD[name]
    prompt = chat_prompt(template_of(its), [ASKS], TemplateOptions(), TOOLS)
    grammar = Grammar.calls({"weather": Grammar.arguments(PARAMETERS)}, False, False, form)
    grammars = Grammars(tokenizer())
    for days, right in ((3, True), ("3 d", False)):
        function = {"name": "weather", "arguments": ARGUMENTS | {"days": days}}
        reply = CALLS | {"reasoning_content": None, "tool_calls": [{"type": "function", "function": function}]}
        whole = chat_prompt(template_of(its), [ASKS, reply], TemplateOptions(add_generation_prompt=False), TOOLS)
        written = whole[len(prompt) :].strip()
        written = next((written.removesuffix(end) for end in its.ends if written.endswith(end)), written)
        assert accepts(grammars, grammar, written) == right, written
