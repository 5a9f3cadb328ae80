"""What must hold of an engine's pages between two steps, whatever has happened."""

from __future__ import annotations

from collections.abc import Sequence

from tinyllm.engine.engine import Engine
from tinyllm.engine.page_pool import PagePool


def engine_problems(engine: Engine) -> list[str]:
    """What is not as it must be in the bookkeeping of pages, a sentence each; empty if all is well."""
    entries = [*engine.scheduler.running, *engine.scheduler.waiting]
    problems = pool_problems(engine.pool, [e.sequence.pages for e in entries])
    if {*entries} != {*engine._owners}:
        problems.append("the scheduler's sequences are not those of the requests")
    return problems


def pool_problems(pool: PagePool, holders: Sequence[Sequence[int]]) -> list[str]:
    """What is not as it must be, a sentence each, given the pages that each sequence holds; empty if all is well."""
    counts = [0] * pool.pages
    for pages in holders:
        if len(set(pages)) != len(pages):
            return [f"a sequence holds a page twice: {list(pages)}"]
        for page in pages:
            counts[page] += 1
    problems = []
    for page in range(pool.pages):
        free, kept, held = bool(pool._free[page]), page in pool._kept, pool._holders[page] > 0
        if free + kept + held != 1:
            problems.append(f"page {page}: free {free}, kept {kept}, held {held}: expected one of them")
        if counts[page] != pool._holders[page]:
            problems.append(f"page {page}: held {pool._holders[page]} times, by {counts[page]} sequences")
        if free and page in pool._key_of:
            problems.append(f"page {page}: free, but registered")
        if kept and page not in pool._key_of and page not in pool._tokens_in:
            problems.append(f"page {page}: kept, but nobody can find it")
    if {p: k for k, p in pool._page_of.items()} != pool._key_of:
        problems.append("keys and pages do not name each other")
    if pool.held != sum(count > 0 for count in counts):
        problems.append(f"{pool.held} pages are said to be held")
    return problems
