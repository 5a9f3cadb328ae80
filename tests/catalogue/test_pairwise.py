from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from tinyllm.catalogue.cases.pairwise import pairwise


@given(sizes=st.lists(st.integers(1, 4), min_size=2, max_size=7))
def test_every_pair_of_values_occurs(sizes):
    options = {f"o{n}": [f"{n}.{v}" for v in range(size)] for n, size in enumerate(sizes)}
    rows = pairwise(options)
    assert all(list(row) == list(options) for row in rows)
    for a, b in combinations(options, 2):
        assert {(row[a], row[b]) for row in rows} == {(x, y) for x in options[a] for y in options[b]}


def test_rows_are_few():
    rows = pairwise({name: [0, 1, 2] for name in "abcdefghijkl"})
    assert 9 <= len(rows) <= 24
    assert rows == pairwise({name: [0, 1, 2] for name in "abcdefghijkl"})


def test_pairs_that_are_not_allowed_do_not_occur():
    options = {"keys": ["self", "cross"], "rope": [None, "half", "pairs"], "flag": [False, True], "values": [[], {}]}
    rows = pairwise(options, lambda pair: not (pair.get("keys") == "cross" and pair.get("rope")))
    seen = {(row["keys"], row["rope"]) for row in rows}
    assert seen == {("self", None), ("self", "half"), ("self", "pairs"), ("cross", None)}
    assert {(row["rope"], row["flag"]) for row in rows} == {(r, f) for r in options["rope"] for f in (False, True)}
