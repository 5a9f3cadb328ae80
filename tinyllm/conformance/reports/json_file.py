"""Reads a report in JSON that a user names on the command line, of the kit or of a benchmark."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tinyllm.errors import InvalidInputError


def read_document(path: str | Path, command: str, name: str, version: int) -> dict[str, Any]:
    """The object in a JSON file, if it is a report of this format.

    Args:
        command: what writes such reports, for the message.
        name, version: what the fields `format` and `version` must hold.

    Raises:
        InvalidInputError: the file cannot be read, is no JSON or another document; names the file, and the line where
            there is one.
    """
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInputError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{path}: is no text file") from error
    except json.JSONDecodeError as error:
        raise InvalidInputError(f"{path}: line {error.lineno}: is no JSON: {error.msg}") from error
    except (RecursionError, ValueError) as error:  # nested too deep; a number of too many digits
        raise InvalidInputError(f"{path}: is no report: {error}") from error
    if not isinstance(document, dict) or document.get("format") != name:
        raise InvalidInputError(f"{path}: is no report of {command}: expected an object with format {name!r}")
    if document.get("version") != version:
        raise InvalidInputError(
            f"{path}: has version {document.get('version')!r} of the report, this tinyllm reads {version}"
        )
    return document
