"""The outside judges: every case of theirs is accounted for, and a backend that is wrong is caught by each."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.registry.fakes import backend_plugin, module, registry
from tinyllm.catalogue import CATALOGUE
from tinyllm.catalogue.schemes import SCHEMES
from tinyllm.conformance.checks.check import Plan, Trial
from tinyllm.conformance.checks.oracles import NOT_MAPPED, oracles
from tinyllm.conformance.oracles.onnx import NODES, RUN, Entry, judged
from tinyllm.conformance.result import Outcome, Result
from tinyllm.conformance.run import Runner
from tinyllm.errors import TinyllmError
from tinyllm.plugins.kernel import Kernel
from tinyllm.plugins.oracle import Oracle
from tinyllm.registry.registry import Registry, default_registry

COUNTS = {
    "Attention": 93,
    "RotaryEmbedding": 8,
    "RMSNormalization": 19,
    "Softmax": 7,
    "Gelu": 4,
    "Swish": 1,
    "LayerNormalization": 19,
    "FlexAttention": 11,
    "LinearAttention": 14,
    "SwiGLU": 3,
    "Sigmoid": 2,
    "Add": 8,
    "Mul": 9,
    "Split": 16,
    "MatMul": 7,
    "Gemm": 11,
    "Gather": 4,
    "DequantizeLinear": 14,
    "QuantizeLinear": 13,
    "TensorScatter": 3,
}
"""Of onnx 1.23; a later one may have more."""


def results(found: Registry, oracle: str, *ops: str, backend: str = "numpy") -> list[Result]:
    plan = Plan(backend, ops=ops, oracles=(oracle,))
    run = Runner(found, plan)
    trials = [Trial(found, found.backend(backend), found.spec(op), plan) for op in ops]
    return [run(check) for trial in trials for check in oracles(trial)]


def wrong(op: str, answer: Callable[..., np.ndarray]) -> Registry:
    """A backend of boxes with one kernel."""
    plugin = module(
        "plugin_blue", backends=[backend_plugin("blue")], kernels=[Kernel("blue", op, "wrong", lambda: answer)]
    )
    found = registry(plugin)
    found.plugins.oracles |= default_registry().plugins.oracles
    return found


def softmax(x: Any, *, axis: int = -1) -> Any:
    weights = np.exp(x.array - x.array.max(axis=axis, keepdims=True, initial=-np.inf))
    return type(x)(weights / weights.sum(axis=axis, keepdims=True))


def softmax_last(x: Any, *, axis: int = -1) -> Any:
    """Wrong: along the last axis, whatever is asked for."""
    return softmax(x)


def from_the_start(
    q: Any,
    k: Any,
    v: Any,
    *,
    mask: Any = None,
    key_mask: Any = None,
    kv_lengths: Any = None,
    sinks: Any = None,
    scale: float | None = None,
    causal: bool = False,
    window: int | None = None,
    softcap: float | None = None,
) -> Any:
    """Wrong: causal is aligned to the start of the keys."""
    settings: dict[str, Any] = {
        "scale": scale,
        "window": window,
        "softcap": softcap,
        "key_mask": key_mask and key_mask.array,
    }
    given = mask and mask.array
    if causal:
        seen = np.tril(np.ones((q.shape[-2], k.shape[-2]), bool))
        given = (
            seen
            if given is None
            else given & seen
            if given.dtype == bool
            else np.where(seen, given, np.float32(-np.inf))
        )
    arrays = (a.array.astype(np.float64) for a in (q, k, v))
    y = CATALOGUE["gqa"].reference(
        np, *arrays, mask=given, kv_lengths=kv_lengths and kv_lengths.array, sinks=sinks and sinks.array, **settings
    )
    return type(q)(y.astype(np.float32))


def caught(seen: list[Result]) -> None:
    """By its numbers in some cases, while it runs and passes others."""
    failed = [r.message for r in seen if r.outcome is Outcome.FAIL]
    assert failed
    assert all("ulps" in message for message in failed)
    assert any(r.outcome is Outcome.PASS for r in seen)


def listing() -> list[Entry]:
    """What becomes of every case, in ONNX's order."""
    return [entry for entry, _ in judged()]


