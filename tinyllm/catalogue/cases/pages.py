"""Further cases of `paged_attention` and `kv_append`."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np

from tinyllm.catalogue.attention.kv_append import append_inputs, in_pages_of
from tinyllm.catalogue.attention.paged_attention_cases import batch, ints
from tinyllm.catalogue.cases import many_keys
from tinyllm.catalogue.cases.attention import FLAGS, MAGNITUDES, flag_words, settings_of
from tinyllm.catalogue.cases.model_sizes import MODELS
from tinyllm.catalogue.cases.pairwise import pairwise
from tinyllm.catalogue.cases.rows import near_top
from tinyllm.spec.cases import Case, Draw, constant, normal

_MODELS = ("SmolLM2-135M", "Qwen2.5-0.5B", "Qwen2.5-7B", "Qwen3-0.6B", "Llama-3.2-1B", "Llama-3-8B", "Gemma-2B")
_LENGTHS: dict[str, list[tuple[int, int]]] = {
    "prefill+decode": [(5, 5), (1, 7)],
    "decode of three": [(1, 6), (1, 1), (1, 9)],
    "chunk": [(3, 8)],
    "chunk,none,prefill": [(2, 7), (0, 4), (4, 4)],
}
_TOP = {"v_pages": near_top(6, 1, 32, 8)}
_HEADS = {"Hq4,Hkv2": (4, 2), "Hq3,Hkv3": (3, 3), "Hq5,Hkv1": (5, 1)}
_SETTINGS = {name: values for name, values in FLAGS.items() if name != "causal"}
_OPTIONS: dict[str, list[Any]] = {
    "lengths": list(_LENGTHS),
    "heads": list(_HEADS),
    "page": [4, 1, 3, 16],
    "value_dim": [8, 3],
    "spare": [0, 2],
    "dtype": ["int32", "int64", "uint8", "int8"],
    "sinks": [False, True],
    **_SETTINGS,
}


def _typed(inputs: dict[str, Draw], dtype: str) -> dict[str, Draw]:
    """The inputs with indices of an integer dtype; entries of the table that are never read are its largest number."""
    table = inputs["block_table"].make(None)
    table = np.where(table < 0, np.iinfo(dtype).max, table.astype(dtype))
    lengths = {name: constant(inputs[name].make(None), dtype) for name in ("q_start", "kv_len")}
    return inputs | lengths | {"block_table": constant(table, dtype)}


def _crossed() -> Iterator[Case]:
    for row in pairwise(_OPTIONS):
        heads, kv_heads = _HEADS[row["heads"]]
        sizes = {"page": row["page"], "value_dim": row["value_dim"], "spare": row["spare"]}
        inputs = _typed(batch(_LENGTHS[row["lengths"]], heads=heads, kv_heads=kv_heads, dim=8, **sizes), row["dtype"])
        if row["sinks"]:
            inputs["sinks"] = normal(heads)
        words = f"{row['lengths']},{row['heads']},page{row['page']},Dv{row['value_dim']},{row['dtype']}"
        flags = flag_words({n: row[n] for n in ("sinks", *_SETTINGS)}) + (",spare" if row["spare"] else "")
        yield Case(words + flags, inputs, settings_of(row), "full", 4)


def _mixed_dtypes() -> Iterator[Case]:
    """Pages of another dtype than q: one row of queries and many, heads of even and of odd sizes, small pages and large
    ones."""
    lengths = {"decode": [(1, 70), (1, 3)], "prefill": [(40, 40), (3, 90)]}
    for dtype in ("float16", "bfloat16", "float32"):
        for (step, of_step), page, (dim, value_dim) in product(lengths.items(), (4, 32), ((64, 64), (7, 5), (6, 16))):
            inputs = batch(of_step, heads=6, kv_heads=2, page=page, dim=dim, value_dim=value_dim)
            settings = {"window": 37} if page == 32 else {}
            words = f"{step},page{page},D{dim},Dv{value_dim}"
            yield Case(f"{words},{dtype} pages", in_pages_of(dtype, inputs), settings, "full", 24)


def _borders(page: int, dim: int) -> Case:
    """Sequences of one page's tokens, one less and one more, and likewise of two pages."""
    lengths = [(1, page - 1), (1, page), (1, page + 1), (2, 2 * page), (3, 2 * page + 1), (page + 1, page + 1)]
    inputs = batch(lengths, heads=2, kv_heads=1, page=page, dim=dim)
    return Case(f"page{page},D{dim},around borders", inputs, {"window": page} if page % 2 else {}, "full", 6)


