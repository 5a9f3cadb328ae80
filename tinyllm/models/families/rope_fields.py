"""The rope of a `config.json`: transformers 5's `rope_parameters`, or `rope_theta` and `rope_scaling` of before; one
for all layers or one for each kind of layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from tinyllm.errors import CheckpointError, shortened
from tinyllm.models.decoder.config import RopeConfig
from tinyllm.models.families.ranges import integer_expected, is_integer, is_number, number_expected
from tinyllm.spec.rope import RopeScaling

_KEYS = {
    "factor": "factor",
    "original_max_position_embeddings": "original_max_position",
    "low_freq_factor": "low_freq_factor",
    "high_freq_factor": "high_freq_factor",
    "beta_fast": "beta_fast",
    "beta_slow": "beta_slow",
    "attention_factor": "attention_factor",
    "mscale": "mscale",
    "mscale_all_dim": "mscale_all_dim",
    "truncate": "truncate",
    "partial_rotary_factor": "partial_rotary_factor",
    "short_factor": "short_factor",
    "long_factor": "long_factor",
    "short_mscale": "short_mscale",
    "long_mscale": "long_mscale",
}
_ORIGINAL = "original_max_position_embeddings"
_SHARE = "partial_rotary_factor"
_TYPES: dict[str, set[str]] = {
    "default": set(),
    "linear": {"factor"},
    "llama3": {"factor", _ORIGINAL, "low_freq_factor", "high_freq_factor"},
    "yarn": {
        *("factor", _ORIGINAL, "beta_fast", "beta_slow", "attention_factor", "mscale", "mscale_all_dim", "truncate"),
    },
    "dynamic": {"factor", _ORIGINAL},
    "longrope": {
        *("factor", _ORIGINAL, "attention_factor", "short_factor", "long_factor", "short_mscale", "long_mscale"),
    },
    "proportional": {"factor", _SHARE},
}
_NEEDS: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "yarn": ("factor",),
    "dynamic": ("factor",),
    "longrope": ("short_factor", "long_factor"),
    "proportional": (),
}
# Positions of text are the same in all of mrope's sections, which makes it plain rope. Phi-3 first wrote "su".
_OTHER_NAMES = {"mrope": "default", "su": "longrope"}


class Fields(Protocol):
    """What is asked of a `ConfigFields`."""

    def get(self, field: str, default: Any = None) -> Any:
        """The field as it stands."""

    def number(self, field: str, default: float | None = None) -> float:
        """A number in the range of the field."""

    def fail(self, field: str, expected: str, got: object) -> CheckpointError:
        """The error of a field."""


@dataclass(frozen=True)
class RopeFields:
    """A rope as a config states it. share: of a head's dims that are rotated. sections: pairs that mrope turns by time,
    height and width; none where it is no mrope."""

    theta: float
    scaling: RopeScaling
    share: float = 1.0
    sections: tuple[int, ...] = ()

    def config(self, fields: Fields, head_dim: int, traditional: bool = False) -> RopeConfig:
        """The rope of heads of this size. Raises `CheckpointError` where its numbers do not fit them."""
        dims = int(head_dim * self.share)
        if dims <= 0 or dims % 2:
            expected = f"a share that is an even number of the head's {head_dim} dims"
            raise fields.fail(_SHARE, expected, self.share)
        for name in ("short_factor", "long_factor"):
            if self.scaling.kind == "longrope" and (got := len(getattr(self.scaling, name))) != dims // 2:
                raise fields.fail(f"rope_scaling.{name}", f"{dims // 2} numbers, one for each pair", got)
        if self.sections and sum(self.sections) != dims // 2:
            expected = f"sections of {dims // 2} pairs in all"
            raise fields.fail("rope_scaling.mrope_section", expected, list(self.sections))
        return RopeConfig(dims, self.theta, self.scaling, traditional)


def rope_fields(
    fields: Fields,
    max_position: int,
    kind: str | None = None,
    *,
    theta: float = 10000.0,
    share: float = 1.0,
    unscaled: tuple[str, float] | None = None,
) -> RopeFields:
    """The rope of layers of a kind, as `layer_types` has them; None: of all layers, which have one.

    Args:
        theta, share: those of a config that states none.
        unscaled: where the config has one rope alone, it is not that of this kind of layer, which has no scaling, and
            its theta in this field, by default this number: `("rope_local_base_freq", 10000.0)` for Gemma 3's
            `sliding_attention`, `("rope_theta", ...)` for OLMo 3's.

    Raises `CheckpointError` for a setting that is missing, of the wrong kind, out of range or not understood.
    """
    nested, old = fields.get("rope_parameters"), fields.get("rope_scaling")
    if nested is not None and old is not None and nested != old:
        raise fields.fail("rope_scaling", "nothing beside rope_parameters", old)
    name = "rope_parameters" if nested is not None else "rope_scaling"
    stated = nested if nested is not None else old if old is not None else {}
    if not isinstance(stated, Mapping):
        raise fields.fail(name, "an object", stated)
    by_kind = bool(stated) and all(isinstance(value, Mapping) for value in stated.values() if value is not None)
    if by_kind:
        stated = _of_kind(fields, name, stated, kind)
    elif unscaled is not None:
        local = fields.number(*unscaled)
        return RopeFields(local, RopeScaling(), _number(fields, _SHARE, {}, share, False))
    settings = {key: value for key, value in stated.items() if value is not None}
    theta = _number(fields, "rope_theta", settings, theta, by_kind)
    share = _number(fields, _SHARE, settings, share, by_kind)
    sections = _sections(fields, settings)
    scaling = _scaling(fields, settings, max_position, share)
    return RopeFields(theta, scaling, 1.0 if scaling.kind == "proportional" else share, sections)


def _of_kind(fields: Fields, name: str, stated: Mapping[str, Any], kind: str | None) -> Mapping[str, Any]:
    """The settings of one kind of layer."""
    if kind is None:
        different = [settings for settings in stated.values() if settings != next(iter(stated.values()))]
        if different:
            raise fields.fail(name, "one rope for all layers", dict(stated))
        kind = next(iter(stated))
    settings = stated.get(kind)
    if not isinstance(settings, Mapping):
        raise fields.fail(f"{name}.{shortened(kind)}", "an object", settings)
    return settings


def _number(fields: Fields, name: str, settings: dict[str, Any], default: float, by_kind: bool) -> float:
    """A number of the rope, taken out of the settings, or else the config's own of that name. Of kinds of layers each
    has its own; where there is one rope, the two must agree."""
    inner = settings.pop(name, None)
    if inner is not None and not is_number(name, inner):
        raise fields.fail(name, number_expected(name), inner)
    outer = fields.number(name, default if inner is None else inner)
    if inner is not None and inner != outer and not by_kind:
        raise fields.fail(name, f"{inner} as in rope_parameters", outer)
    return float(outer if inner is None else inner)


def _sections(fields: Fields, settings: dict[str, Any]) -> tuple[int, ...]:
    """mrope's, taken out of the settings."""
    interleaved, sections = settings.pop("mrope_interleaved", False), settings.pop("mrope_section", [])
    if not isinstance(interleaved, bool):
        raise fields.fail("rope_scaling.mrope_interleaved", "true or false", interleaved)
    if not isinstance(sections, list) or not all(is_integer("mrope_section", section) for section in sections):
        raise fields.fail("rope_scaling.mrope_section", "a list of positive integers", sections)
    return tuple(sections)


