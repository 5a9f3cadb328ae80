"""A report in JSON that a user names on the command line: what keeps it from being read is told in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tinyllm.errors import InvalidInputError


def read_json(path: str | Path) -> Any:
    """What is in the JSON file, whatever it is.

    Raises:
        InvalidInputError: names the file, and the line where there is one.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInputError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{path}: is no text file") from error
    except json.JSONDecodeError as error:
        raise InvalidInputError(f"{path}: line {error.lineno}: is no JSON: {error.msg}") from error
    except (RecursionError, ValueError) as error:  # nested too deep; a number of too many digits
        raise InvalidInputError(f"{path}: is no report: {error}") from error
