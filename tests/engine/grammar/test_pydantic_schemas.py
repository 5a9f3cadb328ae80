"""Replies under the schema that pydantic gives for a type are values of the type."""

from __future__ import annotations

import datetime
import enum
import uuid
from decimal import Decimal
from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated, Any, Literal, Optional, Union

import pydantic
import pytest

from tests.engine.grammar.replies import parsed, reply, request, validates
from tinyllm.engine.grammar.grammar import Grammar
from tinyllm.engine.grammar.grammars import Grammars

pytest.importorskip("llguidance")


class Colour(enum.Enum):
    red = "red"
    blue = "blue"


class Cat(pydantic.BaseModel):
    kind: Literal["cat"] = "cat"
    lives: Annotated[int, pydantic.Field(ge=1, le=9)]


class Dog(pydantic.BaseModel):
    kind: Literal["dog"]
    friend: Optional[Pet] = None  # noqa: UP045


Pet = Annotated[Union[Cat, Dog], pydantic.Field(discriminator="kind")]  # noqa: UP007
TYPES: dict[str, Any] = {
    "uuid": uuid.UUID,
    "uuid4": pydantic.UUID4,
    "date-time": datetime.datetime,
    "date": datetime.date,
    "time": datetime.time,
    "duration": datetime.timedelta,
    "decimal": Decimal,
    "address": IPv4Address,
    "url": Annotated[pydantic.HttpUrl, pydantic.Field(max_length=40)],
    "path": Path,
    "password": pydantic.SecretStr,
    "bytes": bytes,
    "base64": pydantic.Base64Bytes,
    "literals": set[Literal["a", "b", "c"]],
    "enums": frozenset[Colour],
    "few": Annotated[set[Literal["a", "b", "c"]], pydantic.Field(min_length=1, max_length=2)],
    "by literal": dict[Literal["a", "b"], int],
    "by enum": dict[Colour, int],
    "by pattern": dict[Annotated[str, pydantic.Field(pattern="^x_[a-z]$")], int],
    "by date": dict[datetime.date, int],
    "by id": dict[uuid.UUID, int],
    "by length": dict[Annotated[str, pydantic.Field(min_length=2, max_length=4)], int],
    "tuple": tuple[int, Annotated[str, pydantic.Field(max_length=3)]],
    "optional": int | None,
    "union by a tag": Pet,
    "list of models": Annotated[list[Dog], pydantic.Field(max_length=2)],
}
LOOSE = {"by date", "date-time", "date", "time", "url", "duration", "path", "decimal", "by pattern"}
"""Types that take less than the schema which pydantic gives for them."""
Dog.model_rebuild()


@pytest.mark.parametrize("name", TYPES)
def test_replies_under_pydantic_s_schema_are_values_of_its_type(grammars: Grammars, name: str) -> None:
    adapter = pydantic.TypeAdapter(TYPES[name])
    schema = adapter.json_schema()
    ended = 0
    for seed in range(25):
        tested = request(grammars, Grammar.json_schema(schema), seed=seed, max_tokens=400)
        text = reply(tested, seed)
        if tested.finish_reason == "stop":
            assert validates(parsed(text), schema), text
            ended += 1
            if name not in LOOSE:
                adapter.validate_json(text)
    assert ended >= 5
