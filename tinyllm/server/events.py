"""How replies are written: JSON, and server-sent events of it."""

from __future__ import annotations

import json
from typing import Any


def json_bytes(value: dict[str, Any]) -> bytes:
    """JSON in ASCII, which can say half a surrogate pair, too: the arguments of a tool call may hold one."""
    return json.dumps(value, separators=(",", ":")).encode()


def event_bytes(value: dict[str, Any]) -> bytes:
    """A server-sent event."""
    return b"data: " + json_bytes(value) + b"\n\n"
