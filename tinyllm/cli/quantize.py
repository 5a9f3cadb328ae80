"""`tinyllm quantize`: a model with weights of fewer bits, and what that costs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tinyllm.cli import options
from tinyllm.errors import CheckpointError, invalid

if TYPE_CHECKING:
    from tinyllm.catalogue.schemes.affine import Affine
    from tinyllm.engine.scoring import TextLogprobs
    from tinyllm.models.families.family import Family

_FORMATS = ("mlx", "gguf")


def quantize(
    model: options.Model,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder, or a new .gguf file.")],
    format: Annotated[
        str | None,
        typer.Option("--format", metavar="mlx|gguf", show_default="gguf where OUT ends in .gguf, else mlx"),
    ] = None,
    bits: Annotated[
        int | None, typer.Option("--bits", metavar="N", show_default="4", help="mlx: 2, 3, 4, 5, 6 or 8.")
    ] = None,
    group_size: Annotated[
        int | None,
        typer.Option(
            "--group-size", metavar="N", show_default="64", help="mlx: columns that share a scale, 32, 64 or 128."
        ),
    ] = None,
    type: Annotated[
        str | None, typer.Option("--type", metavar="TYPE", show_default="Q8_0", help="gguf: Q8_0 or Q4_0.")
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option("--keep", metavar="GLOB", help="Tensors that stay as they are, lm_head.*; may be repeated."),
    ] = None,
    text: Annotated[
        str | None,
        typer.Option(
            "--text",
            metavar="FILE",
            show_default="one of 636 tokens",
            help="The text by how much whose perplexity changes is said.",
        ),
    ] = None,
    perplexity: Annotated[
        bool, typer.Option("--perplexity/--no-perplexity", help="Read a text with both, which takes their memory.")
    ] = True,
    force: Annotated[bool, typer.Option("--force", help="Replace a model at OUT.")] = False,
    as_json: options.Json = False,
) -> None:
    """Write a model anew, its matrices as integers of a few bits: a folder that mlx-lm reads, or a GGUF file that
    llama.cpp reads, and say by how much the perplexity of a text changes. What else is in it stays as it is.

    docs/quality.md says what each form costs, and which tensors it concerns.
    """
    from tinyllm.cli.output import download_bar, note, print_json, progress_bar, size
    from tinyllm.cli.session import read_text, shipped_text
    from tinyllm.engine.scoring import change
    from tinyllm.models.download.sources import resolve
    from tinyllm.models.families.families import FAMILIES
    from tinyllm.models.quantize.run import quantize as write
    from tinyllm.registry.registry import default_registry

    form = _form(out, format, bits, group_size, type)
    if text is not None and not perplexity:
        raise invalid("quantize", "--text", "no text beside --no-perplexity", repr(text))
    words = read_text(text) if text is not None else shipped_text() if perplexity else None
    families = (*FAMILIES, *default_registry().plugins.families)
    with download_bar(f"fetching {model}") as report:
        path = resolve(model, progress=report)
    if words is not None and (why := _without_tokenizer(path, families)):
        if text is not None:
            raise CheckpointError(why)
        note(f"no perplexity: {why}")
        words = None
    with progress_bar("quantizing") as progress:
        made = write(path, out, form, kept=keep or (), force=force, families=families, progress=progress)
    if not as_json:  # before a text is read, for which there may be no memory
        print(out)
        note(
            f"{form}: {made.quantized} tensors quantized, {made.kept} kept; {size(made.bytes_before)} are "
            f"{size(made.bytes_after)}, {8 * made.bytes_after / made.numbers:.2f} bits a number"
        )
        for each in made.notes:
            note(f"{out}: {each}")
    costs = None if words is None else [_logprobs(where, words, as_json) for where in (path, out)]
    if as_json:
        found: dict[str, Any] = {"out": str(out), "form": str(form), **vars(made)}
        if costs is not None:
            before, after = costs
            found |= {"perplexity_before": before.perplexity, "perplexity_after": after.perplexity}
            found |= {f"perplexity_change{'_error' * n}": v for n, v in enumerate(vars(change(*costs)).values())}
        print_json(found)
    elif costs is not None:
        before, after = costs
        changed = change(before, after)
        print(
            f"perplexity {before.perplexity:.4f} -> {after.perplexity:.4f} "
            f"({changed.share:+.2%} +/- {changed.error:.2%})"
        )


def _form(out: Path, format: str | None, bits: int | None, group_size: int | None, type: str | None) -> Affine | str:
    """What the options ask for. Raises `InvalidInputError` where they do not go together."""
    from tinyllm.models.quantize.run import affine

    format = format or ("gguf" if out.suffix == ".gguf" else "mlx")
    if format not in _FORMATS:
        raise invalid("quantize", "--format", " or ".join(_FORMATS), repr(format))
    if format == "gguf":
        for name, value in (("--bits", bits), ("--group-size", group_size)):
            if value is not None:
                raise invalid("quantize", name, "no such option with the format gguf, which has --type", value)
        return type or "Q8_0"
    if type is not None:
        raise invalid("quantize", "--type", "no such option with the format mlx, which has --bits", repr(type))
    return affine(4 if bits is None else bits, 64 if group_size is None else group_size)


def _without_tokenizer(path: Path, families: Sequence[Family]) -> str:
    """Why a model can read no text, or nothing where it can."""
    from tinyllm.models.checkpoints.open_checkpoint import open_checkpoint

    checkpoint = open_checkpoint(path, families)
    try:
        checkpoint.tokenizer()
    except CheckpointError as error:
        return str(error)
    return ""


def _logprobs(path: Path, text: str, quiet: bool) -> TextLogprobs:
    from tinyllm.cli.output import progress_bar
    from tinyllm.cli.session import load_model

    llm = load_model(str(path), None, None, None, None, quiet=quiet)
    with progress_bar(f"reading with {path.name}") as progress:
        return llm.logprobs(text, progress=progress)
