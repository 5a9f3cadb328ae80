"""What ops with recurrent states share: a flat batch of tokens, and a row of the state for each sequence."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from tinyllm.errors import invalid
from tinyllm.spec.cases import Draw, constant, poisoned
from tinyllm.spec.dtypes import numpy_dtype
from tinyllm.spec.op_spec import Input
from tinyllm.spec.sequences import sequences
from tinyllm.spec.types import Call

SEQUENCES = (
    Input("q_start", "B1", "int", about="[B + 1]: where each sequence begins, from 0 to T"),
    Input("kv_len", "B", "int", about="tokens of each sequence, the new ones included"),
    Input("state_rows", "B", "int", about="the row of the state that each sequence has; distinct"),
)
HOST = tuple(each.name for each in SEQUENCES)
NOTES = (
    "A sequence all of whose tokens are new begins with a state of zeros, whatever stands in its row.",
    "In one piece, in chunks and token by token the same is computed.",
    "A sequence may have no new tokens: it gives no output, and its row stays. The state that comes back may be the "
    "very array that went in: use only that.",
)


def check_sequences(call: Call) -> None:
    """Refuses `q_start` of another length than there are sequences."""
    starts, sequences = call.shape("q_start")[0], call.shape("kv_len")[0]
    if isinstance(starts, int) and isinstance(sequences, int) and starts != sequences + 1:
        raise invalid(call.op, "q_start", f"{sequences + 1} numbers for {sequences} sequences", starts)


def check_values(call: Call, values: Any, tokens: Any, count: Any) -> None:
    """Holds the three to one another: `tokens` new ones in all, `count` rows of the state."""
    q_start, kv_len, rows = (values[name].astype(np.int64, copy=False) for name in HOST)
    new_tokens = np.diff(q_start)
    if q_start[0] != 0 or q_start[-1] != tokens or (new_tokens < 0).any():
        raise invalid(call.op, "q_start", f"numbers rising from 0 to {tokens}", q_start.tolist())
    if (kv_len < new_tokens).any():
        expected = f"at least the {new_tokens.tolist()} new tokens of each sequence"
        raise invalid(call.op, "kv_len", expected, kv_len.tolist())
    if rows.size and not 0 <= int(rows.min()) <= int(rows.max()) < count:
        raise invalid(call.op, "state_rows", f"rows 0 to {count - 1}", f"{int(rows.min())} to {int(rows.max())}")
    if len(np.unique(rows)) != rows.size:
        raise invalid(call.op, "state_rows", "no row twice", rows.tolist())


def with_rows(xp: Any, state: Any, rows: list[int], new: list[Any]) -> Any:
    """The state with some rows replaced. References assign no items: each row is taken from the old or the new ones."""
    if not rows:
        return state
    source = np.arange(state.shape[0])
    source[rows] = state.shape[0] + np.arange(len(rows))
    return xp.take(xp.concat([state, xp.stack(new, axis=0)], axis=0), xp.asarray(source), axis=0)


def unread_rows(inputs: Any) -> Any:
    """True in the rows of the state `[P, ...]` that are written and not read: those of sequences that begin."""
    free = np.zeros(inputs["state"].shape[0], bool)
    free[[row for _, _, row, begins in sequences(*(inputs[name] for name in HOST)) if begins]] = True
    return free


def state_bytes(call: Call, names: tuple[str, ...]) -> int:
    """Bytes of arrays of these shapes, each read or written once, and of the rows of the state that sequences have,
    which are read and written; the other rows are not touched."""
    rows = 2 * call.shape("kv_len")[0] * prod(call.shape("state")[1:]) * numpy_dtype(call.dtype("state")).itemsize
    given = [name for name in names if call.inputs[name] is not None]
    return int(rows + sum(prod(call.shape(name)) * numpy_dtype(call.dtype(name)).itemsize for name in given))


def batch(lengths: list[tuple[int, int]], rows: list[int], count: int, *of_a_row: int) -> dict[str, Draw]:
    """The three and a state `[count, *of_a_row]` for sequences given as (new tokens, tokens in all). Rows that no
    sequence goes on from are NaN: those of sequences that begin."""
    begins = np.zeros(count, bool)
    begins[[row for row, (new, tokens) in zip(rows, lengths, strict=True) if new == tokens and new]] = True
    return {
        "state": poisoned(begins.reshape(-1, *[1] * len(of_a_row)), count, *of_a_row),
        "q_start": constant(np.cumsum([0, *(new for new, _ in lengths)]), "int32"),
        "kv_len": constant([tokens for _, tokens in lengths], "int32"),
        "state_rows": constant(rows, "int32"),
    }


def bench_prefix(lengths: list[tuple[int, int]], tier: str) -> str:
    """What names of benchmarks begin with: whether they read a prompt, or go on by a token."""
    return "" if tier != "bench" else "decode:" if all(new == 1 for new, _ in lengths) else "prefill:"
