"""Commands that plugins bring. Plugins are looked through only for a name that is none of tinyllm's own."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup


class Root(TyperGroup):
    """The group of all commands: tinyllm's own, and after them those of plugins.

    Help lists its own alone, as it would take longer than a whole `tinyllm --help` to load the plugins.
    """

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name, or None. Raises `PluginError` where a plugin's cannot be loaded."""
        return super().get_command(ctx, cmd_name) or _of_plugin(cmd_name)


def _of_plugin(name: str) -> Any:
    """What a plugin has under a name; None: no plugin has anything."""
    import typer
    from typer.main import get_group

    from tinyllm.errors import PluginError
    from tinyllm.plugins.kernel import resolve
    from tinyllm.registry.registry import default_registry

    plugins = default_registry().plugins
    if name in plugins.broken:
        error = plugins.broken[name]
        raise PluginError(f"command {name!r}: its plugin is broken: {type(error).__name__}: {error}") from error
    if name not in plugins.commands:
        return None
    app: Any = resolve(plugins.commands[name].load, f"command {name!r}")
    if not isinstance(app, typer.Typer):
        raise PluginError(f"command {name!r}: load: expected a typer.Typer, got {app!r}")
    return get_group(app)  # not `get_command`, which adds options that only the root should have
