"""Stop strings that are, or contain, the text of a special token; transformers is the judge."""

from __future__ import annotations

from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models.kinds import byte_level
from tinyllm.engine.sampling.params import SamplingParams
from tinyllm.engine.sequence import Piece, Sequence
from tinyllm.models.text.tokenizer import Tokenizer

START, END = "<s>", "</s>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tokenizer")


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return byte_level(folder)


def reply(tokenizer: Tokenizer, tokens: list[int], **sampling: Any) -> tuple[list[Piece], Sequence]:
    """The pieces of a reply whose tokens are these, until it ends."""
    params = SamplingParams(max_tokens=100, **sampling)
    request, pieces = Sequence([0], params, tokenizer, frozenset(tokenizer.encode(END)), 200), []
    for token in tokens:
        logits = np.zeros(tokenizer.vocab_size, np.float32)
        logits[token] = 5
        pieces.append(request.advance(logits))
        if request.finish_reason:
            break
    return pieces, request


@given(
    words=st.lists(st.sampled_from(["bye", " user", START, END, "\n", " <", "s>"]), min_size=1),
    data=st.data(),
)
@settings(max_examples=40, deadline=None)
def test_a_stop_string_ends_a_reply_where_it_does_in_transformers(
    folder: Path, tokenizer: Tokenizer, words: list[str], data: st.DataObject
) -> None:
    import torch
    from transformers import PreTrainedTokenizerFast, StopStringCriteria

    tokens = tokenizer.encode("".join(words))
    text = tokenizer.decode(tokens, skip_special_tokens=False)
    start = data.draw(st.integers(0, len(text) - 1))
    stop = text[start : start + data.draw(st.integers(1, 20))]
    judge = StopStringCriteria(PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json")), [stop])
    ends = [n for n in range(1, len(tokens) + 1) if judge(torch.tensor([tokens[:n]]), None)[0]]
    pieces, request = reply(tokenizer, tokens, stop=stop, ignore_eos=True)
    assert (request.finish_reason, request.generated) == ("stop", tokens[: ends[0]])
    shown = [tokenizer.decode([token]) != "" for token in tokens for _ in tokenizer.token_bytes(token)]
    assert "".join(piece.text for piece in pieces) == "".join(compress(text[: text.index(stop)], shown))


def test_the_token_that_ends_a_reply_completes_a_stop_string(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode("so bye" + END)
    assert "".join(piece.text for piece in reply(tokenizer, tokens, stop=" bye" + END)[0]) == "so"
    assert "".join(piece.text for piece in reply(tokenizer, tokens, stop=" bye" + START)[0]) == "so bye"


def test_a_special_token_before_min_tokens_stops_nothing(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode(f"{START} so{START}")
    pieces, request = reply(tokenizer, tokens, stop=START, min_tokens=2)
    assert (request.generated, request.finish_reason) == (tokens, "stop")
    assert "".join(piece.text for piece in pieces) == " so"
