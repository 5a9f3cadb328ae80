"""`tinyllm export-definitions`: ops at their shapes, as FlashInfer-Bench writes definitions and workloads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tinyllm.cli import options

if TYPE_CHECKING:
    from tinyllm.definitions.collect import Collection


def export_definitions(
    model: options.KnownModelName = None,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="A new or empty folder.")] = Path(
        "definitions"
    ),
    ops: Annotated[
        bool, typer.Option("--ops", help="No model: every op at the shapes that bench ops times, in --dtype.")
    ] = False,
    prompt: Annotated[
        str, typer.Option("--prompt", metavar="TEXT", help="What the model answers while its calls are recorded.")
    ] = "Why is the sky blue?",
    max_tokens: Annotated[int, typer.Option("--max-tokens", "-n", min=1, help="Tokens that it answers.")] = 3,
    backend: options.BackendName = None,
    dtype: options.Dtype = None,
    as_json: options.Json = False,
) -> None:
    """Write the ops of a model, at the shapes of a run of it, as definitions and workloads of FlashInfer-Bench.

    Each definition has a reference in Python, the op's own formula in float64. The workloads hold the integer inputs
    of the calls, and so the token ids of the prompt and of the answer. What cannot be exported is listed with its
    reason.
    """
    from tinyllm.cli.output import note, print_json, print_table
    from tinyllm.definitions.export import check_folder, write
    from tinyllm.errors import invalid

    if ops and (model is not None or backend is not None):
        given = "MODEL" if model is not None else "--backend"
        raise invalid("export-definitions", given, "none beside --ops, which takes no model", model or backend)
    check_folder(out)
    found = _of_ops(dtype or "float32") if ops else _of_model(model, backend, dtype, prompt, max_tokens)
    written = write(found, out)
    rows = [(name, found.definitions[name].spec.name, len(found.workloads[name])) for name in written]
    if as_json:
        definitions = [{"name": name, "op": op, "workloads": count} for name, op, count in rows]
        print_json({"folder": str(out), "definitions": definitions, "left_out": found.left_out, "dense": found.dense})
        return
    print_table(["definition", "op", "workloads"], rows)
    for name, scheme in found.dense.items():
        note(f"{name}: its weights are floats here; they ran in {scheme}")
    for op, why in sorted(found.left_out.items()):
        note(f"not exported: {op}: {why}")
    left = f"; {len(found.left_out)} ops left out: {', '.join(sorted(found.left_out))}" if found.left_out else ""
    note(f"{out}: {len(rows)} definitions, {sum(count for *_, count in rows)} workloads{left}")


def _of_ops(dtype: str) -> Collection:
    from tinyllm.definitions.collect import of_cases
    from tinyllm.definitions.definition import FLOATS
    from tinyllm.errors import InvalidInputError
    from tinyllm.registry.registry import default_registry

    if dtype not in FLOATS:
        raise InvalidInputError(f"export-definitions: --dtype: expected one of {', '.join(FLOATS)}, got {dtype!r}")
    return of_cases(default_registry().specs.values(), dtype)


def _of_model(model: str | None, backend: str | None, dtype: str | None, prompt: str, max_tokens: int) -> Collection:
    from tinyllm.cli.run_prompt import run_prompt
    from tinyllm.cli.session import load_model
    from tinyllm.definitions.collect import Collector

    llm = load_model(model, backend, dtype, None, None, quiet=True)
    collector = Collector(llm.registry.specs)
    run_prompt("export-definitions", llm, prompt, max_tokens, collector)
    return collector.found
