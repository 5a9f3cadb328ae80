"""Attributes as JSON has them."""

from __future__ import annotations

from tinyllm.spec.attribute_json import decoded, encoded
from tinyllm.spec.rope import Rope, RopeScaling


class RopeScalingOfAPlugin(RopeScaling):
    """Settings of a class of somebody else's."""


def test_settings_are_objects_by_what_they_are() -> None:
    """A class of another name is one of them, and comes back as that."""
    scaling = RopeScalingOfAPlugin("linear", 2.0)
    told = encoded(Rope(8, scaling=scaling))
    assert decoded("rope", told) == Rope(8, scaling=RopeScaling("linear", 2.0))


class Other:
    """Not those settings, for all its name."""


Other.__name__ = "Rope"


def test_an_object_that_bears_the_name_is_none() -> None:
    assert isinstance(encoded(value := Other()), Other) and encoded(value) is value
