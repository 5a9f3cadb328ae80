"""Models whose rope goes by the length of the sequence: engines give what transformers generates, in whatever steps
prompts are read, beside whomever, and whoever left pages behind."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from tests.catalogue.harness import backends, registry
from tests.engine.bookkeeping import engine_problems
from tests.engine.fakes import sequence
from tests.graph.tiny import CONFIG, LAYER, Tensors
from tinyllm.engine.engine import Engine
from tinyllm.engine.entry import Entry
from tinyllm.engine.model_runner import ModelRunner
from tinyllm.engine.private_engine import engine_for_one, run
from tinyllm.engine.rope_lengths import RopeLengths
from tinyllm.graph.bind import bind
from tinyllm.graph.program import Program
from tinyllm.models.decoder.config import DecoderConfig, RopeConfig
from tinyllm.models.decoder.decoder import decoder
from tinyllm.registry.selection import parse_selection
from tinyllm.spec.rope import RopeScaling

ORIGINAL = 16
DIM, THETA = LAYER.attention.head_dim, 10000.0
PAIRS = DIM // 2
SCALINGS = {
    "dynamic": RopeScaling("dynamic", 3.0, ORIGINAL),
    "longrope": RopeScaling(
        "longrope",
        4.0,
        ORIGINAL,
        short_factor=tuple(np.linspace(1, 1.5, PAIRS).tolist()),
        long_factor=tuple(np.linspace(1.2, 9, PAIRS).tolist()),
    ),
}
REPLY = 7
LONG = [(7 * n + 3) % CONFIG.vocab_size for n in range(30)]
PROMPTS = [LONG[:5], LONG[:12], LONG[:16], LONG[:17], LONG, [*LONG[:26], 1, 2], [*LONG[:26], 5]]
"""Short ones, those that grow past the original length, long ones; all with prefixes in common."""
by_kind = pytest.mark.parametrize("kind", SCALINGS)


def config(scaling: RopeScaling) -> DecoderConfig:
    """The tiny decoder without biases, its rope scaled."""
    attends = replace(LAYER.attention, qkv_bias=False, rope=RopeConfig(DIM, THETA, scaling))
    return replace(CONFIG, layers=(replace(LAYER, attention=attends),) * CONFIG.num_layers)


@cache
def tensors() -> Tensors:
    return Tensors(decoder(config(RopeScaling()), registry().specs).tensors())


def bound(scaling: RopeScaling, backend: str) -> Program:
    graph = decoder(config(scaling), registry().specs)
    return bind(graph, registry(), parse_selection(backend, "test"), tensors())


@cache
def program(kind: str, backend: str) -> Program:
    return bound(SCALINGS[kind], backend)


@cache
def theirs(kind: str) -> tuple[list[list[int]], list[np.ndarray]]:
    """What transformers generates: tokens, and the log probabilities of each step."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    scaling = SCALINGS[kind]
    settings: dict[str, Any] = {"rope_theta": THETA, "rope_type": kind}
    if kind == "dynamic":
        settings |= {"factor": scaling.factor}
    else:
        settings |= {"short_factor": [*scaling.short_factor], "long_factor": [*scaling.long_factor]}
        settings |= {"original_max_position_embeddings": ORIGINAL}
    sizes = {
        "vocab_size": CONFIG.vocab_size,
        "hidden_size": CONFIG.hidden_size,
        "intermediate_size": LAYER.mlp.size,
        "num_hidden_layers": CONFIG.num_layers,
        "num_attention_heads": LAYER.attention.num_heads,
        "num_key_value_heads": LAYER.attention.num_kv_heads,
        "rms_norm_eps": CONFIG.norm.eps,
        "rope_parameters": settings,
        "pad_token_id": None,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    names = dict(tensors().arrays)
    if kind == "dynamic":
        theirs_config = transformers.LlamaConfig(**sizes, max_position_embeddings=ORIGINAL)
        model = transformers.LlamaForCausalLM(theirs_config)
    else:
        theirs_config = transformers.Phi3Config(
            **sizes, max_position_embeddings=4 * ORIGINAL, original_max_position_embeddings=ORIGINAL
        )
        model = transformers.Phi3ForCausalLM(theirs_config)
        for merged, parts in (("self_attn.qkv", "qkv"), ("mlp.gate_up", ("gate", "up"))):
            for layer in range(CONFIG.num_layers):
                where, whole = merged.split(".")
                stem = f"model.layers.{layer}.{where}"
                rows = [names.pop(f"{stem}.{part}_proj.weight") for part in parts]
                names[f"{stem}.{whole}_proj.weight"] = np.concatenate(rows)
    model.load_state_dict({name: torch.from_numpy(np.array(a)) for name, a in names.items()})
    model.eval()
    tokens, logprobs = [], []
    for prompt in PROMPTS:
        model.model.rotary_emb = type(model.model.rotary_emb)(theirs_config)  # it remembers the longest text of before
        with torch.no_grad():
            made = model.generate(
                torch.tensor([prompt]),
                attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                do_sample=False,
                max_new_tokens=REPLY,
                output_logits=True,
                return_dict_in_generate=True,
            )
        tokens.append(made.sequences[0, len(prompt) :].tolist())
        logprobs.append(torch.log_softmax(torch.cat(made.logits), -1).numpy())
    return tokens, logprobs


def assert_theirs(engine: Engine, kind: str, numbers: list[int]) -> None:
    """Prompts of these numbers, all at once."""
    requests = []
    for number in numbers:
        made = sequence("", max_tokens=REPLY, logprobs=0)
        made.prompt, made.stop_token_ids = list(PROMPTS[number]), frozenset()
        requests.append(made)
    replies: list[list[tuple[int, float]]] = [[] for _ in numbers]
    for index, piece in run(engine, requests):
        replies[index] += [(entry.token_id, entry.logprob) for entry in piece.logprobs]
    tokens, logprobs = theirs(kind)
    for number, reply in zip(numbers, replies, strict=True):
        assert [token for token, _ in reply] == tokens[number], PROMPTS[number]
        expected = logprobs[number][np.arange(REPLY), tokens[number]]
        assert [p for _, p in reply] == pytest.approx(expected.tolist(), abs=2e-4), PROMPTS[number]


@by_kind
@pytest.mark.parametrize("backend", [b for b in backends() if b in ("numpy", "native")])
def test_engines_give_what_transformers_generates(kind: str, backend: str) -> None:
    """In pages that are shared, preempted for one another, or grow; in chunks; one after the other, all again on what
    the cache holds."""
    model = program(kind, backend)
    everybody = list(range(len(PROMPTS)))
    for settings in ({}, {"one_at_a_time": True}, {"pages": 24}):
        engine = Engine(ModelRunner(model), **{"pages": 90, "page_size": 4, "max_step_tokens": 8} | settings)
        for _ in range(2):
            assert_theirs(engine, kind, everybody)
            assert engine_problems(engine) == []
        assert engine.stats.reused_tokens > 0
    single = engine_for_one(ModelRunner(model), 64, page_size=4, max_step_tokens=8)
    for number in (*everybody, *everybody[::-1]):
        assert_theirs(single, kind, [number])


@by_kind
def test_pages_are_shared_by_those_whose_keys_turn_alike(kind: str) -> None:
    """Of a prefix that a short prompt has left, a long one can use nothing, another short one all."""
    engine = Engine(ModelRunner(program(kind, "numpy")), pages=90, page_size=4)
    assert_theirs(engine, kind, [0])

    def reusable(ids: list[int]) -> int:
        made = sequence("", max_tokens=REPLY)
        made.prompt = list(ids)
        return engine.reusable(made)

    assert (reusable(LONG[:13]), reusable(LONG[:20])) == (4, 0)
    assert_theirs(engine, kind, [4])
    assert reusable(LONG[:29]) == (28 if kind == "longrope" else 0)
    assert reusable(LONG) == 28


def test_a_sequence_is_read_anew_once_where_it_outgrows_the_short_set() -> None:
    for kind, steps in (("longrope", 1), ("dynamic", 0)):
        engine = Engine(ModelRunner(program(kind, "numpy")), pages=90, page_size=4)
        assert_theirs(engine, kind, [1])
        assert engine.stats.preemptions == steps


def test_models_without_such_rope_know_nothing_of_lengths() -> None:
    plain = bound(RopeScaling(), "numpy")
    assert plain.scalings == () and program("dynamic", "numpy").scalings == (SCALINGS["dynamic"],)
    entry = Entry(sequence("abc"))
    RopeLengths(plain.scalings).settle(entry)
    assert (entry.side, RopeLengths().outgrown([entry])) == (b"", [])
