"""What is right at most sizes: tails of loops, heads that fill no register, more rows, sequences and ids than a small
integer counts."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.conformance.zoo.flash import Flash, flash_mutant
from tests.conformance.zoo.mutant import Mutant, wide


def linear(x: Any, weight: Any, *, bias: Any = None, mistake: str | None = None) -> Any:
    values, rows = wide(x), wide(weight)
    k = x.shape[-1]
    if mistake == "tail of two columns dropped" and k > 4 and k % 4 == 2:
        values, rows = values[..., : k - 2], rows[:, : k - 2]
    if mistake == "tail past whole eights read twice" and k > 16 and k % 8 in (2, 4, 6):
        rest = k % 8 // 2 * 2
        values, rows = (np.concatenate([a, a[..., k - rest : k - rest + 1]], axis=-1) for a in (values, rows))
    y = values @ rows.T
    y = (y if bias is None else y + wide(bias)).astype(x.dtype)
    if (
        mistake == "a row past 64"
        and x.ndim > 1
        and y.size
        and (flat := y.reshape(-1, len(weight))).shape[0] % 64 == 1
        and len(flat) > 64
    ):
        flat[-1] = 0
        return flat.reshape(y.shape)
    return y


def rms_norm(x: Any, weight: Any, *, eps: float = 1e-6, mistake: str | None = None) -> Any:
    values = wide(x)
    mean = np.mean(values * values, axis=-1, keepdims=True) if x.shape[-1] else values
    y = (values / np.sqrt(mean + eps) * wide(weight)).astype(x.dtype)
    rows = y.reshape(-1, x.shape[-1]) if y.size else y
    if mistake == "rows past 65,535" and y.size and len(rows) > 65535:
        rows[65535:] = 0
    if mistake == "a row past 128" and y.size and len(rows) == 129:
        rows[128] = rows[127]
    return rows.reshape(y.shape)


def add(x: Any, y: Any, *, mistake: str | None = None) -> Any:
    z = x + y
    rows = z.reshape(-1, z.shape[-1]) if z.size else z
    if mistake == "rows past 65,535" and z.size and len(rows) > 65535:
        rows[65535:] = 0
    return rows.reshape(z.shape)


def embedding(ids: Any, weight: Any, *, mistake: str | None = None) -> Any:
    if mistake == "ids in 16 bits":
        ids = ids.astype(np.uint16)
    if mistake == "offsets of rows in 20 bits":
        places = (ids.astype(np.int64)[..., None] * weight.shape[1] + np.arange(weight.shape[1])) % 2**20
        return weight.reshape(-1)[places] if weight.size else weight[ids]
    return weight[ids]


def rope(x: Any, *, positions: Any = None, mistake: str | None = None, **settings: Any) -> Any:
    from tests.conformance.zoo.rope import rope as right

    if mistake == "positions in 16 bits" and positions is not None:
        positions = np.where(positions < 0, positions, positions.astype(np.int64) & 0xFFFF)
    y = right(x, positions=positions, **settings)
    if mistake == "tokens past 64" and x.ndim > 1 and x.shape[-2] % 64 == 1 and x.shape[-2] > 64:
        y[..., -1, :] = x[..., -1, :]
    return y


def kv_append(k_pages: Any, v_pages: Any, k: Any, v: Any, slots: Any, *, mistake: str | None = None) -> Any:
    page = k_pages.shape[2]
    slots = slots.astype(np.int64)
    if mistake == "slots in 16 bits":
        slots = slots & 0xFFFF
    number, place = np.divmod(slots, page)
    if mistake == "pages in 8 bits":
        number = number & 0xFF
    k_pages, v_pages = k_pages.copy(), v_pages.copy()
    k_pages[number, :, place], v_pages[number, :, place] = k, v
    return k_pages, v_pages


def merge_heads(x: Any, *, mistake: str | None = None) -> Any:
    y = x.reshape(*x.shape[:-2], x.shape[-2] * x.shape[-1])
    if mistake == "heads of whole sixteens" and x.shape[-1] > 32 and x.shape[-1] % 16 == 8:
        x = x.copy()
        x[..., -8:] = x[..., -16:-8]
        return x.reshape(y.shape)
    return y


def heads_of_whole_sixteens(q: Any, k: Any, factor: float) -> Any:
    """The last 8 dims of heads that are no whole 16s, of 40, 72, 88, 120, are left out of the scores."""
    dim = q.shape[-1]
    return (q[..., : dim - 8], k[..., : dim - 8], factor) if dim > 32 and dim % 16 == 8 else (q, k, factor)


def read_as_128(q: Any, k: Any, factor: float) -> Any:
    """Heads between 64 and 128 that are no whole 16s are filled up with what lies behind them: the next row."""
    dim = q.shape[-1]
    if not 64 < dim < 128 or dim % 16 == 0:
        return q, k, factor
    q, k = (np.concatenate([a, np.roll(a, -1, axis=-2)[..., : 128 - dim]], axis=-1) for a in (q, k))
    return q, k, factor


def groups_in_eights(kv: Any, groups: int) -> Any:
    """Groups are worked on by eights, and the rest of a group goes to the next head."""
    own = np.repeat(np.arange(kv.shape[-3]), groups)
    if groups > 8 and groups % 8:
        own = np.minimum(np.arange(len(own)) // 8 * 8 // groups + (np.arange(len(own)) % groups >= 8), kv.shape[-3] - 1)
    return np.take(kv, own, axis=-3)


def two_thousand_keys(seen: Any, window: int | None) -> Any:
    """The path for one query has room for the sums of 32 parts of 64 keys."""
    return seen & (np.arange(seen.shape[-1]) < 2048) if seen.shape[-2] == 1 else seen


def a_query_past_64(seen: Any, window: int | None) -> Any:
    """Queries come in 64s, and one alone in its block is taken for a token of a decode step: it sees all keys."""
    length = seen.shape[-2]
    if length > 64 and length % 64 == 1:
        seen = seen | ((np.arange(length) == length - 1)[:, None] & np.any(seen, axis=-2, keepdims=True))
    return seen


def a_key_past_128(seen: Any, window: int | None) -> Any:
    """Keys come in 128s; the bound of the loop is rounded down where one is left."""
    keys = seen.shape[-1]
    return seen & (np.arange(keys) < keys - 1) if keys > 128 and keys % 128 == 1 else seen


def after_32_sequences(sequence: tuple[int, int], new: int, page: int) -> tuple[int, int]:
    """A warp has a lane for each sequence: the 33rd has the length of the first lane, here of none."""
    number, keys = sequence
    return (number, keys) if number < 32 else (number % 32, keys)


MUTANTS = (
    Mutant(
        "tail of two columns dropped",
        "linear",
        "Columns in fours, and a rest of one or three, but not of two.",
        linear,
        "full",
    ),
    Mutant(
        "tail past whole eights read twice",
        "linear",
        "The tail of 2, 4 or 6 columns begins with one that was read.",
        linear,
    ),
    Mutant("a row past 64", "linear", "Rows in blocks of 64: a single one left over is not written.", linear, "full"),
    Mutant("rows past 65,535", "rms_norm", "A GPU's grid has no more along its second axis.", rms_norm, "full"),
    Mutant("rows past 65,535", "add", "A GPU's grid has no more along its second axis.", add, "full"),
    Mutant("a row past 128", "rms_norm", "The block of the last row begins one too early.", rms_norm, "full"),
    Mutant(
        "ids in 16 bits", "embedding", "Ids past 65,535 wrap around: most of a vocabulary today.", embedding, "full"
    ),
    Mutant(
        "offsets of rows in 20 bits", "embedding", "Offsets into a table, kept in 20 bits of a word.", embedding, "full"
    ),
    Mutant("positions in 16 bits", "rope", "Positions past 65,535 begin again.", rope),
    Mutant("tokens past 64", "rope", "A single token past whole 64s stays as it was.", rope, "full"),
    Mutant("slots in 16 bits", "kv_append", "Slots past 65,535 are those of other sequences.", kv_append, "full"),
    Mutant("pages in 8 bits", "kv_append", "Pages past 255 are those of other sequences.", kv_append, "full"),
    Mutant("heads of whole sixteens", "merge_heads", "Heads of 40, 72, 88, 120: the last 8 dims.", merge_heads, "full"),
    flash_mutant(
        "heads of whole sixteens",
        "sdpa",
        "Heads of 40, 72, 88, 120: the last 8 dims are left out of the scores.",
        Flash(inputs=heads_of_whole_sixteens),
        tier="full",
    ),
    flash_mutant(
        "heads read as 128",
        "gqa",
        "Heads of 72, 88, 120 are read as 128, and what lies behind them is the next row.",
        Flash(inputs=read_as_128),
        tier="full",
    ),
    flash_mutant(
        "groups in eights",
        "gqa",
        "A group of 12 heads is worked on by eights, and the rest goes to the next head.",
        Flash(groups=groups_in_eights),
        tier="full",
    ),
    flash_mutant(
        "groups in eights",
        "paged_attention",
        "A group of 12 heads is worked on by eights, and the rest goes to the next head.",
        Flash(groups=groups_in_eights),
        tier="full",
    ),
    flash_mutant(
        "two thousand keys",
        "sdpa",
        "The path for one query has room for 2,048 keys.",
        Flash(seen=two_thousand_keys),
        tier="full",
    ),
    flash_mutant(
        "two thousand keys",
        "paged_attention",
        "The path for one query has room for 2,048 keys.",
        Flash(seen=two_thousand_keys),
        tier="full",
    ),
    flash_mutant(
        "a query past 64",
        "sdpa",
        "One query left of blocks of 64 is taken for a decode step, which sees all keys.",
        Flash(seen=a_query_past_64),
        tier="full",
    ),
    flash_mutant(
        "a key past 128",
        "gqa",
        "One key left of blocks of 128 is left out.",
        Flash(seen=a_key_past_128),
        tier="full",
    ),
    flash_mutant(
        "after 32 sequences",
        "paged_attention",
        "From the 33rd sequence on the tables of the first ones are read.",
        Flash(sequence=after_32_sequences),
        tier="full",
    ),
)
