"""One model in several processes that have some of its layers each: what it answers, and how they end."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from tinyllm_native.threads import thread_count

from tests.llm.families.harness import BOUND, PROMPT, Tiny, in_steps
from tests.llm.families.test_gemma4 import MODELS as GEMMA4
from tests.llm.families.test_lfm2 import MODELS as LFM2
from tests.parallel.processes import children, command
from tests.parallel.stages import FOUR, LLAMA, environments, others, step
from tests.parallel.test_ranks import EXPERTS, SIZES, greedy
from tinyllm.engine.model_runner import Chunk, ModelRunner, make_step
from tinyllm.errors import InvalidInputError, ModelGoneError
from tinyllm.llm import LLM, load
from tinyllm.models.bound_model import ModelChoice
from tinyllm.parallel.pipeline import bind_in_stages
from tinyllm.registry.registry import default_registry

MODELS = {"llama": LLAMA, "qwen3moe": Tiny("Qwen3Moe", SIZES | EXPERTS | FOUR)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny llama."""
    made = tmp_path_factory.mktemp("llama")
    MODELS["llama"].save(made)
    return made


@pytest.fixture(autouse=True)
def threads_as_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums are cut where threads part. This process has kept the number of threads of its first test, which may have
    had one of its cores alone; processes that are started here take the same."""
    torch = pytest.importorskip("torch")
    monkeypatch.setenv("TINYLLM_NATIVE_THREADS", str(thread_count()))
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))


def assert_same_bits(found: LLM, wanted: LLM, bound: float = 0.0) -> None:
    """Logits at once, and of two sequences in chunks, and the likeliest tokens. bound: of the difference, in the
    largest logits."""
    prompts = [PROMPT, PROMPT[::-1][:30]]
    pairs = zip(in_steps(found, prompts, 13), in_steps(wanted, prompts, 13), strict=True)
    for rows, whole in ((found.logits(PROMPT), wanted.logits(PROMPT)), *pairs):
        np.testing.assert_allclose(rows, whole, atol=bound * np.abs(whole).max(), rtol=0)
    assert greedy(found) == greedy(wanted)


@pytest.mark.parametrize(
    ("name", "backend"),
    [("llama", "native"), ("llama", "numpy"), ("llama", "mlx"), ("qwen3moe", "native"), ("qwen3moe", "torch")],
)
def test_two_answer_with_the_bits_of_one_and_have_half_each(name: str, backend: str, tmp_path: Path) -> None:
    MODELS[name].save(tmp_path)
    one, two = load(tmp_path, backend), load(tmp_path, backend, pipeline_parallel=2)
    # which BLAS MLX takes is told by what else the process has loaded, and by no other process
    assert_same_bits(two, one, BOUND if backend == "mlx" else 0.0)
    assert two.program.report.share is not None
    own, all_of_it = two.program.report.share
    assert 0.45 * all_of_it < own < 0.55 * all_of_it
    assert [size * 2 for size in two.program.pool_bytes(3, 16)] == [*one.program.pool_bytes(3, 16)]
    started = [*others(two.program)._processes.values()]
    del two
    assert [process.wait(10) for process in started] == [0]


@pytest.mark.parametrize("model", [GEMMA4["both"], LFM2["tied"]], ids=["gemma4", "lfm2"])
def test_three_send_on_all_that_later_layers_read(model: Tiny, tmp_path: Path) -> None:
    """Of Gemma 4 the inputs of each layer, and keys and values that several read; of LFM2 states by sequence."""
    model.save(tmp_path)
    one, three = load(tmp_path, "native"), load(tmp_path, "native", pipeline_parallel=3)
    assert_same_bits(three, one)


def test_the_first_stage_says_of_states_what_all_have(tmp_path: Path) -> None:
    """Here it has none by sequence itself."""
    LFM2["bias-wide"].save(tmp_path)
    one, two = load(tmp_path, "native"), load(tmp_path, "native", pipeline_parallel=2)
    assert two.program.pool_bytes(1, 16, 5)[1] == 0
    assert one.program.is_recurrent and two.program.is_recurrent
    assert (two.program.page_size, two.program.cache_dtypes) == (one.program.page_size, one.program.cache_dtypes)
    assert_same_bits(two, one)


def test_pages_grow_in_all_stages_and_keep_what_they_hold(folder: Path) -> None:
    found = []
    for llm in (load(folder, "native"), load(folder, "native", pipeline_parallel=2)):
        runner = ModelRunner(llm.program, 1, 16)
        rows = [runner.step(make_step([Chunk(PROMPT[:16], 0, [0], 16)], 16))]
        runner.reserve(4, 16)
        rows.append(runner.step(make_step([Chunk(PROMPT[16:50], 16, [0, 3, 1, 2], 34)], 16)))
        runner.reserve(1, 64)
        found.append(np.concatenate(rows))
    np.testing.assert_array_equal(found[0], found[1])


def test_a_stage_that_dies_ends_the_model_and_is_named(folder: Path) -> None:
    llm = load(folder, "native", pipeline_parallel=3)
    llm.logits(PROMPT)
    started = others(llm.program)._processes
    started[1].kill()
    for _ in range(2):  # the second time at once
        with pytest.raises(ModelGoneError, match="stage 1 of 3 ended by SIGKILL: load the model again"):
            llm.logits(PROMPT)
    assert [process.poll() for process in started.values()] == [-signal.SIGKILL, 0]


def test_a_stage_that_dies_in_the_midst_of_a_step_is_named(folder: Path) -> None:
    llm = load(folder, "native", pipeline_parallel=2)
    process = others(llm.program)._processes[1]
    process.send_signal(signal.SIGSTOP)  # the step waits for it
    killer = threading.Timer(0.5, process.kill)
    killer.start()
    with pytest.raises(ModelGoneError, match="stage 1 of 2 ended by SIGKILL: load the model again"):
        llm.logits(PROMPT)
    killer.join()


def test_a_stage_that_does_not_answer_is_not_waited_for_without_end(folder: Path) -> None:
    bound = bind_in_stages(ModelChoice(folder, "native"), default_registry(), 2, patience=1.0)
    process = others(bound.program)._processes[1]
    process.send_signal(signal.SIGSTOP)
    with pytest.raises(ModelGoneError, match="stage 1 of 2 does not answer for 1 s: load the model again"):
        step(bound.program)
    assert process.returncode == -signal.SIGKILL


def test_bad_input_leaves_no_process(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidInputError, match="expected at most 4, as many as the model has layers, got 5"):
        load(folder, "native", pipeline_parallel=5)
    for wrong in (0, 2.0):
        with pytest.raises(InvalidInputError, match="load: pipeline_parallel: expected a number of processes"):
            load(folder, "native", pipeline_parallel=wrong)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="load: registry: expected none with pipeline_parallel"):
        load(folder, "native", pipeline_parallel=2, registry=default_registry())
    with pytest.raises(InvalidInputError, match="load: pipeline_parallel: expected 1 with tensor_parallel, got 2"):
        load(folder, "native", pipeline_parallel=2, tensor_parallel=2)
    for name, value in environments(3)[1].items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InvalidInputError, match="load: pipeline_parallel: expected 3, as WORLD_SIZE says, got 2"):
        load(folder, "native", pipeline_parallel=2)
    assert children("stage_process") == []


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_the_others_end_with_the_first(how: signal.Signals, folder: Path) -> None:
    code = (
        f"import time; from tinyllm.llm import load; llm = load({str(folder)!r}, 'native', pipeline_parallel=3)\n"
        "print(*(p.pid for p in llm.program._tell.__self__._processes.values()), flush=True)\n"
        "while True: llm.logits([3, 4, 5])"
    )
    first = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert first.stdout is not None
    started = first.stdout.readline().split()
    assert len(started) == 2 and all("stage_process" in command(pid) for pid in started)
    first.send_signal(how)
    first.wait(20)
    deadline = time.monotonic() + 10
    while any(map(command, started)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(command, started))


def test_torchrun_starts_the_stages_and_the_reply_is_that_of_one(smollm2_path: Path) -> None:
    asked = [
        "Why is the sky blue?",
        "-m",
        str(smollm2_path),
        "-b",
        "native",
        "--max-tokens",
        "12",
        "--temperature",
        "0",
    ]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "tinyllm.cli.main"]
    done = subprocess.run(
        [*launcher, "generate", "--pipeline-parallel", "2", "--json", *asked],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    reply = json.loads(done.stdout)  # and nothing else: only the first process prints
    one = load(smollm2_path, "native").generate("Why is the sky blue?", max_tokens=12, temperature=0)
    assert reply["token_ids"] == one.token_ids and len(one.token_ids) == 12
