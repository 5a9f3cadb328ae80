"""The settings of `tinyllm serve`: its options, and the table `serve` of a file."""

from __future__ import annotations

from tinyllm.settings.kinds import COUNT, FLAG, NAMES, TEXT, Bytes, Kind
from tinyllm.settings.known import SettingSpec

MAX_BODY = Bytes(4 << 20)
MAX_BODIES = Bytes(64 << 20)
MAX_CONNECTIONS_PER_CLIENT = 512
RECEIVE_TIMEOUT = 20.0
_LOG_LEVEL = Kind(str, choices=("debug", "info", "warning", "error"))

SETTINGS = (
    SettingSpec("serve.host", TEXT, "127.0.0.1", "where to listen; 0.0.0.0 is everywhere"),
    SettingSpec("serve.port", Kind(int, low=0, high=65535), 8000, "where to listen; 0 takes any that is free"),
    SettingSpec(
        "serve.api_key", Kind(str, secret=True), None, "what clients have to show; unset: nothing", "TINYLLM_API_KEY"
    ),
    SettingSpec("serve.cors", NAMES, [], "an origin whose pages may ask; unset: none"),
    SettingSpec(
        "serve.allowed_host",
        NAMES,
        [],
        "a name to be reached by, beside localhost; unset: any, unless it listens on loopback",
    ),
    SettingSpec("serve.served_name", TEXT, None, "the name that clients ask for; unset: the model's"),
    SettingSpec("serve.cache_tokens", COUNT, 16384, "tokens that the KV cache holds"),
    SettingSpec("serve.pages", COUNT, None, "the same in pages; unset: as many as cache_tokens says"),
    SettingSpec("serve.page_size", COUNT, None, "tokens of a page; unset: what suits the backend"),
    SettingSpec("serve.max_step_tokens", COUNT, 512, "most tokens of a step: how long a prompt may hold up others"),
    SettingSpec("serve.max_running", COUNT, 64, "most replies written at a time"),
    SettingSpec("serve.max_waiting", Kind(int, low=0), 256, "most that wait; past it clients get 429"),
    SettingSpec(
        "serve.batch_invariant",
        FLAG,
        False,
        "one reply a step, so that its bits don't depend on who else is there; slower",
    ),
    SettingSpec("serve.max_body", Kind(Bytes, low=1), MAX_BODY, "most bytes of a request, or 8MB, 8MiB"),
    SettingSpec(
        "serve.max_bodies", Kind(Bytes, low=1), MAX_BODIES, "most bytes of all requests that are still being received"
    ),
    SettingSpec(
        "serve.max_connections_per_client", COUNT, MAX_CONNECTIONS_PER_CLIENT, "most connections of one address"
    ),
    SettingSpec(
        "serve.receive_timeout",
        Kind(float, low=0.001),
        RECEIVE_TIMEOUT,
        "seconds in which the head of a request has to come, and its body",
    ),
    SettingSpec("serve.timeout", Kind(float, low=0.001), None, "seconds that a request has; unset: no end"),
    SettingSpec("serve.drain", Kind(float, low=0), 30.0, "seconds that running requests have to end, after SIGTERM"),
    SettingSpec("serve.log_level", _LOG_LEVEL, "info", "debug, info, warning or error"),
)
