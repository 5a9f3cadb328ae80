"""split, split_heads, merge_heads: an axis cut into parts, folded into two and unfolded again. No number changes."""

from __future__ import annotations

from itertools import accumulate, pairwise
from math import prod
from typing import Any

from tinyllm.errors import InvalidInputError, invalid
from tinyllm.spec.attribute_checks import integer
from tinyllm.spec.cases import BadInput, Case, integers, normal
from tinyllm.spec.op_spec import REQUIRED, Attribute, Input, OpSpec
from tinyllm.spec.outputs import Output
from tinyllm.spec.types import Call


def sizes_tuple(minimum: int) -> Any:
    """A check of an attribute: a tuple, not empty, of integers of at least `minimum`."""

    def check(value: Any) -> str | None:
        is_valid = isinstance(value, tuple) and value and all(type(n) is int and n >= minimum for n in value)
        return None if is_valid else f"a tuple of integers of at least {minimum}"

    return check


def _borders(sizes: tuple[int, ...]) -> list[tuple[int, int]]:
    """Where each part begins and ends."""
    return list(pairwise(accumulate(sizes, initial=0)))


def _split_reference(xp: Any, x: Any, *, sizes: tuple[int, ...], axis: int = -1) -> tuple[Any, ...]:
    before = (slice(None),) * (axis % x.ndim)
    return tuple(x[(*before, slice(start, end), ...)] for start, end in _borders(sizes))


def _split_check(call: Call) -> dict[str, Any]:
    shape, sizes, axis = call.shape("x"), call.attributes["sizes"], call.attributes["axis"]
    if not -len(shape) <= axis < len(shape):
        raise invalid("split", "axis", f"an axis of an array with {len(shape)} axes", axis)
    axis %= len(shape)
    if sum(sizes) != shape[axis]:
        raise invalid("split", "sizes", f"sizes that sum to {shape[axis]}", f"{sizes}, which sum to {sum(sizes)}")
    return {"parts": tuple((*shape[:axis], n, *shape[axis + 1 :]) for n in sizes)}


