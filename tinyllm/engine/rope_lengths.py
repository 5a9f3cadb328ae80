"""By which length the keys of a sequence turn, where a model's rotary embeddings go by length.

Keys of the KV cache are turned already, so that those of one sequence have to be turned alike. A prompt is read by its
whole length, in however many steps. What comes after it differs by the kind of scaling, as in transformers:

- longrope has one set of frequencies for short sequences and one for long ones, and keys of the one mean nothing to
  queries of the other: a sequence that outgrows the short ones is read anew, once.
- dynamic scaling changes a little with each further token: what is there stays as it is.

Pages are shared among sequences whose keys turn alike, and no others.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as Several

from tinyllm.engine.entry import Entry
from tinyllm.spec.rope import RopeScaling


class RopeLengths:
    """What to do about the scalings by length of a model; most have none.

    Args:
        scalings: see `Program.scalings`.
    """

    def __init__(self, scalings: Several[RopeScaling] = ()) -> None:
        self._scalings = scalings
        self._two_sets = [scaling for scaling in scalings if scaling.kind == "longrope"]

    def settle(self, entry: Entry) -> None:
        """Note by which length a sequence that waits is to be read, and with whom it may share pages."""
        sequence = entry.sequence
        entry.read_as = sequence.length if self._two_sets else len(sequence.prompt)
        side = "".join(f" {scaling.side(entry.read_as)}" for scaling in self._scalings).encode()
        if side != entry.side:
            entry.side, entry.prefix_keys = side, []

    def outgrown(self, running: Iterable[Entry]) -> list[Entry]:
        """Those of the sequences that run which have to be read anew."""
        return [entry for entry in running if self._has_outgrown(entry)] if self._two_sets else []

    def _has_outgrown(self, entry: Entry) -> bool:
        return any(s.side(entry.read_as) != s.side(entry.sequence.length) for s in self._two_sets)
