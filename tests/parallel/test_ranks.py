"""One model over two processes: what it answers, what each has of it, and how they end."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from tests.llm.families.gguf_writer import write_gguf
from tests.llm.families.harness import BOUND, PROMPT, Tiny, in_steps
from tests.parallel.processes import children, command
from tinyllm.errors import InvalidInputError, ModelGoneError
from tinyllm.llm import LLM, load
from tinyllm.models.bound_model import ModelChoice
from tinyllm.parallel.program import ParallelProgram
from tinyllm.parallel.ranks import Ranks, bind_shared_out
from tinyllm.registry.registry import default_registry

SIZES: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "head_dim": 32}
MODELS = {"llama": Tiny("Llama", SIZES), "qwen3moe": Tiny("Qwen3Moe", SIZES | EXPERTS)}
KEYS = {"llama": {}, "qwen3moe": {"expert_count": 4, "expert_used_count": 2, "expert_feed_forward_length": 64}}
Q8_0 = gguf.GGMLQuantizationType.Q8_0


def in_eight_bits(folder: Path, name: str) -> Path:
    """A folder's model as a file of Q8_0 blocks."""
    floats = gguf.GGUFReader(write_gguf(folder, name, KEYS[name]))
    blocks = {t.name: (gguf.quants.quantize(np.array(t.data), Q8_0), Q8_0) for t in floats.tensors if len(t.shape) > 1}
    return write_gguf(folder, name, KEYS[name], lambda name, t: {} if t.ndim > 1 else {name: t}, blocks)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny llama."""
    made = tmp_path_factory.mktemp("llama")
    MODELS["llama"].save(made)
    return made


def others(program: Any) -> Ranks:
    """The processes beside this one."""
    assert isinstance(program, ParallelProgram)
    found: Ranks = program._tell.__self__  # type: ignore[attr-defined]
    return found


@pytest.mark.parametrize(
    ("name", "backend", "quantized"),
    [
        ("llama", "torch", False),
        ("llama", "native", False),
        ("llama", "native", True),
        ("qwen3moe", "torch", True),
        ("qwen3moe", "native", False),
        ("qwen3moe", "native", True),
    ],
)
def test_two_answer_as_one_and_have_half_each(name: str, backend: str, quantized: bool, tmp_path: Path) -> None:
    MODELS[name].save(tmp_path)
    path = in_eight_bits(tmp_path, name) if quantized else tmp_path
    one, two = load(path, backend), load(path, backend, tensor_parallel=2)
    wanted = one.logits(PROMPT)
    np.testing.assert_allclose(two.logits(PROMPT), wanted, atol=BOUND * np.abs(wanted).max(), rtol=0)
    prompts = [PROMPT, PROMPT[::-1][:30]]
    for found, whole in zip(in_steps(two, prompts, 13), in_steps(one, prompts, 13), strict=True):
        np.testing.assert_allclose(found, whole, atol=BOUND * np.abs(whole).max(), rtol=0)
    assert greedy(two) == greedy(one)
    if backend == "native":  # a step stays one call, sums and all
        assert [step.op for step in two.program.steps] == [step.op for step in one.program.steps] == ["run"]
    assert two.program.report.share is not None
    own, all_of_it = two.program.report.share
    assert 0.5 * all_of_it < own < 0.65 * all_of_it
    started = others(two.program)._processes
    del two
    assert [process.wait(10) for process in started] == [0]


def greedy(llm: LLM) -> list[int]:
    """The likeliest tokens after the prompt."""
    ids = list(PROMPT)
    for _ in range(8):
        ids.append(int(llm.logits(ids)[-1].argmax()))
    return ids


def test_a_process_that_dies_ends_the_model_and_is_named(folder: Path) -> None:
    llm = load(folder, "native", tensor_parallel=2)
    llm.logits(PROMPT)
    process = others(llm.program)._processes[0]
    process.kill()
    process.wait()
    with pytest.raises(ModelGoneError, match="process 1 of 2 ended by SIGKILL: load the model again"):
        llm.logits(PROMPT)
    with pytest.raises(ModelGoneError, match="load the model again"):
        llm.logits(PROMPT)


def test_a_process_that_does_not_answer_is_not_waited_for_without_end(folder: Path) -> None:
    bound = bind_shared_out(ModelChoice(folder, "native"), default_registry(), 2, patience=1.0)
    process = others(bound.program)._processes[0]
    process.send_signal(signal.SIGSTOP)
    state = bound.program.allocate(1, 16)
    arrays = {name: np.zeros(1, np.int32) for name in ("tokens", "slots", "logit_rows", "state_rows")}
    arrays |= {"positions": np.zeros((1, 1), np.int32), "lengths": np.ones((1, 1), np.int32)}
    arrays |= {"q_start": np.array([0, 1], np.int32), "kv_len": np.ones(1, np.int32)}
    started = time.monotonic()
    with pytest.raises(ModelGoneError, match="does not answer for 1 s"):
        bound.program(arrays | {"block_table": np.zeros((1, 1), np.int32)}, state)
    assert time.monotonic() - started < 30
    assert process.returncode == -signal.SIGKILL


def test_what_cannot_be_shared_out_leaves_no_process(folder: Path) -> None:
    with pytest.raises(InvalidInputError, match="divides the 4 heads and the 2 heads of keys and values"):
        load(folder, "native", tensor_parallel=4)
    with pytest.raises(InvalidInputError, match="load: tensor_parallel: expected a number of processes"):
        load(folder, "native", tensor_parallel=0)
    with pytest.raises(InvalidInputError, match="load: registry: expected none with tensor_parallel"):
        load(folder, "native", tensor_parallel=2, registry=default_registry())
    assert children("rank_process") == []


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_the_others_end_with_the_first(how: signal.Signals, folder: Path) -> None:
    code = (
        f"import time; from tinyllm.llm import load; llm = load({str(folder)!r}, 'native', tensor_parallel=2)\n"
        "print(llm.program._tell.__self__._processes[0].pid, flush=True)\n"
        "while True: llm.logits([3, 4, 5])"
    )
    first = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert first.stdout is not None
    other = first.stdout.readline().strip()
    assert "rank_process" in command(other)
    first.send_signal(how)
    first.wait(20)
    deadline = time.monotonic() + 10
    while command(other) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert command(other) == ""
