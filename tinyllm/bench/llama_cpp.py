"""llama.cpp as a peer, through the C interface of its shared library.

It needs no bindings: of the structs that change from release to release it touches the first fields alone, which have
stayed where they are, and then asks the library whether it took them.
"""

from __future__ import annotations

import ctypes
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from tinyllm.errors import BackendUnavailableError, InvalidInputError, TinyllmError, invalid
from tinyllm.settings.read import read_settings

FILES = ("libllama.so", "libllama.dylib", "llama.dll")
"""What llama-cpp-python calls the library, in its folder `lib`."""
PAGE = 256
"""The library rounds a sequence's room up to so many tokens."""


class ModelParams(ctypes.Structure):
    """`llama_model_params` as the library fills it; nothing in it is changed. It is longer than any release has it."""

    _fields_ = [("all", ctypes.c_uint64 * 128)]


class ContextParams(ctypes.Structure):
    """The head of `llama_context_params`, and room for more than any release has after it."""

    _fields_ = [
        *((name, ctypes.c_uint32) for name in ("n_ctx", "n_batch", "n_ubatch", "n_seq_max")),
        ("rest", ctypes.c_uint64 * 128),
    ]


class Batch(ctypes.Structure):
    """`llama_batch`: arrays with an item for each token."""

    _fields_ = [
        ("n_tokens", ctypes.c_int32),
        ("token", ctypes.POINTER(ctypes.c_int32)),
        ("embd", ctypes.POINTER(ctypes.c_float)),
        ("pos", ctypes.POINTER(ctypes.c_int32)),
        ("n_seq_id", ctypes.POINTER(ctypes.c_int32)),
        ("seq_id", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
        ("logits", ctypes.POINTER(ctypes.c_int8)),
    ]


_P, _I, _U, _S = ctypes.c_void_p, ctypes.c_int32, ctypes.c_uint32, ctypes.c_char_p
FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "ggml_backend_load_all_from_path": (None, [_S]),
    "llama_backend_init": (None, []),
    "llama_model_default_params": (ModelParams, []),
    "llama_model_load_from_file": (_P, [_S, ModelParams]),
    "llama_model_get_vocab": (_P, [_P]),
    "llama_vocab_n_tokens": (_I, [_P]),
    "llama_context_default_params": (ContextParams, []),
    "llama_init_from_model": (_P, [_P, ContextParams]),
    "llama_free": (None, [_P]),
    "llama_n_batch": (_U, [_P]),
    "llama_n_seq_max": (_U, [_P]),
    "llama_set_n_threads": (None, [_P, _I, _I]),
    "llama_get_memory": (_P, [_P]),
    "llama_memory_clear": (None, [_P, ctypes.c_bool]),
    "llama_batch_init": (Batch, [_I, _I, _I]),
    "llama_batch_free": (None, [Batch]),
    "llama_decode": (_I, [_P, Batch]),
    "llama_get_logits_ith": (ctypes.POINTER(ctypes.c_float), [_P, _I]),
}
"""What is called, with the types of results and arguments."""


def library_path() -> Path:
    """The library that the setting `bench.llama_cpp` names, or the one that llama-cpp-python brought.

    Raises:
        InvalidInputError: the setting names no file.
        BackendUnavailableError: there is neither; says how to come by one.
    """
    named = read_settings()["bench.llama_cpp"]
    if named.value:
        if not Path(named.value).is_file():
            what = f"bench.llama_cpp ({named.source})"
            raise invalid("llama.cpp", what, "a shared library, such as libllama.so", repr(named.value))
        return Path(named.value).resolve()
    package = find_spec("llama_cpp")
    folders = [Path(f) / "lib" for f in (package.submodule_search_locations or [])] if package else []
    found = [folder / name for folder in folders for name in FILES if (folder / name).is_file()]
    if not found:
        raise BackendUnavailableError(
            "llama.cpp: there is no libllama; pip install llama-cpp-python, or name one by TINYLLM_LLAMA_CPP"
        )
    return found[0].resolve()


def open_library(path: Path) -> Any:
    """The library with the types of its functions, and the backends beside it: the best for this processor is taken.

    Raises:
        BackendUnavailableError: it cannot be loaded here, or is too old.
    """
    try:
        library = ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)
        declare(library)
    except (OSError, AttributeError) as error:
        raise BackendUnavailableError(
            f"llama.cpp: expected a libllama of 2025-07 or later that can be loaded here, got {path}: {error}"
        ) from error
    library.ggml_backend_load_all_from_path(str(path.parent).encode())
    return library


