"""What `tinyllm batch` does once its files are checked: load the model, run under a progress bar, report."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from tinyllm.batch.batch_file import BatchFile, Line
from tinyllm.batch.result_file import ResultFile
from tinyllm.batch.run import BatchRun, Counts
from tinyllm.cli import options, session
from tinyllm.cli.output import note, print_json
from tinyllm.engine.engine import Engine
from tinyllm.engine.engine_thread import EngineThread
from tinyllm.engine.grammar.grammars import Grammars
from tinyllm.engine.grammar.limits import GrammarLimits
from tinyllm.llm import LLM
from tinyllm.models.text.chat_prompt import TemplateOptions
from tinyllm.settings.read import read_settings


def answer_all(
    file: BatchFile,
    left: list[Line],
    results: list[ResultFile],
    load: Callable[[], LLM],
    model: str,
    template: TemplateOptions,
    max_running: int,
    max_step_tokens: int,
    cache_tokens: int,
) -> Counts:
    """Answer the lines that are left. The model is loaded only where there are any.

    Args:
        results: the file where replies go, and as the last the one where all else goes; both may be one.
        load: loads the model. model: its name.
        template: what holds for conversations that do not say otherwise.
        cache_tokens: most tokens that the KV cache holds; it is no larger than so many replies can fill.
    """
    counts = Counts.before(file, left, results)
    if not left:
        return counts
    if counts.done:
        note(f"{counts.done} of {counts.total} requests are done already")
    loaded: list[LLM] = []

    def make_engine() -> Engine:
        llm = load()
        llm.grammars = Grammars(llm.tokenizer, limits=GrammarLimits.of(read_settings()))
        loaded.append(llm)
        tokens = min(cache_tokens, max_running * llm.context)
        # any number may wait, as the run itself hands over no more than its window
        return llm.engine(tokens, max_step_tokens=max_step_tokens, max_running=max_running, max_waiting=sys.maxsize)

    thread = EngineThread(make_engine)
    thread.start()
    thread.wait()
    name = options.served_name(model)
    if line := session.describe_defaults(loaded[0]):
        note(f"where a request does not say it: {line}")
    run = BatchRun(file, left, results, thread, loaded[0], name, 2 * max_running, template.given)
    try:
        with _bar(len(file.lines)) as on_progress:
            return run.run(on_progress)
    except BaseException:
        note(f"{run.counts.done} of {run.counts.total} requests are done; the same command goes on from there")
        raise
    finally:
        loaded[0].grammars.close()
        thread.stop()


def report(counts: Counts, output: Path, errors: Path | None, as_json: bool) -> None:
    """Say how it went: a line on stderr, or a JSON object on stdout."""
    if as_json:
        print_json(asdict(counts) | {"tokens_per_second": counts.tokens_per_second})
        return
    failed = f", {counts.failed} failed (see {errors or output})" if counts.failed else ""
    speed = ""
    if counts.seconds:
        speed = f"; {counts.tokens} tokens in {counts.seconds:.1f} s, {counts.tokens_per_second:.1f} tok/s"
        speed += f", {counts.reused_tokens} of {counts.prompt_tokens} prompt tokens from the cache"
    note(f"{counts.total} requests: {counts.done - counts.failed} answered{failed}{speed}")


@contextmanager
def _bar(total: int) -> Iterator[Callable[[Counts], None]]:
    """A progress bar on stderr, where that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda counts: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[speed]}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=total, speed="")

        def report(counts: Counts) -> None:
            failed = f", {counts.failed} failed" if counts.failed else ""
            bar.update(task, completed=counts.done, speed=f"{counts.tokens_per_second:.1f} tok/s{failed}")

        yield report
