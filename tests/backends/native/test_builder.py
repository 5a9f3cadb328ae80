"""The native library is compiled by whatever compiler works, or not at all with the reason kept."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tinyllm_native.builder import build, compiler, levels
from tinyllm_native.builder.compiler import Compiler, c_compiler, find_compiler

HERE = levels.machine()
EVERY = list(levels.levels(HERE))
needs_compiler = pytest.mark.skipif(c_compiler() is None, reason="no C compiler works here")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The sources that every library has, alone."""
    folder = tmp_path / "source"
    folder.mkdir()
    for name in ("cpu.c", "library.c"):
        shutil.copy(levels.SOURCE / name, folder)
    return folder


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all of the PATH, no `$CC`, and no zig."""
    folder = tmp_path / "path"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(compiler, "zig", lambda tried: tried.append("ziglang: not installed"))
    return folder


def working(file: Path) -> Path:
    """Write a compiler: the one of this machine under another name."""
    found = next(found for name in ("cc", "gcc", "clang") if (found := shutil.which(name, path=os.defpath)))
    return script(file, f'PATH={os.defpath} exec {found} "$@"')


def script(file: Path, text: str) -> Path:
    """Write a program."""
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    return file


@needs_compiler
def test_cc_of_the_environment_comes_first(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With arguments of its own, and whatever else there is."""
    mine, _ = working(tmp_path / "mine"), working(path / "cc")
    monkeypatch.setenv("CC", f"{mine} -DMINE")
    assert find_compiler().command == (str(mine), "-DMINE")
    monkeypatch.delenv("CC")
    assert find_compiler().command == ("cc",)