def _shared(new: int, common: int, lengths: tuple[int, ...], page: int) -> dict[str, Draw]:
    """Sequences with `new` tokens each and `lengths` keys, whose first `common` pages are the same: a shared prefix."""
    counts = [-(-length // page) - common for length in lengths]
    starts = np.cumsum([common, *counts])
    table = np.full((len(lengths), common + max(counts)), -1)
    for b, (row, count) in enumerate(zip(table, counts, strict=True)):
        row[:common] = np.arange(common)
        row[common : common + count] = starts[b] + np.arange(count)
    pool = normal(int(starts[-1]), 2, page, 8)
    indices = ints(q_start=np.arange(len(lengths) + 1) * new, kv_len=lengths, block_table=table)
    return {"q": normal(new * len(lengths), 4, 8), "k_pages": pool, "v_pages": pool} | indices


def _scaled(inputs: dict[str, Draw], scale: float, *names: str) -> dict[str, Draw]:
    """The inputs, those of these names multiplied by `scale`."""

    def times(draw: Draw) -> Draw:
        return Draw(draw.shape, lambda rng: draw.make(rng) * scale)

    return inputs | {name: times(inputs[name]) for name in names}


def _far_pages() -> dict[str, Draw]:
    """Two sequences on pages of one token, among them such as 16 bits do not name."""
    pool, table = normal(65540, 1, 1, 2), [[65535, 65536, 7], [65539, 0, 65537]]
    indices = ints(q_start=[0, 1, 3], kv_len=[3, 3], block_table=table)
    return {"q": normal(3, 2, 2), "k_pages": pool, "v_pages": pool} | indices


def paged_attention() -> tuple[Case, ...]:
    """Settings crossed, borders of pages, shared pages, magnitudes, long sequences, heads of real models."""
    twelve = batch([(1, 19), (3, 40)], heads=24, kv_heads=2, page=16, dim=16)
    _pages, _dims = (15, 16, 17, 31, 33, 64, 65, 128), (64, 80, 256, 88, 120, 7, 24, 4)
    cases = [
        Case("B2,Hq24,Hkv2,page16", twelve, {}, "full"),
        *(
            _borders(page, dim)
            for page, dim in ((15, 64), (16, 80), (17, 256), (31, 88), (33, 120), (64, 7), (65, 24), (128, 4))
        ),
    ]
    small = batch([(2, 5), (1, 3)], heads=4, kv_heads=2, page=4, dim=8)
    cases += [
        Case(f"B2,page4,{word}", _scaled(small, size, "q", "k_pages", "v_pages"), {}, "full")
        for word, size in MAGNITUDES.items()
    ]
    large, small_heads = {"heads": 2, "kv_heads": 1, "dim": 8}, {"heads": 1, "kv_heads": 1, "dim": 4}
    cases += [
        Case("B2,page4,values large", _scaled(small, 1e4, "v_pages"), {}, "full"),
        Case("T3,S140,values near 60000", batch([(3, 140)], page=32, **large) | _TOP, {}, "full"),
        Case("B3,prefix shared", _shared(1, 2, (9, 11, 14), 4), {}, "full", 22),
        Case("B2,prefix shared,window5", _shared(2, 3, (15, 13), 4), {"window": 5}, "full", 7),
        Case("B2,all pages shared", _shared(1, 2, (8, 7), 4), {}, "full", 22),
        Case("B3,nothing new", batch([(0, 5), (0, 0), (0, 9)], heads=4, kv_heads=2, page=4, dim=8), {}, "full", 20),
        Case("B1,T1,window1,a border", batch([(1, 9)], heads=4, kv_heads=2, page=4, dim=8), {"window": 1}, "full", 7),
        Case(
            "B1,T1,window4,one large page",
            batch([(1, 9)], heads=4, kv_heads=2, page=64, dim=8),
            {"window": 4},
            "full",
            7,
        ),
        Case(
            "B1,T1,one large page,sinks",
            batch([(1, 9)], heads=4, kv_heads=2, page=64, dim=8) | {"sinks": normal(4)},
            {},
            "full",
            11,
        ),
        Case(
            "B1,T2,sinks apart",
            batch([(2, 5)], heads=4, kv_heads=2, page=4, dim=8) | {"sinks": constant([-np.inf, -60.0, 0.0, 60.0])},
            {},
            "full",
            11,
        ),
        Case("T270,S270,page64", batch([(270, 270)], page=64, **small_heads), {}, "full", 6),
        Case(
            "T260,S330,page16,window40", batch([(260, 330), (1, 30)], page=16, **small_heads), {"window": 40}, "full", 7
        ),
        Case("T1,S64,page64,D64", batch([(1, 64)], page=64, heads=2, kv_heads=1, dim=64), {}, "full"),
        Case("T64,S128,page64,D64", batch([(64, 128)], page=64, heads=1, kv_heads=1, dim=64), {}, "full"),
        Case("T1,S2049,page64,Hq12", batch([(1, 2049)], page=64, heads=12, kv_heads=1, dim=8), {}, "full"),
        Case("pages past 65535", _far_pages(), {}, "full", 22),
        Case("B33,decode", batch([(1, n) for n in range(1, 34)], heads=2, kv_heads=1, page=16, dim=4), {}, "full", 6),
        Case("T1,S1023,page1024", batch([(1, 1023)], page=1024, **large), {}, "full"),
        Case("T1,S1025,page128", batch([(1, 1025)], page=128, **large), {}, "full"),
        Case("Hq0,Hkv2", batch([(2, 5), (1, 3)], heads=0, kv_heads=2, page=4, dim=8), {}, "full", 20),
        Case(
            "D0,scale1",
            batch([(2, 5), (1, 3)], heads=4, kv_heads=2, page=4, dim=0, value_dim=3),
            {"scale": 1.0},
            "full",
            9,
        ),
        Case("D8,Dv0", batch([(2, 5), (1, 3)], heads=4, kv_heads=2, page=4, dim=8, value_dim=0), {}, "full", 20),
        *(
            Case(f"T4,S4,scale{n:g}", batch([(4, 4)], heads=4, kv_heads=2, page=4, dim=8), {"scale": n}, "full", 9)
            for n in (0.0, -1.0)
        ),
        Case(
            "lengths uint32",
            _typed(batch([(2, 5), (1, 3)], heads=4, kv_heads=2, page=4, dim=8, spare=1), "uint32"),
            {},
            "full",
        ),
        Case(
            "lengths uint64",
            _typed(batch([(2, 5), (1, 3)], heads=4, kv_heads=2, page=4, dim=8, spare=1), "uint64"),
            {},
            "full",
        ),
    ]
    return (*_crossed(), *_mixed_dtypes(), *many_keys.paged_attention(), *many_keys.chunks(), *cases, *_models())


def _models() -> Iterator[Case]:
    """A decode step of two sequences and a prefill with the heads of each model."""
    for name in (*_MODELS, "Qwen3-8B", "gpt-oss-20b"):
        size = MODELS[name]
        extra = {"sinks": normal(size.heads)} if name.startswith("gpt-oss") else {}
        settings = {"window": 128} if name.startswith("gpt-oss") else {}
        words = f"Hq{size.heads},Hkv{size.kv_heads},D{size.head_dim}"
        sizes = {"heads": size.heads, "kv_heads": size.kv_heads, "dim": size.head_dim}
        decode = batch([(1, 140), (1, 33)], page=64, **sizes) | extra
        yield Case(f"{name},decode,B2,{words},page64", decode, settings, "model", 6)
        prefill = batch([(17, 17)], page=32, **sizes) | extra
        yield Case(f"{name},prefill,T17,{words},page32", prefill, settings, "model", 6)


def _odd_numbers(*shape: int) -> Draw:
    """NaN, inf, zero and numbers of every magnitude, all of which are copied as they are."""
    odd = [np.nan, np.inf, -np.inf, 0.0, 6e4, -6e4, 1e-7, -1e-7, 1e-41, 1.0]
    return Draw(shape, lambda rng: rng.choice(odd, shape))


def kv_append() -> tuple[Case, ...]:
    """Slots in runs of every kind and of every integer dtype; NaN, inf and numbers of every magnitude."""
    threes = [*range(3), *range(8, 11), *range(4, 7)]
    runs = {"up": range(5, 22), "down": range(21, 4, -1), "every other": range(1, 31, 2), "three at a time": threes}
    cases = [
        Case(f"page{page},D5,slots {word}", append_inputs(32 // page + 1, 2, page, 5, list(slots)), {}, "full")
        for page in (1, 3, 8, 32)
        for word, slots in runs.items()
    ]
    cases += [  # few runs are copied one by one, many by index
        Case(f"{count} runs", append_inputs(4, 2, 8, 4, [3 * n for n in range(count)]), {}, "full")
        for count in (1, 2, 7, 8, 9, 10)
    ]
    cases += [
        Case(
            f"page{page},slots {dtype}",
            append_inputs(2, 2, page, 3, [5, 0, 126]) | {"slots": constant([5, 0, 126], dtype)},
            {},
            "full",
        )
        for page, dtype in (
            (64, "int8"),
            (300, "int8"),
            (64, "uint8"),
            (300, "uint8"),
            (200, "int16"),
            (200, "uint16"),
            (200, "int64"),
            (200, "uint32"),
            (200, "uint64"),
        )
    ]
    shuffled = np.random.default_rng(1).permutation(65 * 16)[:129].tolist()
    odd = append_inputs(3, 2, 4, 8, [9, 2, 3])
    odd |= {name: _odd_numbers(*odd[name].shape) for name in ("k_pages", "v_pages", "k", "v")}
    cases += [
        Case("numbers of all kinds", odd, {}, "full"),
        Case("H1,D1", append_inputs(3, 1, 4, 1, [9, 2, 3]), {}, "full"),
        Case("H0", append_inputs(3, 0, 4, 8, [9, 2, 3]), {}, "full", 20),
        Case("D0,Dv3", append_inputs(3, 2, 4, 0, [9, 2, 3], 3), {}, "full", 20),
        Case("Dv0", append_inputs(3, 2, 4, 8, [9, 2, 3], 0), {}, "full", 20),
        Case("P1,page1025,T1", append_inputs(1, 2, 1025, 8, [1024]), {}, "full"),
        Case("P1,page1025,T1025", append_inputs(1, 1, 1025, 8, list(range(1025))), {}, "full"),
        Case("P65,page16,T129", append_inputs(65, 2, 16, 17, shuffled), {}, "full"),
        Case("P1025,page64,slots past 65535", append_inputs(1025, 1, 64, 1, [65536, 65535, 65599, 3]), {}, "full"),
        Case("P65538,page1", append_inputs(65538, 1, 1, 1, [65536, 65537, 0]), {}, "full"),
    ]
    cases += [
        Case(f"numbers of all kinds,{dtype} pages", in_pages_of(dtype, odd), {}, "full", 24)
        for dtype in ("float16", "bfloat16", "float32")
    ]
    for name in _MODELS:
        size = MODELS[name]
        words = f"Hkv{size.kv_heads},D{size.head_dim},page64"
        for step, slots in (("decode", [70, 200]), ("prefill", [*range(64, 101)])):
            cases.append(
                Case(f"{name},{step},{words}", append_inputs(4, size.kv_heads, 64, size.head_dim, slots), {}, "model")
            )
    return tuple(cases)
