"""Packages that are installed beside tinyllm and do harm: they are kept aside and named, and every command goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import EntryPoint, distribution
from pathlib import Path

import pytest

from tinyllm.catalogue import CATALOGUE
from tinyllm.plugins.load import load_plugins

BACKEND = """
import sys
from tinyllm.plugins import Backend, BackendPlugin, Probe, hookimpl
def probe():
    {probe}
    return Probe(True, "made up", 99)
def load(device):
    raise OSError("never asked for")
@hookimpl
def tinyllm_backends():
    return [BackendPlugin({name!r}, probe, load)]
"""
OWN = sorted(point.name for point in distribution("tinyllm").entry_points if point.group == "tinyllm")


def install(folder: Path, point: str, source: str) -> None:
    """A package of one module, `foreign`, with an entry point of this name."""
    info = folder / "aaa_foreign-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: aaa-foreign\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[tinyllm]\n{point} = foreign\n")
    (folder / "foreign.py").write_text(source)


def run(folder: Path, *arguments: str) -> str:
    """What a command prints in a process that finds the package before tinyllm's own."""
    paths = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "tinyllm.cli.main", *arguments]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_module_that_leaves_when_it_is_imported(tmp_path: Path) -> None:
    install(tmp_path, "torn", "import sys; sys.exit('no licence')")
    listed = json.loads(run(tmp_path, "backends", "--json"))
    assert listed["broken"] == {"torn": "PluginError: the import failed: SystemExit: no licence"}
    assert {row["name"] for row in listed["backends"]} == {*OWN}
    assert "plugin torn is broken and was left out" in run(tmp_path, "doctor", "--json")
    assert json.loads(run(tmp_path, "which", "softmax", "-b", "numpy", "--json"))["backend"] == "numpy:cpu"


def test_a_probe_that_leaves(tmp_path: Path) -> None:
    install(tmp_path, "torn", BACKEND.format(name="torn", probe="sys.exit(3)"))
    rows = {row["name"]: row for row in json.loads(run(tmp_path, "backends", "--json"))["backends"]}
    assert rows["torn"]["about"] == "probe failed: SystemExit: 3" and not rows["torn"]["available"]
    assert sum(row["selected"] for row in rows.values()) == 1


@pytest.mark.parametrize("own", OWN)
@pytest.mark.parametrize("taken", ["plugin", "backend"])
def test_a_package_that_takes_a_name_of_ours(
    own: str, taken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the plugin's name, or as its backend's; whichever is found first."""
    install(tmp_path, own, BACKEND.format(name=own if taken == "backend" else "mine", probe="pass"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "foreign", raising=False)
    foreign = EntryPoint(own if taken == "plugin" else "mine", "foreign", "tinyllm")
    ours = [point for point in distribution("tinyllm").entry_points if point.group == "tinyllm"]
    for found in ([foreign, *ours], [*ours, foreign]):
        plugins = load_plugins(CATALOGUE, found=found)
        assert {*plugins.backends} == {*OWN}
        assert plugins.backends[own].load.__module__ == f"tinyllm_{own}"
        ((name, error),) = plugins.broken.items()
        assert name == (f"{own} (foreign)" if taken == "plugin" else "mine")
        assert f"'{own}'" in str(error) and "already" in str(error)


def test_the_process_has_ours_though_the_foreign_package_is_found_first(tmp_path: Path) -> None:
    install(tmp_path, "numpy", BACKEND.format(name="numpy", probe="pass"))
    listed = json.loads(run(tmp_path, "backends", "--json"))
    assert list(listed["broken"]) == ["numpy (foreign)"]
    assert json.loads(run(tmp_path, "which", "softmax", "-b", "numpy", "--json"))["backend"] == "numpy:cpu"
