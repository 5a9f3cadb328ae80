"""Documents that are derived from code are current, and those that name things name things that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conformance.zoo import MUTANTS
from tinyllm.catalogue import CATALOGUE
from tinyllm.catalogue.docs import page

ROOT = Path(__file__).parents[2]


def test_the_ops_page_is_current() -> None:
    """`make docs` would change nothing."""
    assert (ROOT / "docs" / "ops.md").read_text(encoding="utf-8") == page(), "docs/ops.md is stale: run make docs"


def test_every_op_says_what_it_means() -> None:
    """Summary, formula, source, and a section in the page."""
    text = page()
    for name, spec in CATALOGUE.items():
        assert f"\n## {name}\n" in text
        assert spec.summary.endswith(".") and spec.formula and spec.source


def test_links_lead_somewhere() -> None:
    """Relative links of the documents are files."""
    for document in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_the_readme_names_make_targets_that_exist() -> None:
    """The commands of the README are those of the Makefile."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\w+)", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_kits_page_counts_right() -> None:
    """The zoo's size, how much of it `smoke` catches, and how many of ONNX's cases run."""
    text = (ROOT / "docs" / "conformance.md").read_text(encoding="utf-8")
    smoke = sum(m.tier == "smoke" for m in MUTANTS)
    assert f"keeps {len(MUTANTS)} wrong kernels" in text and f"catches all of them, {smoke} in the smoke tier" in text
    onnx = pytest.importorskip("onnx")
    if onnx.__version__.startswith("1.23."):
        from tinyllm.conformance.oracles.onnx import counts

        found, run = (sum(row[i] for row in counts().values()) for i in (0, 1))
        assert f"Of {found}, {run} run" in text
