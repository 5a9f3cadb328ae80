"""How a model stretches its rotary frequencies: the settings, as a checkpoint's config states them."""

from __future__ import annotations

from dataclasses import dataclass

from tinyllm.errors import UnsupportedError, invalid

KINDS = ("default", "linear", "llama3", "yarn")


@dataclass(frozen=True)
class RopeScaling:
    """Settings of a rotary scaling. Field names are those of Hugging Face's `rope_scaling`.

    kind "default": none. "linear": positions divided by `factor` (Chen et al. 2023, arXiv:2306.15595).
    "llama3": low frequencies divided by `factor`, high ones kept, a ramp between (Llama 3.1).
    "yarn": NTK-by-parts with an attention factor (Peng et al. 2023, arXiv:2309.00071).
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
    """How `mha` turns its queries and keys: the settings of the op `rope` in one value. `dims` None: all of a head."""

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
