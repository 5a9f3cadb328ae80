"""Keys of a request's prompt, made of its text: the router has no tokenizer, and need not wait for one.

Prompts whose texts begin alike begin with the same tokens, but for some at the end of what they have in common. So the
blocks of a text stand for the pages of its tokens, whatever the model; and the keys are made as the page pool makes
them, a chain of hashes. To ask a replica's `/tokenize` would cost every request a second one before its first byte.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

import numpy as np

from tinyllm.engine.page_pool import Key, page_keys
from tinyllm.models.text.json_text import read_json

BLOCK = 256
"""Bytes of a block, or of token ids a fourth as many: about the 64 tokens of a page."""
_TEMPLATE_FIELDS = ("tools", "chat_template_kwargs", "reasoning_effort", "response_format")
"""What chat templates write before the messages, or may."""
_WITH_PROMPT = ("/v1/chat/completions", "/v1/completions")
_SMALL = 1 << 14
"""Bytes of a body that are read at once; a larger one is read beside the event loop."""


async def request_keys(path: str, body: bytes) -> list[Key]:
    """The keys of a request's prompt. What is no JSON has none: the replica says what is wrong with it."""
    if path not in _WITH_PROMPT:
        return []

    def read() -> list[Key]:
        try:
            return prompt_keys(read_json(body))
        except ValueError:
            return []

    return read() if len(body) < _SMALL else await asyncio.to_thread(read)


def prompt_keys(body: Any) -> list[Key]:
    """The keys of the first prompt of a request's body, none where it has none: what is wrong with a request is told by
    the replica.

    They depend on the model's name, which may be that of an adapter, and on what the template puts before messages.
    """
    if not isinstance(body, dict):
        return []
    prompt = body.get("messages", body.get("prompt"))
    fields = {name: body[name] for name in _TEMPLATE_FIELDS if body.get(name)} if "messages" in body else {}
    salt = _text([body.get("model"), fields]).encode(errors="surrogatepass")
    if "messages" in body:
        return _text_keys("".join(map(_text, prompt)), salt) if isinstance(prompt, list) else []
    if isinstance(prompt, list) and prompt and not _is_token(prompt[0]):
        prompt = prompt[0]
    if isinstance(prompt, str):
        return _text_keys(prompt, salt)
    if isinstance(prompt, list) and all(map(_is_token, prompt)):
        return page_keys(prompt, BLOCK // 4, salt)
    return []


def _text_keys(text: str, salt: bytes) -> list[Key]:
    data = np.frombuffer(text.encode(errors="surrogatepass"), np.uint8)
    return page_keys(cast(list[int], data), BLOCK, salt)


def _text(value: Any) -> str:
    """JSON with sorted keys: requests that say the same have the same text."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def _is_token(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**31
