"""Starts replicas on a Ray cluster, and ends them."""

from __future__ import annotations

import logging
import os
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import ray
from ray import serve
from ray.serve.config import AutoscalingConfig, HTTPOptions, RequestRouterConfig
from ray.serve.schema import LoggingConfig

from tinyllm.errors import TinyllmError
from tinyllm.scale.deploy.front import Front
from tinyllm.scale.deploy.replica import Plan, Replica
from tinyllm.scale.deploy.scaling import Scaling

APPLICATION = "tinyllm"
_CONNECT_SECONDS = 5.0
_LAST_SECONDS = 10.0
"""The time that a replica has to end once the requests had theirs."""
_MANY = 100_000
"""Requests that the front takes at a time: it only hands them on, and each replica has limits of its own."""
_STORE = 100 << 20
"""Bytes of the store of shared objects of a Ray that is started here: messages are smaller than what it is for."""


@contextmanager
def cluster(address: str | None, scaling: Scaling) -> Iterator[None]:
    """Ray, started on this machine (None) or joined at an address, with room for the replicas. What was started is
    ended.

    Raises `TinyllmError` where there is no such cluster, or no room in it.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    own = {} if address else {"include_dashboard": False, "object_store_memory": _STORE}
    try:
        if reachable := re.fullmatch(r"(?:ray://)?\[?([^/]+?)\]?:(\d+)", address or ""):
            # Ray itself tries for a minute, and then ends the process
            socket.create_connection((reachable[1], int(reachable[2])), _CONNECT_SECONDS).close()
        ray.init(address or "local", logging_level=logging.ERROR, log_to_driver=False, **own)
    except (OSError, OverflowError, ValueError, RuntimeError) as error:
        told = " ".join(str(error).split())
        raise TinyllmError(f"deploy: {address or 'ray'}: the cluster cannot be joined: {told}") from error
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    try:
        machines = [node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]]
        scaling.check_room(machines, ray.available_resources().get("CPU", 0.0))
        yield
    finally:
        ray.shutdown()


@contextmanager
def deployed(
    plan: Plan, scaling: Scaling, host: str, port: int, policy: str, variables: Mapping[str, str]
) -> Iterator[bool]:
    """The replicas and their front, which answers once this begins. In the end running requests have `drain` seconds,
    and all that was started is gone.

    Gives whether it answers at that address: a Ray Serve that runs on the cluster already keeps its own.

    Args:
        policy: how a replica is chosen.
        variables: of the environment of each replica.

    Raises `TinyllmError` where the replicas cannot be started.
    """
    before = serve.status()
    if APPLICATION in before.applications:
        raise TinyllmError(f"deploy: the cluster has an application {APPLICATION!r} already, which has to end first")
    try:
        serve.start(http_options=HTTPOptions(host=host, port=port))
        try:
            serve.run(application(plan, scaling, policy, variables), name=APPLICATION, route_prefix="/")
        except RuntimeError as error:
            raise TinyllmError(f"deploy: the replicas could not be started: {_cause()}") from error
        yield not before.proxies
    finally:
        with suppress(TimeoutError):  # what is left is killed
            serve.delete(APPLICATION)
        if not (before.proxies or serve.status().applications):
            serve.shutdown()


def application(plan: Plan, scaling: Scaling, policy: str, variables: Mapping[str, str]) -> Any:
    """What Ray Serve runs: the front, with the replicas behind it."""
    sizes, app, threads = plan.sizes, plan.app, str(scaling.threads)
    environment = {"TINYLLM_NATIVE_THREADS": threads, "OMP_NUM_THREADS": threads} | dict(variables)
    logs = LoggingConfig(enable_access_log=False, log_level="WARNING")
    number: dict[str, Any] = {"num_replicas": scaling.first}
    if scaling.most is not None:
        number = {
            "autoscaling_config": AutoscalingConfig(
                min_replicas=scaling.first_least,
                initial_replicas=scaling.first,
                max_replicas=scaling.most,
                target_ongoing_requests=scaling.target or max(1.0, sizes.max_running / 2),
                upscale_delay_s=scaling.up_seconds,
                downscale_delay_s=scaling.down_seconds,
                look_back_period_s=scaling.window,
            )
        }
    replicas = serve.deployment(Replica).options(
        **number,
        ray_actor_options={"num_cpus": scaling.cpus, "runtime_env": {"env_vars": environment}},
        # past it a replica says 429 itself; questions about its state come beside
        max_ongoing_requests=2 * (sizes.max_running + sizes.max_waiting),
        max_queued_requests=max(1, sizes.max_waiting),
        graceful_shutdown_wait_loop_s=0.2,
        graceful_shutdown_timeout_s=app["drain"] + _LAST_SECONDS,
        health_check_period_s=1.0,
        health_check_timeout_s=30.0,
        request_router_config=RequestRouterConfig(
            request_router_class="tinyllm.scale.deploy.router.PolicyRouter",
            request_router_kwargs={"policy": policy},
            request_routing_stats_period_s=0.5,
        ),
        logging_config=logs,
    )
    front = serve.deployment(Front).options(
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=_MANY,
        graceful_shutdown_wait_loop_s=0.2,
        graceful_shutdown_timeout_s=app["drain"] + _LAST_SECONDS,
        logging_config=logs,
    )
    return front.bind(replicas.bind(plan), *(app[name] for name in ("max_body", "max_bodies", "receive_timeout")))


def _cause() -> str:
    """What keeps the replicas from starting: the error at the end of what Ray says of them."""
    application = serve.status().applications.get(APPLICATION)
    deployments = application.deployments.values() if application else ()
    for text in (*(deployment.message for deployment in deployments), application.message if application else ""):
        errors = [line for line in text.splitlines() if re.match(r"[\w.]+(Error|Exception): ", line)]
        if errors:
            return str(errors[-1].partition(": ")[2])
    return "Ray's logs have the cause"
