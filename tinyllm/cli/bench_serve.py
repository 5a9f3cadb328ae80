"""`tinyllm bench serve`: put a load on an OpenAI server and print how it answered."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tinyllm.cli import options
from tinyllm.cli.bench_options import progress
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
    requests: Annotated[int, typer.Option("--requests", "-r", metavar="N", min=1, help="Requests in all.")] = 100,
    rate: Annotated[
        float | None, typer.Option("--rate", metavar="R", help="Send R requests a second, as a Poisson process.")
    ] = None,
    concurrency: Annotated[
        int | None,
        typer.Option(
            "--concurrency",
            "-c",
            metavar="C",
            min=1,
            show_default="1",
            help="Keep C requests running, instead of a rate.",
        ),
    ] = None,
    prompt_tokens: Annotated[
        int, typer.Option(metavar="N", min=1, help="About how many tokens each prompt has beside the shared prefix.")
    ] = 128,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", "-n", metavar="N", min=1, help="The most tokens that a reply may have.")
    ] = 64,
    shared_prefix: Annotated[
        int, typer.Option(metavar="TOKENS", min=0, help="Tokens that all prompts begin with.")
    ] = 0,
    mixed_lengths: Annotated[
        bool, typer.Option("--mixed-lengths", help="Prompts and replies from 1/4 to 7/4 of these lengths.")
    ] = False,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Seed of the prompts, lengths and arrivals.")] = 0,
    extra: Annotated[
        str, typer.Option(metavar="JSON", help="""Further fields of each request: '{"ignore_eos": true}'.""")
    ] = "{}",
    api_key: Annotated[
        str | None,
        typer.Option(metavar="KEY", envvar="TINYLLM_API_KEY", help="Sent as a bearer token.", show_envvar=True),
    ] = None,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", min=0.001, help="Seconds for each request.")] = 600.0,
    warm_ups: Annotated[
        int, typer.Option("--warm-ups", metavar="N", min=1, help="Requests before the run, which are not counted.")
    ] = 1,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Also draw the results, as .png or .svg.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Measure any OpenAI server under load: time to first token, time per token, end to end, and throughput.

    Example: tinyllm bench serve --rate 4 --requests 200 --shared-prefix 1000 --mixed-lengths

    Exits with 1 where no request succeeded. Ctrl-C shows what was measured so far.
    """
    import asyncio
    from dataclasses import replace

    from tinyllm.bench.plot_file import check_plot

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
    interrupted = False
    with progress() as step:

        def on_done(outcome: Outcome) -> None:
            done.append(outcome)
            failed = sum(o.error is not None for o in done)
            step(f"{len(done)}/{requests} requests done" + (f", {failed} failed" if failed else ""))

        try:
            measured = asyncio.run(
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
            interrupted = True
            left_out = f"broken off when {len(done)} of {requests} requests were done; those that ran then are left out"
            outcomes = tuple(sorted(done, key=lambda o: o.index))
            measured = replace(begun[0], outcomes=outcomes, notes=(*begun[0].notes, left_out))
    summary = summarise(measured.outcomes)
    if as_json:
        print_json(document(measured, load, summary))
    else:
        arrivals = f"{load.concurrency} at a time" if rate is None else f"{rate:g} a second"
        note(f"{measured.target.model} at {measured.target.url}: {requests} requests, {arrivals}")
        print_table(["ms", "p50", "p90", "p99", "mean", "max"], rows(summary))
        for line in (*lines(summary), *measured.notes):
            print(line)
    if plot is not None and summary.succeeded:
        draw(measured, summary, plot)
        note(f"drawn: {plot}")
    if interrupted:
        raise KeyboardInterrupt
    if not summary.succeeded:
        raise typer.Exit(1)


def _fields(text: str) -> dict[str, object]:
    """The object in `--extra`. Raises `InvalidInputError` for what is not a JSON object."""
    import json

    from tinyllm.errors import InvalidInputError, invalid

    try:
        fields = json.loads(text)
    except ValueError as error:
        raise InvalidInputError(f"bench serve: --extra: expected a JSON object, got no JSON: {error}") from error
    if not isinstance(fields, dict):
        raise invalid("bench serve", "--extra", "a JSON object", text)
    return fields
