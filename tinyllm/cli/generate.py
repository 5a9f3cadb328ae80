"""`tinyllm generate`: one prompt, one reply."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tinyllm.cli import options


def generate(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="The prompt; - reads it from stdin.")],
    model: options.ModelName = None,
    backend: options.BackendName = None,
    max_tokens: options.MaxTokens = None,
    temperature: options.Temperature = None,
    top_p: options.TopP = None,
    top_k: options.TopK = None,
    min_p: options.MinP = None,
    repetition_penalty: options.Penalty = None,
    seed: options.Seed = None,
    stop: options.Stop = None,
    raw: Annotated[bool, typer.Option("--raw", help="Continue the text as it is, without the chat template.")] = False,
    system: options.System = None,
    chat_template_kwargs: options.TemplateKwargs = None,
    reasoning_effort: options.ReasoningEffort = None,
    add_generation_prompt: Annotated[
        bool | None,
        typer.Option(
            "--add-generation-prompt/--no-add-generation-prompt",
            show_default="yes",
            help="Let the prompt end with the beginning of the model's turn.",
        ),
    ] = None,
    continue_final_message: Annotated[
        bool, typer.Option("--continue-final-message", help="Go on with the text of the prompt, within its message.")
    ] = False,
    fast: options.Fast = None,
    kv_cache_dtype: options.KvCacheDtype = None,
    tensor_parallel: options.TensorParallel = 1,
    pipeline_parallel: options.PipelineParallel = 1,
    dtype: options.Dtype = None,
    as_json: options.Json = False,
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose", help="Say on stderr which kernels run, how the weights are held, and who set the sampling."
        ),
    ] = False,
) -> None:
    """Answer a prompt.

    The reply streams to stdout; a line about speed goes to stderr.
    """
    from tinyllm.cli.meter import Meter
    from tinyllm.cli.output import note, print_json, say
    from tinyllm.cli.session import (
        checked,
        describe,
        describe_defaults,
        follow_first,
        load_model,
        model_name,
        read_prompt,
        template_options,
    )
    from tinyllm.errors import InvalidInputError

    if raw and system is not None:
        raise InvalidInputError("generate: --raw and --system exclude one another: raw text has no system message")
    sampling = checked(
        {
            "max_tokens": max_tokens,
            "temperature": temperature,
            "top_p": top_p,
            "top_k": top_k,
            "min_p": min_p,
            "repetition_penalty": repetition_penalty,
            "seed": seed,
            "stop": stop,
        }
    )
    template = template_options(
        chat_template_kwargs,
        reasoning_effort=reasoning_effort,
        add_generation_prompt=add_generation_prompt,
        continue_final_message=continue_final_message,
    )
    follow_first(model, backend, dtype, fast, kv_cache_dtype, pipeline_parallel)
    text = read_prompt(prompt)
    llm = load_model(
        model,
        backend,
        dtype,
        fast,
        kv_cache_dtype,
        quiet=as_json,
        tensor_parallel=tensor_parallel,
        pipeline_parallel=pipeline_parallel,
    )
    if verbose:
        note(describe(llm))
        if line := describe_defaults(llm, sampling):
            note(line)
    request: Any = (
        text if system is None else [{"role": "system", "content": system}, {"role": "user", "content": text}]
    )
    ids = llm.encode(request, raw, template)
    meter = Meter(len(ids))
    reply = []
    for piece in meter.watch(llm.stream(ids, **sampling)):
        reply.append(piece.text)
        if not as_json:
            say(piece.text)
    if as_json:
        print_json(
            {
                "text": "".join(reply),
                "token_ids": meter.token_ids,
                "finish_reason": meter.finish_reason,
                "prompt_tokens": len(ids),
                "completion_tokens": len(meter.token_ids),
                "prefill_tok_s": meter.prefill_rate,
                "decode_tok_s": meter.decode_rate,
                "backend": llm.backend_name,
                "model": model_name(model),
            }
        )
    else:
        say("\n")
        note(meter.line(llm.backend_name))
