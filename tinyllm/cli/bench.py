"""`tinyllm bench`: ops, model, start."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from tinyllm.cli.output import note, print_json, print_table

app = typer.Typer(help="Measure speed: medians of several rounds, peers in the same run.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Rounds = Annotated[int, typer.Option(min=1, help="Rounds that count; medians are shown.")]
Backends = Annotated[str, typer.Option("--backends", "-b", help="Backends, comma-separated; default: all available.")]
Model = Annotated[str, typer.Option("--model", "-m", help="Folder, .gguf file, hub id or known name.")]


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """A line on a terminal's stderr that says what is being measured."""
    from rich.console import Console

    with Console(stderr=True).status("starting") as status:
        yield status.update


def _backends(named: str) -> list[str]:
    from tinyllm.registry import default_registry

    registry = default_registry()
    names = [n.strip() for n in named.split(",") if n.strip()] or [n for n in registry.plugins.backends if registry.probe(n).available]
    for name in names:
        registry.backend(name)
    return names


@app.command("ops")
def ops_command(
    ops: Annotated[str, typer.Option("--ops", help="Ops, comma-separated; default: all.")] = "",
    backends: Backends = "",
    rounds: Rounds = 7,
    as_json: Json = False,
) -> None:
    """Every op at decode and prefill shapes, with GB/s, GFLOP/s and the share of this machine's limit.

    Example: tinyllm bench ops --ops linear,sdpa --backends torch,mlx
    """
    from tinyllm.bench.ops import OpTiming, bench_ops
    from tinyllm.registry import default_registry

    registry = default_registry()
    names = [n.strip() for n in ops.split(",") if n.strip()] or sorted(registry.specs)
    with _progress() as step:
        found = list(bench_ops(registry, _backends(backends), names, rounds, step))
    timings = sorted((t for t in found if isinstance(t, OpTiming)), key=lambda t: (t.op, t.case, t.seconds))
    if as_json:
        print_json({"timings": [asdict(t) for t in timings], "not_run": [t for t in found if not isinstance(t, OpTiming)]})
        return
    rows = []
    for t in timings:
        figures = [f"{1e6 * t.seconds:.1f}", f"{1e6 * t.slowest:.1f}", f"{t.gb_s:.2f}", f"{t.gflop_s:.1f}", f"{t.limit:.0%}"]
        rows.append([f"{t.op} {t.case}", t.kernel, *figures])
    print_table(["op", "kernel", "median us", "slowest us", "GB/s", "GFLOP/s", "of limit"], rows)
    for row in found:
        if not isinstance(row, OpTiming):
            note(f"not run: {row[0]} {row[1]} on {row[2]}: {row[3]}")


@app.command("model")
def model_command(
    model: Model = "",
    backends: Backends = "",
    against: Annotated[str, typer.Option("--against", help="Peers on the same file: transformers,mlx-lm.")] = "",
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Length of the prompt.")] = 128,
    new_tokens: Annotated[int, typer.Option(min=1, help="Tokens to decode.")] = 64,
    rounds: Rounds = 5,
    fast: Annotated[bool, typer.Option("--fast/--no-fast", help="Also measure with kernels that round, and what they cost.")] = True,
    as_json: Json = False,
) -> None:
    """Prefill and decode tokens per second at batch 1, every contender in turn, round after round.

    Example: tinyllm bench model --against transformers,mlx-lm
    """
    from tinyllm.bench.contenders import peers_named
    from tinyllm.bench.model import measure, perplexity
    from tinyllm.models.sources import resolve
    from tinyllm.registry import default_registry

    peers = peers_named(against)
    path = Path(resolve(model or default_registry().settings["model"].value))
    names = _backends(backends)
    quick = [n for n in names if fast and any(not k.exact for k in default_registry().plugins.kernels if k.backend == n)]
    contenders = [c for n in names for c in [f"tinyllm:{n}", *([f"tinyllm:{n}:fast"] if n in quick else [])]] + peers
    prompt = [(7 * i) % 1000 + 100 for i in range(prompt_tokens)]
    with _progress() as step:
        results = measure(contenders, path, prompt, new_tokens, rounds, step)
        cost: dict[str, tuple[float, float]] = {}
        for name in quick:
            step(f"perplexity on {name}")
            cost[name] = perplexity(path, name, False), perplexity(path, name, True)
    rows = [r.row() for r in results]
    if as_json:
        print_json(
            {"model": str(path), "prompt_tokens": prompt_tokens, "new_tokens": new_tokens, "rounds": rounds, "results": rows}
            | {"perplexity": {name: {"exact": exact, "fast": rounded} for name, (exact, rounded) in cost.items()}}
        )
        return
    note(f"{path.name}: prompt {prompt_tokens}, {new_tokens} tokens decoded, batch 1, median of {rounds} rounds")
    print_table(["contender", "prefill tok/s", "range", "decode tok/s", "range"], [_speeds(r) for r in rows if "error" not in r])
    for row in rows:
        if "error" in row:
            note(f"did not run: {row['contender']}: {row['error']}")
    ratios = [line for kind in dict.fromkeys(p.partition(":")[0] for p in peers) for line in _ratios(rows, kind)]
    if ratios:
        print_table(["against", "prefill ratio", "decode ratio"], ratios)
    for name, (exact, rounded) in cost.items():
        print(f"perplexity on {name}: {exact:.4f} exact, {rounded:.4f} with --fast ({rounded / exact - 1:+.2%})")


