"""Writes docs/ops.md from the op specs: `python -m tinyllm.catalogue.docs docs/ops.md`."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

from tinyllm.catalogue import CATALOGUE
from tinyllm.spec.op_spec import OpSpec

HEAD = """# The ops

Made from the specs in `tinyllm/catalogue/`; do not edit (`make docs` writes it anew).

`*B` stands for any number of leading axes, also none; groups of one name broadcast. T is one float dtype, shared by
all inputs that are marked so. 16-bit inputs are accumulated in float32 and rounded once. Zero-length axes give the
empty or zero result of the formula. Where libraries disagree, [decisions.md](decisions.md) says what holds here.
"""


def page() -> str:
    """The whole page."""
    index = "\n".join(f"- [{name}](#{name}): {spec.summary}" for name, spec in sorted(CATALOGUE.items()))
    return "\n".join([HEAD, index, "", *(section(CATALOGUE[name]) for name in sorted(CATALOGUE))])


def section(spec: OpSpec) -> str:
    """One op: signature, formula, arguments, notes, source, and the decisions that its cases and bad inputs show."""
    lines = [
        f"## {spec.name}",
        "",
        spec.summary,
        "",
        "```python",
        f"{spec.name}{spec.signature}",
        "```",
        "",
        f"`{spec.formula}`",
        "",
    ]
    rows = [
        (i.name, f"`{i.kind}` `[{i.shape}]`" + (", may be left out" if i.optional else ""), i.about)
        for i in spec.inputs
    ]
    rows += [
        (a.name, "required" if a.default is inspect.Parameter.empty else f"default `{a.default!r}`", a.about)
        for a in spec.attributes
    ]
    rows += [(f"→ {o.name}", f"`{o.dtype}` `[{o.shape}]`", "") for o in spec.outputs]
    lines += ["| argument | | |", "|---|---|---|", *(f"| {a} | {b} | {c} |".replace("\n", " ") for a, b, c in rows), ""]
    if spec.consumes:
        lines += [f"Consumes (may overwrite): {', '.join(spec.consumes)}.", ""]
    lines += [f"- {note}" for note in spec.notes]
    lines += [f"- Not `{name}`: {instead}." for name, instead in spec.refused.items()]
    lines += ["", f"Source: {spec.source}.", ""]
    links = [f"[{number}](decisions.md#{number})" for number in decisions(spec)]
    if links:
        lines += [f"Decisions that its cases show: {', '.join(links)}.", ""]
    return "\n".join(lines)


def decisions(spec: OpSpec) -> list[int]:
    """Numbers of the decisions in docs/decisions.md that the cases and bad inputs of an op show, in order."""
    numbers = {case.decision for case in spec.all_cases} | {bad.decision for bad in spec.bad_inputs}
    return sorted(number for number in numbers if number is not None)


def write(text: str) -> None:
    """Write a page to the file named on the command line, or to standard output."""
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    write(page())
