"""The clients, and how each comes from its registry into an environment of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SCRIPTS = Path(__file__).parent


class InstallError(Exception):
    """A client could not be installed; the text says why."""


@dataclass(frozen=True)
class Installed:
    """The version of a client, and the command that runs its script."""

    version: str
    command: list[str]


@dataclass(frozen=True)
class Client(ABC):
    """A client. name: of its script. package: what its users install. beside: packages that its script needs, too.
    wants_checkpoint: whether its script reads the file that is served."""

    name: str
    package: str
    beside: tuple[str, ...] = ()
    wants_checkpoint: bool = False

    @abstractmethod
    def install(self, folder: Path, upgrade: bool) -> Installed:
        """Install it into a folder, or take what is there; `upgrade` brings its newest version.

        Raises `InstallError`.
        """


class PythonClient(Client):
    """A package of PyPI, used by `NAME.py`."""

    @property
    def distribution(self) -> str:
        """The package without its extras."""
        return self.package.partition("[")[0]

    def install(self, folder: Path, upgrade: bool) -> Installed:
        python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        if not python.exists():
            _ran([sys.executable, "-m", "venv", str(folder)])
        options = ["--upgrade"] if upgrade else []
        _ran([str(python), "-m", "pip", "install", "-q", *options, self.package, *self.beside])
        told = f"from importlib.metadata import version; print(version({self.distribution!r}))"
        return Installed(_ran([str(python), "-c", told]).strip(), [str(python), "-m", f"tests.clients.{self.name}"])


class NodeClient(Client):
    """A package of npm, used by `NAME/main.js` within the versions that `NAME/package.json` has."""

    def install(self, folder: Path, upgrade: bool) -> Installed:
        npm = shutil.which("npm")
        if npm is None:
            raise InstallError("expected npm on the PATH, which comes with Node.js, found none")
        shutil.copytree(SCRIPTS / self.name, folder, dirs_exist_ok=True)
        _ran([npm, "update" if upgrade else "install", "--silent", "--no-fund", "--no-audit"], folder)
        stated = json.loads((folder / "node_modules" / self.package / "package.json").read_text(encoding="utf-8"))
        return Installed(stated["version"], ["node", str(folder / "main.js")])


CLIENTS: tuple[Client, ...] = (
    PythonClient("openai", "openai"),
    PythonClient("langchain_openai", "langchain-openai"),
    PythonClient("llama_index_openai_like", "llama-index-llms-openai-like"),
    PythonClient("litellm", "litellm[mcp]"),  # its own code imports mcp wherever a request has tools
    PythonClient("instructor", "instructor"),
    PythonClient("pydantic_ai", "pydantic-ai-slim[openai]"),  # pydantic-ai without the packages of other providers
    PythonClient("llm", "llm"),
    NodeClient("vercel_ai", "@ai-sdk/openai-compatible"),
    PythonClient("lm_eval", "lm_eval[api,hf]", beside=("torch", "gguf"), wants_checkpoint=True),
)


def _ran(command: Sequence[str], folder: Path | None = None) -> str:
    """What a command prints. Raises `InstallError` with the last line of what went wrong."""
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if ran.returncode:
        lines = f"{ran.stdout}\n{ran.stderr}".strip().splitlines() or [f"ended with {ran.returncode}"]
        raise InstallError(f"{' '.join(command[:4])}: {lines[-1]}")
    return ran.stdout
