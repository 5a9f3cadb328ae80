"""What a program's own grammars may cost, and how it says that it trusts them."""

from __future__ import annotations

import pytest

from tests.openai.fakes import make_llm
from tinyllm.engine.grammar.grammar import Grammar
from tinyllm.engine.grammar.grammars import Grammars
from tinyllm.errors import InvalidInputError

pytest.importorskip("llguidance")


def test_a_grammar_of_a_program_is_tried_unless_it_says_otherwise() -> None:
    llm = make_llm()
    long = Grammar.choice([f"{number} {'x' * 600}" for number in range(1000)])
    with pytest.raises(InvalidInputError, match="choice: expected at most 524288 characters"):
        llm.generate("a", grammar=long, max_tokens=2)
    assert llm.generate("a", grammar=Grammar.choice(["yes"]), max_tokens=9).text == "yes"
    llm.grammars = Grammars(llm.tokenizer)
    assert llm.generate("a", grammar=long, max_tokens=2).text
