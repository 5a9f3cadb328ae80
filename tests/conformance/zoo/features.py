"""Features of attention and of quantized weights that go wrong at a size: past a tile of a mask, a window, a page; with
scores that are large, or all far from 0."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from tests.conformance.zoo.flash import Flash, flash_mutant
from tests.conformance.zoo.halves import through
from tests.conformance.zoo.mutant import Mutant, wide
from tests.conformance.zoo.quantized import SCHEMES, matrix
from tinyllm.spec.scheme import QuantWeight

TILE = 128


def seen_past_a_tile(mask: Any) -> Any:
    """Columns past the first tile count as nothing to hide and nothing to add."""
    neutral = np.asarray(True if mask.dtype == bool else 0, mask.dtype)
    return np.where(np.arange(mask.shape[-1]) < TILE, mask, neutral)


def first_row_past_a_tile(mask: Any) -> Any:
    """Past the first tile the mask's first row is read for all rows, as its stride was set to 0 there."""
    first = mask[..., :1, :] if mask.ndim > 1 else mask
    return np.where(np.arange(mask.shape[-1]) < TILE, mask, first)


def first_head_past_a_tile(mask: Any) -> Any:
    """A mask for each head or sequence, whose second tile is loaded from the first one's."""
    if mask.ndim < 3:
        return mask
    first = mask[(slice(0, 1),) * (mask.ndim - 2)]
    return np.where(np.arange(mask.shape[-1]) < TILE, mask, first)


def second_tile_for_all(mask: Any) -> Any:
    """Tiles of the mask are loaded two in turn, and from the third on the second is read again."""
    columns = np.arange(mask.shape[-1])
    return mask[..., np.where(columns < 2 * TILE, columns, TILE + columns % TILE)]


def tanh_of_exponentials(scores: Any, softcap: float) -> Any:
    """(e^2x - 1) / (e^2x + 1): from 44 on inf / inf in float32."""
    power = np.exp(2 * scores / softcap)
    return softcap * ((power - 1) / (power + 1))


def tanh_of_a_fraction(scores: Any, softcap: float) -> Any:
    """Padé's x (27 + x^2) / (27 + 9 x^2): good to 1e-7 below 0.1, and past 3 it grows on."""
    x = scores / softcap
    near = x * (27 + x * x) / (27 + 9 * x * x)
    return softcap * np.where(np.abs(x) < 0.05, np.tanh(x), np.where(np.abs(x) < 3, np.tanh(x), near))


def no_cap_far_out(scores: Any, softcap: float) -> Any:
    """Scores past 30 caps are left as they are: a clamp before tanh that was put on its result."""
    capped = softcap * np.tanh(scores / softcap)
    return np.where(np.abs(scores) > 30 * softcap, np.sign(scores) * 30 * softcap, capped)


