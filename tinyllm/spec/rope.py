"""Settings of rotary position embeddings, and of how their frequencies are scaled for long texts."""

from __future__ import annotations

from dataclasses import dataclass

from tinyllm.errors import UnsupportedError, invalid

KINDS = ("default", "linear", "llama3", "yarn", "proportional", "dynamic", "longrope")
BY_LENGTH = ("dynamic", "longrope")
"""Kinds whose frequencies depend on the length of the sequence."""
_OF_A_LENGTH = ("llama3", "yarn", *BY_LENGTH)
"""Kinds that need `original_max_position`."""


@dataclass(frozen=True)
class RopeScaling:
    """Settings of a rotary scaling, named as in Hugging Face's `rope_scaling`. `rope_frequencies` has the formulas.

    kind "default": none. "linear": all frequencies divided by `factor` (Chen et al. 2023, arXiv:2306.15595). "llama3":
    those of slow pairs divided, those of fast pairs kept, a ramp between (Llama 3.1). "yarn": likewise, with an
    attention factor (Peng et al. 2023, arXiv:2309.00071). "proportional": the first `partial_rotary_factor` of the
    pairs turn, at the frequencies that they have in the whole head, divided by `factor`; the others stay (Gemma 4).
    "dynamic": the base grows with sequences longer than `original_max_position` (NTK). "longrope": the frequency of
    each pair is divided by its `short_factor`, in sequences longer than `original_max_position` by its `long_factor`,
    with an attention factor (Ding et al. 2024, arXiv:2402.13753).

    factor: how many times as long texts may become. original_max_position: tokens of the texts before. low_freq_factor,
    high_freq_factor (llama3), beta_slow, beta_fast (yarn): the ends of the ramp, in turns that a pair makes over
    `original_max_position`. truncate: YaRN's ramp begins and ends at whole pairs. attention_factor: what YaRN and
    longrope multiply cos and sin by; None: made of `mscale` and `mscale_all_dim` (YaRN), of `short_mscale` and
    `long_mscale`, for short and for long sequences (longrope), or of `factor` alone.

    Raises:
        UnsupportedError: a kind that is none of these. InvalidInputError: `factor` not above 0;
            `original_max_position`, `short_factor` or `long_factor` missing where the kind needs it, or not above 0;
            `partial_rotary_factor` not above 0 or more than 1; one of `short_mscale` and `long_mscale` alone, or beside
            `attention_factor`.
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
    partial_rotary_factor: float = 1.0
    short_factor: tuple[float, ...] = ()
    long_factor: tuple[float, ...] = ()
    short_mscale: float | None = None
    long_mscale: float | None = None

    @property
    def by_length(self) -> bool:
        """Whether frequencies depend on the length of the sequence."""
        return self.kind in BY_LENGTH

    def side(self, length: int) -> int:
        """A number that is the same for lengths at which frequencies are the same, where they go by the length."""
        original = self.original_max_position or 0
        return max(length, original) if self.kind == "dynamic" else int(length > original)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UnsupportedError(f"rope: scaling type {self.kind!r} is not supported (supported: {', '.join(KINDS)})")
        if not self.factor > 0:
            raise invalid("rope", "scaling.factor", "a number above 0", self.factor)
        if self.kind in _OF_A_LENGTH and not self.original_max_position:
            raise invalid(
                "rope",
                "scaling.original_max_position",
                f"a positive integer for {self.kind}",
                self.original_max_position,
            )
        if not 0 < self.partial_rotary_factor <= 1:
            raise invalid(
                "rope", "scaling.partial_rotary_factor", "a number above 0, at most 1", self.partial_rotary_factor
            )
        if self.kind == "longrope":
            self._check_longrope()

    def _check_longrope(self) -> None:
        if self.original_max_position == 1:  # its logarithm divides
            raise invalid("rope", "scaling.original_max_position", "an integer above 1 for longrope", 1)
        for name in ("short_factor", "long_factor"):
            factors = getattr(self, name)
            if not isinstance(factors, tuple) or not factors or not all(f > 0 for f in factors):
                raise invalid("rope", f"scaling.{name}", "a tuple of numbers above 0, one for each pair", factors)
        if len(self.short_factor) != len(self.long_factor):
            expected = f"{len(self.short_factor)} numbers as in short_factor"
            raise invalid("rope", "scaling.long_factor", expected, len(self.long_factor))
        if (self.short_mscale is None) != (self.long_mscale is None):
            raise invalid("rope", "scaling.short_mscale", "short_mscale and long_mscale together", "one of them")
        if self.short_mscale is not None and self.attention_factor is not None:
            expected = "either attention_factor or short_mscale and long_mscale"
            raise invalid("rope", "scaling.attention_factor", expected, "both")


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
