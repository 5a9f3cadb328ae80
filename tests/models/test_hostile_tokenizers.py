"""Files of tokenizers of whatever kind: each reads and encodes, or is refused, soon and in one line."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings

from tests.models.hostile_tokenizers import FILES, SETTINGS, survive_tokenizer


@seed(14)
@settings(max_examples=60, suppress_health_check=list(HealthCheck), database=None, deadline=None)
@given(file=FILES, config=SETTINGS)
def test_any_tokenizer_encodes_or_is_refused_in_a_line(
    tmp_path_factory: pytest.TempPathFactory, bounded: None, file: Any, config: Any
) -> None:
    survive_tokenizer(tmp_path_factory.getbasetemp(), file, config)


def test_a_vocabulary_of_nothing_has_a_longest_token(tmp_path_factory: pytest.TempPathFactory) -> None:
    decoder = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    empty = {"model": {"type": "Unigram", "vocab": []}, "added_tokens": [], "decoder": decoder}
    assert "cannot be encoded" in survive_tokenizer(tmp_path_factory.getbasetemp(), empty, {})
