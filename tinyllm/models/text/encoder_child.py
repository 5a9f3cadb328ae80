"""The process that encodes texts for a tokenizer whose patterns nobody knows. Native code can be stopped in no other
way: the system ends the process where a text takes too long."""

from __future__ import annotations

import array
import json
import os
import resource
import signal
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

import tokenizers

from tinyllm.errors import TinyllmError
from tinyllm.models.text.encoder import EncoderHere

SECONDS, SECONDS_PER_CHARACTER = 1.0, 1e-5
"""Of processor time, for a text."""
MEMORY = 1 << 30
"""Bytes that texts may take beside the tokenizer, where the system can hold a process to that."""
_PARENT_SECONDS = 2.0
"""How often it looks whether its parent is still there."""


def main(file_descriptor: int) -> None:
    """Answer the process that started this one, until that ends."""
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to the whole group, they are its parent's to obey
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    parent = os.getppid()
    with suppress(EOFError, OSError), Connection(file_descriptor) as connection:
        where, state = json.loads(connection.recv_bytes())
        encoder = EncoderHere(tokenizers.Tokenizer.from_str(state), where)
        _limit_memory()
        while os.getppid() == parent:  # a process forked from the parent holds its end, too
            if connection.poll(_PARENT_SECONDS):
                connection.send_bytes(_answer(encoder, connection.recv_bytes()))


def _answer(encoder: EncoderHere, question: bytes) -> bytes:
    text = question[1:].decode()
    signal.setitimer(signal.ITIMER_PROF, SECONDS + SECONDS_PER_CHARACTER * len(text))
    try:
        if question[:1] == b"c":
            encoder.check()
            return b"i"
        if question[:1] == b"n":
            encoder.check_added(json.loads(text), 0)
            return b"i"
        return b"i" + array.array("I", encoder.encode(text)).tobytes()
    except TinyllmError as error:
        return b"e" + str(error).encode(errors="replace")
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _limit_memory() -> None:
    with suppress(OSError, ValueError):  # not all systems tell what is in use, or can bound it
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
