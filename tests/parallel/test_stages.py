"""What the first process makes of what the stages after it say, and when it looks."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.parallel.stages import LLAMA, in_threads, others, step
from tinyllm.errors import ModelGoneError, TinyllmError
from tinyllm.graph.program import Program
from tinyllm.llm import load
from tinyllm.models.bound_model import BoundStage
from tinyllm.parallel import stage_process, stages
from tinyllm.parallel.frames import LENGTHS
from tinyllm.parallel.greeting import Listener
from tinyllm.parallel.link import Link, ready
from tinyllm.parallel.stages import Stages


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny llama."""
    made = tmp_path_factory.mktemp("llama")
    LLAMA.save(made)
    return made


def test_a_stage_that_is_slow_but_lives_is_waited_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with in_threads(folder, monkeypatch, lambda: time.sleep(2.0)) as program:
        np.testing.assert_array_equal(step(program), step(load(folder, "native").program))


def test_what_a_kernel_raises_in_another_stage_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By its kind alone, as clients see it; its text is in the log of the stage."""
    with in_threads(folder, monkeypatch, lambda: {}["no such kernel"]) as program:
        for _ in range(2):
            with pytest.raises(ModelGoneError, match=r"stage 1 of 2 failed: KeyError: all have to be started again$"):
                step(program)
    assert "KeyError: 'no such kernel'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "problem"),
    [(TinyllmError("no such file"), "no such file"), (EOFError("cut"), "EOFError"), (ConnectionError(), "Connectio.*")],
)
def test_a_stage_that_cannot_be_loaded_says_why(
    error: Exception, problem: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any) -> BoundStage:
        raise error

    monkeypatch.setattr(stage_process, "fingerprint", broken)
    with (
        pytest.raises(TinyllmError, match=f"stage 1 of 2 failed: {problem}$"),
        in_threads(folder, monkeypatch, lambda: None),
    ):
        pass


def test_another_model_in_another_stage_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        pytest.raises(TinyllmError, match="stage 1 of 2 has another model, or loads it with other options"),
        in_threads(folder, monkeypatch, lambda: None, "float32"),
    ):
        pass


def test_stages_that_do_not_join_are_named() -> None:
    stages, listener = Stages(3, 1.0), Listener(("127.0.0.1", 0))
    with pytest.raises(TinyllmError, match=r"stage 1, 2 of 3 did not join within 0.1 s"):
        stages.gather(listener, "a text that nobody guesses", 0.1)
    listener.close()


def when_sent(program: Program, what: str, then: Callable[[Link, dict[str, Any]], None]) -> None:
    """Do something whenever the first process has sent such a frame to the second, as its arrays are told."""
    link: Any = others(program)._links[1]
    send = link.send

    def send_and_do(said: str, arrays: Any = None, **values: Any) -> None:
        send(said, arrays, **values)
        if said == what:
            link.send = send
            then(link, dict(arrays))

    link.send = send_and_do


def asked(program: Program, link: Link) -> list[str]:
    """What `check` raises in a thread of its own, when the stage has said something."""
    assert ready([link], 10)
    found: list[str] = []

    def ask() -> None:
        try:
            program.check()
        except ModelGoneError as error:
            found.append(str(error))

    asking = threading.Thread(target=ask)
    asking.start()
    asking.join(10)
    return found


def test_who_looks_in_the_midst_of_a_step_takes_no_answer_away(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with in_threads(folder, monkeypatch, lambda: None) as program:
        found: list[list[str]] = []
        when_sent(program, "values", lambda link, arrays: found.append(asked(program, link)))
        np.testing.assert_array_equal(step(program), step(load(folder, "native").program))
        assert found == [[]]


def test_a_step_does_not_wait_for_a_stage_whose_failure_was_seen(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with in_threads(folder, monkeypatch, lambda: None) as program:
        found: list[str] = []

        def fail(link: Link, arrays: dict[str, Any]) -> None:
            link.send("values")  # of which none is what the stage receives
            found.extend(asked(program, link))

        when_sent(program, "step", fail)
        with pytest.raises(ModelGoneError, match=r"stage 1 of 2 failed: expected the values .* got \{\}") as error:
            step(program)
        assert found == [str(error.value)]


@pytest.mark.parametrize("change", [np.float32, np.atleast_3d], ids=["dtype", "axes"])
def test_a_stage_takes_no_inputs_but_the_graphs(
    change: Callable[[np.ndarray], np.ndarray], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with in_threads(folder, monkeypatch, lambda: None) as program:
        link: Any = others(program)._links[1]
        send = link.send

        def changed(what: str, arrays: Any = None, **values: Any) -> None:
            send(what, arrays | {"positions": change(arrays["positions"])} if what == "step" else arrays, **values)

        link.send = changed
        with pytest.raises(ModelGoneError, match=r"stage 1 of 2 failed: expected the values .*positions"):
            step(program)


def test_who_looks_does_not_wait_for_the_rest_of_a_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "GLANCE", 0.1)
    found = Stages(2, 60.0)
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as bare:
        found._links[1] = Link(server.accept()[0], 5.0)
        bare.sendall(LENGTHS.pack(100, 0) + b"{")
        for _ in range(2):
            with pytest.raises(ModelGoneError, match=r"stage 1 of 2 does not answer for 0\.1 s"):
                found.check()
    found.close()
