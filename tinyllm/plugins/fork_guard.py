"""For libraries whose threads do not come through a fork: the child would wait for them for ever."""

from __future__ import annotations

import os

from tinyllm.errors import BackendUnavailableError


class ForkGuard:
    """Remembers the process in which a library's threads began, and refuses to compute in a child of it.

    A library has one guard for the whole process, as its threads are the process's: a model that the child loads anew
    would wait for them as well.
    """

    def __init__(self, library: str) -> None:
        self._library = library
        self._began_in: int | None = None

    def check(self) -> None:
        """Call this before anything is computed.

        Raises `BackendUnavailableError` where the library was in use in the process that this one was forked from.
        """
        process = os.getpid()
        if self._began_in is None:
            self._began_in = process
        if self._began_in != process:
            raise BackendUnavailableError(
                f"{self._library} was in use before this process was forked, and its threads did not come along: "
                "load the model after the fork, or start the process by 'spawn'"
            )
