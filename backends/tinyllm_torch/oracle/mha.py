"""mha by F.multi_head_attention_forward, the function of nn.MultiheadAttention, where that has what the call asks for;
otherwise by F.linear, F.rms_norm and F.scaled_dot_product_attention, the weights being what comes of values that are a
unit matrix."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F

from tinyllm.plugins import Rope
from tinyllm_torch.oracle.attention import attend, intersected, split_mask, visible
from tinyllm_torch.oracle.rows import rms_norm, rope, scaled
from tinyllm_torch.oracle.weights import unpacked

COMPOSED = ("q_norm", "k_norm", "past_k", "past_v", "sinks")
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")


def mha(**given: Any) -> Any:
    """Output, then weights, keys and values as far as they are asked for."""
    given |= {name: unpacked(given[name]) for name in PROJECTIONS if given.get(name) is not None}
    given = {name: value for name, value in given.items() if value is not None}
    given.setdefault("key", given["query"])
    given.setdefault("value", given["key"])
    lead = given["query"].shape[:-2]
    for name in ("query", "key", "value"):
        given[name] = _flat(given[name], lead)
    outputs = _whole(lead, **given) if _fits(lead, given) else _composed(lead, **given)
    return tuple(y.reshape(*lead, *y.shape[1:]) for y in outputs)


def _fits(lead: tuple[int, ...], given: dict[str, Any]) -> bool:
    """Whether nn.MultiheadAttention has all of it: heads of one size, nothing that came later, no row without keys."""
    width, biases = given["q_proj"].shape[0], {name in given for name in ("q_bias", "k_bias", "v_bias")}
    square = all(name in given and given[name].shape[0] == width for name in PROJECTIONS[:3])
    plain = not any(name in given for name in (*COMPOSED, "rope", "softcap")) and len(biases) == 1
    if not (square and plain and given.get("num_kv_heads", given["num_heads"]) == given["num_heads"]):
        return False
    if not given["query"].numel() or not given["key"].numel():
        return False
    return (
        "bias_k" in given or given.get("add_zero_attn", False) or bool((_masks(given, lead) > -torch.inf).any(-1).all())
    )


def _flat(x: Any, lead: tuple[int, ...]) -> Any:
    """The leading axes as one."""
    return x.reshape(math.prod(lead), *x.shape[len(lead) :])


def _masks(given: dict[str, Any], lead: tuple[int, ...]) -> Any:
    """All masks as one float mask `[B, H, L, S]`, which bool ones become too, by -inf."""
    length, keys = given["query"].shape[-2], given["key"].shape[-2] if "k_proj" in given else 0
    keys += given["past_k"].shape[-2] if "past_k" in given else 0
    seen, added = split_mask(given.get("mask"))
    key_mask = given.get("key_mask")
    places = visible(length, keys, given.get("causal", False), given.get("window"))
    seen = intersected(places, seen, None if key_mask is None else key_mask[..., None, None, :])
    added = torch.zeros((), dtype=torch.float64) if added is None else added
    total = added if seen is None else torch.where(seen, added, -torch.inf)
    return _flat(total.expand(*lead, given["num_heads"], length, keys), lead)


def _whole(
    lead: tuple[int, ...],
    *,
    query: Any,
    key: Any,
    value: Any,
    num_heads: int,
    scale: float | None = None,
    need_weights: str | None = None,
    return_kv: bool = False,
    add_zero_attn: bool = False,
    **given: Any,
) -> list[Any]:
    """nn.MultiheadAttention, which knows no queries of another size than the heads' together: those are projected
    before.

    A scale of its own goes into the queries.
    """
    q_proj, q_bias = given["q_proj"], given.get("q_bias")
    width = q_proj.shape[0]
    if width != query.shape[-1]:
        query, q_proj = F.linear(query, q_proj, q_bias), torch.eye(width, dtype=query.dtype)
        q_bias = None if q_bias is None else torch.zeros_like(q_bias)
    growth = 1.0 if scale is None else scale * (width // num_heads) ** 0.5
    bias = None if q_bias is None else torch.cat((q_bias * growth, given["k_bias"], given["v_bias"]))
    rows = [given[name].reshape(1, 1, -1) if name in given else None for name in ("bias_k", "bias_v")]
    mask = _masks(given | {"query": query, "key": key, "num_heads": num_heads}, lead)
    q, k, v = (x.transpose(0, 1) for x in (query, key, value))  # sequence first, as the function has it
    y, weights = F.multi_head_attention_forward(
        q,
        k,
        v,
        width,
        num_heads,
        None,
        bias,
        rows[0],
        rows[1],
        add_zero_attn,
        0.0,
        given["o_proj"],
        given.get("o_bias"),
        training=False,
        need_weights=True,
        attn_mask=mask.flatten(0, 1),
        use_separate_proj_weight=True,
        q_proj_weight=q_proj * growth,
        k_proj_weight=given["k_proj"],
        v_proj_weight=given["v_proj"],
        average_attn_weights=need_weights == "mean",
    )
    outputs: list[Any] = [y.transpose(0, 1)] + ([weights] if need_weights else [])
    if return_kv:
        outputs += [
            _heads(F.linear(x, given[f"{n}_proj"], given.get(f"{n}_bias")), num_heads)
            for n, x in (("k", key), ("v", value))
        ]
    return outputs


def _composed(
    lead: tuple[int, ...],
    *,
    query: Any,
    key: Any,
    value: Any,
    num_heads: int,
    num_kv_heads: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    need_weights: str | None = None,
    return_kv: bool = False,
    add_zero_attn: bool = False,
    **given: Any,
) -> list[Any]:
    """Part by part."""
    kv_heads, past = num_kv_heads or num_heads, given["past_k"].shape[-2] if "past_k" in given else 0
    positions = given.get("positions", torch.arange(past, past + query.shape[-2]))
    positions = positions if positions.ndim < 2 else _flat(positions, lead)
    q = _ready(
        _heads(F.linear(query, given["q_proj"], given.get("q_bias")), num_heads), given.get("q_norm"), positions, given
    )
    parts: list[list[Any]] = [[_flat(given[n], lead)] if n in given else [] for n in ("past_k", "past_v")]
    if "k_proj" in given:
        new = _heads(F.linear(key, given["k_proj"], given.get("k_bias")), kv_heads)
        parts[0].append(_ready(new, given.get("k_norm"), positions, given))
        parts[1].append(_heads(F.linear(value, given["v_proj"], given.get("v_bias")), kv_heads))
    k, v = (torch.cat(p, dim=-2) for p in parts)
    mask = _masks(given | {"query": query, "key": key, "num_heads": num_heads}, lead)
    all_k, all_v = k, v
    if "bias_k" in given:
        all_k, all_v = (
            torch.cat((a, given[n].reshape(1, kv_heads, 1, -1).expand(len(a), -1, -1, -1)), dim=-2)
            for a, n in ((all_k, "bias_k"), (all_v, "bias_v"))
        )
    if add_zero_attn:
        all_k, all_v = (F.pad(a, (0, 0, 0, 1)) for a in (all_k, all_v))
    mask = F.pad(mask, (0, all_k.shape[-2] - k.shape[-2]))
    settings: dict[str, Any] = {"added": mask, "sinks": given.get("sinks"), "scale": scale, "softcap": softcap}
    y = attend(q, all_k, all_v, **settings)
    outputs = [F.linear(y.transpose(1, 2).flatten(-2), given["o_proj"], given.get("o_bias"))]
    if need_weights:
        unit = torch.eye(all_k.shape[-2], dtype=torch.float64).expand(*all_k.shape[:2], -1, -1)
        weights = attend(q, all_k, unit, **settings)
        outputs.append(weights if need_weights == "heads" else weights.mean(1))
    return outputs + ([k, v] if return_kv else [])


def _heads(x: Any, heads: int) -> Any:
    """`[B, L, H * D]` as `[B, H, L, D]`."""
    return x.reshape(*x.shape[:-1], heads, x.shape[-1] // heads).transpose(-2, -3)


def _ready(x: Any, norm: Any, positions: Any, given: dict[str, Any]) -> Any:
    """Normed and turned, in the order asked for."""
    turn: Rope | None = given.get("rope")
    last = given.get("qk_norm_after_rope", False)
    x = x if norm is None or last else rms_norm(x, norm, eps=given.get("norm_eps", 1e-6))
    if turn is not None:
        x = rope(x, positions=positions, **vars(turn))
    return rms_norm(x, norm, eps=given.get("norm_eps", 1e-6)) if norm is not None and last else x


ANSWERS = {"mha": mha}
REASONS = {"mha": scaled}
