"""The op specs, a module each."""

from __future__ import annotations

from tinyllm.catalogue.linear import linear
from tinyllm.catalogue.sdpa import sdpa
from tinyllm.catalogue.softmax import softmax
from tinyllm.spec import OpSpec

CATALOGUE: dict[str, OpSpec] = {spec.name: spec for spec in (softmax, linear, sdpa)}
"""Every op of the core by name; plugins add theirs through the registry."""
