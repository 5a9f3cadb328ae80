"""A batch through the engine, with a model without numbers: every request its own reply, whatever happens to the
others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.batch.files import CHAT, TEXT, read, request, result, write
from tests.cli.fake_model import fake_llm
from tests.engine.fakes import FakeProgram, FakeTokenizer
from tinyllm.batch import run
from tinyllm.batch.batch_file import BatchFile
from tinyllm.batch.result_file import ResultFile
from tinyllm.batch.run import URLS, BatchRun, Counts, lines_left, prepare
from tinyllm.engine.engine import Engine
from tinyllm.engine.engine_thread import EngineThread
from tinyllm.engine.model_runner import ModelRunner
from tinyllm.errors import InvalidInputError, TinyllmError
from tinyllm.openai.replies import Reply

MANY = [request(f"{'the same beginning ' * 3}{n}", (CHAT, TEXT)[n % 2], max_tokens=n % 9 + 1) for n in range(40)]


def expected(one: dict[str, Any]) -> str:
    """What the request's prompt gives by itself."""
    body = one["body"]
    prompt = body["messages"] if one["url"] == CHAT else body["prompt"]
    return fake_llm().generate(prompt, raw=one["url"] == TEXT, max_tokens=body["max_tokens"]).text


def text(entry: dict[str, Any]) -> str:
    choice = entry["response"]["body"]["choices"][0]
    return str(choice["message"]["content"] if "message" in choice else choice["text"])


class Setup:
    """Runs batches in a folder."""

    def __init__(self, folder: Path) -> None:
        self.input, self.output, self.errors = (folder / name for name in ("in.jsonl", "out.jsonl", "errors.jsonl"))

    def run(
        self,
        *lines: Any,
        program: Any = None,
        apart: bool = False,
        window: int = 8,
        on_progress: Callable[[Counts], None] = lambda c: None,
        **settings: Any,
    ) -> Counts:
        llm = fake_llm()
        runner = ModelRunner(program or FakeProgram())
        options = {
            "pages": 200,
            "page_size": 4,
            "max_step_tokens": 64,
            "max_running": 4,
            "max_waiting": 10**6,
        } | settings
        thread = EngineThread(lambda: Engine(runner, **options))
        thread.start()
        file = BatchFile(write(self.input, *lines), URLS)
        results = [ResultFile(path) for path in ((self.output, self.errors) if apart else (self.output,))]
        try:
            self.batch = BatchRun(file, lines_left(file, results), results, thread, llm, "fake", window)
            return self.batch.run(on_progress)
        finally:
            thread.stop()
            self.stats = thread.stats()
            for result in results:
                result.close()


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return Setup(tmp_path)


def test_every_request_gets_its_own_reply(setup: Setup) -> None:
    """Chat and completions, of many lengths, more than run at once, through prefixes that are reused."""
    counts = setup.run(*MANY)
    found = {entry["custom_id"]: entry for entry in read(setup.output)}
    assert (counts.total, counts.done, counts.failed, len(read(setup.output))) == (40, 40, 0, 40)
    for one in MANY:
        entry = found[one["custom_id"]]
        assert entry.keys() == {"id", "custom_id", "response", "error"} and entry["error"] is None
        assert (
            entry["response"].keys() == {"status_code", "request_id", "body"}
            and entry["response"]["status_code"] == 200
        )
        assert text(entry) == expected(one)
        assert entry["response"]["body"]["object"] == ("chat.completion" if one["url"] == CHAT else "text_completion")
    assert len({entry["id"] for entry in found.values()}) == 40
    assert counts.tokens == sum(e["response"]["body"]["usage"]["completion_tokens"] for e in found.values())
    assert counts.reused_tokens > counts.prompt_tokens / 2 and setup.stats.pages_held == 0


def test_many_run_at_once_and_no_more_than_the_window(setup: Setup) -> None:
    program, most = FakeProgram(), []
    setup.run(
        *MANY, program=program, max_running=8, window=6, on_progress=lambda c: most.append(setup.batch._sequences)
    )
    assert max(most) == 6 and max(program.sizes) > 6
    assert len(program.sizes) < sum(one["body"]["max_tokens"] for one in MANY) / 2


