"""A whole reply."""

from __future__ import annotations

from dataclasses import dataclass

from tinyllm.engine.sampling.logprobs import TokenLogprob
from tinyllm.engine.sequence import Piece, Sequence


@dataclass(frozen=True)
class Completion:
    """A reply. `finish_reason` is "stop" (stop token or string) or "length".

    `logprobs`, of the tokens of the reply, and `prompt_logprobs`, of those of the prompt, are None unless asked for.
    The first token of a prompt has none.
    """

    text: str
    token_ids: list[int]
    finish_reason: str
    prompt_token_ids: list[int]
    logprobs: list[TokenLogprob] | None = None
    prompt_logprobs: list[TokenLogprob | None] | None = None


def completion(sequence: Sequence, pieces: list[Piece]) -> Completion:
    """The reply that a sequence has come to, of all its pieces."""
    params = sequence.params
    return Completion(
        "".join(piece.text for piece in pieces),
        list(sequence.generated),
        str(sequence.finish_reason),
        list(sequence.prompt),
        None if params.logprobs is None else [entry for piece in pieces for entry in piece.logprobs],
        None if params.prompt_logprobs is None else [entry for piece in pieces for entry in piece.prompt_logprobs],
    )
