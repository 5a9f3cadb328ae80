"""`tinyllm deploy`: replicas of a model on a Ray cluster."""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from tinyllm.cli import options, session
from tinyllm.cli.output import note
from tinyllm.cli.serve import app_options, engine_settings
from tinyllm.settings.known import known_settings
from tinyllm.settings.read import DEFAULT, Setting, read_settings


def deploy(
    context: typer.Context,
    model: options.KnownModelName = None,
    replicas: Annotated[
        int | None, typer.Option("--replicas", metavar="N", min=1, show_default="1", help="How many replicas.")
    ] = None,
    least: Annotated[
        int | None, typer.Option("--min", metavar="N", min=1, help="Fewest that a low load leaves.")
    ] = None,
    most: Annotated[int | None, typer.Option("--max", metavar="N", min=1, help="Most that a high load gets.")] = None,
    target_ongoing: Annotated[
        float | None,
        typer.Option(
            "--target-ongoing",
            metavar="N",
            show_default="half of max_running",
            help="Requests that a replica is to have at a time, between --min and --max.",
        ),
    ] = None,
    cpus_per_replica: Annotated[
        float, typer.Option("--cpus-per-replica", metavar="K", help="Cores that a replica gets, and threads.")
    ] = 1.0,
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            metavar="ADDRESS",
            show_default="a Ray of its own",
            help="The Ray cluster to join; auto: the one that runs on this machine.",
        ),
    ] = None,
    policy: Annotated[
        str, typer.Option("--policy", metavar="NAME", help="How a replica is chosen: warm, least-loaded, round-robin.")
    ] = "warm",
    backend: options.BackendName = None,
    host: Annotated[str | None, options.setting("serve.host", metavar="ADDRESS")] = None,
    port: Annotated[int | None, options.setting("serve.port", "-p", metavar="N")] = None,
    served_name: Annotated[str | None, options.setting("serve.served_name", metavar="NAME")] = None,
    fast: options.Fast = None,
    kv_cache_dtype: options.KvCacheDtype = None,
    tensor_parallel: Annotated[
        int,
        typer.Option("--tensor-parallel", metavar="N", min=1, help="Processes that share a replica's model out."),
    ] = 1,
    dtype: options.Dtype = None,
) -> None:
    """Serve a model with several replicas on Ray, behind one address.

    A request goes to a replica that has its prefix, among those with little to do.
    What `tinyllm serve` takes as further options comes from their variables, or the table `serve` of tinyllm.toml.
    Without --address Ray is started on this machine, and ended with the command.
    """
    with options.extra("deploy", "ray"):
        from tinyllm.engine.grammar.limits import GrammarLimits
        from tinyllm.scale.deploy.replica import Plan
        from tinyllm.scale.deploy.run import cluster, deployed
        from tinyllm.scale.deploy.scaling import Scaling
        from tinyllm.scale.policy import make_policy
        from tinyllm.server.access import is_loopback
        from tinyllm.server.run import open_socket

    make_policy(policy)  # a wrong name is an error before anything is started
    scaling = Scaling(replicas, least, most, target_ongoing, cpus_per_replica, tensor_parallel)
    settings = read_settings()
    unsaid = {spec.key: None for spec in known_settings().values() if spec.table == "serve"}
    chosen = options.resolved("serve", settings, unsaid | context.params)
    name = session.model_name(model)
    place = str(Path(name).resolve()) if Path(name).exists() else name  # a replica works in another folder
    plan = Plan(
        chosen.served_name or options.served_name(name),
        partial(session.load_model, place, backend, dtype, fast, kv_cache_dtype, tensor_parallel=tensor_parallel),
        engine_settings(chosen),
        GrammarLimits.of(settings),
        app_options(chosen),
        chosen.log_level,
    )
    with open_socket(
        chosen.host, chosen.port, "deploy"
    ) as listening:  # whether it is free is told at once, and 0 is any
        port = listening.getsockname()[1]
    if not is_loopback(chosen.host) and chosen.api_key is None:
        note(f"warning: deploy: {chosen.host} can be reached from other machines, and there is no api_key")
    shown = f"http://{f'[{chosen.host}]' if ':' in chosen.host else chosen.host}:{port}"
    with cluster(address, scaling):
        for number in (signal.SIGINT, signal.SIGTERM):  # Ray has handlers of its own
            signal.signal(number, signal.default_int_handler)
        with deployed(plan, scaling, chosen.host, port, policy, _variables(settings)) as own_address:
            where = shown if own_address else "the address of the cluster's Ray Serve"
            print(f"{where} serves {plan.name} with {scaling.first} replicas", flush=True)
            with suppress(KeyboardInterrupt):
                while True:  # a signal may reach a thread of Ray's, which would not wake this one
                    time.sleep(0.2)


def _variables(settings: Mapping[str, Setting]) -> dict[str, str]:
    """What is set here as variables, so that it holds in processes that begin in other folders and on other machines.
    The table `serve` is in the plan already; secrets are no one's business."""
    found: dict[str, str] = {}
    for name, spec in known_settings().items():
        value = settings[name].value
        if settings[name].source != DEFAULT and not spec.table and not spec.kind.secret and value is not None:
            found[spec.variable] = ",".join(value) if isinstance(value, list) else str(value)
    return found
