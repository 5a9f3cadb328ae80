"""The specs as custom ops of PyTorch: clean by its own judge, traced whole, run by the kernels that were asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import tinyllm_torch
import torch
from tinyllm_numpy.rows import rms_norm as numpy_rms_norm
from tinyllm_torch.backend import TorchBackend
from tinyllm_torch.custom_ops import CustomOps, fits, register_custom_ops, schema

from tests.registry.fakes import module, registry
from tinyllm.conformance.example import Example, make_example
from tinyllm.conformance.judge import judge
from tinyllm.errors import InvalidInputError, UnknownNameError
from tinyllm.plugins.kernel import Kernel
from tinyllm.registry.registry import default_registry
from tinyllm.spec.scheme import QuantWeight

SPECS = default_registry().specs
HERE = TorchBackend("cpu")


@pytest.fixture(scope="module")
def custom() -> Iterator[CustomOps]:
    with register_custom_ops("numpy", namespace="tinyllm_test") as ops:
        yield ops


def _example(op: str, ops: CustomOps) -> Example:
    """The largest smoke case that tensors and the op's schema can say."""
    without = ops.without.get(op, ())
    cases = [c for c in SPECS[op].cases if c.tier == "smoke" and not any(name in c.attributes for name in without)]
    examples = (make_example(SPECS[op], case, "float32") for case in sorted(cases, key=lambda c: -c.size))
    return next(e for e in examples if not any(isinstance(v, QuantWeight) for v in e.inputs.values()))


def _arguments(example: Example) -> tuple[tuple[Any, ...], dict[str, Any]]:
    tensors = {name: HERE.from_numpy(value.copy()) for name, value in example.inputs.items()}
    keyword = {n: list(v) if isinstance(v, tuple) else v for n, v in example.keyword(tensors).items()}
    return tuple(example.positional(tensors)), keyword


@pytest.mark.parametrize("op", [name for name, spec in SPECS.items() if not fits(spec)])
def test_an_op_is_clean_and_right(op: str, custom: CustomOps) -> None:
    """PyTorch's opcheck: schema, fake and real agree, also with sizes that are not known; and the oracle's numbers."""
    example = _example(op, custom)
    positional, keyword = _arguments(example)
    called = getattr(getattr(torch.ops, custom.namespace), op)
    torch.library.opcheck(called.default, positional, keyword)
    given = called(*positional, **keyword)
    parts = tuple(given) if isinstance(given, (tuple, list)) else (given,)
    assert not judge(example, tuple(HERE.to_numpy(part) for part in parts)).message


def test_what_does_not_fit_is_told(custom: CustomOps) -> None:
    """Every op is either there or left out with a reason."""
    assert {*custom.names} | {*custom.left_out} == {*SPECS} and not {*custom.names} & {*custom.left_out}
    assert custom.left_out["kv_append"].startswith("consumes k_pages") and "quantized" in custom.left_out["quantize"]
    assert custom.without == {"rope": ("scaling",), "rope_angles": ("scaling",), "all_reduce": ("group",)}
    assert schema(SPECS["rms_norm"]) == "(Tensor x, Tensor weight, *, float eps=1e-06, float offset=0.0) -> Tensor"


class Layer(torch.nn.Module):
    """A norm of ours between two layers of PyTorch's."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.first, self.second, self.norm = torch.nn.Linear(8, 16), torch.nn.Linear(16, 4), norm
        self.weight = torch.nn.Parameter(torch.rand(16), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.second(self.norm(self.first(x), self.weight, eps=1e-5))
        return y


@pytest.mark.parametrize("compiler", ["eager", "aot_eager", "inductor"])
def test_a_compiled_model_runs_the_kernel_that_was_asked_for(compiler: str) -> None:
    """Traced whole, sizes that change included; the kernel counts its calls, on numpy arrays."""
    calls: list[type] = []

    def counted(x: Any, weight: Any, *, eps: float = 1e-6, offset: float = 0.0) -> Any:
        calls.append(type(x))
        return numpy_rms_norm(x, weight, eps=eps, offset=offset)

    made = registry(
        module("mine", kernels=[Kernel("numpy", "rms_norm", "counted", lambda: counted, priority=99)]), tinyllm_torch
    )
    namespace = f"tinyllm_{compiler}"
    with register_custom_ops("numpy", namespace=namespace, registry=made), torch.no_grad():
        model = Layer(getattr(torch.ops, namespace).rms_norm)
        compiled = torch.compile(model, fullgraph=True, backend=compiler)
        for rows in (3, 5, 7):
            x = torch.randn(rows, 8)
            before = len(calls)
            given = compiled(x)
            assert len(calls) == before + 1 and calls[-1].__module__ == "numpy"
            torch.testing.assert_close(given, model(x))


def test_two_backends_stand_beside_each_other_in_two_namespaces() -> None:
    """One namespace is the process's: it is refused while it is taken, and free again once closed."""
    with register_custom_ops("numpy", namespace="tinyllm_one"):
        with pytest.raises(InvalidInputError, match="'tinyllm_one' is taken"):
            register_custom_ops("torch", namespace="tinyllm_one")
        with register_custom_ops("torch", namespace="tinyllm_two"):
            x, weight = torch.randn(2, 4), torch.rand(4)
            torch.testing.assert_close(
                torch.ops.tinyllm_one.rms_norm(x, weight), torch.ops.tinyllm_two.rms_norm(x, weight)
            )
    register_custom_ops("torch", namespace="tinyllm_one").close()


def test_bad_calls_say_what_was_expected(custom: CustomOps) -> None:
    """By the spec's own words, before a kernel runs and while a model is traced."""
    with pytest.raises(InvalidInputError, match="rms_norm: weight: expected shape"):
        torch.ops.tinyllm_test.rms_norm(torch.ones(2, 3), torch.ones(4))
    with pytest.raises(RuntimeError, match="rms_norm: weight: expected shape"):
        torch.compile(torch.ops.tinyllm_test.rms_norm, fullgraph=True, backend="eager")(torch.ones(2, 3), torch.ones(4))
    with pytest.raises(UnknownNameError, match="'numpi'"):
        register_custom_ops("numpi", namespace="tinyllm_three")
    with pytest.raises(InvalidInputError, match="expected an identifier"):
        register_custom_ops("numpy", namespace="tiny llm")
