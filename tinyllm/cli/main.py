"""Where the `tinyllm` command starts, and where every error becomes one line and an exit code.

Typer and the commands are imported inside `main`, so that Ctrl-C is caught while they load as well.
"""

from __future__ import annotations

import errno
import os
import sys
import warnings
from collections.abc import Sequence
from io import TextIOWrapper
from typing import TextIO

from tinyllm.cli.output import discard, note

INTERRUPTED = 130
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Only writing fails with these, and what writes a file has an error of its own that names it: stdout is left."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and give its exit code: 0, 1 for a failure, 2 for a wrong call, 130 after Ctrl-C."""
    _open_closed_streams()
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = _take_debug(arguments) or os.environ.get("TINYLLM_DEBUG", "0") not in ("", "0")
    try:
        code = _run(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone, as `head` does
        discard(sys.stdout)
        return 1
    except Exception as error:  # the one place where whatever went wrong becomes a line for the user
        if debug:
            raise
        return _report(_refused(error) if isinstance(error, OSError) else error)
    if code == INTERRUPTED:
        note("\ninterrupted")
    return code


def _open_closed_streams() -> None:
    """Python has None for a stream that was closed before it began, as by `2>&-`. The null device stands in for it, and
    takes its number, which would otherwise be that of the next file that is opened, weights and sockets included."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = open(os.devnull, mode, errors="replace")  # noqa: SIM115  it stays open, as a stream does
            os.set_inheritable(stream.fileno(), True)  # as processes that we start would be without it, too
            setattr(sys, name, stream)


def _take_debug(arguments: list[str]) -> bool:
    """Remove `--debug` from the arguments and say whether it was there.

    It may stand anywhere, so that it can be added to the end of the command that failed.
    """
    end = arguments.index("--") if "--" in arguments else len(arguments)
    options = [a for a in arguments[:end] if a != "--debug"]
    asked = len(options) < end
    arguments[:end] = options
    return asked


def _run(arguments: list[str]) -> int:
    """Run a command and give its exit code."""
    from tinyllm.cli.app import command

    if isinstance(sys.stdout, TextIOWrapper):  # a reply must not stop at a character that the terminal's encoding lacks
        sys.stdout.reconfigure(errors="replace")
    warnings.showwarning = _warn
    code = command().main(arguments or ["--help"], prog_name="tinyllm", standalone_mode=False)
    return code if isinstance(code, int) else 0


def _warn(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print a warning as one line on stderr, as errors are; those of libraries say where they come from."""
    from tinyllm.errors import MESSAGE, TinyllmWarning, shortened

    ours = issubclass(category, TinyllmWarning)
    where = "" if ours else f"{category.__name__} in {os.path.basename(filename)}:{lineno}: "
    note(f"warning: {where}{shortened(message, MESSAGE)}")


def _refused(error: OSError) -> Exception:
    """What the system refused, in its words."""
    from tinyllm.errors import TinyllmError

    if error.filename is None and error.errno in _FULL:
        discard(sys.stdout)  # it may hold more, which Python would write at exit
        return TinyllmError(f"stdout: cannot be written: {error.strerror}")
    where = f"{error.filename}: " if error.filename else ""
    return TinyllmError(f"{where}{error.strerror or error} (--debug shows where this came from)")


def _report(error: Exception) -> int:
    """Print what went wrong as one line on stderr, and give the exit code."""
    import typer

    from tinyllm.errors import MESSAGE, TinyllmError, shortened

    if isinstance(error, typer.TyperException):
        message, code = error.format_message(), error.exit_code
    elif isinstance(error, TinyllmError):
        message, code = str(error), error.exit_code
    else:
        message, code = f"{type(error).__name__}: {error} (this is a bug, or this machine's; run again with --debug)", 1
    if message.strip():  # empty where a group without a command has printed its help
        note(f"error: {shortened(' '.join(message.split()), MESSAGE)}")
    return code


if __name__ == "__main__":
    sys.exit(main())
