"""`tinyllm chat`: a conversation in the terminal."""

from __future__ import annotations

import json
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyllm.cli import options, session
from tinyllm.cli.meter import Meter
from tinyllm.cli.output import note, say
from tinyllm.errors import InvalidInputError, TinyllmError, UnknownNameError, suggest

if TYPE_CHECKING:
    from tinyllm.chat import Chat

HELP = """\
/reset        forget what was said
/system TEXT  set the system message (without TEXT: show it)
/save FILE    write the conversation as JSON
/exit         leave (so does Ctrl-D)
Ctrl-C stops a reply."""
NAMES = ("reset", "system", "save", "exit", "help")


def chat(
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
    system: options.System = None,
    chat_template_kwargs: options.TemplateKwargs = None,
    reasoning_effort: options.ReasoningEffort = None,
    fast: options.Fast = None,
    kv_cache_dtype: options.KvCacheDtype = None,
    tensor_parallel: options.TensorParallel = 1,
    dtype: options.Dtype = None,
) -> None:
    """Talk to a model.

    /help lists the commands; Ctrl-C stops a reply, Ctrl-D leaves.
    """
    sampling = session.checked(
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
    template = session.template_options(chat_template_kwargs, reasoning_effort=reasoning_effort)
    llm = session.load_model(model, backend, dtype, fast, kv_cache_dtype, tensor_parallel=tensor_parallel)
    ran_on = llm.backend_name
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    if terminal:
        note(f"{llm.checkpoint.path.name} on {ran_on}. /help shows the commands.")
    converse(llm.chat(system), sampling | template.given, ran_on, terminal)


def converse(conversation: Chat, sampling: dict[str, Any], ran_on: str, terminal: bool) -> None:
    """Answer each line of the input, until it ends or a line says `/exit`."""
    if terminal:
        import readline  # noqa: F401  editing and history of `input`
    while True:
        try:
            line = _read(terminal)
        except EOFError:
            if terminal:
                say("\n")
            return
        except KeyboardInterrupt:
            if not terminal:
                raise
            note("\n(Ctrl-D or /exit leaves)")
            continue
        try:
            if line.startswith("/"):
                if not _obey(conversation, line):
                    return
            elif line.strip():
                _answer(conversation, line, sampling, ran_on)
        except TinyllmError as error:  # such as a conversation that outgrew the context: it can be reset
            note(f"error: {error}")


def _read(terminal: bool) -> str:
    """The next line of the input. Only a terminal is shown a prompt.

    Raises `EOFError` at the end of the input, `InvalidInputError` as `read_stdin` does.
    """
    if terminal:
        return input("> ")
    line = session.read_stdin(sys.stdin.buffer.readline, "a line")
    if not line:
        raise EOFError
    return line.rstrip("\r\n")


def _answer(conversation: Chat, text: str, sampling: dict[str, Any], ran_on: str) -> None:
    """Stream a reply. Ctrl-C stops it, and what was said so far stays in the history."""
    with closing(conversation.stream(text, **sampling)) as pieces:
        meter = Meter(conversation.prompt_tokens, conversation.reused)
        try:
            for piece in meter.watch(pieces):
                say(piece.text)
        except KeyboardInterrupt:
            say(" [stopped]")
    say("\n")
    note(meter.line(ran_on))


def _obey(conversation: Chat, line: str) -> bool:
    """Carry out a `/command`. Returns False for the one that leaves."""
    name, _, argument = line[1:].strip().partition(" ")
    argument = argument.strip()
    if name == "exit":
        return False
    if name == "help":
        note(HELP)
    elif name == "reset":
        conversation.reset()
        note("forgotten")
    elif name == "system":
        if argument:
            conversation.set_system(argument)
        first_message = conversation.messages[0] if conversation.messages else {"role": ""}
        is_system = first_message["role"] == "system"
        note(f"system: {first_message['content']}" if is_system else "no system message")
    elif name == "save":
        if not argument:
            raise InvalidInputError("/save: expected the name of a file")
        _save(conversation, Path(argument).expanduser())
    else:
        raise UnknownNameError(f"unknown command /{name}.{suggest(name, NAMES)}")
    return True


def _save(conversation: Chat, path: Path) -> None:
    """Write the messages as JSON. Raises `InvalidInputError` where the file cannot be written."""
    try:
        path.write_text(json.dumps(conversation.messages, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise InvalidInputError(f"/save: {path}: cannot be written: {error.strerror}") from error
    note(f"saved {len(conversation.messages)} messages to {path}")
