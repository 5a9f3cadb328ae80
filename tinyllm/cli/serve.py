"""`tinyllm serve`: the OpenAI-compatible server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tinyllm.cli import options

if TYPE_CHECKING:
    from tinyllm.server.loading import Host


def serve(
    model: options.ModelName = None,
    backend: options.BackendName = None,
    host: Annotated[
        str, typer.Option("--host", metavar="ADDRESS", envvar="TINYLLM_HOST", help="Where to listen; 0.0.0.0 is everywhere.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", "-p", metavar="N", envvar="TINYLLM_PORT", min=0, max=65535, help="0 takes any that is free.")
    ] = 8000,
    api_key: Annotated[
        str | None,
        typer.Option("--api-key", metavar="KEY", envvar="TINYLLM_API_KEY", show_envvar=True, help="What clients have to show."),
    ] = None,
    cors: Annotated[
        list[str] | None, typer.Option("--cors", metavar="ORIGIN", help="An origin whose pages may ask; may be repeated.")
    ] = None,
    served_name: Annotated[
        str | None, typer.Option("--served-name", metavar="NAME", show_default="the model's", help="The name that clients ask for.")
    ] = None,
    cache_tokens: Annotated[
        int | None, typer.Option("--cache-tokens", metavar="N", min=1, show_default="16384", help="Tokens that the KV cache holds.")
    ] = None,
    pages: Annotated[int | None, typer.Option("--pages", metavar="N", min=1, help="The same in pages.")] = None,
    page_size: Annotated[
        int | None, typer.Option("--page-size", metavar="N", min=1, show_default="what suits the backend", help="Tokens of a page.")
    ] = None,
    max_step_tokens: Annotated[
        int, typer.Option("--max-step-tokens", metavar="N", min=1, help="Most tokens of a step: how long a prompt may hold up others.")
    ] = 512,
    max_running: Annotated[int, typer.Option("--max-running", metavar="N", min=1, help="Most replies written at a time.")] = 64,
    max_waiting: Annotated[int, typer.Option("--max-waiting", metavar="N", min=0, help="Most that wait; past it clients get 429.")] = 256,
    batch_invariant: Annotated[
        bool, typer.Option("--batch-invariant", help="One reply a step, so that its bits don't depend on who else is there; slower.")
    ] = False,
    timeout: Annotated[
        float | None, typer.Option("--timeout", metavar="SECONDS", min=0.001, show_default="none", help="Time that a request has.")
    ] = None,
    drain: Annotated[
        float, typer.Option("--drain", metavar="SECONDS", min=0, help="Time that running requests have to end, after SIGTERM.")
    ] = 30.0,
    fast: options.Fast = None,
    dtype: options.Dtype = None,
    log_level: Annotated[
        str, typer.Option("--log-level", metavar="LEVEL", envvar="TINYLLM_LOG_LEVEL", help="debug, info, warning or error.")
    ] = "info",
) -> None:
    """Serve a model to OpenAI clients, and to people at its page.

    Requests are logged on stderr, a JSON object each; SIGTERM and Ctrl-C let those that run end.
    """
    from pathlib import Path

    from tinyllm.cli import session
    from tinyllm.cli.output import note
    from tinyllm.errors import InvalidInputError, invalid
    from tinyllm.server.app import make_app
    from tinyllm.server.loading import EngineSettings, Host
    from tinyllm.server.logs import LEVELS, configure
    from tinyllm.server.serving import is_loopback, open_socket
    from tinyllm.server.serving import serve as run

    if log_level not in LEVELS:
        raise invalid("serve", "log-level", f"one of {', '.join(LEVELS)}", repr(log_level))
    if pages is not None and cache_tokens is not None:
        raise InvalidInputError("serve: --pages and --cache-tokens exclude one another: both say how much the cache holds")
    if api_key is not None and not api_key.strip():
        raise InvalidInputError("serve: api-key: expected some text, got none")
    configure(log_level)
    settings = EngineSettings(
        **({} if cache_tokens is None else {"cache_tokens": cache_tokens}), pages=pages, page_size=page_size,
        max_step_tokens=max_step_tokens, max_running=max_running, max_waiting=max_waiting, one_at_a_time=batch_invariant,
    )  # fmt: skip
    name = session.model_name(model)
    shown = Path(name).name if Path(name).exists() else name
    served = Host(served_name or shown, lambda: session.load_model(model, backend, dtype, fast), settings)
    listening = open_socket(host, port)
    if not is_loopback(host) and api_key is None:
        note(f"warning: serve: {host} can be reached from other machines, and there is no --api-key: everybody may use the model")
    address = f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"
    note(f"{address} answers with 503 until {served.name} is loaded")
    run(make_app(served, api_key, cors, timeout), served, listening, drain, lambda: _summary(served, address, api_key is not None))


def _summary(host: Host, address: str, with_key: bool) -> None:
    """What is served, and where, on stdout: a panel for a terminal, a line for a pipe."""
    import sys

    state = host.status()
    line = f"{address} serves {state['model']} on {state['backend']}"
    if not sys.stdout.isatty():
        print(line, flush=True)
        return
    from rich.console import Console
    from rich.panel import Panel
    from rich.table import Table

    rows = {
        "Chat": address, "API": f"{address}/v1  (any OpenAI client)", "Docs": f"{address}/docs", "Metrics": f"{address}/metrics",
        "Model": f"{state['model']}, context {state['context']}", "Backend": state["backend"],
        "Cache": f"{state['pages']} pages of {host.page_size} tokens",
        "Queue": f"{host.settings.max_running} at a time, {host.settings.max_waiting} waiting",
        "Key": "asked for" if with_key else "none: everybody who can reach the address may use the model",
    }  # fmt: skip
    table = Table.grid(padding=(0, 2))
    for title, text in rows.items():
        table.add_row(title, text)
    Console(markup=False, highlight=False, emoji=False).print(Panel(table, title="tinyllm serve", expand=False))
