"""A whole attention layer, and what goes wrong between its parts."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.conformance.zoo.attention import attend, visible
from tests.conformance.zoo.mutant import Mutant, wide
from tests.conformance.zoo.rope import rope as turned
from tests.conformance.zoo.rows import rms_norm
from tinyllm.spec.rope import Rope


def mha(
    query: Any,
    q_proj: Any,
    o_proj: Any,
    *,
    k_proj: Any = None,
    v_proj: Any = None,
    key: Any = None,
    value: Any = None,
    q_bias: Any = None,
    k_bias: Any = None,
    v_bias: Any = None,
    o_bias: Any = None,
    bias_k: Any = None,
    bias_v: Any = None,
    q_norm: Any = None,
    k_norm: Any = None,
    past_k: Any = None,
    past_v: Any = None,
    positions: Any = None,
    mask: Any = None,
    key_mask: Any = None,
    sinks: Any = None,
    num_heads: int,
    num_kv_heads: int | None = None,
    scale: float | None = None,
    causal: bool = False,
    window: int | None = None,
    softcap: float | None = None,
    rope: Rope | None = None,
    norm_eps: float = 1e-6,
    qk_norm_after_rope: bool = False,
    add_zero_attn: bool = False,
    need_weights: str | None = None,
    return_kv: bool = False,
    mistake: str | None = None,
) -> Any:
    length, kv_heads = query.shape[-2], num_kv_heads or num_heads
    if positions is None:
        past = 0 if past_k is None or mistake == "positions without the past" else past_k.shape[-2]
        positions = past + np.arange(length)
    norm_last = qk_norm_after_rope or mistake == "norm after the rotation"

    def ready(x: Any, norm: Any) -> Any:
        x = x if norm is None or norm_last else rms_norm(x, norm, eps=norm_eps)
        x = x if rope is None else turned(x, positions=positions, **vars(rope))
        return x if norm is None or not norm_last else rms_norm(x, norm, eps=norm_eps)

    q = ready(_split(_project(query, q_proj, q_bias), num_heads), q_norm)
    k: Any = None if past_k is None else wide(past_k)
    v: Any = None if past_v is None else wide(past_v)
    if k_proj is not None:
        key = query if key is None else key
        value = key if value is None or mistake == "values of the keys" else value
        k = _after(k, ready(_split(_project(key, k_proj, k_bias), kv_heads), k_norm), mistake)
        v = _after(v, _split(_project(value, v_proj, v_bias), kv_heads), mistake)
    seen = visible(length, k.shape[-2], causal, window)
    if key_mask is not None:
        seen = seen & key_mask[..., None, None, :]
    all_k, all_v = k, v
    for row_k, row_v in ((bias_k, bias_v), *(((0, 0),) if add_zero_attn else ())):
        if row_k is not None:
            hidden = mistake == "extra key hidden by the mask"
            seen, mask = (
                _one_more(seen, all_k, not hidden),
                None if mask is None else _one_more(mask, all_k, mask.dtype == bool),
            )
            all_k, all_v = _with_row(all_k, row_k), _with_row(all_v, row_v)
    sinks = None if sinks is None else sinks[:, None, None]
    all_k, all_v = (np.repeat(a, num_heads // kv_heads, axis=-3) for a in (all_k, all_v))

    def attended(values: Any) -> Any:
        return attend(q, all_k, values, seen, mask, sinks, scale, softcap)

    y = attended(all_v)
    merged = y if mistake == "heads not put side by side" else np.swapaxes(y, -2, -3)
    outputs = [_project(merged.reshape(*query.shape[:-1], y.shape[-3] * y.shape[-1]), o_proj, o_bias)]
    if need_weights:
        weights = attended(np.eye(all_k.shape[-2], dtype=y.dtype))
        outputs.append(weights if need_weights == "heads" else weights.mean(axis=-3))
    outputs += [k, v] if return_kv else []
    outputs = [a.astype(query.dtype) for a in outputs]
    return tuple(outputs) if len(outputs) > 1 else outputs[0]


def _project(x: Any, weight: Any, bias: Any) -> Any:
    x = wide(x)
    y = x @ wide(weight).T
    return y if bias is None else y + wide(bias)


def _split(x: Any, heads: int) -> Any:
    return np.swapaxes(x.reshape(*x.shape[:-1], heads, x.shape[-1] // heads), -2, -3)


def _after(past: Any, new: Any, mistake: str | None) -> Any:
    if past is None:
        return new
    return np.concatenate([new, past] if mistake == "past behind the new keys" else [past, new], axis=-2)


def _with_row(array: Any, row: Any) -> Any:
    """One more key or value, for each head its own."""
    own = (
        np.asarray(row, array.dtype).reshape(-1, 1, array.shape[-1]) if np.ndim(row) else np.zeros((1, 1), array.dtype)
    )
    return np.concatenate([array, np.broadcast_to(own, (*array.shape[:-2], 1, array.shape[-1]))], axis=-2)


def _one_more(mask: Any, keys: Any, value: bool) -> Any:
    """A mask with a column for one more key: seen or not; of a float mask, nothing is added."""
    mask = np.broadcast_to(mask, (*mask.shape[:-1], keys.shape[-2]))
    return np.concatenate([mask, np.full((*mask.shape[:-1], 1), value, mask.dtype)], axis=-1)


MUTANTS = (
    Mutant("positions without the past", "mha", "With a cache, new tokens are turned as if they were the first.", mha),
    Mutant(
        "past behind the new keys",
        "mha",
        "Concatenated in the wrong order: masks and the returned cache no longer fit.",
        mha,
    ),
    Mutant(
        "norm after the rotation",
        "mha",
        "q and k are normed after rope: the same only while the norm's weights are all equal.",
        mha,
    ),
    Mutant(
        "values of the keys", "mha", "`value` is not looked at; where it is given, it is another array than `key`.", mha
    ),
    Mutant(
        "extra key hidden by the mask",
        "mha",
        "bias_k and add_zero_attn add a key that every query sees, whatever the masks say.",
        mha,
    ),
    Mutant("heads not put side by side", "mha", "[H, L, D] read as [L, H D]: heads and tokens are mixed up.", mha),
)
