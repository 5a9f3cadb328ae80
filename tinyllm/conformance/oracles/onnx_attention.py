"""ONNX's Attention and FlexAttention as calls of gqa, sdpa and mha.

ONNX aligns `is_causal` and windows to the start of the keys unless there is a cache, we to their end: where these
differ, they become a mask. Packed heads are unpacked on the host for gqa and sdpa; mha takes them packed, with
projections that change nothing, and gives the weights and the grown cache that ONNX's further outputs are.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyllm.conformance.oracles.mapped import Mapped, NotMappedError
from tinyllm.conformance.oracles.onnx_cases import OnnxCase

WEIGHTS = 3
"""The `qk_matmul_output_mode` that gives what comes out of the softmax; the others give scores
before it, which no op of ours gives."""


def attention(case: OnnxCase) -> list[Mapped]:
    """A case of Attention on gqa and mha, and on sdpa where there are as many heads of keys as of queries."""
    given, setting = case.inputs, case.attributes.get
    q, k, v = (
        _unpacked(given[n], setting(h)) for n, h in (("Q", "q_num_heads"), ("K", "kv_num_heads"), ("V", "kv_num_heads"))
    )
    past_k, past_v = given.get("past_key"), given.get("past_value")
    all_k = k if past_k is None else np.concatenate((past_k, k), axis=2)
    all_v = v if past_v is None else np.concatenate((past_v, v), axis=2)
    places, native = _places(case, q.shape[2], all_k.shape[2], 0 if past_k is None else past_k.shape[2])
    mask = _mask(given.get("attn_mask"), all_k.shape[2])
    settings = {"scale": setting("scale"), "softcap": setting("softcap") or None}
    lengths = given.get("nonpad_kv_seqlen")
    y = _unpacked(case.outputs["Y"], setting("q_num_heads"))

    here = mask if native is not None else _both(mask, places)
    ours = (native or {}) | settings
    extra = {} if lengths is None else {"kv_lengths": lengths}
    calls = [_call("gqa", {"q": q, "k": all_k, "v": all_v, "mask": here} | extra, ours, (y,))]
    if lengths is not None:  # sdpa and mha have no lengths: they are in the mask
        here, ours = _both(mask, places), settings
    if q.shape[1] == k.shape[1]:
        calls.append(_call("sdpa", {"q": q, "k": all_k, "v": all_v, "mask": here}, ours, (y,)))
    inputs = _projected(q, k, v) | {"past_k": past_k, "past_v": past_v, "mask": here}
    ours = ours | {"num_heads": q.shape[1], "num_kv_heads": k.shape[1]}
    outputs = [_packed(y)]
    if "qk_matmul_output" in case.outputs and setting("qk_matmul_output_mode", 0) == WEIGHTS:
        ours["need_weights"] = "heads"
        outputs.append(case.outputs["qk_matmul_output"])
    if "present_key" in case.outputs:
        ours["return_kv"] = True
        outputs += [case.outputs["present_key"], case.outputs["present_value"]]
    return [*calls, _call("mha", inputs, ours, tuple(outputs))]


def flex_attention(case: OnnxCase) -> list[Mapped]:
    """A case of FlexAttention, if what it does to the scores is a sum with a mask, or a softcap."""
    if "prob_mod" in case.attributes:
        raise NotMappedError("prob_mod: our ops do nothing to the weights after the softmax")
    q, k, v = (case.inputs[name] for name in "QKV")
    settings: dict[str, Any] = {"scale": case.attributes.get("scale")}
    mask = None
    if (graph := case.attributes.get("score_mod")) is not None:
        cap = _softcap(graph)
        settings["softcap"] = cap
        mask = _added(graph, (*q.shape[:-1], k.shape[-2]), q.dtype) if cap is None else None
    inputs = {"q": q, "k": k, "v": v, "mask": mask}
    ops = ("gqa", "sdpa") if q.shape[1] == k.shape[1] else ("gqa",)
    return [_call(op, inputs, settings, (case.outputs["Y"],)) for op in ops]


def _call(op: str, inputs: dict[str, Any], attributes: dict[str, Any], outputs: tuple[Any, ...]) -> Mapped:
    """Without what is absent."""
    present = {n: v for n, v in inputs.items() if v is not None}
    return Mapped(op, present, {n: v for n, v in attributes.items() if v is not None}, outputs)


def _unpacked(x: Any, heads: int | None) -> Any:
    """`[B, L, H * D]` as `[B, H, L, D]`."""
    return x if x.ndim == 4 else np.swapaxes(x.reshape(*x.shape[:2], heads, -1), 1, 2)


def _packed(x: Any) -> Any:
    """`[B, H, L, D]` as `[B, L, H * D]`."""
    return np.swapaxes(x, 1, 2).reshape(x.shape[0], x.shape[2], -1)


def _projected(q: Any, k: Any, v: Any) -> dict[str, Any]:
    """What mha takes, each projection the identity."""
    packed = {"query": _packed(q), "key": _packed(k), "value": _packed(v)}
    widths = {f"{n[0]}_proj": a.shape[-1] for n, a in packed.items()} | {"o_proj": q.shape[1] * v.shape[-1]}
    return packed | {name: np.eye(width, dtype=q.dtype) for name, width in widths.items()}


def _places(case: OnnxCase, length: int, keys: int, past: int) -> tuple[Any, dict[str, Any] | None]:
    """What ONNX's positions allow, as a bool mask or None, and the same in attributes of ours, None where they cannot
    say it."""
    causal, lengths = bool(case.attributes.get("is_causal", 0)), case.inputs.get("nonpad_kv_seqlen")
    left, right = (case.attributes.get(f"{side}_window_size", -1) for side in ("left", "right"))
    offset = past if lengths is None else lengths.reshape(-1, 1, 1, 1) - length
    key = np.arange(keys)[None, :]
    distance = np.arange(length)[:, None] + offset - key
    seen = np.ones(distance.shape, bool) if lengths is None else key < lengths.reshape(-1, 1, 1, 1)
    for limited, here in ((causal, distance >= 0), (left >= 0, distance <= left), (right >= 0, -distance <= right)):
        seen = seen & here if limited else seen
    if not causal and left < 0 and right < 0:
        return (None if lengths is None else seen), {}
    aligned = lengths is not None or past == keys - length
    if not aligned or (right >= 0 and not causal and right != left) or (left < 0 and not causal):
        return seen, None
    return seen, {"causal": causal, "window": left + 1 if left >= 0 else None}


def _mask(mask: Any, keys: int) -> Any:
    """ONNX's mask as long as the keys, and of 2 or 4 axes."""
    if mask is None:
        return None
    missing = [(0, 0)] * (mask.ndim - 1) + [(0, keys - mask.shape[-1])]
    mask = np.pad(mask, missing, constant_values=False if mask.dtype == bool else -np.inf)
    return mask.reshape(*(1,) * ((2 if mask.ndim < 3 else 4) - mask.ndim), *mask.shape)


