"""What rendering a chat template may cost: steps and characters, counted before they are spent."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set, ValuesView
from typing import Any

import jinja2
from jinja2.utils import Namespace

BASE, TRIAL_BASE = 32_000_000, 1_000_000
"""Units that any conversation may cost, and a short one with which a template is tried out."""
PER_INPUT = 16
"""Units besides, for each unit of a conversation's own size."""
STEP, CALL, ITEM = 10, 128, 32
"""Units of a node of a template's tree, of a call, and of an item that is held. A character is one."""
DEEPEST = 100
"""How deep lists and objects may be nested: past some thousands, hashing one runs over the stack."""
_PLAIN = (int, bool, float, type(None))


class BudgetError(jinja2.TemplateError):
    """A template that asks for more than it may."""


class Budget:
    """The units that are left to one rendering, and the price of what is done with values.

    Args:
        inputs: the variables of the template. The larger they are, the more it may do.
        base: the units that it may spend for the smallest.
    """

    def __init__(self, inputs: Iterable[Any] = (), base: int = BASE) -> None:
        self.left = self.limit = 1 << 40
        for value in inputs:
            self._walk(value, 0)
        self.left = self.limit = base + PER_INPUT * (self.limit - self.left)

    def spend(self, units: int) -> bool:
        """Raises `BudgetError` where fewer units are left; otherwise true."""
        self.left -= units
        if self.left < 0:
            raise BudgetError(f"expected at most {self.limit} steps and characters for these messages, got more")
        return True

    def read(self, value: Any) -> None:
        """Pay for going through a value, as comparing and hashing it do: as deep as it goes, text by the machine
        word."""
        if isinstance(value, str):
            self.spend((len(value) >> 3) + 1)
        else:
            self._walk(value, 0)

    def write(self, value: Any) -> None:
        """Pay for a value's text."""
        if isinstance(value, str):
            self.spend(len(value) + 1)
        else:
            self._walk(value, 0)

    def hold(self, value: Any) -> Any:
        """A value that was made, paid for. What comes one by one is paid for as it comes."""
        if isinstance(value, str):
            self.spend(len(value) + 1)
        elif isinstance(value, (list, tuple, dict)):
            self.spend(ITEM * len(value))
        elif isinstance(value, Iterator):
            return self.each(value)
        return value

    def each(self, values: Iterable[Any], price: int = CALL) -> Iterator[Any]:
        """The values, each paid for."""
        for value in values:
            self.spend(price)
            yield value

    def _walk(self, value: Any, depth: int) -> None:
        if isinstance(value, str):
            self.spend(2 * len(value) + ITEM)  # twice, as its escapes may make it longer
            return
        self.spend(ITEM)
        items = _items(value)
        if depth >= DEEPEST and items:
            raise BudgetError(f"expected lists and objects nested at most {DEEPEST} deep, got deeper ones")
        for item in items:
            self._walk(item, depth + 1)


def _items(value: Any) -> Iterable[Any]:
    """What a value holds, empty for what holds nothing."""
    kind = type(value)
    if kind is dict:
        return (*value, *value.values())
    if kind in _PLAIN:
        return ()
    if isinstance(value, Mapping):
        return (*value, *value.values())
    if isinstance(value, Namespace):
        return tuple(object.__getattribute__(value, "_Namespace__attrs").values())
    return value if isinstance(value, (Sequence, Set, ValuesView)) else ()
