"""Further cases of rope, rope_angles and rope_rotate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

import numpy as np

from tinyllm.catalogue.cases.model_sizes import MODELS, ModelSizes
from tinyllm.catalogue.cases.pairwise import pairwise
from tinyllm.catalogue.cases.rows import MANY, SUBNORMAL_16, SUBNORMAL_32, named
from tinyllm.spec.cases import Case, Draw, constant, integers, integers_of, kept, normal
from tinyllm.spec.rope import RopeScaling

FREQUENCIES: Mapping[str, Mapping[str, Any]] = {
    "base10000": {},
    "base500000": {"base": 5e5},
    "linear": {"scaling": RopeScaling("linear", 4.0)},
    "llama3": {"base": 5e5, "scaling": RopeScaling("llama3", 8.0, 64)},
    "yarn": {"scaling": RopeScaling("yarn", 4.0, 32)},
    "inv_freq": {},
}
"""Attributes that say how fast pairs turn, by name; for "inv_freq" it is an input."""
HEAD_DIMS = (64, 40, 72, 88, 120, 256)
FACTORS = (1.0, 0.5, -2.0)
"""Values of `position_scale`."""
FAR = 131071
"""The last position of a text of 128 Ki tokens."""
MODEL_NAMES = (
    "SmolLM2-135M",
    "Qwen2.5-7B",
    "Qwen3-0.6B",
    "Llama-3.2-1B",
    "Phi-3-mini",
    "Phi-2",
    "Gemma-2B",
    "gpt-oss-20b",
)
SCALINGS = {
    "default": RopeScaling(),
    "yarn,attention-factor": RopeScaling("yarn", 8.0, 64, attention_factor=0.5),
    "yarn,mscale": RopeScaling("yarn", 40.0, 4096, mscale=0.707, mscale_all_dim=1.0),
    "yarn,not-truncated": RopeScaling("yarn", 32.0, 4096, truncate=False),
    "llama3,no-ramp": RopeScaling("llama3", 8.0, 64, low_freq_factor=2.0, high_freq_factor=2.0),
    "proportional": RopeScaling("proportional", 8.0, partial_rotary_factor=0.25),
}
"""Settings of scalings that `FREQUENCIES` does not have, by name."""


def _longrope(pairs: int, original: int = 4096, **settings: Any) -> RopeScaling:
    """One whose long factors grow to 40, as Phi's do."""
    short, long = (tuple(map(float, np.geomspace(1, most, pairs))) for most in (2, 40))
    return RopeScaling("longrope", 32.0, original, short_factor=short, long_factor=long, **settings)


BY_LENGTH = {
    "dynamic": RopeScaling("dynamic", 2.0, 4096),
    "longrope": _longrope(32),
    "longrope,attention-factor": _longrope(32, attention_factor=0.5),
    "longrope,mscales": _longrope(32, short_mscale=1.25, long_mscale=0.75),
}
"""Scalings of 64 dims that go by the length of the sequence, by name."""


def _inverse(pairs: int) -> Draw:
    """`inv_freq [pairs]` with a 0 at every seventh place from the second on."""
    values = 100.0 ** -(np.arange(pairs) / pairs)
    values[1::7] = 0.0
    return constant(values)