class TestOnnx:
    """Cases out of onnx's wheel."""

    @pytest.fixture(autouse=True)
    def _onnx(self) -> None:
        pytest.importorskip("onnx")

    def test_every_case_is_run_or_listed_with_a_reason(self) -> None:
        assert len({entry.case for entry in listing()}) == len(listing())
        assert all(entry.how for entry in listing())
        assert {entry.node for entry in listing()} <= NODES.keys()
        assert all(bool(calls) == (entry.how == RUN) for entry, calls in judged())
        assert all(op in CATALOGUE for entry in listing() for op in entry.ops)

    def test_the_wheel_has_the_cases_that_it_had(self) -> None:
        onnx = importlib.import_module("onnx")
        if tuple(map(int, onnx.__version__.split(".")[:2])) < (1, 23):
            pytest.skip(f"onnx {onnx.__version__} has fewer cases than 1.23")
        found = Counter(entry.node for entry in listing())
        assert {node: found[node] for node in NODES if found[node] < COUNTS[node]} == {}
        run = Counter(entry.node for entry in listing() if entry.how == RUN)
        assert (
            run["Attention"] >= 93
            and run["RotaryEmbedding"] >= 8
            and run["RMSNormalization"] >= 19
            and run["Softmax"] >= 7
        )

    def test_every_listed_case_is_seen_once_and_every_run_one_on_each_of_its_ops(self) -> None:
        found = default_registry()
        seen = results(found, "onnx", *{op for entry in listing() for op in entry.ops})
        unmapped = Counter(r.case for r in seen if r.message.startswith(NOT_MAPPED))
        assert unmapped == Counter(e.case for e in listing() if e.how != "run")
        ran = {(entry.case, op) for entry in listing() if entry.how == "run" for op in entry.ops}
        assert {(r.case, r.op) for r in seen if r.outcome is Outcome.PASS} == ran
        assert {r.outcome for r in seen} == {Outcome.PASS, Outcome.UNSUPPORTED}

    def test_numpy_runs_the_half_precision_cases_in_their_dtype(self) -> None:
        seen = {r.dtype for r in results(default_registry(), "onnx", "gqa") if r.outcome is Outcome.PASS}
        assert {"float16", "bfloat16", "float32", "float64"} <= seen

    def test_drawing_from_numpys_own_generator_is_not_disturbed(self) -> None:
        from tinyllm.conformance.oracles.onnx_cases import load

        np.random.seed(5)
        wanted = np.random.random()
        np.random.seed(5)
        load(["Softmax"])
        assert np.random.random() == wanted

    @pytest.mark.parametrize("op, answer", [("softmax", softmax_last), ("gqa", from_the_start)])
    def test_a_wrong_backend_is_caught(self, op: str, answer: Any) -> None:
        caught(results(wrong(op, answer), "onnx", op, backend="blue"))

    def test_onnx_judges_and_not_the_reference(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from tinyllm.conformance.oracles import onnx

        def off(call: Any) -> Any:
            return replace(call, expected=tuple(a + a.dtype.type(1) for a in call.expected))

        other = [(entry, tuple(map(off, calls))) for entry, calls in onnx.judged()]
        monkeypatch.setattr(onnx, "judged", lambda: other)
        assert {r.outcome for r in results(default_registry(), "onnx", "softmax", "rope_rotate")} == {Outcome.FAIL}

    def test_a_right_one_passes(self) -> None:
        seen = results(wrong("softmax", softmax), "onnx", "softmax", backend="blue")
        assert {r.outcome for r in seen} == {Outcome.PASS}

    def test_a_dtype_that_the_backend_lacks_is_unsupported(self) -> None:
        seen = results(wrong("gqa", from_the_start), "onnx", "gqa", backend="blue")
        assert {r.outcome for r in seen if r.dtype == "float16"} == {Outcome.UNSUPPORTED}
        assert all("has no float16" in r.message for r in seen if r.dtype == "float16")


class TestTorch:
    """Our cases, judged by PyTorch."""

    @pytest.fixture(autouse=True)
    def _torch(self) -> None:
        pytest.importorskip("torch")

    @pytest.mark.parametrize("op", CATALOGUE)
    def test_numpy_holds_and_every_case_is_accounted_for(self, op: str) -> None:
        seen = results(default_registry(), "torch", op)
        schemes = default_registry().plugins.schemes.values()
        cases = (*CATALOGUE[op].cases, *(case for scheme in schemes for case in CATALOGUE[op].cases_of(scheme)))
        assert {r.case for r in seen} == {c.id for c in cases if c.tier == "smoke"}
        assert [r.message for r in seen if r.outcome not in (Outcome.PASS, Outcome.UNSUPPORTED)] == []
        assert all(r.message.startswith(NOT_MAPPED) for r in seen if r.outcome is Outcome.UNSUPPORTED)

    def test_what_is_not_mapped_is_known(self) -> None:
        """All else PyTorch judges."""
        seen = [
            r for op in CATALOGUE for r in results(default_registry(), "torch", op) if r.outcome is Outcome.UNSUPPORTED
        ]
        unknown = [r for r in seen if "does not know scheme" in r.message]
        assert {r.message.rpartition(" ")[2] for r in unknown} == {*SCHEMES} - {"affine", "int8"}
        others = [r for r in seen if r not in unknown]
        assert {r.op for r in others} == {"quantize", "rope", "rope_angles", "mha", "moe_router", "all_reduce"}
        assert all("scaling" in r.message for r in others if r.op not in ("quantize", "moe_router", "all_reduce"))

    @pytest.mark.parametrize("op", ["gqa", "sdpa", "mha", "paged_attention", "dequantize"])
    def test_the_reference_agrees_to_the_last_digits_of_float64(self, op: str) -> None:
        from tinyllm_torch.oracle import answers as torch

        trial = Trial(default_registry(), default_registry().backend("numpy"), CATALOGUE[op], Plan("numpy"))
        for case in trial.cases:
            example = trial.example(case, "float64")
            if not torch.reason(example):
                for theirs, ours in zip(torch.answer(example), example.expected, strict=True):
                    np.testing.assert_allclose(theirs, ours, rtol=1e-12, atol=1e-12, err_msg=case.id)

    @pytest.mark.parametrize("op, answer", [("softmax", softmax_last), ("gqa", from_the_start)])
    def test_a_wrong_backend_is_caught(self, op: str, answer: Any) -> None:
        caught(results(wrong(op, answer), "torch", op, backend="blue"))

    def test_torch_judges_and_not_the_reference(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from tinyllm_torch.oracle import answers as torch

        right = torch.answer
        monkeypatch.setattr(torch, "answer", lambda example: tuple(a + 1 for a in right(example)))
        seen = results(default_registry(), "torch", "sdpa")
        assert {r.outcome for r in seen if not r.case.endswith(("L0,S4,D4", "B0,L2,S3,D4"))} == {Outcome.FAIL}

    def test_nn_multihead_attention_judges_what_it_can(self, monkeypatch: pytest.MonkeyPatch) -> None:
        functional = importlib.import_module("torch.nn.functional")
        asked = []
        forward = functional.multi_head_attention_forward
        monkeypatch.setattr(
            functional, "multi_head_attention_forward", lambda *a, **k: asked.append(1) or forward(*a, **k)
        )
        results(default_registry(), "torch", "mha")
        assert len(asked) >= 10


def test_a_missing_onnx_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    oracle = importlib.import_module("tinyllm.conformance.oracles.onnx")
    oracle.judged.cache_clear()
    real = importlib.import_module

    def missing(name: str, *args: Any) -> Any:
        if name == "onnx":
            raise ImportError("No module named 'onnx'")
        return real(name, *args)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(TinyllmError, match=r"pip install 'tinyllm\[onnx\]'") as error:
        results(default_registry(), "onnx", "softmax")
    assert "\n" not in str(error.value)


def test_a_judge_whose_library_is_missing_names_what_to_install() -> None:
    """A plugin brings the judge, and somebody else the library."""
    found = registry(module("plugin_blue", backends=[backend_plugin("blue")]))
    library = "no_such_library"
    found.plugins.oracles["judge"] = Oracle(
        "judge", f"{library}:reason", f"{library}:answer", library, "pip install it"
    )
    with pytest.raises(TinyllmError, match="--oracle judge needs the package no_such_library: pip install it"):
        results(found, "judge", "softmax", backend="blue")
