"""`tinyllm graph`: a model's graph, as a table, a drawing, a page or JSON."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from tinyllm.cli import options
from tinyllm.errors import InvalidInputError, TinyllmError, invalid

if TYPE_CHECKING:
    from tinyllm.graph.graph import Graph
    from tinyllm.graph.tools.cards import Card, Facts
    from tinyllm.graph.tools.fold import Folded


class StepName(StrEnum):
    """The steps that a trace has."""

    PREFILL = "prefill"
    DECODE = "decode"


class _Opened(NamedTuple):
    """A graph, what is known of it beside, and a line about it."""

    graph: Graph
    facts: Facts
    about: str


def graph(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            autocompletion=options.model_names,
            show_default="smollm2",
            help="Folder, .gguf file, hub id or known name; of a folder its config.json is enough.",
        ),
    ] = None,
    svg: Annotated[Path | None, typer.Option("--svg", metavar="FILE", help="Draw it into this file.")] = None,
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Write a page: the drawing with details, and a table."),
    ] = None,
    unfold: Annotated[bool, typer.Option("--unfold", help="Show every block, and not equal ones once.")] = False,
    trace: Annotated[
        Path | None,
        typer.Option("--trace", metavar="FILE", help="Show shares of the time; FILE is of tinyllm trace --json."),
    ] = None,
    step: Annotated[StepName, typer.Option("--step", help="Of which step --trace shows them.")] = StepName.PREFILL,
    backend: options.BackendName = None,
    dtype: options.Dtype = None,
    fast: options.Fast = None,
    kv_cache_dtype: options.KvCacheDtype = None,
    as_json: options.Json = False,
) -> None:
    """Show the graph of a model: its ops, the shapes between them, and what each is bound to.

    Equal layers are shown once, with how often they come and which they are. No weight is loaded: kernels are chosen by
    how weights are stored. Of a config.json alone the graph is shown as the model states it, without kernels, and
    before calls are merged, which goes by how weights are stored, too.
    """
    from tinyllm.cli.output import print_json
    from tinyllm.cli.session import model_name
    from tinyllm.graph.tools.cards import cards
    from tinyllm.graph.tools.fold import fold
    from tinyllm.graph.tools.graph_data import as_data
    from tinyllm.registry.registry import default_registry

    for option, path, suffix in (("--svg", svg, ".svg"), ("--html", html, ".html")):
        _check_target(option, path, suffix)
    opened = _open(model_name(model), backend, dtype, fast, kv_cache_dtype)
    facts = opened.facts if trace is None else _traced(opened, trace, step)
    folded = fold(opened.graph, equal=not unfold)
    shown = cards(folded, default_registry().specs, facts)
    title = Path(model_name(model)).name
    if svg is not None or html is not None:
        _draw(folded, shown, title, opened.about, facts.step, svg, html)
    if as_json:
        print_json({"model": title, "about": opened.about, "step": facts.step or None, **as_data(folded, shown)})
    elif svg is None and html is None:
        _print(folded, shown, title, opened.about)


def _open(name: str, backend: str | None, dtype: str | None, fast: bool | None, kv_cache_dtype: str | None) -> _Opened:
    from tinyllm.cli.output import download_bar, note
    from tinyllm.graph.bind import choose
    from tinyllm.graph.tools.cards import Facts
    from tinyllm.models.download.sources import resolve
    from tinyllm.models.families.families import FAMILIES
    from tinyllm.models.model_graph import model_graph
    from tinyllm.models.open_model import has_weights, open_config, open_model
    from tinyllm.registry.registry import default_registry

    registry = default_registry()
    selection = registry.select(backend)
    main = registry.backend(selection.default or registry.best())
    with download_bar(f"fetching {name}") as report:
        path = resolve(name, progress=report)
    families = (*FAMILIES, *registry.plugins.families)
    settings = (registry, selection, dtype, fast, kv_cache_dtype)
    if not has_weights(path):
        config = open_config(path, families)
        note(f"{path}: no weights are there: the graph as the model states it, without kernels")
        return _Opened(model_graph(config, *settings), Facts(), f"{config.family}, {config.num_layers} layers")
    opened = open_model(path, families)
    config, stated = opened.config, model_graph(opened.config, *settings)
    weights = opened.weights(stated.tensors())
    weights.check()
    merged, bound = choose(stated, registry, selection, weights, fast=fast)
    kernels = {node: kernel.choice.id for node, kernel in bound.items()}
    stored = {name: _stored(weights.info(weight.tensors[0]).type) for name, weight in merged.weights.items()}
    about = f"{config.family}, {config.num_layers} layers, {merged.dtype}, {main.name}:{main.device}"
    return _Opened(merged, Facts(kernels, stored), about)


def _stored(kind: Any) -> str:
    """How a weight's numbers lie in the file: a scheme or a dtype."""
    from tinyllm.spec.scheme import QuantType

    return str(kind.scheme) if isinstance(kind, QuantType) else kind.dtype


