"""Which kernel runs a call, in which form a quantized weight reaches it, and the reasons of the others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.registry.fakes import backend_plugin, module, red, registry
from tinyllm import Affine, Int8
from tinyllm.catalogue.schemes import SCHEMES
from tinyllm.errors import PluginError, UnsupportedError
from tinyllm.ops import make_ops
from tinyllm.plugins.kernel import Kernel
from tinyllm.registry.choice import Choice, Form, forms
from tinyllm.registry.registry import Registry
from tinyllm.spec.scheme import Scheme
from tinyllm.spec.types import ArrayType, Call, QuantType
from tinyllm.spec.validation import check_call

Q4, Q8 = SCHEMES["q4_0"], SCHEMES["q8_0"]
"""The same numbers fit in `affine`, and in `int8`."""


def linear(x: Any, weight: Any, *, bias: Any = None) -> Any: ...


def kernel(name: str, *schemes: str, **more: Any) -> Kernel:
    """A kernel of `red` for linear; its schemes are dense weights alone unless named."""
    return Kernel("red", "linear", name, lambda: linear, schemes=schemes or ("dense",), **more)


def every_cpu(name: str, *schemes: str, **more: Any) -> Kernel:
    """The same for every backend on a CPU."""
    return Kernel("*", "linear", name, lambda: linear, schemes=schemes or ("dense",), arrays="host", **more)


def linear_call(scheme: Scheme | None = None, bias: bool = False, device: str = "cpu") -> Call:
    """A call with a weight of a scheme, None: a dense one."""
    weight = QuantType((4, 256), scheme) if scheme else ArrayType((4, 256), "float32")
    types = {"x": ArrayType((2, 256), "float32"), "weight": weight}
    types |= {"bias": ArrayType((4,), "float32")} if bias else {}
    return check_call(registry().spec("linear"), types, {}, device)


def choose(kernels: tuple[Kernel, ...], scheme: Scheme | None = None, **more: Any) -> Choice:
    asked = red(*kernels)
    return asked.choose(linear_call(scheme, **more), asked.backend("red"))


def reasons(kernels: tuple[Kernel, ...], scheme: Scheme | None = None) -> dict[str, str]:
    """Per kernel why it does not run the call, where something else does."""
    choice = choose((*kernels, kernel("any", "dense", "*", priority=-9)), scheme)
    return {one.kernel.name: one.reason for one in choice.candidates if one.kernel.name != "any"}


DENSE, AFFINE, INT8, ANY = kernel("d"), kernel("a", "affine"), kernel("i", "int8"), kernel("*", "*")


@pytest.mark.parametrize(
    ("kernels", "scheme", "name", "form"),
    [
        ((DENSE,), None, "d", Form.AS_IT_IS),
        ((DENSE, AFFINE, ANY), None, "d", Form.AS_IT_IS),
        ((kernel("both", "dense", "affine"),), Affine(), "both", Form.AS_IT_IS),
        ((DENSE, AFFINE), Affine(), "a", Form.AS_IT_IS),
        ((DENSE,), Affine(), "d", Form.EXPANDED),
        ((DENSE, AFFINE), Int8(), "d", Form.EXPANDED),
        ((DENSE, AFFINE), Q4, "a", Form.AFFINE),
        ((DENSE, AFFINE, INT8), Q8, "i", Form.AFFINE),
        ((DENSE, AFFINE, ANY), Q4, "*", Form.AS_IT_IS),
        ((DENSE, INT8), Q4, "d", Form.EXPANDED),
    ],
)
def test_the_most_direct_form_of_equal_kernels(
    kernels: tuple[Kernel, ...], scheme: Scheme, name: str, form: Form
) -> None:
    choice = choose(kernels, scheme)
    assert (choice.id, choice.form, choice.by) == (f"red/linear:{name}", form, "kernel")


@pytest.mark.parametrize(
    ("dense", "affine", "direct", "name"),
    [
        (0, 0, 0, "direct"),
        (1, 0, 0, "direct"),
        (2, 0, 0, "direct"),  # what it costs is what it is above: the more direct form
        (3, 0, 0, "dense"),
        (0, 1, 0, "direct"),
        (0, 2, 0, "affine"),
        (3, 2, 0, "affine"),
        (4, 2, 0, "dense"),
        (3, 2, 1, "direct"),
    ],
)
def test_a_form_takes_off_the_priority(dense: int, affine: int, direct: int, name: str) -> None:
    """One for affine numbers, two for an expanded weight."""
    kernels = (
        kernel("dense", priority=dense),
        kernel("affine", "affine", priority=affine),
        kernel("direct", "q4_0", priority=direct),
    )
    assert choose(kernels, Q4).id == f"red/linear:{name}"
    assert choose(kernels[::-1], Q4).id == f"red/linear:{name}"


def test_the_call_is_as_the_kernel_sees_it() -> None:
    """Of an expanded weight the array's type, of one as affine numbers the scheme that holds them: to `supports`, and
    to whoever binds the choice."""
    seen: list[tuple[str, Any]] = []

    def supports(name: str, answer: bool) -> Any:
        def asked(call: Call) -> bool:
            seen.append((name, call.inputs["weight"]))
            return answer

        return asked

    kernels = [
        kernel("any", "*", supports=supports("any", False)),
        kernel("affine", "affine", supports=supports("affine", False)),
        kernel("dense", supports=supports("dense", True)),
    ]
    choice = choose(tuple(kernels), Q4)
    affine, dense = QuantType((4, 256), Q4.affine or Q4), ArrayType((4, 256), "float32")
    assert seen == [("any", QuantType((4, 256), Q4)), ("any", affine), ("affine", affine), ("dense", dense)]
    assert choice.call.inputs["weight"] == dense and choice.form is Form.EXPANDED
    assert choice.call.inputs["x"] == ArrayType((2, 256), "float32")


def test_an_expanded_weight_has_the_dtype_of_x() -> None:
    types = {"x": ArrayType((2, 256), "float64"), "weight": QuantType((4, 256), Q4, "float16")}
    asked = registry()
    choice = asked.choose(check_call(asked.spec("linear"), types, {}), asked.backend("numpy"))
    assert (choice.form, choice.call.dtype("weight")) == (Form.EXPANDED, "float64")


def test_affine_numbers_that_are_rounded_to_float32_serve_no_call_in_float64() -> None:
    def offered(scheme: str, dtype: str) -> bool:
        spec = registry().spec("linear")
        types = {"x": ArrayType((2, 256), dtype), "weight": QuantType((4, 256), SCHEMES[scheme])}
        return Form.AFFINE in forms(spec, check_call(spec, types, {}))

    assert offered("fp4", "float32") and offered("zero_point", "float16") and offered("q8_0", "float64")
    assert not offered("fp4", "float64") and not offered("zero_point", "float64")


def test_all_weights_of_a_call_come_in_one_form() -> None:
    """A layer with one quantized projection: as it is, if the kernel takes that beside dense ones; else all dense."""

    def mha(query: Any, q_proj: Any, o_proj: Any, *, k_proj: Any = None, v_proj: Any = None, **more: Any) -> Any: ...

    def chosen(*schemes: str) -> Choice:
        asked = red(Kernel("red", "mha", "own", lambda: mha, schemes=schemes))
        kinds = {"q_proj": Affine(), "k_proj": None, "v_proj": Q4, "o_proj": None}
        types: dict[str, Any] = {
            n: QuantType((64, 64), s) if s else ArrayType((64, 64), "float32") for n, s in kinds.items()
        }
        types["query"] = ArrayType((2, 64), "float32")
        return asked.choose(check_call(asked.spec("mha"), types, {"num_heads": 4}), asked.backend("red"))

    def schemes_seen(choice: Choice) -> list[str]:
        weights = [choice.call.inputs[f"{n}_proj"] for n in "qkvo"]
        return [w.scheme.name if isinstance(w, QuantType) else "dense" for w in weights]

    assert schemes_seen(chosen("dense", "*")) == ["affine", "dense", "q4_0", "dense"]
    assert schemes_seen(chosen("dense", "affine")) == ["affine", "dense", "affine", "dense"]
    assert schemes_seen(chosen("dense", "int8")) == ["dense"] * 4
    with pytest.raises(UnsupportedError, match=r"own: o_proj: takes affine weights, not dense"):
        chosen("affine")


def test_the_backends_own_kernel_before_one_of_every_cpu() -> None:
    """Where they are equal; a higher priority or a more direct form outweighs that."""
    assert choose((every_cpu("host"), DENSE)).id == "red/linear:d"
    assert choose((every_cpu("host", priority=1), DENSE)).id == "*/linear:host"
    assert choose((every_cpu("host"), DENSE, kernel("low", priority=-1))).id == "red/linear:d"
    assert choose((every_cpu("host", "affine"), DENSE), Affine()).id == "*/linear:host"
    assert choose((every_cpu("host", "affine"), DENSE), Q4).id == "*/linear:host"
    assert choose((every_cpu("host"), AFFINE), Q4).id == "red/linear:a"


def test_every_cpu_is_no_other_device() -> None:
    gpu = module("red", backends=[backend_plugin("red", devices=("gpu", "cpu"))], kernels=[every_cpu("host")])
    asked = registry(gpu)
    assert asked.choose(linear_call(), asked.backend("red:cpu")).id == "*/linear:host"
    with pytest.raises(UnsupportedError, match="linear: backend 'red' has no kernel for it and no namespace"):
        asked.choose(linear_call(device="gpu"), asked.backend("red"))


def test_where_only_kernels_of_every_cpu_decline_the_reference_runs() -> None:
    """A backend with a namespace is no worse off for them; without one their reasons are no excuse."""
    narrow = Kernel("*", "silu", "narrow", lambda: lambda x: x, lambda call: "too wide", arrays="host")
    asked = registry(module("extra", kernels=[narrow]))
    call = check_call(asked.spec("silu"), {"x": ArrayType((3,), "float32")}, {})
    choice = asked.choose(call, asked.backend("numpy"))
    assert choice.id == "numpy/silu:reference"
    assert [(one.kernel.id, one.reason) for one in choice.candidates] == [("*/silu:narrow", "too wide")]
    with pytest.raises(UnsupportedError, match="no kernel for it and no namespace"):
        choose((every_cpu("host", "affine"),))


@pytest.mark.parametrize(
    ("kernels", "ids"),
    [
        ((kernel("one", priority=3), kernel("two", priority=3)), "red/linear:one and red/linear:two"),
        ((every_cpu("one"), every_cpu("two")), r"\*/linear:one and \*/linear:two"),
    ],
)
@pytest.mark.parametrize("scheme", [None, Affine()], ids=str)
def test_a_tie_is_an_error_that_names_both(kernels: tuple[Kernel, ...], ids: str, scheme: Scheme | None) -> None:
    with pytest.raises(PluginError, match=f"^linear: kernels {ids} have the same priority {kernels[0].priority}; pin"):
        choose(kernels, scheme)
    assert choose((*kernels, kernel("three", priority=4)), scheme).id == "red/linear:three"


def test_reasons_from_schemes() -> None:
    assert reasons((INT8, kernel("two", "affine", "int8")), Affine()) == {
        "i": "weight: takes int8 weights, not affine",
        "two": "",
    }
    assert reasons((AFFINE, kernel("two", "affine", "int8"), ANY)) == {
        "a": "weight: takes affine weights, not dense",
        "two": "weight: takes affine and int8 weights, not dense",
        "*": "weight: takes * weights, not dense",
    }
    assert reasons((INT8,), Q4) == {"i": "weight: takes int8 weights, not q4_0"}


def test_a_kernel_that_declines_says_why_and_not_what_else_it_takes() -> None:
    """It takes the weight expanded, so that it is quantized is not the reason."""
    assert reasons((kernel("narrow", supports=lambda call: "too wide"),), Q4) == {"narrow": "too wide"}


def test_a_weight_that_must_be_quantized_is_never_expanded() -> None:
    """dequantize cannot take what it gives: the scheme is the reason, and the kernel for every CPU runs instead."""
    asked = red(Kernel("red", "dequantize", "own", lambda: lambda weight: weight, schemes=("affine",)))
    backend, spec = asked.backend("red"), asked.spec("dequantize")

    def choose(scheme: Scheme) -> Choice:
        return asked.choose(check_call(spec, {"weight": QuantType((4, 256), scheme)}, {}), backend)

    assert (choose(Affine()).form, choose(Q4).form) == (Form.AS_IT_IS, Form.AFFINE)
    choice = choose(Int8())
    assert {one.kernel.name: one.reason for one in choice.candidates}["own"] == "weight: takes affine weights, not int8"
    assert choice.kernel is not None and (choice.kernel.backend, choice.form) == ("*", Form.AS_IT_IS)


def test_supports_that_raises_is_a_reason() -> None:
    """Other kernels go on working; with none the error tells it."""

    def fail(call: Call) -> bool:
        raise KeyError("columns")

    failing = kernel("failing", "*", "dense", supports=fail, priority=9)
    choice = choose((failing, DENSE), Affine())
    assert choice.id == "red/linear:d"
    assert {one.kernel.name: one.reason for one in choice.candidates}[
        "failing"
    ] == "supports failed: KeyError: 'columns'"
    with pytest.raises(UnsupportedError, match=r"red/linear:failing: supports failed: KeyError: 'columns'\)"):
        choose((failing,), Affine())


def _sdpa(q: Any, k: Any, v: Any, *, causal: bool = False, scale: float | None = None) -> Any:
    weights = np.exp(q.array @ k.array.T * (scale or q.shape[-1] ** -0.5))
    return type(q)(weights / weights.sum(-1, keepdims=True) @ v.array)


@pytest.fixture
def partial() -> Registry:
    """A backend whose sdpa takes neither mask nor sinks, window or softcap."""
    return red(Kernel("red", "sdpa", "partial", lambda: _sdpa))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"softcap": 2.0}, "takes no softcap"),
        ({"mask": np.ones((3, 3), bool), "softcap": 2.0}, "takes no mask and no softcap"),
        ({"sinks": np.ones(1, np.float32), "causal": True}, "takes no sinks"),
    ],
    ids=["an attribute", "an input and an attribute", "beside one that it takes"],
)
def test_reasons_from_the_signature(partial: Registry, more: dict[str, Any], words: str) -> None:
    """Whatever is given beyond it declines the call, by name."""
    q = np.ones((1, 3, 4), np.float32)
    with pytest.raises(UnsupportedError, match=rf"\(red/sdpa:partial: {words}\)$"):
        make_ops(partial)["sdpa"](q, q, q, **more, backend="red")


def test_an_argument_at_its_default_is_no_reason(partial: Registry) -> None:
    """Left out or written out, the kernel runs, and is not given what it does not take."""
    q = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    sdpa = make_ops(partial)["sdpa"]
    defaults = {"mask": None, "sinks": None, "window": None, "softcap": None, "causal": False, "scale": None}
    for more in ({}, defaults, {"scale": 2.0, "softcap": None}):
        np.testing.assert_allclose(
            sdpa(q, q, q, **more, backend="red"), sdpa(q, q, q, **more, backend="numpy"), rtol=1e-5
        )
