"""Recurrent states in a run of nodes that is one call of the library: rows of them are written in place."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.catalogue.harness import registry
from tests.graph.test_program import IDS, logits
from tests.graph.tiny import CONFIG, LAYER
from tests.llm.families import test_lfm2, test_qwen_delta
from tinyllm.engine.model_runner import Chunk, ModelRunner
from tinyllm.models.decoder.config import DecoderConfig, GatedDeltaConfig, ShortConvConfig
from tinyllm.models.families.families import decoder_config

pytest.importorskip("tinyllm_native.link")
if not registry().probe("native").available:
    pytest.skip("no native library", allow_module_level=True)

from tests.backends.native.test_link import both, inputs_of, step

CONVOLVED = replace(LAYER, attention=ShortConvConfig(3, bias=True))
DELTA = replace(LAYER, attention=GatedDeltaConfig(1, 3, 7, 19, 2))
MODELS = {
    "LFM2": decoder_config(test_lfm2.MODELS["tied"].theirs.to_dict()),
    "Qwen3.5": decoder_config(test_qwen_delta.MODELS["3.5-bias"].theirs.to_dict()),
    "heads that no vector fits": replace(CONFIG, layers=(DELTA, CONVOLVED, LAYER)),
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("model", MODELS)
def test_a_whole_model_is_one_call_and_gives_the_same_bits(model: str, dtype: str) -> None:
    """Two sequences side by side, from their prompts on, and then another in the row of the first."""
    linked, apart = both(MODELS[model], dtype=dtype)
    assert [one.op for one in linked.steps] == ["run"]
    given = []
    for bound in (linked, apart):
        runner = ModelRunner(bound, 8, 8, 2)
        rows = [step(runner, Chunk(IDS[:3], 0, [4], row=1), Chunk(IDS[:1], 0, [0]))]
        rows += [step(runner, Chunk(IDS[1:6], 1, [0]), Chunk([IDS[3]], 3, [4], row=1))]
        rows += [step(runner, Chunk([IDS[4]], 4, [4], row=1), Chunk(IDS[2:7], 0, [1]))]
        given.append(np.concatenate([*rows, logits(bound, IDS, [3, 4])]))
    np.testing.assert_array_equal(*given)
    if dtype == "float32":
        np.testing.assert_allclose(given[0][-len(IDS) :], logits(linked, IDS, []), rtol=0, atol=1e-4)


def _one_layer(config: DecoderConfig, number: int) -> DecoderConfig:
    return replace(config, layers=config.layers[number : number + 1])


@pytest.mark.parametrize("number", [0, 1], ids=["delta", "convolution"])
def test_states_in_any_layout(number: int) -> None:
    """They are written as the numbers that they show; those that are read-only stay as they are."""
    linked, apart = both(_one_layer(MODELS["heads that no vector fits"], number))
    inputs = inputs_of(Chunk(IDS, 0, [2]))
    (wanted,), written = apart(inputs, apart.allocate(4, 16, 2))
    for axis in range(-4, 0):
        state = {}
        for name, array in linked.allocate(4, 16, 2).items():
            along = max(axis, -array.ndim)
            cut = tuple(slice(None, None, 2 if n == along else 1) for n in range(-array.ndim, 0))
            state[name] = np.repeat(array, 2, along)[cut]
        given, after = linked(inputs, state)
        np.testing.assert_array_equal(given[0], wanted)
        for name, array in after.items():
            np.testing.assert_array_equal(array, written[name])
    state = linked.allocate(4, 16, 2)
    for array in state.values():
        array.flags.writeable = False
    _, after = linked(inputs, {**state})
    for name, array in state.items():
        assert not array.any()
        np.testing.assert_array_equal(after[name], written[name])