def declare(library: Any) -> None:
    """Tell ctypes the types of `FUNCTIONS`. Raises `AttributeError` for a function that the library does not have."""
    for name, (result, arguments) in FUNCTIONS.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments


def check_gguf(peer: str, model: Path) -> None:
    """Raise `InvalidInputError` where a peer that reads GGUF files alone is given something else."""
    if model.is_dir():
        raise invalid(peer, "model", "a GGUF file", f"the folder {model}; name a .gguf by --model")
    with model.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise invalid(peer, "model", "a GGUF file", f"{model}; name a .gguf by --model")


class LlamaCpp:
    """llama.cpp, greedy, with its own defaults but for the number of threads.

    Args:
        library: stands in for the one that is found.
    """

    def __init__(self, model: Path, threads: int, library: Any = None) -> None:
        check_gguf("llama.cpp", model)
        self.lib = lib = open_library(library_path()) if library is None else library
        self.threads = threads
        lib.llama_backend_init()
        self.model = lib.llama_model_load_from_file(str(model).encode(), lib.llama_model_default_params())
        if not self.model:
            raise TinyllmError(f"llama.cpp: {model}: the library cannot load it; name another file by --model")
        self.vocabulary = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(self.model))
        self.context: Any = None
        self.batch: Any = None
        self._room = (0, 0, 0)

    def measure(self, prompts: list[list[int]], new_tokens: int) -> tuple[float, float]:
        """A call for each prompt, then one for the next tokens of all."""
        longest = max(len(prompt) for prompt in prompts)
        self._make_room(len(prompts), longest + new_tokens + 1, max(longest, len(prompts)))
        self.lib.llama_memory_clear(self.lib.llama_get_memory(self.context), True)
        tokens = []
        start = time.perf_counter()
        for number, prompt in enumerate(prompts):
            self._decode([(number, place, token, place == len(prompt) - 1) for place, token in enumerate(prompt)])
            tokens.append(self._best(len(prompt) - 1))
        middle = time.perf_counter()
        for step in range(new_tokens):
            self._decode([(n, len(prompts[n]) + step, token, True) for n, token in enumerate(tokens)])
            tokens = [self._best(row) for row in range(len(prompts))]
        return middle - start, time.perf_counter() - middle

    def _make_room(self, sequences: int, tokens: int, rows: int) -> None:
        """A context for so many sequences of so many tokens and calls of so many rows, unless it is there."""
        had_sequences, had_tokens, had_rows = self._room
        if sequences == had_sequences and tokens <= had_tokens and rows <= had_rows:
            return
        lib, tokens = self.lib, -(-tokens // PAGE) * PAGE
        if self.context:
            lib.llama_batch_free(self.batch)
            lib.llama_free(self.context)
        params = lib.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_seq_max = sequences * tokens, rows, sequences
        self.context, self._room = lib.llama_init_from_model(self.model, params), (sequences, tokens, rows)
        if not self.context:
            raise TinyllmError(f"llama.cpp: no context for {sequences} sequences of {tokens} tokens; give fewer")
        took = lib.llama_n_batch(self.context), lib.llama_n_seq_max(self.context)
        if took != (rows, sequences):
            raise BackendUnavailableError(
                f"llama.cpp: expected a context of n_batch, n_seq_max {rows, sequences}, got {took}: this libllama "
                f"orders its parameters otherwise; name another by TINYLLM_LLAMA_CPP"
            )
        lib.llama_set_n_threads(self.context, self.threads, self.threads)
        self.batch = lib.llama_batch_init(rows, 0, 1)

    def _decode(self, rows: list[tuple[int, int, int, bool]]) -> None:
        """Run (sequence, position, token, whether its logits are wanted) of each row."""
        batch = self.batch
        batch.n_tokens = len(rows)
        for i, (sequence, position, token, wanted) in enumerate(rows):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, position, 1, wanted
            batch.seq_id[i][0] = sequence
        code = self.lib.llama_decode(self.context, batch)
        if code:
            raise InvalidInputError(f"llama.cpp: llama_decode gave {code} on {len(rows)} tokens; give fewer of them")

    def _best(self, row: int) -> int:
        """The likeliest token after a row, as soon as it is computed."""
        logits = self.lib.llama_get_logits_ith(self.context, row)
        return int(np.ctypeslib.as_array(logits, (self.vocabulary,)).argmax())
