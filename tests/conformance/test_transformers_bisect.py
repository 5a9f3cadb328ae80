"""`tinyllm bisect --against transformers` names the layer and the part that somebody who ports a family got wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.catalogue.harness import backends, registry
from tests.llm.families.harness import PROMPT, Tiny
from tinyllm.conformance.compared_model import ComparedModel, open_compared
from tinyllm.conformance.transformers_bisect import Departure, bisect_with_transformers
from tinyllm.models.decoder.decoder import decoder

QWEN3 = Tiny("Qwen3", {"head_dim": 8, "num_attention_heads": 2, "intermediate_size": 48, "tie_word_embeddings": False})
"""As many heads of keys as of queries, and as many rows as columns: what is swapped or turned still fits."""
Tensors = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen3."""
    path = tmp_path_factory.mktemp("qwen3")
    QWEN3.save(path)
    return path


def found(model: ComparedModel, backend: str = "numpy") -> list[Departure]:
    """What departs."""
    return bisect_with_transformers(model, model.bind(registry().select(backend)), PROMPT[:40])


def opened(folder: Path) -> ComparedModel:
    return open_compared(folder, registry(), registry().select("numpy"))


@pytest.mark.parametrize("backend", backends())
def test_where_all_is_right_no_layer_differs(folder: Path, backend: str) -> None:
    assert found(opened(folder), backend) == []


def attention(**changed: Any) -> Callable[[Any], Any]:
    """A layer with other attention."""
    return lambda layer: replace(layer, attention=replace(layer.attention, **changed))


def turned(layer: Any) -> Any:
    """A layer with another base of the rope."""
    return attention(rope=replace(layer.attention.rope, theta=500.0))(layer)


MISREAD: dict[str, tuple[Callable[[Any], Any], str, set[str]]] = {
    "theta of the rope": (turned, "input of self_attn.o_proj", {"rope_angles"}),
    "halves of the rope": (
        lambda layer: attention(rope=replace(layer.attention.rope, traditional=True))(layer),
        "input of self_attn.o_proj",
        {"rope_rotate", "paged_attention"},
    ),
    "missing scale": (attention(scale=1.0), "input of self_attn.o_proj", {"paged_attention"}),
    "activation": (
        lambda layer: replace(layer, mlp=replace(layer.mlp, activation="gelu_tanh")),
        "input of mlp.down_proj",
        {"geglu"},
    ),
}
"""By what a family got wrong of a layer, the part that departs, and ops that are among the suspects."""


@pytest.mark.parametrize("fault", MISREAD)
def test_what_a_family_misread_is_named(folder: Path, fault: str) -> None:
    """Of one layer in the middle, as the others hide nothing."""
    change, part, ops = MISREAD[fault]
    model = opened(folder)
    first, second, third = model.opened.config.layers
    (only,) = found(misread(model, layers=(first, change(second), third)))
    assert (only.where, only.part) == ("layer 1", part)
    assert all(any(op in name for name in only.suspects) for op in ops), only
    assert not any("_proj" in name and "split" not in name for name in only.suspects)


def misread(model: ComparedModel, **changed: Any) -> ComparedModel:
    """The model of a family that says something else."""
    config = replace(model.opened.config, **changed)
    return replace(model, opened=replace(model.opened, config=config), graph=decoder(config, registry().specs))


def test_a_wrong_eps_is_named_in_every_norm(folder: Path) -> None:
    """Of each layer the first; the last norm has it, too."""
    model = opened(folder)
    told = found(misread(model, norm=replace(model.opened.config.norm, eps=0.5)))
    assert [one.where for one in told] == ["layer 0", "layer 1", "layer 2", "final norm"]
    assert {one.part for one in told[:3]} <= {"input_layernorm", "self_attn.q_norm", "post_attention_layernorm"}
    assert told[0].part == "input_layernorm" and told[0].suspects == ("model.layers.0.rms_norm",)


def test_what_surrounds_the_layers_is_named(folder: Path) -> None:
    model = opened(folder)
    assert [one.where for one in found(misread(model, embedding_multiplier=1.5))] == ["embedding"]
    assert [one.where for one in found(misread(model, logit_multiplier=1.01))] == ["logits"]


def swapped(tensors: Tensors) -> None:
    """The norms of queries and keys."""
    names = [f"model.layers.1.self_attn.{name}_norm.weight" for name in "qk"]
    tensors[names[0]], tensors[names[1]] = tensors[names[1]], tensors[names[0]]


def transposed(tensors: Tensors) -> None:
    """A weight of as many rows as columns."""
    name = "model.layers.1.mlp.down_proj.weight"
    tensors[name] = np.ascontiguousarray(tensors[name].T)


def offset(tensors: Tensors) -> None:
    """The last norm, as a family has it whose norms scale by their weight and 1."""
    tensors["model.norm.weight"] += 1


WRONG = (
    (swapped, "layer 1", "self_attn.q_norm"),
    (transposed, "layer 1", "mlp.down_proj"),
    (offset, "final norm", "norm"),
)


@pytest.mark.parametrize(("change", "where", "part"), WRONG, ids=lambda value: getattr(value, "__name__", value))
def test_a_weight_that_was_read_wrong_is_named(
    folder: Path, tmp_path: Path, change: Callable[[Tensors], None], where: str, part: str
) -> None:
    """transformers reads it right: the model has its path."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    (only,) = found(replace(opened(tmp_path), path=folder))
    assert (only.where, only.part) == (where, part) and len(only.suspects) == 1, only
