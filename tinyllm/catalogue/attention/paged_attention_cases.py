"""The cases of `paged_attention`: batches of sequences over a pool of pages, and descriptions of pages that contradict
themselves."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyllm.catalogue.attention.kv_append import in_pages_of
from tinyllm.errors import InvalidInputError, UnsupportedError
from tinyllm.spec.cases import BadInput, Case, Draw, constant, kept, normal, poisoned


def batch(
    lengths: list[tuple[int, int]],
    *,
    heads: int,
    kv_heads: int,
    page: int,
    dim: int,
    value_dim: int | None = None,
    spare: int = 0,
) -> dict[str, Draw]:
    """Inputs of `paged_attention` for sequences given as (new tokens, keys in all), on pages shuffled over a pool.

    Slots past a sequence's keys, and one page that no sequence has, are NaN: they are never read. `spare` adds columns
    of -1 to the block table.
    """
    value_dim = dim if value_dim is None else value_dim
    counts = [-(-keys // page) for _, keys in lengths]
    order = np.random.default_rng(7).permutation(sum(counts) + 1)
    table = np.full((len(lengths), max(counts, default=0) + spare), -1)
    free = np.ones((len(order), page), bool)
    for b, (count, (_, keys)) in enumerate(zip(counts, lengths, strict=True)):
        table[b, :count] = order[sum(counts[:b]) : sum(counts[:b]) + count]
        free[table[b, :count]] = (np.arange(count * page) >= keys).reshape(count, page)
    starts = np.cumsum([0, *(new for new, _ in lengths)])
    return {
        "q": normal(int(starts[-1]), heads, dim),
        "k_pages": _pool(free, kv_heads, dim),
        "v_pages": _pool(free, kv_heads, value_dim),
        "q_start": constant(starts, "int32"),
        "kv_len": constant([keys for _, keys in lengths], "int32"),
        "block_table": constant(table, "int32"),
    }


def _pool(free: Any, heads: int, dim: int) -> Draw:
    """Pages `[P, H, page, D]` with NaN in the free slots `[P, page]`."""
    return poisoned(free[:, None, :, None], free.shape[0], heads, free.shape[1], dim)


def ints(**arrays: Any) -> dict[str, Draw]:
    """Inputs of int32 by name."""
    return {name: constant(values, "int32") for name, values in arrays.items()}


_MIXED = batch([(5, 5), (1, 7), (3, 9), (1, 1)], heads=4, kv_heads=2, page=4, dim=8, spare=1)
_TWO = batch([(2, 5), (1, 3)], heads=4, kv_heads=2, page=4, dim=8)
_SMOL = {"heads": 9, "kv_heads": 3, "dim": 64}
_TWO_DTYPES = _TWO | {"v_pages": kept(_TWO["v_pages"], "float16")}
_EMPTY = {"q": normal(0, 4, 8), "k_pages": normal(2, 2, 4, 8), "v_pages": normal(2, 2, 4, 8)}


def _tables(kv_len: list[int], block_table: list[list[int]]) -> dict[str, Draw]:
    """Two sequences, with 2 and 1 new tokens, over a pool of 4 pages of 4 tokens in which no slot is NaN."""
    inputs = {"q": normal(3, 4, 8), "k_pages": normal(4, 2, 4, 8), "v_pages": normal(4, 2, 4, 8)}
    return inputs | ints(q_start=[0, 2, 3], kv_len=kv_len, block_table=block_table)


def _bad(name: str, match: str, decision: int = 22, pool: Draw | None = None, **indices: Any) -> BadInput:
    """Two sequences as in `_TWO`, where some of the arguments that describe the pages are wrong."""
    pools = {} if pool is None else {"k_pages": pool, "v_pages": pool}
    return BadInput(name, _TWO | pools | ints(**indices), {}, InvalidInputError, match, decision)


CASES = (
    Case("prefill+decode+chunk", _MIXED),
    Case("B1,T1,decode", batch([(1, 6)], heads=4, kv_heads=2, page=4, dim=8)),
    Case("B1,T1,first token", batch([(1, 1)], heads=4, kv_heads=2, page=4, dim=8)),
    Case("B1,T6,one large page", batch([(6, 6)], heads=4, kv_heads=2, page=16, dim=8)),
    Case("B3,T3,decode,a large page each", batch([(1, 5), (1, 16), (1, 1)], heads=4, kv_heads=2, page=16, dim=8)),
    Case("B2,pages of one", batch([(2, 3), (1, 4)], heads=2, kv_heads=2, page=1, dim=4)),
    Case("B2,page borders", batch([(4, 8), (1, 4)], heads=4, kv_heads=1, page=4, dim=8), decision=10),
    Case("B2,Hq6,Hkv2", batch([(2, 5), (1, 3)], heads=6, kv_heads=2, page=4, dim=4), decision=10),
    Case("B2,Hq3,Hkv3", batch([(2, 5), (1, 3)], heads=3, kv_heads=3, page=4, dim=4)),
    Case("B2,D8,Dv3", batch([(2, 5), (1, 3)], heads=4, kv_heads=2, page=4, dim=8, value_dim=3), decision=8),
    Case("B2,a page of both", _tables([6, 7], [[3, 0], [3, 2]]), decision=22),
    Case("B2,rows filled", _tables([8, 8], [[1, 3], [0, 2]]), decision=22),
    Case("B2,pages twice past kv_len", _tables([3, 1], [[2, 2], [0, 0]]), decision=22),
    Case("mixed,window3", _MIXED, {"window": 3}, decision=7),
    Case("mixed,window1", _MIXED, {"window": 1}, decision=7),
    Case("mixed,softcap", _MIXED, {"softcap": 5.0}, decision=4),
    Case("mixed,scale", _MIXED, {"scale": 0.5}, decision=9),
    Case("mixed,sinks,window4", _MIXED | {"sinks": normal(4)}, {"window": 4}, decision=11),
    Case("mixed,float16 pages", in_pages_of("float16", _MIXED), decision=24),
    Case("mixed,bfloat16 pages,sinks", in_pages_of("bfloat16", _MIXED | {"sinks": normal(4)}), decision=24),
    Case("mixed,float32 pages", in_pages_of("float32", _MIXED), decision=24),
    Case("B3,one without tokens", batch([(2, 5), (0, 6), (1, 2)], heads=4, kv_heads=2, page=4, dim=8), decision=20),
    Case("B3,one without keys", batch([(2, 5), (0, 0), (1, 2)], heads=4, kv_heads=2, page=4, dim=8), decision=20),
    Case("T0", _EMPTY | ints(q_start=[0, 0], kv_len=[3], block_table=[[1]]), decision=20),
    Case("B0", _EMPTY | ints(q_start=[0], kv_len=[], block_table=np.zeros((0, 0))), decision=20),
    Case("mixed,page16,D64", batch([(40, 40), (1, 129), (17, 80)], page=16, **_SMOL), tier="full"),
    Case(
        "mixed,page64,D80,window33",
        batch([(1, 200), (65, 70)], heads=8, kv_heads=2, page=64, dim=80),
        {"window": 33},
        tier="full",
    ),
    Case("decode:B1,S512,page64", batch([(1, 512)], page=64, **_SMOL), tier="bench"),
    Case("decode:B1,S512,one large page", batch([(1, 512)], page=544, **_SMOL), tier="bench"),
    Case("decode:B8,S512,page64", batch([(1, 512)] * 8, page=64, **_SMOL), tier="bench"),
    Case("decode:B8,S512,a large page each", batch([(1, 512)] * 8, page=544, **_SMOL), tier="bench"),
    Case("prefill:B1,T128,page64", batch([(128, 128)], page=64, **_SMOL), tier="bench"),
    Case("prefill:B1,T128,one large page", batch([(128, 128)], page=136, **_SMOL), tier="bench"),
)

BAD_INPUTS = (
    _bad("q_start not from 0", "q_start: expected numbers rising from 0 to 3", q_start=[1, 2, 3]),
    _bad("q_start not to T", "q_start: expected numbers rising from 0 to 3", q_start=[0, 1, 2]),
    _bad("q_start past T", "q_start: expected numbers rising from 0 to 3", q_start=[0, 2, 4]),
    _bad("q_start falls", "q_start: expected numbers rising from 0 to 3", q_start=[0, 4, 3]),
    _bad("q_start too short", "q_start: expected 3 numbers for 2 sequences", q_start=[0, 3]),
    _bad("kv_len for one of two", "block_table: expected shape [B, M] with B = 1", kv_len=[5]),
    _bad("table of one row for two", "block_table: expected shape [B, M] with B = 2", block_table=[[0, 1]]),
    _bad("fewer keys than tokens", "kv_len: expected at least the [2, 1] new tokens", kv_len=[1, 3]),
    _bad("kv_len negative", "kv_len: expected at least the [0, 3] new tokens", q_start=[0, 0, 3], kv_len=[-4, 3]),
    _bad("more keys than pages", "kv_len: expected at most 8, what 2 pages of 4 hold", kv_len=[9, 3]),
    _bad("page twice", "block_table: expected no page twice", block_table=[[2, 2], [1, -1]]),
    _bad("page twice in a later row", "got page 3 twice in row 1", kv_len=[3, 8], block_table=[[3, 3], [3, 3]]),
    _bad("pages of size 0", "k_pages: expected pages of at least 1 token", pool=normal(4, 2, 0, 8)),
    _bad("page too large", "expected page numbers 0 to 3", 20, block_table=[[0, 4], [1, -1]]),
    _bad("page missing", "block_table: expected page numbers 0 to 3", 20, block_table=[[0, -1], [1, -1]]),
    _bad("page in no pool", "block_table: expected page numbers", 20, pool=normal(0, 2, 4, 8)),
    BadInput("pages of two dtypes", _TWO_DTYPES, {}, InvalidInputError, "v_pages: expected the dtype of k_pages", 24),
    BadInput("Hq % Hkv", _TWO | {"q": normal(3, 5, 8)}, {}, InvalidInputError, "q: expected a number of heads", 10),
    BadInput("causal", _TWO, {"causal": True}, UnsupportedError, "always causal", 13),
    BadInput("sinks by kv heads", _TWO | {"sinks": normal(2)}, {}, InvalidInputError, "paged_attention: sinks", 11),
)
