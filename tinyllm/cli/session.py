"""What the commands that run a model share: reading text, checking sampling settings, loading the model."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyllm.cli.output import download_bar, loading_line, note, size
from tinyllm.errors import InvalidInputError, quoted

if TYPE_CHECKING:
    from tinyllm.llm import LLM
    from tinyllm.models.text.chat_prompt import TemplateOptions


MOST_INPUT = 16 << 20
"""Most bytes that are read of a text, which are far more than fill a context."""


def read_stdin(read: Callable[[int], bytes], what: str) -> str:
    """A text from stdin, taken by its `read` or `readline`.

    Raises `InvalidInputError` for more than `MOST_INPUT` bytes, as an input may have no end, and for what is not UTF-8.
    """
    data = read(MOST_INPUT + 1)
    if len(data) > MOST_INPUT:
        raise InvalidInputError(f"stdin: expected {what} of at most {MOST_INPUT} bytes, got more")
    return decode(data, "stdin")


def decode(data: bytes, where: str) -> str:
    """Bytes from outside as text. Raises `InvalidInputError`, which begins with `where`, if they are not UTF-8."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InvalidInputError(
            f"{where}: expected UTF-8, got byte 0x{data[error.start]:02x} at position {error.start}"
        ) from error


def read_prompt(prompt: str) -> str:
    """The text of a prompt; `-` stands for stdin without its last line end. Raises `InvalidInputError` for no text."""
    text = prompt
    if prompt == "-":
        text = read_stdin(sys.stdin.buffer.read, "a prompt").removesuffix("\n").removesuffix("\r")
    if not text:
        raise InvalidInputError("prompt: expected some text, got an empty prompt")
    return text


def read_text(file: str) -> str:
    """The text of a file, as it is; `-` stands for stdin. Raises `InvalidInputError` for a file that cannot be read, is
    no UTF-8, or has no text."""
    from tinyllm.models.checkpoints.files import read_file

    if file == "-":
        text, where = read_stdin(sys.stdin.buffer.read, "a text"), "stdin"
    else:
        text, where = decode(read_file(Path(file), MOST_INPUT), file), file
    if not text:
        raise InvalidInputError(f"{where}: expected some text, got an empty file")
    return text


def shipped_text() -> str:
    """The text that comes with the package: some prose of 636 tokens of SmolLM2's."""
    return (Path(__file__).parents[1] / "bench" / "text.txt").read_text(encoding="utf-8")


def checked(settings: dict[str, Any]) -> dict[str, Any]:
    """The sampling settings that were set (not None).

    Raises `InvalidInputError` for one that sampling does not take, before a model is loaded.
    """
    from tinyllm.engine.sampling.params import SamplingParams

    chosen = {name: value for name, value in settings.items() if value is not None}
    SamplingParams(**chosen)
    return chosen


def template_options(kwargs: str | None, **options: Any) -> TemplateOptions:
    """What is said of the chat template.

    Args:
        kwargs: its variables, as a JSON object.
        options: other fields of `TemplateOptions`.

    Raises `InvalidInputError` for what is no JSON object, and for options that exclude one another.
    """
    from tinyllm.models.text.chat_prompt import split_options

    try:
        variables = None if kwargs is None else json.loads(kwargs)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"chat_template_kwargs: expected a JSON object, got {quoted(kwargs)}") from error
    return split_options({"chat_template_kwargs": variables, **options})[0]


def load_model(
    model: str | None,
    backend: str | None,
    dtype: str | None,
    fast: bool | None,
    kv_cache_dtype: str | None,
    *,
    quiet: bool = False,
    tensor_parallel: int = 1,
    pipeline_parallel: int = 1,
) -> LLM:
    """Load a model (None: the one of the settings), downloaded first if it is not on this machine.

    Progress is shown on a terminal's stderr; unless `quiet`, lines say how much was written to the cache folder, and
    that pictures are not read. Raises as `load` does.
    """
    from tinyllm.llm import load
    from tinyllm.models.download.sources import packed_folder, resolve
    from tinyllm.models.families.vision import TOWERS
    from tinyllm.registry.registry import default_registry

    registry = default_registry()
    # a wrong name is an error before anything is downloaded
    registry.backend(registry.select(backend).default or registry.best())
    name = model_name(model)
    with download_bar(f"fetching {name}") as report:
        path = resolve(name, progress=report)
    with loading_line(f"loading {name}") as progress:
        llm = load(
            path,
            backend,
            dtype=dtype,
            fast=fast,
            kv_cache_dtype=kv_cache_dtype,
            tensor_parallel=tensor_parallel,
            pipeline_parallel=pipeline_parallel,
            progress=progress,
        )
    if (written := llm.program.report.written) and not quiet:
        note(f"packed weights: {size(written)} in {packed_folder()}; the next start reads them there")
    if (pictures := sum(name.startswith(TOWERS) for name in llm.skipped_tensors)) and not quiet:
        note(f"text alone: {pictures} tensors that read pictures or sounds are skipped")
    return llm


def follow_first(
    model: str | None,
    backend: str | None,
    dtype: str | None,
    fast: bool | None,
    kv_cache_dtype: str | None,
    pipeline_parallel: int,
) -> None:
    """Where torchrun has started this process as one of a pipeline, and not as the first: run its layers, say nothing,
    and end the process when the first one ends. Raises as `load` does."""
    from tinyllm.llm import load
    from tinyllm.parallel.torchrun import torchrun_place

    place = torchrun_place(os.environ) if pipeline_parallel > 1 else None
    if place is not None and place.rank > 0:
        load(
            model,
            backend,
            dtype=dtype,
            fast=fast,
            kv_cache_dtype=kv_cache_dtype,
            pipeline_parallel=pipeline_parallel,
        )


def model_name(model: str | None) -> str:
    """The model that the command names, otherwise the one of the settings."""
    from tinyllm.registry.registry import default_registry

    return model if model is not None else str(default_registry().settings["model"].value)


def describe(llm: LLM) -> str:
    """What loading chose, as lines: the kernels and how many calls each runs, the copies between backends at each step,
    the schemes whose weights were expanded, the weights that are held in a second form, the tensors of the checkpoint
    that were skipped, the dtype of keys and values, and what this process has of a model that is shared out."""
    report = llm.program.report
    counts = Counter(report.kernels.values())
    copies = Counter(node.kernel.removeprefix("copy ") for node in llm.program.nodes if node.op == "copy")
    sections = {
        "kernels": [f"{count:5} {kernel}" for kernel, count in sorted(counts.items())],
        "copies between backends": [f"{count:5} {way}" for way, count in sorted(copies.items())],
        "schemes run as float matrices": [
            f"{name}: {size(before)} are {size(after)}" for name, (before, after) in report.expanded.items()
        ],
        "weights held in a second form": report.second_copies,
        "tensors of the checkpoint that were skipped": llm.skipped_tensors,
    }
    told = ["\n  ".join([f"{title}: {len(lines) or 'none'}", *lines]) for title, lines in sections.items()]
    told.append(f"keys and values in {', '.join(llm.program.cache_dtypes)}")
    if report.share is not None:
        told.append(f"weights in this process: {size(report.share[0])} of {size(report.share[1])}")
    return "\n".join(told)


def describe_defaults(llm: LLM, said: Collection[str] = ()) -> str:
    """A line on the sampling settings that the model's files say and nobody else did (`said`); empty where there are
    none."""
    defaults = llm.sampling_defaults
    settings = [f"{name} {value}" for name, value in defaults.values.items() if name not in said]
    return f"sampling as {defaults.source} says: {', '.join(settings)}" if settings else ""
