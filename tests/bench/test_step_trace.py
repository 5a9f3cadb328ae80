"""A traced step: rows, their rates and shares, and the file for Chrome's trace viewer."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.catalogue.harness import registry
from tests.graph.test_program import program
from tinyllm.bench.chrome_trace import chrome_trace
from tinyllm.bench.limits import Limits
from tinyllm.bench.step_trace import Row, by_kernel, node_rows, slowest_first
from tinyllm.graph.observe import Ran
from tinyllm.graph.tools.cost import step_sizes

LIMITS = Limits(10.0, 100.0)
ROWS = st.lists(
    st.builds(
        Row,
        name=st.text(max_size=5),
        op=st.just("op"),
        kernel=st.sampled_from(["a/op:x", "b/op:x", "copy a->b"]),
        backend=st.sampled_from(["a:cpu", "b:cpu"]),
        nodes=st.just(1),
        seconds=st.integers(0, 9).map(lambda n: n / 8),
        flops=st.integers(0, 10**9),
        bytes=st.integers(0, 10**9),
        least=st.none() | st.just(0.25),
    ),
    max_size=12,
)


@given(ROWS)
def test_kernels_add_up(rows: list[Row]) -> None:
    """Sums stay, the slowest come first, and a share is known where all of its parts are."""
    kernels = by_kernel(rows)
    for what in ("nodes", "seconds", "flops", "bytes"):
        assert sum(getattr(row, what) for row in kernels) == pytest.approx(sum(getattr(row, what) for row in rows))
    assert [row.seconds for row in kernels] == sorted((row.seconds for row in kernels), reverse=True)
    assert len({(row.kernel, row.backend) for row in kernels}) == len(kernels)
    for row in kernels:
        parts = [one.least for one in rows if (one.kernel, one.backend) == (row.kernel, row.backend)]
        assert row.least == (None if None in parts else sum(part or 0 for part in parts))
    assert sorted(map(repr, slowest_first(rows))) == sorted(map(repr, rows))


def test_rates_and_shares_are_of_what_ran() -> None:
    """The binding limit is that of the bandwidth or of the arithmetic; a view that takes no time has no rates."""
    bound = program("numpy")
    ran = [Ran(node, 0.0 if node.op == "split" else 1e-3) for node in bound.nodes]
    rows = node_rows(ran, registry().specs, step_sizes(1, 1), lambda node: LIMITS if node.op != "add" else None)
    assert [row.name for row in rows] == [node.name for node in bound.nodes]
    for row in rows:
        if row.op == "split" or row.op == "add":
            assert row.of_limit is None and (row.gb_s is None) == (row.op == "split")
        elif row.bytes or row.flops:
            assert row.gb_s == pytest.approx(row.bytes / 1e6) and row.of_limit is not None
            assert row.of_limit == pytest.approx(max(row.bytes / 1e10, row.flops / 1e11) / 1e-3)


@given(ROWS, ROWS)
def test_the_file_for_chrome_has_every_node_once_one_after_the_other(first: list[Row], second: list[Row]) -> None:
    """By the rules of the format: complete events with times in microseconds, on processes and threads that have
    names."""
    events = json.loads(json.dumps(chrome_trace({"prompt": first, "token": second})))["traceEvents"]
    complete = [event for event in events if event["ph"] == "X"]
    named = {
        (e["name"], e["pid"], e["tid"] if e["name"] == "thread_name" else 0): e["args"]["name"]
        for e in events
        if e["ph"] == "M"
    }
    assert len(complete) + len(named) == len(events)
    now = 0.0
    for event, row in zip(complete, [*first, *second], strict=True):
        assert event["ts"] == pytest.approx(now) and event["dur"] == pytest.approx(row.seconds * 1e6)
        assert (event["name"], event["cat"], event["args"]["kernel"]) == (row.name, row.op, row.kernel)
        assert named["thread_name", event["pid"], event["tid"]] == row.backend
        now += event["dur"]
    steps = [named["process_name", event["pid"], 0] for event in complete]
    assert steps == ["prompt"] * len(first) + ["token"] * len(second)
