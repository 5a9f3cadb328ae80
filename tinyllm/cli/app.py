"""The whole command line: every command with the examples that its help shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.main import get_command

from tinyllm import __version__
from tinyllm.cli.backends import backends
from tinyllm.cli.batch import batch
from tinyllm.cli.bench import app as bench
from tinyllm.cli.bisect import bisect
from tinyllm.cli.cache import cache
from tinyllm.cli.chat import chat
from tinyllm.cli.check import check
from tinyllm.cli.compare import compare
from tinyllm.cli.config import config
from tinyllm.cli.deploy import deploy
from tinyllm.cli.diff import diff
from tinyllm.cli.doctor import doctor
from tinyllm.cli.export_definitions import export_definitions
from tinyllm.cli.generate import generate
from tinyllm.cli.graph import graph
from tinyllm.cli.models import models
from tinyllm.cli.new_backend.starter import new_backend
from tinyllm.cli.ops import ops
from tinyllm.cli.perplexity import perplexity
from tinyllm.cli.plan import plan
from tinyllm.cli.plugin_commands import Root
from tinyllm.cli.pull import pull
from tinyllm.cli.quantize import quantize
from tinyllm.cli.report import app as report
from tinyllm.cli.route import route
from tinyllm.cli.serve import serve
from tinyllm.cli.simulate import simulate
from tinyllm.cli.trace import trace
from tinyllm.cli.which import which

COMMANDS: dict[Callable[..., None], tuple[str, ...]] = {
    generate: (
        'tinyllm generate "Why is the sky blue?"',
        'tinyllm generate "Write a haiku." --temperature 0.8 --top-p 0.95 --seed 7',
        'git diff | tinyllm generate - --system "Summarise this change in one line."',
        'tinyllm generate "def fibonacci(n):" --raw -n 64 --stop "def "',
        'tinyllm generate "Name three fruits." -b torch --json',
    ),
    chat: ("tinyllm chat", 'tinyllm chat -b mlx --system "You answer in one sentence."'),
    pull: ("tinyllm pull", "tinyllm pull smollm2", "tinyllm pull HuggingFaceTB/SmolLM2-360M-Instruct"),
    models: ("tinyllm models", "tinyllm models --json"),
    cache: ("tinyllm cache", "tinyllm cache --clear", "tinyllm cache --clear smollm2"),
    backends: ("tinyllm backends", "TINYLLM_BACKEND=torch tinyllm backends"),
    which: ("tinyllm which sdpa", "tinyllm which linear -b torch --dtype bfloat16"),
    ops: ("tinyllm ops", "tinyllm ops | cut -f1"),
    config: ("tinyllm config", "TINYLLM_FAST=1 tinyllm config"),
    doctor: ("tinyllm doctor", "tinyllm doctor --json"),
    serve: ("tinyllm serve", "tinyllm serve -b torch --port 8080 --api-key secret"),
    deploy: (
        "tinyllm deploy smollm2 --replicas 2",
        "tinyllm deploy smollm2 --min 1 --max 8 --cpus-per-replica 4 --address auto",
    ),
    route: (
        "tinyllm route http://10.0.0.1:8000 http://10.0.0.2:8000",
        "tinyllm route http://a:8000 http://b:8000 --port 80 --host 0.0.0.0 --policy least-loaded",
    ),
    simulate: (
        "tinyllm simulate --measure smollm2",
        "tinyllm simulate --replicas 8 --trace conversation_trace.jsonl --cache-tokens 200000",
        "tinyllm simulate --replicas 100 --requests 100000 --rate 200 --policy warm,round-robin",
    ),
    batch: (
        "tinyllm batch in.jsonl -o out.jsonl",
        "tinyllm batch in.jsonl -o out.jsonl --errors errors.jsonl --ordered",
    ),
    check: (
        "tinyllm check torch",
        "tinyllm check mybackend --tier full --report report.html",
        "tinyllm check torch --case 'sdpa[L3,S5,D4,f32]'",
        "tinyllm check mybackend --op gqa --timeout 10",
        "tinyllm check --case wrong-node.safetensors",
    ),
    diff: (
        "tinyllm diff smollm2 -b native --against torch",
        "tinyllm diff my-model --against transformers --plot layers.svg",
        "tinyllm diff -b torch --save torch.safetensors && tinyllm diff -b mybackend --against torch.safetensors",
    ),
    bisect: (
        "tinyllm bisect smollm2 -b mybackend --against torch",
        "tinyllm bisect my-model --against transformers",
    ),
    export_definitions: (
        "tinyllm export-definitions --out smollm2-definitions",
        "tinyllm export-definitions --ops --dtype bfloat16 --out op-definitions",
    ),
    new_backend: ("tinyllm new-backend mine", "tinyllm new-backend mine --folder ~/src"),
    perplexity: (
        "tinyllm perplexity smollm2 text.txt",
        "tinyllm perplexity smollm2 text.txt --context 2048 --stride 1024 --json",
    ),
    compare: (
        "tinyllm compare original/ quantized/ text.txt",
        "tinyllm compare smollm2 smollm2 text.txt --fast-b --worst 10",
    ),
    quantize: (
        "tinyllm quantize model/ model-4bit/ --bits 4 --group-size 64 --keep lm_head.weight",
        "tinyllm quantize model/ model-q8.gguf --type Q8_0 --text text.txt",
    ),
    graph: (
        "tinyllm graph smollm2 --html graph.html",
        "tinyllm trace --json > trace.json && tinyllm graph --trace trace.json --step decode --svg graph.svg",
    ),
    plan: (
        "tinyllm plan config.json --context 8192 --batch 8 --memory 16GB --quantize 4",
        "tinyllm plan HuggingFaceTB/SmolLM2-360M-Instruct --json",
    ),
    trace: (
        "tinyllm trace --shapes smollm2.jsonl",
        'tinyllm trace "Hello" -b torch -n 2 && tinyllm check mlx --shapes shapes.jsonl',
    ),
}
"""Each command with its examples."""

app = typer.Typer(
    name="tinyllm",
    help="Run language models through a registry of ops: write a backend, prove it op by op, serve a real model on it.",
    epilog='Start with: tinyllm generate "Why is the sky blue?" Plugins may bring more: tinyllm doctor names them.',
    cls=Root,
    pretty_exceptions_enable=False,
)


def _version(asked: bool) -> None:
    if asked:
        print(f"tinyllm {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_version, is_eager=True)
    ] = False,
    debug: Annotated[
        bool,
        typer.Option(
            "--debug", help="Show tracebacks. May stand anywhere in the command; TINYLLM_DEBUG=1 does the same."
        ),
    ] = False,
) -> None:
    """`main` has taken `--debug` out of the arguments already; it stands here so that the help shows it."""


for function, lines in COMMANDS.items():  # an example is a paragraph, as typer joins the lines of one
    app.command(epilog="\n\n".join(["Examples:", *(f"  {line}" for line in lines)]))(function)
app.add_typer(bench, name="bench")
app.add_typer(report, name="report")


def command() -> Any:
    """The command line as one object, whose `main` runs it."""
    return get_command(app)
