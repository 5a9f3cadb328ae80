"""`tinyllm simulate`: many replicas in virtual time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tinyllm.cli import options, session
from tinyllm.cli.bench_options import progress
from tinyllm.cli.output import loading_line, note, print_json, print_table
from tinyllm.scale.settings import POLICIES, SLACK

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tinyllm.scale.simulate.trace import TraceRequest


_OF_MADE_UP = ("requests", "rate", "groups", "prefix_tokens", "prompt_tokens", "reply_tokens", "seed")
_OF_MEASURE = ("measure", "backend", "times", "as_json")


def simulate(
    context: typer.Context,
    replicas: Annotated[int, typer.Option("--replicas", "-r", metavar="N", help="Servers.")] = 2,
    trace: Annotated[
        Path | None,
        typer.Option("--trace", metavar="FILE", show_default="made up", help="Requests in Mooncake's trace format."),
    ] = None,
    policy: Annotated[
        str, typer.Option("--policy", metavar="NAMES", help="warm, least-loaded, round-robin, with commas between.")
    ] = "warm,round-robin",
    times: Annotated[Path, typer.Option("--times", metavar="FILE", help="How long steps take.")] = Path(
        "step-times.json"
    ),
    measure: Annotated[
        str | None,
        typer.Option("--measure", metavar="MODEL", help="Measure a model here, keep it in --times, and do no more."),
    ] = None,
    backend: options.BackendName = None,
    cache_tokens: Annotated[int, typer.Option(metavar="N", min=1, help="Tokens that a replica's cache holds.")] = 16384,
    page_size: Annotated[int, typer.Option(metavar="N", min=1, help="Tokens of a page.")] = 64,
    max_step_tokens: Annotated[int, typer.Option(metavar="N", min=1, help="Most tokens of a step.")] = 512,
    max_running: Annotated[int, typer.Option(metavar="N", min=1, help="Most replies written at a time.")] = 64,
    slack: Annotated[int, typer.Option(metavar="N", min=0, help="As of tinyllm route.")] = SLACK,
    remembered: Annotated[
        int | None, typer.Option(metavar="N", min=1, show_default="pages of a cache", help="As of tinyllm route.")
    ] = None,
    requests: Annotated[int, typer.Option("--requests", metavar="N", min=1, help="Made up: how many.")] = 1000,
    rate: Annotated[float, typer.Option(metavar="R", min=0.001, help="Made up: requests a second.")] = 2.0,
    groups: Annotated[int, typer.Option(metavar="N", min=1, help="Made up: prefixes.")] = 16,
    prefix_tokens: Annotated[
        int, typer.Option(metavar="N", min=0, help="Made up: tokens of a prefix, in blocks of 512.")
    ] = 512,
    prompt_tokens: Annotated[int, typer.Option(metavar="N", min=1, help="Made up: each prompt's own, mean.")] = 128,
    reply_tokens: Annotated[int, typer.Option(metavar="N", min=1, help="Made up: mean.")] = 64,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Made up: seed.")] = 0,
    save_trace: Annotated[
        Path | None, typer.Option("--save-trace", metavar="FILE", help="Also write the requests to a file.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Run requests through many replicas in virtual time: what a policy, a size or a load would do.

    Scheduler, pages and policy are those that serve; a table of measured times stands in for the model.
    """
    from tinyllm.errors import invalid
    from tinyllm.scale.policy import make_policy
    from tinyllm.scale.simulate.replica import ReplicaSizes
    from tinyllm.scale.simulate.result import COLUMNS, row, summarise
    from tinyllm.scale.simulate.run import simulate as run
    from tinyllm.scale.simulate.step_times import StepTimes
    from tinyllm.scale.simulate.trace import made_up, read_trace, write_trace

    if measure is not None:
        _refuse(
            context, [name for name in context.params if name not in _OF_MEASURE], "that runs requests", "--measure"
        )
        _measure(measure, backend, times, as_json)
        return
    if replicas < 1:
        raise invalid("simulate", "replicas", "an integer of at least 1", str(replicas))
    names = [name.strip() for name in policy.split(",")]
    for name in names:
        if name not in POLICIES:
            raise invalid("simulate", "policy", f"one of {', '.join(POLICIES)}", repr(name))
    table = StepTimes.read(times)
    sizes = ReplicaSizes(max(1, -(-cache_tokens // page_size)), page_size, max_step_tokens, max_running)
    asked: list[TraceRequest]
    if trace is not None:
        _refuse(context, _OF_MADE_UP, "that makes up requests", "--trace")
        asked = read_trace(trace)
    else:
        asked = list(made_up(requests, rate, groups, prefix_tokens, prompt_tokens, reply_tokens, seed))
    if save_trace is not None:
        write_trace(save_trace, asked)
    found = []
    with progress() as step:
        for name in names:
            chosen = make_policy(name, slack, remembered or sizes.pages)

            def report(count: int, name: str = name) -> None:
                step(f"{name}: {count}/{len(asked)} requests done")

            done = run(asked, replicas, chosen, table, sizes, report=report)
            found.append(summarise(name, done))
    if as_json:
        print_json({"times": table.about, "runs": [summary.document() for summary in found]})
        return
    of = f" of {table.about}" if table.about else ""
    note(f"{len(asked)} requests, {replicas} replicas{of}; {found[0].seconds:.1f} s of virtual time; times in ms")
    print_table(COLUMNS, [row(summary) for summary in found])


def _refuse(context: typer.Context, names: Iterable[str], kind: str, beside: str) -> None:
    """Raise where options are given that would do nothing."""
    from tinyllm.errors import invalid

    given = [name for name in names if getattr(context.get_parameter_source(name), "name", "DEFAULT") != "DEFAULT"]
    if given:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise invalid("simulate", beside.lstrip("-"), f"no option beside it {kind}", options)


def _measure(model: str, backend: str | None, path: Path, as_json: bool) -> None:
    """Measure a model and write the table."""
    from dataclasses import replace

    from tinyllm.scale.simulate.measure import measure

    llm = session.load_model(model, backend, None, None, None, quiet=as_json)
    with loading_line("measuring") as report:
        table = measure(llm, report=report)
    table = replace(table, about=f"{options.served_name(model)} on {table.about}")
    table.write(path)
    if as_json:
        print_json({"file": str(path), "times": table.about})
    else:
        print(f"{path}: {table.about}")
