"""The schemes of the core, a module each; those of GGUF files in a folder."""

from __future__ import annotations

from tinyllm.catalogue.schemes.affine import Affine
from tinyllm.catalogue.schemes.floats import Fp4, Fp8, Nf4
from tinyllm.catalogue.schemes.gguf import GGUF_SCHEMES
from tinyllm.catalogue.schemes.halves import HALVES
from tinyllm.catalogue.schemes.int8 import Int8
from tinyllm.catalogue.schemes.zero_point import ZeroPoint
from tinyllm.spec.scheme import Scheme

_GROUPED = (Affine(), Int8(), ZeroPoint(), Fp8(), Fp4(), Nf4())
SCHEMES: dict[str, Scheme] = {scheme.name: scheme for scheme in (*_GROUPED, *HALVES.values(), *GGUF_SCHEMES.values())}
"""Every scheme of the core by name; plugins add theirs by the hook `tinyllm_schemes`."""
