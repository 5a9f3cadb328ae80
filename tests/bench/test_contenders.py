"""Contenders in their processes: what they are told, what they answer, and what is said where one cannot run. OpenVINO
is a fake package on the worker's path."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.models.conftest import write_gguf
from tinyllm.bench import contenders
from tinyllm.bench.contenders import MlxLm, Tinyllm
from tinyllm.bench.model import Plan, Result, measure
from tinyllm.bench.worker import Measured
from tinyllm.engine.model_runner import ModelRunner, StepBatch
from tinyllm.errors import BackendUnavailableError, InvalidInputError, TinyllmError, UnsupportedError

FAKE_OPENVINO = """
import os

class GenerationConfig:
    pass

class LLMPipeline:
    def __init__(self, model, device, INFERENCE_NUM_THREADS):
        threads = {os.environ[name] for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        if device != "CPU" or threads != {str(INFERENCE_NUM_THREADS)}:
            raise RuntimeError(f"on {device}, {threads}")
        if "strange" in model:
            raise RuntimeError("unknown architecture\\nin the file")
        print("libraries that print do not get into the answers")
        self.held = []

    def generate(self, ids, config):
        assert config.ignore_eos and not config.do_sample and not config.apply_chat_template
        self.held.append(bytearray(os.urandom(1000) * 30_000) if config.max_new_tokens > 2 else b"")
        number = config.max_new_tokens if ids.shape[1] < 100 else 1
        if ids.shape[1] == 50:
            os._exit(3)
        return Done(Metrics(number, ids.shape))

class Done:
    def __init__(self, metrics):
        self.perf_metrics = metrics

class Mean:
    def __init__(self, mean):
        self.mean = mean

class Metrics:
    def __init__(self, number, shape):
        self.number, self.shape = number, shape
    def get_num_generated_tokens(self):
        return self.number
    def get_ttft(self):
        return Mean(500.0 * self.shape[0])
    def get_tpot(self):
        return Mean(10.0)
"""


@pytest.fixture
def openvino(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a GGUF file; processes find the fake package. The prompt takes it half a second, each token ten
    milliseconds; it holds 30 MB more after each reply of more than two tokens."""
    packages = tmp_path / "packages"
    packages.mkdir()
    (packages / "openvino_genai.py").write_text(FAKE_OPENVINO, encoding="utf-8")
    (packages / "openvino.py").write_text("Tensor = lambda array: array\n", encoding="utf-8")
    paths = [str(packages), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    for name in ("model.gguf", "strange.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    return tmp_path


def measured(names: list[str], model: Path, plan: Plan) -> list[Result]:
    """What `measure` finds, without a line of progress."""
    return measure(names, model, plan, lambda text: None)


def test_openvino_is_timed_by_itself_one_at_a_time(openvino: Path) -> None:
    """Its own times become speeds, memory and the first token are told, and more sequences are refused in its row."""
    one, four = measured(["openvino"], openvino / "model.gguf", Plan(16, 8, (4, 1), 2, 3))
    assert one.error is None and (one.batch, four.batch) == (1, 4)
    assert one.prefill == pytest.approx([32.0, 32.0]) and one.decode == pytest.approx([100.0, 100.0])
    assert one.first_token > 0.5 and one.peak_mb > 3 * 30
    assert four.error == "openvino: expected one sequence at a time, got 4; compare it at --batch 1"


def test_a_contender_that_cannot_run_says_why(openvino: Path) -> None:
    """A model that it does not know, a reply that ends early, a process that ends: each in one line, and in every row
    that is due to it."""
    strange = measured(["openvino"], openvino / "strange.gguf", Plan(16, 8, (1, 2), 1, 1))
    assert [r.error for r in strange] == [
        f"openvino: cannot load {openvino / 'strange.gguf'}: unknown architecture in the file"
    ] * 2
    (short,) = measured(["openvino"], openvino / "model.gguf", Plan(100, 8, (1,), 1, 1))
    assert short.error == "openvino: expected 2 tokens, got 1; choose fewer with --new-tokens"
    gone, after = measured(["openvino"], openvino / "model.gguf", Plan(50, 8, (1, 2), 1, 1))
    assert gone.error and gone.error == after.error and "do not get into the answers" in gone.error


def test_a_missing_package_is_told_with_how_to_install_it(openvino: Path) -> None:
    """And a file that is no GGUF before that."""
    (openvino / "packages" / "openvino_genai.py").write_text("raise ImportError('no such thing')", encoding="utf-8")
    (missing,) = measured(["openvino"], openvino / "model.gguf", Plan(4, 4, (1,), 1, 1))
    assert missing.error == "openvino: no such thing; pip install openvino-genai"
    (folder,) = measured(["openvino"], openvino, Plan(4, 4, (1,), 1, 1))
    assert folder.error and folder.error.startswith("openvino: model: expected a GGUF file, got the folder")


def test_peers_in_the_bench_extra_are_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that our own extra installs."""

    def absent(*_: Any) -> None:
        raise ImportError("No module named 'transformers'")

    monkeypatch.setattr(contenders, "Transformers", absent)
    with pytest.raises(BackendUnavailableError, match=r"^transformers: No module .*; pip install 'tinyllm\[bench\]'$"):
        contenders.make("transformers:float32", Path("m.gguf"), None, 1)


def test_no_prompt_begins_as_another() -> None:
    """Of a round, of another round, and of another number at a time: prefixes are kept by nobody's cache."""
    plan = Plan(8, 1, (1, 4), 3, 1)
    prompts = [p for batch in (1, 4, 16) for number in range(5) for p in plan.prompts(batch, number)]
    assert len({tuple(p[:2]) for p in prompts}) == len(prompts) == 5 * 21 and {len(p) for p in prompts} == {8}
    assert plan.prompts(4, 1) == plan.prompts(4, 1)


def test_speeds_are_those_of_all_sequences_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each contender in its turn; a warm-up before each measurement, by prompts that begin otherwise, counts nowhere,
    nor does the first round."""
    told: list[tuple[str, int, int]] = []

    class FakeWorker:
        loaded = 3.0

        def __init__(self, name: str, *_: Any) -> None:
            self.name, self.last = name, [[0]]

        def measure(self, prompts: list[list[int]], new_tokens: int) -> Measured:
            told.append((self.name, len(prompts), new_tokens))
            assert all(prompt[0] != last[0] for prompt, last in zip(prompts, self.last, strict=False))
            self.last = prompts
            return Measured(2.0, 4.0, float(len(told)))

        def close(self) -> None:
            told.append((self.name, 0, 0))

    monkeypatch.setattr("tinyllm.bench.model.Worker", FakeWorker)
    found = measured(["a", "b"], Path("m.gguf"), Plan(16, 8, (4, 2), 1, 1))
    assert [(r.contender, r.batch, r.prefill, r.decode) for r in found] == [
        ("a", 2, [16.0], [4.0]),
        ("b", 2, [16.0], [4.0]),
        ("a", 4, [32.0], [8.0]),
        ("b", 4, [32.0], [8.0]),
    ]
    rounds = [(name, size, tokens) for size in (2, 4) for _ in range(2) for name in "ab" for tokens in (1, 8)]
    assert told == [("a", 1, 1), ("b", 1, 1), *rounds, ("a", 0, 0), ("b", 0, 0)]
    assert {r.first_token for r in found} == {5.0} and [r.peak_mb for r in found] == [8.0, 10.0, 16.0, 18.0]


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """How many tokens each sequence had in each step of the model."""
    seen: list[list[int]] = []
    real = ModelRunner.step

    def step(self: ModelRunner, batch: StepBatch) -> Any:
        ends = [int(n) for n in batch.q_start]
        seen.append([b - a for a, b in pairwise(ends)])
        return real(self, batch)

    monkeypatch.setattr(ModelRunner, "step", step)
    return seen


@pytest.mark.parametrize("batch", [1, 6])
def test_ours_decodes_all_sequences_in_each_step(tmp_path: Path, steps: list[list[int]], batch: int) -> None:
    """The prompts in one step, then every step with a token of each; a second time as the first."""
    path = tmp_path / "tiny.gguf"
    write_gguf(path)
    contender = Tinyllm(str(path), "numpy", False)
    prompts = [[65 + n, *range(100)] for n in range(batch)]  # six are more than a server's step takes
    for _ in range(2):
        prefill, decode = contender.measure(prompts, 4)
        assert steps == [[101] * batch, *([[1] * batch] * 4)] and prefill > 0 and decode > 0
        steps.clear()


def test_ours_says_when_the_context_ends(tmp_path: Path) -> None:
    """Fewer tokens in less time would look fast."""
    path = tmp_path / "tiny.gguf"
    write_gguf(path)
    contender = Tinyllm(str(path), "numpy", False)
    with pytest.raises(TinyllmError, match=r"expected 402 tokens, got 2\d\d; choose fewer with --new-tokens"):
        contender.measure([[65] * 5, [66] * 5], 200)
    with pytest.raises(InvalidInputError, match=r"prompt: has 200 tokens"):
        contender.measure([[65] * 200], 4)


def test_mlx_lm_takes_one_prompt() -> None:
    """More would be timed as one."""
    pytest.importorskip("mlx_lm")
    with pytest.raises(UnsupportedError, match=r"mlx-lm: expected one sequence at a time, got 2"):
        MlxLm.measure(SimpleNamespace(), [[1], [2]], 4)  # type: ignore[arg-type]
