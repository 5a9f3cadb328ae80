"""Text to token ids by the `tokenizers` package, in this process or in one that can be ended."""

from __future__ import annotations

import array
import json
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe
from typing import Protocol

import tokenizers

from tinyllm.errors import CheckpointError, InvalidInputError, invalid
from tinyllm.models.text.token_patterns import are_quick, patterns_of
from tinyllm.models.text.tokenizer_bounds import LONGEST_TEXT, Growth, check_shape, check_speed, library_errors

_LONG = 4096
"""Characters from which on a text is encoded without Python's lock."""


class Encoder(Protocol):
    """Encodes texts, without the special tokens around them."""

    def encode(self, text: str) -> list[int]:
        """Token ids of a text. Raises `InvalidInputError` where it is too long, or the tokenizers package fails."""
        ...

    def check(self) -> None:
        """Raises `CheckpointError` for a tokenizer that is slow at short texts."""
        ...

    def check_added(self, normalized: Sequence[str], characters: int) -> None:
        """Raises `CheckpointError` for added tokens that are too long together, or cannot be normalized soon.

        Args:
            normalized: the texts of those that are normalized.
            characters: of these and the others.
        """
        ...


def encoder(backend: tokenizers.Tokenizer, where: str) -> Encoder:
    """The encoder of a tokenizer: in another process where nobody knows how long its patterns may take.

    Raises `CheckpointError` for a tokenizer that asks for more than any real one does.
    """
    here = EncoderHere(backend, where)
    return here if all(map(are_quick, patterns_of(backend))) else EncoderProcess(backend, where)


class EncoderHere:
    """Encodes in this process, for as long as that takes."""

    def __init__(self, backend: tokenizers.Tokenizer, where: str) -> None:
        check_shape(backend, where)
        self._backend, self._where, self._growth = backend, where, Growth(backend, where)

    def encode(self, text: str) -> list[int]:
        """As `Encoder` says."""
        with library_errors(f"{self._where}: this text cannot be encoded", InvalidInputError):
            allowed = self._growth.allows(text)
            ids: list[int] = self._ids(text) if allowed else []
        if not allowed:
            raise invalid("encode", "text", f"at most {LONGEST_TEXT} characters, normalized", "a longer one")
        return ids

    def check(self) -> None:
        """As `Encoder` says."""
        if patterns_of(self._backend):  # what else may be slow shows in the tokenizer's shape
            check_speed(self._backend, self._where)

    def check_added(self, normalized: Sequence[str], characters: int) -> None:
        """As `Encoder` says."""
        self._growth.check_added(normalized, characters)
        normalizer = self._backend.normalizer
        if normalizer is not None and patterns_of(self._backend):
            with library_errors(f"{self._where}: added_tokens: expected texts that can be normalized, got"):
                for text in normalized:
                    normalizer.normalize_str(text)

    def _ids(self, text: str) -> list[int]:
        if len(text) < _LONG:
            return list(self._backend.encode(text, add_special_tokens=False).ids)
        # encode keeps Python's lock, in which a server could answer nobody; this does not
        return list(self._backend.encode_batch_fast([text], add_special_tokens=False)[0].ids)


class EncoderProcess:
    """Encodes in a process that the system ends where a text takes too long, and that is started again for the next
    one. May be used by several threads."""

    def __init__(self, backend: tokenizers.Tokenizer, where: str) -> None:
        self._backend, self._where, self._growth = backend, where, Growth(backend, where)
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._owner = 0
        self._end: weakref.finalize[..., EncoderProcess] | None = None

    def encode(self, text: str) -> list[int]:
        """As `Encoder` says, and where a text takes too long."""
        answer = self._ask(b"t" + text.encode())
        if answer is None:
            raise invalid("encode", "text", "one that the tokenizer's patterns soon cut", "one that takes too long")
        if answer[:1] != b"i":
            raise InvalidInputError(answer[1:].decode())
        ids = array.array("I")
        ids.frombytes(answer[1:])
        return ids.tolist()

    def check(self) -> None:
        """As `Encoder` says."""
        self._check(b"c", "a quick tokenizer, got one that does not end")

    def check_added(self, normalized: Sequence[str], characters: int) -> None:
        """As `Encoder` says."""
        self._growth.check_added(normalized, characters)
        if normalized:
            question = b"n" + json.dumps([*normalized]).encode()
            self._check(question, "added tokens that are soon normalized, got some that take too long")

    def _check(self, question: bytes, expected: str) -> None:
        answer = self._ask(question)
        if answer is None:
            raise CheckpointError(f"{self._where}: expected {expected}")
        if answer[:1] != b"i":
            raise CheckpointError(answer[1:].decode())

    def _ask(self, question: bytes) -> bytes | None:
        """What the process answers; None: it was ended."""
        with self._lock:
            connection = self._started()
            try:
                connection.send_bytes(question)
                return connection.recv_bytes()
            except (EOFError, OSError):
                self._stop()
                return None

    def _started(self) -> Connection:
        if self._connection is not None and self._owner == os.getpid():  # a fork of this process needs its own
            return self._connection
        connection, other_end = Pipe()
        code = f"import sys; sys.path[:] = {sys.path!r}; from tinyllm.models.text.encoder_child import main; "
        with other_end:
            process = subprocess.Popen(
                [sys.executable, "-c", f"{code}main({other_end.fileno()})"],
                pass_fds=[other_end.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # where the package writes of its panics
                env=os.environ | {"TOKENIZERS_PARALLELISM": "false", "OPENBLAS_NUM_THREADS": "1"},
            )
        self._end = weakref.finalize(self, _end, process, connection, os.getpid())
        self._connection, self._owner = connection, os.getpid()
        with suppress(OSError):  # shows when it is asked
            connection.send_bytes(json.dumps([self._where, self._backend.to_str()]).encode())
        return connection

    def _stop(self) -> None:
        self._connection = None
        if self._end is not None:
            self._end()


def _end(process: subprocess.Popen[bytes], connection: Connection, owner: int) -> None:
    connection.close()
    if owner == os.getpid():
        process.kill()
        process.wait()
