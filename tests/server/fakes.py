"""A server with a model that needs no numbers."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
from tinyllm.server.app import make_app
from tinyllm.server.loading import EngineSettings, Host
from tinyllm.server.serving import Server, open_socket

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
    """What the server asks of a tokenizer besides."""

    bos_token_id = None

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        if any("\ud800" <= c <= "\udfff" for c in text):  # as the real one does
            raise InvalidInputError("encode: text: expected valid Unicode, got a lone surrogate")
        return super().encode(text, add_special_tokens)

    def token_bytes(self, token: int) -> bytes:
        return bytes([token])

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        return "".join(map(chr, ids))

    def stream(self) -> TextStream:
        return TextStream(lambda token: b"" if token == STOP else bytes([token]), False)


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
        found = super().logits(tokens)
        text = "".join(map(chr, tokens))
        for prompt, reply in self.says.items():
            start = text.rfind(prompt)
            said = text[start + len(prompt) :] if start >= 0 else None
            if said is not None and reply.startswith(said):
                found[ord(reply[len(said)]) if len(said) < len(reply) else STOP] += 100
        return found


def make_llm(program: Any = None, template: str | None = TEMPLATE, context: int = CONTEXT) -> LLM:
    checkpoint: Any = SimpleNamespace(
        path=Path("fake.gguf"),
        tokenizer=Tokenizer,
        chat_template=lambda: ChatTemplate({"default": template}, {}) if template else None,
    )
    config = replace(CONFIG, vocab_size=VOCABULARY, max_position=context, eos_token_ids=(STOP,))
    return LLM(checkpoint, config, program or Program(), [], default_registry())


def make_host(
    program: Any = None, template: str | None = TEMPLATE, load: Callable[[], LLM] | None = None, **settings: Any
) -> Host:
    sizes = EngineSettings(**{"pages": 2000, "page_size": 4, "max_running": 16} | settings)
    return Host("fake", load or (lambda: make_llm(program, template)), sizes)


@dataclass
class Live:
    """A server that listens."""

    url: str
    host: Host
    server: Server
    app: Any

    def settled(self, seconds: float = 10.0) -> bool:
        """Whether nothing runs and no page is held, within a time."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            stats = self.host.thread.stats()
            if not (stats.pages_held or stats.running or stats.waiting or self.host.active):
                return True
            time.sleep(0.01)
        return False


@contextmanager
def serving(host: Host | None = None, wait: bool = True, drain: float = 2.0, **options: Any) -> Iterator[Live]:
    """A server on a real socket, in a thread; everything is stopped at the end."""
    host = host or make_host()
    app = make_app(host, **options)
    listening: socket.socket = open_socket("127.0.0.1", 0)
    server = Server(app, host, drain)
    host.thread.start()
    if wait:
        host.thread.wait(10)
    thread = threading.Thread(target=lambda: server.run(sockets=[listening]))
    thread.start()
    while not server.started:
        time.sleep(0.005)
    try:
        yield Live(f"http://127.0.0.1:{listening.getsockname()[1]}", host, server, app)
    finally:
        server.should_exit = True
        thread.join(20)
        host.thread.stop()
