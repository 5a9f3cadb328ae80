"""Which backend runs what: as an argument, `use_backend`, a variable or a file says it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from difflib import SequenceMatcher
from fnmatch import fnmatchcase

from tinyllm.errors import ConfigError
from tinyllm.settings.read import DEFAULT


@dataclass(frozen=True)
class Selection:
    """Which backend runs what: a default `name` or `name:device`, and choices per op and per node of a model.

    per_node: patterns of node names (`model.layers.3.*`), as they were written. Where several choices fit a node, a
    pattern goes before an op, an op before the default, and of patterns the later one.
    """

    default: str | None
    per_op: tuple[tuple[str, str], ...] = ()
    source: str = DEFAULT
    per_node: tuple[tuple[str, str], ...] = ()

    def for_op(self, op: str) -> str | None:
        """The backend (with device) asked for, for this op."""
        return dict(self.per_op).get(op, self.default)

    def for_node(self, name: str, op: str) -> str | None:
        """The backend (with device) asked for, for this node of a model."""
        return next((backend for pattern, backend in reversed(self.per_node) if fits(pattern, name)), self.for_op(op))


def fits(pattern: str, node: str) -> bool:
    """Whether a pattern names a node: `*` stands for any characters, dots too, `?` for one. Of calls that were merged
    into one node (`q_proj.linear+k_proj.linear`), any may be named."""
    return any(fnmatchcase(name, pattern) for name in (node, *node.split("+")))


def nearest(pattern: str, nodes: Iterable[str], most: int = 3) -> list[str]:
    """The names that have most of a pattern's characters in its order, the shortest first among equals."""
    wanted = re.sub(r"[*?]", "", pattern)

    def shared(name: str) -> int:
        return sum(block.size for block in SequenceMatcher(None, wanted, name, autojunk=False).get_matching_blocks())

    return sorted(nodes, key=lambda name: (-shared(name), len(name)))[:most]


def parse_selection(text: str, source: str) -> Selection:
    """`torch`, `torch:cuda`, `linear=torch,*=mlx`, or with patterns of node names `model.layers.3.*=torch,*=mlx`.

    Raises:
        ConfigError: no text, a part without a name, or an op or a pattern named twice.
    """
    wrong = ConfigError(
        f"{source}: backend {text!r}: expected NAME, NAME:DEVICE or OP=NAME,NODES=NAME,...,*=NAME, each of them once"
    )
    if not isinstance(text, str):
        raise wrong
    chosen: dict[str, str] = {}
    for part in (p.strip() for p in text.split(",")):
        what, separator, backend = (x.strip() for x in part.partition("="))
        if not separator:
            what, backend = "*", what
        if not what or not all(backend.split(":")) or what in chosen:
            raise wrong
        chosen[what] = backend
    default = chosen.pop("*", None)
    per_op = sorted(item for item in chosen.items() if not is_pattern(item[0]))
    return Selection(default, tuple(per_op), source, tuple(i for i in chosen.items() if is_pattern(i[0])))


def is_pattern(what: str) -> bool:
    """Whether nodes are named, and not an op."""
    return any(character in what for character in ".*?[")


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
