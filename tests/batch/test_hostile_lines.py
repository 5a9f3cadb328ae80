"""A line whose grammar costs too much has a result as any line that fails, and stops no other."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.batch.files import CHAT, read, request, write
from tests.engine.grammar.hostile import compilers, intersections, until
from tests.openai.fakes import make_llm
from tinyllm.batch.batch_file import BatchFile
from tinyllm.batch.result_file import ResultFile
from tinyllm.batch.run import URLS
from tinyllm.cli.batch_run import answer_all
from tinyllm.models.text.chat_prompt import TemplateOptions

pytest.importorskip("llguidance")
pytestmark = pytest.mark.usefixtures("only_own_compilers")


def test_a_grammar_that_costs_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYLLM_GRAMMAR_SECONDS", "0.3")
    hostile = [request(f"hostile {n}", CHAT, guided_json=intersections(n)) for n in range(2)]
    lines = [*hostile, request("held", CHAT, guided_choice=["yes"]), request("free", CHAT)]
    start = time.monotonic()
    with (
        closing(BatchFile(write(tmp_path / "in", *lines), URLS)) as file,
        closing(ResultFile(tmp_path / "out")) as results,
    ):
        counts = answer_all(file, file.lines, [results], make_llm, "fake", TemplateOptions(), 8, 64, 1024)
    assert (counts.done, counts.failed) == (4, 2) and time.monotonic() - start < 15
    responses = {entry["custom_id"]: entry["response"] for entry in read(tmp_path / "out")}
    assert responses["held"]["body"]["choices"][0]["message"]["content"] == "yes"
    for line in hostile:
        told = responses[line["custom_id"]]
        assert told["status_code"] == 400 and "one that compiles within" in told["body"]["error"]["message"]
    assert until(lambda: not compilers())
