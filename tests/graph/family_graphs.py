"""Graphs of a tiny model of every family, its layers three times over, as it states them and with calls merged."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from tests.catalogue.harness import registry
from tinyllm.graph.graph import Graph
from tinyllm.graph.passes.merge import merge_projections, merge_rotations
from tinyllm.models.decoder.config import DecoderConfig
from tinyllm.models.decoder.decoder import decoder
from tinyllm.models.families.families import decoder_config

pytest.importorskip("transformers")
families = importlib.import_module("tests.llm.families")
MORE = ("SmolLM3", "Mistral", "Ministral", "Olmoe")
"""transformers' names of families whose tiny models are made within their tests."""


def _tiny(value: Any) -> Iterator[Any]:
    """The tiny models in a module's constants."""
    from tests.llm.families.harness import Tiny

    if isinstance(value, Tiny):
        yield value
    elif isinstance(value, dict | tuple | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _tiny(inner)


@cache
def configs() -> dict[str, DecoderConfig]:
    """A config for each tiny model, by its family and a number within that."""
    from tests.llm.families.harness import Tiny

    found: list[Any] = [Tiny(name) for name in MORE]
    for module in pkgutil.iter_modules(families.__path__, "tests.llm.families."):
        names = vars(importlib.import_module(module.name))
        found += [tiny for name, value in names.items() if name.isupper() for tiny in _tiny(value)]
    made: dict[str, DecoderConfig] = {}
    for tiny in found:
        layers = {"num_hidden_layers": len(tiny.config["layer_types"])} if "layer_types" in tiny.config else {}
        config = decoder_config(replace(tiny, config=layers | tiny.config).theirs.to_dict())
        number = sum(other.family == config.family for other in made.values())
        made[f"{config.family}-{number}"] = replace(config, layers=3 * config.layers)
    return made


@cache
def graphs() -> dict[str, Graph]:
    """Each tiny model's graph in both forms."""
    made = {}
    for name, config in configs().items():
        made[name] = decoder(config, registry().specs)
        made[f"{name}-merged"] = merged(made[name])
    return made


def merged(graph: Graph) -> Graph:
    """As `merge_calls` does where all weights are stored alike."""
    return merge_rotations(merge_projections(graph, lambda name: ""))


def of_layers(classes: str, **changes: Any) -> Graph:
    """The graph of a model with transformers' own sizes."""
    import transformers

    return decoder(decoder_config(getattr(transformers, f"{classes}Config")(**changes).to_dict()), registry().specs)
