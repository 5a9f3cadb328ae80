"""Which replica a request goes to, for any loads, healths and prefixes."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyllm.engine.page_pool import page_keys
from tinyllm.errors import InvalidInputError
from tinyllm.scale.policy import POLICIES, Fleet, Policy, Warm, make_policy
from tinyllm.scale.prefix_memory import PrefixMemory

REPLICAS = 5
PROMPTS = st.lists(st.integers(0, 2), max_size=6)
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), PROMPTS, st.sets(st.integers(0, REPLICAS - 1))),
        st.tuples(st.just("end"), st.integers(0, REPLICAS - 1)),
        st.tuples(st.just("told"), st.integers(0, REPLICAS - 1), st.integers(0, 9)),
        st.tuples(st.just("held"), st.integers(0, REPLICAS - 1), st.sampled_from([0.0, 0.5, 1.0])),
        st.tuples(st.just("health"), st.integers(0, REPLICAS - 1), st.sampled_from([True, True, False])),
        st.tuples(st.just("forget"), st.integers(0, REPLICAS - 1)),
    ),
    min_size=20,
    max_size=40,
)


def run(policy: Policy, operations: list[tuple[Any, ...]]) -> list[int | None]:
    """The choices, each of them checked."""
    fleet, chosen = Fleet(REPLICAS), list[int | None]()
    fleet.healthy[:] = True
    for kind, *rest in operations:
        if kind == "ask":
            prompt, without = rest
            keys = page_keys(prompt, 1)
            choice = policy.choose(fleet, keys, without)
            usable = [n for n in range(REPLICAS) if fleet.healthy[n] and n not in without]
            chosen.append(None if choice is None else choice.replica)
            if choice is None:
                assert not usable
                continue
            assert choice.replica in usable and 0 <= choice.warm <= len(keys)
            loads = np.maximum(fleet.in_flight, fleet.told)
            if not isinstance(policy, Warm):
                assert choice.warm == 0
            elif choice.warm:
                assert loads[choice.replica] <= loads[usable].min() + policy.slack
                assert choice.replica in policy.memory.holders(keys[choice.warm - 1])
            else:
                assert loads[choice.replica] == loads[usable].min()
            policy.sent(choice.replica, keys)
            fleet.in_flight[choice.replica] += 1
        elif kind == "forget":
            policy.forget(rest[0])
        elif kind == "end":
            fleet.in_flight[rest[0]] = max(0, fleet.in_flight[rest[0]] - 1)
        else:
            {"told": fleet.told, "held": fleet.pages_held, "health": fleet.healthy}[kind][rest[0]] = rest[1]
    return chosen


@pytest.mark.parametrize("name", POLICIES)
@settings(max_examples=30, deadline=None)
@given(operations=OPERATIONS)
def test_choices_are_allowed_and_repeatable(name: str, operations: list[tuple[Any, ...]]) -> None:
    """Never an unhealthy replica or one that is out of the question; never busier than the slack allows; the same
    inputs lead to the same choices."""
    assert run(make_policy(name, 2, 4), operations) == run(make_policy(name, 2, 4), operations)


@settings(max_examples=60, deadline=None)
@given(prompts=st.lists(PROMPTS.filter(bool), min_size=1, max_size=30))
def test_one_prefix_stays_where_it_is_while_the_load_allows(prompts: list[list[int]]) -> None:
    """Where nobody is ever busy, a prompt goes where its longest prefix went."""
    policy, fleet, went = Warm(slack=0, remembered=1000), Fleet(REPLICAS), dict[tuple[int, ...], set[int]]()
    fleet.healthy[:] = True
    for prompt in prompts:
        keys = page_keys(prompt, 1)
        choice = policy.choose(fleet, keys)
        assert choice is not None
        known = [n for n in range(len(prompt), 0, -1) if tuple(prompt[:n]) in went]
        assert choice.warm == (known[0] if known else 0)
        assert not known or choice.replica in went[tuple(prompt[: known[0]])]
        policy.sent(choice.replica, keys)
        for n in range(1, len(prompt) + 1):
            went.setdefault(tuple(prompt[:n]), set()).add(choice.replica)


def test_load_goes_before_warmth() -> None:
    policy, fleet, keys = Warm(slack=2), Fleet(2), page_keys([1, 2], 1)
    fleet.healthy[:] = True
    policy.sent(0, keys)
    fleet.in_flight[0] = 2
    before = policy.choose(fleet, keys)
    fleet.told[0] = 3
    after = policy.choose(fleet, keys)
    assert before and after and (before.replica, after.replica) == (0, 1)


def test_what_keys_depend_on_tells_prefixes_apart() -> None:
    """The same tokens of another model, adapter or KV scheme are not warm."""
    policy, fleet = Warm(), Fleet(2)
    fleet.healthy[:] = True
    policy.sent(1, page_keys([1, 2], 1, b"model float16"))
    warm = [policy.choose(fleet, page_keys([1, 2], 1, salt)) for salt in (b"model float16", b"model float32")]
    assert [choice.warm for choice in warm if choice] == [2, 0]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), PROMPTS), max_size=60), st.integers(1, 5))
def test_the_memory_is_bounded_and_whole(sent: list[tuple[int, list[int]]], most: int) -> None:
    """Who has a key has those before it, no more than `most` are kept, and those sent last are."""
    memory = PrefixMemory(most)
    for replica, prompt in sent:
        keys = page_keys(prompt, 1)
        memory.add(replica, keys)
        assert memory.count(replica) <= most
        assert all(replica in memory.holders(key) for key in keys[:most])
    for _, prompt in sent:
        keys = page_keys(prompt, 1)
        found = [memory.holders(key) for key in keys]
        assert all(later <= earlier for earlier, later in pairwise(found))
        assert memory.depth(keys) == sum(bool(holders) for holders in found)
    for replica in range(3):
        memory.forget(replica)
    assert not memory._holders and not memory._sent


def test_a_policy_that_there_is_not() -> None:
    with pytest.raises(InvalidInputError, match="policy: expected one of warm, least-loaded, round-robin, got 'hot'"):
        make_policy("hot")
