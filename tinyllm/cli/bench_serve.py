"""`tinyllm bench serve`: a load on any OpenAI server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tinyllm.cli import options
from tinyllm.cli.bench_options import Json, progress
from tinyllm.cli.output import note, print_json, print_table


def serve_command(
    url: Annotated[str, typer.Option("--url", metavar="URL", help="Address of the server.")] = "http://127.0.0.1:8000",
    model: Annotated[
        str,
        typer.Option(
            "--model", "-m", metavar="NAME", show_default="the first that the server lists", help="Name of the model."
        ),
    ] = "",
    endpoint: Annotated[str, typer.Option("--endpoint", metavar="KIND", help="chat or completions.")] = "chat",
    requests: Annotated[int, typer.Option("--requests", "-r", metavar="N", min=1, help="How many in all.")] = 100,
    rate: Annotated[float | None, typer.Option("--rate", metavar="R", help="R a second, as a Poisson process.")] = None,
    concurrency: Annotated[
        int | None,
        typer.Option(
            "--concurrency", "-c", metavar="C", min=1, show_default="1", help="C at any time, instead of a rate."
        ),
    ] = None,
    prompt_tokens: Annotated[
        int, typer.Option(metavar="N", min=1, help="About how many tokens of its own each prompt has.")
    ] = 128,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", "-n", metavar="N", min=1, help="Most tokens of a reply.")
    ] = 64,
    shared_prefix: Annotated[
        int, typer.Option(metavar="TOKENS", min=0, help="Tokens that all prompts begin with.")
    ] = 0,
    mixed_lengths: Annotated[
        bool, typer.Option("--mixed-lengths", help="Prompts and replies from 1/4 to 7/4 of these lengths.")
    ] = False,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Of prompts, lengths and arrivals.")] = 0,
    extra: Annotated[
        str, typer.Option(metavar="JSON", help="""Further fields of each request: '{"ignore_eos": true}'.""")
    ] = "{}",
    api_key: Annotated[
        str | None,
        typer.Option(metavar="KEY", envvar="TINYLLM_API_KEY", help="Sent as a bearer token.", show_envvar=True),
    ] = None,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", min=0.001, help="Seconds for each request.")] = 600.0,
    warm_ups: Annotated[
        int, typer.Option("--warm-ups", metavar="N", min=1, help="Requests before that are not counted.")
    ] = 1,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Also draw it, to a .png or .svg.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Time to first token, time per token, end to end and throughput of any OpenAI server under load.

    Example: tinyllm bench serve --rate 4 --requests 200 --shared-prefix 1000 --mixed-lengths

    Exits with 1 where no request succeeded. Ctrl-C shows what was measured so far.
    """
    import asyncio
    from dataclasses import replace

    from tinyllm.bench.plot_file import check_plot
    from tinyllm.cli.main import INTERRUPTED

    with options.extra("bench serve", "bench"):
        from tinyllm.bench.serve import Run, base_url, run
        from tinyllm.bench.serve_client import PATHS, Outcome, Target
    from tinyllm.bench.serve_plan import Load
    from tinyllm.bench.serve_plot import draw
    from tinyllm.bench.serve_result import document, lines, rows, summarise
    from tinyllm.errors import invalid

    if endpoint not in PATHS:
        raise invalid("bench serve", "--endpoint", " or ".join(PATHS), repr(endpoint))
    if api_key is not None and not (api_key.isascii() and api_key.isprintable()):
        raise invalid("bench serve", "--api-key", "ASCII without control characters", "something else")
    if rate is None and concurrency is None:
        concurrency = 1
    load = Load(requests, rate, concurrency, prompt_tokens, max_tokens, shared_prefix, mixed_lengths, seed)
    target = Target(base_url(url), model, endpoint, _fields(extra))
    if plot is not None:
        check_plot("bench serve", plot)
    done: list[Outcome] = []
    begun: list[Run] = []
    broken_off = False
    with progress() as step:

        def on_done(outcome: Outcome) -> None:
            done.append(outcome)
            failed = sum(o.error is not None for o in done)
            step(f"{len(done)}/{requests} requests done" + (f", {failed} failed" if failed else ""))

        try:
            found = asyncio.run(
                run(
                    target,
                    load,
                    api_key=api_key,
                    timeout=timeout,
                    warm_ups=warm_ups,
                    on_done=on_done,
                    on_start=begun.append,
                )
            )
        except KeyboardInterrupt:
            if not done:
                raise
            broken_off = True
            told = f"broken off when {len(done)} of {requests} requests were done; those that ran then are left out"
            outcomes = tuple(sorted(done, key=lambda o: o.index))
            found = replace(begun[0], outcomes=outcomes, notes=(*begun[0].notes, told))
    summary = summarise(found.outcomes)
    if as_json:
        print_json(document(found, load, summary))
    else:
        arrivals = f"{load.concurrency} at a time" if rate is None else f"{rate:g} a second"
        note(f"{found.target.model} at {found.target.url}: {requests} requests, {arrivals}")
        print_table(["ms", "p50", "p90", "p99", "mean", "max"], rows(summary))
        for line in (*lines(summary), *found.notes):
            print(line)
    if plot is not None and summary.succeeded:
        draw(found, summary, plot)
        note(f"drawn: {plot}")
    if broken_off:
        raise typer.Exit(INTERRUPTED)
    if not summary.succeeded:
        raise typer.Exit(1)


def _fields(text: str) -> dict[str, object]:
    """`--extra`. Raises `InvalidInputError` for what is no JSON object."""
    import json

    from tinyllm.errors import InvalidInputError, invalid

    try:
        found = json.loads(text)
    except ValueError as error:
        raise InvalidInputError(f"bench serve: --extra: expected a JSON object, got no JSON: {error}") from error
    if not isinstance(found, dict):
        raise invalid("bench serve", "--extra", "a JSON object", text)
    return found
