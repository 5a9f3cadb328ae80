"""tinyllm: write a backend for language models, prove it op by op, serve a real model on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Affine", "Int8", "QuantWeight", "__version__", "load", "ops", "use_backend"]

if TYPE_CHECKING:
    from tinyllm import ops
    from tinyllm.catalogue.schemes.affine import Affine
    from tinyllm.catalogue.schemes.int8 import Int8
    from tinyllm.llm import load
    from tinyllm.registry.selection import use_backend
    from tinyllm.spec.scheme import QuantWeight


def __getattr__(name: str) -> Any:
    """Names are looked up at first use: importing tinyllm costs next to nothing and loads no plugin."""
    import importlib

    homes = {
        "Affine": "tinyllm.catalogue.schemes.affine",
        "Int8": "tinyllm.catalogue.schemes.int8",
        "QuantWeight": "tinyllm.spec.scheme",
        "load": "tinyllm.llm",
        "ops": "tinyllm.ops",
        "use_backend": "tinyllm.registry.selection",
    }
    if name not in homes:
        raise AttributeError(f"module 'tinyllm' has no attribute {name!r}")
    module = importlib.import_module(homes[name])
    return module if name == "ops" else getattr(module, name)
