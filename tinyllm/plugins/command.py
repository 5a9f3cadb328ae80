"""Commands that a plugin adds to the command line."""

from __future__ import annotations

from dataclasses import dataclass

RESERVED = (
    "backends",
    "batch",
    "bench",
    "bisect",
    "cache",
    "chat",
    "check",
    "compare",
    "config",
    "deploy",
    "diff",
    "doctor",
    "export-definitions",
    "generate",
    "graph",
    "models",
    "new-backend",
    "ops",
    "perplexity",
    "plan",
    "pull",
    "quantize",
    "report",
    "route",
    "serve",
    "simulate",
    "trace",
    "which",
)
"""Names of tinyllm's own commands, which no plugin may take."""


@dataclass(frozen=True)
class Command:
    """A plugin's own commands under one name, `tinyllm native build`.

    Args:
        name: what users type after `tinyllm`.
        load: `"module:app"`, a `typer.Typer`; imported when the command is run, and at no other time.
    """

    name: str
    load: str
