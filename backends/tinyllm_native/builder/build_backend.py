"""The project's build backend: setuptools', which compiles the native library before it packs anything.

No failure of that keeps tinyllm from being installed: its reason is kept, and shown where the backend is asked for.
"""

from __future__ import annotations

import platform
import shutil
import sys
import sysconfig
from pathlib import Path
from typing import Any

from setuptools import build_meta
from setuptools.build_meta import (
    build_sdist,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

from .build import current, refresh
from .compiler import c_compiler
from .levels import Built

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

ZIG = "ziglang>=0.17; platform_machine in 'x86_64 aarch64 arm64 AMD64'"
"""PyPI's compiler, for the machines that it is made for."""

Settings = dict[str, Any] | None


def get_requires_for_build_wheel(config_settings: Settings = None) -> list[str]:
    """What setuptools needs, and zig where no C compiler works."""
    own: list[str] = build_meta.get_requires_for_build_wheel(config_settings)
    return own + _compiler()


def get_requires_for_build_editable(config_settings: Settings = None) -> list[str]:
    """What setuptools needs, and zig where no C compiler works."""
    own: list[str] = build_meta.get_requires_for_build_editable(config_settings)
    return own + _compiler()


def build_wheel(wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None) -> str:
    """A wheel with the native library, for the platform that this was compiled for; without one, for any."""
    built = _compile()
    # setuptools leaves there what an earlier wheel had
    shutil.rmtree(Path("build", "lib", "tinyllm_native", "library"), ignore_errors=True)
    options = [f"--plat-name={built.platform or _platform()}"] if built and built.levels else []
    name: str = build_meta.build_wheel(wheel_directory, _with_options(config_settings, options), metadata_directory)
    return name


def build_editable(
    wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None
) -> str:
    """A wheel that points to the sources, beside which the native library lies."""
    _compile()
    name: str = build_meta.build_editable(wheel_directory, config_settings, metadata_directory)
    return name


def _compiler() -> list[str]:
    """What has to be installed to compile, if anything."""
    return [] if c_compiler() or current() else [ZIG]


def _compile() -> Built | None:
    """Compile, and say in one line what became of it; None where not even that could be written down."""
    try:
        built = refresh()
    except OSError as error:
        print(f"tinyllm: the native backend was not built: {error}", file=sys.stderr)
        return None
    told = f"built by {built.compiler}: {', '.join(built.levels)}" if built.levels else f"not built: {built.reason}"
    print(f"tinyllm: the native backend was {told}", file=sys.stderr)
    return built


def _with_options(settings: Settings, options: list[str]) -> dict[str, Any]:
    """A frontend's settings with further options for `bdist_wheel`; its own come last and count."""
    given = (settings or {}).get("--build-option", [])
    given = given.split() if isinstance(given, str) else list(given)
    return {**(settings or {}), "--build-option": [*options, *given]}


def _platform() -> str:
    """The tag of a wheel whose libraries run on machines like this one."""
    if sys.platform == "darwin":  # compilers make libraries for the system and the processor that they run on
        return f"macosx_{platform.mac_ver()[0].partition('.')[0]}_0_{platform.machine()}"
    return sysconfig.get_platform().replace("-", "_").replace(".", "_")
