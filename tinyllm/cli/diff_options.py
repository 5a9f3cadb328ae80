"""What `tinyllm diff` and `tinyllm bisect` share: options, the model, and the token ids that both are given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tinyllm.errors import CheckpointError, InvalidInputError, invalid

if TYPE_CHECKING:
    from collections.abc import Callable

    from tinyllm.conformance.compared_model import ComparedModel

Model = Annotated[
    str | None,
    typer.Argument(metavar="MODEL", show_default="smollm2", help="Folder, .gguf file, hub id or known name."),
]
Prompt = Annotated[
    str | None, typer.Option("--prompt", metavar="TEXT", show_default="an English text", help="What both are given.")
]
Tokens = Annotated[
    int | None,
    typer.Option(
        "--tokens",
        metavar="N",
        min=2,
        show_default="400, or the context",
        help="Tokens of the prompt, those that follow it one by one included.",
    ),
]
Decode = Annotated[
    int | None,
    typer.Option(
        "--decode",
        metavar="N",
        min=0,
        max=64,
        show_default="2",
        help="Tokens that follow the prompt one by one; not against transformers.",
    ),
]
Random = Annotated[
    bool, typer.Option("--random", help="Give token ids by chance, as to a checkpoint without a tokenizer.")
]
Nodes = Annotated[
    str, typer.Option("--nodes", metavar="PATTERN", help="Look at these nodes alone, such as 'model.layers.3.*'.")
]

TRANSFORMERS = "transformers"
"""What a model is compared with instead of a backend."""
TOKENS = 400
"""Of a prompt that nobody said, so that what shows only in a long one shows."""
DECODED = 2
"""Tokens that follow one by one, where nobody said how many."""


def decoded(command: str, against: str | None, decode: int | None) -> int:
    """How many tokens follow the prompt one by one: against transformers none, as that is given one prompt."""
    if against != TRANSFORMERS:
        return DECODED if decode is None else decode
    if decode is not None:
        raise invalid(command, "--decode", "none beside --against transformers, which is given one prompt", decode)
    return 0


def open_model(
    name: str | None, backend: str | None, dtype: str | None, fast: bool | None, kv_cache_dtype: str | None
) -> ComparedModel:
    """The model, downloaded first if it is not on this machine. Raises as `open_compared` does."""
    from tinyllm.cli.output import download_bar
    from tinyllm.cli.session import model_name
    from tinyllm.conformance.compared_model import open_compared
    from tinyllm.models.download.sources import resolve
    from tinyllm.registry.registry import default_registry

    registry = default_registry()
    selection = registry.select(backend)
    named = model_name(name)
    with download_bar(f"fetching {named}") as report:
        path = resolve(named, progress=report)
    return open_compared(path, registry, selection, dtype, fast, kv_cache_dtype)


def token_ids(
    command: str, model: ComparedModel, prompt: str | None, tokens: int | None, decode: int, random: bool
) -> list[int]:
    """The token ids of the prompt and of those that follow it.

    Raises:
        InvalidInputError: more than the context has, or fewer than one for the prompt.
    """
    import numpy as np

    from tinyllm.cli.session import shipped_text

    most = min(TOKENS, model.context) if tokens is None else tokens
    if most > model.context:
        raise invalid(command, "--tokens", f"at most the context of {model.context} tokens", most)
    if random:
        if prompt is not None:
            raise invalid(command, "--random", "no prompt beside it", "--prompt")
        vocabulary = model.opened.config.vocab_size
        ids = [int(number) for number in np.random.default_rng(0).integers(0, vocabulary, most)]
    else:
        text = prompt or shipped_text()
        try:
            tokenizer = model.opened.checkpoint.tokenizer()
        except CheckpointError as error:
            raise CheckpointError(f"{error}; --random does without a tokenizer") from error
        ids = tokenizer.encode(text, add_special_tokens=True)
        if prompt is not None and tokens is None and len(ids) > model.context:
            raise InvalidInputError(f"{command}: --prompt: expected at most {model.context} tokens, got {len(ids)}")
        ids = ids[:most] if prompt is None or tokens is not None else ids
    if len(ids) <= decode:
        raise invalid(command, "--decode", f"fewer than the {len(ids)} tokens of the prompt", decode)
    return ids


def wanted_nodes(command: str, model: ComparedModel, pattern: str) -> Callable[[str], bool]:
    """Whether a node is looked at. Raises `InvalidInputError` for a pattern that fits none."""
    from tinyllm.registry.selection import fits, nearest

    if not pattern:
        return lambda name: True
    if not any(fits(pattern, name) for name in model.nodes):
        close = ", ".join(nearest(pattern, model.nodes))
        raise invalid(
            command, "--nodes", f"a pattern that fits nodes of this model (the nearest are {close})", repr(pattern)
        )
    return lambda name: fits(pattern, name)
