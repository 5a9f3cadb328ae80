"""Properties of a key-value cache in pages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tinyllm.conformance.properties.attention import chunks, settings
from tinyllm.conformance.properties.search import Draws, Property
from tinyllm.conformance.subject import Subject


@dataclass
class Sequences:
    """Keys and values of sequences, and queries of the last tokens of each: `[tokens, heads, dims]`."""

    q: list[Any]
    k: list[Any]
    v: list[Any]

    def inputs(self, page: int, order: Any) -> dict[str, Any]:
        """The flat batch over pages of a size, given out in an order; slots that belong to nobody hold NaN."""
        lengths = [len(k) for k in self.k]
        counts = [-(-n // page) for n in lengths]
        order = np.argsort(order[: sum(counts) + 1], kind="stable")
        table = np.full((len(lengths), max(counts, default=0)), -1, np.int32)
        k_pages, v_pages = (
            np.full((len(order), a[0].shape[1], page, a[0].shape[2]), np.nan, a[0].dtype) for a in (self.k, self.v)
        )
        given = np.split(order, np.cumsum(counts))  # the last page is nobody's
        for row, (pages, k, v) in enumerate(zip(given[:-1], self.k, self.v, strict=True)):
            table[row, : counts[row]] = pages
            slots = np.arange(lengths[row])
            k_pages[pages[slots // page], :, slots % page] = k
            v_pages[pages[slots // page], :, slots % page] = v
        starts = np.cumsum([0, *map(len, self.q)])
        return {
            "q": np.concatenate(self.q),
            "k_pages": k_pages,
            "v_pages": v_pages,
            "q_start": starts.astype(np.int32),
            "kv_len": np.asarray(lengths, np.int32),
            "block_table": table,
        }


def _sequences(draws: Draws, count: int, whole: bool = False) -> Sequences:
    """whole: all tokens of a sequence are asked about."""
    kv_heads, dim, value_dim = draws.pick(2, 1), draws.pick(4, 8, 1), draws.pick(4, 3)
    heads = kv_heads * draws.pick(2, 1, 3)
    made = Sequences([], [], [])
    for _ in range(count):
        keys = draws.pick(3, 1, 2, 5, 9, 17)
        asked = keys if whole else min(draws.pick(1, 2, 5), keys)
        made.q.append(draws.normal(asked, heads, dim))
        made.k.append(draws.normal(keys, kv_heads, dim))
        made.v.append(draws.normal(keys, kv_heads, value_dim))
    return made


def _attributes(draws: Draws) -> dict[str, Any]:
    return settings(draws) | ({"window": draws.pick(2, 1, 4)} if draws.flag() else {})


def _order(draws: Draws) -> Any:
    return draws.rng.permutation(64)


def pages_anywhere(subject: Subject, draws: Draws) -> str:
    """Where pages lie, and how large they are, does not matter."""
    made, attributes = _sequences(draws, draws.pick(1, 2, 3)), _attributes(draws)
    here = made.inputs(draws.pick(2, 1, 4), np.arange(64))
    elsewhere = made.inputs(draws.pick(2, 4, 1, 16), _order(draws))
    return draws.apart(subject, (here, attributes), (elsewhere, attributes))


def neighbouring_sequence(subject: Subject, draws: Draws) -> str:
    """A sequence gives the same alone as between others, whatever those hold."""
    made, attributes = _sequences(draws, 3), _attributes(draws)
    page, order = draws.pick(2, 1, 4), _order(draws)
    second = Sequences(made.q[1:2], made.k[1:2], made.v[1:2])
    alone = draws.run(subject, second.inputs(page, order), **attributes)
    for _ in range(2):
        start = len(made.q[0])
        among = draws.run(subject, made.inputs(page, order), **attributes).outputs[0]
        message = draws.differ(alone, among[start : start + len(made.q[1])])
        if message:
            return message
        for arrays in (made.q, made.k, made.v):
            arrays[0], arrays[2] = (a * np.asarray(8, a.dtype) for a in (arrays[2], arrays[0]))
    return ""


def as_gqa(subject: Subject, draws: Draws) -> str:
    """A sequence over pages is causal gqa over its keys side by side."""
    made, attributes = _sequences(draws, 1), _attributes(draws)
    run = draws.run(subject, made.inputs(draws.pick(2, 1, 4), _order(draws)), **attributes)
    plain = {name: np.swapaxes(a[0], 0, 1) for name, a in (("q", made.q), ("k", made.k), ("v", made.v))}
    gqa = draws.other(subject, "gqa", plain, **attributes, causal=True)
    return draws.differ(run, np.swapaxes(gqa.outputs[0], 0, 1))


def cache_step_by_step(subject: Subject, draws: Draws) -> str:
    """Tokens appended and asked about one by one, or in chunks, give what they give in one go."""
    made, attributes = _sequences(draws, 1, whole=True), _attributes(draws)
    page = draws.pick(2, 1, 4)
    full = made.inputs(page, _order(draws))
    whole = draws.run(subject, full, **attributes)
    table, parts = full["block_table"], []
    pages = {name: np.full_like(full[name], np.nan) for name in ("k_pages", "v_pages")}
    for start, end in chunks(draws, len(made.q[0])):
        places = np.arange(start, end)
        slots = (table[0, places // page] * page + places % page).astype(np.int32)
        new = {"k": made.k[0][places], "v": made.v[0][places], "slots": slots}
        pages = dict(zip(pages, draws.other(subject, "kv_append", pages | new).outputs, strict=True))
        now = {
            "q": made.q[0][places],
            "q_start": np.asarray([0, end - start], np.int32),
            "kv_len": np.asarray([end], np.int32),
        }
        parts.append(draws.run(subject, pages | now | {"block_table": table}, **attributes).outputs[0])
    return draws.differ(whole, np.concatenate(parts))


def no_sinks(subject: Subject, draws: Draws) -> str:
    """Sinks far below all scores are none."""
    made, attributes = _sequences(draws, draws.pick(1, 2)), _attributes(draws)
    inputs = made.inputs(draws.pick(2, 1, 4), _order(draws))
    sinks = np.full(made.q[0].shape[1], draws.pick(-1e4, -np.inf), np.float32)
    return draws.apart(subject, (inputs, attributes), (inputs | {"sinks": sinks}, attributes))


def wide_window(subject: Subject, draws: Draws) -> str:
    """A window as long as the longest sequence is none."""
    made, attributes = _sequences(draws, draws.pick(1, 2)), settings(draws)
    inputs = made.inputs(draws.pick(2, 1, 4), _order(draws))
    wide = int(inputs["kv_len"].max()) + draws.pick(0, 1, 1000)
    return draws.apart(subject, (inputs, attributes), (inputs, attributes | {"window": wide}))


def appended_one_by_one(subject: Subject, draws: Draws) -> str:
    """Tokens appended one by one, in any order, leave what they leave in one go; no other slot changes."""
    count, heads, page, dim, value_dim = (draws.pick(*o) for o in ((2, 1, 4), (2, 1), (4, 1, 3), (4, 1), (3, 4)))
    tokens = min(draws.pick(2, 1, 0, 3, 5), count * page)
    slots = draws.rng.permutation(count * page)[:tokens].astype(np.int32)
    pages = {"k_pages": draws.normal(count, heads, page, dim), "v_pages": draws.normal(count, heads, page, value_dim)}
    new = {"k": draws.normal(tokens, heads, dim), "v": draws.normal(tokens, heads, value_dim)}
    whole = draws.run(subject, pages | new | {"slots": slots})
    held = pages
    for token in draws.rng.permutation(tokens):
        one = {name: a[token : token + 1] for name, a in new.items()} | {"slots": slots[token : token + 1]}
        held = dict(zip(pages, draws.run(subject, held | one).outputs, strict=True))
    for name, output in zip(pages, whole.outputs, strict=True):
        if not np.array_equal(output, held[name]):
            return f"{name} is another when the tokens come one by one"
        flat = np.swapaxes(output, 1, 2).reshape(count * page, heads, -1)
        before = np.swapaxes(pages[name], 1, 2).reshape(count * page, heads, -1)
        if not np.array_equal(flat[slots], new[name[0]]):
            return f"{name} does not hold the tokens in their slots"
        if not np.array_equal(np.delete(flat, slots, axis=0), np.delete(before, slots, axis=0)):
            return f"{name} changes in slots of no token"
    return ""


PROPERTIES = (
    Property("one by one", "kv_append", appended_one_by_one),
    Property("pages anywhere", "paged_attention", pages_anywhere),
    Property("batch neighbours", "paged_attention", neighbouring_sequence),
    Property("as gqa", "paged_attention", as_gqa),
    Property("step by step", "paged_attention", cache_step_by_step),
    Property("no sinks", "paged_attention", no_sinks),
    Property("wide window", "paged_attention", wide_window),
)
