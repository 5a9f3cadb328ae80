"""A stranger's template ends soon, holds little, writes little and says so in a line, whatever it asks for."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import warnings

import pytest
from hypothesis import HealthCheck, given, settings

from tests.models.hostile_templates import MESSAGES, SOURCES, TEMPLATES
from tinyllm.errors import CheckpointError, TinyllmError
from tinyllm.models.text.chat_template import ChatTemplate
from tinyllm.models.text.template_budget import BASE, TRIAL_BASE

SECONDS, BYTES, LINE = 5, 500 << 20, 2000
HEAVY = ("hashed", "words", "join a text", "JSON's separators", "many nodes", "sum of lists")


def refusal(template: str, base: int) -> str:
    """The line with which a template is refused, empty where it gives a text."""
    began = time.thread_time()
    try:
        with warnings.catch_warnings(record=True) as warned:
            text = ChatTemplate({"default": template}, {}, "some/model").render(MESSAGES, budget_base=base)
    except TinyllmError as error:
        line = str(error)
        assert line.startswith("some/model: ") and "\n" not in line and len(line) < LINE
    else:
        line = ""
        assert len(text) <= 2 * BASE
    assert time.thread_time() - began < SECONDS and not warned
    return line


@pytest.mark.parametrize("name", TEMPLATES)
def test_what_asks_for_too_much_is_refused_in_a_line(name: str) -> None:
    assert refusal(TEMPLATES[name], TRIAL_BASE)


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(SOURCES)
def test_any_template_gives_a_text_or_a_line(source: str) -> None:
    refusal(source, TRIAL_BASE)


def test_memory_stays_within_its_bound() -> None:
    """In a process of its own, whose largest size is that of these templates."""
    pytest.importorskip("resource")
    lines = subprocess.run([sys.executable, "-m", __name__], capture_output=True, text=True, check=True).stdout
    before, after = json.loads(lines)
    unit = 1 if sys.platform == "darwin" else 1024
    assert 0 < before <= after < before + BYTES // unit


@pytest.mark.parametrize(
    ("templates", "message"),
    [
        ({f"t{number}": "a" for number in range(17)} | {"default": ""}, "expected at most 16 chat templates"),
        ({"default": "a" * 140_000}, "got 1 of 140000"),
    ],
)
def test_more_templates_than_a_model_has_are_refused(templates: dict[str, str], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        ChatTemplate(templates, {}).render(MESSAGES)


def test_a_long_conversation_may_cost_more() -> None:
    """A template that goes through all messages for each message is slow, not hostile, as long as they are few."""
    source = "{% for m in messages %}{% for n in messages %}{{ n.content }}{% endfor %}{% endfor %}"
    template = ChatTemplate({"default": source}, {})
    messages = [{"role": "user", "content": "a" * 10}] * 500
    assert len(template.render(messages)) == 500 * 500 * 10
    long = [{"role": "user", "content": "a" * 4_000_000}]
    assert len(template.render(long, budget_base=TRIAL_BASE)) == 4_000_000


if __name__ == "__main__":
    import resource

    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for heavy in HEAVY:
        refusal(TEMPLATES[heavy], BASE)
    print(json.dumps([start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]))


@pytest.mark.parametrize("source", ["{{", "{{ raise_exception('no') }}"])
def test_a_template_of_a_long_name_fails_in_a_line_that_still_says_why(source: str) -> None:
    name = "one\nof " + "x" * 5000
    made = ChatTemplate({name: source}, {}, "some.json")
    with pytest.raises(TinyllmError, match=r"^some\.json: one of xxx.*: .*(Jinja template|no)") as caught:
        made.render(MESSAGES, template=name)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 700
