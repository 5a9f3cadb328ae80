"""`python -m tests.clients.run`: starts `tinyllm serve`, runs the script of every client, and shows what came of each.

Ends with 1 if a client could not be installed or a check failed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from tests.clients.checks import API_KEY
from tests.clients.installed import CLIENTS, Client, InstallError
from tinyllm.models.download.sources import cache_folder, resolve

ROOT = Path(__file__).parents[2]
MODEL = "smollm2"
SECONDS = 600
"""That a script may take."""


@dataclass(frozen=True)
class Outcome:
    """What came of a client. passed: names of checks. failed: a line for each check that failed, and for whatever kept
    the others from running."""

    client: Client
    version: str
    passed: list[str]
    failed: list[str]

    @property
    def good(self) -> bool:
        return bool(self.passed) and not self.failed


def main() -> None:
    """Run the clients that the command line names, or all."""
    parser = argparse.ArgumentParser(prog="tests.clients.run", description="Real clients against tinyllm serve.")
    names = [client.name for client in CLIENTS]
    parser.add_argument("clients", nargs="*", metavar="CLIENT", help=f"of {', '.join(names)} (default: all)")
    folder = cache_folder().with_name("tinyllm-clients")
    parser.add_argument("--folder", type=Path, default=folder, help="for environments and logs (default: %(default)s)")
    parser.add_argument("--upgrade", action="store_true", help="install the newest versions")
    given = parser.parse_args()
    unknown = [name for name in given.clients if name not in names]
    if unknown:
        parser.error(f"CLIENT: expected one of {', '.join(names)}, got {unknown[0]!r}")
    chosen = [client for client in CLIENTS if not given.clients or client.name in given.clients]
    given.folder.mkdir(parents=True, exist_ok=True)
    console = Console()
    with served(given.folder / "serve.log") as base_url, console.status("") as status:
        outcomes = []
        for client in chosen:
            status.update(f"{client.name} ...")
            outcomes.append(outcome(client, given.folder, base_url, given.upgrade))
    console.print(table(outcomes))
    for found in outcomes:
        for line in found.failed:
            console.print(f"[red]{found.client.name}[/red]: {escape(line)}", soft_wrap=True, highlight=False)
    if not all(found.good for found in outcomes):
        console.print(f"Logs are in {escape(str(given.folder))}.", highlight=False)
        sys.exit(1)


@contextmanager
def served(log: Path) -> Iterator[str]:
    """The base URL of a server with SmolLM2, on a port that was free. What it logs goes into a file."""
    command = [sys.executable, "-m", "tinyllm.cli.main", "serve", "--model", MODEL, "--port", "0", "--api-key", API_KEY]
    with (
        log.open("w", encoding="utf-8") as file,
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=file, text=True) as server,
    ):
        try:
            line = server.stdout.readline() if server.stdout else ""
            if " serves " not in line:
                sys.exit(f"tinyllm serve: expected it to serve {MODEL}, it ended; {log} says why")
            yield f"{line.split()[0]}/v1"
        finally:
            server.terminate()


def outcome(client: Client, folder: Path, base_url: str, upgrade: bool) -> Outcome:
    """Install a client and run its script."""
    try:
        installed = client.install(folder / client.name, upgrade)
    except InstallError as error:
        return Outcome(client, "", [], [str(error)])
    command = [*installed.command, "--base-url", base_url, "--model", MODEL]
    if client.wants_checkpoint:
        command += ["--checkpoint", str(resolve(MODEL))]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    log = folder / f"{client.name}.log"
    with log.open("w", encoding="utf-8") as file:
        try:
            ran = subprocess.run(
                command,
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                timeout=SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Outcome(client, installed.version, [], [f"had not ended after {SECONDS} seconds"])
    return read(client, installed.version, ran.stdout, ran.returncode)


def read(client: Client, version: str, printed: str, code: int) -> Outcome:
    """What the lines that a script printed say, and its exit code."""
    lines = printed.splitlines()
    passed = [line.removeprefix("ok: ") for line in lines if line.startswith("ok: ")]
    failed = [line.removeprefix("failed: ") for line in lines if line.startswith("failed: ")]
    if code and not failed:
        failed = [f"ended with {code} after {len(passed)} checks"]
    elif not code and not passed:
        failed = [*failed, "ran no check"]
    return Outcome(client, version, passed, failed)


def table(outcomes: list[Outcome]) -> Table:
    """A line for each client."""
    columns = [Column(name, overflow="fold") for name in ("client", "package", "version", "checks", "result")]
    shown = Table(*columns, title="Clients against tinyllm serve")
    for found in outcomes:
        ran = len(found.passed) + len(found.failed)
        result = "[green]passed[/green]" if found.good else "[red]failed[/red]"
        checks = f"{len(found.passed)} of {ran}"
        shown.add_row(found.client.name, escape(found.client.package), found.version, checks, result)
    return shown


if __name__ == "__main__":
    main()
