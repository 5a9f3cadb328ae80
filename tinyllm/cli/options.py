"""Options that several commands share, and the names that shells complete."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import typer

from tinyllm.errors import TinyllmError
from tinyllm.settings.general import KV_CACHE_DTYPES
from tinyllm.settings.kinds import Bytes
from tinyllm.settings.known import known_settings
from tinyllm.settings.read import Setting


def _backends() -> list[str]:
    from tinyllm.registry.registry import default_registry

    return sorted(default_registry().plugins.backends)


def model_names() -> list[str]:
    """The names of known models, which shells complete."""
    from tinyllm.models.download import sources

    return sorted(sources.KNOWN)


def op_names() -> list[str]:
    """The ops that there are, for shells to complete."""
    from tinyllm.registry.registry import default_registry

    return sorted(default_registry().specs)


def setting(name: str, short: str = "", *, metavar: str | None = None) -> Any:
    """The option of a setting, with the setting's meaning, bounds and default in its help.

    Its value is None, or empty, where the option is not given: `resolved` then takes the setting's.
    """
    spec = known_settings()[name]
    kind, flag = spec.kind, spec.key.replace("_", "-")
    names = [f"--{flag}/--no-{flag}"] if kind.type is bool else [f"--{flag}", *([short] if short else [])]
    meaning, _, unset = spec.meaning.partition("; unset: ")
    repeated = "; may be repeated" if kind.type is list else ""
    default = "no" if spec.default is False else unset or str(spec.default)
    low, high = (None, None) if kind.type is Bytes else (kind.low, kind.high)  # typer reads no units
    text = f"{meaning[0].upper()}{meaning[1:]}{repeated}. {spec.variable}"
    return typer.Option(*names, metavar=metavar, min=low, max=high, show_default=default, help=text)


def resolved(command: str, settings: Mapping[str, Setting], arguments: Mapping[str, Any]) -> SimpleNamespace:
    """The values of all settings of a command, by key: what its options say, and else what files and variables say.

    Args:
        arguments: those that the command was called with, as `typer.Context.params` has them.

    Raises:
        ConfigError: an option says what the setting may not be.
    """
    values = SimpleNamespace()
    for name, spec in known_settings().items():
        if spec.table != command:
            continue
        value, where = arguments[spec.key], f"{command}: {spec.key.replace('_', '-')}"
        if spec.kind.type is list:
            value = list(value or ()) or None
        if value is None:
            value = settings[name].value
        elif spec.kind.type is Bytes:
            value = spec.kind.from_text(where, value)
        else:
            value = spec.kind.in_range(where, value)
        setattr(values, spec.key, value)
    return values


@contextmanager
def extra(command: str, name: str) -> Iterator[None]:
    """Stands around imports of libraries that an extra brings. Raises `TinyllmError` that says what to install where
    one is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "tinyllm":  # no extra would bring it
            raise
        raise TinyllmError(f"{command}: {error.name} is not installed; pip install 'tinyllm[{name}]'") from error


def served_name(model: str) -> str:
    """The name by which requests ask for a model: of a path its last part."""
    return Path(model).resolve().name if Path(model).exists() else model


