"""Fixtures of the engine's tests."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.engine.grammar.replies import tokenizer
from tinyllm.engine.grammar.grammars import Grammars


@pytest.fixture(scope="module")
def grammars() -> Iterator[Grammars]:
    with ThreadPoolExecutor(2) as executor:
        yield Grammars(tokenizer(), executor, most=8)
