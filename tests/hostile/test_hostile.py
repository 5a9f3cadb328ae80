"""The script that measures a server beside hostile clients, for a moment and on a fake model: what, not how fast."""

from __future__ import annotations

import sys
from io import StringIO

import pytest
from rich.console import Console

from tests.hostile.kinds import KINDS
from tests.hostile.run import measure, table

SERVE = (sys.executable, "-m", "tests.server.fake_serve")


@pytest.mark.parametrize(("name", "status"), [("many-values", "400"), ("stop-strings", "200")])
def test_others_are_served_beside_hostile_clients(name: str, status: str) -> None:
    pytest.importorskip("llguidance")
    (kind,) = [kind for kind in KINDS if kind.name == name]
    measured = measure(kind, rounds=1, seconds=0.7, command=SERVE)
    (hostile,) = measured.hostile
    assert set(hostile.answers) <= {status} and hostile.health and hostile.pieces and not hostile.refused
    assert len(measured.harmless) == (kind.harmless is not None)
    assert measured.pages == 0 and measured.memory < 100 and measured.end < 30
    console = Console(width=300, file=StringIO())
    console.print(table([measured]))
    assert isinstance(console.file, StringIO) and f"{name} x{kind.clients}" in console.file.getvalue()
