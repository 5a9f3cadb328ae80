"""The rooms of tinyllm/ have an order: a module imports from its own room and from those below it, and nothing goes in
circles."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

import pytest

from tests.project.sources import ROOT, imports, module_sources

SOURCES = module_sources(ROOT / "tinyllm")
ORDER = (
    "tinyllm.errors",
    "tinyllm.settings",
    "tinyllm.spec",
    "tinyllm.catalogue",
    "tinyllm.models.checkpoints.files",
    "tinyllm.models.checkpoints.gguf_header",
    "tinyllm.models.checkpoints.gguf",
    "tinyllm.models.decoder.config",
    "tinyllm.models.families",
    "tinyllm.plugins",
    "tinyllm.registry",
    "tinyllm.ops",
    "tinyllm.graph",
    "tinyllm.models",
    "tinyllm.parallel",
    "tinyllm.engine",
    "tinyllm.chat",
    "tinyllm.llm",
    "tinyllm.openai",
    "tinyllm.server",
    "tinyllm.batch",
    "tinyllm.scale",
    "tinyllm.definitions",
    "tinyllm.conformance",
    "tinyllm.bench",
    "tinyllm.cli",
    "tinyllm",
)
"""The rooms from the lowest to the highest. The longest name that a module's begins with is its room; `tinyllm` itself
is the package's `__init__` alone, whose names are those of rooms below."""


@dataclass(frozen=True)
class Arrow:
    """One module imports another in this line."""

    importer: str
    imported: str
    line: int

    def __str__(self) -> str:
        return f"{self.importer}, line {self.line}: imports {self.imported}"


def arrows(sources: Mapping[str, str]) -> Iterator[Arrow]:
    """Every import of one module by another. `__version__` is no module's business and may be had everywhere."""
    for importer, text in sources.items():
        for found in imports(text):
            submodule = f"{found.module}.{found.name}"
            imported = submodule if submodule in sources else found.module
            if imported in sources and imported != importer and submodule != "tinyllm.__version__":
                yield Arrow(importer, imported, found.line)


def room(module: str) -> str:
    """The room that a module stands in."""
    return max((name for name in ORDER if f"{module}.".startswith(f"{name}.")), key=len)


def upward(sources: Mapping[str, str]) -> list[str]:
    """The imports of a module in a higher room."""
    height = {name: number for number, name in enumerate(ORDER)}
    return [str(a) for a in arrows(sources) if height[room(a.imported)] > height[room(a.importer)]]


def circle(sources: Mapping[str, str]) -> list[str]:
    """Modules that import one another in a circle, the first one again at the end; empty where there is none."""
    graph: dict[str, set[str]] = {module: set() for module in sources}
    for arrow in arrows(sources):
        graph[arrow.importer].add(arrow.imported)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_every_module_stands_in_a_room() -> None:
    """A new folder is given its place in `ORDER`."""
    assert [module for module in SOURCES if room(module) == "tinyllm"] == ["tinyllm"]


def test_nothing_imports_upwards() -> None:
    """So there is no circle among rooms either."""
    found = upward(SOURCES)
    assert not found, "\n".join(found)


def test_no_modules_import_one_another_in_a_circle() -> None:
    found = circle(SOURCES)
    assert not found, " -> ".join(found)


def test_imports_are_absolute() -> None:
    """A relative import would go unseen here."""
    nodes = ((module, node) for module, text in SOURCES.items() for node in ast.walk(ast.parse(text)))
    assert [module for module, node in nodes if isinstance(node, ast.ImportFrom) and node.level] == []


@pytest.mark.parametrize(
    "text",
    [
        "import tinyllm.cli.app",
        "from tinyllm.cli import app",
        "from tinyllm.cli.app import app",
        "from tinyllm import load",
        "def late():\n    from tinyllm.cli.app import app",
        "if TYPE_CHECKING:\n    from tinyllm.cli.app import app",
    ],
)
def test_an_arrow_that_is_turned_round_is_seen(text: str) -> None:
    """In whichever form: `errors`, the lowest room, imports one that stands above it."""
    made = {"tinyllm": "", "tinyllm.errors": text, "tinyllm.cli": "", "tinyllm.cli.app": "import tinyllm.errors"}
    assert len(upward(made)) == 1 and circle(made | {"tinyllm.errors": ""}) == []


def test_a_circle_is_seen() -> None:
    made = {"tinyllm.cli.app": "import tinyllm.cli.chat", "tinyllm.cli.chat": "from tinyllm.cli.app import app"}
    assert {*circle(made)} == {*made} and upward(made) == [], "both stand in one room"
