"""lm-evaluation-harness against a server that listens: its scores are those that it gets from transformers on the same
file.

`python -m tests.clients.lm_eval --base-url http://127.0.0.1:8000/v1 --model smollm2 --checkpoint FILE.gguf`, in an
environment with `lm_eval[api,hf]`, and with `gguf` for a file of that kind. The checkpoint, a GGUF file or a folder in
Hugging Face form, is the one that is served. Nothing of tinyllm is needed here.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from math import isclose
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}  # everything is here
os.environ["OPENAI_API_KEY"] = "any"

import lm_eval
from lm_eval.tasks import TaskManager
from transformers import AutoTokenizer

TOLERANCE = 1e-4
"""Of log probabilities and metrics, as a share: both sides compute in float32, and add up in another order."""
STORY = "The sun rose over the village, and the baker opened the door of the shop, as on every other day of the year. "
DOCUMENTS = [
    {"question": "The capital of France is", "choices": [" Paris", " London", " Rome", " Berlin"], "answer": 0},
    {"question": "The opposite of hot is", "choices": [" warm", " blue", " cold", " loud"], "answer": 2},
    {"question": "Two plus two equals", "choices": [" five", " four", " seven", " ten"], "answer": 1},
    {"question": "Water freezes at zero degrees", "choices": [" Fahrenheit", " Celsius", " Kelvin"], "answer": 1},
    {"question": "Zürich lies in 🇨🇭", "choices": [" Österreich", " Schweiz ❤"], "answer": 1},
    # longer than a step reads of a prompt whose log probabilities are wanted
    {"question": f"{STORY * 12}The door of the shop was opened by the", "choices": [" baker", " sun"], "answer": 0},
]
TASKS: list[dict[str, Any]] = [
    {
        "task": "chosen",
        "output_type": "multiple_choice",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    {
        "task": "written",
        "output_type": "generate_until",
        "doc_to_target": "{{choices[answer]}}",
        "generation_kwargs": {"until": [".", "\n"], "max_gen_toks": 12, "do_sample": False},
        "metric_list": [{"metric": "exact_match", "regexes_to_ignore": [","]}],
    },
    {
        "task": "read",
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{question}}{{choices[answer]}}.",
        "metric_list": [{"metric": "word_perplexity"}],
    },
]
WITHOUT_TOKENIZER = {"written"}
"""Tasks that ask for no log probabilities, which need a tokenizer to find the context in them."""


def main() -> None:
    """Score the server in every form of requests, and compare. Ends with 1 where a form has other scores."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base-url", required=True, help="of the server, with /v1")
    parser.add_argument("--model", required=True, help="its name there")
    parser.add_argument("--checkpoint", required=True, type=Path, help="the GGUF file or folder that is served")
    given = parser.parse_args()
    with TemporaryDirectory() as folder:
        sys.exit(1 if compare(given.base_url, given.model, given.checkpoint.resolve(), Path(folder)) else 0)


def compare(base_url: str, model: str, checkpoint: Path, folder: Path) -> list[str]:
    """Tell of each form of requests in a line, and return what is wrong with them."""
    manager = _tasks(folder)
    is_file = checkpoint.is_file()
    source = checkpoint.parent if is_file else checkpoint
    of_file = {"gguf_file": checkpoint.name} if is_file else {}
    AutoTokenizer.from_pretrained(source, **of_file).save_pretrained(folder / "tokenizer")
    wanted = _scores(manager, "hf", {"pretrained": str(source), "dtype": "float32", "device": "cpu"} | of_file)
    served = {"model": model, "base_url": f"{base_url}/completions", "max_length": 2048}
    tokenizer = {"tokenizer": str(folder / "tokenizer"), "tokenizer_backend": "huggingface"}
    forms: dict[str, dict[str, Any]] = {
        "token ids": tokenizer,
        "several at a time": tokenizer | {"num_concurrent": 4, "batch_size": 3},
        "texts": tokenizer | {"tokenized_requests": False},
        "texts, without a tokenizer": {"tokenizer_backend": "None"},
    }
    problems = []
    for form, arguments in forms.items():
        found = _scores(manager, "local-completions", served | arguments)
        wrong = [problem for task in found for problem in _differences(task, found[task], wanted[task])]
        print(f"failed: {form}: {'; '.join(wrong)}" if wrong else f"ok: {form}", flush=True)
        problems += wrong
    return problems


def _tasks(folder: Path) -> TaskManager:
    """The tasks, in files as users write them."""
    (folder / "documents.json").write_text(json.dumps(DOCUMENTS), encoding="utf-8")
    common = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "documents.json")}},
        "test_split": "test",
        "doc_to_text": "{{question}}",
    }
    for task in TASKS:
        text = json.dumps(common | task)  # which is YAML as well
        (folder / f"{task['task']}.yaml").write_text(text, encoding="utf-8")
    return TaskManager(include_path=str(folder), include_defaults=False)


def _scores(manager: TaskManager, kind: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """For each task (its metrics, what was answered to each document)."""
    names = {task["task"] for task in TASKS}
    chosen = names & WITHOUT_TOKENIZER if arguments.get("tokenizer_backend") == "None" else names
    found = lm_eval.simple_evaluate(
        kind,
        model_args=arguments | {"batch_size": arguments.get("batch_size", 1)},
        tasks=sorted(chosen),
        task_manager=manager,
        bootstrap_iters=0,
    )
    samples = {name: sorted(found["samples"][name], key=lambda sample: sample["doc_id"]) for name in chosen}
    return {name: (found["results"][name], [sample["resps"] for sample in samples[name]]) for name in chosen}


def _differences(task: str, found: Any, wanted: Any) -> list[str]:
    """What is not as in transformers: a metric, the log probability of a text, whether it is the likeliest, a text."""
    (metrics, answers), (true_metrics, true_answers) = found, wanted
    names = [name for name, value in true_metrics.items() if isinstance(value, float)]
    problems = [
        f"{task}: {name}: expected {true_metrics[name]}, got {metrics[name]}"
        for name in names
        if not isclose(metrics[name], true_metrics[name], rel_tol=TOLERANCE)
    ]
    for number, (answer, truth) in enumerate(zip(answers, true_answers, strict=True)):
        if not _near(answer, truth):
            problems.append(f"{task}: document {number}: expected {truth}, got {answer}")
    return problems


def _near(answer: Any, truth: Any) -> bool:
    if isinstance(truth, (list, tuple)):
        return len(answer) == len(truth) and all(map(_near, answer, truth))
    return isclose(answer, truth, rel_tol=TOLERANCE, abs_tol=1e-3) if isinstance(truth, float) else answer == truth


if __name__ == "__main__":
    main()
