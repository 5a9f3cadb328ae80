"""`tinyllm which OP`: which kernel runs an op, and why the others do not; or which run the nodes of a model."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Annotated

import typer

from tinyllm.cli import options
from tinyllm.cli.output import note, print_json, print_table
from tinyllm.errors import UnknownNameError, UnsupportedError, invalid, suggest

if TYPE_CHECKING:
    from tinyllm.plugins.backend import Backend
    from tinyllm.registry.registry import Registry
    from tinyllm.spec.cases import Case
    from tinyllm.spec.op_spec import OpSpec
    from tinyllm.spec.types import Call


def which(
    op: Annotated[
        str,
        typer.Argument(
            metavar="OP|NODES",
            autocompletion=options.op_names,
            help="The op, such as sdpa, or a pattern of a model's nodes, such as 'model.layers.3.*'.",
        ),
    ],
    backend: options.BackendName = None,
    case: Annotated[
        str | None, typer.Option("--case", metavar="ID", help="The case of the op's spec to ask about.")
    ] = None,
    model: options.ModelName = None,
    dtype: options.Dtype = None,
    fast: options.Fast = None,
    as_json: options.Json = False,
) -> None:
    """Show the kernels of an op, and which one runs and why; or what runs the nodes of a model.

    The call is a case of the op's spec. The selected backend is asked twice: for a single call, and for a call in a
    model, where a weight is packed once and used often.

    A pattern of node names, which has a dot or a star, loads the model and shows backend and kernel of each node that
    it names, and the copies between backends that bring their inputs.
    """
    from tinyllm.registry.selection import is_pattern

    if is_pattern(op):
        if case is not None:
            raise invalid("which", "--case", "an op", f"the nodes {op}")
        from tinyllm.cli.which_nodes import which_nodes

        which_nodes(op, model, backend, dtype, fast, as_json)
        return
    if model is not None:
        raise invalid("which", "--model", "a pattern of nodes, such as '*.mlp.*'", f"the op {op}")
    from tinyllm.conformance.example import make_example
    from tinyllm.plugins.kernel import EVERY_CPU
    from tinyllm.registry.registry import default_registry

    registry = default_registry()
    spec = registry.spec(op)
    selection = registry.select(backend)
    home = registry.backend_for(op, selection)
    example = find_case(spec, case)
    call = replace(make_example(spec, example, dtype or home.compute_dtype).call, device=home.device)
    verdicts = [judge(registry, call, home, fast), judge(registry, replace(call, weights_packed=True), home, fast)]
    kernels = [k for name in (*registry.plugins.backends, EVERY_CPU) for k in registry.kernels(name, op)]
    rows = [
        {
            "kernel": k.id,
            "priority": k.priority,
            "exact": k.exact,
            "single_call": verdicts[0].of(k.id),
            "in_a_model": verdicts[1].of(k.id),
        }
        for k in kernels
    ]
    types = {name: str(type_) for name, type_ in call.inputs.items() if type_ is not None}
    where = f"{home.name}:{home.device}"
    if as_json:
        attributes = {name: repr(value) for name, value in example.attributes.items()}
        print_json(
            {
                "op": op,
                "backend": where,
                "source": selection.source,
                "case": example.id,
                "inputs": types,
                "attributes": attributes,
                "single_call": asdict(verdicts[0]),
                "in_a_model": asdict(verdicts[1]),
                "kernels": rows,
            }
        )
        return
    arguments = [f"{n} {t}" for n, t in types.items()] + [f"{k}={v}" for k, v in example.attributes.items()]
    note(f"{op}({', '.join(arguments)}) on {where} ({selection.source})")
    print_table(["kernel", "priority", "exact", "single call", "in a model"], [tuple(row.values()) for row in rows])
    for label, verdict in zip(("single call", "in a model"), verdicts, strict=True):
        note(f"{label}: {verdict.runs or 'nothing'} runs: {verdict.why}")


@dataclass(frozen=True)
class Verdict:
    """Which kernel runs a call (None: no kernel does) and why. reasons: by kernel, why it does not take the call."""

    runs: str | None
    why: str
    reasons: dict[str, str]

    def of(self, kernel: str) -> str:
        """The cell of a kernel in the table."""
        if kernel == self.runs:
            return "runs"
        if kernel not in self.reasons:
            return "another backend" if self.runs else ""
        return self.reasons[kernel] or "another comes first"


def judge(registry: Registry, call: Call, backend: Backend, fast: bool | None) -> Verdict:
    """The registry's choice for a call; where nothing runs it, the error's message is the reason."""
    try:
        choice = registry.choose(call, backend, fast=fast)
    except UnsupportedError as error:
        return Verdict(None, str(error), {})
    return Verdict(choice.id, choice.why, {c.kernel.id: c.reason for c in choice.candidates})


def find_case(spec: OpSpec, case_id: str | None) -> Case:
    """The case of this id; None: the first of benchmark size, otherwise the first.

    Raises `UnknownNameError` where the spec has no such case.
    """
    if not spec.cases:
        raise UnknownNameError(f"{spec.name}: its spec has no case to make a call from")
    if case_id is None:
        return next((c for c in spec.cases if c.tier == "bench"), spec.cases[0])
    cases = {c.id: c for c in spec.cases}
    if case_id not in cases:
        raise UnknownNameError(f"{spec.name}: unknown case {case_id!r}.{suggest(case_id, cases)}")
    return cases[case_id]
