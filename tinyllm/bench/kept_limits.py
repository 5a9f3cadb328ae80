"""The limits of this machine, measured once and kept in the cache folder."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tinyllm.bench.limits import Limits, highest
from tinyllm.bench.ops import add_others
from tinyllm.conformance.reports.machine import machine
from tinyllm.errors import TinyllmError
from tinyllm.models.download.sources import cache_folder
from tinyllm.registry.registry import Registry


class LimitsFileError(TinyllmError):
    """A file of kept limits that is none."""

    exit_code = 2


def limits_file() -> Path:
    """Where they are kept: an object of gigabytes and GFLOP a second by processor, cores and device. Whoever removes it
    has them measured anew."""
    return cache_folder() / "limits.json"


def kept_limits(registry: Registry, device: str, on_step: Callable[[str], None] = lambda what: None) -> Limits:
    """The best that any backend here reaches on a device of this machine, measured where that was never done.

    Args:
        on_step: told what is measured now, which takes some seconds.

    Raises:
        LimitsFileError: the file holds something else. TinyllmError: no backend could be measured.
    """
    about = machine()
    name = f"{about['processor']}, {about['cores']} cores, {device}"
    there = _read()
    if name not in there:
        there[name] = _measured(registry, device, on_step)
        _write(there)
    return there[name]


def _measured(registry: Registry, device: str, on_step: Callable[[str], None]) -> Limits:
    found: dict[str, list[Limits]] = {device: []}
    notes = add_others(registry, (), found, on_step)
    if not found[device]:
        raise TinyllmError(f"limits of {device}: no backend could be measured ({'; '.join(notes) or 'none is there'})")
    return highest(found[device])


def _read() -> dict[str, Limits]:
    path = limits_file()
    try:
        return {name: _limits(fields) for name, fields in json.loads(path.read_text(encoding="utf-8")).items()}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise LimitsFileError(f"limits file {path}: cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise LimitsFileError(
            f"limits file {path}: expected gb_s and gflop_s by machine, got something else; remove it, and they are "
            "measured anew"
        ) from error


def _limits(fields: dict[str, Any]) -> Limits:
    limits = Limits(**fields)
    if not all(type(value) in (int, float) and value > 0 for value in vars(limits).values()):
        raise ValueError
    return limits


def _write(limits: dict[str, Limits]) -> None:
    """Where nothing can be written they are measured again the next time."""
    path = limits_file()
    part = path.with_suffix(f".{os.getpid()}")
    text = json.dumps({name: asdict(one) for name, one in limits.items()}, indent=2)
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, encoding="utf-8")
        part.replace(path)
