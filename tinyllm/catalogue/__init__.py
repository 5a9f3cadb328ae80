"""The op specs, a module each."""

from __future__ import annotations

from tinyllm.catalogue.attention.gqa import gqa
from tinyllm.catalogue.attention.kv_append import kv_append
from tinyllm.catalogue.attention.mha import mha
from tinyllm.catalogue.attention.paged_attention import paged_attention
from tinyllm.catalogue.attention.sdpa import sdpa
from tinyllm.catalogue.moe.moe_experts import moe_experts
from tinyllm.catalogue.moe.moe_router import moe_router
from tinyllm.catalogue.parallel.all_reduce import all_reduce
from tinyllm.catalogue.products.embedding import embedding
from tinyllm.catalogue.products.linear import linear
from tinyllm.catalogue.quantize.dequantize import dequantize
from tinyllm.catalogue.quantize.quantize import quantize
from tinyllm.catalogue.recurrent.gated_delta import gated_delta
from tinyllm.catalogue.recurrent.short_conv import short_conv
from tinyllm.catalogue.rope.rope import rope
from tinyllm.catalogue.rope.rope_angles import rope_angles
from tinyllm.catalogue.rope.rope_rotate import rope_rotate
from tinyllm.catalogue.rows.add import add
from tinyllm.catalogue.rows.geglu import geglu
from tinyllm.catalogue.rows.gelu import gelu
from tinyllm.catalogue.rows.layer_norm import layer_norm
from tinyllm.catalogue.rows.mul import mul
from tinyllm.catalogue.rows.rms_norm import rms_norm
from tinyllm.catalogue.rows.scale import scale
from tinyllm.catalogue.rows.sigmoid import sigmoid
from tinyllm.catalogue.rows.silu import silu
from tinyllm.catalogue.rows.softcap import softcap
from tinyllm.catalogue.rows.softmax import softmax
from tinyllm.catalogue.rows.swiglu import swiglu
from tinyllm.catalogue.rows.views import merge_heads, split, split_heads
from tinyllm.spec.op_spec import OpSpec

CATALOGUE: dict[str, OpSpec] = {
    spec.name: spec
    for spec in (
        softmax,
        linear,
        embedding,
        moe_router,
        moe_experts,
        silu,
        gelu,
        swiglu,
        geglu,
        sigmoid,
        add,
        mul,
        scale,
        softcap,
        rms_norm,
        layer_norm,
        rope,
        rope_angles,
        rope_rotate,
        sdpa,
        split,
        split_heads,
        merge_heads,
        gqa,
        mha,
        kv_append,
        paged_attention,
        short_conv,
        gated_delta,
        all_reduce,
        quantize,
        dequantize,
    )
}
"""Every op of the core by name; plugins add theirs through the registry."""
