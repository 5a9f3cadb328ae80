"""Limits are measured once for a machine, a backend and a kind of weight, and anew where one of them is another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from tests.bench.conftest import FakeGauge
from tests.catalogue.harness import registry
from tinyllm.bench import kept_limits as module
from tinyllm.bench.kept_limits import kept_limits, limits_folder
from tinyllm.bench.limits import Gauge, Limits
from tinyllm.catalogue.schemes.affine import Affine
from tinyllm.errors import CacheWarning, TinyllmError
from tinyllm.spec.quantized import dense


class CountingGauge(FakeGauge):
    """Reaches more each time that one is made."""

    made: ClassVar[list[Any]] = []

    def __init__(self, *arguments: Any) -> None:
        super().__init__()
        self.made.append(arguments)

    def measure(self) -> Limits:
        return Limits(float(len(self.made)), 100.0)


@pytest.fixture(autouse=True)
def counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """The gauges that were made."""
    monkeypatch.setenv("TINYLLM_CACHE", str(tmp_path))
    monkeypatch.setattr(module, "Gauge", CountingGauge)
    CountingGauge.made = []
    return CountingGauge.made


def test_measured_once_and_kept(counted: list[Any]) -> None:
    """Until somebody asks for it anew; who measures is told."""
    told: list[str] = []
    first = kept_limits(registry(), "numpy", on_step=told.append)
    assert kept_limits(registry(), "numpy", on_step=told.append) == first == Limits(1.0, 100.0)
    assert len(counted) == len(told) == 1 and "float32" in told[0]
    assert kept_limits(registry(), "numpy", anew=True) == kept_limits(registry(), "numpy") == Limits(2.0, 100.0)


def test_each_kind_of_weight_and_each_size_has_its_own(counted: list[Any]) -> None:
    """A size stands for those up to it, and the largest for all above."""
    kinds = [(None, 1), (Affine(4, 64), 1), (Affine(4, 32), 1), (None, 10**8), (None, 10**12)]
    found = [kept_limits(registry(), "numpy", *kind).gb_s for kind in kinds]
    assert found == [1, 2, 3, 4, 5]
    assert kept_limits(registry(), "numpy", None, 9 * 10**7).gb_s == 4
    assert kept_limits(registry(), "numpy").gb_s == 5 and len(counted) == 5
    assert [arguments[2] for arguments in counted] == [2**25] * 3 + [2**26, 2**27]


@pytest.mark.parametrize(
    ("field", "value"), [("processor", "another"), ("cores", 99), ("tinyllm", "0.0.0"), ("backend", "old")]
)
def test_another_machine_measures_anew(counted: list[Any], field: str, value: Any) -> None:
    """The file says what it holds for."""
    kept_limits(registry(), "numpy")
    (path,) = limits_folder().iterdir()
    document = json.loads(path.read_text())
    document["conditions"][field] = value
    path.write_text(json.dumps(document))
    assert kept_limits(registry(), "numpy").gb_s == 2


def test_another_number_of_threads_measures_anew(counted: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """As the variables say that libraries read."""
    kept_limits(registry(), "numpy")
    monkeypatch.setenv("OMP_NUM_THREADS", "17")
    assert kept_limits(registry(), "numpy").gb_s == 2


@pytest.mark.parametrize("text", ["", "{", "[]", '{"conditions": {}}', '"numbers"', "null"])
def test_a_damaged_file_is_replaced(counted: list[Any], text: str) -> None:
    """It is a cache."""
    kept_limits(registry(), "numpy")
    (path,) = limits_folder().iterdir()
    path.write_text(text)
    assert kept_limits(registry(), "numpy") == kept_limits(registry(), "numpy") == Limits(2.0, 100.0)


@pytest.mark.parametrize("numbers", [{}, {"gb_s": 1.0}, {"gb_s": "1", "gflop_s": 1.0}, {"gb_s": 0.0, "gflop_s": 1.0}])
def test_numbers_that_are_none_are_replaced(counted: list[Any], numbers: dict[str, Any]) -> None:
    """Time is divided by them."""
    kept_limits(registry(), "numpy")
    (path,) = limits_folder().iterdir()
    path.write_text(json.dumps(json.loads(path.read_text()) | {"numbers": numbers}))
    assert kept_limits(registry(), "numpy").gb_s == 2


def test_where_nothing_can_be_kept_it_is_measured_each_time(
    counted: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A folder that is a file takes none."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("TINYLLM_CACHE", str(tmp_path / "file"))
    with pytest.warns(CacheWarning, match=r"numpy-float32.*: cannot be kept"):
        assert [kept_limits(registry(), "numpy").gb_s for _ in range(2)] == [1, 2]


def test_a_gauge_reads_a_scheme_as_it_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes are those of its bits, the products are checked, and all of what is read is right."""
    monkeypatch.setattr("tinyllm.bench.limits.LEAST_ROWS", 16)
    monkeypatch.setattr("tinyllm.bench.limits.SIDE", 8)
    backend, scheme = registry().backend("numpy"), Affine(4, 64)
    seen: list[tuple[int, ...]] = []

    def product(x: Any, weight: Any) -> Any:
        seen.append(weight.shape)
        return lambda: x @ dense(np, weight, np.float32).T

    gauge = Gauge(backend, product, 2**16, scheme)
    (rows, columns), square = seen
    assert gauge.bytes == rows * columns * 4.5 / 8 >= 2 * 2**16 and square == (8, 64)
    assert gauge.measure().gb_s > 0

    def wrong_at_the_end(x: Any, weight: Any) -> Any:
        y = x @ dense(np, weight, np.float32).T
        y[..., -1] = 0
        return lambda: y

    with pytest.raises(TinyllmError, match="its linear is wrong on"):
        Gauge(backend, wrong_at_the_end, 2**16, scheme)
