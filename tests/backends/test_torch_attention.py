"""`fused` says what `scratch` says, whatever the masks: rows that see nothing give zeros, and hidden keys may be
NaN."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tinyllm_torch.attention import attend, gqa_fused, gqa_scratch, sdpa_fused, sdpa_scratch  # noqa: E402
from tinyllm_torch.paged_attention import kv_append, paged_attention  # noqa: E402


def _normal(generator: Any, *shape: int) -> Any:
    return torch.randn(shape, generator=generator)


def _masks(generator: Any, shape: tuple[int, ...], kind: str) -> Any:
    seen = torch.rand(shape, generator=generator) < 0.5
    if kind == "bool":
        return seen
    return torch.where(seen, _normal(generator, *shape), -torch.inf) if kind == "float" else None


@pytest.mark.parametrize("kind", ["none", "bool", "float"])
@pytest.mark.parametrize("seed", range(12))
def test_sdpa(seed: int, kind: str) -> None:
    """Random shapes and settings; keys that nobody sees are NaN."""
    generator, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    lead = tuple(rng.integers(1, 4, rng.integers(0, 4)).tolist())
    length, keys, dim, value_dim = (int(n) for n in rng.integers(1, 7, 4))
    q, k, v = (_normal(generator, *lead, n, d) for n, d in ((length, dim), (keys, dim), (keys, value_dim)))
    mask = _masks(generator, (length, keys) if seed % 2 else (*lead, length, keys), kind)
    settings: dict[str, Any] = {
        "causal": bool(seed % 3),
        "window": [None, 1, 3][seed % 3],
        "scale": [None, 0.0, -0.5][seed // 4],
    }
    _poison(k, v, mask)
    expected = sdpa_scratch(q, k, v, mask=mask, **settings)
    assert torch.isfinite(expected).all()
    torch.testing.assert_close(sdpa_fused(q, k, v, mask=mask, **settings), expected, rtol=1e-5, atol=1e-5)


def _poison(k: Any, v: Any, mask: Any) -> None:
    """NaN where a mask hides a key from every query."""
    if mask is None:
        return
    seen = mask if mask.dtype is torch.bool else mask > -torch.inf
    unseen = ~seen.any(-2).expand(k.shape[:-1])
    k[unseen], v[unseen] = torch.nan, torch.nan


@pytest.mark.parametrize("kind", ["none", "bool", "float"])
@pytest.mark.parametrize("seed", range(12))
def test_gqa(seed: int, kind: str) -> None:
    """The same with groups of heads, a length for each sequence and a mask of keys."""
    generator, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    batch, kv_heads, groups, length, keys, dim = (int(n) for n in rng.integers(1, 6, 6))
    q = _normal(generator, batch, kv_heads * groups, length, dim)
    k, v = (_normal(generator, batch, kv_heads, keys, dim) for _ in range(2))
    lengths = rng.integers(0, keys + 1, batch)
    for b, n in enumerate(lengths):
        k[b, :, n:], v[b, :, n:] = torch.nan, torch.inf
    settings: dict[str, Any] = {
        "mask": _masks(generator, (batch, kv_heads * groups, length, keys), kind),
        "key_mask": torch.rand(batch, keys, generator=generator) < 0.7 if seed % 2 else None,
        "causal": bool(seed % 3),
        "window": [None, None, 2][seed % 3],
    }
    expected = gqa_scratch(q, k, v, kv_lengths=lengths, **settings)
    assert torch.isfinite(expected).all()
    torch.testing.assert_close(gqa_fused(q, k, v, kv_lengths=lengths, **settings), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("function", [sdpa_scratch, sdpa_fused])
def test_a_window_beyond_all_keys_hides_none(function: Any) -> None:
    """Up to the largest that is taken: sums of 64 bits must not overflow."""
    q = _normal(torch.Generator().manual_seed(0), 2, 5, 4)
    torch.testing.assert_close(function(q, q, q, window=2**63 - 1), function(q, q, q))


@pytest.mark.parametrize("page", [1, 3, 64])
@pytest.mark.parametrize("window", [None, 1, 4])
def test_a_cache_filled_bit_by_bit(page: int, window: int | None) -> None:
    """Tokens of two sequences in steps of any size, through pages in any order, attend as they do all at once."""
    generator, rng = torch.Generator().manual_seed(page), np.random.default_rng(page)
    tokens, heads, kv_heads, dim = 13, 6, 2, 8
    q = _normal(generator, 2, tokens, heads, dim)
    k, v = (_normal(generator, 2, tokens, kv_heads, dim) for _ in range(2))
    count = -(-tokens // page)
    table = rng.permutation(2 * count).reshape(2, count)
    k_pages, v_pages = (torch.full((2 * count, kv_heads, page, dim), torch.nan) for _ in range(2))
    got = torch.zeros_like(q)
    done = np.zeros(2, int)
    while (done < tokens).any():
        new = np.minimum(rng.integers(0, 6, 2), tokens - done)
        rows = [(b, done[b] + i) for b in range(2) for i in range(new[b])]
        slots = np.array([table[b, t // page] * page + t % page for b, t in rows], int)
        flat_k, flat_v, flat_q = (torch.stack([x[b, t] for b, t in rows]) if rows else x[0, :0] for x in (k, v, q))
        k_pages, v_pages = kv_append(k_pages, v_pages, flat_k, flat_v, slots)
        done += new
        y = paged_attention(flat_q, k_pages, v_pages, np.cumsum([0, *new]), done, table, window=window)
        for (b, t), row in zip(rows, y, strict=True):
            got[b, t] = row
    expected = gqa_scratch(*(x.transpose(1, 2) for x in (q, k, v)), causal=True, window=window).transpose(1, 2)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_weights_of_a_row_that_sees_nothing() -> None:
    q = torch.ones(1, 2, 4)
    seen = torch.tensor([[False, False], [True, False]])
    weights = attend(q, q, torch.eye(2).unsqueeze(0), seen=seen)  # what comes of values that are the unit matrix
    assert weights.tolist() == [[[0.0, 0.0], [1.0, 0.0]]] and attend(q, q, q, seen=seen)[0, 0].tolist() == [0.0] * 4
