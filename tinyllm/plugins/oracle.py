"""An outside judge that a plugin brings: another library's answer to our cases."""

from __future__ import annotations

from dataclasses import dataclass

ONNX = "onnx"
"""The judge that the kit brings itself: ONNX's own cases, put to our ops."""


@dataclass(frozen=True)
class Oracle:
    """Asked for by name, `tinyllm check --oracle NAME`.

    Args:
        reason: `"module:function"`; the function says why the library cannot answer an `Example`, or nothing.
        answer: `"module:function"`; the function gives the library's outputs for an `Example` as float64 numpy arrays.
        package: the module that must be there.
        install: what a user runs to get it.
    """

    name: str
    reason: str
    answer: str
    package: str
    install: str