def _split_heads_reference(xp: Any, x: Any, *, heads: tuple[int, ...]) -> tuple[Any, ...]:
    all_heads = xp.reshape(x, (*x.shape[:-1], sum(heads), x.shape[-1] // sum(heads)))
    return tuple(all_heads[..., start:end, :] for start, end in _borders(heads))


def _split_heads_check(call: Call) -> dict[str, Any]:
    *lead, width = call.shape("x")
    heads = call.attributes["heads"]
    if not isinstance(width, int) or width % sum(heads):
        raise invalid(
            "split_heads", "heads", f"heads that divide the last axis, {width}", f"{heads}, {sum(heads)} in all"
        )
    return {"parts": tuple((*lead, h, width // sum(heads)) for h in heads)}


def _merge_heads_reference(xp: Any, x: Any) -> Any:
    return xp.reshape(x, (*x.shape[:-2], x.shape[-2] * x.shape[-1]))


def _nothing(call: Call) -> int:
    """No flops, and no bytes: the outputs can be views of x. Where a backend has to copy, that is a cost of its own."""
    return 0


def _x(*shape: int) -> dict[str, Any]:
    return {"x": normal(*shape)}


split = OpSpec(
    name="split",
    summary="Cuts an axis into parts of given sizes.",
    formula="y_i = x[s_i : s_i + sizes_i] along axis, s_i = sizes_0 + ... + sizes_(i-1)",
    source="the merged projections of a decoder, taken apart again",
    inputs=(Input("x", "*B N"),),
    attributes=(
        Attribute("sizes", REQUIRED, sizes_tuple(0), "a size for each part; they sum to the axis"),
        Attribute("axis", -1, integer(), "the axis that is cut"),
    ),
    outputs=(Output("parts", "...parts", may_view=True),),
    reference=_split_reference,
    check=_split_check,
    flops=_nothing,
    bytes=_nothing,
    tolerance=0.0,
    notes=("Gives a tuple, of one part too. Parts may be views of x.",),
    cases=(
        Case("6,3+3", _x(6), {"sizes": (3, 3)}),
        Case("2x7,2+4+1", _x(2, 7), {"sizes": (2, 4, 1)}),
        Case("2x3x4,4", _x(2, 3, 4), {"sizes": (4,)}),
        Case("2x4,0+4", _x(2, 4), {"sizes": (0, 4)}, decision=20),
        Case("0x4,1+3", _x(0, 4), {"sizes": (1, 3)}, decision=20),
        Case("3x0,0", _x(3, 0), {"sizes": (0,)}, decision=20),
        Case("2x5x4,3+2,axis-2", _x(2, 5, 4), {"sizes": (3, 2), "axis": -2}),
        Case("3x4,1+2,axis0", _x(3, 4), {"sizes": (1, 2), "axis": 0}),
        Case("33x65,32+33", _x(33, 65), {"sizes": (32, 33)}, tier="full"),
        Case("decode:1x3072,1536+1536", _x(1, 3072), {"sizes": (1536, 1536)}, tier="bench"),
        Case("prefill:128x3072,1536+1536", _x(128, 3072), {"sizes": (1536, 1536)}, tier="bench"),
    ),
    more_cases="tinyllm.catalogue.cases.views:split",
    bad_inputs=(
        BadInput(
            "sum differs", _x(2, 7), {"sizes": (3, 3)}, InvalidInputError, "split: sizes: expected sizes that sum to 7"
        ),
        BadInput(
            "axis out of range",
            _x(2, 7),
            {"sizes": (2,), "axis": 2},
            InvalidInputError,
            "split: axis: expected an axis",
        ),
        BadInput("no sizes given", _x(2, 7), {}, InvalidInputError, "split: sizes must be given"),
        BadInput("empty", _x(2, 0), {"sizes": ()}, InvalidInputError, "split: sizes: expected a tuple of integers"),
        BadInput(
            "a list", _x(2, 7), {"sizes": [3, 4]}, InvalidInputError, "split: sizes: expected a tuple of integers"
        ),
        BadInput(
            "negative",
            _x(2, 7),
            {"sizes": (8, -1)},
            InvalidInputError,
            "split: sizes: expected a tuple of integers of at least 0",
        ),
        BadInput(
            "floats", _x(2, 7), {"sizes": (3.0, 4.0)}, InvalidInputError, "split: sizes: expected a tuple of integers"
        ),
    ),
)

split_heads = OpSpec(
    name="split_heads",
    summary="Folds the last axis into heads, and cuts the heads into groups (queries, keys, values).",
    formula="y_i = x.reshape(*B, H, D)[..., s_i : s_i + heads_i, :], H = sum(heads), D = N/H",
    source="Vaswani et al. 2017, arXiv:1706.03762",
    inputs=(Input("x", "*B N"),),
    attributes=(Attribute("heads", REQUIRED, sizes_tuple(1), "heads of each group; all have one size"),),
    outputs=(Output("parts", "...parts", may_view=True),),
    reference=_split_heads_reference,
    check=_split_heads_check,
    flops=_nothing,
    bytes=_nothing,
    tolerance=0.0,
    notes=("Gives a tuple, of one group too. Groups may be views of x.",),
    cases=(
        Case("8,2", _x(8), {"heads": (2,)}),
        Case("2x12,2+1", _x(2, 12), {"heads": (2, 1)}),
        Case("2x3x20,3+1+1", _x(2, 3, 20), {"heads": (3, 1, 1)}),
        Case("0x8,2+2", _x(0, 8), {"heads": (2, 2)}, decision=20),
        Case("3x0,2+1", _x(3, 0), {"heads": (2, 1)}, decision=20),
        Case("33x65,9+2+2", _x(33, 65), {"heads": (9, 2, 2)}, tier="full"),
        Case("decode:1x960,9+3+3", _x(1, 960), {"heads": (9, 3, 3)}, tier="bench"),
        Case("prefill:128x960,9+3+3", _x(128, 960), {"heads": (9, 3, 3)}, tier="bench"),
    ),
    more_cases="tinyllm.catalogue.cases.views:split_heads",
    bad_inputs=(
        BadInput(
            "does not divide",
            _x(2, 7),
            {"heads": (2, 1)},
            InvalidInputError,
            "split_heads: heads: expected heads that divide",
        ),
        BadInput(
            "a number", _x(2, 8), {"heads": 2}, InvalidInputError, "split_heads: heads: expected a tuple of integers"
        ),
        BadInput(
            "no heads",
            _x(2, 8),
            {"heads": (2, 0)},
            InvalidInputError,
            "heads: expected a tuple of integers of at least 1",
        ),
        BadInput(
            "True", _x(2, 8), {"heads": (True,)}, InvalidInputError, "split_heads: heads: expected a tuple of integers"
        ),
    ),
)

merge_heads = OpSpec(
    name="merge_heads",
    summary="Unfolds heads into one axis, as the output projection of attention wants them.",
    formula="y = x.reshape(*B, H * D)",
    source="Vaswani et al. 2017, arXiv:1706.03762",
    inputs=(Input("x", "*B H D"),),
    outputs=(Output("y", "*B N", may_view=True),),
    reference=_merge_heads_reference,
    check=lambda call: {"N": prod(call.shape("x")[-2:])},
    flops=_nothing,
    bytes=_nothing,
    tolerance=0.0,
    notes=("y may be a view of x.",),
    cases=(
        Case("2x3", _x(2, 3)),
        Case("4x2x3", _x(4, 2, 3)),
        Case("2x3x1x5", _x(2, 3, 1, 5)),
        Case("0x2x3", _x(0, 2, 3), decision=20),
        Case("3x2x0", _x(3, 2, 0), decision=20),
        Case("33x5x13", _x(33, 5, 13), tier="full"),
        Case("decode:1x9x64", _x(1, 9, 64), tier="bench"),
        Case("prefill:128x9x64", _x(128, 9, 64), tier="bench"),
    ),
    more_cases="tinyllm.catalogue.cases.views:merge_heads",
    bad_inputs=(
        BadInput("1-d", _x(6), {}, InvalidInputError, "merge_heads: x: expected shape"),
        BadInput(
            "integers", {"x": integers(0, 9, 2, 3)}, {}, InvalidInputError, "merge_heads: x: expected a float dtype"
        ),
    ),
)
