"""What the bodies of all requests, and the objects in them, have in common."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, model_validator

MOST_FIELDS = 256
"""Fields of an object that is refused for those which it may not have."""

Neutral = dict[str, tuple[Any, ...]]


class Body(BaseModel):
    """A strict model: no value is converted to another type, no field is ignored. One whose value is null is as if left
    out.

    `neutral` has fields that are not supported, each with the values that ask for nothing: with those it is dropped.
    `idle` has fields that change no reply, whatever their value.
    """

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    neutral: ClassVar[Neutral] = {}
    idle: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="before")
    @classmethod
    def _drop_neutral(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        if len(value) > MOST_FIELDS and cls.model_config.get("extra") == "forbid":
            raise ValueError(f"expected at most {MOST_FIELDS} fields")
        return {name: item for name, item in value.items() if not cls._is_neutral(name, item)}

    @classmethod
    def _is_neutral(cls, name: str, item: Any) -> bool:
        values = cls.neutral.get(name, ())
        return item is None or name in cls.idle or any(type(item) is type(v) and item == v for v in values)
