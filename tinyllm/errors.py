"""Every error that tinyllm raises on purpose, with the exit code the command line gives it, and every warning."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

QUOTE = 200
"""Most characters of a value that a message quotes."""
MESSAGE = 1900
"""Most characters of a message: what a stranger's file or request says never makes a line that nobody can read."""


def shortened(text: object, most: int = QUOTE) -> str:
    """A text, or anything as a text, of at most so many characters: what is in the middle gives way to ` ... `."""
    whole = str(text)
    if len(whole) <= most:
        return whole
    tail = (most - 5) // 3
    return f"{whole[: most - 5 - tail]} ... {whole[-tail:]}"


class _Quote(reprlib.Repr):
    """Looks no deeper into a value, and at no more of it, than can be shown: `repr` of a file's would be megabytes, or
    nested deeper than Python can go."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxlist, self.maxtuple, self.maxdict, self.maxset = 4, 40, 40, 40, 40
        self.maxstring = self.maxlong = self.maxother = QUOTE


def quoted(value: object) -> str:
    """A value as Python writes it, to be put into a message: at most `QUOTE` characters."""
    return shortened(_Quote().repr(value))


class TinyllmError(Exception):
    """Base of all errors raised on purpose. `exit_code` is what the command line ends with: 1 failure, 2 wrong call.
    As text, none is longer than `MESSAGE`."""

    exit_code = 1

    def __str__(self) -> str:
        return shortened(super().__str__(), MESSAGE)


class InvalidInputError(TinyllmError, ValueError):
    """An argument that the op, field or option does not take. Built by `invalid` so that all read alike."""

    exit_code = 2


class UnsupportedError(TinyllmError):
    """A valid call that the chosen backend or kernel says it cannot run."""


class UnknownNameError(TinyllmError, LookupError):
    """A name (backend, op, kernel, model, setting) that nobody registered."""

    exit_code = 2


class BackendUnavailableError(TinyllmError):
    """A known backend that cannot run here: library missing, device absent, plugin broken."""


class PluginError(TinyllmError):
    """A plugin that does not keep the contract."""


class ModelGoneError(TinyllmError):
    """A model that can run no step any more, as something that it runs on has ended: it has to be loaded again."""


class SignatureError(PluginError):
    """A kernel whose signature is not its op's; the message shows both."""


class TinyllmWarning(UserWarning):
    """Base of all warnings given on purpose: lines for users, which say all that there is to say."""


class PluginWarning(TinyllmWarning):
    """Something of a plugin that was kept aside while all else goes on."""


class CacheWarning(TinyllmWarning):
    """Something that could not be kept on disk, and is made again the next time."""


class DownloadWarning(TinyllmWarning):
    """A file that was downloaded, and has other bytes by now."""


class SamplingWarning(TinyllmWarning):
    """Something that a model's files ask of its sampling, and that is not done."""


class ThreadsWarning(TinyllmWarning):
    """More threads than there are cores: taken as asked, and slower."""


class ConfigError(TinyllmError):
    """A malformed configuration file or setting."""

    exit_code = 2


class ModelNotFoundError(TinyllmError):
    """A model name or path that leads to no model."""

    exit_code = 2


class CheckpointError(TinyllmError):
    """A checkpoint file that is truncated, corrupt, inconsistent or of a kind not understood."""


class FieldError(CheckpointError):
    """Fields of a checkpoint's config, or keys of its metadata, that are not understood. fields: their names."""

    def __init__(self, message: str, *fields: str) -> None:
        super().__init__(message)
        self.fields = fields


def invalid(where: str, argument: str, expected: str, got: object) -> InvalidInputError:
    """The one wording for bad input: `<op or field>: <argument>: expected <expected>, got <got>`."""
    return InvalidInputError(f"{where}: {argument}: expected {expected}, got {shortened(got)}")


@contextmanager
def plugin_code(
    what: str, failure: type[TinyllmError] = PluginError, passing: tuple[type[Exception], ...] = ()
) -> Iterator[None]:
    """A context for a plugin's code, which may raise anything.

    Args:
        what: whose code it is, and the argument that brought it: `family 'mine': from_config`.
        failure: the class of the error that is raised in the place of the code's own, `sys.exit` and whatever else is
            no `Exception` included; Ctrl-C alone is the user's. It says `<what> failed: <class>: <message>`.
        passing: errors that the code raises on purpose, and that stay as they are.
    """
    try:
        yield
    except passing:
        raise
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a Rust library's panic is no `Exception` either
        raise failure(f"{what} failed: {type(error).__name__}: {error}") from error


def suggest(name: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?` for the nearest known name, otherwise the list of known names."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5) if len(name) <= QUOTE else []  # it compares slowly
    if near:
        return f" Did you mean {near[0]!r}?"
    return f" Known: {', '.join(known)}." if known else ""
