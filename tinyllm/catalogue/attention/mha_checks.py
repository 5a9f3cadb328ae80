"""What `mha` says about a call before any data is touched: sizes that must agree, and the cost."""

from __future__ import annotations

from math import prod
from typing import Any

from tinyllm.catalogue.attention.formula import attention_flops, check_heads, check_masks, check_scale
from tinyllm.catalogue.rope.settings import refuse_by_length
from tinyllm.errors import invalid
from tinyllm.spec.types import Call, Dim


def check_layer(call: Call) -> dict[str, Any]:
    """All conditions between the arguments; the shapes of the outputs that must be asked for."""
    given = call.attributes
    lead, length = call.dims["*B"], call.dims["L"]
    heads, kv_heads = given["num_heads"], given["num_kv_heads"] or given["num_heads"]
    check_heads(call, heads, kv_heads)
    dim = _per_head("q_proj", call.dims["Nq"], heads)
    keys, value_dim = _check_kv(call, lead, kv_heads, dim)
    _equal("o_proj", "columns", call.shape("o_proj")[1], heads * value_dim)
    check_scale(call, dim)
    for name, size in (
        ("q_norm", dim),
        ("k_norm", dim),
        ("sinks", heads),
        ("bias_k", kv_heads * dim),
        ("bias_v", kv_heads * value_dim),
    ):
        if call.inputs[name] is not None:
            _equal(name, "numbers", call.shape(name)[0], size)
    check_masks(call, lead, heads, length, keys)
    _check_rope(call, lead, length, dim)
    seen = _plus(keys, (call.inputs["bias_k"] is not None) + given["add_zero_attn"])
    weights = {None: None, "heads": (*lead, heads, length, seen), "mean": (*lead, length, seen)}[given["need_weights"]]
    k, v = ((*lead, kv_heads, keys, d) if given["return_kv"] else None for d in (dim, value_dim))
    return {"weights": weights, "k": k, "v": v}


def _check_kv(call: Call, lead: tuple[Dim, ...], kv_heads: int, dim: int) -> tuple[Dim, int]:
    """How many keys there are, the cached ones included, and the size of a value."""
    for a, b in (("k_proj", "v_proj"), ("past_k", "past_v"), ("bias_k", "bias_v")):
        if (call.inputs[a] is None) != (call.inputs[b] is None):
            raise invalid("mha", a, f"{a} and {b} together", "one of them")
    for name in ("key", "value", "past_k", "past_v"):
        if call.inputs[name] is not None and call.dims[f"*{name}"] != lead:
            raise invalid("mha", name, f"the leading axes of query {list(lead)}", list(call.dims[f"*{name}"]))
    past: Dim = 0
    value_dim = None
    if call.inputs["past_k"] is not None:
        past, value_dim = call.dims["P"], call.shape("past_v")[-1]
        _equal("past_k", "heads", call.shape("past_k")[-3], kv_heads)
        _equal("past_k", "dims a head", call.shape("past_k")[-1], dim)
    if call.inputs["k_proj"] is None:
        for name in ("key", "value", "k_bias", "v_bias", "k_norm"):
            if call.inputs[name] is not None:
                raise invalid("mha", name, "k_proj and v_proj with it", "neither")
        if value_dim is None:
            raise invalid(
                "mha", "k_proj", "k_proj and v_proj, or past_k and past_v (keys and values made before)", "none of them"
            )
        return past, value_dim
    key = call.shape("query" if call.inputs["key"] is None else "key")
    value = key if call.inputs["value"] is None else call.shape("value")
    _equal("k_proj", "columns", call.shape("k_proj")[1], key[-1])
    _equal("v_proj", "columns", call.shape("v_proj")[1], value[-1])
    _equal("value", "keys", value[-2], key[-2])
    _equal("k_proj", "rows", call.shape("k_proj")[0], kv_heads * dim)
    new_dim = _per_head("v_proj", call.dims["Nv"], kv_heads)
    if value_dim is not None:
        _equal("past_v", "dims a head", value_dim, new_dim)
    return _plus(past, key[-2]), new_dim


def _check_rope(call: Call, lead: tuple[Dim, ...], length: Dim, dim: int) -> None:
    rope, positions = call.attributes["rope"], call.inputs["positions"]
    if positions is not None and rope is None:
        raise invalid("mha", "positions", "rope= with positions", "positions alone")
    if rope is None:
        return
    refuse_by_length("mha", rope.scaling)
    dims = dim if rope.dims is None else rope.dims
    if dims % 2 or not 0 < dims <= dim:
        raise invalid("mha", "rope.dims", f"a positive even number of at most {dim}", dims)
    if call.inputs["key"] is not None:
        raise invalid("mha", "rope", "None where key is given: queries and other keys share no positions", rope)
    if call.inputs["k_proj"] is None and positions is None:
        raise invalid("mha", "positions", "positions for rope where all keys are past ones", None)
    if positions is not None and positions.shape not in ((length,), (*lead, length)):
        raise invalid("mha", "positions", f"shape {[length]} or {[*lead, length]}", f"shape {list(positions.shape)}")


def _per_head(name: str, rows: int, heads: int) -> int:
    if rows % heads:
        raise invalid("mha", name, f"a number of rows that {heads} heads divide", rows)
    return rows // heads


def _equal(name: str, what: str, got: Dim, wanted: Dim) -> None:
    if got != wanted:
        raise invalid("mha", name, f"{wanted} {what}", got)


def _plus(a: Dim, b: Dim) -> Dim:
    """The sum of two sizes, of which either may be known by name only."""
    if isinstance(a, int) and isinstance(b, int):
        return a + b
    return b if a == 0 else a if b == 0 else f"{a}+{b}"


def layer_flops(call: Call) -> int:
    """The projections and the attention between them."""
    query = call.shape("query")
    key = query if call.inputs["key"] is None else call.shape("key")
    value = key if call.inputs["value"] is None else call.shape("value")
    heads, new = call.attributes["num_heads"], call.inputs["k_proj"] is not None
    rows = {"q_proj": query, "o_proj": query} | ({"k_proj": key, "v_proj": value} if new else {})
    total: int = sum(2 * prod(call.shape(name)) * prod(shape[:-1]) for name, shape in rows.items())
    keys = (0 if call.inputs["past_k"] is None else call.dims["P"]) + (key[-2] if new else 0)
    scores = (*call.dims["*B"], heads, query[-2], keys)
    return total + attention_flops(call, scores, call.dims["Nq"] // heads, call.shape("o_proj")[1] // heads)
