"""load() and LLM: a model that answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from tinyllm.chat import Chat
from tinyllm.engine.completion import Completion, completion
from tinyllm.engine.engine import Engine
from tinyllm.engine.grammar.grammars import Grammars
from tinyllm.engine.grammar.limits import GrammarLimits
from tinyllm.engine.model_runner import Chunk, ModelRunner, make_step
from tinyllm.engine.private_engine import engine_for_one, run
from tinyllm.engine.sampling.defaults import SamplingDefaults, model_defaults
from tinyllm.engine.sampling.params import SamplingParams
from tinyllm.engine.scoring import TextLogprobs, score, settled_windows
from tinyllm.engine.sequence import Piece, Sequence
from tinyllm.errors import InvalidInputError, invalid
from tinyllm.graph.program import Program
from tinyllm.models.bound_model import ModelChoice, bind_model
from tinyllm.models.checkpoints.checkpoint import Checkpoint
from tinyllm.models.decoder.config import DecoderConfig
from tinyllm.models.download.damage import check_in_background
from tinyllm.models.download.sources import resolve
from tinyllm.models.text.chat_prompt import TemplateOptions, chat_prompt, split_options
from tinyllm.models.text.chat_template import ChatTemplate
from tinyllm.models.text.token_ids import checked_ids, plain
from tinyllm.models.text.tokenizer import Tokenizer
from tinyllm.models.text.turn_ends import turn_ends
from tinyllm.parallel.pipeline import bind_in_stages
from tinyllm.parallel.ranks import bind_shared_out
from tinyllm.registry.registry import Registry, default_registry

CACHE_TOKENS = 16384
"""Tokens whose keys and values the cache of a crowd's engine holds, unless another number is given."""

Message = dict[str, Any]
TokenIds = list[int] | tuple[int, ...] | NDArray[Any]
Prompt = str | TokenIds | list[Message]
Batch = list[Prompt] | list[str] | list[list[int]] | list[list[Message]]
Progress = Callable[[int, int], None]


def load(
    model: str | Path | None = None,
    backend: str | None = None,
    *,
    dtype: str | None = None,
    fast: bool | None = None,
    kv_cache_dtype: str | None = None,
    tensor_parallel: int = 1,
    pipeline_parallel: int = 1,
    registry: Registry | None = None,
    progress: Progress | None = None,
) -> LLM:
    """Load a model and bind it to a backend.

    Args:
        model: a folder in Hugging Face form, a `.gguf` file, a hub id or a known name; None: as the settings say
            (`smollm2`).
        backend: `torch`, `mlx:cpu`, `linear=torch,*=numpy`, or by names of nodes `model.layers.3.*=torch,*=numpy`;
            None: as the settings say.
        dtype: of activations and unquantized weights; None: what suits the device.
        fast: allow kernels that round activations or scales, and a cache of fewer bits where the backend gains by it.
        kv_cache_dtype: of keys and values in the cache, `"float16"`; None: as the settings say; `"auto"`: the model's,
            or with `fast` what the backend likes best.
        tensor_parallel: processes among which the model is shared out, this one included; the others are started here,
            with the settings of files and variables, and end with this one. Where `torchrun` started this process and
            others, it is those, and in all but the first `SystemExit` is raised when the first has ended.
        pipeline_parallel: processes that have some of the layers each, this one the first of them, started as those of
            `tensor_parallel` are.
        progress: called with (weights bound, weights in all).

    Raises:
        ModelNotFoundError, CheckpointError, UnknownNameError, BackendUnavailableError, UnsupportedError.
    """
    for name, number in (("tensor_parallel", tensor_parallel), ("pipeline_parallel", pipeline_parallel)):
        if registry is not None and number != 1:
            raise invalid("load", "registry", f"none with {name}, whose processes make their own", "one")
    if tensor_parallel != 1 and pipeline_parallel != 1:
        raise invalid("load", "pipeline_parallel", "1 with tensor_parallel", pipeline_parallel)
    registry = registry or default_registry()
    selection = registry.select(backend)
    registry.backend(selection.default or registry.best())  # a wrong name is an error before anything is downloaded
    path = resolve(str(model if model is not None else registry.settings["model"].value))
    check_in_background(path)
    choice = ModelChoice(path, backend, dtype, fast, kv_cache_dtype)
    if tensor_parallel != 1:
        bound = bind_shared_out(choice, registry, tensor_parallel, progress)
    elif pipeline_parallel != 1:
        bound = bind_in_stages(choice, registry, pipeline_parallel, progress)
    else:
        bound = bind_model(choice, registry, progress=progress)
    defaults = model_defaults(bound.checkpoint, bound.config.max_position)
    return LLM(bound.checkpoint, bound.config, bound.program, bound.skipped_tensors, registry, defaults)


