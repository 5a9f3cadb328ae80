"""What a scheme says of itself: parameters that are checked once, and what follows where it says nothing else."""

from dataclasses import FrozenInstanceError, dataclass
from typing import ClassVar

import numpy as np
import pytest

from tinyllm import Affine, Int8
from tinyllm.catalogue.schemes import SCHEMES
from tinyllm.errors import InvalidInputError, UnsupportedError
from tinyllm.spec.quantized import check_quant_weight, dense, magnitude
from tinyllm.spec.scheme import SCALES, Part, QuantWeight, Scheme

BITS = "one of 2, 3, 4, 5, 6, 8"
POSITIVE = "an integer of at least 1"


@dataclass(frozen=True)
class Signs(Scheme):
    """A sign for each number and a size for each row, and nothing that need not be said."""

    name: ClassVar[str] = "signs"
    formula: ClassVar[str] = "w = size * sign"
    source: ClassVar[str] = "Rastegari et al. 2016, arXiv:1603.05279"

    @property
    def block(self):
        return 4

    @property
    def bits_per_weight(self):
        return 8.0

    def parts(self, shape):
        return {"signs": Part(shape, ("int8",)), "sizes": Part((*shape[:-1], 1), SCALES)}

    def dequantize(self, xp, weight, dtype):
        return xp.astype(weight.arrays["signs"], dtype) * xp.astype(weight.arrays["sizes"], dtype)


class Quantizing(Signs):
    """The same, with a way to make weights."""

    def quantize(self, xp, w):
        signs = xp.where(w < 0, xp.asarray(-1, dtype=xp.int8), xp.asarray(1, dtype=xp.int8))
        return QuantWeight(self, {"signs": signs, "sizes": xp.mean(xp.abs(w), axis=-1, keepdims=True)}, w.shape)


class WithoutScales(Quantizing):
    """Arrays of one dtype each."""

    def parts(self, shape):
        return {"signs": Part(shape, ("int8",)), "sizes": Part((*shape[:-1], 1), ("float16",))}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        *(
            (lambda bits=bits: Affine(bits), f"affine: bits: expected {BITS}, got {bits!r}")
            for bits in (7, 0, "4", 4.0)
        ),
        *(
            (lambda make=make, size=size: make(size), f"{name}: group_size: expected {POSITIVE}, got {size!r}")
            for name, make in (("affine", lambda size: Affine(4, size)), ("int8", Int8))
            for size in (0, -32, True, 32.0, "32", None)
        ),
    ],
)
def test_parameters_are_checked_when_a_scheme_is_made(make, message):
    with pytest.raises(InvalidInputError) as caught:
        make()
    assert str(caught.value) == message


def test_parameters_stay_as_they_were_checked():
    with pytest.raises(FrozenInstanceError):
        Affine().bits = 7


def test_schemes_are_equal_where_their_parameters_are():
    assert Affine(4, 32) == Affine(4, 32) != Affine(4, 64)
    assert len({Affine(4, 32), Affine(4, 32), Affine(3, 32), Int8(32), Int8(32)}) == 3


def test_parameters_are_in_the_name_that_users_read():
    assert [str(s) for s in (Affine(3, 32), Int8(16), Signs())] == ["affine3/32", "int8/16", "signs"]
    assert str(Affine(4, 32).draw(np.random.default_rng(0), (3, 96)).type) == "affine4/32[3, 96]"


def test_a_scheme_that_only_reads():
    scheme = Signs()
    assert not scheme.can_quantize and Quantizing().can_quantize
    with pytest.raises(UnsupportedError, match=r"^quantize: scheme: signs has no way to make weights, it only reads"):
        scheme.quantize(np, np.ones((2, 4)))
    with pytest.raises(UnsupportedError, match=r"^quantize: scheme: signs has no way"):
        scheme.draw(np.random.default_rng(0), (2, 4))


def test_a_scheme_that_affine_cannot_hold():
    weight = Quantizing().draw(np.random.default_rng(0), (2, 4))
    assert weight.scheme.affine is None
    with pytest.raises(UnsupportedError, match=r"^signs: cannot be held as affine numbers$"):
        weight.scheme.as_affine(weight)


@pytest.mark.parametrize("scheme", [s for s in SCHEMES.values() if s.affine], ids=str)
def test_affine_numbers_are_the_very_same(scheme):
    """Computed in float64, in every form of a weight, unless the scheme says that they are rounded to float32."""
    kept = set()
    for draw in scheme.forms().values():
        weight = draw(np.random.default_rng(0), (3, 512))
        affine = scheme.as_affine(weight)
        exact, held = (w.scheme.dequantize(np, w, np.float64) for w in (weight, affine))
        kept.add(np.array_equal(exact, held))
        assert (np.abs(exact - held) <= scheme.magnitude(weight) * 2.0**-24).all()
    assert (False in kept) == scheme.affine_rounds


def test_random_weights_come_from_quantizing():
    """Of both signs, sizes in float16 and near those of normal numbers."""
    weight = Quantizing().draw(np.random.default_rng(0), (3, 5, 64))
    check_quant_weight("test", "w", weight)
    assert weight.arrays["sizes"].dtype == np.float16 and set(np.unique(weight.arrays["signs"])) == {-1, 1}
    assert 0.5 < weight.arrays["sizes"].min() <= weight.arrays["sizes"].max() < 1.2


def test_forms_are_the_dtypes_of_scales():
    """Each with scales that float16 does not hold; a scheme whose arrays have one dtype each has one form."""
    scheme = Quantizing()
    assert list(scheme.forms()) == ["", "float32 scales", "bfloat16 scales"]
    assert list(WithoutScales().forms()) == [""]
    for form, dtype in (("", "float16"), ("float32 scales", "float32"), ("bfloat16 scales", "bfloat16")):
        weight = scheme.forms()[form](np.random.default_rng(0), (8, 64))
        check_quant_weight("test", "w", weight)
        sizes = weight.arrays["sizes"]
        assert (str(sizes.dtype), weight.arrays["signs"].dtype) == (dtype, np.int8)
        held = (sizes.astype(np.float16).astype(np.float64) == sizes.astype(np.float64)).all()
        assert held == (form != "float32 scales")


def test_a_scheme_without_parameters_is_its_only_variant():
    assert Signs().variants() == (Signs(),)
    assert Signs().check_parameters((2, 4)) is None
    assert Signs().check_values(Quantizing().draw(np.random.default_rng(0), (2, 4)), np.asarray) is None


def test_magnitude_is_the_size_of_the_numbers():
    weight = Quantizing().draw(np.random.default_rng(0), (3, 8))
    np.testing.assert_array_equal(magnitude(weight), np.abs(dense(np, weight, np.float64)))
    assert magnitude(weight).dtype == np.float64
    np.testing.assert_array_equal(magnitude(np.array([[-2.0, 0.5]])), [[2.0, 0.5]])


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=str)
def test_numbers_are_no_larger_than_their_magnitude(scheme):
    for variant in scheme.variants():
        for draw in variant.forms().values():
            weight = draw(np.random.default_rng(0), (3, 32 * variant.block))
            assert (np.abs(dense(np, weight, np.float64)) <= magnitude(weight) * (1 + 1e-6)).all()


def test_terms_that_cancel_are_counted_each():
    """Of scale * q + bias near 0 the errors are those of the two terms."""
    weight = Affine(4, 32).draw(np.random.default_rng(0), (64, 96))
    assert magnitude(weight).min() > 0.05
    assert np.abs(dense(np, weight, np.float64)).min() < 0.001
