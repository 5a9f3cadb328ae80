"""Requests whose grammars cost too much: they are refused, and hold up nobody else."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.engine.grammar.hostile import ENDLESS, compilers, intersections, until
from tests.openai.fakes import Program, make_llm
from tests.server.bodies import CHAT, TEXT, error
from tests.server.fakes import serving
from tests.server.test_robustness import LONG, raw_post
from tinyllm.engine.grammar.limits import GrammarLimits
from tinyllm.server.served_model import EngineSettings, ServedModel

pytest.importorskip("llguidance")
pytestmark = pytest.mark.usefixtures("only_own_compilers")


def model(limits: GrammarLimits) -> ServedModel:
    sizes = EngineSettings(pages=2000, page_size=4)
    return ServedModel("fake", lambda: make_llm(Program(delay=0.005)), sizes, limits)


def ask(url: str, **extra: Any) -> httpx.Response:
    return httpx.post(f"{url}/v1/chat/completions", json=CHAT | extra, timeout=60)


def test_eight_at_a_time_hold_up_nobody() -> None:
    with (
        serving(model(GrammarLimits(seconds=0.2, memory=1 << 30, patience=1000))) as live,
        ThreadPoolExecutor(8) as pool,
    ):
        assert ask(live.url, guided_choice=["yes"]).status_code == 200
        asked = [pool.submit(ask, live.url, guided_json=intersections(n)) for n in range(8)]
        assert until(lambda: compilers(children=True))
        waits = []
        with httpx.Client(base_url=live.url) as client:
            client.get("/health")
            for _ in range(20):
                start = time.monotonic()
                assert client.get("/health").status_code == 200
                waits.append(time.monotonic() - start)
        assert sorted(waits)[-2] < 0.3, waits
        assert ask(live.url).status_code == 200 and ask(live.url, guided_choice=["no"]).status_code == 200
        assert not all(one.done() for one in asked)
        for one in asked:
            told = error(one.result())
            assert one.result().status_code == 400 and told["param"] == "guided_json"
            assert "expected one that compiles within" in told["message"] and told["code"] == "invalid_grammar"
        assert live.settled() and until(lambda: not compilers(children=True))
    assert until(lambda: not compilers())


@pytest.mark.parametrize("pattern", ["a{1000000}", "a{300000}"])
def test_a_regex_that_is_too_large_is_the_client_s_fault(pattern: str) -> None:
    with serving() as live:
        response = ask(live.url, guided_regex=pattern, max_tokens=20)
        assert response.status_code == 400 and error(response)["message"].startswith(("guided_regex: ", "grammar: "))


def test_compiling_is_part_of_the_time_that_a_request_has() -> None:
    with serving(model(ENDLESS), timeout=0.5) as live:
        start = time.monotonic()
        response = ask(live.url, guided_json=intersections())
        assert response.status_code == 504 and error(response)["code"] == "timeout"
        assert time.monotonic() - start < 10 and until(lambda: not compilers(children=True))


def test_a_client_that_goes_away_ends_the_compiling_of_its_grammar() -> None:
    with serving(model(ENDLESS)) as live:
        raw = raw_post(live, LONG | {"guided_json": intersections()})
        assert until(lambda: compilers(children=True))
        raw.close()
        assert until(lambda: not compilers(children=True))
        assert ask(live.url).status_code == 200


def test_a_server_that_shuts_down_waits_for_no_grammar() -> None:
    answers: list[httpx.Response] = []
    with serving(model(ENDLESS)) as live:
        client = threading.Thread(target=lambda: answers.append(ask(live.url, guided_json=intersections())))
        client.start()
        assert until(lambda: compilers(children=True))
        start = time.monotonic()
        live.server.should_exit = True
        client.join(10)
    assert time.monotonic() - start < 10 and until(lambda: not compilers())
    assert answers[0].status_code == 503 and error(answers[0])["code"] == "draining"


def test_a_running_stream_goes_on() -> None:
    with serving(model(GrammarLimits(seconds=0.5, patience=1000))) as live, ThreadPoolExecutor(4) as pool:
        body = TEXT | {"max_tokens": 150, "ignore_eos": True, "stream": True}
        with httpx.stream("POST", f"{live.url}/v1/completions", json=body, timeout=20) as response:
            asked = [pool.submit(ask, live.url, guided_json=intersections(n)) for n in range(4)]
            pauses, last = [], time.monotonic()
            for _ in response.iter_lines():
                pauses.append(time.monotonic() - last)
                last = time.monotonic()
        assert len(pauses) > 100 and sorted(pauses[5:])[-3] < 1
        assert {one.result().status_code for one in asked} == {400}
