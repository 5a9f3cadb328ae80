"""A family of a third party: one file, for folders and for GGUF files."""

from tinyllm import plugins
from tinyllm.plugins import ConfigFields, Family, GgufForm, TensorRule, hookimpl

tinyllm_spec_version = 4
LAYER = "model.layers.{layer}."


def from_config(config):
    """Lantern: a decoder with merged projections. Source: its `config.json`."""
    fields = ConfigFields(config)
    width, heads, depth = (fields.integer(name) for name in ("width", "heads", "depth"))
    rope = plugins.RopeConfig(width // heads, fields.number("rope_theta", 10000.0))
    attention = plugins.AttentionConfig(heads, fields.integer("kv_heads"), width // heads, rope)
    layer = plugins.LayerConfig(attention, plugins.MlpConfig(fields.integer("inner")))
    norm = plugins.NormConfig(fields.number("rms_norm_eps"))
    sizes = (fields.integer("words"), width, fields.integer("reach"))
    fields.finish()  # refuses the rest by name
    return plugins.DecoderConfig("lantern", *sizes, layers=(layer,) * depth, norm=norm, tie_word_embeddings=True)


def of_gguf(fields):
    """The config of a GGUF file. The shape of its embedding says how many words there are."""
    keys = {"width": "embedding_length", "depth": "block_count", "inner": "feed_forward_length"}
    keys |= {"heads": "attention.head_count", "kv_heads": "attention.head_count_kv", "reach": "context_length"}
    fields.ignore("rope.dimension_count")  # all of a head's
    return {
        "model_type": "lantern",
        "words": fields.vocab_size(),
        "rope_theta": fields.number("rope.freq_base"),
        "rms_norm_eps": fields.number("attention.layer_norm_rms_epsilon"),
        **{ours: fields.integer(theirs) for ours, theirs in keys.items()},
    }


NAMES = {"out": "self_attn.o_proj", "down": "mlp.down_proj", "first": "input_layernorm"}
NAMES |= {"second": "post_attention_layernorm"}
TENSORS = (
    TensorRule("words", ("model.embed_tokens",)),
    TensorRule("last", ("model.norm",)),
    TensorRule("blocks.{layer}.qkv", tuple(f"{LAYER}self_attn.{name}_proj" for name in "qkv")),
    TensorRule("blocks.{layer}.gate_up", (f"{LAYER}mlp.gate_proj", f"{LAYER}mlp.up_proj")),
    *(TensorRule(f"blocks.{{layer}}.{theirs}", (LAYER + ours,)) for theirs, ours in NAMES.items()),
)


@hookimpl
def tinyllm_families():
    """Read for `"model_type": "lantern"`, and for GGUF's `general.architecture` of this name."""
    return [Family("lantern", ("lantern",), from_config, TENSORS, GgufForm(("lantern",), of_gguf))]
