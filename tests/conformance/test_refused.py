"""Outputs that are wrong in a way that kernels are: the cases of every op refuse them in every dtype."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.catalogue.harness import registry
from tinyllm.conformance.example import dtypes_of
from tinyllm.conformance.refused import WRONG, cases_of, row

PAGE = (Path(__file__).parents[2] / "docs" / "refused.md").read_text(encoding="utf-8")
LEFT = {
    ("mha", "large"): "scores so large that one key has all the weight, and rounding may choose another",
    ("mha", "positions far"): "angles of 131,071 radians, which float32 tells apart to 0.008",
    ("softmax", "300x3,axis0,rising"): "one weight is all, and the rest are below what 16 bits hold",
    ("softmax", "65537x1,axis0"): "a sum of 65,537 terms",
    ("sdpa", "H2,L5,S515,D88,scores at 1000,sinks,softcap50,window100"): "scores that the cap makes alike",
    ("silu", "33,small"): "half of a small number, by a sigmoid whose error is relative to 1",
}
"""Cases whose bound is wide for a reason: half precision passes."""
WIDE = {
    "subnormal": "what libraries flush to 0",
    "at -30000": "float32 keeps two digits of a score beside a mask of -30000",
    "S65537": "a sum of 65,537 terms",
}
"""The same for words in their ids."""


@pytest.mark.parametrize("op", list(registry().specs))
def test_wrong_outputs_are_refused(op: str) -> None:
    """And docs/refused.md says so: where it does not, run `make docs`."""
    spec = registry().spec(op)
    for dtype in dtypes_of(spec):
        found = row(spec, cases_of(spec), dtype)
        assert any(found.tried.values()) or op == "quantize"
        passed = {(wrong, case) for wrong in WRONG for case in found.passed[wrong]}
        wide = {(wrong, case) for wrong, case in passed if any(word in case for word in WIDE) or (op, case) in LEFT}
        assert passed - wide == set()
        assert not any(found.tried.values()) or f"| {op} | {dtype} | {found} |" in PAGE


@pytest.mark.parametrize("scheme", list(registry().plugins.schemes))
def test_wrong_outputs_are_refused_for_every_scheme(scheme: str) -> None:
    """But for half the precision in float16 and in a whole layer: blocks of random bits stand for numbers of any size,
    of which sums cancel and scores are large."""
    for spec in registry().specs.values():
        cases = [case for case in spec.cases_of(registry().plugins.schemes[scheme]) if case.tier == "smoke"]
        for dtype in dtypes_of(spec) if cases else ():
            found = row(spec, cases, dtype)
            for wrong, ids in found.passed.items():
                half_passes = wrong == "half precision" and (dtype == "float16" or spec.name == "mha")
                assert ids == [] or half_passes
