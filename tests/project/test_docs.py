"""Documents that are derived from code are current, and those that name things name things that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conformance.zoo import MUTANTS
from tinyllm.catalogue import CATALOGUE
from tinyllm.catalogue.docs import decisions, page
from tinyllm.models.families import docs as families
from tinyllm.models.families.families import FAMILIES

ROOT = Path(__file__).parents[2]
CODE = ("tinyllm", "backends", "tests", "examples")


def _entries() -> dict[int, str]:
    """The decisions in docs/decisions.md: the text of each by its number, which is also its anchor."""
    text = (ROOT / "docs" / "decisions.md").read_text(encoding="utf-8")
    _, *parts = re.split(r'^### <a id="(\d+)"></a>\1\. ', text, flags=re.MULTILINE)
    return {int(number): entry for number, entry in zip(parts[::2], parts[1::2], strict=True)}


def test_the_ops_page_is_current() -> None:
    """`make docs` would change nothing."""
    assert (ROOT / "docs" / "ops.md").read_text(encoding="utf-8") == page(), "docs/ops.md is stale: run make docs"


def test_the_families_page_is_current() -> None:
    """`make docs` would change nothing, and every family says what it is."""
    text = (ROOT / "docs" / "families.md").read_text(encoding="utf-8")
    assert text == families.page(), "docs/families.md is stale: run make docs"
    assert [family.name for family in FAMILIES if not family.about.endswith(".")] == []


def test_every_op_says_what_it_means() -> None:
    """Summary, formula, source, and a section in the page."""
    text = page()
    for name, spec in CATALOGUE.items():
        assert f"\n## {name}\n" in text
        assert spec.summary.endswith(".") and spec.formula and spec.source


def _anchors(document: Path) -> set[str]:
    """The anchors of a document: its headings as GitHub names them, and those that it sets."""
    text = document.read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S), re.MULTILINE)
    named = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return named | {*re.findall(r'<a id="([^"]+)">', text)}


def test_links_lead_somewhere() -> None:
    """Relative links of the documents are files, and what follows a # is an anchor there."""
    for document in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")):
        for path, anchor in re.findall(r"\]\(([^)#:]*)#?([^):]*)\)", document.read_text(encoding="utf-8")):
            target = document.parent / path if path else document
            assert target.exists(), f"{document.name}: {path}"
            assert not anchor or anchor in _anchors(target), f"{document.name}: {path}#{anchor}"


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
        from tinyllm.conformance.oracles.onnx import RUN, judged

        runs = [entry.how == RUN for entry, _ in judged()]
        assert f"Of {len(runs)}, {sum(runs)} run" in text


def test_decisions_are_numbered_from_1_with_an_anchor_each() -> None:
    assert list(_entries()) == list(range(1, len(_entries()) + 1))
    assert len(re.findall(r"^### ", (ROOT / "docs" / "decisions.md").read_text(), re.MULTILINE)) == len(_entries())


def test_every_decision_named_is_there() -> None:
    """By a case or bad input of an op, in the code (`decision=6`, "decision 6"), or by a link of a document."""
    named = {f"the op {name}": {*decisions(spec)} for name, spec in CATALOGUE.items()}
    sources = [path for folder in CODE for path in (ROOT / folder).rglob("*.py")]
    for path in (*sources, *ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")):
        numbers = re.findall(r"\bdecisions?(?:\.md#| ?= ?| )(\d+)\b", path.read_text(encoding="utf-8"))
        named[str(path.relative_to(ROOT))] = {int(number) for number in numbers}
    assert named["docs/ops.md"] and named["tinyllm/catalogue/attention/gqa.py"]
    assert {where: numbers - _entries().keys() for where, numbers in named.items() if numbers - _entries().keys()} == {}


def test_every_decision_is_shown() -> None:
    """By a case or bad input of some op, or by the test that its entry names."""
    shown = {number for spec in CATALOGUE.values() for number in decisions(spec)}
    for number, entry in _entries().items():
        tests = re.findall(r"`(tests/\S+\.py)`", entry)
        assert number in shown or tests, f"decision {number}: no case shows it, and it names no test"
        assert all((ROOT / test).exists() for test in tests)
