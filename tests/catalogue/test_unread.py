"""What `OpSpec.unread` names does no harm, and what it does not name is read."""

import zlib

import numpy as np
import pytest

from tinyllm.catalogue import CATALOGUE
from tinyllm.catalogue.schemes import Affine
from tinyllm.spec.scheme import QuantWeight

OPS = ("sdpa", "gqa", "mha", "paged_attention")
CASES = [
    pytest.param(CATALOGUE[op], case, id=f"{op}-{case.id}")
    for op in OPS
    for case in CATALOGUE[op].cases
    if case.tier == "smoke"
]


def drawn(case):
    rng = np.random.default_rng(zlib.crc32(case.id.encode()))
    return {name: draw.make(rng) for name, draw in case.inputs.items()}


def result(spec, case, inputs):
    """Outputs of the float64 reference."""
    positional = [inputs[i.name] for i in spec.positional]
    keyword = {i.name: inputs[i.name] for i in spec.keyword if i.name in inputs}
    with np.errstate(all="ignore"):
        outputs = spec.reference(np, *positional, **keyword, **case.attributes)
    return outputs if isinstance(outputs, tuple) else (outputs,)


def differ(some, others):
    return not all(np.array_equal(a, b, equal_nan=True) for a, b in zip(some, others, strict=True))


@pytest.mark.parametrize("fill", [np.nan, np.inf, -np.inf, 1e30], ids=str)
@pytest.mark.parametrize(("spec", "case"), CASES)
def test_numbers_that_nobody_reads_do_no_harm(spec, case, fill):
    inputs = drawn(case)
    unread = spec.unread(inputs, case.attributes)
    for name, hidden in unread.items():
        assert (hidden.shape, hidden.dtype) == (inputs[name].shape, bool)
    filled = inputs | {name: np.where(hidden, fill, inputs[name]) for name, hidden in unread.items()}
    outputs = result(spec, case, inputs)
    assert all(np.isfinite(output).all() for output in outputs)
    assert not differ(result(spec, case, filled), outputs)


@pytest.mark.parametrize(("spec", "case"), CASES)
def test_all_other_keys_and_values_matter(spec, case):
    inputs = drawn(case)
    outputs = result(spec, case, inputs)
    rng = np.random.default_rng(0)
    for name, hidden in spec.unread(inputs, case.attributes).items():
        for place in rng.permutation(np.argwhere(~hidden))[:5]:
            flipped = inputs[name].copy()
            flipped[tuple(place)] = np.nan
            assert differ(result(spec, case, inputs | {name: flipped}), outputs), (name, place)


@pytest.mark.parametrize("op", OPS)
def test_each_op_has_cases_with_numbers_that_nobody_reads(op):
    """Some in part: not only where nothing at all is asked."""
    spec = CATALOGUE[op]
    shares = {name: set() for name in ("k", "v", "past_k", "past_v", "key", "value", "k_pages", "v_pages")}
    for case in spec.all_cases:
        inputs = drawn(case)
        for name, hidden in spec.unread(inputs, case.attributes).items():
            shares[name].add("all" if hidden.all() else "some" if hidden.any() else "none")
    named = [name for name in shares if name in {i.name for i in spec.inputs}]
    assert named and all({"some", "none"} <= shares[name] for name in named)


@pytest.mark.parametrize(
    ("op", "case_id", "name", "share"),
    [
        ("sdpa", "H2,L6,S6,D4,window2", "k", 0.0),
        ("sdpa", "H2,L6,S8,D4,window3,causal", "k", 0.0),
        ("sdpa", "L2,S6,D4,hidden NaN", "v", 0.5),
        ("gqa", "B3,Hq4,Hkv2,L2,S6,lengths,causal", "k", 6 / 18),
        ("gqa", "B2,Hq4,Hkv2,nothing to see", "v", 0.5),
        ("gqa", "L0", "k", 1.0),
        ("mha", "padding NaN", "key", 0.5),
        ("paged_attention", "B1,T6,one large page", "k_pages", 26 / 32),
        ("paged_attention", "mixed,window1", "v_pages", 1 - 10 / 36),
    ],
)
def test_how_much_is_unread(op, case_id, name, share):
    case = next(case for case in CATALOGUE[op].cases if case.id == case_id)
    assert CATALOGUE[op].unread(drawn(case), case.attributes)[name].mean() == pytest.approx(share)


def test_keys_and_values_given_back_are_read():
    case = next(case for case in CATALOGUE["mha"].cases if "past_k" in case.inputs and case.attributes.get("return_kv"))
    assert CATALOGUE["mha"].unread(drawn(case), case.attributes) == {}


def test_a_key_that_one_head_sees_is_read():
    inputs = {"q": np.ones((2, 2, 1, 4)), "k": np.ones((1, 1, 3, 4)), "v": np.ones((3, 5))}
    mask = np.zeros((2, 2, 1, 3), bool)
    mask[1, 0, 0, 2] = True
    unread = CATALOGUE["sdpa"].unread(inputs | {"mask": mask}, {})
    assert [unread[name][..., 0].ravel().tolist() for name in "kv"] == [[True, True, False]] * 2


@pytest.mark.parametrize("case", CATALOGUE["mha"].cases_of(Affine()), ids=lambda case: case.id)
def test_quantized_projections_are_not_named(case):
    inputs = drawn(case)
    assert any(isinstance(value, QuantWeight) for value in inputs.values())
    assert CATALOGUE["mha"].unread(inputs, case.attributes) == {}
