"""`tinyllm diff`: one prompt through two programs of a model, node by node."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tinyllm.cli import diff_options, options
from tinyllm.cli.diff_options import TRANSFORMERS
from tinyllm.cli.output import note, print_json
from tinyllm.errors import invalid

if TYPE_CHECKING:
    from tinyllm.conformance.compared_model import ComparedModel
    from tinyllm.conformance.model_diff import Reference


def diff(
    model: diff_options.Model = None,
    backend: options.BackendName = None,
    against: Annotated[
        str | None,
        typer.Option(
            "--against",
            metavar="WHAT",
            help="A backend, transformers, or a file that --save wrote.",
            show_default=False,
        ),
    ] = None,
    save: Annotated[
        Path | None,
        typer.Option("--save", metavar="FILE", show_default=False, help="Write what all nodes give, to compare with."),
    ] = None,
    prompt: diff_options.Prompt = None,
    tokens: diff_options.Tokens = None,
    decode: diff_options.Decode = None,
    random: diff_options.Random = False,
    nodes: diff_options.Nodes = "",
    case: Annotated[
        Path, typer.Option("--case", metavar="FILE", help="Where the call of a wrong node is written.")
    ] = Path("wrong-node.safetensors"),
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE", show_default=False, help="Draw the differences: .svg or .png."),
    ] = None,
    dtype: options.Dtype = None,
    fast: options.Fast = None,
    kv_cache_dtype: options.KvCacheDtype = None,
    as_json: options.Json = False,
) -> None:
    """Run a prompt on two backends, and find the first node whose output is wrong.

    Each node is held to the float64 reference on the very inputs that it had, within the bounds of `tinyllm check`, so
    that what went wrong before it is not its fault. The call of the first that is wrong is written to a file, which
    `tinyllm check --case FILE` judges. How far the two have grown apart is shown by layer.

    Ends with code 0 if no node is wrong, 1 if one is.
    """
    from tinyllm.bench.plot_file import check_plot
    from tinyllm.cli.target import check_target

    if against is None and save is None:
        raise invalid("diff", "--against", "a backend, transformers, or a file that --save wrote", "nothing")
    if plot is not None:
        check_plot("diff", plot)
    for what, path in (("reference file", save), ("case file", case)):
        if path is not None:
            check_target(what, path)
    following = diff_options.decoded("diff", against, decode)
    if against == TRANSFORMERS and nodes:
        raise invalid("diff", "--nodes", "none beside --against transformers, whose layers are compared", repr(nodes))
    reference = _reference(against, prompt, tokens, decode, random)
    loaded = diff_options.open_model(
        model, backend, dtype or (reference.dtype if reference else None), fast, kv_cache_dtype
    )
    ids = reference.ids if reference else diff_options.token_ids("diff", loaded, prompt, tokens, following, random)
    following = reference.decode if reference else following
    wanted = diff_options.wanted_nodes("diff", loaded, nodes)
    ours = loaded.bind(loaded.registry.select(backend))
    if save is not None:
        from tinyllm.conformance.model_diff import reference_of, write_reference

        write_reference(save, reference_of(loaded, ours, ids, following))
        if as_json and against is None:
            print_json({"reference": str(save), "nodes": len(loaded.nodes), "tokens": len(ids)})
        else:
            note(f"{save}: what {len(loaded.nodes)} nodes give for {len(ids)} tokens")
    if against is None:
        return
    if against == TRANSFORMERS:
        from tinyllm.cli.diff_transformers import show_transformers

        wrong = show_transformers(loaded, ours, ids, plot, as_json)
    else:
        wrong = _nodes(loaded, ours, reference or against, ids, following, wanted, case, plot, as_json)
    if wrong:
        raise typer.Exit(1)


def _reference(
    against: str | None, prompt: str | None, tokens: int | None, decode: int | None, random: bool
) -> Reference | None:
    """The file that is named, read before a model is; it brings its own token ids."""
    from tinyllm.conformance.model_diff import read_reference
    from tinyllm.errors import UnknownNameError, suggest
    from tinyllm.registry.registry import default_registry
    from tinyllm.registry.selection import parse_selection

    if against is None or against == TRANSFORMERS:
        return None
    if Path(against).is_file() or "/" in against or against.endswith(".safetensors"):
        if random or any(given is not None for given in (prompt, tokens, decode)):
            raise invalid("diff", "--against", "no --prompt, --tokens, --decode or --random beside a file", against)
        return read_reference(Path(against))
    registry = default_registry()
    name = against.partition(":")[0]
    if "=" not in against and name not in registry.plugins.backends:
        known = [*sorted(registry.plugins.backends), TRANSFORMERS]
        raise UnknownNameError(
            f"diff: --against: expected one of {', '.join(known)} or a file, got {against!r}.{suggest(name, known)}"
        )
    registry.check(parse_selection(against, "diff: --against"))
    return None


def _nodes(
    loaded: ComparedModel,
    ours: Any,
    against: Reference | str,
    ids: list[int],
    decode: int,
    wanted: Any,
    case: Path,
    plot: Path | None,
    as_json: bool,
) -> bool:
    """Compare node by node; whether one is wrong."""
    from tinyllm.cli.diff_output import as_data, progress, show
    from tinyllm.conformance.compared_model import make_steps
    from tinyllm.conformance.model_diff import called, diff_programs
    from tinyllm.conformance.node_case import write_case

    theirs = loaded.bind(loaded.registry.select(against)) if isinstance(against, str) else against
    steps = make_steps(ids, decode)
    sides = 2 if isinstance(against, str) else 1
    total = sides * len(steps) * sum(wanted(node.name) for node in called(ours))
    with progress(total) as told:
        result = diff_programs(loaded, ours, theirs, steps, wanted, told)
    kept = next((guilty.case for guilty in result.guilty[:1]), None)
    if kept is not None:
        write_case(case, kept)
    if plot is not None:
        from tinyllm.bench.diff_plot import draw_nodes

        draw_nodes(result, plot)
    if as_json:
        print_json(as_data(result, len(ids), decode, case))
    else:
        show(result, len(ids), decode, case)
    return bool(result.guilty)