def _speeds(row: dict[str, Any]) -> list[str]:
    cells = [row["contender"]]
    for kind in ("prefill", "decode"):
        cells += [f"{row[kind]['median']:.1f}", f"{row[kind]['min']:.1f}-{row[kind]['max']:.1f}"]
    return cells


def _ratios(rows: list[dict[str, Any]], peer: str) -> list[list[str]]:
    """Each of ours over the peer's best variant; over each variant where they differ in kind (mlx-lm with MKL and as shipped)."""
    ran = [r for r in rows if "error" not in r]
    ours = [r for r in ran if r["contender"].startswith("tinyllm:")]
    theirs = [r for r in ran if r["contender"].startswith(peer)]
    if peer == "mlx-lm":
        return [[f"{o['contender']} / {t['contender']}", *(f"{o[k]['median'] / t[k]['median']:.2f}" for k in ("prefill", "decode"))]
                for o in ours if ":mlx" in o["contender"] for t in theirs]  # fmt: skip
    if not theirs:
        return []
    best = {k: max(t[k]["median"] for t in theirs) for k in ("prefill", "decode")}
    return [[f"{o['contender']} / best of {peer}", *(f"{o[k]['median'] / best[k]:.2f}" for k in best)] for o in ours]


@app.command("start")
def start_command(
    model: Model = "",
    backends: Backends = "",
    against: Annotated[str, typer.Option("--against", help="transformers")] = "",
    tokens: Annotated[int, typer.Option(min=1, help="Tokens to generate; 1 measures the time to the first.")] = 1,
    rounds: Rounds = 5,
    as_json: Json = False,
) -> None:
    """From the command to its first token: seconds and peak memory of whole processes.

    Example: tinyllm bench start --against transformers
    """
    from tinyllm.bench.contenders import peers_named
    from tinyllm.bench.start import commands, measure
    from tinyllm.models.sources import resolve
    from tinyllm.registry import default_registry

    peers_named(against)
    path = Path(resolve(model or default_registry().settings["model"].value))
    with _progress() as step:
        found = measure(commands(path, _backends(backends), against.split(","), tokens), rounds, step)
    if as_json:
        print_json(found)
        return
    peer = found.get("transformers")
    rows = []
    for name, figures in found.items():
        ratios = [f"{figures[k] / peer[k]:.2f}" for k in ("seconds", "peak_mb")] if peer else []
        rows.append([name, f"{figures['seconds']:.2f}", f"{figures['peak_mb']:.0f}", *ratios])
    note(f"{path.name}: whole commands, {tokens} token(s), median of {rounds} rounds")
    print_table(["command", "seconds", "peak MB", *(["time ratio", "memory ratio"] if peer else [])], rows)