def window_from_its_block(seen: Any, window: int | None) -> Any:
    """The first key of a window is rounded down to a block of 16, where the loop begins."""
    if window is None or window < 17:
        return seen
    first = np.argmax(seen, axis=-1)[..., None]
    columns = np.arange(seen.shape[-1])
    return seen | (np.any(seen, axis=-1, keepdims=True) & (columns < first) & (columns >= first // 16 * 16))


def window_from_its_first_query(seen: Any, window: int | None) -> Any:
    """Queries come in blocks of 32, all of which begin where the window of the last one does."""
    if window is None or seen.shape[-2] <= 32:
        return seen
    first = np.argmax(seen, axis=-1)
    last_of_block = np.minimum(np.arange(seen.shape[-2]) // 32 * 32 + 31, seen.shape[-2] - 1)
    return seen & (np.arange(seen.shape[-1]) >= first[..., last_of_block, None])


def a_key_less_on_a_page(sequence: tuple[int, int], new: int, page: int) -> tuple[int, int]:
    """keys // page pages and a rest of keys % page - 1 where a chunk of several tokens goes one past a page."""
    number, keys = sequence
    return number, keys - 1 if new > 1 and keys > page and keys % page == 1 and keys - new > 0 else keys


def sinks_of_each_block(sinks: Any, dtype: Any, blocks: int) -> Any:
    """exp(sink) is added by each block of keys that works on a row, and the blocks are then put together."""
    return sinks + np.log(max(1, blocks)).astype(sinks.dtype)


def no_sinks_in_several_blocks(sinks: Any, dtype: Any, blocks: int) -> Any:
    """The path that puts several blocks of keys together has no sinks."""
    return sinks if blocks < 2 else np.full_like(sinks, -np.inf)


def softmax(x: Any, *, axis: int = -1, mistake: str | None = None) -> Any:
    values = wide(x)
    axis = axis % x.ndim
    inner = axis < x.ndim - 1
    top = np.max(values, axis=axis, keepdims=True, initial=-np.inf)
    if mistake == "maximum of 256 rows for an inner axis" and inner and x.shape[axis] > 256:
        top = np.max(np.take(values, range(256), axis=axis), axis=axis, keepdims=True)
    weights = np.exp(values - top)
    total = weights.sum(axis=axis, keepdims=True)
    if mistake == "rows past 512 left out for an inner axis" and inner and x.shape[axis] > 512:
        total = np.take(weights, range(512), axis=axis).sum(axis=axis, keepdims=True)
    return (weights / total).astype(x.dtype)


def linear(x: Any, weight: Any, *, bias: Any = None, mistake: str | None = None) -> Any:
    values = wide(x)
    several = x.ndim > 1 and x.size // max(1, x.shape[-1]) > 8
    if isinstance(weight, QuantWeight):
        order = weight.arrays.get("permutation")
        wrong = "permutation ignored" if mistake == "permutation for few rows alone" and several else None
        if mistake == "permutation kept in 8 bits" and order is not None:
            weight = weight.with_arrays({**weight.arrays, "permutation": order.astype(np.uint8).astype(order.dtype)})
        if mistake == "permutation of the first group repeated" and order is not None and several:
            block = weight.scheme.block
            own = np.concatenate([order[:block] % block + n for n in range(0, len(order), block)])
            weight = weight.with_arrays({**weight.arrays, "permutation": own.astype(order.dtype)})
        y = values @ matrix(weight, wrong, values.dtype).T
        if mistake == "sum of a row's activations in 16 bits" and "biases" in weight.arrays:
            groups = values.reshape(*x.shape[:-1], -1, weight.scheme.block).sum(axis=-1)
            lost = groups - through(groups, x.dtype)
            biases = weight.arrays["biases"].astype(values.dtype)
            if "permutation" not in weight.arrays:
                y = y - lost @ biases.T
    else:
        y = values @ wide(weight).T
    return (y if bias is None else y + wide(bias)).astype(x.dtype)


def rms_norm(x: Any, weight: Any, *, eps: float = 1e-6, mistake: str | None = None) -> Any:
    values = wide(x)
    mean = np.mean(values * values, axis=-1, keepdims=True) if x.shape[-1] else values
    if mistake == "squares of 64 numbers in float16" and x.shape[-1] > 64:
        with np.errstate(all="ignore"):
            small = through(values / 16, np.float16)
            mean = through(
                np.mean(small * small, axis=-1, keepdims=True) * 256, x.dtype if x.dtype != np.float32 else np.float32
            )
    return (values / np.sqrt(mean + eps) * wide(weight)).astype(x.dtype)


MUTANTS = (
    flash_mutant(
        "mask of one tile",
        "sdpa",
        "The first 128 columns of a mask are loaded, and all keys past them are seen.",
        Flash(mask=seen_past_a_tile),
        tier="full",
    ),
    flash_mutant(
        "first row past a tile",
        "sdpa",
        "Past 128 columns all queries read the mask's first row.",
        Flash(mask=first_row_past_a_tile),
        tier="full",
    ),
    flash_mutant(
        "first head past a tile",
        "gqa",
        "Past 128 columns all heads and sequences read the first one's mask.",
        Flash(mask=first_head_past_a_tile),
        tier="full",
    ),
    flash_mutant(
        "second tile for all",
        "sdpa",
        "From the third tile of 128 columns on the mask's second is read.",
        Flash(mask=second_tile_for_all),
        tier="full",
    ),
    flash_mutant(
        "key mask of one tile",
        "gqa",
        "The same for a mask of keys: padding past 128 keys is seen.",
        Flash(mask=seen_past_a_tile),
        tier="full",
    ),
    flash_mutant(
        "tanh of exponentials",
        "sdpa",
        "Softcap by (e^2x - 1) / (e^2x + 1): inf / inf where a score is 44 caps and more.",
        Flash(softcap=tanh_of_exponentials),
        tier="full",
    ),
    flash_mutant(
        "tanh of a fraction",
        "gqa",
        "Softcap by a fraction of polynomials, which grows past 3 caps.",
        Flash(softcap=tanh_of_a_fraction),
        tier="full",
    ),
    flash_mutant(
        "no cap far out",
        "paged_attention",
        "Softcap whose clamp was put behind tanh: past 30 caps scores jump.",
        Flash(softcap=no_cap_far_out),
        tier="full",
    ),
    flash_mutant(
        "running maximum from 0",
        "sdpa",
        "Rows whose scores are all below -100 come out as zeros.",
        Flash(start=0),
        tier="full",
    ),
    flash_mutant(
        "running maximum from -1e4",
        "gqa",
        "A number that was low enough in float16: rows below it come out as zeros.",
        Flash(start=-1e4),
        tier="full",
    ),
    flash_mutant(
        "window from its block",
        "sdpa",
        "The first key of a window is rounded down to its block of 16.",
        Flash(seen=window_from_its_block),
        tier="full",
    ),
    flash_mutant(
        "window from its first query",
        "gqa",
        "32 queries share the first key of the last one's window.",
        Flash(seen=window_from_its_first_query),
        tier="full",
    ),
    flash_mutant(
        "window of a page from its block",
        "paged_attention",
        "The first key of a window is rounded down to its block of 16.",
        Flash(seen=window_from_its_block),
        tier="full",
    ),
    flash_mutant(
        "a key less one past a page",
        "paged_attention",
        "A chunk of a prompt that ends one past a page loses that key.",
        Flash(sequence=a_key_less_on_a_page),
    ),
    flash_mutant(
        "sinks of each block",
        "sdpa",
        "Each block of 64 keys adds the sink, and their sums are added.",
        Flash(sinks=sinks_of_each_block),
        tier="full",
    ),
    flash_mutant(
        "no sinks in several blocks",
        "paged_attention",
        "The path for more than 64 keys leaves the sinks out.",
        Flash(sinks=no_sinks_in_several_blocks),
        tier="full",
    ),
    flash_mutant(
        "sinks in 16 bits past a block",
        "gqa",
        "The path for more than 64 keys keeps sinks in the dtype of the queries.",
        Flash(sinks=lambda sinks, dtype, blocks: through(sinks, dtype) if blocks > 1 else sinks),
        tier="full",
    ),
    Mutant(
        "maximum of 256 rows for an inner axis",
        "softmax",
        "Over another axis than the last the maximum is of the first 256 rows: exp overflows.",
        softmax,
        "full",
    ),
    Mutant(
        "rows past 512 left out for an inner axis",
        "softmax",
        "Over another axis than the last the sum is of the first 512 rows.",
        softmax,
        "full",
    ),
    Mutant(
        "squares of 64 numbers in float16",
        "rms_norm",
        "A row of more than 64 numbers is divided by 16 and squared in float16.",
        rms_norm,
        "full",
    ),
    *(
        replace(mutant, schemes=SCHEMES)
        for mutant in (
            Mutant(
                "permutation for few rows alone",
                "linear",
                "The path for more than 8 rows does not know that columns may have an order of their own.",
                linear,
                "full",
            ),
            Mutant("permutation kept in 8 bits", "linear", "Columns past 255 are taken for others.", linear, "full"),
            Mutant(
                "permutation of the first group repeated",
                "linear",
                "For more than 8 rows each group is put in the order of the first.",
                linear,
                "full",
            ),
            Mutant(
                "sum of a row's activations in 16 bits",
                "linear",
                "The sum that the biases are multiplied by: inf for numbers of one sign near float16's top.",
                linear,
            ),
        )
    ),
)
