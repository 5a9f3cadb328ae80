"""The block formats of GGUF files as schemes, a family of formats a module."""

from __future__ import annotations

from tinyllm.catalogue.schemes.gguf.blocks import GgufBlocks
from tinyllm.catalogue.schemes.gguf.codebooks import IQ4_NL, IQ4_XS, MXFP4
from tinyllm.catalogue.schemes.gguf.grids import IQ1_M, IQ1_S, IQ2_S, IQ2_XS, IQ2_XXS, IQ3_S, IQ3_XXS
from tinyllm.catalogue.schemes.gguf.k_quants import Q2_K, Q3_K, Q4_K, Q5_K, Q6_K
from tinyllm.catalogue.schemes.gguf.legacy import Q4_0, Q4_1, Q5_0, Q5_1, Q8_0
from tinyllm.catalogue.schemes.gguf.ternary import TQ1_0, TQ2_0

_FORMATS = (
    *(Q4_0, Q4_1, Q5_0, Q5_1, Q8_0),
    *(Q2_K, Q3_K, Q4_K, Q5_K, Q6_K),
    *(IQ4_NL, IQ4_XS, MXFP4),
    *(IQ1_S, IQ1_M, IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS, IQ3_S),
    *(TQ1_0, TQ2_0),
)

GGUF_SCHEMES: dict[str, GgufBlocks] = {scheme.name.upper(): scheme() for scheme in _FORMATS}
"""Every scheme by the name that GGUF has for its tensor type."""
