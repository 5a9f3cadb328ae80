"""The schemes of the core, a module each."""

from __future__ import annotations

from tinyllm.catalogue.schemes.affine import Affine
from tinyllm.catalogue.schemes.int8 import Int8
from tinyllm.spec.scheme import Scheme

SCHEMES: dict[str, Scheme] = {scheme.name: scheme for scheme in (Affine(), Int8())}
"""Every scheme of the core by name; plugins add theirs by the hook `tinyllm_schemes`."""
