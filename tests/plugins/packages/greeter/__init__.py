"""A plugin with commands, one that works and two that do not."""

from __future__ import annotations

from tinyllm.plugins import Command, hookimpl

tinyllm_spec_version = 4


@hookimpl
def tinyllm_commands() -> list[Command]:
    """`tinyllm greet`, one without a module, and one whose app is none."""
    return [
        Command("greet", "greeter.commands:app"),
        Command("lost", "greeter.nowhere:app"),
        Command("plain", "greeter.commands:hello"),
    ]
