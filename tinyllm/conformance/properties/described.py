"""How the call of an example is told."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

from tinyllm.conformance.example import Example
from tinyllm.spec.scheme import QuantWeight


def described(example: Example) -> str:
    """A call as ids write it: `sdpa[q2x3x4,k2x5x4,v2x5x4,causal,float32]`; small arrays of integers with their numbers,
    no defaults."""
    parts = []
    for name, value in example.inputs.items():
        if isinstance(value, QuantWeight):
            parts.append(f"{name} {'x'.join(map(str, value.shape))}:{value.scheme}")
        elif value.dtype.kind in "iu" and value.size <= 12:
            parts.append(f"{name}={value.tolist()}".replace(" ", ""))
        else:
            kind = "" if str(value.dtype) == example.dtype else f":{value.dtype}"
            parts.append(name + ("x".join(map(str, value.shape)) or " scalar") + kind)
    defaults = {a.name: a.default for a in example.spec.attributes}
    for name, value in example.attributes.items():
        if value is not defaults.get(name) and value != defaults.get(name):
            parts.append(name if value is True else f"{name}={_short(value)}")
    return f"{example.spec.name}[{','.join([*parts, example.dtype])}]"


def _short(value: Any) -> str:
    """Of settings, those that are not as they are by default."""
    if not is_dataclass(value) or isinstance(value, type):
        return str(value).replace(" ", "")
    changed = [f"{f.name}={_short(given)}" for f in fields(value) if (given := getattr(value, f.name)) != f.default]
    return f"{type(value).__name__}({','.join(changed)})"
