"""Makes a model of fewer bits out of another."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from tinyllm.catalogue.schemes.affine import BITS, Affine
from tinyllm.catalogue.schemes.gguf import GGUF_SCHEMES
from tinyllm.errors import invalid
from tinyllm.models.checkpoints.gguf_checkpoint import GgufCheckpoint
from tinyllm.models.families.families import FAMILIES
from tinyllm.models.families.family import Family
from tinyllm.models.open_model import open_model
from tinyllm.models.quantize.folder import write_folder
from tinyllm.models.quantize.gguf_file import TYPES, copy_gguf, write_gguf
from tinyllm.models.quantize.gguf_form import said_in_gguf
from tinyllm.models.quantize.gguf_words import words_of
from tinyllm.models.quantize.plan import Output, Plan, check_rows, keep
from tinyllm.models.quantize.replace import check_out, replacing

GROUP_SIZES = (32, 64, 128)
"""Columns of a group, as MLX's kernels have them."""


@dataclass(frozen=True)
class Written:
    """What was written: bytes of weights before and after, how many tensors became integers and how many did not, the
    numbers in all of them, and as sentences what the new files do not say as the old ones do."""

    bytes_before: int
    bytes_after: int
    quantized: int
    kept: int
    numbers: int
    notes: tuple[str, ...] = ()


def affine(bits: int, group_size: int) -> Affine:
    """MLX's form of so many bits. Raises `InvalidInputError` for what MLX has not."""
    if bits not in BITS:
        raise invalid("quantize", "bits", f"one of {', '.join(map(str, BITS))}", bits)
    if group_size not in GROUP_SIZES:
        raise invalid("quantize", "group_size", f"one of {', '.join(map(str, GROUP_SIZES))}", group_size)
    return Affine(bits, group_size)


def quantize(
    model: Path,
    out: Path,
    form: Affine | str,
    *,
    kept: Collection[str] = (),
    force: bool = False,
    families: Sequence[Family] = FAMILIES,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Written:
    """Write a model with its matrices as integers; what else is in it stays as it is.

    Args:
        model: a folder in Hugging Face form, or a `.gguf` file. out: where the new one goes: a folder, or for a form
            of GGUF a `.gguf` file.
        form: `affine(bits, group_size)`, or one of GGUF's `TYPES`.
        kept: patterns of the names of tensors that stay as they are. force: `out` may be there, and is replaced.
        progress: called with (tensors written, tensors in all).

    Raises:
        InvalidInputError: `out` may not be written, the form is none, or rows do not fit it; names the tensor.
        UnknownNameError: a pattern that names no tensor.
        ModelNotFoundError, CheckpointError: as `open_model` does, and for a tensor that has no such form; for a GGUF
            file of a folder also where GGUF cannot say what the model is, or what its tokenizer does.
    """
    if isinstance(form, str) and form not in TYPES:
        raise invalid("quantize", "type", f"one of {', '.join(TYPES)}", repr(form))
    if (out.suffix == ".gguf") != isinstance(form, str):
        expected = "a file that ends in .gguf" if isinstance(form, str) else "a folder"
        raise invalid("quantize", "OUT", expected, repr(str(out)))
    check_out(out, model, force)
    opened = open_model(model, families)
    notes: tuple[str, ...] = ()
    plan, checkpoint = Plan(opened, families), opened.checkpoint
    if isinstance(form, Affine):
        outputs = keep(plan.of_folder(), kept)
        check_rows(outputs, form)
        with replacing(out) as path:
            write_folder(opened, outputs, form, path, progress)
    elif isinstance(checkpoint, GgufCheckpoint):
        outputs = keep(plan.of_gguf(), kept)
        check_rows(outputs, GGUF_SCHEMES[form])
        with replacing(out) as path:
            copy_gguf(checkpoint, outputs, form, path, progress)
    else:
        said = said_in_gguf(opened, families, plan.shapes)
        outputs = keep(plan.by_rules(said.rules), kept)
        check_rows(outputs, GGUF_SCHEMES[form])
        words, notes = words_of(checkpoint, opened.config)
        with replacing(out) as path:
            write_gguf(said.architecture, words | said.metadata, outputs, said.ropes, form, path, progress)
    return _written(plan, outputs, out, notes)


def _written(plan: Plan, outputs: list[Output], out: Path, notes: tuple[str, ...]) -> Written:
    weights = out if out.is_file() else out / "model.safetensors"
    checkpoint = plan.checkpoint
    before = sum(checkpoint.info(name).nbytes for name in checkpoint.tensor_names())
    quantized = sum(each.quantized for each in outputs)
    numbers = sum(prod(each.shape) for each in outputs)
    return Written(before, weights.stat().st_size, quantized, len(outputs) - quantized, numbers, notes)
