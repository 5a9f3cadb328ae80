"""Tokenizers of every kind that is read, tiny, from each kind of file."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from tests.models.conftest import MERGES, byte_level_vocabulary, write_gguf
from tinyllm.models.checkpoints.gguf import GgufFile
from tinyllm.models.text.gguf_vocabulary import tokenizer_from_gguf
from tinyllm.models.text.tokenizer import Tokenizer
from tinyllm.models.text.tokenizer_folder import tokenizer_from_folder

PIECES = [
    "<unk>",
    "<s>",
    "</s>",
    *(f"<0x{byte:02X}>" for byte in range(256)),
    *"▁abcdeh",
    "▁a",
    "ab",
    "he",
    "▁ab",
    "cd",
    "▁▁",
    "ea",
    "hea",
]
SCORES = [0.0] * 259 + [-20.0] * 7 + [-2.0, -1.0, -3.0, -5.0, -4.0, -8.0, -6.0, -7.0]
SPM_KEYS: dict[str, Any] = {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": PIECES,
    "tokenizer.ggml.scores": SCORES,
    "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * 15,
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.unknown_token_id": 0,
}
BYTES = [piece for piece in PIECES if len(piece) == 6]
WORDS = [piece for piece in PIECES if len(piece) < 5 and piece not in ("<s>", "</s>")]
Kind = Callable[[Path], Tokenizer]


def from_json(made: tokenizers.Tokenizer, folder: Path) -> Tokenizer:
    """A tokenizer of the tokenizers package, through its file."""
    made.add_special_tokens(["<s>", "</s>"])
    made.save(str(folder / "tokenizer.json"))
    return tokenizer_from_folder(folder, {}, {})


def byte_level(folder: Path) -> Tokenizer:
    vocabulary = {token: index for index, token in enumerate(byte_level_vocabulary())}
    made = tokenizers.Tokenizer(models.BPE(vocabulary, [tuple(merge.split(" ")) for merge in MERGES]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return from_json(made, folder)


def prepended(prefix: bool) -> Kind:
    """As Llama 2 has it, with bytes for what has no token."""

    def make(folder: Path) -> Tokenizer:
        vocabulary = {token: index for index, token in enumerate(["<unk>", *BYTES, *WORDS])}
        made = tokenizers.Tokenizer(
            models.BPE(vocabulary, [("▁", "a"), ("a", "b")], unk_token="<unk>", fuse_unk=True, byte_fallback=True)
        )
        spaces = normalizers.Replace(" ", "▁")
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces]) if prefix else spaces
        steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        made.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prefix else steps)
        return from_json(made, folder)

    return make


def metaspace(scheme: str) -> Kind:
    """A unigram model that knows all characters of the tests, so that nothing falls back."""

    def make(folder: Path) -> Tokenizer:
        scores = [("<unk>", 0.0), *((piece, -1.0 - len(piece)) for piece in [*WORDS, "z", "é", "🙂"])]
        made = tokenizers.Tokenizer(models.Unigram(scores, unk_id=0))
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
        made.decoder = decoders.Metaspace(prepend_scheme=scheme)
        return from_json(made, folder)

    return make


CORPUS = ["he had a cab, dad", "abc hé  zeze", "bead head", "deed é 🙂"] * 5
PLAIN = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}


def trained(corpus: list[str], **options: Any) -> bytes:
    """A sentencepiece model in its own form, trained by the sentencepiece package."""
    import sentencepiece

    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus),
        model_writer=out,
        vocab_size=350 if options.get("byte_fallback") else 60,
        hard_vocab_limit=False,
        minloglevel=2,
        **options,
    )
    return out.getvalue()


def sentencepiece_file(model_type: str) -> Kind:
    def make(folder: Path) -> Tokenizer:
        model = trained(CORPUS, model_type=model_type, byte_fallback=True, **PLAIN)
        (folder / "tokenizer.model").write_bytes(model)
        return tokenizer_from_folder(folder, {}, {})

    return make


def gguf(keys: dict[str, Any]) -> Kind:
    def make(folder: Path) -> Tokenizer:
        tokens = keys.get("tokenizer.ggml.tokens")
        tensors = {} if tokens is None else {"token_embd.weight": np.zeros((len(tokens), 64), np.float32)}
        return tokenizer_from_gguf(GgufFile(write_gguf(folder / "m.gguf", keys=keys, tensors=tensors)))

    return make


GEMMA4_KEYS: dict[str, Any] = {
    "tokenizer.ggml.model": "gemma4",
    "tokenizer.ggml.tokens": ["<unk>", "<bos>", *BYTES, *"▁ab\n", "▁a", "ab", "▁▁", "\n\n"],
    "tokenizer.ggml.merges": ["▁ a", "a b", "▁ ▁", "\n \n"],
    "tokenizer.ggml.token_type": [2, 3] + [6] * 256 + [1] * 8,
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.unknown_token_id": 0,
}
KINDS: dict[str, Kind] = {
    "byte-level": byte_level,
    "prepended, bytes": prepended(True),
    "bytes": prepended(False),
    "metaspace always": metaspace("always"),
    "metaspace first": metaspace("first"),
    "metaspace never": metaspace("never"),
    "tokenizer.model": sentencepiece_file("bpe"),
    "tokenizer.model unigram": sentencepiece_file("unigram"),
    "gguf byte-level": gguf({}),
    "gguf sentencepiece": gguf(SPM_KEYS),
    "gguf without prefix": gguf({**SPM_KEYS, "tokenizer.ggml.add_space_prefix": False}),
    "gguf gemma4": gguf(GEMMA4_KEYS),
}
