"""tinyllm: write a backend for language models, prove it op by op, serve a real model on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["__version__", "load", "ops", "use_backend"]

if TYPE_CHECKING:
    from tinyllm import ops
    from tinyllm.llm import load
    from tinyllm.registry.selection import use_backend


def __getattr__(name: str) -> Any:
    """Names are looked up at first use: importing tinyllm costs next to nothing and loads no plugin."""
    import importlib

    homes = {"ops": "tinyllm.ops", "load": "tinyllm.llm", "use_backend": "tinyllm.settings.read"}
    if name not in homes:
        raise AttributeError(f"module 'tinyllm' has no attribute {name!r}")
    module = importlib.import_module(homes[name])
    return module if name == "ops" else getattr(module, name)
