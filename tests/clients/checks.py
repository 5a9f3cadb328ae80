"""What the scripts share: a command line, questions to ask, and a line for each check.

A script runs where its client is installed and nothing of tinyllm's is, so this needs the standard library alone.
"""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from collections.abc import Callable, Sequence

Check = Callable[[str, str], None]
"""A function that uses a client, as `check(base_url, model)`, and asserts what must hold."""

API_KEY = "any"
"""What the scripts show the server, which may ask for it."""


def main(checks: Sequence[Check]) -> None:
    """Run the checks of a script against the server that its command line names, and tell each in a line: `ok: NAME`,
    or `failed: NAME: reason`. Exits with 1 if one failed."""
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--base-url", default="http://127.0.0.1:8000/v1", help="of the server (default: %(default)s)")
    parser.add_argument("--model", default="smollm2", help="that it serves (default: %(default)s)")
    parser.add_argument("--only", metavar="CHECK", help="run this check alone")
    given = parser.parse_args()
    failed = 0
    for check in checks:
        if given.only in (None, check.__name__):
            failed += not passes(check, given.base_url, given.model)
    sys.exit(1 if failed else 0)


def passes(check: Check, base_url: str, model: str) -> bool:
    """Run a check and tell what came of it; where it failed, its traceback goes to stderr."""
    try:
        check(base_url, model)
    except Exception as error:  # noqa: BLE001 whatever a client raises is what came of it
        traceback.print_exc()
        print(f"failed: {check.__name__}: {type(error).__name__}: {' '.join(str(error).split())}", flush=True)
        return False
    print(f"ok: {check.__name__}", flush=True)
    return True


def is_weather_call(name: str, arguments: str | dict[str, object]) -> bool:
    """Whether a call is one of `get_weather(city: str)`, and of nothing else."""
    given = json.loads(arguments) if isinstance(arguments, str) else arguments
    return name == "get_weather" and set(given) == {"city"} and isinstance(given["city"], str)