class LLM:
    """A loaded model that answers. Sampling settings are those of `SamplingParams`, given by keyword; those that are
    not given are as the model's files say (`sampling_defaults`), `max_tokens` as the configuration says."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        config: DecoderConfig,
        program: Program,
        skipped_tensors: list[str],
        registry: Registry,
        defaults: SamplingDefaults | None = None,
    ) -> None:
        self.checkpoint = checkpoint
        self.config = config
        self.program = program
        self.skipped_tensors = skipped_tensors
        self.registry = registry
        self.sampling_defaults = defaults or SamplingDefaults()

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Text to token ids and back."""
        return self.checkpoint.tokenizer()

    @cached_property
    def chat_template(self) -> ChatTemplate | None:
        """How messages become a prompt; None for a base model."""
        return self.checkpoint.chat_template()

    @cached_property
    def stop_token_ids(self) -> frozenset[int]:
        """Every token that ends a reply, from config, generation config, tokenizer and chat template."""
        named = {*self.config.eos_token_ids, *self.tokenizer.eos_token_ids}
        return frozenset(named | turn_ends(self.tokenizer, self.chat_template))

    @cached_property
    def grammars(self) -> Grammars:
        """Compiled grammars, kept for the next reply that asks for one of them. Each is tried within the settings
        `grammar_` first, in a process that can be ended; `llm.grammars = Grammars(llm.tokenizer)` is for a program that
        trusts all of its own."""
        return Grammars(self.tokenizer, limits=GrammarLimits.of(self.registry.settings))

    @property
    def context(self) -> int:
        """Most tokens of a sequence, prompt and reply together."""
        return self.config.max_position

    @property
    def backend_name(self) -> str:
        """The backend with its device, such as `torch:cpu`; several with commas where nodes are spread over them."""
        return ", ".join(dict.fromkeys(f"{n.backend.name}:{n.backend.device}" for n in self.program.nodes))

    @overload
    def generate(self, prompt: Prompt, *, raw: bool = False, **options: Any) -> Completion: ...

    @overload
    def generate(self, prompt: Batch, *, raw: bool = False, **options: Any) -> list[Completion]: ...

    def generate(self, prompt: Prompt | Batch, *, raw: bool = False, **options: Any) -> Completion | list[Completion]:
        """Answer a prompt; a list of prompts is answered in one batch and gives a list.

        Args:
            prompt: text, chat messages (`{"role": ..., "content": ...}`) or token ids (a list, a tuple or an array of
                any library; one with two axes is a batch). Text is put to a chat model as a user's message, unless
                `raw`, which takes it as it is.
            options: fields of `SamplingParams`, and of `TemplateOptions` where a chat template writes the prompt.

        Returns:
            `Completion`, or a list of them.

        Raises:
            InvalidInputError: empty prompt, prompt longer than the context (in a batch with its index), a sampling
                setting out of range.
            TinyllmError: the model's logits are not finite.
        """
        template, sampling = split_options(options)
        params = self.sampling(sampling)
        prompts, single = _as_batch(prompt)
        sequences = []
        for number, one in enumerate(prompts):
            try:
                sequences.append(self.sequence(one, raw, params, template))
            except InvalidInputError as error:
                if single:
                    raise
                raise InvalidInputError(f"prompts[{number}]: {str(error).removeprefix('prompt: ')}") from error
        pieces: list[list[Piece]] = [[] for _ in sequences]
        engine = self.engine_for_one() if len(sequences) == 1 else self._engine_for(sequences)
        for number, piece in run(engine, sequences):
            pieces[number].append(piece)
        results = [completion(s, p) for s, p in zip(sequences, pieces, strict=True)]
        return results[0] if single else results

    def engine(self, cache_tokens: int = CACHE_TOKENS, page_size: int | None = None, **settings: Any) -> Engine:
        """An engine that runs many requests at a time on a cache of its own.

        Args:
            cache_tokens: tokens whose keys and values the cache holds. page_size: tokens of a page; None: what suits
                the backend.
            settings: those of `Engine`: max_step_tokens, max_running, max_waiting, one_at_a_time.
        """
        size = page_size or self.program.page_size
        settings.setdefault("salt", f"{self.config!r} {self.program.cache_dtypes}".encode())
        return Engine(ModelRunner(self.program), pages=max(1, -(-cache_tokens // size)), page_size=size, **settings)

    def engine_for_one(self) -> Engine:
        """An engine for one sequence at a time, whose cache grows with the sequence."""
        return engine_for_one(ModelRunner(self.program), self.context)

    def _engine_for(self, sequences: list[Sequence]) -> Engine:
        """An engine whose cache holds all of these sequences, or `CACHE_TOKENS` where they are more, and the longest of
        them in any case."""
        size = self.program.page_size
        whole_pages = sum(-(-s.longest // size) * size for s in sequences)
        longest = max(s.longest for s in sequences) + size
        return self.engine(max(min(whole_pages, CACHE_TOKENS), longest), max_waiting=len(sequences))

    def stream(
        self, prompt: Prompt, *, raw: bool = False, on_prefill: Progress | None = None, **options: Any
    ) -> Iterator[Piece]:
        """The same answer piece by piece; the last piece carries `finish_reason`. Bad input raises before the first
        piece.

        Args:
            on_prefill: called with (prompt tokens computed, prompt tokens in all) after each step that computed some.
        """
        template, sampling = split_options(options)
        sequence = self.sequence(prompt, raw, self.sampling(sampling), template)
        return (piece for _, piece in run(self.engine_for_one(), [sequence], on_prefill))

    def chat(self, system: str | None = None, messages: list[Message] | None = None) -> Chat:
        """A conversation that keeps its history, and its keys and values between turns."""
        if self.chat_template is None:
            raise InvalidInputError("chat: this model has no chat template; use generate with raw=True")
        return Chat(self, system, messages)

    def logits(self, token_ids: TokenIds) -> NDArray[np.float32]:
        """Logits of every position, float32 `[L, V]`, computed in one step."""
        ids = checked_ids(token_ids, self.config.vocab_size, self.context, self.context)
        runner = ModelRunner(self.program, 1, len(ids))
        return runner.step(make_step([Chunk(ids, 0, [0], rows=len(ids))], len(ids)))

    def logprobs(
        self,
        text: str | TokenIds,
        context: int | None = None,
        stride: int | None = None,
        progress: Progress | None = None,
    ) -> TextLogprobs:
        """Log probabilities of the tokens of a text of any length, and so its perplexity, in windows of `context`
        tokens, one beginning `stride` after the other.

        Args:
            text: as it is, without the chat template.
            context: None: 1,024, or all that the model can read. stride: None: 512, or `context`.
            progress: called with (tokens scored so far, tokens of the text).

        Raises:
            InvalidInputError: a text of fewer than two tokens, or windows that the model cannot have.
            TinyllmError: the model's logits are not finite.
        """
        ids = self.encode(text, raw=True) if isinstance(text, str) else plain(text)
        ids = checked_ids(ids, self.config.vocab_size, len(ids), self.context)
        windows = settled_windows("logprobs", len(ids), self.context, context, stride)
        return score(self.program, self.config.vocab_size, ids, windows, progress)

    def encode(self, prompt: Prompt, raw: bool = False, template: TemplateOptions | None = None) -> list[int]:
        """Token ids of a prompt as `generate` sees it."""
        prompt = plain(prompt)
        template = template or TemplateOptions()
        if isinstance(prompt, str):
            if not prompt:
                raise InvalidInputError("prompt: expected some text, got an empty prompt")
            if raw or self.chat_template is None:
                _check_unused(template)
                return self.tokenizer.encode(prompt, add_special_tokens=True)
            prompt = [{"role": "user", "content": prompt}]
        if not isinstance(prompt, list) or not prompt:
            raise _no_prompt("an empty list" if isinstance(prompt, list) else type(prompt).__name__)
        messages = [p for p in prompt if isinstance(p, dict)]
        ids = [p for p in prompt if isinstance(p, int) and not isinstance(p, bool)]
        if len(ids) == len(prompt):
            _check_unused(template)
            return ids
        if len(messages) != len(prompt):
            raise _no_prompt(f"a list of {', '.join(sorted({type(p).__name__ for p in prompt}))}")
        if raw:  # a text that is not raw was made a message above
            raise InvalidInputError(
                "prompt: raw takes text or token ids, got chat messages, which need the chat template"
            )
        if self.chat_template is None:
            raise InvalidInputError("prompt: chat messages given, but this model has no chat template")
        return self.tokenizer.encode(chat_prompt(self.chat_template, messages, template))

    def sampling(self, settings: dict[str, Any]) -> SamplingParams:
        """Checked settings; what is not among them is as the configuration and the model's files say."""
        defaults = self.sampling_defaults.settings(self.registry.settings["max_tokens"])
        try:
            return SamplingParams(**defaults | settings)
        except TypeError as error:
            known = ", ".join(SamplingParams.__dataclass_fields__)
            raise InvalidInputError(f"sampling: {str(error).rpartition(') ')[2]} (known: {known})") from error

    def sequence(
        self, prompt: Prompt, raw: bool, params: SamplingParams, template: TemplateOptions | None = None
    ) -> Sequence:
        """A checked request."""
        params.check_vocabulary(self.config.vocab_size)
        most = self.context - (params.max_tokens != 0)
        ids = checked_ids(self.encode(prompt, raw, template), self.config.vocab_size, most, self.context)
        grammar = self.grammars.start(params.grammar) if params.grammar else None
        return Sequence(ids, params, self.tokenizer, self.stop_token_ids, self.context, grammar=grammar)


def _check_unused(template: TemplateOptions) -> None:
    if template.given:
        raise InvalidInputError(
            f"{next(iter(template.given))}: expected a prompt that the chat template writes, got another"
        )


def _no_prompt(got: str) -> InvalidInputError:
    return InvalidInputError(f"prompt: expected text, or a list of chat messages or of token ids, got {got}")


def _as_batch(prompt: Any) -> tuple[list[Any], bool]:
    """(prompts, whether it was a single one): a list of texts or of lists is a batch."""
    prompt = plain(prompt)
    if isinstance(prompt, list) and prompt and all(isinstance(p, (str, list)) for p in prompt):
        return prompt, False
    return [prompt], True
