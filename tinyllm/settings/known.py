"""Every setting there is: its variable, what it may be, its default, its meaning. Files, variables and options are held
to this alike."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, NamedTuple

from tinyllm.errors import ConfigError

_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


class Bytes(int):
    """A size, written as a number or with a unit: `4MB`, `512 KiB`."""

    @classmethod
    def of(cls, text: str) -> Bytes:
        """Raises `ValueError` for other text."""
        match = re.fullmatch(r"([0-9]+) ?([A-Za-z]*)", text.strip())
        if not match or match[2].upper() not in _UNITS:
            raise ValueError(text)
        return cls(int(match[1]) * _UNITS[match[2].upper()])


@dataclass(frozen=True)
class Kind:
    """What a setting may be.

    Args:
        type: str, int, float, bool, `Bytes`, or list (of str). low, high: bounds of a number, both allowed.
        choices: of a text. secret: never shown.
    """

    type: type
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    secret: bool = False

    @property
    def expected(self) -> str:
        """In words, with the range."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        number = {int: "an integer", float: "a number", Bytes: "a number of bytes"}.get(self.type, self.type.__name__)
        if self.low is None:
            return number
        return (
            f"{number} of at least {self.low:g}"
            if self.high is None
            else f"{number} from {self.low:g} to {self.high:g}"
        )


class Known(NamedTuple):
    """A setting. Its name is that of an option with `_` for `-`, after the command whose it is: `serve.max_body`."""

    variable: str
    kind: Kind
    default: Any
    meaning: str

    def public(self, value: Any) -> Any:
        """The value, unless it is a secret."""
        return "(set)" if self.kind.secret and value else value


_TEXT, _FLAG, _NAMES, _COUNT = Kind(str), Kind(bool), Kind(list), Kind(int, low=1)

KNOWN: dict[str, Known] = {
    "backend": Known(
        "TINYLLM_BACKEND",
        _TEXT,
        None,
        "backend, `name:device`, or per op `linear=torch,*=mlx`; unset: the best available",
    ),
    "kernels": Known("TINYLLM_KERNELS", _TEXT, "", "pinned kernels, `mlx/sdpa=scratch,torch/linear=fused`"),
    "fast": Known("TINYLLM_FAST", _FLAG, False, "allow kernels that round activations or scales (exact=False)"),
    "model": Known("TINYLLM_MODEL", _TEXT, "smollm2", "the model that is used when none is named"),
    "max_tokens": Known("TINYLLM_MAX_TOKENS", _COUNT, 256, "tokens to generate when not said"),
    "serve.host": Known("TINYLLM_SERVE_HOST", _TEXT, "127.0.0.1", "where to listen; 0.0.0.0 is everywhere"),
    "serve.port": Known(
        "TINYLLM_SERVE_PORT", Kind(int, low=0, high=65535), 8000, "where to listen; 0 takes any that is free"
    ),
    "serve.api_key": Known(
        "TINYLLM_API_KEY", Kind(str, secret=True), None, "what clients have to show; unset: nothing"
    ),
    "serve.cors": Known("TINYLLM_SERVE_CORS", _NAMES, [], "an origin whose pages may ask; unset: none"),
    "serve.allowed_host": Known(
        "TINYLLM_SERVE_ALLOWED_HOST",
        _NAMES,
        [],
        "a name to be reached by, beside localhost; unset: any, unless it listens on loopback",
    ),
    "serve.served_name": Known(
        "TINYLLM_SERVE_SERVED_NAME", _TEXT, None, "the name that clients ask for; unset: the model's"
    ),
    "serve.cache_tokens": Known("TINYLLM_SERVE_CACHE_TOKENS", _COUNT, 16384, "tokens that the KV cache holds"),
    "serve.pages": Known("TINYLLM_SERVE_PAGES", _COUNT, None, "the same in pages; unset: as many as cache_tokens says"),
    "serve.page_size": Known(
        "TINYLLM_SERVE_PAGE_SIZE", _COUNT, None, "tokens of a page; unset: what suits the backend"
    ),
    "serve.max_step_tokens": Known(
        "TINYLLM_SERVE_MAX_STEP_TOKENS", _COUNT, 512, "most tokens of a step: how long a prompt may hold up others"
    ),
    "serve.max_running": Known("TINYLLM_SERVE_MAX_RUNNING", _COUNT, 64, "most replies written at a time"),
    "serve.max_waiting": Known(
        "TINYLLM_SERVE_MAX_WAITING", Kind(int, low=0), 256, "most that wait; past it clients get 429"
    ),
    "serve.batch_invariant": Known(
        "TINYLLM_SERVE_BATCH_INVARIANT",
        _FLAG,
        False,
        "one reply a step, so that its bits don't depend on who else is there; slower",
    ),
    "serve.max_body": Known(
        "TINYLLM_SERVE_MAX_BODY", Kind(Bytes, low=1), Bytes(4 << 20), "most bytes of a request, or 8MB, 8MiB"
    ),
    "serve.timeout": Known(
        "TINYLLM_SERVE_TIMEOUT", Kind(float, low=0.001), None, "seconds that a request has; unset: no end"
    ),
    "serve.drain": Known(
        "TINYLLM_SERVE_DRAIN", Kind(float, low=0), 30.0, "seconds that running requests have to end, after SIGTERM"
    ),
    "serve.log_level": Known(
        "TINYLLM_SERVE_LOG_LEVEL",
        Kind(str, choices=("debug", "info", "warning", "error")),
        "info",
        "debug, info, warning or error",
    ),
    "batch.max_running": Known("TINYLLM_BATCH_MAX_RUNNING", _COUNT, 64, "most replies written at a time"),
    "batch.max_step_tokens": Known("TINYLLM_BATCH_MAX_STEP_TOKENS", _COUNT, 512, "most tokens of one step"),
    "batch.cache_tokens": Known(
        "TINYLLM_BATCH_CACHE_TOKENS", Kind(int, low=64), 16384, "tokens that the KV cache holds"
    ),
}
"""By name; what stands before a dot is the table. `TINYLLM_CACHE` moves the folder of pulled models."""

