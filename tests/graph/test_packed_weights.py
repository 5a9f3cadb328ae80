"""Programs whose kernels state a layout: a packed form is made once, and mapped by everyone who binds the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.catalogue.harness import backends, registry, with_kernels
from tests.graph.tiny import Tensors
from tinyllm import Affine
from tinyllm.errors import CacheWarning, PluginError
from tinyllm.graph.bind import bind
from tinyllm.graph.graph import Graph, GraphBuilder
from tinyllm.graph.packed_files import PackedFiles
from tinyllm.graph.packed_format import ALIGNMENT
from tinyllm.graph.program import Program
from tinyllm.plugins.kernel import Kernel
from tinyllm.registry.selection import parse_selection
from tinyllm.spec.quantized import dense
from tinyllm.spec.types import Call

X = np.random.default_rng(0).standard_normal((3, 64)).astype(np.float32)
SHAPES = {"a.weight": (64, 64), "b.weight": (8, 64)}


def linear(x: np.ndarray, weight: dict[str, np.ndarray], *, bias: np.ndarray | None = None) -> np.ndarray:
    assert all(isinstance(array, np.ndarray) for array in weight.values())
    return (x.astype(weight["rows"].dtype) @ weight["rows"].T).astype(x.dtype)


def two_products(dtype: str = "float32") -> Graph:
    """x A^T B^T."""
    g = GraphBuilder(registry().specs, dtype)
    a, b = (g.weight(name, shape) for name, shape in SHAPES.items())
    return g.build(g.linear(g.linear(g.input("x", ("T", 64), dtype), a), b))


@pytest.fixture
def files(tmp_path: Path) -> PackedFiles:
    return PackedFiles(tmp_path / "packed")


def kept(files: PackedFiles) -> list[Path]:
    """The files that are there."""
    return list(files.folder.rglob("*.packed"))


class Binding:
    """Binds, and counts: `prepared` names the weights that were packed, by their rows."""

    def __init__(self) -> None:
        self.prepared: list[int] = []

    def prepare(self, weight: Any, call: Call) -> dict[str, np.ndarray]:
        self.prepared.append(weight.shape[0])
        return {"rows": dense(np, weight, np.float32)}

    def __call__(
        self,
        files: PackedFiles | None,
        *,
        layout: str = "rows-1",
        identity: str = "one",
        tensors: Tensors | None = None,
        prepare: Callable[..., Any] | None = None,
        dtype: str = "float32",
        backend: str = "numpy",
    ) -> tuple[Program, Tensors]:
        kernel = Kernel(
            backend,
            "linear",
            "packing",
            lambda: linear,
            priority=99,
            schemes=("dense", "affine"),
            prepare=prepare or self.prepare,
            layout=layout,
            arrays="host",
        )
        tensors = tensors or Tensors(SHAPES)
        tensors.identity = identity
        selection = parse_selection(backend, "test")
        return bind(two_products(dtype), with_kernels(kernel), selection, tensors, files=files), tensors


@pytest.fixture
def binding() -> Binding:
    return Binding()


def right(program: Program, tensors: Tensors, x: np.ndarray = X) -> bool:
    (y,), _ = program({"x": x}, {})
    a, b = (tensors.plain(name) for name in SHAPES)
    return bool(np.allclose(y.astype(np.float64), x.astype(np.float64) @ a.T @ b.T, rtol=0.02, atol=1e-3))


@pytest.mark.parametrize("backend", backends())
@pytest.mark.parametrize("quantized", [(), ("weight",)], ids=["dense", "quantized"])
def test_a_packed_form_is_made_once(
    files: PackedFiles, binding: Binding, quantized: tuple[str, ...], backend: str
) -> None:
    """The second time its file is mapped: nothing is packed, and the checkpoint is not read."""
    first, _ = binding(files, tensors=Tensors(SHAPES, 0, quantized), backend=backend)
    second, again = binding(files, tensors=Tensors(SHAPES, 0, quantized), backend=backend)
    assert binding.prepared == [64, 8] and again.reads == []
    assert right(first, again) and right(second, again)
    assert len(kept(files)) == 2


def test_the_form_in_the_file_is_what_runs(files: PackedFiles, binding: Binding) -> None:
    """Also the first time, so that both times are alike: mapped, and thus read-only."""
    weights: list[np.ndarray] = []
    for _ in range(2):
        program, _ = binding(files)
        weights += [value["rows"] for value in program._template if isinstance(value, dict)]
    assert len(weights) == 4 and not any(array.flags.writeable for array in weights)


@pytest.mark.parametrize(
    "other",
    [
        {"layout": "rows-2"},
        {"identity": "two"},
        {"tensors": Tensors(SHAPES, 0, ("weight",))},
        {"tensors": Tensors(SHAPES, 0, ("weight",), Affine(8, 32))},
        {"dtype": "float64"},
    ],
    ids=["layout", "checkpoint", "scheme", "its parameters", "dtype"],
)
def test_another_form_is_made_anew(files: PackedFiles, binding: Binding, other: dict[str, Any]) -> None:
    """And kept beside the first, which stays."""
    binding(files)
    program, tensors = binding(files, **other)
    assert binding.prepared == [64, 8] * 2
    assert right(program, tensors, X.astype(other.get("dtype", "float32")))
    binding(files)
    binding(files, **other)
    assert binding.prepared == [64, 8] * 2


def test_the_dtype_of_a_quantized_weights_numbers_is_part_of_its_form(files: PackedFiles, binding: Binding) -> None:
    """What is packed for one is not taken for another."""
    for dtype in ("float32", "bfloat16", "float16"):
        _, tensors = binding(files, tensors=Tensors(SHAPES, 0, ("weight",)), dtype=dtype)
        assert tensors.reads == list(SHAPES)
    assert binding.prepared == [64, 8] * 3


def test_a_file_that_is_not_whole_is_made_anew(files: PackedFiles, binding: Binding) -> None:
    binding(files)
    path = min(kept(files), key=lambda file: file.stat().st_size)
    path.write_bytes(path.read_bytes()[:-1])
    program, tensors = binding(files)
    assert binding.prepared == [64, 8, 8] and tensors.reads == ["b.weight"]
    assert right(program, tensors)


@pytest.mark.parametrize(("in_files", "more"), [(False, {}), (True, {"identity": ""}), (True, {"layout": ""})])
def test_nothing_is_kept_without_files_or_identity_or_layout(
    files: PackedFiles, binding: Binding, in_files: bool, more: dict[str, Any]
) -> None:
    """A kernel with a layout gets arrays as from a file all the same."""
    for _ in range(2):
        program, tensors = binding(files if in_files else None, **more)
        assert right(program, tensors) and program.report.written == 0
        rows = [value["rows"] for value in program._template if isinstance(value, dict)]
        assert len(rows) == 2 and ("layout" in more or all(like_mapped(array) for array in rows))
    assert binding.prepared == [64, 8] * 2 and not files.folder.exists()


def like_mapped(array: np.ndarray) -> bool:
    """Whether kernels may rely on what they rely on with files."""
    return array.ctypes.data % ALIGNMENT == 0 and not array.flags.writeable


@pytest.mark.parametrize(
    ("packed", "got"),
    [
        (np.ones((4, 64)), "ndarray"),
        ([np.ones(4)], "list"),
        ({"rows": [1.0]}, "dict"),
        ({"rows": None}, "dict"),
        (None, "NoneType"),
    ],
    ids=["an array", "a list", "a list in a dict", "nothing in a dict", "nothing"],
)
def test_a_prepare_that_gives_no_arrays_by_name(files: PackedFiles, binding: Binding, packed: Any, got: str) -> None:
    """The plugin's error, by the kernel's name."""
    with pytest.raises(PluginError) as caught:
        binding(files, prepare=lambda weight, call: packed)
    expected = f"prepare: expected numpy arrays by name, as it states a layout, got {got}"
    assert str(caught.value) == f"kernel numpy/linear:packing: {expected}"
    assert not files.folder.exists()


def test_a_folder_that_cannot_be_written_to(tmp_path: Path, binding: Binding) -> None:
    """A warning, and the model runs all the same."""
    (tmp_path / "file").write_text("")
    for _ in range(2):
        with pytest.warns(CacheWarning, match=r"^packed weights: .*file: cannot be written: ") as said:
            program, tensors = binding(PackedFiles(tmp_path / "file"))
        assert len(said) == 1 and right(program, tensors) and program.report.written == 0
        assert all(like_mapped(value["rows"]) for value in program._template if isinstance(value, dict))
    assert binding.prepared == [64, 8] * 2


def test_the_report_says_how_much_was_written(tmp_path: Path, binding: Binding) -> None:
    first, second = PackedFiles(tmp_path / "packed"), PackedFiles(tmp_path / "packed")
    assert binding(first)[0].report.written == sum(file.stat().st_size for file in kept(first)) > 0
    assert binding(second)[0].report.written == 0
