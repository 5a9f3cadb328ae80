"""`tinyllm route`: a proxy before several servers."""

from __future__ import annotations

from typing import Annotated

import typer

from tinyllm.cli import options
from tinyllm.cli.output import note


def route(
    context: typer.Context,
    urls: Annotated[
        list[str] | None,
        typer.Argument(metavar="URL...", show_default=False, help="Addresses of servers of one model: http://a:8000."),
    ] = None,
    host: Annotated[str | None, options.setting("route.host", metavar="ADDRESS")] = None,
    port: Annotated[int | None, options.setting("route.port", "-p", metavar="N")] = None,
    api_key: Annotated[str | None, options.setting("route.api_key", metavar="KEY")] = None,
    allowed_host: Annotated[list[str] | None, options.setting("route.allowed_host", metavar="NAME")] = None,
    policy: Annotated[str | None, options.setting("route.policy", metavar="NAME")] = None,
    slack: Annotated[int | None, options.setting("route.slack", metavar="N")] = None,
    remembered: Annotated[int | None, options.setting("route.remembered", metavar="N")] = None,
    connect_timeout: Annotated[float | None, options.setting("route.connect_timeout", metavar="SECONDS")] = None,
    timeout: Annotated[float | None, options.setting("route.timeout", metavar="SECONDS")] = None,
    health_interval: Annotated[float | None, options.setting("route.health_interval", metavar="SECONDS")] = None,
    health_timeout: Annotated[float | None, options.setting("route.health_timeout", metavar="SECONDS")] = None,
    max_body: Annotated[str | None, options.setting("route.max_body", metavar="SIZE")] = None,
    max_bodies: Annotated[str | None, options.setting("route.max_bodies", metavar="SIZE")] = None,
    receive_timeout: Annotated[float | None, options.setting("route.receive_timeout", metavar="SECONDS")] = None,
    max_connections_per_client: Annotated[
        int | None, options.setting("route.max_connections_per_client", metavar="N")
    ] = None,
    drain: Annotated[float | None, options.setting("route.drain", metavar="SECONDS")] = None,
    log_level: Annotated[str | None, options.setting("route.log_level", metavar="LEVEL")] = None,
) -> None:
    """Send requests to several servers, each where its prompt's beginning is in the cache.

    Any server of OpenAI's API may stand behind; of those of `tinyllm serve` it is known how busy they are, too.
    What is not given comes from its variable, or the table `route` of tinyllm.toml.
    Requests are logged on stderr, a JSON object each; SIGTERM and Ctrl-C let those that run end.
    """
    with options.extra("route", "serve"):
        from tinyllm.scale.route.app import RouterApp
        from tinyllm.server.access import allowed_hosts, is_loopback
        from tinyllm.server.connections import Connections
        from tinyllm.server.logs import configure
        from tinyllm.server.run import open_socket, run
    from tinyllm.scale.policy import make_policy
    from tinyllm.settings.read import read_settings

    chosen = options.resolved("route", read_settings(), context.params)
    configure(chosen.log_level)
    found = RouterApp(
        urls or (),
        make_policy(chosen.policy, chosen.slack, chosen.remembered),
        api_key=chosen.api_key,
        hosts=allowed_hosts(chosen.host, chosen.allowed_host, "route"),
        connect_timeout=chosen.connect_timeout,
        timeout=chosen.timeout,
        health_interval=chosen.health_interval,
        health_timeout=chosen.health_timeout,
        max_body=chosen.max_body,
        max_bodies=chosen.max_bodies,
        receive_timeout=chosen.receive_timeout,
        drain=chosen.drain,
    )
    listening = open_socket(chosen.host, chosen.port, "route")
    if not is_loopback(chosen.host) and chosen.api_key is None:
        note(f"warning: route: {chosen.host} can be reached from other machines, and there is no --api-key")
    address = f"http://{f'[{chosen.host}]' if ':' in chosen.host else chosen.host}:{listening.getsockname()[1]}"
    note(f"{address} answers with 503 until a replica takes requests")
    connections = Connections(most_per_client=chosen.max_connections_per_client, receive_timeout=chosen.receive_timeout)
    line = f"{address} routes to {len(urls or ())} replicas, {chosen.policy}"
    run(found.app, found.router, listening, lambda: print(line, flush=True), connections)
