"""docs/schemes.md is made from the schemes, and what it says is so."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from tinyllm.catalogue.schemes import SCHEMES
from tinyllm.catalogue.schemes.docs import page, section

ROOT = Path(__file__).parents[2]


def test_the_page_is_current() -> None:
    """`make docs` would change nothing."""
    assert (ROOT / "docs" / "schemes.md").read_text(encoding="utf-8") == page(), (
        "docs/schemes.md is stale: run make docs"
    )


def test_every_scheme_is_there() -> None:
    text = page()
    for name, scheme in SCHEMES.items():
        assert f"\n## {name}\n" in text and f"\n| [{name}](#{name}) |" in text
        assert f"`{scheme.formula}`" in text and f"Source: {scheme.source}." in text


@pytest.mark.parametrize("name", SCHEMES)
def test_arrays_have_the_dtypes_and_shapes_of_the_page(name: str) -> None:
    """The sizes, worked out for one weight."""
    scheme = SCHEMES[name]
    rows, columns = 5, 32 * scheme.block
    table = re.findall(r"^\| `(\w+)`(.*) \| (.+) \| `\[(.+)\]` \|$", section(scheme), re.MULTILINE)
    weight = scheme.draw(np.random.default_rng(0), (rows, columns))
    assert {array for array, optional, _, _ in table if not optional} == weight.arrays.keys()
    assert [array for array, *_ in table] == list(scheme.parts((rows, columns)))
    for array, _, dtypes, sizes in table:
        if array in weight.arrays:
            assert weight.arrays[array].dtype.name in dtypes.split(" or ")
            shape = eval(f"({sizes},)", {"N": rows, "K": columns})
            assert weight.arrays[array].shape == shape, array
