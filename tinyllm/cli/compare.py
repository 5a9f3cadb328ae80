"""`tinyllm compare`: what one model loses against another, or by other settings."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tinyllm.cli import options
from tinyllm.errors import invalid

if TYPE_CHECKING:
    from tinyllm.engine.divergence import Comparison, Difference
    from tinyllm.llm import LLM

_BEFORE = 16
"""Tokens that are shown before one."""


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="The model that is the measure.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The model to be judged, or A again with other settings.")],
    file: options.TextFile,
    context: options.Context = None,
    stride: options.Stride = None,
    worst: Annotated[int, typer.Option("--worst", min=0, max=1000, help="Tokens to show.")] = 5,
    backend: options.BackendName = None,
    backend_b: Annotated[
        str | None, typer.Option("--backend-b", metavar="NAME", show_default="that of A", help="B's backend.")
    ] = None,
    dtype: options.Dtype = None,
    dtype_b: Annotated[
        str | None, typer.Option("--dtype-b", metavar="DTYPE", show_default="that of A", help="B's activations.")
    ] = None,
    fast: options.Fast = None,
    fast_b: Annotated[
        bool | None, typer.Option("--fast-b/--no-fast-b", show_default="that of A", help="As --fast, for B.")
    ] = None,
    kv_cache_dtype: options.KvCacheDtype = None,
    kv_cache_dtype_b: Annotated[
        str | None,
        typer.Option("--kv-cache-dtype-b", metavar="DTYPE", show_default="that of A", help="B's keys and values."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Compare what two models expect at each token of a text: the divergence of B from A, how often both hold the same
    token to be likeliest, the change of perplexity, and the tokens where they are furthest apart.

    docs/quality.md says what the numbers mean.
    """
    from tinyllm.cli.output import note, print_json, print_table, progress_bar
    from tinyllm.cli.session import load_model, read_text
    from tinyllm.engine import divergence
    from tinyllm.engine.scoring import settled_windows

    text = read_text(file)
    first = load_model(a, backend, dtype, fast, kv_cache_dtype, quiet=as_json)
    second = load_model(
        b,
        backend if backend_b is None else backend_b,
        dtype if dtype_b is None else dtype_b,
        fast if fast_b is None else fast_b,
        kv_cache_dtype if kv_cache_dtype_b is None else kv_cache_dtype_b,
        quiet=as_json,
    )
    check_vocabularies(first, second)
    ids = first.encode(text, raw=True)
    windows = settled_windows("compare", len(ids), min(first.context, second.context), context, stride)
    with progress_bar("comparing") as progress:
        size = first.config.vocab_size
        found = divergence.compare(first.program, second.program, size, ids, windows, worst, progress)
    if as_json:
        print_json({"a": a, "b": b, "file": file, **_summary(found), "worst": _worst(first, found)})
        return
    print_table(["measure", "value"], [(name.replace("_", " "), f"{n:.6g}") for name, n in _summary(found).items()])
    if found.worst:
        print_table(["divergence", "after", "token", "A", "B", "A expects", "B expects"], _rows(first, found))
    note(f"A: {first.backend_name} | B: {second.backend_name}")


def check_vocabularies(a: LLM, b: LLM) -> None:
    """Raises `InvalidInputError` unless a token is the same in both models: names the first difference."""
    if b.config.vocab_size != a.config.vocab_size:
        raise invalid("compare", "B", f"the {a.config.vocab_size} tokens of A's vocabulary", b.config.vocab_size)
    for token in range(a.config.vocab_size):
        ours, theirs = a.tokenizer.token_bytes(token), b.tokenizer.token_bytes(token)
        if ours != theirs:
            raise invalid("compare", "B", f"token {token} to be {ours!r}, as in A's vocabulary", repr(theirs))


def _summary(found: Comparison) -> dict[str, float]:
    """The figures, by name; nats where they are divergences."""
    import numpy as np

    from tinyllm.engine.scoring import change, standard_error

    kl, changed = found.divergences, change(found.a, found.b)
    return {
        "tokens": found.a.scored,
        "divergence_mean": float(kl.mean()),
        "divergence_mean_error": standard_error(kl),
        "divergence_median": float(np.median(kl)),
        "divergence_99th": float(np.percentile(kl, 99)),
        "divergence_max": float(kl.max()),
        "agreement": found.agreement,
        "perplexity_a": found.a.perplexity,
        "perplexity_b": found.b.perplexity,
        "perplexity_change": changed.share,
        "perplexity_change_error": changed.error,
    }


def _text(llm: LLM, ids: list[int]) -> str:
    """Tokens as text, whatever bytes they are cut in."""
    return b"".join(map(llm.tokenizer.token_bytes, ids)).decode(errors="replace")


def _worst(llm: LLM, found: Comparison) -> list[dict[str, Any]]:
    """The furthest tokens, each with the text before it and the probabilities of both models."""

    def told(each: Difference) -> dict[str, Any]:
        best = {"a": each.likeliest_a, "b": each.likeliest_b}
        return {
            "divergence": each.divergence,
            "position": each.position,
            "before": _text(llm, found.a.token_ids[max(0, each.position - _BEFORE) : each.position]),
            "token": _text(llm, [each.token_id]),
            "probability_a": math.exp(each.logprob_a),
            "probability_b": math.exp(each.logprob_b),
            **{f"expected_{side}": _text(llm, [token]) for side, (token, _) in best.items()},
            **{f"expected_probability_{side}": math.exp(logprob) for side, (_, logprob) in best.items()},
        }

    return list(map(told, found.worst))


def _rows(llm: LLM, found: Comparison) -> list[list[str]]:
    return [
        [
            f"{each['divergence']:.4f}",
            repr(each["before"][-40:]),
            repr(each["token"]),
            *(f"{each[f'probability_{side}']:.2%}" for side in "ab"),
            *(f"{each[f'expected_{side}']!r} {each[f'expected_probability_{side}']:.1%}" for side in "ab"),
        ]
        for each in _worst(llm, found)
    ]