def _frequencies(name: str, dims: int) -> tuple[dict[str, Draw], dict[str, Any]]:
    """The inputs and attributes that give the frequencies of an entry of `FREQUENCIES`."""
    return ({"inv_freq": _inverse(dims // 2)} if name == "inv_freq" else {}), dict(FREQUENCIES[name])


def _settings(sizes: ModelSizes) -> dict[str, Any]:
    """The attributes of a model's rope."""
    settings = {"base": sizes.rope_base, "scaling": sizes.scaling, "dims": sizes.rope_dims}
    return {name: value for name, value in settings.items() if value is not None}


def _positions_of(name: str, lead: tuple[int, ...], length: int) -> dict[str, Draw]:
    """The input that gives the positions of x `[*lead, length, D]`; none for "start"."""
    batch = lead[:1]
    return {
        "start": {},
        "offset": {"offset": constant(37, "int64")},
        "offsetB": {"offset": integers(0, 99, *batch)},
        "positionsL": {"positions": integers(-9, 99, length)},
        "positionsBL": {"positions": integers(0, 999, *batch, length)},
    }[name]


def _has_batch(row: Mapping[str, Any]) -> bool:
    """Whether x has the axis before L that positions for each sequence need."""
    return bool(row.get("lead", (1,))) or row.get("positions", "start") not in ("offsetB", "positionsBL")


def rope() -> Iterator[Case]:
    """All settings crossed pairwise; large positions, positions of every integer dtype; empty axes; magnitudes; heads
    of real models."""
    options: dict[str, Any] = {
        "lead": [(2,), (), (1,), (2, 3), (1, 5), (2, 1, 3)],
        "length": [1, 2, 17, 65],
        "size": HEAD_DIMS,
        "positions": ["start", "offset", "offsetB", "positionsL", "positionsBL"],
        "frequencies": list(FREQUENCIES),
        "part": [False, True],
        "traditional": [False, True],
        "position_scale": FACTORS,
    }
    for row in pairwise(options, _has_batch):
        lead, length, size, part, factor = (row[name] for name in ("lead", "length", "size", "part", "position_scale"))
        dims = size // 4 * 2 if part else size
        inputs, settings = _frequencies(row["frequencies"], dims)
        settings |= ({"dims": dims} if part else {}) | ({"traditional": True} if row["traditional"] else {})
        settings |= {"position_scale": factor} if factor != 1 else {}
        flags = [f"dims{dims}"] * part + ["traditional"] * row["traditional"] + [f"scale{factor:g}"] * (factor != 1)
        id = ",".join([named(*lead, length, size), row["positions"], row["frequencies"], *flags])
        yield Case(
            id,
            {"x": normal(*lead, length, size), **_positions_of(row["positions"], lead, length), **inputs},
            settings,
            "full",
        )
    for traditional in (False, True):
        settings = {"traditional": True} if traditional else {}
        name = ",traditional" if traditional else ""
        yield Case(f"2x3x2{name}", {"x": normal(2, 3, 2)}, settings, "full")
        yield Case(
            f"3x64,far{name}",
            {"x": normal(3, 64), "positions": constant([FAR, -FAR, 1 << 20], "int64")},
            settings,
            "full",
            15,
        )
    yield Case("2x129x6", {"x": normal(2, 129, 6)}, {}, "full")
    yield Case("65537x4", {"x": normal(MANY, 4)}, {}, "full")
    yield Case(
        "33x3x8,offset of each", {"x": normal(33, 3, 8), "offset": constant(np.arange(33) * 9, "int32")}, {}, "full", 14
    )
    yield from _rope_edges()
    for name in MODEL_NAMES:
        m = MODELS[name]
        for stage, heads, length, offset in (("decode", m.heads, 1, 4097), ("prefill", m.kv_heads, 17, 0)):
            x, start = {"x": normal(heads, length, m.head_dim)}, {"offset": constant(offset, "int64")} if offset else {}
            yield Case(
                f"{name},{stage},H{heads},L{length},D{m.head_dim},offset{offset}", {**x, **start}, _settings(m), "model"
            )


def _rope_edges() -> Iterator[Case]:
    x = normal(2, 3, 16)
    for dtype in ("int8", "uint16", "uint32", "uint64"):
        yield Case(f"2x3x16,positions,{dtype}", {"x": x, "positions": constant([0, 1, 100], dtype)}, {}, "full", 14)
    yield Case("2x3x16,offset,uint8", {"x": x, "offset": constant([3, 255], "uint8")}, {}, "full", 14)
    for shape in ((0, 3, 4), (2, 0, 4), (2, 0, 3, 4), (0, 8)):
        yield Case(f"{named(*shape)},offset", {"x": normal(*shape), "offset": constant(5, "int32")}, {}, "full", 20)
    for name, size in (("large", 1e4), ("subnormal16", SUBNORMAL_16), ("subnormal32", SUBNORMAL_32)):
        yield Case(f"3x16,{name}", {"x": normal(3, 16, scale=size)}, {}, "full")
    yield Case("3x16,scale0", {"x": normal(3, 16)}, {"position_scale": 0.0}, "full")
    for dtype in ("float16", "bfloat16", "float32"):
        yield Case(
            f"2x3x8,inv_freq-in-{dtype}", {"x": normal(2, 3, 8), "inv_freq": kept(_inverse(4), dtype)}, {}, "full", 16
        )
    yield Case("3x8,nothing-turns", {"x": normal(3, 8), "inv_freq": constant(np.zeros(4))}, {}, "full", 16)
    for name, scaling in SCALINGS.items():
        yield Case(
            f"2x3x64,{name}", {"x": normal(2, 3, 64), "offset": constant(1000, "int64")}, {"scaling": scaling}, "full"
        )


def rope_angles() -> Iterator[Case]:
    """All settings crossed pairwise; large positions, positions of every integer dtype; frequencies of real models."""
    options: dict[str, Any] = {
        "dims": [64, 2, 40, 72, 120, 256],
        "frequencies": list(FREQUENCIES),
        "shape": [(65,), (), (1,), (2, 129), (3, 1, 5)],
        "dtype": ["int64", "int32", "int16", "uint8", "uint32"],
        "position_scale": FACTORS,
        "dims given": [False, True],
    }
    for row in pairwise(options):
        dims, shape, factor = row["dims"], row["shape"], row["position_scale"]
        inputs, settings = _frequencies(row["frequencies"], dims)
        settings |= {"dims": dims} if row["dims given"] or not inputs else {}
        settings |= {"position_scale": factor} if factor != 1 else {}
        positions = integers_of(row["dtype"], 200, *shape)
        id = f"{named(*shape)},dims{dims},{row['frequencies']},{row['dtype']},scale{factor:g}" + (
            ",said" if "dims" in settings else ""
        )
        yield Case(id, {"positions": positions, **inputs}, settings, "full")
    for dtype in ("int8", "uint16", "uint64"):
        yield Case(f"3,dims64,{dtype}", {"positions": constant([0, 1, 100], dtype)}, {"dims": 64}, "full", 14)
    for shape in ((0,), (2, 0), (0, 3)):
        yield Case(f"{named(*shape)},dims64", {"positions": integers(0, 9, *shape)}, {"dims": 64}, "full", 20)
    yield Case("3,dims64,far", {"positions": constant([FAR, -FAR, 1 << 20], "int64")}, {"dims": 64}, "full", 15)
    yield Case("3,nothing-turns", {"positions": integers(0, 99, 3), "inv_freq": constant(np.zeros(4))}, {}, "full", 16)
    yield Case("3,dims8,scale0", {"positions": integers(0, 99, 3)}, {"dims": 8, "position_scale": 0.0}, "full")
    for name, scaling in SCALINGS.items():
        yield Case(f"5,dims64,{name}", {"positions": integers(0, 9999, 5)}, {"dims": 64, "scaling": scaling}, "full")
    for name, scaling in BY_LENGTH.items():
        inputs = {"positions": integers(0, 4000, 3, 2), "lengths": integers_of("int64", 9000, 3, 2)}
        yield Case(f"3x2,dims64,{name}", inputs, {"dims": 64, "scaling": scaling, "position_scale": 0.5}, "full")
    for name, lengths in (("short", [5, 4095, 4096]), ("long", [4097, 65535, FAR + 1]), ("mixed", [9, 5000, 4096])):
        inputs = {"positions": constant([4, 4000, 77], "int32"), "lengths": constant(lengths, "int32")}
        for kind in ("dynamic", "longrope"):
            yield Case(f"3,dims64,{kind},{name}", inputs, {"dims": 64, "scaling": BY_LENGTH[kind]}, "full")
    grows = {"dims": 64, "log_scale": 0.1, "log_period": 8192}
    far = constant([0, 8191, 8192, 16383, 16384, FAR], "int32")
    yield Case("6,dims64,log_scale", {"positions": far}, grows, "full")
    yield Case("6,dims64,log_scale,scale0.5", {"positions": far}, grows | {"position_scale": 0.5}, "full")
    yield Case("0,dims64,log_scale", {"positions": integers(0, 9, 0)}, grows, "full", 20)
    yield Case("3,dims64,log_scale,uint8", {"positions": constant([0, 7, 255], "uint8")}, grows, "full", 14)
    inputs = {"positions": integers(0, 99, 0), "lengths": integers(0, 99, 0)}
    yield Case("0,dims64,longrope", inputs, {"dims": 64, "scaling": BY_LENGTH["longrope"]}, "full", 20)
    inputs = {"positions": constant(70, "int32"), "lengths": constant(200, "uint8")}
    yield Case("scalar,dims2,dynamic", inputs, {"dims": 2, "scaling": RopeScaling("dynamic", 4.0, 64)}, "full")
    for name in MODEL_NAMES:
        settings = {"dims": MODELS[name].head_dim, **_settings(MODELS[name])}
        yield Case(f"{name},decode,dims{settings['dims']}", {"positions": constant([4097], "int32")}, settings, "model")
    settings = {"dims": 64, **_settings(MODELS["SmolLM2-135M"])}
    yield Case("SmolLM2-135M,prefill,L129,dims64", {"positions": constant(np.arange(129), "int32")}, settings, "model")


SPREADS = (
    ((17,), (17,)),
    ((), ()),
    ((5,), (1,)),
    ((2, 65), (65,)),
    ((129, 2), (129, 1)),
    ((3, 2, 5), (3, 1, 5)),
    ((2, 3, 2, 5), (1, 3, 1, 1)),
)
"""Leading axes of x, and those of the angles that broadcast to them."""


def _angles(*shape: int) -> dict[str, Draw]:
    """cos and sin `[*shape]` of angles all around the circle."""
    angles = 0.7 * np.arange(prod(shape)).reshape(shape)
    return {"cos": constant(np.cos(angles)), "sin": constant(np.sin(angles))}


def rope_rotate() -> Iterator[Case]:
    """Head sizes, broadcast angles and layouts crossed pairwise; empty axes, magnitudes; the heads of real models."""
    options: dict[str, Any] = {
        "axes": SPREADS,
        "size": HEAD_DIMS,
        "pairs": ["all", "part", "one"],
        "traditional": [False, True],
    }
    for row in pairwise(options):
        (lead, wide), size = row["axes"], row["size"]
        pairs = {"all": size // 2, "part": size // 4, "one": 1}[row["pairs"]]
        id = f"{named(*lead, size)},R{pairs},angles-{named(*wide)}" + (",traditional" if row["traditional"] else "")
        settings = {"traditional": True} if row["traditional"] else {}
        yield Case(id, {"x": normal(*lead, size), **_angles(*wide, pairs)}, settings, "full")
    for x, c in (((0, 3, 8), (3, 4)), ((2, 0, 8), (0, 4)), ((0, 8), (1, 4))):
        yield Case(f"{named(*x)},R4,angles-{named(*c[:-1])}", {"x": normal(*x), **_angles(*c)}, {}, "full", 20)
    for name, size in (("large", 1e4), ("subnormal16", SUBNORMAL_16), ("subnormal32", SUBNORMAL_32)):
        yield Case(f"3x16,R8,{name}", {"x": normal(3, 16, scale=size), **_angles(3, 8)}, {}, "full")
    some = np.where(np.arange(9 * 16).reshape(9, 16) % 23 == 5, np.nan, np.arange(16.0))
    yield Case("9x16,R8,NaN", {"x": constant(some), **_angles(9, 8)}, {}, "full")
    yield Case("3x7,R3,one-over", {"x": normal(3, 7), **_angles(3, 3)}, {}, "full")
    for dtype in ("float16", "bfloat16", "float32"):
        angles = {name: kept(draw, dtype) for name, draw in _angles(3, 8).items()}
        yield Case(f"3x16,R8,angles-in-{dtype}", {"x": normal(3, 16), **angles}, {}, "full", 15)
    for name in MODEL_NAMES[:7]:
        m = MODELS[name]
        for stage, length in (("decode", 1), ("prefill", 9)):
            inputs = {"x": normal(length, m.heads, m.head_dim), **_angles(length, 1, m.head_dim // 2)}
            yield Case(f"{name},{stage},{length}x{m.heads}x{m.head_dim}", inputs, {}, "model")
