"""What an outside judge says, in our words: a call of an op and what must come of it; or why it cannot be said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tinyllm.conformance.example import Example
from tinyllm.spec.op_spec import OpSpec


class NotMappedError(Exception):
    """A judge's case that our ops cannot express, or a case of ours that the judge cannot; the message says why."""


@dataclass(frozen=True)
class Mapped:
    """A call of an op and the outputs that the judge gives, as numpy arrays."""

    op: str
    inputs: Mapping[str, Any]
    attributes: Mapping[str, Any]
    expected: tuple[Any, ...]

    def example(self, spec: OpSpec, case: str) -> Example:
        """The call as an example of its op; its dtype is that of the first output."""
        example = Example(spec, case, str(self.expected[0].dtype), dict(self.inputs), dict(self.attributes))
        example.expected = tuple(a.astype("float64") if a.dtype.kind not in "iub" else a for a in self.expected)
        return example
