"""Settings of rotary position embeddings, and of how their frequencies are scaled for long texts."""

from __future__ import annotations

from dataclasses import dataclass

from tinyllm.errors import UnsupportedError, invalid

KINDS = ("default", "linear", "llama3", "yarn")


@dataclass(frozen=True)
class RopeScaling:
    """Settings of a rotary scaling, named as in Hugging Face's `rope_scaling`. `rope_frequencies` has the formulas.

    kind "default": none. "linear": all frequencies divided by `factor` (Chen et al. 2023, arXiv:2306.15595). "llama3":
    those of slow pairs divided, those of fast pairs kept, a ramp between (Llama 3.1). "yarn": likewise, with an
    attention factor (Peng et al. 2023, arXiv:2309.00071).

    factor: how many times as long texts may become. original_max_position: tokens of the texts before. low_freq_factor,
    high_freq_factor (llama3), beta_slow, beta_fast (yarn): the ends of the ramp, in turns that a pair makes over
    `original_max_position`. truncate: YaRN's ramp begins and ends at whole pairs. attention_factor: what YaRN
    multiplies cos and sin by; None: made of `mscale` and `mscale_all_dim`, or of `factor` alone.

    Raises:
        UnsupportedError: a kind that is none of these. InvalidInputError: `factor` not above 0, or
            `original_max_position` missing where the kind needs it.
    """

    kind: str = "default"
    factor: float = 1.0
    original_max_position: int | None = None
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UnsupportedError(f"rope: scaling type {self.kind!r} is not supported (supported: {', '.join(KINDS)})")
        if not self.factor > 0:
            raise invalid("rope", "scaling.factor", "a number above 0", self.factor)
        if self.kind in ("llama3", "yarn") and not self.original_max_position:
            raise invalid(
                "rope",
                "scaling.original_max_position",
                f"a positive integer for {self.kind}",
                self.original_max_position,
            )


@dataclass(frozen=True)
class Rope:
    """How `mha` rotates its queries and keys: the settings of the op `rope` in one value.

    dims: how many dims of a head are rotated; None: all. base: pair i turns by `base^(-2i / dims)` radians per
    position. traditional: pairs are (2i, 2i + 1), not (i, i + dims / 2). position_scale: multiplies positions.

    Raises:
        InvalidInputError: `dims` odd or not above 0, or `base` not above 1.
    """

    dims: int | None = None
    base: float = 10000.0
    scaling: RopeScaling | None = None
    traditional: bool = False
    position_scale: float = 1.0

    def __post_init__(self) -> None:
        if self.dims is not None and (self.dims <= 0 or self.dims % 2):
            raise invalid("rope", "dims", "a positive even number", self.dims)
        if not self.base > 1:
            raise invalid("rope", "base", "a number above 1", self.base)
