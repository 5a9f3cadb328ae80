"""`tinyllm bench`: its commands `model` and `start`, and the group that `ops` and `serve` join."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tinyllm.cli import options
from tinyllm.cli.bench_ops import ops_command
from tinyllm.cli.bench_options import Backends, Rounds, backends_named, model_path, progress
from tinyllm.cli.bench_serve import serve_command
from tinyllm.cli.output import note, print_json, print_table

app = typer.Typer(help="Measure speed: medians of several rounds, peers in the same run.", no_args_is_help=True)
app.command("ops")(ops_command)
app.command("serve")(serve_command)


@app.command("model")
def model_command(
    model: options.ModelName = None,
    backends: Backends = "",
    against: Annotated[str, typer.Option("--against", help="Peers on the same file: transformers,mlx-lm.")] = "",
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Length of the prompt.")] = 128,
    new_tokens: Annotated[int, typer.Option(min=1, help="Tokens to decode.")] = 64,
    rounds: Rounds = 5,
    fast: Annotated[
        bool, typer.Option("--fast/--no-fast", help="Also measure with kernels that round, and what they cost.")
    ] = True,
    as_json: options.Json = False,
) -> None:
    """Measure prefill and decode tokens per second at batch 1, every contender in turn, round after round.

    Example: tinyllm bench model --against transformers,mlx-lm
    """
    from tinyllm.bench.contenders import peers_named
    from tinyllm.bench.model import measure, perplexity
    from tinyllm.registry.registry import default_registry

    peers = peers_named(against)
    path = model_path(model)
    names = backends_named(backends)
    rounding = {kernel.backend for kernel in default_registry().plugins.kernels if not kernel.exact}
    with_fast = [name for name in names if fast and name in rounding]
    contenders = [
        *(c for n in names for c in [f"tinyllm:{n}", *([f"tinyllm:{n}:fast"] if n in with_fast else [])]),
        *peers,
    ]
    prompt = [(7 * i) % 1000 + 100 for i in range(prompt_tokens)]
    with progress() as step:
        results = measure(contenders, path, prompt, new_tokens, rounds, step)
        cost: dict[str, tuple[float, float]] = {}
        for name in with_fast:
            step(f"perplexity on {name}")
            cost[name] = perplexity(path, name, False), perplexity(path, name, True)
    rows = [r.row() for r in results]
    if as_json:
        print_json(
            {
                "model": str(path),
                "prompt_tokens": prompt_tokens,
                "new_tokens": new_tokens,
                "rounds": rounds,
                "results": rows,
            }
            | {"perplexity": {name: {"exact": exact, "fast": rounded} for name, (exact, rounded) in cost.items()}}
        )
        return
    note(f"{path.name}: prompt {prompt_tokens}, {new_tokens} tokens decoded, batch 1, median of {rounds} rounds")
    print_table(
        ["contender", "prefill tok/s", "range", "decode tok/s", "range"], [_speeds(r) for r in rows if "error" not in r]
    )
    for row in rows:
        if "error" in row:
            note(f"did not run: {row['contender']}: {row['error']}")
    ratios = [line for kind in dict.fromkeys(p.partition(":")[0] for p in peers) for line in _ratios(rows, kind)]
    if ratios:
        print_table(["against", "prefill ratio", "decode ratio"], ratios)
    for name, (exact, rounded) in cost.items():
        print(f"perplexity on {name}: {exact:.4f} exact, {rounded:.4f} with --fast ({rounded / exact - 1:+.2%})")


def _speeds(row: dict[str, Any]) -> list[str]:
    """The cells of a contender: its median speeds, and from the slowest to the fastest round."""
    cells = [row["contender"]]
    for kind in ("prefill", "decode"):
        cells += [f"{row[kind]['median']:.1f}", f"{row[kind]['min']:.1f}-{row[kind]['max']:.1f}"]
    return cells


def _ratios(rows: list[dict[str, Any]], peer: str) -> list[list[str]]:
    """Rows of how many times as fast our contenders are as a peer.

    A peer counts with its best variant; only mlx-lm's two (with MKL and as shipped) are each compared with our mlx.
    """
    ran = [r for r in rows if "error" not in r]
    ours = [r for r in ran if r["contender"].startswith("tinyllm:")]
    theirs = [r for r in ran if r["contender"].startswith(peer)]
    if peer == "mlx-lm":
        return [
            [
                f"{o['contender']} / {t['contender']}",
                *(f"{o[k]['median'] / t[k]['median']:.2f}" for k in ("prefill", "decode")),
            ]
            for o in ours
            if ":mlx" in o["contender"]
            for t in theirs
        ]
    if not theirs:
        return []
    best = {k: max(t[k]["median"] for t in theirs) for k in ("prefill", "decode")}
    return [[f"{o['contender']} / best of {peer}", *(f"{o[k]['median'] / best[k]:.2f}" for k in best)] for o in ours]


@app.command("start")
def start_command(
    model: options.ModelName = None,
    backends: Backends = "",
    against: Annotated[str, typer.Option("--against", help="transformers")] = "",
    tokens: Annotated[int, typer.Option(min=1, help="Tokens to generate; 1 measures the time to the first.")] = 1,
    rounds: Rounds = 5,
    as_json: options.Json = False,
) -> None:
    """Measure seconds from the command to its first token, and peak memory, of whole processes.

    Example: tinyllm bench start --against transformers
    """
    from tinyllm.bench.contenders import peers_named
    from tinyllm.bench.start import commands, measure

    peers_named(against)
    path = model_path(model)
    with progress() as step:
        results = measure(commands(path, backends_named(backends), against.split(","), tokens), rounds, step)
    if as_json:
        print_json(results)
        return
    peer = results.get("transformers")
    rows = []
    for name, figures in results.items():
        ratios = [f"{figures[k] / peer[k]:.2f}" for k in ("seconds", "peak_mb")] if peer else []
        rows.append([name, f"{figures['seconds']:.2f}", f"{figures['peak_mb']:.0f}", *ratios])
    note(f"{path.name}: whole commands, {tokens} token(s), median of {rounds} rounds")
    print_table(["command", "seconds", "peak MB", *(["time ratio", "memory ratio"] if peer else [])], rows)
