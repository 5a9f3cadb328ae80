"""Many grammars of strangers take together no more than a share of a processor at its usual priority."""

from __future__ import annotations

import json
from multiprocessing.connection import Connection, Pipe
from typing import Any

import pytest

from tests.engine.grammar.hostile import intersections
from tests.engine.grammar.replies import tokenizer
from tinyllm.engine.grammar import trial_process
from tinyllm.engine.grammar.limits import GrammarLimits
from tinyllm.engine.grammar.processor_budget import ProcessorBudget
from tinyllm.engine.grammar.vocabulary import Vocabulary

COST = 0.03


@pytest.mark.parametrize("every", [0.0, 0.01, 0.1, 1.0])
def test_work_has_its_share_however_it_comes(every: float) -> None:
    now = 100.0
    budget = ProcessorBudget(0.1, 1.0, lambda: now)
    spent, until = 0.0, now + 60
    while now < until:
        begun = 0
        while budget.left and begun < 200:
            budget.spend(COST)
            begun += 1
        spent += begun * COST
        now += every or 0.001
    assert 1.0 + 0.9 * 6 <= spent <= 1.0 + 0.1 * 60 + COST
    now += 1000
    assert budget.left
    budget.spend(1.0)
    assert not budget.left  # what is not used is not kept beyond the burst


class Process(trial_process.TrialProcess):
    """Forks nobody: tells at which niceness each grammar would have been tried."""

    def __init__(self, parent: Connection) -> None:
        super().__init__(parent, Vocabulary(tokenizer()), GrammarLimits(seconds=1))
        self.begun: list[int] = []

    def _fork(self, lane: Any, job: Any) -> Any:
        self.begun.append(lane.niceness)
        if lane.niceness == 0:
            self._quick.spend(COST)


def test_a_flood_of_grammars_leaves_the_first_lane(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(trial_process.time, "monotonic", lambda: now)
    parent, child = Pipe()
    process = Process(child)
    for number in range(200):
        process._take({"id": number, "grammars": [["json_schema", json.dumps(intersections(number))]]})
    for _ in range(400):
        process._begin()
    assert sorted(process.begun) == [*[0] * 34, *[19] * 166]
    now += 60
    process._take({"id": 200, "grammars": [["choice", "[]"]]})
    process._begin()
    assert process.begun[-1] == 0
    parent.close()
    child.close()
