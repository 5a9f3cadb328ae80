"""What families share of the `config.json` that a GGUF file amounts to."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tinyllm.models.families.gguf_fields import GgufFields
from tinyllm.models.families.gguf_rope import rope_scaling


def config_of_gguf(
    fields: GgufFields,
    model_type: str,
    kv_heads: int | None = None,
    eps: str = "rms_norm_eps",
    inner_size: int | None = None,
) -> dict[str, Any]:
    """What families share of the `config.json` that a file's metadata and tensors amount to.

    kv_heads: where the family's files do not state one number for all layers. eps: the field that has that of norms;
    another than `rms_norm_eps` is that of layer norms. inner_size: of files that state none, as no layer is dense, or
    one for each layer.
    """
    heads, hidden = fields.integer("attention.head_count"), fields.integer("embedding_length")
    head_dim = fields.integer("attention.key_length", hidden // heads)
    if (value_dim := fields.integer("attention.value_length", head_dim)) != head_dim:
        raise fields.fail("attention.value_length", f"the head size {head_dim}", value_dim)
    rotated = fields.integer("rope.dimension_count", head_dim)
    if rotated > head_dim:
        raise fields.fail("rope.dimension_count", f"at most the head size {head_dim}", rotated)
    config: dict[str, Any] = {
        "model_type": model_type,
        "vocab_size": fields.vocab_size(),
        "hidden_size": hidden,
        "intermediate_size": inner_size
        if inner_size and isinstance(fields.get("feed_forward_length"), list)
        else fields.integer("feed_forward_length", inner_size),
        "num_hidden_layers": fields.integer("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads or fields.integer("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": fields.integer("context_length"),
        eps: fields.number(f"attention.layer_norm_{'rms_' if eps == 'rms_norm_eps' else ''}epsilon"),
        "rope_theta": fields.number("rope.freq_base", 10000.0),
        "rope_scaling": rope_scaling(fields, rotated),
        "tie_word_embeddings": "output.weight" not in fields.file.tensors,
    }
    if rotated != head_dim:
        # the next number above, as the product with the head size is cut off
        config["partial_rotary_factor"] = math.nextafter(rotated / head_dim, 1)
    return config | token_ids_of_gguf(fields.file.metadata)


def windows_of_gguf(fields: GgufFields, pattern: int | None = None) -> dict[str, Any]:
    """The `sliding_window` and `layer_types` of a `config.json`.

    pattern: where the file has none: every so manieth layer attends to everything; None: the file has to have one.
    """
    layers = fields.integer("block_count")
    stated = fields.get("attention.sliding_window_pattern", pattern)
    if not fields.get("attention.sliding_window"):
        return {"sliding_window": None, "layer_types": ["full_attention"] * layers}
    window = fields.integer("attention.sliding_window")
    if isinstance(stated, int) and not isinstance(stated, bool) and stated > 0:
        stated = [(layer + 1) % stated != 0 for layer in range(layers)]
    if not isinstance(stated, list) or len(stated) != layers or any(not isinstance(s, bool) for s in stated):
        expected = f"a number, or a flag for each of {layers} layers"
        raise fields.fail("attention.sliding_window_pattern", expected, "nothing" if stated is None else stated)
    return {
        "sliding_window": window,
        "layer_types": ["sliding_attention" if slides else "full_attention" for slides in stated],
    }


def token_ids_of_gguf(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The token ids of a `config.json`."""
    keys = (("bos", "bos_token_id"), ("eos", "eos_token_id"), ("padding", "pad_token_id"))
    return {field: metadata.get(f"tokenizer.ggml.{key}_token_id") for key, field in keys}
