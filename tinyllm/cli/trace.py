"""`tinyllm trace`: where the time of a step goes, and the op calls of a real model run."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tinyllm.cli import options
from tinyllm.cli.output import note, print_json, print_table
from tinyllm.cli.run_prompt import run_prompt
from tinyllm.cli.target import check_target, write_target
from tinyllm.errors import TinyllmError, invalid

if TYPE_CHECKING:
    from tinyllm.bench.limits import Limits
    from tinyllm.bench.step_trace import Row
    from tinyllm.llm import LLM
    from tinyllm.plugins.backend import BoundNode


@dataclass(frozen=True)
class _Traced:
    """A step: seconds when nobody observes it, and a row for each node."""

    seconds: float
    rows: list[Row]


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
    chrome: Annotated[
        Path | None,
        typer.Option(
            "--chrome",
            metavar="FILE",
            show_default=False,
            help="Write the times for Perfetto or Chrome's viewer.",
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
    """Show where the time of the prompt and of a token goes, kernel by kernel, the slowest first: milliseconds, bytes
    read and written, GB/s, GFLOP/s, and the share of what this machine can do at most. Native steps, which are one
    call, and copies between backends are shown too.

    With --shapes: run a model and record each different call of an op; `tinyllm check --shapes FILE` replays them as
    cases. The file holds the integer inputs of the calls, and so the token ids of the prompt and of the answer:
    whoever has the file can read both.
    """
    from tinyllm.cli.session import load_model

    if shapes is not None and chrome is not None:
        raise invalid("trace", "--chrome", "a run that takes times", "--shapes, which takes none")
    for what, path in (("shapes file", shapes), ("trace file", chrome)):
        if path is not None:
            check_target(what, path)
    llm = load_model(model, backend, dtype, fast, kv_cache_dtype, quiet=as_json)
    if shapes is not None:
        _record(llm, prompt, max_tokens, shapes, as_json)
        return
    limits = _Limits(llm, quiet=as_json)
    steps = _trace(llm, prompt, max_tokens, runs, limits)
    if chrome is not None:
        from tinyllm.bench.chrome_trace import chrome_trace

        write_target("trace file", chrome, json.dumps(chrome_trace({name: one.rows for name, one in steps.items()})))
    if as_json:
        print_json({name: _as_json(one) | {"limits": limits.as_json()} for name, one in steps.items()})
    else:
        _print(steps, limits, nodes)


def _record(llm: LLM, prompt: str, max_tokens: int, shapes: Path, as_json: bool) -> None:
    from tinyllm.conformance.shapes import write_shapes
    from tinyllm.graph.tools.recorder import Recorder

    recorder = Recorder(llm.registry.specs)
    run_prompt("trace", llm, prompt, max_tokens, recorder)
    write_shapes(shapes, [(call, recorder.counts[key]) for key, call in recorder.calls.items()])
    different, ops = len(recorder.calls), len({call.op for call in recorder.calls.values()})
    total = sum(recorder.counts.values())
    if as_json:
        print_json({"shapes": str(shapes), "different_calls": different, "ops": ops, "calls": total})
    else:
        note(f"{shapes}: {different} different calls of {ops} ops, {total} in all")


class _Limits:
    """Those of this machine, for each backend and kind of weight that a model has."""

    def __init__(self, llm: LLM, quiet: bool) -> None:
        from tinyllm.graph.tools.cost import held_bytes

        self._registry, self._quiet = llm.registry, quiet
        self._held = held_bytes(llm.program.nodes, llm.registry.specs)
        self.found: dict[str, Limits | None] = {}

    def of(self, node: BoundNode) -> Limits | None:
        """What a node is held against; None where it could not be measured, which a line tells."""
        from tinyllm.bench.kept_limits import kept_limits
        from tinyllm.graph.tools.cost import weight_scheme

        quantized = weight_scheme(node)
        scheme = quantized.scheme if quantized else None
        where = f"{node.backend.name}:{node.backend.device}"
        key = f"{where} {scheme or 'float32'}"
        if key not in self.found:
            try:
                tell = (lambda what: None) if self._quiet else note
                self.found[key] = kept_limits(self._registry, where, scheme, self._held, on_step=tell)
            except TinyllmError as error:
                note(f"{key}: the machine's limits could not be measured: {error}")
                self.found[key] = None
        return self.found[key]

    def as_json(self) -> dict[str, Any]:
        """By backend and kind of weight."""
        return {name: asdict(limits) for name, limits in self.found.items() if limits}


def _trace(llm: LLM, prompt: str, max_tokens: int, runs: int, limits: _Limits) -> dict[str, _Traced]:
    """The step of the prompt, and that of the last of the tokens that follow it."""
    from tinyllm.bench.step_trace import node_rows
    from tinyllm.graph.tools.cost import step_sizes
    from tinyllm.graph.tools.times import step_times

    runner, prefill, decode = run_prompt("trace", llm, prompt, max_tokens)
    prompted = len(prefill.tokens)
    names = {f"prompt of {prompted}": prefill, f"token {prompted + max_tokens}": decode}
    times = {name: step_times(partial(runner.step, batch), runs) for name, batch in names.items()}
    traced = {}
    for name, batch in names.items():  # limits, where they are not known yet, are measured after the times
        sizes = step_sizes(len(batch.tokens), int(batch.kv_len[0]))
        rows = node_rows(times[name].nodes, llm.registry.specs, sizes, limits.of)
        traced[name] = _Traced(times[name].whole, rows)
    return traced


def _print(steps: dict[str, _Traced], limits: _Limits, nodes: bool) -> None:
    from tinyllm.bench.step_trace import by_kernel, slowest_first

    figures = ["ms", "share", "MB", "GB/s", "GFLOP/s", "of limit"]
    for name, step in steps.items():
        total, moved = sum(row.seconds for row in step.rows), sum(row.bytes for row in step.rows)
        if nodes:
            rows: list[tuple[Any, ...]] = [
                (row.name, row.kernel, *_cells(row, total)) for row in slowest_first(step.rows)
            ]
        else:
            rows = [(row.kernel, row.nodes, *_cells(row, total)) for row in by_kernel(step.rows)]
        print_table([name, "kernel" if nodes else "nodes", *figures], rows)
        copies = [row for row in step.rows if row.op == "copy"]
        note(
            f"{name}: {total * 1e3:.2f} ms node by node; {step.seconds * 1e3:.2f} ms when nobody looks; "
            f"{moved / 1e6:.1f} MB read and written; {len(copies)} copies between backends, "
            f"{sum(row.bytes for row in copies) / 1e6:.2f} MB"
        )
    for name, one in limits.found.items():
        if one is not None:
            note(f"limit of {name}: {one.gb_s:.1f} GB/s, {one.gflop_s:.0f} GFLOP/s")


def _cells(row: Row, total: float) -> list[str]:
    figures = [row.gb_s, row.gflop_s]
    return [
        f"{row.seconds * 1e3:.3f}",
        f"{row.seconds / total:.1%}" if total else "",
        f"{row.bytes / 1e6:.2f}" if row.bytes else "",
        *("" if figure is None else f"{figure:.3g}" for figure in figures),
        "" if row.of_limit is None else f"{row.of_limit:.0%}",
    ]


def _as_json(step: _Traced) -> dict[str, Any]:
    nodes = [
        {
            "name": row.name,
            "op": row.op,
            "kernel": row.kernel,
            "backend": row.backend,
            "seconds": row.seconds,
            "flops": row.flops,
            "bytes": row.bytes,
            "gb_s": row.gb_s,
            "gflop_s": row.gflop_s,
            "of_limit": row.of_limit,
        }
        for row in step.rows
    ]
    return {"seconds": step.seconds, "nodes": nodes}
