"""What `generate` and `chat` share: reading text, checking settings, loading the model."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from tinyllm.cli.output import download_bar, loading_line
from tinyllm.errors import InvalidInputError

if TYPE_CHECKING:
    from tinyllm.llm import LLM


def decode(data: bytes, where: str) -> str:
    """Bytes from outside as text. Raises `InvalidInputError` for what is not UTF-8, with the place."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{where}: expected UTF-8, got byte 0x{data[error.start]:02x} at position {error.start}") from error


def read_prompt(prompt: str) -> str:
    """The prompt; `-` stands for stdin, whose last newline is not part of it."""
    text = decode(sys.stdin.buffer.read(), "stdin").removesuffix("\n").removesuffix("\r") if prompt == "-" else prompt
    if not text:
        raise InvalidInputError("prompt: expected some text, got an empty prompt")
    return text


def checked(settings: dict[str, Any]) -> dict[str, Any]:
    """Sampling settings, with `max_tokens` from the configuration where it was not given. Raises before a model is loaded."""
    from tinyllm.engine.sampling import SamplingParams
    from tinyllm.registry import default_registry

    if settings["max_tokens"] is None:
        settings["max_tokens"] = default_registry().settings["max_tokens"].value
    settings["stop"] = tuple(settings["stop"] or ())
    SamplingParams(**settings)
    return settings


def load_model(model: str | None, backend: str | None, dtype: str | None, fast: bool | None) -> LLM:
    """The model, brought first if it is not on this machine; progress goes to a terminal's stderr."""
    from tinyllm.llm import load
    from tinyllm.models.sources import resolve
    from tinyllm.registry import default_registry

    registry = default_registry()
    registry.backend(registry.select(backend).default or registry.best())  # a wrong name is told before anything is brought
    name = model_name(model)
    with download_bar(f"fetching {name}") as report:
        path = resolve(name, progress=report)
    with loading_line(f"loading {name}") as progress:
        return load(path, backend, dtype=dtype, fast=fast, progress=progress)


def model_name(model: str | None) -> str:
    """The model that was asked for, or that the settings name."""
    from tinyllm.registry import default_registry

    return model if model is not None else str(default_registry().settings["model"].value)


def backend_name(llm: LLM) -> str:
    """`torch:cpu`; several where ops are spread over backends."""
    return ", ".join(dict.fromkeys(f"{s.backend.name}:{s.backend.device}" for s in llm.program.steps))