def _traced(opened: _Opened, path: Path, step: StepName) -> Facts:
    from dataclasses import replace

    from tinyllm.graph.tools.trace_file import read_trace

    if not opened.facts.kernels:
        raise InvalidInputError("--trace: expected a model with its weights, got a config.json alone")
    name, seconds = read_trace(path, step.value, opened.graph, opened.facts.kernels)
    return replace(opened.facts, seconds=seconds, step=name)


def _check_target(option: str, path: Path | None, suffix: str) -> None:
    if path is None:
        return
    if path.suffix.lower() != suffix:
        raise invalid("graph", option, f"a file that ends in {suffix}", path)
    if not path.parent.is_dir():
        raise invalid("graph", option, "a file in a folder that exists", path)


def _draw(
    folded: Folded, shown: dict[str, Card], title: str, about: str, step: str, svg: Path | None, html: Path | None
) -> None:
    from tinyllm.cli.output import note
    from tinyllm.graph.tools import picture_page
    from tinyllm.graph.tools.graph_data import rows
    from tinyllm.graph.tools.picture import picture
    from tinyllm.graph.tools.picture_svg import Caption
    from tinyllm.graph.tools.picture_svg import svg as drawn

    caption = Caption(title, about, step)
    text = drawn(picture(folded, shown), caption)
    files = {svg: text} if svg is not None else {}
    if html is not None:
        files[html] = picture_page.html(text, caption, rows(folded, shown))
    for path, content in files.items():
        try:
            path.write_text(content, encoding="utf-8")
        except OSError as error:
            raise TinyllmError(f"{path}: cannot be written: {error.strerror}") from error
        note(f"wrote {path}")


def _print(folded: Folded, shown: dict[str, Card], title: str, about: str) -> None:
    """Part by part as a tree on a terminal; into a pipe as a table."""
    import sys

    from tinyllm.cli.output import note, print_table
    from tinyllm.graph.tools.graph_data import COLUMNS, rows

    found = rows(folded, shown)
    if sys.stdout.isatty():
        _print_tree(found)
    else:
        columns = [name for name in COLUMNS if any(row[name] for row in found)]
        print_table(columns, [[row[name] for name in columns] for row in found])
    total = len(folded.graph.nodes)
    note(f"{title}: {about}; {total} nodes" + (f", shown as {len(found)}" if len(found) < total else ""))


def _print_tree(rows: list[dict[str, Any]]) -> None:
    """A line for each node. What it reads is said where that is not the node above it alone."""
    from itertools import groupby

    from rich.text import Text
    from rich.tree import Tree

    from tinyllm.cli.output import plain_console

    console = plain_console()
    for part, group in groupby(rows, key=lambda row: row["part"]):
        nodes = list(group)
        tree = Tree(Text(part, "bold cyan"), hide_root=not part, guide_style="dim")
        ops = max(len(row["op"]) for row in nodes)
        above = "in"
        for row in nodes:
            line = Text.assemble((f"{row['op']:<{ops}}  ", "bold"), (row["node"], "dim"), f"  {row['gives']}")
            if row["reads"] not in ("", above):
                line.append(f"  < {row['reads']}", "dim")
            for name, style in (("share", "red"), ("kernel", "green"), ("with", "yellow"), ("attributes", "magenta")):
                line.append(f"  {row[name]}" if row[name] else "", style)
            tree.add(line)
            above = row["node"]
        console.print(tree)
