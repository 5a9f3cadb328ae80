"""llguidance, imported when it is first needed, and what its messages say."""

from __future__ import annotations

import re
from typing import Any

from tinyllm.errors import UnsupportedError


def load_llguidance() -> Any:
    """The module. Raises `UnsupportedError` where it is not installed."""
    try:
        import llguidance
    except ImportError as error:
        raise UnsupportedError("grammar: llguidance is not installed; pip install 'tinyllm[grammar]'") from error
    return llguidance


def first_line(message: str) -> str:
    """The part of one of llguidance's messages that says what is wrong, at most 200 characters."""
    if message.startswith("panic"):
        return "it is too large"
    error = re.search(r"^error: (.*)$", message, re.M)
    line = error[1] if error else message.strip().splitlines()[0]
    prefixes = r"^(at \d+\(\d+\): |failed to compile JSON schema: |invalid regex .* \(in regex\): )*"
    return re.sub(prefixes, "", line)[:200]