TABLES = tuple(dict.fromkeys(name.partition(".")[0] for name in KNOWN if "." in name))


def from_file(where: str, value: Any, kind: Kind) -> Any:
    """A value of a file, as its type. Raises `ConfigError` for another type or one out of range."""
    if kind.type is Bytes and isinstance(value, str):
        return from_text(where, value, kind)
    if kind.type is list:
        fits = isinstance(value, list) and all(isinstance(one, str) for one in value)
    else:
        fits = type(value) is kind.type or (type(value) is int and kind.type in (float, Bytes))
    if not fits:
        wanted = {list: "a list of str", Bytes: "bytes, as an integer or text such as '4MB'"}.get(
            kind.type, kind.type.__name__
        )
        raise ConfigError(f"{where}: expected {wanted}, got {_got(value, kind)}")
    return in_range(where, value if kind.type is list else kind.type(value), kind)


def from_text(where: str, text: str, kind: Kind) -> Any:
    """A value of a variable. Raises `ConfigError` as `from_file` does; a list has commas."""
    if kind.type is bool:
        if text.lower() not in ("1", "true", "yes", "on", "0", "false", "no", "off"):
            raise ConfigError(f"{where}: expected 1 or 0, got {text!r}")
        return text.lower() in ("1", "true", "yes", "on")
    if kind.type is list:
        return [one.strip() for one in text.split(",") if one.strip()]
    try:
        value = Bytes.of(text) if kind.type is Bytes else kind.type(text)
    except ValueError as error:
        wanted = "bytes, such as 4000000, 4MB or 4MiB" if kind.type is Bytes else kind.type.__name__
        raise ConfigError(f"{where}: expected {wanted}, got {text!r}") from error
    return in_range(where, value, kind)


def in_range(where: str, value: Any, kind: Kind) -> Any:
    """The value. Raises `ConfigError` where it is out of range, or none of the choices."""
    if kind.choices and value not in kind.choices:
        raise ConfigError(f"{where}: expected {kind.expected}, got {_got(value, kind)}")
    if kind.low is not None and not kind.low <= value <= (
        value if kind.high is None else kind.high
    ):  # nan is in no range
        raise ConfigError(f"{where}: expected {kind.expected}, got {_got(value, kind)}")
    return value


def _got(value: Any, kind: Kind) -> str:
    return type(value).__name__ if kind.secret else repr(value)
