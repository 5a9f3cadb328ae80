"""The process that compiles the grammars of strangers: it ends what nobody waits for, and ends with its parent."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import suppress

import psutil
import pytest

from tests.engine.grammar.hostile import ENDLESS, compilers, intersections, seconds_of, trying, until
from tinyllm.engine.grammar.grammar import Grammar
from tinyllm.engine.grammar.limits import GrammarLimits
from tinyllm.engine.grammar.trials import TrialsBusyError, TrialsEndedError

pytest.importorskip("llguidance")
pytestmark = pytest.mark.usefixtures("only_own_compilers")


def test_a_trial_ends_when_nobody_waits_for_it() -> None:
    grammar = Grammar.json_schema(intersections(), check=False)
    with trying(ENDLESS) as grammars:
        asked = [grammars.compile(grammar) for _ in range(2)]
        assert until(lambda: compilers(children=True))
        asked[0].cancel()
        time.sleep(0.3)
        assert len(compilers(children=True)) == 1 and not asked[1].done()
        asked[1].cancel()
        assert until(lambda: not compilers(children=True))
        assert seconds_of(grammars, Grammar.choice(["another"])) < 10


def test_slow_grammars_wait_for_one_another_and_no_quick_one_for_them() -> None:
    with trying(ENDLESS) as grammars:
        asked = [grammars.compile(Grammar.json_schema(intersections(n), check=False)) for n in range(4)]
        assert until(lambda: compilers(children=True))
        time.sleep(0.4)
        assert len(compilers(children=True)) <= 3
        assert seconds_of(grammars, Grammar.choice(["another"])) < 10 and not any(one.done() for one in asked)
    for one in asked:
        assert isinstance(one.exception(5), TrialsEndedError)


def test_what_takes_long_leaves_the_processor_to_the_model() -> None:
    """As far below this process as a niceness can be, whichever this process has."""
    lowest = min(os.nice(0) + 19, 19)
    with trying(ENDLESS) as grammars:
        grammars.compile(Grammar.json_schema(intersections(), check=False))
        assert until(lambda: [child.nice() for child in compilers(children=True)] == [lowest])


def test_a_busy_machine_is_not_the_grammar_s_fault() -> None:
    with trying(GrammarLimits(seconds=0.05, patience=10)) as grammars:
        asked = grammars.compile(Grammar.json_schema(intersections(), check=False))

        def stopped() -> bool:
            for child in compilers(children=True):
                with suppress(psutil.NoSuchProcess):
                    child.suspend()
            return asked.done()

        assert until(stopped)
        with pytest.raises(TrialsBusyError, match=r"too busy to compile it within 0\.5 s"):
            asked.result()


def test_a_process_that_dies_is_replaced() -> None:
    with trying(ENDLESS) as grammars:
        asked = grammars.compile(Grammar.json_schema(intersections(), check=False))
        assert until(lambda: compilers(children=True))
        children = compilers(children=True)
        (process,) = compilers()
        process.kill()
        with pytest.raises(TrialsEndedError, match="the process that compiles grammars ended"):
            asked.result(5)
        assert seconds_of(grammars, Grammar.choice(["another"])) < 10
        for child in children:  # which its own limits would end
            child.kill()


def test_no_more_wait_than_may() -> None:
    with trying(GrammarLimits(seconds=60, memory=1 << 30, waiting=2)) as grammars:
        for number in range(2):
            grammars.compile(Grammar.json_schema(intersections(number), check=False))
        with pytest.raises(TrialsBusyError, match="2 grammars wait"):
            grammars.compile(Grammar.choice(["another"]))


PROGRAM = """
import os, sys, time
from tests.engine.grammar.hostile import ENDLESS, compilers, intersections, until
from tests.engine.grammar.replies import tokenizer
from tinyllm.engine.grammar.grammar import Grammar
from tinyllm.engine.grammar.grammars import Grammars
grammars = Grammars(tokenizer(), limits=ENDLESS)
grammars.start(Grammar.choice(["a"]))
grammars.compile(Grammar.json_schema(intersections(), check=False))
until(lambda: compilers(children=True))
print(*[p.pid for p in compilers() + compilers(children=True)], flush=True)
"""


@pytest.mark.parametrize("end", ["", "os._exit(0)", "os.fork() or (os.close(1), time.sleep(9)); os._exit(0)"])
def test_no_process_outlives_the_one_that_started_it(end: str) -> None:
    """However that ends, and also where a child of it holds its files."""
    program = subprocess.run([sys.executable, "-c", PROGRAM + end], stdout=subprocess.PIPE, timeout=30, check=True)
    pids = [int(pid) for pid in program.stdout.split()]
    assert len(pids) == 2 and until(lambda: not any(psutil.pid_exists(pid) for pid in pids), 5)


def test_grammars_in_use_leave_no_room_for_others() -> None:
    with trying(GrammarLimits(seconds=2, memory=128 << 20, cache=30 << 20)) as grammars:
        state = grammars.start(Grammar.regex("a{60000}"))
        with pytest.raises(TrialsBusyError, match="take all the memory they may"):
            grammars.start(Grammar.regex("b{60000}"))
        assert state.mask()[ord("a")]
        del state
        assert until(lambda: grammars._cache.held == 0)
        assert grammars.start(Grammar.regex("b{60000}")).mask()[ord("b")]
