"""Which level of the native library is used: the highest that was compiled, that the processor has, that is allowed."""

from __future__ import annotations

import ctypes
import json
import subprocess
from pathlib import Path

import pytest
import tinyllm_native
from tinyllm_native import commands
from tinyllm_native.builder import build, compiler, levels
from tinyllm_native.find import VARIABLE, find_library, library_path, open_library

from tests.registry import fakes
from tinyllm.cli.main import main
from tinyllm.errors import BackendUnavailableError, ConfigError
from tinyllm.registry import registry

pytestmark = pytest.mark.skipif(compiler.c_compiler() is None, reason="no C compiler works here")
HERE = levels.machine()
EVERY = list(levels.levels(HERE))
COMMAND = "tinyllm native build"


class Place:
    """A copy of the sources that every library has, and a folder for the libraries."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.source = folder / "library", folder / "source"
        self.source.mkdir()
        for name in ("cpu.c", "library.c"):
            (self.source / name).write_bytes((levels.SOURCE / name).read_bytes())

    def build(self, runs: int | None = None) -> Place:
        """Compile them, for a processor that has the level of this number where one is given."""
        if runs is not None:
            text = (levels.SOURCE / "cpu.c").read_text()
            (self.source / "cpu.c").write_text(text.replace("return cpu_level();", f"return {runs};"))
        assert build.build(self.folder, self.source).levels == tuple(EVERY)
        return self

    @property
    def level(self) -> str:
        """The level that is used."""
        found = find_library(self.folder, self.source)
        assert bool(found.level) == (not found.reason.startswith("its library"))
        return found.level

    @property
    def reason(self) -> str:
        """Why there is none."""
        found = find_library(self.folder, self.source)
        assert not found.level
        return found.reason


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Sources that are not compiled yet, and no cap."""
    monkeypatch.delenv(VARIABLE, raising=False)
    return Place(tmp_path)


@pytest.mark.parametrize("runs", range(len(EVERY)), ids=EVERY)
def test_the_level_is_what_the_processor_has(place: Place, monkeypatch: pytest.MonkeyPatch, runs: int) -> None:
    """Lower where that is asked for, and no higher whatever is asked for."""
    place.build(runs)
    assert place.level == EVERY[runs]
    for number, cap in enumerate(EVERY):
        monkeypatch.setenv(VARIABLE, cap)
        assert place.level == EVERY[min(number, runs)]
        assert library_path(place.folder, place.source) == place.folder / f"{EVERY[min(number, runs)]}.so"
    monkeypatch.setenv(VARIABLE, "")
    assert place.level == EVERY[runs]


def test_an_unknown_level_is_an_error_that_names_those_there_are(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whether anything is compiled or not, and by every command that looks at the backends."""
    monkeypatch.setenv(VARIABLE, "avx3")
    words = f"TINYLLM_NATIVE_ISA: expected one of {', '.join(EVERY)}, got 'avx3'"
    with pytest.raises(ConfigError) as caught:
        find_library(place.folder, place.source)
    assert str(caught.value) == words
    asked = fakes.registry(tinyllm_native)
    monkeypatch.setattr(registry, "default_registry", lambda: asked)
    assert main(["backends"]) == 2 and capsys.readouterr().err == f"error: {words}\n"


def test_a_level_that_is_not_there_gives_the_one_below(place: Place) -> None:
    place.build(len(EVERY) - 1)
    (place.folder / f"{EVERY[-1]}.so").unlink()
    assert place.level == EVERY[-2]


def test_the_level_of_this_processor_runs_here(place: Place) -> None:
    """It is what the kernel's own list of flags says, where there is one."""
    place.build()
    assert open_library(place.folder, place.source).tinyllm_cpu_level() == EVERY.index(place.level)
    flags = Path("/proc/cpuinfo")
    if HERE == "x86_64" and flags.exists():
        has = {*flags.read_text().partition("\nflags")[2].partition("\n")[0].split()}
        wanted = ({"avx2", "fma", "f16c", "bmi2"}, {"avx512f", "avx512bw", "avx512dq", "avx512vl"})
        wanted = (*wanted, {"avx512_vnni", "avx512_bf16"})
        expected = next((number for number, names in enumerate(wanted) if not names <= has), len(wanted))
        assert EVERY.index(place.level) == expected


def test_other_sources_are_refused_with_the_command(place: Place) -> None:
    """A record of other sources, and a library of others than its record says."""
    place.build()
    (place.source / "more.h").write_text("\n")
    assert place.reason == "its library was built from other sources than those installed"
    with pytest.raises(BackendUnavailableError, match=f"built from other sources.*; run: {COMMAND}$"):
        library_path(place.folder, place.source)
    record = levels.read_record(place.folder)
    assert record is not None
    now = levels.Built(levels.sources_hash(place.source, HERE), record.compiler, record.levels)
    levels.write_record(place.folder, now)
    assert "portable.so was built from other sources" in place.reason


def test_each_level_says_itself_what_it_is_made_of(place: Place, tmp_path: Path) -> None:
    """One that was put there from elsewhere is refused when it is opened."""
    place.build()
    (tmp_path / "other").mkdir()
    other = Place(tmp_path / "other")
    (other.source / "more.c").write_text("int more;\n")
    other.build()
    name = f"{place.level}.so"
    (place.folder / name).write_bytes((other.folder / name).read_bytes())
    with pytest.raises(BackendUnavailableError, match=f"{name} was built from other sources.*; run: {COMMAND}$"):
        open_library(place.folder, place.source)


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (None, "its library was not compiled"),
        ("torn", "its library was not compiled"),
        (json.dumps({"sources": "x", "colour": "red"}), "its library was not compiled"),
        (json.dumps({"sources": "x", "reason": "no C compiler works"}), "not compiled: no C compiler works"),
    ],
)
def test_without_a_library_there_is_a_reason(place: Place, record: str | None, words: str) -> None:
    if record is not None:
        place.folder.mkdir()
        (place.folder / "built.json").write_text(record)
    assert words in place.reason


