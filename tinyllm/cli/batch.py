"""`tinyllm batch`: a file of requests, answered many at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tinyllm.cli import options


def batch(
    context: typer.Context,
    requests: Annotated[Path, typer.Argument(metavar="IN.JSONL", help="Requests in OpenAI's batch format.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="OUT.JSONL", help="Where results go, as they are done.")
    ],
    errors: Annotated[
        Path | None,
        typer.Option("--errors", metavar="FILE", show_default="with the results", help="Where failed requests go."),
    ] = None,
    model: options.ModelName = None,
    backend: options.BackendName = None,
    fast: options.Fast = None,
    kv_cache_dtype: options.KvCacheDtype = None,
    tensor_parallel: options.TensorParallel = 1,
    dtype: options.Dtype = None,
    chat_template_kwargs: options.TemplateKwargs = None,
    reasoning_effort: options.ReasoningEffort = None,
    max_running: Annotated[int | None, options.setting("batch.max_running", metavar="N")] = None,
    max_step_tokens: Annotated[int | None, options.setting("batch.max_step_tokens", metavar="N")] = None,
    cache_tokens: Annotated[int | None, options.setting("batch.cache_tokens", metavar="N")] = None,
    ordered: Annotated[
        bool, typer.Option("--ordered", help="In the end, put the results into the order of the requests.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Answer a file of requests, many at a time.

    Each asks for the model by its name: that of --model, of a path its last part. What the options say of the chat
    template holds for conversations that do not say it themselves.
    A run that was stopped, by whatever, goes on where it was when the same command is given again. Exits with 1 where a
    request failed. Sizes that are not given come from their variables, or the table `batch` of tinyllm.toml.
    --max-running is TINYLLM_BATCH_MAX_RUNNING, and `max_running` there; `tinyllm config` lists all.
    """
    from contextlib import ExitStack, closing
    from functools import partial
    from itertools import combinations

    from tinyllm.batch.batch_file import BatchFile
    from tinyllm.batch.result_file import ResultFile, same_file
    from tinyllm.batch.run import URLS, lines_left
    from tinyllm.cli import session
    from tinyllm.cli.batch_run import answer_all, report
    from tinyllm.errors import InvalidInputError
    from tinyllm.settings.read import read_settings

    template = session.template_options(chat_template_kwargs, reasoning_effort=reasoning_effort)
    sizes = options.resolved("batch", read_settings(), context.params)
    paths = {"IN.JSONL": requests, "--output": output} | ({"--errors": errors} if errors is not None else {})
    for (other, twin), (name, path) in combinations(paths.items(), 2):
        if same_file(path, twin):
            raise InvalidInputError(f"batch: {name}: expected another file than that of {other}, got {path}")
    with ExitStack() as stack:
        file = stack.enter_context(closing(BatchFile(requests, URLS)))
        results = [stack.enter_context(closing(ResultFile(path))) for path in (output, errors) if path is not None]
        left = lines_left(file, results)
        counts = answer_all(
            file,
            left,
            results,
            partial(session.load_model, model, backend, dtype, fast, kv_cache_dtype, tensor_parallel=tensor_parallel),
            session.model_name(model),
            template,
            sizes.max_running,
            sizes.max_step_tokens,
            sizes.cache_tokens,
        )
        if ordered:
            for result in results:
                result.order(line.key for line in file.lines)
    report(counts, output, errors, as_json)
    if counts.failed:
        raise typer.Exit(1)
