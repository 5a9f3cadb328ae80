"""Write a GGUF file of 4 layers of a mixture of experts of the shape of Qwen3-30B-A3B, in Q4_K with random weights:
`python -m tests.benchmarks.mixture mixture.gguf`."""

from __future__ import annotations

import sys
from pathlib import Path

import gguf
import numpy as np

from tests.models.conftest import MERGES, byte_level_vocabulary, write_key
from tinyllm.catalogue.schemes import SCHEMES

ARCHITECTURE = "qwen3moe"
LAYERS, HIDDEN, HEADS, KV_HEADS, HEAD_DIM = 4, 2048, 32, 4, 128
EXPERTS, TOP_K, INNER = 128, 8, 768
TOKENS = 12288
"""As large a part of a layer as the whole model's 151,936 are of its 48."""

_MATRICES = {
    "attn_q.weight": (HEADS * HEAD_DIM, HIDDEN),
    "attn_k.weight": (KV_HEADS * HEAD_DIM, HIDDEN),
    "attn_v.weight": (KV_HEADS * HEAD_DIM, HIDDEN),
    "attn_output.weight": (HIDDEN, HEADS * HEAD_DIM),
    "ffn_gate_exps.weight": (EXPERTS, INNER, HIDDEN),
    "ffn_up_exps.weight": (EXPERTS, INNER, HIDDEN),
    "ffn_down_exps.weight": (EXPERTS, HIDDEN, INNER),
}
_KEYS = {
    "context_length": 8192,
    "embedding_length": HIDDEN,
    "block_count": LAYERS,
    "feed_forward_length": 6144,
    "attention.head_count": HEADS,
    "attention.head_count_kv": KV_HEADS,
    "attention.key_length": HEAD_DIM,
    "attention.value_length": HEAD_DIM,
    "attention.layer_norm_rms_epsilon": 1e-6,
    "rope.freq_base": 1e6,
    "expert_count": EXPERTS,
    "expert_used_count": TOP_K,
    "expert_feed_forward_length": INNER,
}


def write_mixture(path: Path) -> None:
    """Write the file, 1.4 GB."""
    rng, q4_k = np.random.default_rng(0), SCHEMES["q4_k"]
    writer = gguf.GGUFWriter(path, ARCHITECTURE)
    for key, value in _KEYS.items():
        write_key(writer, f"{ARCHITECTURE}.{key}", value)
    words = byte_level_vocabulary()
    unused = [f"<|unused_{number}|>" for number in range(TOKENS - len(words))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([*words, *unused])
    writer.add_token_types([gguf.TokenType.NORMAL] * len(words) + [gguf.TokenType.UNUSED] * len(unused))
    writer.add_token_merges(MERGES)
    writer.add_eos_token_id(len(words) - 1)

    def matrix(name: str, shape: tuple[int, ...]) -> None:
        blocks = q4_k.draw(rng, shape).arrays["blocks"]
        writer.add_tensor(name, blocks, raw_dtype=gguf.GGMLQuantizationType.Q4_K)

    def ones(name: str, size: int) -> None:
        writer.add_tensor(name, np.ones(size, np.float32))

    matrix("token_embd.weight", (TOKENS, HIDDEN))
    matrix("output.weight", (TOKENS, HIDDEN))
    ones("output_norm.weight", HIDDEN)
    for layer in range(LAYERS):
        for name, shape in _MATRICES.items():
            matrix(f"blk.{layer}.{name}", shape)
        router = rng.standard_normal((EXPERTS, HIDDEN)) * HIDDEN**-0.5
        writer.add_tensor(f"blk.{layer}.ffn_gate_inp.weight", router.astype(np.float32))
        for name, size in (("attn", HIDDEN), ("ffn", HIDDEN), ("attn_q", HEAD_DIM), ("attn_k", HEAD_DIM)):
            ones(f"blk.{layer}.{name}_norm.weight", size)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    write_mixture(Path(sys.argv[1]))