def test_what_is_no_library_is_a_reason(place: Place) -> None:
    place.build()
    for text in (b"no library", None):
        (place.folder / "portable.so").unlink()
        if text is not None:
            (place.folder / "portable.so").write_bytes(text)
        assert "its library cannot be opened" in place.reason


def test_the_backend_says_why_it_is_not_there(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`backends`, `doctor` and whoever selects it name the reason and the command."""
    levels.write_record(place.folder, levels.Built("", reason="no C compiler works"))
    monkeypatch.setattr(tinyllm_native, "find_library", lambda: find_library(place.folder, place.source))
    asked = fakes.registry(tinyllm_native)
    monkeypatch.setattr(registry, "default_registry", lambda: asked)
    for command in ("backends", "doctor"):
        assert main([command]) == 0
        told = capsys.readouterr()
        (line,) = [x for x in (told.out + told.err).splitlines() if "no C compiler works" in x and COMMAND in x]
        assert "native" in line
    with pytest.raises(BackendUnavailableError, match=f"no C compiler works; install it with: {COMMAND}"):
        asked.backend("native")
    place.build()
    assert fakes.registry(tinyllm_native).probe("native").available


@pytest.mark.skipif(HERE != "x86_64", reason="cpuid is x86's")
def test_a_level_needs_all_of_its_features_and_the_registers_kept(place: Place, tmp_path: Path) -> None:
    """Each bit that is taken from a processor that has everything takes the level away: of its features, and of what
    the operating system keeps."""
    harness = """
    #include "cpu.c"
    __attribute__((visibility("default"))) int level(uint32_t c1, uint32_t b7, uint32_t c7, uint32_t a71, uint64_t x) {
        cpu_facts cpu = {{0, 0, c1, 0}, {0, b7, c7, 0}, {a71, 0, 0, 0}, x};
        return level_of(&cpu);
    }
    """
    (tmp_path / "harness.c").write_text(harness)
    found, made = compiler.find_compiler(), tmp_path / "harness.so"
    shared = ("-std=gnu11", "-shared", "-fPIC", f"-I{place.source}")
    subprocess.run([*found.command, *shared, str(tmp_path / "harness.c"), "-o", str(made)], check=True)
    opened = ctypes.CDLL(str(made))
    opened.level.argtypes = [*[ctypes.c_uint32] * 4, ctypes.c_uint64]
    everything = [0xFFFFFFFF] * 4 + [0xFF]
    assert opened.level(*everything) == 3 and opened.level(*[0] * 5) == 0
    bits = {
        0: [(0, 12), (0, 28), (0, 29), (1, 5), (1, 8), (4, 1), (4, 2)],
        1: [(1, 16), (1, 17), (1, 30), (1, 31), (4, 5), (4, 6), (4, 7)],
        2: [(2, 11), (3, 5)],
    }
    for level, places in bits.items():
        for word, bit in places:
            without = [value & ~(1 << bit) if number == word else value for number, value in enumerate(everything)]
            assert opened.level(*without) == level, (word, bit)


def test_the_command_builds_and_shows(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`tinyllm native` before and after `tinyllm native build`; without a compiler that is an error of one line."""
    asked = fakes.registry(tinyllm_native)
    monkeypatch.setattr(registry, "default_registry", lambda: asked)
    monkeypatch.setattr(commands, "find_library", lambda: find_library(place.folder, place.source))
    monkeypatch.setattr(commands, "build", lambda: build.build(place.folder, place.source))
    assert main(["native"]) == 0
    told = capsys.readouterr()
    assert told.err == f"its library was not compiled; run: {COMMAND}\n"
    assert [row.split("\t") for row in told.out.splitlines()[1:]] == [[name, "no", "unknown", "no"] for name in EVERY]
    assert main(["native", "build"]) == 0
    told = capsys.readouterr()
    assert f"compiled {', '.join(EVERY)} in " in told.out and f"used here: {place.level}" in told.out
    assert main(["native"]) == 0
    rows = {row.split("\t")[0]: row.split("\t")[1:] for row in capsys.readouterr().out.splitlines()[1:]}
    assert [cells[0] for cells in rows.values()] == ["yes"] * len(EVERY)
    assert [name for name, cells in rows.items() if cells[2] == "yes"] == [place.level]
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(compiler, "zig", lambda tried: None)
    assert main(["native", "build"]) == 1
    assert capsys.readouterr().err.startswith("error: native: no C compiler works (cc: not found")
