"""`tinyllm bench`: its command `start`, and the group that `model`, `ops` and `serve` join."""

from __future__ import annotations

from typing import Annotated

import typer

from tinyllm.cli import options
from tinyllm.cli.bench_model import model_command
from tinyllm.cli.bench_ops import ops_command
from tinyllm.cli.bench_options import Backends, Rounds, backends_named, model_path, named, progress
from tinyllm.cli.bench_serve import serve_command
from tinyllm.cli.output import note, print_json, print_table

app = typer.Typer(help="Measure speed: medians of several rounds, peers in the same run.", no_args_is_help=True)
app.command("model")(model_command)
app.command("ops")(ops_command)
app.command("serve")(serve_command)


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
    from tinyllm.bench.start import check_peers, commands, measure

    peers = named(against)
    check_peers(peers)
    path = model_path(model)
    with progress() as step:
        results = measure(commands(path, backends_named(backends), peers, tokens), rounds, step)
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
