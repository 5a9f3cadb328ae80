"""How a model's authors want it sampled: what its files say counts where the user says nothing.

Source: transformers' `GenerationConfig`, whose names `generation_config.json` has.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tinyllm.engine.sampling.params import SamplingParams
from tinyllm.errors import CheckpointError, InvalidInputError, SamplingWarning, quoted, shortened
from tinyllm.models.checkpoints.checkpoint import Checkpoint
from tinyllm.models.checkpoints.generation_fields import NEUTRAL, asked_of
from tinyllm.settings.read import DEFAULT, Setting

_NAMES = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
    "stop_strings": "stop",
    "max_new_tokens": "max_tokens",
}
"""Settings of `SamplingParams` by their names in the file."""


@dataclass(frozen=True)
class SamplingDefaults:
    """What a model's files say of its sampling.

    Args:
        values: settings of `SamplingParams` that change something.
        source: the name of the file.
        left_out: what the file asks for and tinyllm does not do, as the file has it.
    """

    values: dict[str, Any] = field(default_factory=dict)
    source: str = ""
    left_out: dict[str, Any] = field(default_factory=dict)

    def settings(self, max_tokens: Setting) -> dict[str, Any]:
        """All that counts where the user says nothing. `max_tokens` is as the configuration has it, the model's where
        that is silent."""
        configured = {"max_tokens": max_tokens.value}
        return configured | self.values if max_tokens.source == DEFAULT else self.values | configured

    @property
    def warning(self) -> str:
        """One line on what is left out; empty where nothing is."""
        asked = ", ".join(f"{shortened(name)} {quoted(value)}" for name, value in self.left_out.items())
        return f"{self.source}: {asked}: not done by tinyllm, replies are made without" if asked else ""


def model_defaults(checkpoint: Checkpoint, context: int) -> SamplingDefaults:
    """Those of a checkpoint, with a warning that names what is not done. Old ones have them in their `config.json`,
    where transformers looks for them as well.

    Raises as `sampling_defaults` does.
    """
    config, source = checkpoint.generation_config()
    if not config:
        fields, source = {*_NAMES, *NEUTRAL, "do_sample"}, "config.json"
        config = {name: value for name, value in checkpoint.config.items() if name in fields}
    found = sampling_defaults(config, source, context)
    if found.warning:
        warnings.warn(found.warning, SamplingWarning, stacklevel=3)
    return found


def sampling_defaults(config: Mapping[str, Any], source: str, context: int) -> SamplingDefaults:
    """What a generation config says.

    A temperature counts where the file does not say `do_sample: false`, which is greedy; sampling without a temperature
    is at 1.

    Args:
        config: the fields of `generation_config.json`. source: the name of the file, for errors and reports.
        context: of the model; a `max_length` that is no less asks for nothing.

    Raises `CheckpointError` for a value out of range.
    """
    said = asked_of(config, context)
    values = {ours: said[theirs] for theirs, ours in _NAMES.items() if theirs in said}
    sampled = config.get("do_sample")
    if sampled not in (None, True, False):
        raise CheckpointError(f"{source}: do_sample: expected true or false, got {quoted(sampled)}")
    if sampled is not None:
        values["temperature"] = values.get("temperature", 1.0) if sampled else 0.0
    try:
        SamplingParams(**values)
    except InvalidInputError as error:
        raise CheckpointError(f"{source}: {str(error).removeprefix('sampling: ')}") from error
    left_out = {name: value for name, value in said.items() if name not in _NAMES}
    return SamplingDefaults(values, source, left_out)
