"""`tinyllm plan`: what a model needs, before any weight is loaded."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tinyllm.cli import options

if TYPE_CHECKING:
    from tinyllm.bench.expected import Speeds
    from tinyllm.bench.plan import Plan
    from tinyllm.graph.tools.fit import Remedy
    from tinyllm.graph.tools.plan import NodeCost


def plan(
    model: Annotated[
        str | None,
        typer.Argument(
            help="Folder, config.json, .gguf file, hub id or known name.", show_default="smollm2", metavar="MODEL"
        ),
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(
            "--context",
            "-c",
            min=1,
            metavar="N",
            help="Tokens of a sequence, prompt and reply together.",
            show_default="4096, or the model's",
        ),
    ] = None,
    batch: Annotated[int, typer.Option("--batch", min=1, metavar="N", help="Sequences at a time.")] = 1,
    memory: Annotated[
        str, typer.Option("--memory", metavar="SIZE", help="What it has to fit into, such as 16GB or 16GiB.")
    ] = "",
    quantize: Annotated[
        int | None, typer.Option("--quantize", metavar="BITS", help="Plan for affine weights of so many bits.")
    ] = None,
    group_size: Annotated[
        int, typer.Option("--group-size", min=1, metavar="N", help="Weights that share a scale, with --quantize.")
    ] = 64,
    prompt_tokens: Annotated[
        int | None,
        typer.Option(
            "--prompt-tokens",
            min=1,
            metavar="N",
            help="Tokens of a prompt that a step reads.",
            show_default="512, or the context",
        ),
    ] = None,
    backend: options.BackendName = None,
    dtype: options.Dtype = None,
    fast: options.Fast = None,
    kv_cache_dtype: options.KvCacheDtype = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure this machine anew; otherwise what was measured once is kept.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Show what a model needs: parameters, weights, cache, what its steps move and compute, and how fast they should be
    here. No weight is loaded; a config.json is enough.

    With --memory the exit status is 1 if it does not fit, and what would make it fit is shown.
    """
    from tinyllm.bench.expected import kept_speeds
    from tinyllm.bench.plan import Wanted, plan_model
    from tinyllm.catalogue.schemes.affine import Affine
    from tinyllm.cli.output import note, print_json
    from tinyllm.cli.session import model_name
    from tinyllm.graph.tools.fit import remedies
    from tinyllm.models.families.families import FAMILIES
    from tinyllm.models.planned_model import planned_model
    from tinyllm.registry.registry import Registry, default_registry
    from tinyllm.settings.kinds import Bytes, Kind
    from tinyllm.settings.read import Setting

    limit = Kind(Bytes, low=1).from_text("plan: --memory", memory) if memory else None
    scheme = None if quantize is None else Affine(quantize, group_size)
    registry = default_registry()
    if fast is not None:  # of the cache's dtype, the kernels and the times alike
        registry = Registry(registry.plugins, {**registry.settings, "fast": Setting(fast, "--fast")})
    selection = registry.select(backend)
    name = model_name(model)
    opened = planned_model(name, (*FAMILIES, *registry.plugins.families), quantized=scheme is not None)
    wanted = Wanted(context, batch, prompt_tokens, scheme, dtype, kv_cache_dtype)
    made = plan_model(opened, registry, selection, wanted)
    speeds = kept_speeds(
        registry,
        made.backend,
        [*made.prefill, *made.decode],
        made.need.weights,
        anew=measure,
        on_step=note,
    )
    fits = limit is None or made.need.total <= limit
    found = [] if limit is None or fits else remedies(made.need, limit, made.choices)
    if as_json:
        print_json(_as_json(name, made, speeds, limit, found))
    else:
        _print(name, made, speeds, limit)
        if limit is not None:
            _print_fit(made, limit, found)
    if not fits:
        raise typer.Exit(1)


def _speeds(plan: Plan, speeds: Speeds) -> dict[str, float]:
    """Tokens per second of a prompt, and of all sequences together."""
    prefill = speeds.step_seconds(plan.prefill, 1)
    decode = speeds.step_seconds(plan.decode, plan.need.batch)
    return {"prefill_tok_s": plan.prompt_tokens / prefill, "decode_tok_s": plan.need.batch / decode}


def _by_op(costs: list[NodeCost], speeds: Speeds) -> dict[str, tuple[int, int, int, float]]:
    """Per op its nodes, their operations, bytes and seconds, the most seconds first."""
    found: dict[str, tuple[int, int, int, float]] = {}
    for cost in costs:
        count, flops, moved, seconds = found.get(cost.op, (0, 0, 0, 0.0))
        seconds += speeds.call_seconds(cost)
        found[cost.op] = count + 1, flops + cost.flops, moved + cost.bytes, seconds
    return dict(sorted(found.items(), key=lambda item: -item[1][3]))


