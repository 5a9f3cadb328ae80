"""What is refused before anything is written, and what is left of a writing that breaks off."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.models.conftest import write_gguf
from tests.models.quantize.tiny import save
from tinyllm.errors import CheckpointError, InvalidInputError, UnknownNameError
from tinyllm.models.quantize.run import affine, quantize
from tinyllm.models.quantize.safetensors_writer import SafetensorsWriter

FORM = affine(4, 32)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "source"
    save("llama", folder)
    return folder


@pytest.mark.parametrize(("bits", "group_size", "named"), [(7, 32, "bits"), (1, 64, "bits"), (4, 48, "group_size")])
def test_forms_that_mlx_has_not_are_refused(bits: int, group_size: int, named: str) -> None:
    with pytest.raises(InvalidInputError, match=f"quantize: {named}: expected one of .*, got"):
        affine(bits, group_size)


def test_a_tensor_whose_rows_do_not_fit_is_named(source: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"down_proj\.weight: expected rows that groups of 64 divide .*got 96"):
        quantize(source, tmp_path / "out", affine(4, 64))
    quantize(source, tmp_path / "out", affine(4, 64), kept=["*.down_proj.*"])
    path = write_gguf(tmp_path / "odd.gguf", keys={"feed_forward_length": 40}, tensors=_of_width(40))
    with pytest.raises(InvalidInputError, match=r"blk\.0\.ffn_down\.weight: expected rows that groups of 32 divide"):
        quantize(path, tmp_path / "out.gguf", "Q8_0")


def _of_width(width: int) -> dict[str, Any]:
    shapes = {"ffn_gate": (width, 64), "ffn_up": (width, 64), "ffn_down": (64, width)}
    rng = np.random.default_rng(0)
    return {
        f"blk.{layer}.{name}.weight": rng.standard_normal(shape).astype(np.float32)
        for layer in range(2)
        for name, shape in shapes.items()
    }


def test_what_does_not_go_together_is_refused(source: Path, tmp_path: Path) -> None:
    """Forms, places and patterns; nothing is written."""
    calls: list[tuple[type[Exception], str, tuple[Any, ...], dict[str, Any]]] = [
        (InvalidInputError, "type: expected one of Q8_0, Q4_0, got 'Q5_K'", (tmp_path / "x.gguf", "Q5_K"), {}),
        (InvalidInputError, "OUT: expected a file that ends in .gguf", (tmp_path / "x", "Q8_0"), {}),
        (InvalidInputError, "OUT: expected a folder", (tmp_path / "x.gguf", FORM), {}),
        (InvalidInputError, "expected an existing folder to write into", (tmp_path / "no" / "x", FORM), {}),
        (UnknownNameError, "--keep: expected a pattern of names such as", (tmp_path / "x", FORM), {"kept": ["lm.*"]}),
    ]
    for error, message, arguments, options in calls:
        with pytest.raises(error, match=message):
            quantize(source, *arguments, **options)
    assert os.listdir(tmp_path) == []


def test_what_is_there_is_replaced_only_if_asked_for(source: Path, tmp_path: Path) -> None:
    """And only where it is a model, and not the one that is read."""
    out = tmp_path / "out"
    quantize(source, out, FORM)
    (out / "mine.txt").write_text("of the old one")
    with pytest.raises(InvalidInputError, match="is there already"):
        quantize(source, out, FORM)
    quantize(source, out, affine(8, 32), force=True)
    assert not (out / "mine.txt").exists() and os.listdir(tmp_path) == ["out"]
    with pytest.raises(InvalidInputError, match="another place than that of the model"):
        quantize(out, out, FORM, force=True)
    with pytest.raises(InvalidInputError, match="expected a model to replace"):
        quantize(source, _folder(tmp_path / "home"), FORM, force=True)


def _folder(path: Path) -> Path:
    path.mkdir()
    (path / "letter.txt").write_text("dear")
    return path


@pytest.mark.parametrize("form", [FORM, "Q8_0"], ids=str)
def test_a_writing_that_breaks_off_leaves_what_was_there(form: Any, source: Path, tmp_path: Path) -> None:
    """Ctrl-C after some tensors: nothing new is there, and the old is whole."""
    model = source if form is FORM else write_gguf(tmp_path / "model.gguf")
    out = tmp_path / ("out" if form is FORM else "out.gguf")

    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    before = set(os.listdir(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        quantize(model, out, form, progress=stop)
    assert set(os.listdir(tmp_path)) == before
    quantize(model, out, form)
    whole = (out if out.is_file() else out / "model.safetensors").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        quantize(model, out, form, force=True, progress=stop)
    assert (out if out.is_file() else out / "model.safetensors").read_bytes() == whole
    assert set(os.listdir(tmp_path)) == {*before, out.name}


def test_numbers_that_scales_do_not_hold_are_named(tmp_path: Path) -> None:
    """A GGUF's scales are float16; an infinity would make the model's numbers NaN."""
    huge = np.full((64, 64), 1e6, np.float32)
    path = write_gguf(tmp_path / "model.gguf", tensors={"blk.0.attn_q.weight": _q8(huge)})
    with pytest.raises(CheckpointError, match=r"q_proj\.weight: expected numbers whose scales float16 holds"):
        quantize(path, tmp_path / "out", FORM)
    assert not (tmp_path / "out").exists()


def _q8(numbers: np.ndarray) -> tuple[Any, Any]:
    import gguf

    return gguf.quants.quantize(numbers, gguf.GGMLQuantizationType.Q8_0), gguf.GGMLQuantizationType.Q8_0


def test_the_writer_fills_tensors_in_any_order_of_pieces(tmp_path: Path) -> None:
    """The safetensors package reads them back, whatever their dtypes' sizes."""
    rng = np.random.default_rng(0)
    tensors: dict[str, Any] = {
        "half": rng.standard_normal((3, 5)).astype(np.float16),
        "word": rng.integers(0, 2**32, (4, 3), dtype=np.uint32),
        "float": rng.standard_normal(7).astype(np.float32),
    }
    path = tmp_path / "x.safetensors"
    with path.open("wb") as file:
        writer = SafetensorsWriter(file, {name: (array.dtype, array.shape) for name, array in tensors.items()})
        for name, piece in (
            ("half", slice(0, 2)),
            ("float", slice(0, 4)),
            ("word", slice(None)),
            ("half", slice(2, 3)),
        ):
            writer.write(name, tensors[name][piece])
        writer.write("float", tensors["float"][4:])
    for name, array in load_file(path).items():
        np.testing.assert_array_equal(array, tensors[name])
