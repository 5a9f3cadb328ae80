"""Properties of attention: sdpa, gqa and mha."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from tinyllm.conformance.properties.search import Draws, Property
from tinyllm.conformance.subject import Subject
from tinyllm.spec.rope import Rope


def qkv(subject: Subject, draws: Draws, length: int, keys: int, groups: int = 0) -> dict[str, Any]:
    """Queries, keys and values of one size of head; in gqa, heads share keys in groups."""
    lead, dim, value_dim = draws.pick((), (2,), (1,), (2, 1)), draws.pick(4, 1, 8, 16), draws.pick(4, 1, 8)
    heads: tuple[int, ...] = ()
    shared: tuple[int, ...] = ()
    if subject.spec.name == "gqa":
        kv_heads = draws.pick(2, 1, 3)
        heads, shared = (kv_heads * (groups or draws.pick(2, 1, 3)),), (kv_heads,)
    return {
        "q": draws.normal(*lead, *heads, length, dim),
        "k": draws.normal(*lead, *shared, keys, dim),
        "v": draws.normal(*lead, *shared, keys, value_dim),
    }


def settings(draws: Draws) -> dict[str, Any]:
    """A scale or a softcap, now and then."""
    scale = {"scale": draws.pick(0.5, -0.7)} if draws.flag() else {}
    return scale | ({"softcap": draws.pick(2.0, 30.0)} if draws.pick(False, False, False, True) else {})


def layer(
    draws: Draws, length: int, *lead: int, keys: int = 0, rope: bool = False
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Inputs and attributes of an attention layer; keys: of tokens of their own."""
    kv_heads, dim, model = draws.pick(2, 1), draws.pick(4, 2), draws.pick(6, 3)
    heads = kv_heads * draws.pick(2, 1)
    inputs = {"query": draws.normal(*lead, length, model)}
    sizes = {
        "q": (heads * dim, model),
        "o": (model, heads * dim),
        "k": (kv_heads * dim, model),
        "v": (kv_heads * dim, model),
    }
    inputs |= {f"{name}_proj": draws.normal(*size, scale=size[1] ** -0.5) for name, size in sizes.items()}
    if keys:
        inputs |= {name: draws.normal(*lead, keys, model) for name in ("key", "value")}
    if draws.flag():
        inputs |= {f"{name}_bias": draws.normal(size[0]) for name, size in sizes.items()}
    attributes: dict[str, Any] = {"num_heads": heads, "num_kv_heads": kv_heads}
    if rope and draws.flag():
        attributes["rope"] = Rope(traditional=draws.flag())
    return inputs, attributes


