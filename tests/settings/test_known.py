"""What the parts of tinyllm declare: one name each, and no cost to know them."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import pytest

from tinyllm.settings.kinds import FLAG
from tinyllm.settings.known import MODULES, SettingSpec, known_settings


def test_each_setting_stands_in_the_table_of_its_part() -> None:
    for module in MODULES:
        room = module.split(".")[1]
        table = {"settings": "", "server": "serve", "scale": "route"}.get(room, room)
        assert {spec.table for spec in known_settings((module,)).values()} == {table}


def test_variables_are_named_after_their_settings() -> None:
    """One rule gives the names of all variables but those of the key and of llama.cpp's library."""
    by_rule = {name: f"TINYLLM_{name.replace('.', '_').upper()}" for name in known_settings()}
    assert {name: spec.variable for name, spec in known_settings().items()} == by_rule | {
        "serve.api_key": "TINYLLM_API_KEY",
        "bench.llama_cpp": "TINYLLM_LLAMA_CPP",
    }


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        (SettingSpec("serve.port", FLAG, False, "another"), "serve.port"),
        (SettingSpec("api_key", FLAG, False, "another"), "TINYLLM_API_KEY"),
        (SettingSpec("other", FLAG, False, "another", "TINYLLM_FAST"), "TINYLLM_FAST"),
    ],
)
def test_no_two_parts_declare_one_name(spec: SettingSpec, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither of a setting nor of its variable; the error says where both are."""
    other = ModuleType("other_part")
    other.SETTINGS = (spec,)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "other_part", other)
    with pytest.raises(ValueError, match=rf"{name} is declared twice, in tinyllm\.\w+\.\w+ and in other_part"):
        known_settings((*MODULES, "other_part"))


def test_knowing_them_imports_no_library() -> None:
    """Every command reads settings, so that a part's declarations must not bring the part with them."""
    code = """
import sys
before = {*sys.modules}
from tinyllm.settings.known import known_settings
known_settings()
print(*sorted({*sys.modules} - before))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = {name for name in run.stdout.split() if name.partition(".")[0] not in sys.stdlib_module_names}
    assert imported <= {
        "tinyllm",
        "tinyllm.errors",
        "tinyllm.settings",
        "tinyllm.settings.kinds",
        "tinyllm.settings.known",
        *MODULES,
        *(module.rpartition(".")[0] for module in MODULES),
    }
