"""A browser on the chat page, and a fake model that keeps what it was asked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.openai.fakes import Program
from tests.server.fakes import Live, make_model, serving

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page, Request

    from tinyllm.engine.sequence import Sequence

MARKUP = '<script>window.hacked=1</script><img src=x onerror="window.hacked=1">'
LONG = "so it goes on and on, " * 100
SAYS = {
    "tell;<assistant>": "Light of short waves scatters most.",
    "long;<assistant>": LONG,
    "break;<assistant>": "half way!....",
    f"{MARKUP};<assistant>": MARKUP,
}
DELAY = 0.006
"""Seconds of a token: slow enough to be seen coming."""


@dataclass
class Asked:
    """A server and the requests that its engine got."""

    live: Live
    asked: list[Sequence]

    @property
    def last_prompt(self) -> str:
        """As the chat template made it."""
        return "".join(map(chr, self.asked[-1].prompt))


@contextmanager
def recording(**options: Any) -> Iterator[Asked]:
    """A server with a model that says `SAYS`, and fails on "!"."""
    model = make_model(Program(says=SAYS, fails_on="!", delay=DELAY))
    asked: list[Sequence] = []
    submit = model.thread.submit

    def record(request: str, sequences: list[Sequence], *rest: Any) -> Any:
        asked.extend(sequences)
        return submit(request, sequences, *rest)

    model.thread.submit = record  # type: ignore[assignment, method-assign]
    with serving(model, **options) as live:
        yield Asked(live, asked)


class Chat:
    """The page, by what it is for."""

    def __init__(self, page: Page) -> None:
        self.page = page

    def send(self, text: str) -> None:
        """As with a keyboard."""
        self.page.locator("#prompt").fill(text)
        self.page.locator("#prompt").press("Enter")

    def ask(self, text: str) -> str:
        """Send, and wait until the reply is done."""
        self.send(text)
        self.ends()
        return self.reply.inner_text()

    @property
    def reply(self) -> Locator:
        """The text of the last one."""
        return self.page.locator(".assistant > div").last

    @property
    def foot(self) -> str:
        """What is told under the last reply."""
        return self.page.locator(".assistant footer").last.text_content() or ""

    def start_long(self) -> None:
        """Ask for a reply of many seconds, and wait until some of it is there."""
        self.page.evaluate("document.getElementById('max_tokens').value = 2000")
        self.send("long")
        self.starts()

    def starts(self) -> None:
        """Wait until some of the reply is there."""
        self.page.wait_for_function(
            "() => document.querySelector('.assistant:last-child > div')?.textContent.length > 5"
        )

    def ends(self) -> None:
        """Wait until no reply is on its way."""
        self.page.wait_for_function(
            "() => document.getElementById('stop').disabled"
        )  # looks more often than a locator does

    @property
    def focus(self) -> str:
        """The id, or what stands on it, of the element that has the focus."""
        return str(self.page.evaluate("document.activeElement.id || document.activeElement.textContent"))


@contextmanager
def opened(browser: Browser, url: str, refused: bool = False, **context: Any) -> Iterator[Chat]:
    """The page in a context of its own. At the end: it asked its own server alone, and the console holds no error.

    Args:
        refused: whether the server may refuse a request, which browsers write to the console by themselves.
        context: options of the browser's context, such as the viewport.
    """
    with browser.new_context(**context) as own:
        own.set_default_timeout(10000)
        page = own.new_page()
        requests: list[Request] = []
        errors: list[str] = []
        page.on("request", lambda request: requests.append(request))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.goto(url)
        yield Chat(page)
        assert {r.url for r in requests if not r.url.startswith((f"{url}/", "data:"))} == set()
        assert [
            e for e in errors if not (refused and e.startswith("Failed to load resource: the server responded"))
        ] == []
