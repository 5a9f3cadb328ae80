"""Which backend runs what: as an argument, `use_backend`, a variable or a file says it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from tinyllm.errors import ConfigError
from tinyllm.settings.read import DEFAULT


@dataclass(frozen=True)
class Selection:
    """Which backend runs what: a default `name` or `name:device`, and choices per op."""

    default: str | None
    per_op: tuple[tuple[str, str], ...] = ()
    source: str = DEFAULT

    def for_op(self, op: str) -> str | None:
        """The backend (with device) asked for, for this op."""
        return dict(self.per_op).get(op, self.default)


def parse_selection(text: str, source: str) -> Selection:
    """`torch`, `torch:cuda`, or `linear=torch,*=mlx`.

    Raises:
        ConfigError: no text, a part without a name, or an op named twice.
    """
    wrong = ConfigError(f"{source}: backend {text!r}: expected NAME, NAME:DEVICE or OP=NAME,...,*=NAME, each op once")
    if not isinstance(text, str):
        raise wrong
    default: str | None = None
    per_op: dict[str, str] = {}
    for part in (p.strip() for p in text.split(",")):
        op, separator, backend = (x.strip() for x in part.partition("="))
        if not separator:
            op, backend = "*", op
        if not op or not all(backend.split(":")) or (op == "*" and default) or op in per_op:
            raise wrong
        if op == "*":
            default = backend
        else:
            per_op[op] = backend
    return Selection(default, tuple(sorted(per_op.items())), source)


def parse_pins(text: str, source: str) -> dict[tuple[str, str], str]:
    """`mlx/sdpa=scratch,torch/linear=fused` as `{(backend, op): kernel}`."""
    pins = {}
    for part in (p.strip() for p in text.split(",") if p.strip()):
        match = re.fullmatch(r"([\w-]+)/(\w+)\s*=\s*([\w-]+)", part)
        if not match:
            raise ConfigError(f"{source}: kernels: expected BACKEND/OP=KERNEL, got {part!r}")
        pins[match[1], match[2]] = match[3]
    return pins


_selected: ContextVar[Selection | None] = ContextVar("tinyllm_backend", default=None)


def selected() -> Selection | None:
    """What the innermost `use_backend` of this context chose."""
    return _selected.get()


@contextmanager
def use_backend(backend: str) -> Iterator[None]:
    """Choose the backend for a block: `with use_backend("torch"): ...`. Threads and tasks do not see one another's."""
    token = _selected.set(parse_selection(backend, "use_backend"))
    try:
        yield
    finally:
        _selected.reset(token)
