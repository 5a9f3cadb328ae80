"""all_reduce: the sum of what several processes hold, which each of them gets."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from tinyllm.errors import InvalidInputError
from tinyllm.spec.attribute_checks import instance, optional
from tinyllm.spec.cases import BadInput, Case, constant, integers, normal
from tinyllm.spec.communicator import Alike, Communicator
from tinyllm.spec.op_spec import Attribute, Input, OpSpec
from tinyllm.spec.outputs import Output


def _reference(xp: Any, x: Any, *, group: Communicator | None = None) -> Any:
    return x if group is None else group.sum(x)


_TWO, _THREE = {"group": Alike(2)}, {"group": Alike(3)}

all_reduce = OpSpec(
    name="all_reduce",
    summary="The sum over all processes that share one model out; of one process alone x itself.",
    formula="y = sum over ranks r of x_r",
    source="Shoeybi et al. 2019, arXiv:1909.08053 (section 3: the operator g)",
    inputs=(Input("x", "*B", about="this process's part of the sum"),),
    attributes=(Attribute("group", None, optional(instance(Communicator)), "the processes; None: this one alone"),),
    outputs=(Output("y", "*B", may_view=True),),
    reference=_reference,
    flops=lambda call: prod(call.shape("x")) * ((call.attributes["group"] or Alike(1)).ranks - 1),
    tolerance=4.0,  # a rounding for each rank after the first: the cases have up to 7
    notes=(
        "All ranks call it in the same order, with arrays of one shape and dtype, and get the same bits: the parts are "
        "added in the order of the ranks.",
        "Parts of 16 bits are added in float32, and the sum is rounded once.",
        "The cases are tried with a group of one process, whose other ranks hold what it holds itself.",
    ),
    cases=(
        Case("alone 2x3", {"x": normal(2, 3)}),
        Case("2 ranks, 5", {"x": normal(5)}, _TWO),
        Case("3 ranks, 2x3x4", {"x": normal(2, 3, 4)}, _THREE),
        Case("7 ranks, 33", {"x": normal(33)}, {"group": Alike(7)}),
        Case("2 ranks, 0x4", {"x": normal(0, 4)}, _TWO, decision=20),
        Case("2 ranks, NaN and infinity", {"x": constant([np.nan, np.inf, -np.inf, 6e4])}, _TWO, decision=23),
        Case("2 ranks, 33x65", {"x": normal(33, 65)}, _TWO, tier="full"),
        Case("3 ranks, 7x129", {"x": normal(7, 129)}, _THREE, tier="full"),
        Case("decode:1x576", {"x": normal(1, 576)}, _TWO, tier="bench"),
        Case("prefill:128x576", {"x": normal(128, 576)}, _TWO, tier="bench"),
    ),
    bad_inputs=(
        BadInput(
            "a number for the group",
            {"x": normal(3)},
            {"group": 2},
            InvalidInputError,
            "all_reduce: group: expected None or a Communicator",
        ),
        BadInput("integers", {"x": integers(0, 9, 3)}, {}, InvalidInputError, "all_reduce: x: expected a float dtype"),
    ),
)
