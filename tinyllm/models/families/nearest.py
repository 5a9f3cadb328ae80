"""What is said of a model that no family is of: which one is nearest, and what stands in the way."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from tinyllm.errors import FieldError, TinyllmError, plugin_code, shortened
from tinyllm.models.checkpoints.gguf import GgufFile
from tinyllm.models.families.defaults import with_defaults
from tinyllm.models.families.family import Family
from tinyllm.models.families.gguf_fields import GgufFields

PLUGIN = "a plugin may add a family (hook tinyllm_families)"
_MEANING = {
    "kv_lora_rank": "multi-head latent attention",
    "attention_chunk_size": "attention within chunks",
    "state_size": "state-space layers",
    "mamba_d_state": "state-space layers",
    "ssm_state_size": "state-space layers",
    "ssm.state_size": "state-space layers",
    "attention.kv_lora_rank": "multi-head latent attention",
    "attention.chunk_size": "attention within chunks",
}
"""Fields of what the decoder has no means for."""
_MOST = 12
"""Fields that a message names."""

Attempt = Callable[[Collection[str]], object]
"""Reads a model's config or metadata as a family does, without some fields. Raises `FieldError` for others."""


def nearest_of_config(config: Mapping[str, Any], families: Iterable[Family]) -> str:
    """The end of a message about a `config.json` of no family."""
    inner = config.get("text_config")
    text = inner if isinstance(inner, Mapping) else config
    attempts = {name: _reading(text, family, name) for family in families for name in family.model_types}
    of_inner = text.get("model_type")
    first = {of_inner: attempts[of_inner]} if isinstance(of_inner, str) and of_inner in attempts else {}
    return _said(text, first | attempts)


def nearest_of_gguf(file: GgufFile, families: Iterable[Family]) -> str:
    """The end of a message about a GGUF file of an architecture of no family."""
    prefix = f"{file.metadata.get('general.architecture')}."
    keys = {key.removeprefix(prefix) for key in file.metadata if key.startswith(prefix)}
    forms = {name: family for family in families for name in family.architectures}
    return _said(keys, {name: _reading_gguf(file, family) for name, family in forms.items()})


def _reading(config: Mapping[str, Any], family: Family, model_type: str) -> Attempt:
    def attempt(without: Collection[str]) -> None:
        fields = {field: value for field, value in config.items() if field not in without}
        family.from_config(with_defaults(fields, model_type) | {"model_type": model_type})

    return attempt


def _reading_gguf(file: GgufFile, family: Family) -> Attempt:
    def attempt(without: Collection[str]) -> None:
        fields = GgufFields(file, without)
        if family.gguf:
            family.gguf.config(fields)
        fields.finish()

    return attempt


def _said(present: Collection[str], attempts: Mapping[str, Attempt]) -> str:
    found = {name: _obstacles(present, attempt) for name, attempt in attempts.items()}
    near = {name: fields for name, fields in found.items() if fields is not None}
    if not near:
        known = [name for name in present if name in _MEANING]
        means = f"the decoder has no means for its {_named(known)}" if known else "none is near it"
        return f"; {means}; {PLUGIN}"
    name = min(near, key=lambda name: len(near[name]))
    if not near[name]:
        return f"; its fields are all known to {name}, and do not say what sets it apart; {PLUGIN}"
    return f"; nearest is {name}, which does not understand its {_named(near[name])}; {PLUGIN}"


def _obstacles(present: Collection[str], attempt: Attempt) -> list[str] | None:
    """The fields that a family does not understand; None: it cannot do without something that is not there."""
    obstacles: list[str] = []
    while True:
        try:
            with plugin_code("family", passing=(TinyllmError,)):
                attempt(obstacles)
            return obstacles
        except FieldError as error:
            more = [field for field in error.fields if field in present and field not in obstacles]
            if not more:
                return None
            obstacles += more
        except TinyllmError:
            return None


def _named(fields: list[str]) -> str:
    """The names, those with a meaning first."""
    ordered = sorted(fields, key=lambda field: field not in _MEANING)
    names = [f"{field} ({_MEANING[field]})" if field in _MEANING else shortened(field, 60) for field in ordered]
    rest = [f"{len(names) - _MOST} more"] if len(names) > _MOST else []
    *most, last = [*names[:_MOST], *rest]
    return f"{', '.join(most)} and {last}" if most else last
