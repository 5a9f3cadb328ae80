"""Which prefixes were sent to which replica lately: what each of them probably still has in its cache."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence, Set

from tinyllm.engine.page_pool import Key

_NOBODY: Set[int] = frozenset()


class PrefixMemory:
    """Keys by replica, the least recently sent going first, as a replica's own pages do. A key stands for all before
    it, and of one prefix the end goes before its beginning: so who has a key has those before it, too.

    Args:
        most: keys that are remembered of each replica, which bounds the memory.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._sent: dict[int, OrderedDict[Key, None]] = {}
        self._holders: dict[Key, set[int]] = {}

    def add(self, replica: int, keys: Sequence[Key]) -> None:
        """A request with these keys was sent to a replica."""
        sent, holders = self._sent.setdefault(replica, OrderedDict()), self._holders
        for key in reversed(keys[: self.most]):
            if key in sent:
                sent.move_to_end(key)
            else:
                sent[key] = None
                holders.setdefault(key, set()).add(replica)
        while len(sent) > self.most:
            self._drop(replica, sent.popitem(last=False)[0])

    def forget(self, replica: int) -> None:
        """A replica has lost what it had, as it was started anew."""
        for key in self._sent.pop(replica, ()):
            self._drop(replica, key)

    def holders(self, key: Key) -> Set[int]:
        """The replicas that have a key."""
        return self._holders.get(key, _NOBODY)

    def depth(self, keys: Sequence[Key]) -> int:
        """How many of these keys, from the first, some replica has. By halves, as who has a key has those before it."""
        low, high = 0, len(keys)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if keys[middle - 1] in self._holders else (low, middle - 1)
        return low

    def count(self, replica: int) -> int:
        """How many keys are remembered of a replica."""
        return len(self._sent.get(replica, ()))

    def _drop(self, replica: int, key: Key) -> None:
        holders = self._holders[key]
        holders.discard(replica)
        if not holders:
            del self._holders[key]
