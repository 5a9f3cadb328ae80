"""`tinyllm trace`: where the time of a step goes, and the op calls of a real model run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from tinyllm.cli import options
from tinyllm.errors import InvalidInputError

if TYPE_CHECKING:
    from tinyllm.engine.model_runner import ModelRunner, StepBatch
    from tinyllm.graph.observe import Observe
    from tinyllm.graph.tools.times import StepTimes
    from tinyllm.llm import LLM


class _Traced(NamedTuple):
    """A step: its times, and the bytes of the weights that each node reads."""

    times: StepTimes
    read: list[int]


def trace(
    prompt: Annotated[str, typer.Argument(help="The prompt that the model answers.")] = "Why is the sky blue?",
    shapes: Annotated[
        Path | None,
        typer.Option(
            "--shapes",
            "-o",
            metavar="FILE",
            show_default=False,
            help="Write each different call to this file, which holds the prompt's token ids, and take no times.",
        ),
    ] = None,
    runs: Annotated[int, typer.Option("--runs", min=1, max=1000, help="Times that each step is run.")] = 9,
    nodes: Annotated[bool, typer.Option("--nodes", help="A line for each node, not for each kernel.")] = False,
    model: options.ModelName = None,
    backend: options.BackendName = None,
    dtype: options.Dtype = None,
    fast: options.Fast = None,
    kv_cache_dtype: options.KvCacheDtype = None,
    max_tokens: Annotated[int, typer.Option("--max-tokens", "-n", min=1, help="Tokens to generate.")] = 3,
    as_json: options.Json = False,
) -> None:
    """Show where the time of the prompt and of a token goes, kernel by kernel; native steps, which are one call, too.

    With --shapes: run a model and record each different call of an op; `tinyllm check --shapes FILE` replays them as
    cases. The file holds the integer inputs of the calls, and so the token ids of the prompt and of the answer:
    whoever has the file can read both.
    """
    from tinyllm.cli.session import load_model

    if shapes is not None:
        from tinyllm.conformance.shapes import check_writable

        check_writable(shapes)
    llm = load_model(model, backend, dtype, fast, kv_cache_dtype, quiet=as_json)
    if shapes is not None:
        _record(llm, prompt, max_tokens, shapes)
        return
    steps = _times(llm, prompt, max_tokens, runs)
    if as_json:
        from tinyllm.cli.output import print_json

        print_json({name: _as_json(*step) for name, step in steps.items()})
    else:
        _print(steps, nodes)


def _record(llm: LLM, prompt: str, max_tokens: int, shapes: Path) -> None:
    from tinyllm.cli.output import note
    from tinyllm.conformance.shapes import write_shapes
    from tinyllm.graph.tools.recorder import Recorder

    recorder = Recorder(llm.registry.specs)
    _run(llm, prompt, max_tokens, recorder)
    write_shapes(shapes, [(call, recorder.counts[key]) for key, call in recorder.calls.items()])
    total = sum(recorder.counts.values())
    note(
        f"{shapes}: {len(recorder.calls)} different calls of {len({c.op for c in recorder.calls.values()})} ops, "
        f"{total} in all"
    )


def _run(
    llm: LLM, prompt: str, max_tokens: int, observe: Observe | None = None
) -> tuple[ModelRunner, StepBatch, StepBatch]:
    """Run the step of the prompt and those of the tokens that follow it; gives the first and the last of them.

    observe: told of all values.
    """
    from tinyllm.engine.model_runner import Chunk, ModelRunner, make_step

    ids = llm.encode(prompt)
    if len(ids) + max_tokens > llm.context:
        raise InvalidInputError(
            f"trace: expected a prompt and --max-tokens of at most {llm.context} tokens together, got {len(ids)} and "
            f"{max_tokens}"
        )
    size = llm.program.page_size
    pages = list(range(-(-(len(ids) + max_tokens) // size)))
    runner = ModelRunner(llm.program, len(pages), size)
    steps = [make_step([Chunk(ids, 0, pages)], size)]
    for place in range(len(ids), len(ids) + max_tokens):
        best = int(runner.step(steps[-1], observe, observe is not None)[-1].argmax())
        steps.append(make_step([Chunk([best], place, pages)], size))
    runner.step(steps[-1], observe, observe is not None)
    return runner, steps[0], steps[-1]


def _times(llm: LLM, prompt: str, max_tokens: int, runs: int) -> dict[str, _Traced]:
    """The step of the prompt, and that of the last of the tokens that follow it."""
    from functools import partial

    from tinyllm.graph.tools.times import step_times
    from tinyllm.graph.tools.weight_bytes import weight_bytes

    runner, prefill, decode = _run(llm, prompt, max_tokens)
    specs = llm.registry.specs
    tokens = len(prefill.tokens)

    def traced(batch: Any, tokens: int) -> _Traced:
        times = step_times(partial(runner.step, batch), runs)
        return _Traced(times, [weight_bytes(node, specs, {"T": tokens, "R": 1}) for node, _ in times.nodes])

    return {f"prompt of {tokens}": traced(prefill, tokens), f"token {tokens + max_tokens}": traced(decode, 1)}


def _print(steps: dict[str, _Traced], nodes: bool) -> None:
    from tinyllm.cli.output import note, print_table

    for name, (times, read) in steps.items():
        total = sum(seconds for _, seconds in times.nodes)
        if nodes:
            each = zip(times.nodes, read, strict=True)
            rows = [(node.name, node.kernel, *_cells(seconds, total, size)) for (node, seconds), size in each]
            print_table([name, "kernel", "ms", "share", "weights MB"], rows)
        else:
            found, sizes = times.by_kernel(), dict.fromkeys(times.by_kernel(), 0)
            for (node, _), size in zip(times.nodes, read, strict=True):
                sizes[node.kernel] += size
            print_table(
                [name, "nodes", "ms", "share", "weights MB"],
                [(kernel, count, *_cells(seconds, total, sizes[kernel])) for kernel, (count, seconds) in found.items()],
            )
        note(
            f"{name}: {total * 1e3:.2f} ms node by node; {times.whole * 1e3:.2f} ms when nobody looks; "
            f"{sum(read) / 1e6:.1f} MB of weights"
        )


def _cells(seconds: float, total: float, read: int) -> tuple[str, str, str]:
    return f"{seconds * 1e3:.3f}", f"{seconds / total:.1%}" if total else "", f"{read / 1e6:.2f}" if read else ""


def _as_json(times: StepTimes, read: list[int]) -> dict[str, Any]:
    nodes = [
        {"name": node.name, "op": node.op, "kernel": node.kernel, "seconds": seconds, "weight_bytes": size}
        for (node, seconds), size in zip(times.nodes, read, strict=True)
    ]
    return {"seconds": times.whole, "nodes": nodes}
