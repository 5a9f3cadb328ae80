"""Token ids as callers have them: lists, tuples, and arrays of any library."""

from __future__ import annotations

from typing import Any

from tinyllm.errors import InvalidInputError, invalid
from tinyllm.spec.attribute_checks import integer


def plain(value: Any) -> Any:
    """Tuples and arrays as lists, their items as well, and numbers of array libraries as Python's; all else as it is.

    An array is what has `tolist`, as those of numpy, torch, MLX and JAX do.
    """
    if isinstance(value, tuple):
        value = list(value)
    elif hasattr(value, "tolist"):
        value = value.tolist()
    return [plain(item) for item in value] if isinstance(value, list) else value


def checked_ids(token_ids: Any, vocabulary: int, most: int, context: int) -> list[int]:
    """Token ids as a list of at least one and at most `most`, each below `vocabulary`. Raises `InvalidInputError` for
    any others; context: what the error says they have to fit into."""
    ids = plain(token_ids)
    if not isinstance(ids, list):
        raise invalid("prompt", "token ids", "a list of integers", type(ids).__name__)
    if not ids:
        raise InvalidInputError("prompt: expected at least one token, got none")
    if len(ids) > most:
        raise InvalidInputError(
            f"prompt: has {len(ids)} tokens, at most {most} fit into the context: this model's maximum context length "
            f"is {context} tokens"
        )
    wrong = integer(0)
    for token in ids:
        if wrong(token) or token >= vocabulary:
            raise invalid("prompt", "token id", f"an integer from 0 to {vocabulary - 1}", repr(token))
    return ids
