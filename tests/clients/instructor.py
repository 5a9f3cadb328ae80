"""`instructor`: a response_model in the modes that hold a reply to it, a list, partial objects, retries."""

from __future__ import annotations

from typing import Literal

import instructor
from instructor.core import InstructorRetryException
from openai import OpenAI
from pydantic import BaseModel, Field

from tests.clients.checks import main

CAPITAL = [{"role": "user", "content": "What is the capital of France?"}]


class Place(BaseModel):
    """A place."""

    capital: Literal["Paris", "Rome"]
    large: bool = Field(description="whether it is large")


def response_model(base_url: str, model: str) -> None:
    client = instructor.from_openai(OpenAI(base_url=base_url, api_key="any"))
    place = client.chat.completions.create(
        model=model, messages=CAPITAL, response_model=Place, temperature=0, max_tokens=80, max_retries=0
    )
    assert isinstance(place, Place), place


def from_provider(base_url: str, model: str) -> None:
    client = instructor.from_provider(f"openai/{model}", base_url=base_url, api_key="any")
    place, reply = client.create_with_completion(
        messages=CAPITAL, response_model=Place, temperature=0, max_tokens=80, max_retries=0
    )
    assert isinstance(place, Place) and reply.usage.completion_tokens > 0, reply


def modes(base_url: str, model: str) -> None:
    for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA):
        client = instructor.from_openai(OpenAI(base_url=base_url, api_key="any"), mode=mode)
        place = client.chat.completions.create(
            model=model, messages=CAPITAL, response_model=Place, temperature=0, max_tokens=80, max_retries=0
        )
        assert isinstance(place, Place), place


def strict_tools(base_url: str, model: str) -> None:
    client = instructor.from_openai(OpenAI(base_url=base_url, api_key="any"), mode=instructor.Mode.TOOLS_STRICT)
    place = client.chat.completions.create(
        model=model, messages=CAPITAL, response_model=Place, temperature=0, max_tokens=80, max_retries=0
    )
    assert isinstance(place, Place), place


def partial(base_url: str, model: str) -> None:
    """Each state of the object as the stream goes on, the last one whole."""
    client = instructor.from_openai(OpenAI(base_url=base_url, api_key="any"))
    states = list(
        client.chat.completions.create_partial(
            model=model, messages=CAPITAL, response_model=Place, temperature=0, max_tokens=80
        )
    )
    assert len(states) > 1 and Place.model_validate(states[-1].model_dump()), states


def nested(base_url: str, model: str) -> None:
    class Places(BaseModel):
        places: list[Place] = Field(min_length=1, max_length=2)

    client = instructor.from_openai(OpenAI(base_url=base_url, api_key="any"))
    found = client.chat.completions.create(
        model=model, messages=CAPITAL, response_model=Places, temperature=0, max_tokens=200, max_retries=0
    )
    assert found.places and all(isinstance(place, Place) for place in found.places), found


def iterable(base_url: str, model: str) -> None:
    """Objects one by one, as they come."""
    client = instructor.from_openai(OpenAI(base_url=base_url, api_key="any"))
    places = list(
        client.chat.completions.create_iterable(
            model=model, messages=CAPITAL, response_model=Place, temperature=0, max_tokens=200
        )
    )
    assert places and all(isinstance(place, Place) for place in places), places


def retries(base_url: str, model: str) -> None:
    """What is wrong is put back to the model, with the call that it made; this object is never right."""

    class Impossible(BaseModel):
        """A place."""

        capital: Literal["Paris", "Rome"]

        def model_post_init(self, context: object) -> None:
            raise ValueError("is another one")

    client = instructor.from_openai(OpenAI(base_url=base_url, api_key="any"))
    try:
        client.chat.completions.create(
            model=model, messages=CAPITAL, response_model=Impossible, temperature=0, max_tokens=80, max_retries=2
        )
    except InstructorRetryException as error:
        assert error.n_attempts > 1 and "is another one" in str(error), error
        assert "Error code" not in str(error), error
    else:
        raise AssertionError("expected no object")


CHECKS = [response_model, from_provider, modes, strict_tools, partial, nested, iterable, retries]

if __name__ == "__main__":
    main(CHECKS)
