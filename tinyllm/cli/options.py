"""Options that several commands share, and the names that shells complete."""

from __future__ import annotations

from typing import Annotated

import typer


def _backends() -> list[str]:
    from tinyllm.registry import default_registry

    return sorted(default_registry().plugins.backends)


def _models() -> list[str]:
    from tinyllm.models.sources import KNOWN

    return sorted(KNOWN)


def _ops() -> list[str]:
    from tinyllm.registry import default_registry

    return sorted(default_registry().specs)


ModelName = Annotated[
    str | None,
    typer.Option("--model", "-m", metavar="MODEL", autocompletion=_models, show_default="smollm2",
                 help="Folder, .gguf file, hub id or known name."),
]  # fmt: skip
BackendName = Annotated[
    str | None,
    typer.Option("--backend", "-b", metavar="NAME", autocompletion=_backends, show_default="best available",
                 help="torch, mlx:cpu, or per op: linear=torch,*=mlx."),
]  # fmt: skip
KnownModelName = Annotated[
    str | None, typer.Argument(metavar="NAME", autocompletion=_models, show_default="smollm2", help="Known name or hub id.")
]
OpName = Annotated[str, typer.Argument(metavar="OP", autocompletion=_ops, help="The op, such as sdpa.")]
MaxTokens = Annotated[int | None, typer.Option("--max-tokens", "-n", metavar="N", show_default="256", help="Most tokens of the reply.")]
Temperature = Annotated[float, typer.Option("--temperature", metavar="T", help="0 takes the most likely token each time.")]
TopP = Annotated[float | None, typer.Option("--top-p", metavar="P", help="Keep the likeliest tokens that together reach P.")]
TopK = Annotated[int | None, typer.Option("--top-k", metavar="K", help="Keep the K likeliest tokens.")]
MinP = Annotated[float | None, typer.Option("--min-p", metavar="P", help="Keep tokens at least P times as likely as the likeliest.")]
Penalty = Annotated[float, typer.Option("--repetition-penalty", metavar="R", help="Above 1: less of what was said already.")]
Seed = Annotated[int | None, typer.Option("--seed", metavar="N", help="Makes sampling repeatable.")]
Stop = Annotated[list[str] | None, typer.Option("--stop", metavar="TEXT", help="End the reply before this text; may be repeated.")]
System = Annotated[str | None, typer.Option("--system", metavar="TEXT", help="System message.")]
Fast = Annotated[bool | None, typer.Option("--fast/--no-fast", help="Allow kernels that round activations or scales.", show_default=False)]
Dtype = Annotated[str | None, typer.Option("--dtype", metavar="DTYPE", show_default="what suits the device", help="Of activations.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
