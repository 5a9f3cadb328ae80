"""Properties of states that go from token to token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinyllm.conformance.properties.attention import chunks
from tinyllm.conformance.properties.random_arrays import Call, Recipe, values
from tinyllm.conformance.properties.search import Draws, Property
from tinyllm.conformance.subject import Subject
from tinyllm.spec.op_spec import OpSpec

Shapes = dict[str, tuple[int, ...]]


@dataclass
class Sequences:
    """New tokens of sequences, by input: `[tokens, ...]` each. states: what each goes on from; None: it begins.
    weights, attributes: what all have."""

    tokens: list[dict[str, Any]]
    states: list[Any]
    weights: dict[str, Any]
    attributes: dict[str, Any]
    of_a_row: tuple[int, ...]

    def lengths(self) -> list[int]:
        """New tokens of each."""
        return [len(next(iter(each.values()))) for each in self.tokens]

    def only(self, number: int) -> Sequences:
        """One of them alone."""
        return Sequences(
            self.tokens[number : number + 1],
            self.states[number : number + 1],
            self.weights,
            self.attributes,
            self.of_a_row,
        )

    def inputs(self, draws: Draws, rows: Any, count: int, kind: str = "int32") -> dict[str, Any]:
        """The flat batch, each sequence's state in its row of `count`: where one begins there is NaN."""
        state = _exact(draws, draws.rng.standard_normal((count, *self.of_a_row)))
        for row, own in zip(rows, self.states, strict=True):
            state[row] = np.nan if own is None else own
        lengths = self.lengths()
        before = [0 if own is None else 3 for own in self.states]
        return {
            **{name: np.concatenate([each[name] for each in self.tokens]) for name in self.tokens[0]},
            "state": state,
            **self.weights,
            "q_start": np.cumsum([0, *lengths]).astype(kind),
            "kv_len": np.add(lengths, before).astype(kind),
            "state_rows": np.asarray(rows, kind),
        }


def _exact(draws: Draws, array: Any) -> Any:
    """A state in float32 at least, so that steps do not round it."""
    return np.asarray(array, np.float64 if draws.dtype == "float64" else np.float32)


def _short_conv(draws: Draws) -> tuple[Shapes, Shapes, Shapes, tuple[int, ...]]:
    channels, width = draws.pick(3, 1, 17), draws.pick(3, 1, 2, 4)
    weights: Shapes = {"weight": (channels, width)}
    if draws.flag():
        weights["bias"] = (channels,)
    return {"x": (channels,)}, weights, {}, (channels, width - 1)


def _gated_delta(draws: Draws) -> tuple[Shapes, Shapes, Shapes, tuple[int, ...]]:
    heads, dim, value_dim = draws.pick(2, 1, 3), draws.pick(4, 1, 8), draws.pick(3, 1, 17)
    several = heads * draws.pick(2, 1, 3)
    rows = {"q": (heads, dim), "k": (heads, dim), "v": (several, value_dim), "a": (several,), "b": (several,)}
    return rows, {}, {"a_log": (several,), "dt_bias": (several,)}, (several, dim, value_dim)


DRAWN: dict[str, Callable[[Draws], tuple[Shapes, Shapes, Shapes, tuple[int, ...]]]] = {
    "short_conv": _short_conv,
    "gated_delta": _gated_delta,
}
"""By op the shapes of a token's inputs, of weights in the dtype and in float32, and of a row of the state."""


def _drawn(draws: Draws, op: str, lengths: list[int]) -> Sequences:
    rows, weights, of_heads, of_a_row = DRAWN[op](draws)
    tokens = [{name: draws.normal(length, *shape) for name, shape in rows.items()} for length in lengths]
    states = [_exact(draws, draws.normal(*of_a_row)) if draws.flag() else None for _ in lengths]
    given = {name: draws.normal(*shape) for name, shape in weights.items()}
    given |= {name: values(draws, "float", shape) for name, shape in of_heads.items()}
    attributes = {"activation": draws.pick("none", "silu")} if op == "short_conv" else {"tiled": draws.flag()}
    return Sequences(tokens, states, given, attributes, of_a_row)


