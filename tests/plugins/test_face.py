"""`tinyllm.plugins` is the one face that plugin authors import: its names, and that plugins need no other module."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_origin

import pytest

import tinyllm
from tests.project.sources import ROOT, imports
from tinyllm import plugins

NAMES = (
    "ANY_SCHEME",
    "DENSE",
    "EVERY_CPU",
    "GGUF_NAMES",
    "REQUIRED",
    "SPEC_VERSION",
    "WORD",
    "Affine",
    "ArrayType",
    "AttentionConfig",
    "Attribute",
    "Backend",
    "BackendPlugin",
    "BackendUnavailableError",
    "BadInput",
    "BoundNode",
    "Call",
    "Case",
    "CheckpointError",
    "Command",
    "Communicator",
    "ConfigFields",
    "Declaration",
    "DecoderConfig",
    "Draw",
    "ExpectedFailure",
    "Family",
    "ForkGuard",
    "Fp4",
    "Fp8",
    "GatedDeltaConfig",
    "GgufFields",
    "GgufForm",
    "Input",
    "Int8",
    "InvalidInputError",
    "Kernel",
    "LayerConfig",
    "LayerInputConfig",
    "MeetingPlace",
    "MlpConfig",
    "ModelGoneError",
    "MoeConfig",
    "Network",
    "Nf4",
    "NormConfig",
    "OpSpec",
    "Oracle",
    "Output",
    "Part",
    "Probe",
    "QuantType",
    "QuantWeight",
    "Rope",
    "RopeConfig",
    "RopeScaling",
    "RoundedSteps",
    "Run",
    "Scheme",
    "ShortConvConfig",
    "Supports",
    "TensorRule",
    "Unrepeatable",
    "UnsupportedError",
    "Widened",
    "ZeroPoint",
    "attention_factor",
    "config_of_gguf",
    "frequencies_by_length",
    "growth_exponents",
    "hookimpl",
    "interleaved_pairs",
    "invalid",
    "inverse_frequencies",
    "named_experts",
    "neighbours",
    "numpy_dtype",
    "pack",
    "per_column",
    "runs",
    "sequences",
    "unpack",
)
"""All that a backend, a kernel, an op, a family, a command or a declaration is made of."""

PUBLIC = ("tinyllm.errors", "tinyllm.plugins", *(f"tinyllm.{name}" for name in tinyllm.__all__))
"""What a plugin may import of tinyllm: two modules, and the names of the package itself."""
KIT = "tinyllm.conformance"
"""What the tests of a plugin may import as well, with the modules in it."""
DEEP = (
    ("backends/tinyllm_torch/custom_ops.py", "tinyllm.registry.registry"),
    ("backends/tinyllm_torch/custom_ops.py", "tinyllm.spec.op_spec"),
    ("backends/tinyllm_torch/custom_ops.py", "tinyllm.spec.types"),
    ("backends/tinyllm_torch/custom_ops.py", "tinyllm.spec.validation"),
    ("backends/tinyllm_torch/oracle/answers.py", "tinyllm.conformance.example"),
    ("backends/tinyllm_torch/oracle/answers.py", "tinyllm.conformance.oracles.mapped"),
    ("backends/tinyllm_torch/oracle/moe.py", "tinyllm.conformance.example"),
    ("backends/tinyllm_torch/oracle/rows.py", "tinyllm.conformance.example"),
)
"""Imports of deeper modules that are still there. The aim is that this is empty: what stands here is missing from the
face, or does not belong into the backend."""


def plugin_sources() -> Iterator[tuple[str, str]]:
    """Places and texts of code that is written as a plugin author writes it: packages, templates, and documents."""
    template = ROOT / "tinyllm" / "cli" / "new_backend" / "template"
    folders = (ROOT / "backends", ROOT / "examples", Path(__file__).parent / "packages")
    for path in sorted(p for folder in folders for p in folder.rglob("*.py")):
        yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")
    for path in sorted(template.rglob("*.py.in")):
        yield path.relative_to(ROOT).as_posix(), re.sub("@([A-Z]+)@", r"\1", path.read_text(encoding="utf-8"))
    for name in ("docs/plugins.md", "docs/write-a-backend.md", "README.md"):
        document = (ROOT / name).read_text(encoding="utf-8")
        blocks = re.findall(r"^```python.*\n((?:.*\n)*?)```$", document, re.MULTILINE)
        added = re.findall(r"^\+((?:from|import) .*\n)", document, re.MULTILINE)
        yield name, "".join([*blocks, *added])


PLUGIN_SOURCES = dict(plugin_sources())


def _deep(place: str) -> set[tuple[str, str]]:
    """The modules of tinyllm that a place imports and that are not public."""
    modules = {
        f"tinyllm.{found.name}" if found.module == "tinyllm" else found.module
        for found in imports(PLUGIN_SOURCES[place])
        if f"{found.module}.".startswith("tinyllm.")
    }
    allowed = (*PUBLIC, KIT) if "/tests/" in place else PUBLIC
    return {(place, m) for m in modules if m not in allowed and not (KIT in allowed and m.startswith(f"{KIT}."))}


def test_the_face_has_these_names_and_no_other() -> None:
    """A name that comes, goes or is renamed is a change of the contract: it is made here as well."""
    assert sorted(plugins.__all__) == sorted(NAMES)
    assert [name for name in NAMES if not hasattr(plugins, name)] == []


@pytest.mark.parametrize("name", NAMES)
def test_a_name_says_what_it_is(name: str) -> None:
    """By a docstring of its own; constants (in capitals) and type aliases say it by their value."""
    value = getattr(plugins, name)
    if name.isupper() or get_origin(value) is not None:
        return
    text = inspect.getdoc(value) or ""
    assert text and not text.startswith(f"{name}("), "a dataclass without a docstring gets its signature as one"


@pytest.mark.parametrize("place", PLUGIN_SOURCES)
def test_plugins_import_the_face_alone(place: str) -> None:
    assert _deep(place) <= {*DEEP}


def test_no_exception_is_left_over() -> None:
    """An import that is gone goes from `DEEP` as well."""
    assert {*DEEP} - {pair for place in PLUGIN_SOURCES for pair in _deep(place)} == set()
