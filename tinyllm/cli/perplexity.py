"""`tinyllm perplexity`: how well a model foresees a text."""

from __future__ import annotations

from tinyllm.cli import options


def perplexity(
    model: options.Model,
    file: options.TextFile,
    context: options.Context = None,
    stride: options.Stride = None,
    backend: options.BackendName = None,
    dtype: options.Dtype = None,
    fast: options.Fast = None,
    kv_cache_dtype: options.KvCacheDtype = None,
    as_json: options.Json = False,
) -> None:
    """Print the perplexity of a text: among how many tokens, all equally likely, the model would have been as unsure.

    docs/quality.md says what the numbers mean, and which of them may be compared.
    """
    from tinyllm.cli.output import note, print_json, progress_bar
    from tinyllm.cli.session import load_model, read_text

    text = read_text(file)
    llm = load_model(model, backend, dtype, fast, kv_cache_dtype, quiet=as_json)
    ids = llm.encode(text, raw=True)
    with progress_bar("reading") as progress:
        found = llm.logprobs(ids, context, stride, progress)
    if as_json:
        print_json(
            {
                "model": model,
                "file": file,
                "backend": llm.backend_name,
                "tokens": len(ids),
                "scored": found.scored,
                "perplexity": found.perplexity,
                "standard_error": found.standard_error,
                "mean_logprob": found.mean,
            }
        )
        return
    print(f"{found.perplexity:.4f} +/- {found.standard_error:.4f}")
    note(f"{found.scored} of {len(ids)} tokens scored, mean log probability {found.mean:.4f} | {llm.backend_name}")
