"""llama.cpp as a peer: what is asked of its library, and what is said where there is none. The library is a fake that
keeps what it was given, as llama.cpp keeps keys and values; one test has the real one, where there is one."""

from __future__ import annotations

import _ctypes
import ctypes
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tinyllm.bench import llama_cpp
from tinyllm.bench.llama_cpp import Batch, ContextParams, LlamaCpp, ModelParams, library_path, open_library
from tinyllm.errors import BackendUnavailableError, InvalidInputError, TinyllmError

VOCABULARY = 50
NAMED = "TINYLLM_LLAMA_CPP"


class FakeLibrary:
    """Does what llama.cpp does with batches. The token after t in sequence s is t + s + 1.

    calls: rows of each `llama_decode`. threads: what was set. freed: contexts that were given back.
    """

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.keys: dict[int, list[int]] = {}
        self.threads: tuple[int, int] | None = None
        self.freed = 0
        self.code = 0
        self.params: Any = None
        self._logits: dict[int, Any] = {}
        self._arrays: list[Any] = []

    def llama_backend_init(self) -> None:
        pass

    def llama_model_default_params(self) -> ModelParams:
        return ModelParams()

    def llama_model_load_from_file(self, path: bytes, params: ModelParams) -> int | None:
        return None if b"broken" in path else 1

    def llama_model_get_vocab(self, model: int) -> int:
        return 1

    def llama_vocab_n_tokens(self, vocab: int) -> int:
        return VOCABULARY

    def llama_context_default_params(self) -> ContextParams:
        return ContextParams(512, 2048, 512, 1)

    def llama_init_from_model(self, model: int, params: ContextParams) -> int | None:
        self.params = params
        self.keys = {sequence: [99] for sequence in range(params.n_seq_max)}  # something that has to be cleared
        return 1 if params.n_ctx < 10**6 else None

    def llama_free(self, context: int) -> None:
        self.freed += 1

    def llama_n_batch(self, context: int) -> int:
        return int(self.params.n_batch)

    def llama_n_seq_max(self, context: int) -> int:
        return int(self.params.n_seq_max)

    def llama_set_n_threads(self, context: int, threads: int, batch_threads: int) -> None:
        self.threads = threads, batch_threads

    def llama_get_memory(self, context: int) -> int:
        return 7

    def llama_memory_clear(self, memory: int, data: bool) -> None:
        assert memory == 7
        self.keys = {sequence: [] for sequence in self.keys}

    def llama_batch_init(self, rows: int, embd: int, sequences: int) -> Batch:
        ints = [(ctypes.c_int32 * rows)() for _ in range(3)]
        of_each = [(ctypes.c_int32 * sequences)() for _ in range(rows)]
        pointers = (ctypes.POINTER(ctypes.c_int32) * rows)(
            *(ctypes.cast(a, ctypes.POINTER(ctypes.c_int32)) for a in of_each)
        )
        wanted = (ctypes.c_int8 * rows)()
        self._arrays += [ints, of_each, pointers, wanted]
        token, pos, counts = (ctypes.cast(a, ctypes.POINTER(ctypes.c_int32)) for a in ints)
        seq_id = ctypes.cast(pointers, ctypes.POINTER(ctypes.POINTER(ctypes.c_int32)))
        return Batch(0, token, None, pos, counts, seq_id, ctypes.cast(wanted, ctypes.POINTER(ctypes.c_int8)))

    def llama_batch_free(self, batch: Batch) -> None:
        pass

    def llama_decode(self, context: int, batch: Batch) -> int:
        assert batch.n_tokens <= self.params.n_batch
        self.calls.append(batch.n_tokens)
        self._logits = {}
        for row in range(batch.n_tokens):
            sequence = batch.seq_id[row][0]
            assert batch.n_seq_id[row] == 1 and batch.pos[row] == len(self.keys[sequence])
            self.keys[sequence].append(batch.token[row])
            assert len(self.keys[sequence]) <= self.params.n_ctx // self.params.n_seq_max
            if batch.logits[row]:
                self._logits[row] = (ctypes.c_float * VOCABULARY)()
                self._logits[row][(batch.token[row] + sequence + 1) % VOCABULARY] = 1.0
        return self.code

    def llama_get_logits_ith(self, context: int, row: int) -> Any:
        return ctypes.cast(self._logits[row], ctypes.POINTER(ctypes.c_float))


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    """A file that begins as GGUF files do."""
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF and so on")
    return path


def test_prompts_are_read_one_by_one_and_all_decode_together(gguf: Path) -> None:
    """From an empty cache, greedily, each sequence on its own keys, on the threads that were asked for."""
    library = FakeLibrary()
    contender = LlamaCpp(gguf, 3, library)
    prefill, decode = contender.measure([[1, 2, 3], [20, 30, 40]], 4)
    assert library.calls == [3, 3, 2, 2, 2, 2] and library.threads == (3, 3)
    assert library.keys == {0: [1, 2, 3, 4, 5, 6, 7], 1: [20, 30, 40, 42, 44, 46, 48]}
    assert prefill > 0 and decode > 0


