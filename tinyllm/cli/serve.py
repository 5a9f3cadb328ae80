"""`tinyllm serve`: the OpenAI-compatible server."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tinyllm.cli import options, session
from tinyllm.cli.output import note, plain_console
from tinyllm.errors import ConfigError, InvalidInputError
from tinyllm.settings.read import DEFAULT, Setting, read_settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tinyllm.server.served_model import EngineSettings, ServedModel


def serve(
    context: typer.Context,
    model: options.ModelName = None,
    backend: options.BackendName = None,
    host: Annotated[str | None, options.setting("serve.host", metavar="ADDRESS")] = None,
    port: Annotated[int | None, options.setting("serve.port", "-p", metavar="N")] = None,
    api_key: Annotated[str | None, options.setting("serve.api_key", metavar="KEY")] = None,
    cors: Annotated[list[str] | None, options.setting("serve.cors", metavar="ORIGIN")] = None,
    allowed_host: Annotated[list[str] | None, options.setting("serve.allowed_host", metavar="NAME")] = None,
    served_name: Annotated[str | None, options.setting("serve.served_name", metavar="NAME")] = None,
    cache_tokens: Annotated[int | None, options.setting("serve.cache_tokens", metavar="N")] = None,
    pages: Annotated[int | None, options.setting("serve.pages", metavar="N")] = None,
    page_size: Annotated[int | None, options.setting("serve.page_size", metavar="N")] = None,
    max_step_tokens: Annotated[int | None, options.setting("serve.max_step_tokens", metavar="N")] = None,
    max_running: Annotated[int | None, options.setting("serve.max_running", metavar="N")] = None,
    max_waiting: Annotated[int | None, options.setting("serve.max_waiting", metavar="N")] = None,
    batch_invariant: Annotated[bool | None, options.setting("serve.batch_invariant")] = None,
    max_body: Annotated[str | None, options.setting("serve.max_body", metavar="SIZE")] = None,
    max_bodies: Annotated[str | None, options.setting("serve.max_bodies", metavar="SIZE")] = None,
    max_connections_per_client: Annotated[
        int | None, options.setting("serve.max_connections_per_client", metavar="N")
    ] = None,
    receive_timeout: Annotated[float | None, options.setting("serve.receive_timeout", metavar="SECONDS")] = None,
    timeout: Annotated[float | None, options.setting("serve.timeout", metavar="SECONDS")] = None,
    drain: Annotated[float | None, options.setting("serve.drain", metavar="SECONDS")] = None,
    fast: options.Fast = None,
    kv_cache_dtype: options.KvCacheDtype = None,
    tensor_parallel: options.TensorParallel = 1,
    pipeline_parallel: options.PipelineParallel = 1,
    dtype: options.Dtype = None,
    log_level: Annotated[str | None, options.setting("serve.log_level", metavar="LEVEL")] = None,
) -> None:
    """Serve a model to OpenAI clients, and to people at its page.

    What is not given comes from its variable, or the table `serve` of tinyllm.toml.
    --max-body is TINYLLM_SERVE_MAX_BODY, and `max_body` there; `tinyllm config` lists all.
    Requests are logged on stderr, a JSON object each; SIGTERM and Ctrl-C let those that run end.
    """
    with options.extra("serve", "serve"):
        from tinyllm.engine.grammar.limits import GrammarLimits
        from tinyllm.server.access import is_loopback
        from tinyllm.server.app import make_app
        from tinyllm.server.connections import Connections
        from tinyllm.server.logs import configure
        from tinyllm.server.run import open_socket, run
        from tinyllm.server.served_model import ServedModel

    settings = read_settings()
    _check_cache(settings, pages, cache_tokens)
    chosen = options.resolved("serve", settings, context.params)  # the options above, those given and those not
    session.follow_first(model, backend, dtype, fast, kv_cache_dtype, pipeline_parallel)
    configure(chosen.log_level)
    if cache_tokens is not None:
        chosen.pages = None
    name = chosen.served_name or options.served_name(session.model_name(model))
    served = ServedModel(
        name,
        lambda: session.load_model(
            model,
            backend,
            dtype,
            fast,
            kv_cache_dtype,
            tensor_parallel=tensor_parallel,
            pipeline_parallel=pipeline_parallel,
        ),
        engine_settings(chosen),
        GrammarLimits.of(settings),
    )
    app = make_app(served, **app_options(chosen))
    listening = open_socket(chosen.host, chosen.port)
    with_key = chosen.api_key is not None
    if not is_loopback(chosen.host) and not with_key:
        note(
            f"warning: serve: {chosen.host} can be reached from other machines, and there is no --api-key: "
            f"everybody may use the model"
        )
    address = f"http://{f'[{chosen.host}]' if ':' in chosen.host else chosen.host}:{listening.getsockname()[1]}"
    note(f"{address} answers with 503 until {served.name} is loaded")
    connections = Connections(most_per_client=chosen.max_connections_per_client, receive_timeout=chosen.receive_timeout)
    run(app, served, listening, lambda: _summary(served, address, with_key), connections)


def engine_settings(chosen: SimpleNamespace) -> EngineSettings:
    """The sizes of an engine that the settings of the table `serve` say."""
    from tinyllm.server.served_model import EngineSettings

    return EngineSettings(
        cache_tokens=chosen.cache_tokens,
        pages=chosen.pages,
        page_size=chosen.page_size,
        max_step_tokens=chosen.max_step_tokens,
        max_running=chosen.max_running,
        max_waiting=chosen.max_waiting,
        one_at_a_time=chosen.batch_invariant,
    )


def app_options(chosen: SimpleNamespace) -> dict[str, Any]:
    """The options of `make_app` that the settings of the table `serve` say."""
    from tinyllm.server.access import allowed_hosts

    names = ("api_key", "cors", "timeout", "max_body", "max_bodies", "receive_timeout", "drain")
    return {name: getattr(chosen, name) for name in names} | {"hosts": allowed_hosts(chosen.host, chosen.allowed_host)}


def _check_cache(settings: Mapping[str, Setting], pages: int | None, cache_tokens: int | None) -> None:
    """Pages and tokens both say how much the cache holds. Raises where both options are given, or neither is and both
    settings are set."""
    why = "exclude one another: both say how much the cache holds"
    if pages is not None and cache_tokens is not None:
        raise InvalidInputError(f"serve: --pages and --cache-tokens {why}")
    sources = {name: settings[name].source for name in ("serve.pages", "serve.cache_tokens")}
    if pages is None and cache_tokens is None and DEFAULT not in sources.values():
        raise ConfigError(f"{' and '.join(f'{name} ({source})' for name, source in sources.items())} {why}")


def _summary(model: ServedModel, address: str, with_key: bool) -> None:
    """Say on stdout what is served, and where: a panel for a terminal, a line for a pipe."""
    state = model.status()
    line = f"{address} serves {state['model']} on {state['backend']}"
    if not sys.stdout.isatty():
        print(line, flush=True)
        return
    from rich.panel import Panel
    from rich.table import Table

    rows = {
        "Chat": address,
        "API": f"{address}/v1  (any OpenAI client)",
        "Docs": f"{address}/docs",
        "Metrics": f"{address}/metrics",
        "Model": f"{state['model']}, context {state['context']}",
        "Backend": state["backend"],
        "Cache": f"{state['pages']} pages of {model.page_size} tokens",
        "Queue": f"{model.settings.max_running} at a time, {model.settings.max_waiting} waiting",
        "Key": "asked for" if with_key else "none: everybody who can reach the address may use the model",
    }
    table = Table.grid(padding=(0, 2))
    for title, text in rows.items():
        table.add_row(title, text)
    plain_console().print(Panel(table, title="tinyllm serve", expand=False))
