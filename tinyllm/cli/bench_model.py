"""`tinyllm bench model`: measure a whole model, and print its speed beside that of peers."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tinyllm.cli import options
from tinyllm.cli.bench_options import Backends, Rounds, backends_named, model_path, named, progress
from tinyllm.cli.output import note, print_json, print_table
from tinyllm.errors import invalid

COLUMNS = ["contender", "at a time", "prefill tok/s", "range", "decode tok/s", "range", "first token s", "peak MB"]
RATIOS = ["against", "at a time", "prefill ratio", "decode ratio", "first token ratio", "memory ratio"]


def model_command(
    model: options.ModelName = None,
    backends: Backends = "",
    against: Annotated[
        str,
        typer.Option(
            "--against",
            metavar="PEER,PEER",
            help="Peers on the same file: transformers, mlx-lm, llama.cpp, openvino.",
        ),
    ] = "",
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Length of a prompt.")] = 128,
    new_tokens: Annotated[int, typer.Option(min=1, help="Tokens to decode after each prompt.")] = 64,
    batch: Annotated[
        str, typer.Option("--batch", metavar="N,N", help="How many sequences decode at a time: 1,4,16.")
    ] = "1",
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of each contender.", show_default="the cores that may be used")
    ] = None,
    rounds: Rounds = 5,
    fast: Annotated[
        bool, typer.Option("--fast/--no-fast", help="Also measure with kernels that round, and what they cost.")
    ] = True,
    as_json: options.Json = False,
) -> None:
    """Measure prefill and decode tokens per second, the first token and memory: every contender in turn, round after
    round, on the same number of threads.

    llama.cpp is the library of llama-cpp-python, or the libllama that TINYLLM_LLAMA_CPP names; openvino needs
    openvino-genai. Both read GGUF files alone. mlx-lm and openvino run one sequence at a time.

    Examples: tinyllm bench model --against transformers,mlx-lm

    tinyllm bench model --against llama.cpp --batch 1,4,16
    """
    from tinyllm.bench.contenders import peers_named
    from tinyllm.bench.model import Plan, measure, perplexity
    from tinyllm.conformance.reports.machine import cores
    from tinyllm.registry.registry import default_registry

    peers = peers_named(against)
    batches = _batches(batch)
    path = model_path(model)
    names = backends_named(backends)
    rounding = {kernel.backend for kernel in default_registry().plugins.kernels if not kernel.exact}
    with_fast = [name for name in names if fast and name in rounding]
    contenders = [
        *(c for n in names for c in [f"tinyllm:{n}", *([f"tinyllm:{n}:fast"] if n in with_fast else [])]),
        *peers,
    ]
    plan = Plan(prompt_tokens, new_tokens, batches, rounds, threads or cores())
    with progress() as step:
        rows = [result.row() for result in measure(contenders, path, plan, step)]
        cost: dict[str, tuple[float, float]] = {}
        for name in with_fast:
            step(f"perplexity on {name}")
            cost[name] = perplexity(path, name, False), perplexity(path, name, True)
    if as_json:
        print_json(
            {
                "model": str(path),
                "prompt_tokens": prompt_tokens,
                "new_tokens": new_tokens,
                "batches": batches,
                "threads": plan.threads,
                "rounds": rounds,
                "results": rows,
                "perplexity": {name: {"exact": exact, "fast": rounded} for name, (exact, rounded) in cost.items()},
            }
        )
        return
    note(
        f"{path.name}: prompt {prompt_tokens}, {new_tokens} tokens decoded, {', '.join(map(str, batches))} at a time, "
        f"{plan.threads} threads each, median of {rounds} rounds"
    )
    print_table(COLUMNS, [_cells(r) for r in rows if "error" not in r])
    for line in dict.fromkeys(_failure(r) for r in rows if "error" in r):
        note(line)
    kinds = dict.fromkeys(p.partition(":")[0] for p in peers)
    compared = [line for size in batches for kind in kinds for line in ratios(rows, kind, size)]
    if compared:
        print_table(RATIOS, compared)
    for name, (exact, rounded) in cost.items():
        print(f"perplexity on {name}: {exact:.4f} exact, {rounded:.4f} with --fast ({rounded / exact - 1:+.2%})")


def _batches(text: str) -> tuple[int, ...]:
    """The numbers in `--batch`, each once, from the smallest. Raises `InvalidInputError` for what is none."""
    items = named(text)
    if not items or not all(item.isascii() and item.isdigit() and int(item) > 0 for item in items):
        raise invalid("bench model", "--batch", "numbers of at least 1 with commas, such as 1,4,16", repr(text))
    return tuple(sorted({int(item) for item in items}))


def _failure(row: dict[str, Any]) -> str:
    """Why a contender did not run; errors of peers name them."""
    name = row["contender"]
    return f"did not run: {name}: {row['error'].removeprefix(name.partition(':')[0] + ': ')}"


def _cells(row: dict[str, Any]) -> list[str]:
    """The cells of a contender: its median speeds, from the slowest to the fastest round, and what it takes."""
    cells = [row["contender"], str(row["batch"])]
    for kind in ("prefill", "decode"):
        cells += [f"{row[kind]['median']:.1f}", f"{row[kind]['min']:.1f}-{row[kind]['max']:.1f}"]
    return [*cells, f"{row['first_token']:.2f}", f"{row['peak_mb']:.0f}"]


def ratios(rows: list[dict[str, Any]], peer: str, batch: int) -> list[list[str]]:
    """Rows of our contenders' figures as multiples of a peer's, with so many sequences at a time: how many times as
    fast, as late and as large.

    A peer counts with its best variant in each; only mlx-lm's two (with MKL and as shipped) are each compared with our
    mlx.
    """
    ran = [r for r in rows if r["batch"] == batch and "error" not in r]
    ours = [r for r in ran if r["contender"].startswith("tinyllm:")]
    theirs = [r for r in ran if r["contender"].partition(":")[0] == peer]
    if peer == "mlx-lm":
        pairs = [(o, [t], t["contender"]) for o in ours if ":mlx" in o["contender"] for t in theirs]
    else:
        name = f"best of {peer}" if len(theirs) > 1 else peer
        pairs = [(o, theirs, name) for o in ours if theirs]
    return [[f"{o['contender']} / {name}", str(batch), *_multiples(o, others)] for o, others, name in pairs]


def _multiples(row: dict[str, Any], others: list[dict[str, Any]]) -> list[str]:
    """The figures of a row as multiples of the best of others: the highest speeds, the least time and memory."""
    speeds = [row[k]["median"] / max(o[k]["median"] for o in others) for k in ("prefill", "decode")]
    costs = [row[k] / min(o[k] for o in others) for k in ("first_token", "peak_mb")]
    return [f"{multiple:.2f}" for multiple in (*speeds, *costs)]