def test_a_context_is_made_anew_only_for_more(gguf: Path) -> None:
    """Rounds of one size share theirs, cleared; another number of sequences gets another."""
    library = FakeLibrary()
    contender = LlamaCpp(gguf, 1, library)
    for _ in range(3):
        contender.measure([[1, 2, 3]], 4)
        assert library.keys == {0: [1, 2, 3, 4, 5, 6, 7]}
    assert library.freed == 0 and library.params.n_ctx == 256
    contender.measure([[1]] * 4, 300)
    assert library.freed == 1 and (library.params.n_ctx, library.params.n_seq_max) == (4 * 512, 4)


def test_what_the_library_refuses_is_told(gguf: Path, tmp_path: Path) -> None:
    """A model, a context, a batch; and parameters that lie elsewhere in some release."""
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF")
    with pytest.raises(TinyllmError, match=r"broken.gguf: the library cannot load it"):
        LlamaCpp(broken, 1, FakeLibrary())
    library = FakeLibrary()
    contender = LlamaCpp(gguf, 1, library)
    with pytest.raises(TinyllmError, match=r"no context for 1 sequences of 2000128 tokens"):
        contender.measure([[1]], 2_000_000)
    library.code = 1
    with pytest.raises(InvalidInputError, match=r"llama_decode gave 1 on 2 tokens"):
        contender.measure([[1, 2]], 1)
    library.llama_n_seq_max = lambda context: 9  # type: ignore[method-assign]
    with pytest.raises(BackendUnavailableError, match=r"n_seq_max \(3, 3\), got \(3, 9\): this libllama orders"):
        contender.measure([[1]] * 3, 1)


def test_only_gguf_files_are_read(tmp_path: Path) -> None:
    """A folder and another file are refused before the library is asked."""
    (tmp_path / "other.bin").write_bytes(b"other")
    for path, got in ((tmp_path, "the folder"), (tmp_path / "other.bin", "other.bin; name a .gguf by --model")):
        with pytest.raises(InvalidInputError, match=rf"llama.cpp: model: expected a GGUF file, got .*{got}"):
            LlamaCpp(path, 1, SimpleNamespace())


def test_the_variable_goes_before_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clean_environment: pytest.MonkeyPatch
) -> None:
    """A package is looked into without being imported; what is not there is told with what to do."""
    monkeypatch.setattr(llama_cpp, "find_spec", lambda name: None)
    with pytest.raises(BackendUnavailableError, match=r"pip install llama-cpp-python, or name one by TINYLLM_LLAMA"):
        library_path()
    package = tmp_path / "llama_cpp"
    (package / "lib").mkdir(parents=True)
    monkeypatch.setattr(llama_cpp, "find_spec", lambda name: SimpleNamespace(submodule_search_locations=[str(package)]))
    with pytest.raises(BackendUnavailableError, match=r"there is no libllama"):
        library_path()
    (package / "lib" / "libllama.so").touch()
    assert library_path() == (package / "lib" / "libllama.so").resolve()
    own = tmp_path / "own.so"
    clean_environment.setenv(NAMED, str(own))
    with pytest.raises(InvalidInputError, match=r"llama_cpp \(TINYLLM_LLAMA_CPP\): expected a shared library.*own.so"):
        library_path()
    own.touch()
    assert library_path() == own.resolve()


def test_a_library_that_is_none_is_told(tmp_path: Path) -> None:
    """A file that cannot be loaded, and a library without the functions, in one line."""
    (tmp_path / "libllama.so").write_bytes(b"no library")
    for path in (tmp_path / "libllama.so", Path(_ctypes.__file__)):
        with pytest.raises(BackendUnavailableError, match=r"^llama.cpp: expected a libllama .* got [^\n]*$") as raised:
            open_library(path)
    assert "ggml_backend_load_all_from_path" in str(raised.value)


def _real_library() -> Path | None:
    try:
        return library_path()
    except TinyllmError:
        return None


LIBRARY = _real_library()


@pytest.mark.slow
@pytest.mark.skipif(LIBRARY is None, reason="needs llama-cpp-python, or TINYLLM_LLAMA_CPP")
def test_the_real_library_says_what_we_say(smollm2_path: Path) -> None:
    """Its first tokens of two prompts at a time are ours: the structs are laid out as it has them."""
    from tinyllm.llm import load

    assert LIBRARY is not None
    contender, llm = LlamaCpp(smollm2_path, 2, open_library(LIBRARY)), load(smollm2_path, "numpy")
    prompts = [llm.encode(text, raw=True) for text in ("The capital of France is", "One, two, three, four,")]
    chosen: list[int] = []
    best = contender._best
    contender._best = lambda row: chosen.append(best(row)) or chosen[-1]  # type: ignore[method-assign, func-returns-value]
    contender.measure(prompts, 2)
    ours = [llm.generate(prompt, max_tokens=3, temperature=0.0, ignore_eos=True).token_ids for prompt in prompts]
    assert [chosen[0::2], chosen[1::2]] == ours
