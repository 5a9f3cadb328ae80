"""Settings of the machine that runs the tests must not change what they find."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from tinyllm.settings.known import known_settings

hypothesis.settings.register_profile("tinyllm", deadline=None)  # how long an example takes is no property
hypothesis.settings.load_profile("tinyllm")
# Before a conftest of a folder imports them: the libraries' thread pools share two cores here, and threads that wait
# must not spin against the next library's. NumPy's always do, which makes the references' products ten times as dear.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("KMP_BLOCKTIME", "0")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def pytest_configure() -> None:
    """Before any registry is made: no setting comes from the environment or from the user's file."""
    for spec in known_settings().values():
        os.environ.pop(spec.variable, None)
    os.environ["XDG_CONFIG_HOME"] = os.devnull
    if (
        signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    ):  # a shell's background job: what tests start would ignore Ctrl-C, too
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """What was imported and collected lives to the end: the collector need not look at it again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    """The GGUF of SmolLM2-135M-Instruct; fetched if it is not there."""
    from tinyllm.models.download.sources import resolve

    return resolve("smollm2")


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> Iterator[pytest.MonkeyPatch]:
    """An empty folder as the working directory, and a user folder inside it."""
    monkeypatch.chdir(str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path) + "/config")
    yield monkeypatch


@pytest.fixture(scope="module")
def only_own_compilers() -> None:
    """Before a module that counts the processes that compile grammars."""
    from tests.engine.grammar.hostile import leave_out_others

    leave_out_others()