def _rows(draws: Draws, count: int) -> tuple[Any, int]:
    """A row for each of so many sequences, and how many rows there are."""
    several = count + draws.pick(1, 0, 3)
    return draws.rng.permutation(several)[:count], several


def step_by_step(subject: Subject, draws: Draws) -> str:
    """Tokens one by one, or in chunks, give what they give in one go, and leave the same state."""
    made = _drawn(draws, subject.spec.name, [draws.pick(5, 2, 1, 3, 9)])
    rows, count = _rows(draws, 1)
    full = made.inputs(draws, rows, count)
    whole = draws.run(subject, full, **made.attributes)
    state, parts = full["state"], []
    for start, end in chunks(draws, made.lengths()[0]):
        now = {name: array[start:end] for name, array in made.tokens[0].items()}
        now |= {"state": state, "q_start": np.asarray([0, end - start], np.int32)}
        now |= {"kv_len": full["kv_len"] - np.int32(made.lengths()[0] - end)}
        y, state = draws.run(subject, full | now, **made.attributes).outputs
        parts.append(y)
    return draws.differ(whole, np.concatenate(parts), state)


def neighbouring_sequence(subject: Subject, draws: Draws) -> str:
    """A sequence gives the same alone as between others, whatever those hold."""
    made = _drawn(draws, subject.spec.name, [draws.pick(2, 1, 5), draws.pick(3, 2, 1), draws.pick(1, 4)])
    alone = draws.run(subject, made.only(1).inputs(draws, [0], 1), **made.attributes)
    for _ in range(2):
        rows, count = _rows(draws, 3)
        y, state = draws.run(subject, made.inputs(draws, rows, count), **made.attributes).outputs
        start, end = np.cumsum(made.lengths())[:2]
        message = draws.differ(alone, y[start:end], state[rows[1]][None])
        if message:
            return message
        made.tokens = [{name: a * np.asarray(8, a.dtype) for name, a in made.tokens[2].items()}, *made.tokens[1:]]
        made.states = [None if made.states[0] is not None else np.ones(made.of_a_row), *made.states[1:]]
    return ""


def rows_anywhere(subject: Subject, draws: Draws) -> str:
    """Which row a sequence has does not matter, and rows that no sequence has stay as they are."""
    made = _drawn(draws, subject.spec.name, [draws.pick(2, 1, 3) for _ in range(draws.pick(2, 1, 3))])
    runs = []
    for _ in range(2):
        rows, count = _rows(draws, len(made.tokens))
        given = made.inputs(draws, rows, count)
        run = draws.run(subject, given, **made.attributes)
        others = np.setdiff1d(np.arange(count), rows)
        if not np.array_equal(run.outputs[1][others], given["state"][others]):
            return "rows that no sequence has change"
        runs.append((run, rows))
    (first, here), (second, there) = runs
    expected = first.outputs[1].copy()
    expected[here] = second.outputs[1][there]
    return draws.differ(first, second.outputs[0], expected)


def _random(op: str) -> Recipe:
    """Calls with sequences of any kind, also those without new tokens."""

    def recipe(draws: Draws, spec: OpSpec, lead: tuple[int, ...]) -> Call:
        lengths = [draws.pick(2, 1, 0, 5, 17) for _ in range(draws.pick(2, 1, 3))]
        made = _drawn(draws, op, lengths)
        made.states = [
            own if length else np.zeros(made.of_a_row) for own, length in zip(made.states, lengths, strict=True)
        ]
        rows, count = _rows(draws, len(lengths))
        return made.inputs(draws, rows, count, draws.pick("int32", "int64", "uint8")), made.attributes

    return recipe


RECIPES: dict[str, Recipe] = {op: _random(op) for op in DRAWN}

PROPERTIES = tuple(
    Property(name, op, test)
    for op in DRAWN
    for name, test in (
        ("step by step", step_by_step),
        ("batch neighbours", neighbouring_sequence),
        ("rows anywhere", rows_anywhere),
    )
)
