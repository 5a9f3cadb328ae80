"""Chat templates give transformers' text, sandboxed, with one-line errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from tinyllm.errors import CheckpointError, InvalidInputError
from tinyllm.models.checkpoints.gguf import GgufFile
from tinyllm.models.text.chat_template import ChatTemplate, templates_from_folder
from tinyllm.models.text.gguf_vocabulary import templates_from_gguf

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": 'Why <b>"blue"</b>? é 🙂'},
    {"role": "assistant", "content": "Rayleigh."},
    {"role": "user", "content": "And?"},
]
FUNCTION = {"name": "add", "description": "a < b & 'c'", "parameters": {"type": "object", "properties": {}}}
TOOLS = [{"type": "function", "function": FUNCTION}]
TEMPLATES = [
    "{% for m in messages %}\n  {% if loop.first %}\n    {{- bos_token }}\n  {% endif %}\n"
    "{{ m['role'] | upper }}: {{ m.content | trim }}\n{% endfor %}",
    "{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}{{ m.content }}{% break %}{% endfor %}",
    "{{ tools | tojson }}{{ tools | tojson(indent=2) }}{{ messages | tojson }}",
    "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
    "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}{{ extra }}",
    "{% if tools is not none %}T{% endif %}{% if add_generation_prompt %}G{% endif %}{% if documents %}D{% endif %}",
    "{{ '%s **%s** %5.1f%%' % (bos_token, messages[1].content, 1.5) }}{{ '{0:>8} {1!r}'.format(bos_token, 'a') }}",
    "{{ messages | map(attribute='content') | join(', ') }}"
    "{{ (messages | selectattr('role', 'eq', 'user') | list)[-1] }}",
    "{% macro turn(m) %}<{{ m.role }}>{{ caller() }}{% endmacro %}{% for m in messages if m.role != 'system' %}"
    "{% call turn(m) %}{{ m.content | indent(2) | replace('a', 'b') }}{% endcall %}{% endfor %}",
    "{% for kind, group in messages | groupby('role') %}{{ kind }}{{ group | length }}"
    "{{ loop.cycle('x', 'y') }}{% endfor %}",
    "{{ (messages[1].content | safe) + '<' }}{{ 'a\nb'.split('\n') | last }}"
    "{{ [3, 1] | sort | first }}{{ -7 // 2 ** 2 % 3 }}",
    "{%- for m in messages[::-1] -%}{{ m.content.split(' ')[0] ~ m.get('missing', '-') }}{%- endfor -%}",
]


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("tools", [None, TOOLS])
@pytest.mark.parametrize("prompt", [True, False])
def test_text_equals_transformers(template: str, tools: Any, prompt: bool) -> None:
    specials = {"bos_token": "<s>", "eos_token": "</s>"}
    expected, _ = render_jinja_template(
        [CHAT], tools=tools, chat_template=template, add_generation_prompt=prompt, extra=7, **specials
    )
    assert ChatTemplate({"default": template}, specials).render(CHAT, prompt, tools, extra=7) == expected[0]


def test_the_real_template_equals_transformers(smollm2: Any, smollm2_transformers: Any) -> None:
    ours = smollm2.chat_template()
    for chat in (CHAT, CHAT[1:], CHAT[1:2]):
        for prompt in (True, False):
            expected = smollm2_transformers.apply_chat_template(chat, tokenize=False, add_generation_prompt=prompt)
            assert ours.render(chat, add_generation_prompt=prompt) == expected


BAD_MESSAGES: list[tuple[Any, str]] = [
    ([], "a list of at least one message"),
    ("hi", "a list of at least one message"),
    ({"role": "user"}, "a list of at least one message"),
    ([{"content": "hi"}], r"messages\[0\]: expected an object with a role"),
    ([*CHAT, {"role": 3, "content": "hi"}], r"messages\[4\]: expected an object with a role"),
    (["hi"], r"messages\[0\]"),
]


@pytest.mark.parametrize(("messages", "message"), BAD_MESSAGES)
def test_bad_messages_are_refused(messages: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        ChatTemplate({"default": ""}, {}).render(messages)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('roles\nmust alternate') }}", "default: roles must alternate"),
        ("{{ 'a' + messages }}", "default: can only concatenate str"),
        ("{{ messages[0].x.y }}", "has no attribute 'x'"),
        ("{{ messages.append(1) }}", "not safely callable|is unsafe"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ 1 // 0 }}", "division"),
    ],
)
def test_what_a_template_raises_is_one_line(template: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message) as caught:
        ChatTemplate({"default": template}, {}).render(CHAT)
    assert "\n" not in str(caught.value)


def test_broken_and_unknown_templates_are_named() -> None:
    with pytest.raises(CheckpointError, match="there: default: expected a Jinja template, got: "):
        ChatTemplate({"default": "{% if %}"}, {}, "there").render(CHAT)
    with pytest.raises(InvalidInputError, match="template: expected one of default, got 'nope'"):
        ChatTemplate({"default": ""}, {}).render(CHAT, template="nope")
    with pytest.raises(InvalidInputError, match="tools: expected a list of JSON schemas"):
        ChatTemplate({"default": ""}, {}).render(CHAT, tools=["add"])  # type: ignore[list-item]


def test_named_templates(tmp_path: Path) -> None:
    named = [
        {"name": "default", "template": "D"},
        {"name": "tool_use", "template": "T"},
        {"name": "rag", "template": "R{{ bos_token }}"},
    ]
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"chat_template": named, "bos_token": {"content": "<s>"}})
    )
    template = templates_from_folder(tmp_path)
    assert template is not None
    assert (template.render(CHAT), template.render(CHAT, tools=TOOLS), template.render(CHAT, template="rag")) == (
        "D",
        "T",
        "R<s>",
    )
    (tmp_path / "chat_template.jinja").write_text("F")
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "short.jinja").write_text("S")
    template = templates_from_folder(tmp_path)
    assert template is not None
    assert (template.render(CHAT), template.render(CHAT, template="short")) == ("F", "S")


def test_a_folder_without_a_template_has_none_and_a_bad_one_is_refused(tmp_path: Path) -> None:
    assert templates_from_folder(tmp_path) is None
    for wrong in ([3], {"name": "x"}, 7):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": wrong}))
        with pytest.raises(CheckpointError, match="chat_template: expected a template or a list of named ones"):
            templates_from_folder(tmp_path)


def test_gguf_templates(smollm2_path: Path) -> None:
    file = GgufFile(smollm2_path)
    file.metadata = {**file.metadata, "tokenizer.chat_template.rag": "R{{ eos_token }}"}
    template = templates_from_gguf(file)
    assert template is not None
    assert template.render(CHAT, template="rag") == "R<|im_end|>"
    start, end = "<|im_start|>", "<|im_end|>"
    assert template.special_tokens == {
        "bos_token": start,
        "eos_token": end,
        "unk_token": "<|endoftext|>",
        "pad_token": end,
    }