def _scaling(fields: Fields, settings: dict[str, Any], max_position: int, share: float) -> RopeScaling:
    kind, old_kind = settings.pop("rope_type", None), settings.pop("type", None)
    kind = kind or old_kind or "default"
    kind = _OTHER_NAMES.get(kind, kind) if isinstance(kind, str) else kind
    if not isinstance(kind, str) or kind not in _TYPES:
        raise fields.fail("rope_type", f"one of {', '.join(_TYPES)}", kind)
    if kind == "proportional":
        settings[_SHARE] = share
    outside = fields.get(_ORIGINAL)
    if _ORIGINAL in _TYPES[kind]:
        original = outside if outside is not None else settings.get(_ORIGINAL, max_position)
        if not is_integer("original_max_position_embeddings", original):
            raise fields.fail(f"rope_scaling.{_ORIGINAL}", integer_expected(_ORIGINAL), original)
        if kind == "dynamic" and original != max_position:
            raise fields.fail(f"rope_scaling.{_ORIGINAL}", f"max_position_embeddings {max_position}", original)
        if kind in ("yarn", "longrope"):
            settings.setdefault("factor", max_position / original)
        settings[_ORIGINAL] = original
    for key, value in settings.items():
        if key not in _TYPES[kind]:
            raise fields.fail(f"rope_scaling.{key}", f"no such key for type {kind}", value)
        _check(fields, key, value)
    for key in _NEEDS[kind]:
        if key not in settings:
            raise fields.fail(f"rope_scaling.{key}", f"a number for type {kind}", None)
    if kind == "longrope":
        _check_longrope(fields, settings)
    return RopeScaling(kind, **{_KEYS[key]: _as_scaling_has_it(key, value) for key, value in settings.items()})


def _as_scaling_has_it(key: str, value: Any) -> Any:
    """Lists as tuples, and 4 for a real number as 4.0."""
    if isinstance(value, list):
        return tuple(value)
    return value if key in (_ORIGINAL, "truncate") else float(value)


def _check(fields: Fields, key: str, value: object) -> None:
    """Raises for a value that is none of its key."""
    if key == "truncate":
        if not isinstance(value, bool):
            raise fields.fail(f"rope_scaling.{key}", "true or false", value)
    elif key in ("short_factor", "long_factor"):
        if not isinstance(value, list) or not value or not all(is_number("factor", number) for number in value):
            raise fields.fail(f"rope_scaling.{key}", f"a list, each {number_expected('factor')}", value)
    elif not is_number(key, value):
        raise fields.fail(f"rope_scaling.{key}", number_expected(key), value)


def _check_longrope(fields: Fields, settings: dict[str, Any]) -> None:
    short, long = (len(settings[name]) for name in ("short_factor", "long_factor"))
    if short != long:
        raise fields.fail("rope_scaling.long_factor", f"{short} numbers as in short_factor", long)
    if settings[_ORIGINAL] < 2:
        raise fields.fail(f"rope_scaling.{_ORIGINAL}", "an integer above 1", settings[_ORIGINAL])
    given = [name for name in ("short_mscale", "long_mscale", "attention_factor") if name in settings]
    if given not in ([], ["attention_factor"], ["short_mscale", "long_mscale"]):
        expected = "both short_mscale and long_mscale, or attention_factor alone"
        raise fields.fail(f"rope_scaling.{given[0]}", expected, " and ".join(given))
