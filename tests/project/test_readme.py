"""What README.md shows is so: the tree, and the code that needs no model."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_tree_has_a_line_for_every_folder() -> None:
    """Each package of the core, below the one that it lies in, and the folders beside the core."""
    tree = re.findall(r"^```\n(tinyllm/ .*?)^```$", README, re.MULTILINE | re.DOTALL)[0]
    shown: list[Path] = []
    for indent, name in re.findall(r"^( *)(\w+)/ +\S", tree, re.MULTILINE):
        above = [path for path in shown if len(path.parts) == len(indent) // 2]
        shown.append(above[-1] / name if above else Path(name))
    assert len(shown) == len(tree.splitlines()) == len({*shown})
    core = {path.parent.relative_to(ROOT) for path in (ROOT / "tinyllm").rglob("__init__.py")}
    assert core | {Path(name) for name in ("backends", "examples", "tests", "docs")} == {*shown}


def test_quantized_weights_are_made_by_hand_in_three_lines() -> None:
    """The weight that is put together and the one that is made from floats give the products of what they stand for."""
    code = next(block for block in re.findall(r"^```python\n(.*?)^```$", README, re.M | re.S) if "QuantWeight" in block)
    assert len([line for line in code.splitlines() if line and "import" not in line]) == 3
    rng = np.random.default_rng(0)
    integers = rng.integers(0, 16, (64, 128), dtype=np.uint32)
    integers[:, ::32], integers[:, 31::32] = 0, 15  # each group has the ends of its scale, so that it is found again
    groups = rng.standard_normal((2, 64, 4), dtype=np.float32)
    names: dict[str, Any] = {
        "q": (integers.reshape(64, 16, 8) << np.arange(0, 32, 4, dtype=np.uint32)).sum(axis=-1, dtype=np.uint32),
        "scales": np.abs(groups[0]),
        "biases": groups[1],
        "x": rng.standard_normal((3, 128), dtype=np.float32),
    }
    names["w"] = integers * np.repeat(names["scales"], 32, axis=1) + np.repeat(names["biases"], 32, axis=1)
    exec(code, names)
    for product in (names["y"], names["same"]):
        np.testing.assert_allclose(product, names["x"] @ names["w"].T, rtol=1e-4, atol=1e-2)
