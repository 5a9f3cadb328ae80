"""The chat page, in a browser, before a server that listens."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.openai.fakes import make_llm
from tests.server.fakes import make_model, serving
from tests.server.page_fakes import LONG, MARKUP, SAYS, Asked, Chat, opened, recording
from tests.server.test_robustness import until
from tinyllm import load
from tinyllm.engine.sampling.defaults import SamplingDefaults
from tinyllm.server.served_model import EngineSettings, ServedModel

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.slow
REPLY = SAYS["tell;<assistant>"]
PHONE = {"width": 375, "height": 667}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no chromium here; `make browser` installs it")
    with playwright.sync_playwright() as run:
        found = run.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def server() -> Iterator[Asked]:
    with recording() as found:
        yield found


@pytest.fixture
def url(server: Asked) -> Iterator[str]:
    yield server.live.url
    assert server.live.settled(), "a page that is closed still holds the engine"


def test_a_reply_comes_bit_by_bit(browser: Browser, url: str) -> None:
    """And is told to screen readers once, when it is done."""
    with opened(browser, url) as chat:
        chat.page.evaluate("""() => {
            window.seen = []; window.said = [];
            const told = document.getElementById("said"), text = (where) => document.querySelector(where)?.textContent;
            new MutationObserver(() => seen.push([text(".assistant > div"), text(".assistant footer")]))
                .observe(document.getElementById("log"), {subtree: true, childList: true});
            new MutationObserver(() => said.push(told.textContent)).observe(told, {childList: true});
        }""")
        assert chat.ask("tell") == REPLY
        seen = [text for text, foot in chat.page.evaluate("seen") if not foot and text]
        assert len({*seen} - {REPLY}) >= 2, "it came at once"
        assert all(after.startswith(before) for before, after in pairwise(seen))
        assert chat.page.evaluate("said") == [f"{REPLY} (stop)"]
        assert chat.page.locator("#log, #log [aria-live]").and_(chat.page.locator("[aria-live]")).count() == 0
        found = re.fullmatch(r"(\d+) tokens, [\d.]+ tokens/s, first after [\d.]+ s, stop", chat.foot)
        assert found and int(found[1]) in (len(REPLY), len(REPLY) + 1)


def test_the_fields_hold_what_the_models_files_say(browser: Browser) -> None:
    """And are empty where these say nothing, so that a request does not, either."""
    llm = make_llm()
    llm.sampling_defaults = SamplingDefaults({"temperature": 0.3}, "generation_config.json")
    with serving(make_model(load=lambda: llm)) as live, opened(browser, live.url) as chat:
        chat.page.wait_for_function("document.getElementById('temperature').value === '0.3'")
        assert chat.page.input_value("#top_p") == ""


def test_stop(browser: Browser, server: Asked, url: str) -> None:
    """By button and by Escape: the server lets go of the request at once, and what was said stays in the chat."""
    with opened(browser, url) as chat:
        so_far = ""
        for way in ("button", "Escape"):
            chat.start_long()
            assert server.live.model.thread.stats().running == 1
            chat.page.locator("#stop").click() if way == "button" else chat.page.keyboard.press("Escape")
            assert server.live.settled(3), "the server went on"
            chat.ends()
            said = chat.reply.inner_text()
            assert (
                LONG.startswith(said)
                and chat.foot.startswith("about ")
                and chat.foot.endswith(", stopped")
                and chat.focus == "prompt"
            )
            so_far += f"<user>long;<assistant>{said};"
        assert chat.ask("tell") == REPLY and server.last_prompt == f"{so_far}<user>tell;<assistant>"


def test_markup_is_text(browser: Browser, url: str) -> None:
    with opened(browser, url) as chat:
        assert chat.ask(MARKUP) == MARKUP
        assert chat.page.locator(".user > div").inner_text() == MARKUP
        assert chat.page.locator("#log script, #log img").count() == 0
        assert chat.page.evaluate("window.hacked") is None


def test_settings_reach_the_engine(browser: Browser, server: Asked, url: str) -> None:
    wanted = {"temperature": 0.3, "top_p": 0.5, "max_tokens": 7, "seed": 11}
    with opened(browser, url) as chat:
        for name, value in wanted.items():
            chat.page.locator(f"#{name}").fill(str(value))
        chat.page.locator("#system").fill("be kind")
        assert chat.ask("tell") == REPLY[:7] and chat.foot.startswith("7 tokens,") and chat.foot.endswith(", length")
        assert {name: getattr(server.asked[-1].params, name) for name in wanted} == wanted
        assert server.last_prompt == "<system>be kind;<user>tell;<assistant>"
        chat.page.locator("#system").fill("")
        chat.page.locator("#seed").fill("")
        chat.ask("tell")
        assert (
            server.asked[-1].params.seed is None
            and server.last_prompt == f"<user>tell;<assistant>{REPLY[:7]};<user>tell;<assistant>"
        )


def test_a_new_chat_starts_from_nothing(browser: Browser, server: Asked, url: str) -> None:
    """Also while a reply comes, whose end must not be written into it."""
    with opened(browser, url) as chat:
        chat.start_long()
        chat.page.get_by_role("button", name="New chat").click()
        chat.ends()
        assert server.live.settled(3)
        assert chat.page.locator(".message").count() == 0 and chat.page.locator("#said").text_content() == ""
        assert chat.ask("tell") == REPLY and server.last_prompt == "<user>tell;<assistant>"


def test_errors_are_shown(browser: Browser, server: Asked, url: str) -> None:
    """And what nothing was said to can be sent again, and is no part of the chat."""
    with opened(browser, url, refused=True) as chat:

        def fails(text: str, limit: str, shown: str, left: str) -> None:
            chat.page.locator("#max_tokens").fill(limit)
            assert chat.ask(text).startswith(shown) and chat.foot.endswith("error")
            assert "error" in (chat.page.locator(".message").last.get_attribute("class") or "")
            assert chat.page.locator("#prompt").input_value() == left

        fails("tell", "-2", "max_tokens: expected an integer of at least -1, got -2", "tell")
        fails("no!", "99", "the model failed on this request", "no!")
        assert chat.ask("tell") == REPLY and server.last_prompt == "<user>tell;<assistant>"
        fails("break", "99", "half way!\nthe model failed on this request", "")


def test_a_server_with_a_key(browser: Browser) -> None:
    with recording(api_key="secret") as server, opened(browser, server.live.url, refused=True) as chat:
        chat.page.get_by_text("the server asks for its API key, under Settings").wait_for()
        asked: list[str] = []
        chat.page.on("request", lambda request: asked.append(request.url))
        assert chat.ask("tell").startswith("api key: expected the header") and chat.foot == "error"
        chat.page.wait_for_timeout(1200)
        assert not any(address.endswith("/status") for address in asked), "it asks again and again, without a key"
        chat.page.locator("#key").fill("secret")
        assert chat.ask("tell") == REPLY
        chat.page.get_by_text("fake on fake:cpu").wait_for()


def test_the_panel_follows_the_engine(browser: Browser, server: Asked, url: str) -> None:
    inked = "document.querySelector('canvas').getContext('2d').getImageData(0, 0, 600, 200).data.filter(Boolean).length"
    with opened(browser, url) as chat:
        chat.page.locator("#backend").get_by_text("fake:cpu").wait_for()
        chat.start_long()
        chat.page.wait_for_function("() => document.getElementById('running').textContent === '1'")
        assert int((chat.page.locator("#pages").text_content() or "0").split()[0]) > 0
        before = chat.page.evaluate(inked)
        chat.page.get_by_text("Kernels").click()
        assert chat.page.locator("#kernels tr").all_inner_texts() == [
            "fake/linear:fused\t× 2",
            "fake/rms_norm:reference\t× 1",
        ]
        assert until(lambda: chat.page.evaluate(inked) > before > 0, 5), "the chart stands still"
        chat.page.keyboard.press("Escape")
        chat.page.wait_for_function("() => document.getElementById('running').textContent === '0'")


def test_it_cannot_ask_another_server(browser: Browser, url: str) -> None:
    """Not even where a script got in."""
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(url)
        other = url.replace("127.0.0.1", "localhost")
        found = page.evaluate(
            """(other) => new Promise((done) => {
            document.addEventListener("securitypolicyviolation", (event) => done(event.effectiveDirective));
            fetch(other, {mode: "no-cors"}).then(() => done("sent"), () => {});
        })""",
            other,
        )
        assert found == "connect-src"


def test_a_keyboard_is_enough(browser: Browser, server: Asked, url: str) -> None:
    ring = (
        "(s => s.outlineStyle === 'solid' && parseFloat(s.outlineWidth) >= 2)(getComputedStyle(document.activeElement))"
    )

    def tab(chat: Chat, times: int) -> list[str]:
        reached = []
        for _ in range(times):
            chat.page.keyboard.press("Tab")
            reached.append(chat.focus)
            assert chat.page.evaluate(ring), f"{chat.focus} has the focus, which is not to be seen"
        return reached

    with opened(browser, url) as chat:
        assert until(lambda: chat.focus == "prompt", 5)  # browsers see to `autofocus` when they first draw a page
        settings = ["Settings", "temperature", "top_p", "max_tokens", "seed", "system", "key", "Engine", "Kernels"]
        assert tab(chat, 10) == ["send", *settings]
        chat.page.locator("#prompt").focus()
        chat.page.keyboard.press("Shift+Tab")
        assert chat.focus == "log"
        chat.page.keyboard.press("Shift+Tab")
        assert chat.focus == "clear" and tab(chat, 2) == ["log", "prompt"]
        chat.page.locator("#max_tokens").fill("2000")
        chat.page.locator("#prompt").focus()
        chat.page.keyboard.type("long")
        chat.page.keyboard.press("Shift+Enter")
        chat.page.keyboard.press("Enter")
        chat.starts()
        assert server.last_prompt == "<user>long;<assistant>" and tab(chat, 1) == ["stop"]
        chat.page.keyboard.press("Enter")
        chat.ends()
        assert chat.focus == "prompt"
        chat.start_long()
        chat.page.locator("#seed").press("Escape")
        chat.ends()
        assert chat.focus == "seed", "the end of a reply takes the focus away"


def test_a_phone(browser: Browser, url: str) -> None:
    with opened(browser, url, viewport=PHONE, has_touch=True) as chat:

        def fits() -> bool:
            every = (
                "[...document.querySelectorAll('body *')].every(element => "
                "element.getBoundingClientRect().right <= 375)"
            )
            return bool(chat.page.evaluate(f"{every} && document.documentElement.scrollWidth <= 375"))

        def box(where: str) -> Any:
            return chat.page.locator(where).last.bounding_box()

        assert chat.ask("x" * 300 + " tell") == REPLY
        chat.page.locator("#max_tokens").wait_for(state="hidden")
        assert fits() and chat.page.locator("#prompt").is_visible()
        field = box("#prompt")
        assert field["width"] > 150 and field["height"] >= 40 and field["y"] + field["height"] < PHONE["height"]
        assert box("#log")["height"] > PHONE["height"] / 2
        for part in ("Settings", "Engine", "Kernels"):
            chat.page.get_by_text(part, exact=True).tap()
        field, log, foot = box("#prompt"), box("#log"), box(".assistant footer")
        assert fits() and log["height"] > 150 and field["y"] + field["height"] < PHONE["height"]
        assert foot["y"] + foot["height"] <= log["y"] + log["height"], "the end of the chat is out of sight"
        chat.ask("tell")
        foot = box(".assistant footer")
        assert foot["y"] + foot["height"] <= log["y"] + log["height"], "the end of the reply is out of sight"
        chat.start_long()
        chat.page.locator("#log").evaluate("log => { log.scrollTop = 0; }")
        length = len(chat.reply.inner_text())
        assert until(lambda: len(chat.reply.inner_text()) > length + 20, 5)
        assert chat.page.locator("#log").evaluate("log => log.scrollTop") == 0, "who reads further up is torn away"


def test_both_schemes_can_be_read(browser: Browser, url: str) -> None:
    grounds = set()
    for scheme in ("light", "dark"):
        with opened(browser, url, refused=True, color_scheme=scheme) as chat:
            chat.page.locator("#max_tokens").fill("-2")
            chat.ask("tell")
            texts = [
                "h1",
                "#about",
                ".user > div",
                ".error > div",
                ".error footer",
                "dt",
                "dd",
                "label",
                "summary",
                "#send",
            ]
            texts += [".legend span", ".legend span + span"]
            found = {text: chat.page.locator(text).first.evaluate(COLOURS) for text in texts}
            found["placeholder"] = chat.page.locator("#prompt").evaluate(COLOURS, "::placeholder")
            assert {text for text, (ink, ground) in found.items() if contrast(ink, ground) < 4.5} == set()
            grounds.add(found["h1"][1])
    assert len(grounds) == 2


COLOURS = """(element, part) => {
    let below = element;
    while (getComputedStyle(below).backgroundColor === "rgba(0, 0, 0, 0)") below = below.parentElement;
    return [getComputedStyle(element, part).color, getComputedStyle(below).backgroundColor];
}"""
"""Of an element: the colour of its letters, and that of what they stand on."""


def contrast(ink: str, ground: str) -> float:
    """As WCAG 2.2 computes it (https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio)."""

    def luminance(colour: str) -> float:
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted(map(luminance, (ink, ground)))
    return (high + 0.05) / (low + 0.05)


def test_a_real_model_answers(browser: Browser, smollm2_path: Path) -> None:
    model = ServedModel("smollm2", lambda: load(smollm2_path, "torch"), EngineSettings(cache_tokens=2048))
    with serving(model, load_seconds=60) as live, opened(browser, live.url) as chat:
        chat.page.locator("#max_tokens").fill("8")
        assert chat.ask("Say hello.") and re.match(r"\d tokens, ", chat.foot)
