"""Schemas and patterns of whatever kind: each compiles and begins a reply, or is refused, soon and in one line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, given, seed, settings

from tests.engine.grammar.hostile import trying
from tests.engine.grammar.hostile_grammars import PATTERNS, SCHEMAS, survive_grammar
from tinyllm.engine.grammar.grammars import Grammars
from tinyllm.engine.grammar.limits import GrammarLimits

pytest.importorskip("llguidance")
pytestmark = pytest.mark.usefixtures("only_own_compilers")
FEW = settings(max_examples=40, suppress_health_check=list(HealthCheck), database=None, deadline=None)


@pytest.fixture(scope="module")
def tried() -> Iterator[Grammars]:
    with trying(GrammarLimits(seconds=0.3, memory=64 << 20)) as grammars:
        assert survive_grammar(grammars, "a") == ""
        before = psutil.Process().memory_info().rss
        yield grammars
        assert psutil.Process().memory_info().rss - before < 500 << 20


@seed(14)
@FEW
@given(schema=SCHEMAS)
def test_any_schema_gives_a_reply_or_a_line(tried: Grammars, schema: Any) -> None:
    survive_grammar(tried, schema)


@seed(14)
@FEW
@given(pattern=PATTERNS)
def test_any_pattern_gives_a_reply_or_a_line(tried: Grammars, pattern: str) -> None:
    survive_grammar(tried, pattern)
