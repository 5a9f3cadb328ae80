"""`tinyllm cache`: the packed weights on this machine, and how to be rid of them."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tinyllm.cli import options
from tinyllm.errors import TinyllmError, UnknownNameError, suggest

if TYPE_CHECKING:
    from tinyllm.graph.packed_folder import Packed


def cache(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", show_default="all", help="The checkpoint, as the table or --model names it."),
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Remove them, and say how much that freed.")] = False,
    as_json: options.Json = False,
) -> None:
    """List the packed weights in the cache folder, or remove them.

    They are made when a model is first loaded, and read by every start after that.
    What was not used for the longest time goes where they outgrow the setting `cache_size`.
    """
    from tinyllm.cli.output import note, print_json, print_table, size
    from tinyllm.graph.packed_folder import contents, remove
    from tinyllm.models.download.sources import packed_folder
    from tinyllm.settings.read import read_settings

    folder, bound = packed_folder(), read_settings()["cache_size"].value
    try:
        found = [(packed, _row(packed)) for packed in reversed(contents(folder))]
        if name is not None:
            found = _named(name, found)
        if clear:
            for packed, _ in found:
                remove(packed)
    except OSError as error:
        raise TinyllmError(f"cache: {error.filename or folder}: {error.strerror}") from error
    rows = [row for _, row in found]
    total = sum(packed.nbytes for packed, _ in found)
    if as_json:
        print_json({"folder": str(folder), "cleared": clear, "bytes": total, "limit": bound, "packed": rows})
        return
    if not clear and rows:
        print_table(
            ["checkpoint", "layout", "files", "size", "last used"],
            [(row["checkpoint"], row["layout"], row["files"], size(row["bytes"]), row["used"][:16]) for row in rows],
        )
    if clear:
        note(f"{folder}: {size(total)} freed")
    elif not rows:
        note(f"{folder}: no packed weights; at most {size(bound)} are kept")
    else:
        note(f"{folder}: {size(total)} of at most {size(bound)}; remove them with: tinyllm cache --clear [NAME]")


def _row(packed: Packed) -> dict[str, Any]:
    """What is shown of packed weights."""
    checkpoint, layout = packed.names()
    used = datetime.fromtimestamp(packed.used).astimezone().isoformat(" ", "minutes")
    return {"checkpoint": checkpoint, "layout": layout, "files": packed.files, "bytes": packed.nbytes, "used": used}


def _named(name: str, found: list[tuple[Packed, dict[str, Any]]]) -> list[tuple[Packed, dict[str, Any]]]:
    """Those of one checkpoint, given by the name in the table, a known name or a path. Raises `UnknownNameError`."""
    from tinyllm.models.download.sources import KNOWN

    wanted = KNOWN[name].file if name in KNOWN else options.served_name(name)
    chosen = [(packed, row) for packed, row in found if row["checkpoint"] in (name, wanted)]
    if not chosen:
        known = {row["checkpoint"] for _, row in found}
        raise UnknownNameError(f"cache: no packed weights of {name!r}.{suggest(name, known)}")
    return chosen
