"""The block formats of GGUF files as schemes, a family of formats a module."""

from __future__ import annotations

from tinyllm.catalogue.schemes.gguf.blocks import GgufBlocks
from tinyllm.catalogue.schemes.gguf.codebooks import CODEBOOKS
from tinyllm.catalogue.schemes.gguf.grids import GRIDS
from tinyllm.catalogue.schemes.gguf.k_quants import K_QUANTS
from tinyllm.catalogue.schemes.gguf.legacy import LEGACY
from tinyllm.catalogue.schemes.gguf.ternary import TERNARY

GGUF_SCHEMES: dict[str, GgufBlocks] = {
    scheme.name.upper(): scheme for scheme in (*LEGACY, *K_QUANTS, *CODEBOOKS, *GRIDS, *TERNARY)
}
"""Every scheme by the name that GGUF has for its tensor type."""
