"""A model that needs no numbers, whole enough for OpenAI's API."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.engine.fakes import STOP, VOCABULARY, FakeProgram, FakeTokenizer
from tests.graph.tiny import CONFIG
from tinyllm.errors import InvalidInputError
from tinyllm.llm import LLM
from tinyllm.models.text.chat_template import ChatTemplate
from tinyllm.models.text.token_text import TextStream
from tinyllm.registry.registry import default_registry

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }};{% endfor %}{% if add_generation_prompt "
    "%}<assistant>{% endif %}"
)
TOOL_TEMPLATE = (
    "{% if tools %}TOOLS {{ tools | tojson }};{% endif %}{% for m in messages %}<{{ m.role }}>{{ m.content }}"
    "{% for c in m.tool_calls %}CALL {{ c.function.name }} {{ c.function.arguments.city }}{% endfor %};{% endfor "
    "%}<assistant>"
)
CONTEXT = 3000


class Tokenizer(FakeTokenizer):
    """What the API asks of a tokenizer besides."""

    bos_token_id = None

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        if any("\ud800" <= c <= "\udfff" for c in text):  # as the real one does
            raise InvalidInputError("encode: text: expected valid Unicode, got a lone surrogate")
        return super().encode(text, add_special_tokens)

    def token_bytes(self, token: int) -> bytes:
        return bytes([token])

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        return "".join(map(chr, ids))

    def stream(self, skip_special_tokens: bool = True) -> TextStream:
        return TextStream(self.token_bytes, {STOP} if skip_special_tokens else ())


@dataclass
class Program(FakeProgram):
    """says: the reply to a prompt that ends with a key, instead of noise. fails_on: a character that breaks the step it
    is in."""

    says: dict[str, str] = field(default_factory=dict)
    fails_on: str | None = None
    page_size: int = 4
    cache_dtypes: tuple[str, ...] = ("float32",)

    def __call__(self, inputs: Any, state: Any) -> Any:
        if self.fails_on is not None and ord(self.fails_on) in inputs["tokens"]:
            raise RuntimeError("no such kernel in /some/where")
        return super().__call__(inputs, state)

    def logits(self, tokens: np.ndarray) -> np.ndarray:
        logits = super().logits(tokens)
        text = "".join(map(chr, tokens))
        for prompt, reply in self.says.items():
            start = text.rfind(prompt)
            said = text[start + len(prompt) :] if start >= 0 else None
            if said is not None and reply.startswith(said):
                logits[ord(reply[len(said)]) if len(said) < len(reply) else STOP] += 100
        return logits


def make_llm(program: Any = None, template: str | None = TEMPLATE, context: int = CONTEXT) -> LLM:
    checkpoint: Any = SimpleNamespace(
        path=Path("fake.gguf"),
        tokenizer=Tokenizer,
        chat_template=lambda: ChatTemplate({"default": template}, {}) if template else None,
    )
    config = replace(CONFIG, vocab_size=VOCABULARY, max_position=context, eos_token_ids=(STOP,))
    return LLM(checkpoint, config, program or Program(), [], default_registry())