def test_requests_that_fail_stop_no_other(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each says why, in the errors' file: by status where it was a request at all, by line where it was not."""
    bad = {
        "field": (request("field", surprise=1), 400, "surprise"),
        "value": (request("value", temperature="hot"), 400, "temperature"),
        "model": (request("model", model="gpt-4"), 404, "gpt-4"),
        "stream": (request("stream", stream=True), 400, "stream"),
        "long": (request("long", messages=[{"role": "user", "content": "x" * 500}]), 400, "tokens"),
        "empty": (request("empty", messages=[]), 400, "messages: expected"),
        "bug": (request("bug"), 500, "internal error"),
    }

    def fails(llm: Any, name: str, url: str, body: dict[str, Any]) -> Any:
        if body == bad["bug"][0]["body"]:
            raise ZeroDivisionError("a mistake of ours")
        return prepare(llm, name, url, body)

    monkeypatch.setattr(run, "prepare", fails)
    lines = [
        request("first"),
        *(one for one, _, _ in bad.values()),
        b"{",
        request("get") | {"method": "GET"},
        request("last"),
    ]
    counts = setup.run(*lines, apart=True)
    assert sorted(entry["custom_id"] for entry in read(setup.output)) == ["first", "last"]
    failed = {entry["custom_id"]: entry for entry in read(setup.errors)}
    for name, (_, status, said) in bad.items():
        response = failed[name]["response"]
        assert (response["status_code"], failed[name]["error"]) == (status, None) and said in response["body"]["error"][
            "message"
        ], name
    told = failed["model"]["response"]["body"]["error"]
    assert (told["param"], told["code"]) == ("model", "model_not_found")
    assert (
        failed[None]["response"] is None
        and failed[None]["error"]["line"] == 9
        and failed[None]["error"]["code"] == "invalid_json_line"
    )
    assert failed["get"]["error"] == {
        "code": "invalid_request",
        "message": "method: expected 'POST', got 'GET'",
        "param": None,
        "line": 10,
    }
    assert counts.done == counts.total == 11 and counts.failed == len(failed) == 9


@pytest.mark.parametrize("method", ["push", "body"])
def test_a_reply_that_cannot_be_told(setup: Setup, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake in telling it fails its own request, whose pages go back."""
    real, broken = getattr(Reply, method), request("whose reply breaks", TEXT)

    def fails(self: Reply, *arguments: Any) -> Any:
        if self.prompt_tokens == len(broken["custom_id"]):
            raise ZeroDivisionError("a mistake of ours")
        return real(self, *arguments)

    monkeypatch.setattr(Reply, method, fails)
    lines = [*MANY[:4], broken, *MANY[4:8]]
    counts = setup.run(*lines, window=1)
    statuses = {entry["custom_id"]: entry["response"]["status_code"] for entry in read(setup.output)}
    assert statuses == {one["custom_id"]: 500 if one is broken else 200 for one in lines} and counts.failed == 1
    assert setup.stats.pages_held == setup.stats.running == 0


class Broken(FakeProgram):
    """A kernel that fails on a certain token."""

    def __call__(self, inputs: Any, state: Any) -> Any:
        if ord("!") in np.asarray(inputs["tokens"]):
            raise RuntimeError("the kernel failed")
        return super().__call__(inputs, state)


@pytest.mark.parametrize("window", [1, 8])
def test_a_kernel_that_fails_on_one_request(setup: Setup, window: int, caplog: pytest.LogCaptureFixture) -> None:
    """500 for that one, which leaves its place to the next; its neighbours are right."""
    counts = setup.run(*MANY[:10], request("bad!", n=2), *MANY[10:20], program=Broken(), window=window)
    found = {entry["custom_id"]: entry for entry in read(setup.output)}
    assert counts.failed == 1 and found["bad!"]["response"]["status_code"] == 500
    assert found["bad!"]["id"] in found["bad!"]["response"]["body"]["error"]["message"]
    assert (
        f"{found['bad!']['id']}: StepError: the model failed on this request: RuntimeError: the kernel failed"
        in caplog.text
    )
    assert all(text(found[one["custom_id"]]) == expected(one) for one in MANY[:20])


def test_several_choices(setup: Setup) -> None:
    counts = setup.run(request("a", n=3, temperature=1.0, seed=1), request("b"), window=2)
    entry = next(e for e in read(setup.output) if e["custom_id"] == "a")
    choices = entry["response"]["body"]["choices"]
    assert [c["index"] for c in choices] == [0, 1, 2] and len({c["message"]["content"] for c in choices}) == 3
    assert counts.tokens == 18 + 6


def test_log_probabilities(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the server tells them: an entry for each token."""
    monkeypatch.setattr(FakeTokenizer, "token_bytes", lambda self, token: bytes([token]), raising=False)
    setup.run(request("a", logprobs=True, top_logprobs=2), request("b", TEXT, logprobs=1))
    chat, text_ = (
        next(e for e in read(setup.output) if e["custom_id"] == i)["response"]["body"]["choices"][0]["logprobs"]
        for i in "ab"
    )
    assert [len(entry["top_logprobs"]) for entry in chat["content"]] == [2] * 6 and len(text_["token_logprobs"]) == 6


def test_several_prompts(setup: Setup) -> None:
    """Choices in the order of the prompts; where one prompt fails, the whole request does, and leaves its place."""
    several = request("a", TEXT, prompt=["one", "two!", "three"], n=2)
    setup.run(several, *MANY[:4], window=1)
    body = next(e for e in read(setup.output) if e["custom_id"] == "a")["response"]["body"]
    said = [fake_llm().generate(p, raw=True, max_tokens=6).text for p in several["body"]["prompt"]]
    assert [c["text"] for c in body["choices"]] == [t for t in said for _ in range(2)]
    assert [c["index"] for c in body["choices"]] == [*range(6)]
    assert body["usage"]["prompt_tokens"] == 3 + 4 + 5 and body["usage"]["completion_tokens"] == 36
    setup.output.unlink()
    counts = setup.run(several, *MANY[:4], window=1, program=Broken())
    assert (counts.done, counts.failed) == (5, 1) and setup.stats.pages_held == setup.stats.running == 0


def test_a_run_goes_on_where_the_last_one_was(setup: Setup) -> None:
    """What is done is not done again, failures included; counts cover both runs."""
    setup.run(*MANY[:15], b"{", apart=True)
    before, seen = setup.output.read_bytes(), []
    counts = setup.run(*MANY[:15], b"{", *MANY[15:], apart=True, on_progress=lambda c: seen.append((c.done, c.failed)))
    assert seen[0] == (16, 1) and (counts.done, counts.failed) == (41, 1)
    assert setup.output.read_bytes().startswith(before) and len(read(setup.errors)) == 1
    assert sorted(e["custom_id"] for e in read(setup.output)) == sorted(one["custom_id"] for one in MANY)


def test_results_of_another_batch_are_refused(setup: Setup) -> None:
    """Rather than mixed with this one's."""
    write(setup.output, result("stranger"))
    with pytest.raises(
        InvalidInputError, match=r"out.jsonl: holds the result of 'stranger', which is not in .*in.jsonl; name another"
    ):
        setup.run(request("a"))
    write(setup.output, result("a"))
    write(setup.errors, result("a", 400))
    with pytest.raises(
        InvalidInputError, match=r"errors.jsonl: holds the result of 'a', which is among the other results as well"
    ):
        setup.run(request("a"), apart=True)


def test_an_engine_that_breaks_ends_the_run_and_loses_nothing(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    """No request is blamed for it: the rest is done by the next run."""
    real, calls = Engine.step, [0]

    def step(self: Engine) -> Any:
        calls[0] += 1
        if calls[0] == 12:
            raise ZeroDivisionError("a mistake")
        return real(self)

    monkeypatch.setattr(Engine, "step", step)
    with pytest.raises(TinyllmError, match="the engine broke: a mistake"):
        setup.run(*MANY)
    done = read(setup.output)
    assert 0 < len(done) < 40 and all(entry["response"]["status_code"] == 200 for entry in done)
    setup.run(*MANY)
    assert sorted(e["custom_id"] for e in read(setup.output)) == sorted(one["custom_id"] for one in MANY)


def test_an_engine_that_is_gone_already_is_noticed(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a request reached it too late to be answered."""
    monkeypatch.setattr("tinyllm.batch.run._PATIENCE", 0.01)
    real = EngineThread.submit

    def late(self: EngineThread, *arguments: Any, **options: Any) -> Any:
        self.error, self._stopping = None, False
        taken = real(self, *arguments, **options)
        self.error = ZeroDivisionError("a mistake")
        return taken

    monkeypatch.setattr(EngineThread, "submit", late)
    monkeypatch.setattr(Engine, "add", lambda *a, **k: None)
    with pytest.raises(TinyllmError, match="the engine broke: ZeroDivisionError: a mistake"):
        setup.run(request("a"))
    assert read(setup.output) == []
