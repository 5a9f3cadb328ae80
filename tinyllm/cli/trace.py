"""`tinyllm trace`: record the op calls of a real model run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tinyllm.cli import options


def trace(
    prompt: Annotated[str, typer.Argument(help="The prompt that the model answers.")] = "Why is the sky blue?",
    shapes: Annotated[
        Path,
        typer.Option(
            "--shapes", "-o", metavar="FILE", help="The file that is written; it holds the prompt's token ids."
        ),
    ] = Path("shapes.jsonl"),
    model: options.ModelName = None,
    backend: options.BackendName = None,
    max_tokens: Annotated[int, typer.Option("--max-tokens", "-n", min=1, help="Tokens to generate.")] = 3,
) -> None:
    """Run a model and record each different call of an op; `tinyllm check --shapes FILE` replays them as cases.

    The file holds the integer inputs of the calls, and so the token ids of the prompt and of the answer: whoever has
    the file can read both.
    """
    from tinyllm.cli.output import loading_line, note
    from tinyllm.conformance.shapes import check_writable, write_shapes
    from tinyllm.graph.tools.trace import Recorder
    from tinyllm.llm import load
    from tinyllm.registry.registry import default_registry

    check_writable(shapes)
    registry = default_registry()
    recorder = Recorder(registry.plugins, registry.settings)
    with loading_line("loading") as progress:
        llm = load(model, backend=backend, registry=recorder, progress=progress)
    llm.generate(prompt, max_tokens=max_tokens, temperature=0.0)
    write_shapes(shapes, [(call, recorder.counts[key]) for key, call in recorder.calls.items()])
    total = sum(recorder.counts.values())
    note(
        f"{shapes}: {len(recorder.calls)} different calls of {len({c.op for c in recorder.calls.values()})} ops, "
        f"{total} in all"
    )
