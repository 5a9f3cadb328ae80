"""Random valid calls of an op: from the shape patterns of its spec, with recipes for ops whose arguments hang together
otherwise."""

from __future__ import annotations

import numpy as np

from tinyllm.catalogue.moe.moe_experts_cases import layer
from tinyllm.catalogue.moe.moe_router_cases import apart, biases
from tinyllm.catalogue.quantize.quantize import near_levels_case
from tinyllm.conformance.example import rounded
from tinyllm.conformance.properties.random_arrays import Call, Recipe, generic, quant_weight, values
from tinyllm.conformance.properties.random_attention import ATTENTION
from tinyllm.conformance.properties.recurrent import RECIPES as RECURRENT
from tinyllm.conformance.properties.search import Draws
from tinyllm.spec.op_spec import OpSpec

LEADS: tuple[tuple[int, ...], ...] = ((2,), (), (1,), (2, 3), (0,), (3, 1, 2))
RANKS = (2, 1, 0, 3)


def random_call(draws: Draws, spec: OpSpec, lead: tuple[int, ...] | None = None) -> Call:
    """A call that the spec may still refuse. lead: the leading axes, where somebody needs them to be there."""
    if lead is None and all(" " not in i.shape for i in spec.inputs):  # nothing but leading axes
        lead = tuple(draws.pick(*draws.sizes) for _ in range(draws.pick(*RANKS)))
    elif lead is None:
        lead = draws.pick(*LEADS)
    return RECIPES.get(spec.name, generic)(draws, spec, lead)


def _ids(draws: Draws, spec: OpSpec, lead: tuple[int, ...]) -> Call:
    inputs, attributes = generic(draws, spec, lead)
    rows = inputs["weight"].shape[0]
    if inputs["ids"].size and not rows:
        draws.reject("a table without rows")
    return inputs | {
        "ids": np.asarray(draws.rng.integers(0, max(rows, 1), inputs["ids"].shape), draws.pick("int32", "int64"))
    }, attributes


def _split(draws: Draws, spec: OpSpec, lead: tuple[int, ...]) -> Call:
    sizes = tuple(draws.pick(2, 1, 3, 0, 17) for _ in range(draws.pick(2, 1, 3)))
    shape, axis = [*lead, sum(sizes)], -1
    if lead and draws.flag():
        axis = draws.pick(*range(len(lead)), *range(-1 - len(lead), -1))
        shape[axis], shape[-1] = sum(sizes), draws.pick(*draws.sizes)
    return {"x": values(draws, "T", tuple(shape))}, {"sizes": sizes} | ({"axis": axis} if axis != -1 else {})


def _split_heads(draws: Draws, spec: OpSpec, lead: tuple[int, ...]) -> Call:
    heads = tuple(draws.pick(2, 1, 3) for _ in range(draws.pick(2, 1, 3)))
    return {"x": values(draws, "T", (*lead, sum(heads) * draws.pick(3, 1, 0, 8)))}, {"heads": heads}


def _moe_router(draws: Draws, spec: OpSpec, lead: tuple[int, ...]) -> Call:
    """Logits that lie apart, as the cases have them: which of two near ones is the larger is a matter of rounding."""
    groups, each, tokens = draws.pick(1, 2, 4), draws.pick(2, 3, 8), draws.pick(2, 1, 0, 17)
    experts, kept = groups * each, draws.pick(*range(1, groups + 1))
    top_k, score = draws.pick(*range(1, kept * each + 1)), draws.pick("softmax", "sigmoid", "softmax_of_chosen")
    settings = {"top_k": top_k, "score": score, "groups": groups, "groups_kept": kept}
    biased = draws.flag() and score != "softmax_of_chosen"
    inputs = {"logits": apart(tokens, experts, bias=biased, **settings).make(draws.rng).astype(np.float32)}
    if biased:
        inputs["bias"] = biases(experts).astype(np.float32)
    if draws.flag():
        inputs["expert_scale"] = draws.rng.standard_normal(experts).astype(np.float32)
    return inputs, settings | {"normalize": draws.flag(), "scaling": draws.pick(1.0, 2.5)}


def _moe_experts(draws: Draws, spec: OpSpec, lead: tuple[int, ...]) -> Call:
    """Layers of any size, dense; the experts of a token are different."""
    tokens, count, top_k = draws.pick(2, 1, 0, 17), draws.pick(3, 1, 8), draws.pick(2, 1, 3)
    columns, rows = draws.pick(4, 1, 33), draws.pick(5, 1, 32)
    drawn = layer(tokens, count, min(top_k, count), columns, rows, bias=draws.flag())
    kinds = {i.name: i.kind for i in spec.inputs}
    made = {name: rounded(draw.make(draws.rng), kinds[name], draws.dtype) for name, draw in drawn.items()}
    clamped = {"limit": 0.8, "alpha": 1.702, "up_offset": 1.0}
    return made, draws.pick({}, clamped, {"activation": "gelu_tanh"})


def _quantize(draws: Draws, spec: OpSpec, lead: tuple[int, ...]) -> Call:
    """Numbers a little beside the levels, as the cases have them: on which level others land is a matter of
    rounding."""
    weight = quant_weight(draws, draws.pick(*draws.sizes), plain=True)
    shape = (*lead, *weight.shape)
    w = near_levels_case(weight.scheme, *shape).inputs["w"].make(draws.rng) if all(shape) else np.zeros(shape)
    return {"w": draws.cast(w)}, {"scheme": weight.scheme}


RECIPES: dict[str, Recipe] = {
    "embedding": _ids,
    "split": _split,
    "split_heads": _split_heads,
    "quantize": _quantize,
    "moe_router": _moe_router,
    "moe_experts": _moe_experts,
    **ATTENTION,
    **RECURRENT,
}