ModelName = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        autocompletion=model_names,
        show_default="smollm2",
        help="Folder, .gguf file, hub id or known name.",
    ),
]
BackendName = Annotated[
    str | None,
    typer.Option(
        "--backend",
        "-b",
        metavar="NAME",
        autocompletion=_backends,
        show_default="best available",
        help="torch, mlx:cpu, or per op or node: linear=torch,*.mlp.*=numpy,*=mlx.",
    ),
]
KnownModelName = Annotated[
    str | None,
    typer.Argument(metavar="NAME", autocompletion=model_names, show_default="smollm2", help="Known name or hub id."),
]
OpName = Annotated[str, typer.Argument(metavar="OP", autocompletion=op_names, help="The op, such as sdpa.")]
MaxTokens = Annotated[
    int | None,
    typer.Option(
        "--max-tokens", "-n", metavar="N", show_default="256", help="Most tokens of the reply; -1: as many as fit."
    ),
]
Temperature = Annotated[
    float | None,
    typer.Option(
        "--temperature",
        metavar="T",
        show_default="the model's own, or 0",
        help="0 takes the most likely token each time.",
    ),
]
TopP = Annotated[
    float | None,
    typer.Option(
        "--top-p",
        metavar="P",
        show_default="the model's own, or 1",
        help="Keep the likeliest tokens that together reach P.",
    ),
]
TopK = Annotated[
    int | None,
    typer.Option("--top-k", metavar="K", show_default="the model's own, or all", help="Keep the K likeliest tokens."),
]
MinP = Annotated[
    float | None,
    typer.Option(
        "--min-p",
        metavar="P",
        show_default="the model's own, or 0",
        help="Keep tokens at least P times as likely as the likeliest.",
    ),
]
Penalty = Annotated[
    float | None,
    typer.Option(
        "--repetition-penalty",
        metavar="R",
        show_default="the model's own, or 1",
        help="Above 1: less of what was said already.",
    ),
]
Seed = Annotated[int | None, typer.Option("--seed", metavar="N", help="Makes sampling repeatable.")]
Stop = Annotated[
    list[str] | None, typer.Option("--stop", metavar="TEXT", help="End the reply before this text; may be repeated.")
]
TemplateKwargs = Annotated[
    str | None,
    typer.Option(
        "--chat-template-kwargs",
        metavar="JSON",
        help="Variables of the chat template: '{\"enable_thinking\": false}'.",
    ),
]
ReasoningEffort = Annotated[
    str | None,
    typer.Option(
        "--reasoning-effort",
        metavar="EFFORT",
        help="How much to think, where the chat template knows it.",
    ),
]
System = Annotated[str | None, typer.Option("--system", metavar="TEXT", help="System message.")]
Fast = Annotated[
    bool | None,
    typer.Option("--fast/--no-fast", help="Allow kernels that round activations or scales.", show_default=False),
]
Dtype = Annotated[
    str | None, typer.Option("--dtype", metavar="DTYPE", show_default="what suits the device", help="Of activations.")
]
KvCacheDtype = Annotated[
    str | None,
    typer.Option(
        "--kv-cache-dtype",
        metavar="DTYPE",
        autocompletion=lambda: list(KV_CACHE_DTYPES),
        show_default="auto",
        help="Of keys and values: float16 halves the cache, and what a long context reads.",
    ),
]


def _follow(ranks: int) -> int:
    """Of the processes that `torchrun` started, all but the first follow that one, and do nothing that the command
    would: so this is asked before all else."""
    if ranks > 1:
        from tinyllm.parallel.torchrun import torchrun_place

        place = torchrun_place(os.environ)
        if place is not None and place.rank:
            from tinyllm.parallel.launched import follow_first, join
            from tinyllm.registry.registry import default_registry

            signal.signal(signal.SIGINT, signal.SIG_DFL)
            if place.world_size == ranks:  # otherwise the first one says so
                follow_first(join(place, registry := default_registry()), registry)
            raise typer.Exit
    return ranks


TensorParallel = Annotated[
    int,
    typer.Option(
        "--tensor-parallel",
        callback=_follow,
        is_eager=True,
        metavar="N",
        min=1,
        help="Processes that share the model out.",
    ),
]
PipelineParallel = Annotated[
    int,
    typer.Option(
        "--pipeline-parallel",
        metavar="N",
        min=1,
        help="Processes that have some of the layers each: started here, or by torchrun.",
    ),
]
Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", autocompletion=model_names, help="Folder, .gguf file, hub id or known name (smollm2)."
    ),
]
TextFile = Annotated[str, typer.Argument(metavar="FILE", help="A text, UTF-8; - reads it from stdin.")]
Context = Annotated[
    int | None,
    typer.Option(
        "--context", metavar="N", show_default="1024, or all that the model reads", help="Tokens of a window."
    ),
]
Stride = Annotated[
    int | None,
    typer.Option(
        "--stride",
        metavar="N",
        show_default="512, or the context",
        help="Tokens from one window to the next; a window's others are what the model has seen by then.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Definitions = Annotated[
    str,
    typer.Option(
        "--definitions",
        metavar="FOLDER",
        show_default="the nearest above FILE",
        help="Where export-definitions wrote the definition that --solution names.",
    ),
]
