"""Logs on stderr: a JSON object a line."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any

log = logging.getLogger("tinyllm.server")


class JsonFormatter(logging.Formatter):
    """time, level, logger, event, then what `extra={"fields": {...}}` brought, and where it went wrong."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        entry |= getattr(record, "fields", {})
        if record.exc_info and record.exc_info[1] is not None:
            entry["traceback"] = "".join(traceback.format_exception(record.exc_info[1]))
        return json.dumps(entry, default=str)


def configure(level: str) -> None:
    """Send the logs of the server, and of uvicorn beneath it, to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    for name in ("tinyllm.server", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level.upper())
    if level != "debug":  # uvicorn's own news of starting and stopping are told by us
        logging.getLogger("uvicorn").setLevel(logging.WARNING if level == "info" else level.upper())
