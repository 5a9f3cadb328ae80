"""The op specs, a module each."""

from __future__ import annotations

from tinyllm.catalogue.add import add
from tinyllm.catalogue.dequantize import dequantize
from tinyllm.catalogue.embedding import embedding
from tinyllm.catalogue.gelu import gelu
from tinyllm.catalogue.gqa import gqa
from tinyllm.catalogue.kv_append import kv_append
from tinyllm.catalogue.linear import linear
from tinyllm.catalogue.mha import mha
from tinyllm.catalogue.paged_attention import paged_attention
from tinyllm.catalogue.quantize import quantize
from tinyllm.catalogue.quantized_embedding import quantized_embedding
from tinyllm.catalogue.quantized_linear import quantized_linear
from tinyllm.catalogue.rms_norm import rms_norm
from tinyllm.catalogue.rope import rope
from tinyllm.catalogue.rope_angles import rope_angles
from tinyllm.catalogue.rope_rotate import rope_rotate
from tinyllm.catalogue.sdpa import sdpa
from tinyllm.catalogue.silu import silu
from tinyllm.catalogue.softmax import softmax
from tinyllm.catalogue.swiglu import swiglu
from tinyllm.catalogue.views import merge_heads, split, split_heads
from tinyllm.spec import OpSpec

CATALOGUE: dict[str, OpSpec] = {spec.name: spec for spec in (
    softmax, linear, embedding, silu, gelu, swiglu, add, rms_norm, rope, rope_angles, rope_rotate, sdpa, split, split_heads, merge_heads,
    gqa, mha, kv_append, paged_attention, quantize, dequantize, quantized_linear, quantized_embedding,
)}  # fmt: skip
"""Every op of the core by name; plugins add theirs through the registry."""
