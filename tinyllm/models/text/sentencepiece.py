"""Sentencepiece models by the `tokenizers` package, whatever file they come from."""

from __future__ import annotations

import re
from dataclasses import dataclass

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers

from tinyllm.models.text.token_text import SPACE

NORMAL, UNKNOWN, CONTROL, USER_DEFINED = range(1, 5)
"""What a piece is, as sentencepiece's files and GGUF count it."""
_MOST_CUTTING = 10**9


@dataclass(frozen=True)
class Sentencepiece:
    """A sentencepiece model: its pieces by id, each with a score and a type, and how a text is prepared for them.

    unknown: the id for what no piece spells. unigram: pieces are chosen by likelihood, not merged. byte_fallback: what
    no piece spells goes by bytes. add_prefix: a space is put before a text. collapse_spaces: runs of spaces are one
    space, those at the ends none. charsmap: sentencepiece's compiled normalization of characters. whole: pieces that
    are taken whole, without a space before what follows. merges: the pairs that are joined, in their order; None: by
    their scores.
    """

    pieces: list[str]
    scores: list[float]
    types: list[int]
    unknown: int | None
    unigram: bool = False
    byte_fallback: bool = True
    add_prefix: bool = True
    collapse_spaces: bool = False
    charsmap: bytes = b""
    whole: tuple[str, ...] = ()
    merges: list[tuple[str, str]] | None = None

    def backend(self) -> tokenizers.Tokenizer:
        """The tokenizer, without its special tokens. Raises what the tokenizers package does, and `ValueError` for
        pieces that are too long."""
        made = tokenizers.Tokenizer(self._unigram() if self.unigram else self._bpe())
        made.normalizer = self._normalizer()
        if self.whole:
            longest_first = sorted(self.whole, key=len, reverse=True)
            made.pre_tokenizer = pre_tokenizers.Split(Regex("|".join(map(re.escape, longest_first))), "isolated")
        steps = [decoders.Replace(SPACE, " "), *([decoders.ByteFallback()] if self.byte_fallback else [])]
        ending = [decoders.Strip(" ", 1, 0)] if self.add_prefix else []
        made.decoder = decoders.Sequence([*steps, decoders.Fuse(), *ending])
        return made

    def _normalizer(self) -> normalizers.Normalizer:
        steps: list[normalizers.Normalizer] = [normalizers.Precompiled(self.charsmap)] if self.charsmap else []
        if self.collapse_spaces:
            steps += [normalizers.Replace(Regex(r"\A +| +\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
        if self.add_prefix:
            steps.append(normalizers.Prepend(SPACE))
        return normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])

    def _unigram(self) -> models.Unigram:
        return models.Unigram(list(zip(self.pieces, self.scores, strict=True)), self.unknown, self.byte_fallback)

    def _bpe(self) -> models.BPE:
        return models.BPE(
            vocab={piece: index for index, piece in enumerate(self.pieces)},
            merges=self.merges_by_score() if self.merges is None else self.merges,
            unk_token=None if self.unknown is None else self.pieces[self.unknown],
            fuse_unk=True,
            byte_fallback=self.byte_fallback,
            ignore_merges=bool(self.whole),  # a piece that is taken whole has no merges
        )

    def merges_by_score(self) -> list[tuple[str, str]]:
        """The pairs that become one piece, in their order: sentencepiece joins that whose whole has the best score, the
        same as merges ranked by the score of what they make."""
        scores = {
            piece: score
            for piece, score, its in zip(self.pieces, self.scores, self.types, strict=True)
            if its not in (UNKNOWN, CONTROL, USER_DEFINED)
        }
        if sum(len(piece) ** 2 for piece in scores) > _MOST_CUTTING:
            raise ValueError("pieces so long that cutting each at each place takes too long")
        ranked = []
        for piece, score in scores.items():
            for cut in range(1, len(piece)):
                left, right = piece[:cut], piece[cut:]
                if left in scores and right in scores:
                    ranked.append((-score, -cut, left, right))
        ranked.sort(key=lambda item: item[:2])
        return [(left, right) for _, _, left, right in ranked]
