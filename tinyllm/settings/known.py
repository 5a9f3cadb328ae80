"""Every setting that there is, gathered from the modules that declare them.

Each part declares its own in a module named `settings`. Such a module must import nothing heavy, since all of them are
imported wherever settings are read.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

from tinyllm.settings.kinds import Kind

MODULES = (
    "tinyllm.settings.general",
    "tinyllm.server.settings",
    "tinyllm.batch.settings",
    "tinyllm.bench.settings",
    "tinyllm.scale.settings",
)
"""The modules that declare settings, each in a tuple `SETTINGS`, in the order in which `tinyllm config` lists them."""


@dataclass(frozen=True)
class SettingSpec:
    """What is said of a setting once, for files, environment variables, options and help alike.

    Args:
        name: that of the option with `_` for `-`, after its table where it has one: `serve.max_body` is `max_body` in
            the table `serve`, and `--max-body` of `tinyllm serve`.
        kind: the values that it may have.
        default: its value where nobody sets it.
        meaning: one line for users. What holds while the default is None or empty follows `; unset: `.
        own_variable: the environment variable, where the name does not give it.
    """

    name: str
    kind: Kind
    default: Any
    meaning: str
    own_variable: str = ""

    @property
    def table(self) -> str:
        """The table that it stands in, such as `serve`; empty where it stands in none."""
        return self.name.rpartition(".")[0]

    @property
    def key(self) -> str:
        """Its name within the table."""
        return self.name.rpartition(".")[2]

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return self.own_variable or f"TINYLLM_{self.name.replace('.', '_').upper()}"

    def public(self, value: Any) -> Any:
        """The value as it may be shown."""
        return "(set)" if self.kind.secret and value else value


@cache
def known_settings(modules: tuple[str, ...] = MODULES) -> dict[str, SettingSpec]:
    """Every setting by its name.

    Raises:
        ValueError: a name or an environment variable is declared twice.
    """
    specs: dict[str, SettingSpec] = {}
    declared: dict[str, str] = {}
    for module in modules:
        for spec in import_module(module).SETTINGS:
            for name in (spec.name, spec.variable):
                if name in declared:
                    raise ValueError(f"settings: {name} is declared twice, in {declared[name]} and in {module}")
                declared[name] = module
            specs[spec.name] = spec
    return specs
