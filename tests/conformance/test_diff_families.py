"""No false alarm: on a tiny checkpoint of each family every node of every backend is within its bound, and the states
are transformers'."""

from __future__ import annotations

import importlib
from itertools import combinations
from pathlib import Path

import pytest

import tests.llm.families
from tests.catalogue.harness import backends, registry
from tests.llm.families.harness import PROMPT, Tiny
from tinyllm.conformance.compared_model import make_steps, open_compared
from tinyllm.conformance.model_bisect import Bisection
from tinyllm.conformance.model_diff import diff_programs
from tinyllm.conformance.transformers_diff import DEPARTS, diff_with_transformers
from tinyllm.models.families.families import FAMILIES

FOUR = {"num_hidden_layers": 4}
LLAMA = Tiny("Llama", {"attention_bias": True})
OTHERS = (
    Tiny("Mistral", {"sliding_window": 20}),
    Tiny("SmolLM3", {"num_hidden_layers": 4, "no_rope_layers": [1, 1, 1, 0], "attention_bias": True}),
    Tiny("Olmo2"),
    Tiny("Olmo3", {"sliding_window": 20, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}),
    Tiny("Cohere2", {"sliding_window": 9, "layer_types": ["sliding_attention", "full_attention"] * 2, **FOUR}),
)
"""Of families whose tests make their checkpoints in another way."""


def _models() -> dict[str, Tiny]:
    """One of each kind of model that the tests of families know."""
    found = {model.classes: model for model in (LLAMA, *OTHERS)}
    for path in sorted(Path(tests.llm.families.__file__).parent.glob("test_*.py")):
        module = vars(importlib.import_module(f"tests.llm.families.{path.stem}"))
        several = [model for value in module.values() if isinstance(value, dict) for model in value.values()]
        for model in (*several, module.get("TINY")):
            if isinstance(model, Tiny):
                found.setdefault(model.classes, model)
    return found


MODELS = _models()
SEE = {"gemma3", "gemma4", "gemma4_unified", "qwen3_5", "qwen3_5_moe"}
PAIRS = [*combinations(backends(), 2)]


def test_there_is_a_model_of_each_family() -> None:
    """But of those whose text is another's, and which see besides."""
    known = {kind: family for family in FAMILIES for kind in family.model_types}
    configs = [model.theirs for model in MODELS.values()]
    kinds = {
        kind for config in configs for kind in (config.model_type, getattr(config, "text_config", config).model_type)
    }
    assert {f.name for f in FAMILIES} - {known[kind].name for kind in kinds & known.keys()} <= SEE


@pytest.mark.parametrize("family", MODELS)
def test_no_node_is_blamed(family: str, tmp_path: Path) -> None:
    """Of one pair of backends for each family."""
    MODELS[family].save(tmp_path)
    assert_nobody_is_blamed(tmp_path, PAIRS[[*MODELS].index(family) % len(PAIRS)])


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_no_pair_of_backends_blames_a_node(pair: tuple[str, str], tmp_path: Path) -> None:
    LLAMA.save(tmp_path)
    assert_nobody_is_blamed(tmp_path, pair)


def assert_nobody_is_blamed(folder: Path, pair: tuple[str, str]) -> None:
    """No node of either backend, no state of transformers, and nothing to find by halves."""
    model = open_compared(folder, registry(), registry().select(pair[0]))
    ours, theirs = (model.bind(registry().select(name)) for name in pair)
    steps = make_steps(PROMPT, 2)
    found = diff_programs(model, ours, theirs, steps)
    assert [(g.node.name, g.node.kernel, g.step, g.message) for g in found.guilty] == []
    assert found.judged == 2 * len(found.nodes) * len(steps)
    states = diff_with_transformers(model, ours, PROMPT)
    assert [state.what for state in states if state.difference > DEPARTS / 4] == []
    assert len(states) == len(model.opened.config.layers) + 2
    assert Bisection(model, *pair, steps).run().nodes == ()
