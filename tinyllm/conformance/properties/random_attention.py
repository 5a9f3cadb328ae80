"""Random calls of attention, caches and rotary positions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinyllm.conformance.properties.attention import layer
from tinyllm.conformance.properties.random_arrays import Call, Recipe, generic, quant_weight, values
from tinyllm.conformance.properties.rope import SCALINGS, YARN
from tinyllm.conformance.properties.search import Draws
from tinyllm.spec.op_spec import OpSpec
from tinyllm.spec.rope import RopeScaling

INDICES = ("int32", "int64", "uint8")


def mask_shape(draws: Draws, *scores: int) -> tuple[int, ...]:
    """`[L, S]` or the full rank of the scores, with some axes 1."""
    wanted = scores[-2:] if draws.flag() else scores
    return tuple(draws.pick(n, n, n, 1) for n in wanted)


def _settings(draws: Draws, head_dim: int, *names: str) -> dict[str, Any]:
    """Of `scale`, `causal`, `window`, `softcap` and others, each now and then."""
    options = {"scale": (0.3, -0.7, 0.0), "causal": (True,), "window": (2, 1, 3, 40), "softcap": (2.0, 30.0)}
    found = {name: draws.pick(*options[name]) for name in names if draws.pick(False, False, True)}
    return found | ({"scale": 0.5} if head_dim == 0 and "scale" not in found else {})


def _now_and_then(draws: Draws, **makers: Callable[[], Any]) -> dict[str, Any]:
    """What these make, each in a third of the calls."""
    return {name: make() for name, make in makers.items() if draws.pick(False, False, True)}


def _key_mask(draws: Draws, *shape: int) -> Any:
    return values(draws, "bool", tuple(draws.pick(n, n, 1) for n in shape))


def _sdpa(draws: Draws, spec: OpSpec, lead: tuple[int, ...]) -> Call:
    inputs, _ = generic(draws, spec, lead, leave=("mask", "sinks"))
    (length, dim), keys = inputs["q"].shape[-2:], inputs["k"].shape[-2]
    full = np.broadcast_shapes(*(a.shape[:-2] for a in inputs.values()))
    if draws.flag():
        inputs["mask"] = values(draws, "mask", mask_shape(draws, *full, length, keys))
    inputs |= _now_and_then(draws, sinks=lambda: values(draws, "float", full[-1:]))
    return inputs, _settings(draws, dim, "scale", "causal", "window", "softcap")


def _gqa(draws: Draws, spec: OpSpec, lead: tuple[int, ...]) -> Call:
    kv_heads = draws.pick(2, 1, 3)
    heads = kv_heads * draws.pick(*(n for n in (2, 1, 3, 7, 0) if n or 0 in draws.sizes))
    leave = ("mask", "key_mask", "kv_lengths")
    inputs, _ = generic(draws, spec, lead, {"Hq": heads, "Hkv": kv_heads}, leave)
    (length, dim), keys = inputs["q"].shape[-2:], inputs["k"].shape[-2]
    full = np.broadcast_shapes(*(inputs[name].shape[:-3] for name in "qkv"))
    if draws.flag():
        inputs["mask"] = values(draws, "mask", mask_shape(draws, *full, heads, length, keys))
    inputs |= _now_and_then(
        draws,
        key_mask=lambda: _key_mask(draws, *full, keys),
        kv_lengths=lambda: np.asarray(draws.rng.integers(0, keys + 1, full), draws.pick(*INDICES)),
    )
    return inputs, _settings(draws, dim, "scale", "causal", "window", "softcap")


def _mha(draws: Draws, spec: OpSpec, lead: tuple[int, ...]) -> Call:
    length, own = draws.pick(2, 1, 3, 0, 5), draws.pick(0, 0, 3, 1)
    inputs, attributes = layer(draws, length, *lead, keys=own, rope=not own)
    heads, kv_heads = attributes["num_heads"], attributes["num_kv_heads"]
    dim = inputs["q_proj"].shape[0] // heads
    past = draws.pick(0, 0, 2, 5)
    if past:
        inputs |= {name: draws.normal(*lead, kv_heads, past, dim) for name in ("past_k", "past_v")}
    keys = past + (own or length)
    if "rope" in attributes and draws.flag():
        inputs["positions"] = np.asarray(
            draws.rng.integers(-3, 50, (length,) if draws.flag() else (*lead, length)), np.int32
        )
    if draws.pick(False, False, True):
        inputs |= {f"{n}_norm": draws.normal(dim) for n in "qk"}
    if draws.pick(False, False, True):
        inputs |= {f"bias_{n}": draws.normal(kv_heads * dim) for n in "kv"}
    inputs |= _now_and_then(
        draws,
        mask=lambda: values(draws, "mask", mask_shape(draws, *lead, heads, length, keys)),
        key_mask=lambda: _key_mask(draws, *lead, keys),
        sinks=lambda: values(draws, "float", (heads,)),
    )
    if draws.pick(False, False, True):
        name = draws.pick("q_proj", "k_proj", "v_proj", "o_proj")
        inputs[name] = quant_weight(draws, inputs[name].shape[0], columns=inputs[name].shape[1])
    for name, value in (
        ("add_zero_attn", True),
        ("return_kv", True),
        ("qk_norm_after_rope", True),
        ("need_weights", "heads"),
        ("need_weights", "mean"),
    ):
        if draws.pick(False, False, True):
            attributes[name] = value
    return inputs, attributes | _settings(draws, dim, "scale", "causal", "window", "softcap")


def _rope_settings(draws: Draws, width: int | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Frequencies by their settings, or given; and how positions are scaled."""
    attributes: dict[str, Any] = {"position_scale": draws.pick(0.5, 3.0)} if draws.pick(False, False, True) else {}
    if draws.pick(False, False, True):
        pairs = draws.pick(*(n for n in (1, 2, 3) if width is None or 2 * n <= width))
        return {"inv_freq": draws.rng.random(pairs).astype(np.float32)}, attributes
    attributes |= {"base": draws.pick(10000.0, 5e5, 100.0), "scaling": draws.pick(*SCALINGS, YARN)}
    if width is None or draws.flag():
        attributes["dims"] = draws.pick(*(n for n in (2, 4, 8, 64) if width is None or n <= width))
    return {}, attributes