@needs_compiler
@pytest.mark.parametrize(
    "broken",
    ["exit 1", "echo it does not work >&2; exit 1", "exit 0"],
    ids=["silent", "with words", "that makes nothing"],
)
def test_a_compiler_that_compiles_nothing_is_passed_over(
    path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """As is one that is not there, and one that is no program at all."""
    monkeypatch.setenv("CC", str(path / "nowhere"))
    script(path / "cc", broken)
    (path / "gcc").write_bytes(b"\x7fELF")
    (path / "gcc").chmod(0o755)
    working(path / "clang")
    assert find_compiler().command == ("clang",)


@needs_compiler
def test_a_compilers_name_has_its_version(path: Path) -> None:
    """Of what it is, and not of what it is called."""
    working(path / "cc")
    name = find_compiler().name
    kind, version = name.split()
    assert kind in ("gcc", "clang") and version[0].isdigit() and "." in version


@needs_compiler
def test_all_levels_are_compiled(source: Path, tmp_path: Path) -> None:
    """Each says of what sources it is; the record says the same, and nothing else is left in the folder."""
    folder = tmp_path / "library"
    built = build.build(folder, source)
    assert (list(built.levels), built.left_out, built.reason) == (EVERY, {}, "")
    assert levels.read_record(folder) == built
    assert sorted(p.name for p in folder.iterdir()) == sorted(["built.json", *(f"{level}.so" for level in EVERY)])
    opened = ctypes.CDLL(str(folder / "portable.so"))
    opened.tinyllm_sources.restype = ctypes.c_char_p
    assert opened.tinyllm_sources().decode() == built.sources == levels.sources_hash(source, HERE)


@needs_compiler
def test_a_level_has_its_flags_and_its_name(source: Path, tmp_path: Path) -> None:
    """What a source is told of the level that it is compiled for."""
    folder = tmp_path / "library"
    names = " ".join(f"LEVEL({level.upper()})" for level in EVERY)
    defined = "\n".join(
        f"#ifdef TINYLLM_LEVEL_{level.upper()}\nconst char *level(void) {{ return EXPORTED; }}\n#endif".replace(
            "EXPORTED", f'"{level}"'
        )
        for level in EVERY
    )
    vector = "#if defined(__AVX512BF16__)\n#define V 3\n#elif defined(__AVX512VL__)\n#define V 2\n#elif "
    vector += "defined(__AVX2__) || defined(__ARM_FEATURE_DOTPROD)\n#define V 1\n#else\n#define V 0\n#endif\n"
    show = "#pragma GCC visibility push(default)\n"
    (source / "level.c").write_text(f"/* {names} */\n{vector}{show}{defined}\nint vector(void) {{ return V; }}\n")
    build.build(folder, source)
    for number, level in enumerate(EVERY):
        opened = ctypes.CDLL(str(folder / f"{level}.so"))
        opened.level.restype = ctypes.c_char_p
        assert (opened.level().decode(), opened.vector()) == (level, number)


@needs_compiler
def test_a_level_that_the_compiler_refuses_is_left_out(source: Path, path: Path, tmp_path: Path) -> None:
    """The others are there, and the record has the compiler's words."""
    last, real = EVERY[-1], working(tmp_path / "real")
    script(
        path / "cc", f'case "$*" in *{last.upper()}*) echo "cc: error: no such flag" >&2; exit 1;; esac; {real} "$@"'
    )
    built = build.build(tmp_path / "library", source)
    assert list(built.levels) == EVERY[:-1] and built.left_out == {last: "cc: error: no such flag"}


def test_without_a_compiler_the_reason_is_kept(source: Path, path: Path, tmp_path: Path) -> None:
    """It says what was tried and what to install; what was there of other sources is gone."""
    folder = tmp_path / "library"
    folder.mkdir()
    (folder / "portable.so").write_bytes(b"old")
    script(path / "gcc", "echo fatal error: no headers >&2; exit 1")
    built = build.build(folder, source)
    assert built.levels == () and levels.read_record(folder) == built
    for words in ("cc: not found", "gcc: fatal error: no headers", "ziglang: not installed", "apt install gcc"):
        assert words in built.reason
    assert [p.name for p in folder.iterdir()] == ["built.json"]


@needs_compiler
def test_sources_that_cannot_be_compiled_are_a_reason(source: Path, tmp_path: Path) -> None:
    (source / "wrong.c").write_text("int wrong(void) { return nothing; }\n")
    built = build.build(tmp_path / "library", source)
    assert built.levels == () and "wrong.c:1" in built.reason and "cannot compile it" in built.reason


@needs_compiler
def test_what_is_current_is_not_compiled_again(
    source: Path, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other sources are, another compiler is, and so is a library that is gone; without a compiler what fits stays."""
    folder = tmp_path / "library"
    working(path / "cc")
    built = build.refresh(folder, source)
    compiled: list[Compiler] = []
    compile_levels = build.compile_levels

    def counted(found: Compiler, *where: Path) -> levels.Built:
        compiled.append(found)
        return compile_levels(found, *where)

    monkeypatch.setattr(build, "compile_levels", counted)
    assert build.refresh(folder, source) == built and not compiled
    (folder / "portable.so").unlink()
    assert build.refresh(folder, source) == built and len(compiled) == 1
    levels.write_record(folder, replace(built, compiler="tcc 0.9"))
    assert build.refresh(folder, source) == built and len(compiled) == 2
    (path / "cc").unlink()
    assert build.refresh(folder, source) == built and len(compiled) == 2
    (source / "more.h").write_text("\n")
    assert "not found" in build.refresh(folder, source).reason


@pytest.mark.parametrize("change", ["bytes", "name", "header", "border"])
def test_the_hash_is_of_names_and_bytes(source: Path, change: str) -> None:
    before = levels.sources_hash(source, HERE)
    if change == "bytes":
        (source / "cpu.c").write_bytes((source / "cpu.c").read_bytes() + b"\n")
    elif change == "name":
        (source / "cpu.c").rename(source / "cpus.c")
    elif change == "header":
        (source / "more.h").touch()
    else:  # the same bytes in all, cut elsewhere
        first, second = (source / "cpu.c").read_bytes(), (source / "library.c").read_bytes()
        (source / "cpu.c").write_bytes(first + second[:1])
        (source / "library.c").write_bytes(second[1:])
    assert levels.sources_hash(source, HERE) != before


def test_the_hash_is_of_the_flags_too(source: Path) -> None:
    assert levels.sources_hash(source, "x86_64") != levels.sources_hash(source, "aarch64")


def test_modules_shadow_none_of_pythons() -> None:
    """The folder is the first on the path of whoever installs tinyllm, so that the build backend is found there."""
    names = {path.stem for path in levels.SOURCE.parent.iterdir()}
    assert not names & {*sys.stdlib_module_names, "setuptools", "wheel", "packaging", "ziglang"}


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the libraries for aarch64, cross-compiled by zig from all sources."""
    found = compiler.zig(architecture="aarch64")
    if found is None:
        pytest.skip("zig is not here: pip install ziglang")
    folder = tmp_path_factory.mktemp("arm")
    built = build.compile_levels(found, folder, architecture="aarch64")
    assert (built.levels, built.left_out) == (("portable", "neon"), {}), built.reason
    return folder


def test_zig_compiles_for_aarch64(arm: Path) -> None:
    """The header of each file says so: machine 183 of the ELF format."""
    for level in ("portable", "neon"):
        assert int.from_bytes((arm / f"{level}.so").read_bytes()[18:20], "little") == 183


@pytest.mark.parametrize(("processor", "level"), [("cortex-a53", 0), ("cortex-a76", 1)])
def test_aarch64_knows_its_level(tmp_path: Path, processor: str, level: int) -> None:
    """On processors without and with dot products, as qemu has them."""
    emulator = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
    if emulator is None or compiler.zig(architecture="aarch64") is None:
        pytest.skip("qemu-user or zig is not here")
    (tmp_path / "main.c").write_text("int tinyllm_cpu_level(void);\nint main(void) { return tinyllm_cpu_level(); }\n")
    command = [sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-musl", "-static"]
    files = [str(tmp_path / "main.c"), str(levels.SOURCE / "cpu.c"), "-o", str(tmp_path / "main")]
    subprocess.run([*command, *files], check=True)
    done = subprocess.run([emulator, "-cpu", processor, str(tmp_path / "main")], check=False)
    assert done.returncode == level