def _both(mask: Any, seen: Any) -> Any:
    """A mask, and of it what `seen` lets through."""
    if mask is None or seen is None:
        return seen if mask is None else mask
    return mask & seen if mask.dtype == bool else np.where(seen, mask, np.asarray(-np.inf, mask.dtype))


def _softcap(graph: Any) -> float | None:
    """The cap, if the graph is `cap * tanh(scores / cap)`."""
    from onnx import numpy_helper

    if [node.op_type for node in graph.node] != ["Div", "Tanh", "Mul"]:
        return None
    (cap,) = (float(numpy_helper.to_array(constant)) for constant in graph.initializer)
    return cap


def _added(graph: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    """What the graph adds to scores, run by ONNX; refused where it does anything else to them."""
    from onnx.defs import onnx_opset_version
    from onnx.reference import ReferenceEvaluator

    run: Any = ReferenceEvaluator(graph, opsets={"": onnx_opset_version()})
    scores = np.random.default_rng(0).integers(-8, 8, shape).astype(dtype)
    mask, shifted = (run.run(None, {graph.input[0].name: x})[0] for x in (np.zeros(shape, dtype), scores))
    if not np.array_equal(shifted, scores + mask):
        raise NotMappedError("score_mod: neither a softcap nor a sum with a mask")
    return mask.astype(dtype)