def _rope(draws: Draws, spec: OpSpec, lead: tuple[int, ...]) -> Call:
    width, length = draws.pick(4, 2, 8, 10, 64), draws.pick(2, 1, 3, 0, 17)
    inputs: dict[str, Any] = {"x": draws.normal(*lead, length, width)}
    frequencies, attributes = _rope_settings(draws, width)
    kind, far = draws.pick("none", "offset", "positions"), draws.pick(50, 5000)
    batch = lead[:1] if lead and draws.flag() else ()
    if kind != "none":
        shape = batch if kind == "offset" else (*batch, length)
        inputs[kind] = np.asarray(draws.rng.integers(-3, far, shape), draws.pick("int32", "int64"))
    return inputs | frequencies, attributes | ({"traditional": True} if draws.flag() else {})


def _rope_angles(draws: Draws, spec: OpSpec, lead: tuple[int, ...]) -> Call:
    frequencies, attributes = _rope_settings(draws, None)
    positions = np.asarray(draws.rng.integers(-3, draws.pick(50, 5000), lead), draws.pick("int32", "int64"))
    inputs: dict[str, Any] = {"positions": positions} | frequencies
    if not frequencies and draws.flag():
        attributes |= {"scaling": RopeScaling("dynamic", 2.0, 64), "dims": draws.pick(2, 4, 8, 64)}
        inputs["lengths"] = np.asarray(draws.rng.integers(0, 200, lead), draws.pick("int32", "int64"))
    if draws.flag():
        attributes |= {"log_scale": draws.pick(0.1, 1.0), "log_period": draws.pick(16, 1, 1000)}
    return inputs, attributes


def _rope_rotate(draws: Draws, spec: OpSpec, lead: tuple[int, ...]) -> Call:
    pairs = draws.pick(2, 1, 4, 32)
    x = draws.normal(*lead, 2 * pairs + draws.pick(0, 1, 3))
    shape = tuple(draws.pick(n, n, 1) for n in lead[draws.pick(*range(len(lead) + 1)) :])
    angles = draws.rng.uniform(-4, 4, (*shape, pairs))
    cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    return {"x": x, "cos": cos, "sin": sin}, {"traditional": True} if draws.flag() else {}


def _kv_append(draws: Draws, spec: OpSpec, lead: tuple[int, ...]) -> Call:
    pages, page = draws.pick(2, 1, 3), draws.pick(4, 1, 3, 16)
    inputs, attributes = generic(
        draws, spec, lead, {"P": pages, "page": page, "T": min(draws.pick(*draws.sizes), pages * page)}
    )
    slots = (
        draws.rng.permutation(pages * page) if draws.flag() else np.roll(np.arange(pages * page), draws.pick(1, 0, 2))
    )
    return inputs | {"slots": slots[: len(inputs["k"])].astype(draws.pick(*INDICES))}, attributes


def _paged_attention(draws: Draws, spec: OpSpec, lead: tuple[int, ...]) -> Call:
    page, count = draws.pick(4, 1, 3, 16), draws.pick(2, 1, 3, 0)
    kv_len = np.asarray([draws.pick(3, 1, 2, 5, 0, 17, 33) for _ in range(count)], np.int64)
    new = np.asarray([min(int(n), draws.pick(1, 2, 0, 5, 40)) for n in kv_len], np.int64)
    needed = -(-kv_len // page)
    table = np.full((count, int(needed.max(initial=0)) + draws.pick(0, 1)), -1)
    order = draws.rng.permutation(int(needed.sum()) + 1)
    for b, start in enumerate(np.cumsum([0, *needed])[:-1]):
        table[b, : needed[b]] = order[start : start + needed[b]]
    kv_heads, kind = draws.pick(2, 1, 3), draws.pick("int32", "int64")
    sizes = {"T": int(new.sum()), "P": len(order), "page": page, "Hkv": kv_heads, "Hq": kv_heads * draws.pick(2, 1, 7)}
    inputs, _ = generic(draws, spec, lead, sizes | {"B": count, "B1": count + 1, "M": table.shape[1]})
    inputs |= {
        "q_start": np.cumsum([0, *new]).astype(kind),
        "kv_len": kv_len.astype(kind),
        "block_table": table.astype(kind),
    }
    return inputs, _settings(draws, inputs["q"].shape[-1], "scale", "window", "softcap")


ATTENTION: dict[str, Recipe] = {
    "sdpa": _sdpa,
    "gqa": _gqa,
    "mha": _mha,
    "rope": _rope,
    "rope_angles": _rope_angles,
    "rope_rotate": _rope_rotate,
    "kv_append": _kv_append,
    "paged_attention": _paged_attention,
}
