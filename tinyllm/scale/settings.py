"""The settings of `tinyllm route`: its options, and the table `route` of a file."""

from __future__ import annotations

from tinyllm.server.settings import MAX_BODIES, MAX_BODY, RECEIVE_TIMEOUT
from tinyllm.settings.kinds import COUNT, NAMES, TEXT, Bytes, Kind
from tinyllm.settings.known import SettingSpec

SLACK = 4
"""By how many requests a replica that has the prefix may be busier than the least busy one."""
REMEMBERED = 4096
"""Keys of prefixes that are remembered of each replica."""
POLICIES = ("warm", "least-loaded", "round-robin")
_SECONDS = Kind(float, low=0.001)

SETTINGS = (
    SettingSpec("route.host", TEXT, "127.0.0.1", "where to listen; 0.0.0.0 is everywhere"),
    SettingSpec("route.port", Kind(int, low=0, high=65535), 8080, "where to listen; 0 takes any that is free"),
    SettingSpec(
        "route.api_key", Kind(str, secret=True), None, "what clients have to show, and replicas are shown; unset: none"
    ),
    SettingSpec(
        "route.allowed_host",
        NAMES,
        [],
        "a name to be reached by, beside localhost; unset: any, unless it listens on loopback",
    ),
    SettingSpec("route.policy", Kind(str, choices=POLICIES), "warm", "how a replica is chosen: " + ", ".join(POLICIES)),
    SettingSpec(
        "route.slack",
        Kind(int, low=0),
        SLACK,
        "requests that a replica with the prefix may have more than the least busy one",
    ),
    SettingSpec("route.remembered", COUNT, REMEMBERED, "blocks of prompts that are remembered of each replica"),
    SettingSpec("route.connect_timeout", _SECONDS, 2.0, "seconds in which a replica has to take a connection"),
    SettingSpec("route.timeout", _SECONDS, 600.0, "seconds in which a replica has to send something"),
    SettingSpec("route.health_interval", _SECONDS, 1.0, "seconds between two looks at a replica"),
    SettingSpec("route.health_timeout", _SECONDS, 5.0, "seconds in which a replica has to say how it is"),
    SettingSpec("route.max_body", Kind(Bytes, low=1), MAX_BODY, "most bytes of a request, or 8MB, 8MiB"),
    SettingSpec(
        "route.max_bodies", Kind(Bytes, low=1), MAX_BODIES, "most bytes of all requests that are still being received"
    ),
    SettingSpec(
        "route.receive_timeout",
        _SECONDS,
        RECEIVE_TIMEOUT,
        "seconds in which the head of a request has to come, and its body",
    ),
    SettingSpec("route.max_connections_per_client", COUNT, 4096, "most connections of one address"),
    SettingSpec("route.drain", Kind(float, low=0), 30.0, "seconds that running requests have to end, after SIGTERM"),
    SettingSpec(
        "route.log_level",
        Kind(str, choices=("debug", "info", "warning", "error")),
        "info",
        "debug, info, warning or error",
    ),
)
