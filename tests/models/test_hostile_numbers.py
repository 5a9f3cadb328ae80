"""Numbers at the edges of their types, anywhere in a config, in GGUF metadata or in a safetensors header: loading ends
soon, in little memory, and in one line."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFValueType
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from tests.models.conftest import write_gguf
from tests.models.hostile import CONFIG, LLAMA3, YARN, survive, survive_config, written

POWERS = [2**bits + more for bits in (7, 8, 15, 16, 31, 32, 47, 48, 53, 62, 63, 64) for more in (-1, 0, 1)]
NUMBERS = [-(2**63), -1, 0, 1, 2, 3, *POWERS, 10**9, 10**18, 10**400, 10**4000]
FLOATS = [5e-324, 1e-308, 1e-38, 1e-6, 0.5, 1.0000001, 1e6, 3e38, 1e39, 1e308, float("inf"), float("nan"), -0.0]
OTHERS = [True, None, "1", "x" * 5000, [1], [[1]], [2] * 1000, {}, {"a": [1] * 10**5}]
EDGES = st.sampled_from([*NUMBERS, *FLOATS, *OTHERS])
FEW = settings(
    max_examples=60, suppress_health_check=list(HealthCheck), database=None, derandomize=False, deadline=None
)


@st.composite
def configs(draw: st.DrawFn) -> dict[str, Any]:
    """A config with up to three fields, and up to two of its rope settings, at the edges."""
    config = CONFIG | draw(
        st.dictionaries(st.sampled_from([*CONFIG, "layer_types", "quantization"]), EDGES, max_size=3)
    )
    rope = draw(st.sampled_from([None, YARN, LLAMA3, {"rope_type": "linear", "factor": 2.0}]))
    if rope is not None:
        config["rope_scaling"] = rope | draw(st.dictionaries(st.sampled_from([*rope, "mscale"]), EDGES, max_size=2))
    return config


@seed(14)
@FEW
@given(config=configs())
def test_configs_at_the_edges(folder: Path, bounded: None, config: dict[str, Any]) -> None:
    survive_config(folder, config)


KEYS = [
    "context_length",
    "embedding_length",
    "block_count",
    "feed_forward_length",
    "vocab_size",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.layer_norm_rms_epsilon",
    "rope.freq_base",
    "rope.dimension_count",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.yarn_beta_slow",
    "rope.scaling.attn_factor",
    "general.alignment",
    "general.sampling.temp",
    "general.sampling.top_k",
    "split.count",
]
UNSIGNED = [number for number in NUMBERS if 0 <= number < 2**64]
TYPED = st.one_of(
    st.sampled_from(UNSIGNED).map(lambda value: (value, GGUFValueType.UINT64)),
    st.sampled_from(FLOATS).map(lambda value: (value, GGUFValueType.FLOAT64)),
    st.sampled_from([value for value in OTHERS if isinstance(value, (bool, str))] + ["yarn", "linear", [1] * 2000]),
)


@seed(14)
@FEW
@given(keys=st.dictionaries(st.sampled_from(KEYS), TYPED, max_size=3), at=st.integers(4, 3500), number=st.data())
def test_ggufs_at_the_edges(
    tmp_path_factory: pytest.TempPathFactory, bounded: None, keys: dict[str, Any], at: int, number: st.DataObject
) -> None:
    path = write_gguf(tmp_path_factory.mktemp("gguf") / "m.gguf", keys=keys)
    if number.draw(st.booleans(), "patched"):  # a count, a length, a size or an offset somewhere in the header
        with path.open("r+b") as file:
            file.seek(at)
            file.write(struct.pack("<Q", number.draw(st.sampled_from(UNSIGNED))))
    survive(path)
    path.unlink()


@seed(14)
@FEW
@given(data=st.data())
def test_headers_of_safetensors_at_the_edges(folder: Path, bounded: None, data: st.DataObject) -> None:
    (folder / "config.json").write_text(json.dumps(CONFIG))
    whole = (folder / "model.safetensors").read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    for name in data.draw(st.lists(st.sampled_from(list(header)), max_size=3)):
        field = data.draw(st.sampled_from(["dtype", "shape", "data_offsets"]))
        edge = st.one_of(EDGES, st.lists(st.sampled_from(NUMBERS), max_size=4), st.sampled_from(["F16", "I64", "BOOL"]))
        header[name][field] = data.draw(edge)
    try:
        written(folder / "model.safetensors", header, whole[8 + length :])
        survive(folder)
    finally:
        (folder / "model.safetensors").write_bytes(whole)
