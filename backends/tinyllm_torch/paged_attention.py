"""kv_append and paged_attention: rows written in place, and attention over views of pages."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from tinyllm.plugins import neighbours, runs
from tinyllm_torch.attention import attend, causal_by_operator, visible
from tinyllm_torch.backend import own
from tinyllm_torch.widen import for_product, narrow, widen

Tensor = torch.Tensor

FEW = 8
"""Up to so many runs of slots are copied one by one, more of them by index."""


def kv_append(k_pages: Tensor, v_pages: Tensor, k: Tensor, v: Tensor, slots: np.ndarray) -> tuple[Tensor, Tensor]:
    """k_pages `[P, Hkv, page, D]` and v_pages `[P, Hkv, page, Dv]` with the new rows in their slots. The tensors that
    come in are written to and given back, unless they lie on a read-only numpy array."""
    k_pages, v_pages = own(k_pages), own(v_pages)
    page_size = k_pages.shape[2]
    stretches = runs(slots, page_size)
    if len(stretches) > FEW:
        numbers, places = (torch.from_numpy(part).to(k.device) for part in np.divmod(slots.astype(np.int64), page_size))
        k_pages[numbers, :, places] = narrow(k, k_pages.dtype)
        v_pages[numbers, :, places] = narrow(v, v_pages.dtype)
    else:
        for first, end in stretches:
            page, place = divmod(int(slots[first]), page_size)
            for pages, rows in ((k_pages, k), (v_pages, v)):
                if end - first == 1:  # several times faster than indexing
                    pages.select(0, page).select(1, place).copy_(rows[first])
                else:
                    pages[page, :, place : place + end - first] = rows[first:end].transpose(0, 1)
    return k_pages, v_pages


def paged_attention(
    q: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    q_start: np.ndarray,
    kv_len: np.ndarray,
    block_table: np.ndarray,
    *,
    sinks: Tensor | None = None,
    scale: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Causal attention `[T, Hq, Dv]` of each token over the keys of its sequence, one sequence after the other."""
    plain = sinks is None and softcap is None and window is None
    if plain and q.shape[0] == len(kv_len) > 0 and (np.diff(q_start) == 1).all():
        return _decode(q, k_pages, v_pages, kv_len.tolist(), block_table, scale)
    common = torch.promote_types(q.dtype, k_pages.dtype)
    starts, outputs = q_start.tolist(), []
    for b, keys in enumerate(kv_len.tolist()):
        length = starts[b + 1] - starts[b]
        if not length:
            continue
        # keys before every query's window are not read
        first = 0 if window is None else max(0, keys - length + 1 - window)
        own = narrow(q.narrow(0, starts[b], length), common).unsqueeze(0).transpose(1, 2)
        k, v = (narrow(_read(pages, block_table[b], first, keys), common) for pages in (k_pages, v_pages))
        if sinks is None and softcap is None:
            y = _fused(own, k, v, scale, window)
        else:
            seen = _visible(length, keys - first, window, q.device)
            y = attend(widen(own), widen(k), widen(v), scale=scale, softcap=softcap, seen=seen, sinks=sinks)
        outputs.append(narrow(y, q.dtype).transpose(1, 2).squeeze(0))
    if len(outputs) == 1:
        return outputs[0]
    return torch.cat(outputs) if outputs else q.new_zeros((*q.shape[:2], v_pages.shape[-1]))


def _decode(
    q: Tensor, k_pages: Tensor, v_pages: Tensor, kv_len: list[int], block_table: np.ndarray, scale: float | None
) -> Tensor:
    """Attention `[B, Hq, Dv]` where each sequence has one new token: the step that is taken for every token, with as
    few calls as possible around the operator."""
    common = torch.promote_types(q.dtype, k_pages.dtype)
    wide, shared, outputs = for_product(narrow(q, common)).unsqueeze(2), q.shape[1] != k_pages.shape[1], []
    for b, keys in enumerate(kv_len):
        k, v = (narrow(_read(pages, block_table[b], 0, keys), common) for pages in (k_pages, v_pages))
        y = F.scaled_dot_product_attention(
            wide[b : b + 1], for_product(k), for_product(v), scale=scale, enable_gqa=shared
        )
        outputs.append(y)
    return narrow((outputs[0] if len(outputs) == 1 else torch.cat(outputs)), q.dtype).squeeze(2)


def _read(pages: Tensor, row: np.ndarray, begin: int, end: int) -> Tensor:
    """Keys or values `begin` to `end - 1` of a sequence, `[1, Hkv, S, D]`: a view where one page holds them, or
    neighbours of a pool that lies in memory head by head."""
    size = pages.shape[2]
    first, last = begin // size, -(-end // size)
    if last - first == 1:
        own = pages.narrow(0, int(row[first]), 1)
    else:
        if neighbours(row[first:last]):
            several = pages.narrow(0, int(row[first]), last - first)
        else:
            several = pages.index_select(0, torch.from_numpy(row[first:last].astype(np.int64)).to(pages.device))
        own = several.transpose(0, 1).reshape(1, pages.shape[1], (last - first) * size, pages.shape[3])
    return own.narrow(2, begin - first * size, end - begin)


def _fused(q: Tensor, k: Tensor, v: Tensor, scale: float | None, window: int | None) -> Tensor:
    """The attention `[1, Hq, L, Dv]` by PyTorch's operator, whose `is_causal` is right where there are as many
    queries as keys."""
    length, keys = q.shape[2], k.shape[2]
    masked = length > 1 and (length < keys or (window is not None and window < keys) or not causal_by_operator(scale))
    mask = _visible(length, keys, window, q.device) if masked else None
    return F.scaled_dot_product_attention(
        for_product(q),
        for_product(k),
        for_product(v),
        mask,
        is_causal=length > 1 and not masked,
        scale=scale,
        enable_gqa=q.shape[1] != k.shape[1],
    )


def _visible(length: int, keys: int, window: int | None, device: torch.device) -> Tensor:
    """Which keys causal attention, and a window, allow: bool `[L, S]`."""
    parts = visible(length, keys, True, window, None, device)
    return parts[0] if len(parts) == 1 else parts[0] & parts[1]