def _plain(subject: Subject, draws: Draws, length: int, keys: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """A call of any of the three; an own key and value in mha."""
    if subject.spec.name == "mha":
        return layer(draws, length, *draws.pick((), (2,)), keys=keys)
    return qkv(subject, draws, length, keys), settings(draws)


def _lengths(draws: Draws) -> tuple[int, int]:
    """Queries and keys."""
    return draws.pick(2, 1, 3, 5, 9), draws.pick(3, 1, 2, 5, 9, 33)


def order_of_keys(subject: Subject, draws: Draws) -> str:
    """Keys, their values and their columns of a mask in another order give the same."""
    length, keys = _lengths(draws)
    inputs, attributes = _plain(subject, draws, length, keys)
    order = draws.rng.permutation(keys)
    if draws.flag():
        inputs["mask"] = draws.normal(length, keys) if draws.flag() else draws.rng.random((length, keys)) < 0.7
    moved = {n: np.take(a, order, axis=-2) if n in ("k", "v", "key", "value") else a for n, a in inputs.items()}
    if "mask" in inputs:
        moved["mask"] = inputs["mask"][:, order]
    return draws.apart(subject, (inputs, attributes), (moved, attributes))


def heads_repeated(subject: Subject, draws: Draws) -> str:
    """A kv head that serves a group is the same as one for each query head, its copies side by side."""
    length, keys = _lengths(draws)
    inputs, attributes = (
        qkv(subject, draws, length, keys, groups=draws.pick(2, 3)),
        settings(draws) | {"causal": draws.flag()},
    )
    groups = inputs["q"].shape[-3] // inputs["k"].shape[-3]
    repeated = {name: a if name == "q" else np.repeat(a, groups, axis=-3) for name, a in inputs.items()}
    run = draws.run(subject, inputs, **attributes)
    own = draws.run(subject, repeated, **attributes)
    return draws.differ(run, *own.outputs) or draws.differ(
        run, *draws.other(subject, "sdpa", repeated, **attributes).outputs
    )


def step_by_step(subject: Subject, draws: Draws) -> str:
    """A causal prefix at once, in chunks and token by token gives the same."""
    length = draws.pick(3, 2, 1, 5, 8)
    inputs, attributes = qkv(subject, draws, length, length), settings(draws) | {"causal": True}
    if draws.flag():
        attributes["window"] = draws.pick(2, 1, 4)
    whole = draws.run(subject, inputs, **attributes)
    parts = []
    for start, end in chunks(draws, length):
        part = {"q": inputs["q"][..., start:end, :], "k": inputs["k"][..., :end, :], "v": inputs["v"][..., :end, :]}
        parts.append(draws.run(subject, part, **attributes).outputs[0])
    return draws.differ(whole, np.concatenate(parts, axis=-2))


def chunks(draws: Draws, length: int) -> list[tuple[int, int]]:
    """Starts and ends of parts that make up the length: one for each token, or larger ones."""
    ends, most = [0], draws.pick(1, 2, 3)
    while ends[-1] < length:
        ends.append(min(ends[-1] + draws.pick(*range(1, most + 1)), length))
    return list(pairwise(ends))


def layer_step_by_step(subject: Subject, draws: Draws) -> str:
    """A causal layer over a prefix at once, and in chunks with the keys and values of earlier ones, gives the same."""
    length, lead = draws.pick(3, 2, 1, 5), draws.pick((), (2,))
    inputs, attributes = layer(draws, length, *lead, rope=True)
    attributes |= {"causal": True, "return_kv": True}
    whole = draws.run(subject, inputs, **attributes)
    parts = []
    past: dict[str, Any] = {}
    for start, end in chunks(draws, length):
        run = draws.run(subject, inputs | past | {"query": inputs["query"][..., start:end, :]}, **attributes)
        past = dict(zip(("past_k", "past_v"), run.outputs[1:], strict=True))
        parts.append(run.outputs[0])
    return draws.differ(whole, np.concatenate(parts, axis=-2), past["past_k"], past["past_v"])


def _masked(draws: Draws, subject: Subject) -> tuple[int, int, dict[str, Any], dict[str, Any]]:
    length, keys = _lengths(draws)
    inputs, attributes = _plain(subject, draws, length, keys)
    return length, keys, inputs, attributes | {"causal": draws.flag()}


def no_sinks(subject: Subject, draws: Draws) -> str:
    """Sinks far below all scores are none."""
    _, _, inputs, attributes = _masked(draws, subject)
    heads = (attributes["num_heads"],) if subject.spec.name == "mha" else inputs["q"].shape[-3:-2]
    sinks = np.full(heads, draws.pick(-1e4, -np.inf), np.float32)
    return draws.apart(subject, (inputs, attributes), (inputs | {"sinks": sinks}, attributes))


def wide_window(subject: Subject, draws: Draws) -> str:
    """A window that no query and key are apart by is none."""
    length, keys, inputs, attributes = _masked(draws, subject)
    wide = max(length, keys) + draws.pick(0, 1, 1000)
    return draws.apart(subject, (inputs, attributes), (inputs, attributes | {"window": wide}))


def two_kinds_of_mask(subject: Subject, draws: Draws) -> str:
    """A bool mask is a float mask of 0 and -inf, rows without a key included."""
    length, keys, inputs, attributes = _masked(draws, subject)
    mask = draws.rng.random((length, draws.pick(keys, keys, 1))) < draws.pick(0.7, 0.3)
    added = draws.cast(np.where(mask, 0.0, -np.inf))
    return draws.apart(subject, (inputs | {"mask": mask}, attributes), (inputs | {"mask": added}, attributes))


def causal_is_a_mask(subject: Subject, draws: Draws) -> str:
    """causal and window are the masks that they stand for, aligned to the end of the keys."""
    length, keys, inputs, attributes = _masked(draws, subject)
    window = draws.pick(None, 1, 2, 4)
    distance = np.arange(length)[:, None] + (keys - length) - np.arange(keys)
    mask = np.ones((length, keys), bool)
    if attributes["causal"]:
        mask &= distance >= 0
    if window is not None:
        mask &= np.abs(distance) < window
        mask |= (distance < 0) & (distance > -window) & (not attributes["causal"])
    by_mask = inputs | {"mask": mask}, attributes | {"causal": False}
    return draws.apart(subject, (inputs, attributes | {"window": window}), by_mask)


ALL = ("sdpa", "gqa", "mha")
WHOLE = ("float32", "float64")
"""A cache of 16 bits rounds keys and values, which a layer that takes the whole prompt at once does not."""
PROPERTIES = (
    *(Property("order of keys", op, order_of_keys) for op in ALL),
    Property("heads repeated", "gqa", heads_repeated),
    *(Property("step by step", op, step_by_step) for op in ("sdpa", "gqa")),
    Property("step by step", "mha", layer_step_by_step, WHOLE),
    *(Property("no sinks", op, no_sinks) for op in ALL),
    *(Property("wide window", op, wide_window) for op in ALL),
    *(Property("two kinds of mask", op, two_kinds_of_mask) for op in ALL),
    *(Property("causal is a mask", op, causal_is_a_mask) for op in ALL),
)
