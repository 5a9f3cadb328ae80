"""`llm` with an `extra-openai-models.yaml`: prompts, a chat that goes on, a template, schemas, tools."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.clients.checks import API_KEY, main

CAPITAL = "What is the capital of France? Answer in one sentence."
SCHEMA = {
    "type": "object",
    "properties": {"capital": {"enum": ["Paris", "Rome"]}, "large": {"type": "boolean"}},
    "required": ["capital", "large"],
    "additionalProperties": False,
}
MODELS = """
- model_id: tinyllm
  model_name: smollm2
  api_base: http://127.0.0.1:8000/v1
  api_key_name: tinyllm
  supports_schema: true
  supports_tools: true
- model_id: tinyllm-completions
  model_name: smollm2
  api_base: http://127.0.0.1:8000/v1
  api_key_name: tinyllm
  completion: true
"""
TOOL = """
def get_weather(city: str) -> str:
    "Tells the weather of a city."
    return f"rain in {city}"
"""
CALL = """<tool_call>
{"name": "get_weather", "arguments": {"city": "Oslo"}}
</tool_call>"""
GIVEN = ("-m", "tinyllm", "-o", "temperature", "0", "-o", "max_tokens", "80")


class Command:
    """The command `llm` with a folder of settings of its own."""

    def __init__(self, base_url: str, model: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="tinyllm-clients-"))
        atexit.register(shutil.rmtree, self.folder)
        models = MODELS.replace("http://127.0.0.1:8000/v1", base_url).replace("smollm2", model)
        (self.folder / "extra-openai-models.yaml").write_text(models)
        self("keys", "set", "tinyllm", "--value", API_KEY)

    def __call__(self, *arguments: str, stderr: bool = False) -> str:
        """What it prints."""
        ran = subprocess.run(
            [sys.executable, "-m", "llm", *arguments],
            env=os.environ | {"LLM_USER_PATH": str(self.folder)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, f"llm {' '.join(arguments)}: {ran.stderr}"
        return ran.stderr if stderr else ran.stdout


def prompt(base_url: str, model: str) -> None:
    llm = Command(base_url, model)
    streamed = llm("prompt", *GIVEN, CAPITAL)
    assert "Paris" in streamed, streamed
    assert llm("prompt", *GIVEN, "--no-stream", CAPITAL) == streamed
    entries = json.loads(llm("logs", "--json"))
    assert len(entries) == 2 and all(entry["output_tokens"] > 0 for entry in entries), entries


def chat_goes_on(base_url: str, model: str) -> None:
    llm = Command(base_url, model)
    llm("prompt", *GIVEN, "-s", "You are brief.", CAPITAL)
    assert llm("prompt", "--continue", "-o", "max_tokens", "20", "And Italy?").strip()
    first, second = json.loads(llm("logs", "--json"))
    assert first["conversation_id"] == second["conversation_id"], (first, second)
    assert first["input_tokens"] < second["input_tokens"], (first, second)


def template(base_url: str, model: str) -> None:
    llm = Command(base_url, model)
    llm("prompt", *GIVEN, "--save", "capital", "What is the capital of $country?")
    assert "Paris" in llm("prompt", "-t", "capital", "-p", "country", "France")


def schema(base_url: str, model: str) -> None:
    llm = Command(base_url, model)
    for extra in ((), ("--no-stream",)):
        found = json.loads(llm("prompt", *GIVEN, *extra, "--schema", json.dumps(SCHEMA), CAPITAL))
        assert set(found) == {"capital", "large"}, found


def tools(base_url: str, model: str) -> None:
    """A whole turn. The command cannot say that a tool has to be called, so the model is given the call to repeat."""
    llm = Command(base_url, model)
    for extra in ((), ("--no-stream",)):
        told = llm("prompt", *GIVEN, *extra, "--functions", TOOL, "--tools-debug", f"{CALL}\nRepeat it.", stderr=True)
        assert "get_weather({'city': 'Oslo'})" in told and "rain in Oslo" in told, told


def completions(base_url: str, model: str) -> None:
    llm = Command(base_url, model)
    asked = ("prompt", "-m", "tinyllm-completions", "-o", "temperature", "0", "-o", "max_tokens", "8")
    streamed = llm(*asked, "One, two, three,")
    assert streamed.strip() and llm(*asked, "--no-stream", "One, two, three,") == streamed


CHECKS = [prompt, chat_goes_on, template, schema, tools, completions]

if __name__ == "__main__":
    main(CHECKS)