def _print(name: str, plan: Plan, speeds: Speeds, limit: int | None) -> None:
    from tinyllm.cli.output import print_table

    print_table([f"on {', '.join(_backends(plan))}", "numbers", "bytes"], _memory(name, plan, limit))
    steps = {
        f"prompt of {plan.prompt_tokens}": (plan.prefill, plan.prompt_tokens, 1),
        f"a token for {plan.need.batch}": (plan.decode, plan.need.batch, plan.need.batch),
    }
    for step, (costs, tokens, sequences) in steps.items():
        lines = [(op, *_cells(*values), "") for op, values in _by_op(costs, speeds).items()]
        flops, moved = sum(cost.flops for cost in costs), sum(cost.bytes for cost in costs)
        seconds = speeds.step_seconds(costs, sequences)
        lines += [("the step itself", "", "", "", f"{speeds.step.seconds(0, sequences) * 1e3:.3f}", "")]
        lines += [("all", *_cells(len(costs), flops, moved, seconds), f"{tokens / seconds:.1f}")]
        print_table([step, "nodes", "GFLOP", "MB", "ms", "tok/s"], lines)


def _backends(plan: Plan) -> dict[str, int]:
    """The backends that run its nodes, with how many each runs."""
    return dict(Counter(cost.backend for cost in plan.decode))


def _memory(name: str, plan: Plan, limit: int | None) -> list[tuple[str, str, str]]:
    """What takes memory, a line each."""
    from tinyllm.cli.output import size

    config, need, numbers = plan.config, plan.need, plan.parameters
    rows = [(f"parameters of {name} ({config.family})", _count(numbers.total), "")]
    if numbers.active != numbers.total:
        rows.append(("parameters for each token", _count(numbers.active), ""))
    rows += [(f"weights, {kind}", _count(held.numbers), size(held.bytes)) for kind, held in plan.weights.items()]
    cached, row = (
        need.batch * need.context,
        f" and a row of {need.by_sequence / 1e6:.2f} MB" if need.by_sequence else "",
    )
    each = f"{need.context} tokens of {need.by_token / 1024:.1f} KiB{row}"
    return [
        *rows,
        (f"cache, {need.batch} x {each}, {plan.cache_dtype}", f"{cached} tokens", size(need.cache)),
        ("values of a step, at most", "", size(need.values)),
        ("Python and its libraries", "", size(need.process)),
        ("all", "", size(need.total)),
        *([("memory", "", size(limit))] if limit is not None else []),
    ]


def _print_fit(plan: Plan, limit: int, found: list[Remedy]) -> None:
    from tinyllm.cli.output import print_table, size

    over = plan.need.total - limit
    if over <= 0:
        print(f"fits: {size(-over)} are left")
        return
    print(f"does not fit: {size(over)} too much{'' if found else ', and no change here makes it fit'}")
    if found:
        print_table(["would fit with", "bytes"], [(" and ".join(_changes(each)), size(each.total)) for each in found])


def _changes(remedy: Remedy) -> list[str]:
    stated = {
        "weights of {0} bits (--quantize {0})": remedy.bits,
        "--kv-cache-dtype {}": remedy.cache_dtype,
        "--batch {}": remedy.batch,
        "--context {}": remedy.context,
    }
    return [text.format(value) for text, value in stated.items() if value is not None]


def _cells(count: int, flops: int, moved: int, seconds: float) -> tuple[str, str, str, str]:
    return str(count), f"{flops / 1e9:.3f}", f"{moved / 1e6:.2f}", f"{seconds * 1e3:.3f}"


def _count(number: int) -> str:
    """A number as `135 M` or `70.6 B`."""
    return f"{number / 1e6:.1f} M" if number < 1e9 else f"{number / 1e9:.1f} B"


def _as_json(name: str, plan: Plan, speeds: Speeds, limit: int | None, found: list[Remedy]) -> dict[str, Any]:
    from dataclasses import asdict

    def steps(costs: list[NodeCost], sequences: int) -> dict[str, Any]:
        ops = {
            op: dict(zip(("nodes", "flops", "bytes", "seconds"), values, strict=True))
            for op, values in _by_op(costs, speeds).items()
        }
        return {
            "flops": sum(cost.flops for cost in costs),
            "bytes": sum(cost.bytes for cost in costs),
            "seconds": speeds.step_seconds(costs, sequences),
            "ops": ops,
        }

    need = plan.need
    return {
        "model": name,
        "family": plan.config.family,
        "backend": plan.backend,
        "nodes": _backends(plan),
        "parameters": asdict(plan.parameters),
        "weights": {kind: asdict(held) for kind, held in plan.weights.items()},
        "cache_dtype": plan.cache_dtype,
        "bytes": asdict(need) | {"cache": need.cache, "total": need.total},
        "prompt_tokens": plan.prompt_tokens,
        "prefill": steps(plan.prefill, 1),
        "decode": steps(plan.decode, need.batch),
        "expected": _speeds(plan, speeds),
        "memory": limit,
        "fits": None if limit is None else need.total <= limit,
        "would_fit": [{key: value for key, value in asdict(r).items() if value is not None} for r in found],
    }
