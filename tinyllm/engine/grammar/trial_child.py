"""A child process that compiles one grammar, held to its limits by the system."""

from __future__ import annotations

import json
import math
import os
import resource
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

from tinyllm.engine.grammar.compile import GrammarRefusedError, compile_grammar
from tinyllm.engine.grammar.grammar import Grammar
from tinyllm.engine.grammar.vocabulary import Vocabulary
from tinyllm.errors import InvalidInputError, invalid

_RSS_UNIT = 1 if sys.platform == "darwin" else 1024
_SMALL = Grammar.choice(["a"])


def run_child(
    answers: Connection, grammars: Sequence[Grammar], vocabulary: Vocabulary, seconds: float, memory: int, niceness: int
) -> NoReturn:
    """Send what came of a grammar, and end. Past its limits the process is killed, and sends nothing.

    Args:
        answers: where it is sent: the rules and about how many bytes they take, or a problem and the number of the
            grammar that has it.
        grammars: the one that is wanted, and the parts that it is made of, which tell whose fault it is.
        seconds: of processor time; the signal past it is SIGPROF. memory: bytes.
    """
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the native code says there why it gives up
        os.nice(niceness)
        with suppress(InvalidInputError):
            compile_grammar([_SMALL], vocabulary)  # touches the memory that every grammar needs
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        _limit(seconds, memory)
        answer = _try(grammars, vocabulary)
        if "rules" in answer:
            answer["bytes"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * _RSS_UNIT
        answers.send_bytes(json.dumps(answer).encode())
    finally:
        os._exit(0)  # nothing of the parent's is to be cleaned up here


def _limit(seconds: float, memory: int) -> None:
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    # a second bound, in whole seconds, that no signal mask holds up
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(seconds) + 1, math.ceil(seconds) + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError, ValueError):  # not all systems tell what is in use, or can bound it
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + memory, used + memory))


def _try(grammars: Sequence[Grammar], vocabulary: Vocabulary) -> dict[str, Any]:
    try:
        return {"rules": compile_grammar(grammars, vocabulary)[1]}
    except GrammarRefusedError as error:
        return {"guilty": grammars.index(error.grammar), "problem": str(error)}
    except MemoryError:
        raise
    except BaseException:  # noqa: BLE001  the library panics where a grammar is too large for it
        problem = invalid("grammar", grammars[0].kind, "a smaller one", "one that is too large")
        return {"guilty": 0, "problem": str(problem)}
