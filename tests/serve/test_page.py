"""The page at / in a real browser, against a real server with the embedded model.

QF_SCREENSHOTS names a directory for pictures of what the tests saw.
"""

import asyncio
import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

playwright = pytest.importorskip(
    "playwright.sync_api", reason="needs Playwright for Python: pip install playwright"
)
CHROMIUM = shutil.which("chromium")
if CHROMIUM is None:
    pytest.skip("needs Chromium: apt-get install chromium", allow_module_level=True)

from playwright.sync_api import Browser, BrowserContext, Page, Route, expect  # noqa: E402

from qf.serve import facts as serve_facts  # noqa: E402
from qf.serve.keys import Keys  # noqa: E402
from tests.serve.conftest import Start  # noqa: E402
from tests.serve.servers import Server  # noqa: E402

FACT = "Qi started Oxinnovate."
QUESTION = "Who started Oxinnovate?"
UNKNOWN = "I do not know."
ANSWER = "Oxinnovate was started by Qi."
OTHER = "Ada Quist designed the Hollow Bridge."
DESKTOP = {"width": 1280, "height": 860}
PHONE = {"width": 360, "height": 740}
SENTENCE = re.compile(r"^[A-Z\W].*\.$", re.DOTALL)
PATIENCE = 30_000  # ms that anything may take on a busy machine


# A server, a browser, and pages that are watched


@pytest.fixture
def server(shared: Server) -> str:
    """The address of a server that other tests use as well, each in a space of its own."""
    return shared.url


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=PATIENCE)
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


class Watched:
    """Opens pages of a context and keeps what their consoles complain about."""

    def __init__(self, context: BrowserContext, server: str, space: str) -> None:
        self.context, self.server, self.space = context, server, space
        self.complaints: list[str] = []
        self.forgiven: list[str] = []  # patterns of complaints that a test brings about

    def open(self, space: str | None = None) -> Page:
        page = self.context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on(
            "console",
            lambda m: self.complaints.append(m.text) if m.type in ("error", "warning") else None,
        )
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda r: self._same_host(r.url))
        page.goto(f"{self.server}/#space={space or self.space}")
        expect(page.locator("#space")).to_have_value(space or self.space)
        return page

    def _same_host(self, url: str) -> None:
        if not url.startswith((self.server, "blob:", "data:")):
            self.complaints.append(f"asks another host: {url}")

    def unforgiven(self) -> list[str]:
        return [c for c in self.complaints if not any(re.search(f, c) for f in self.forgiven)]


Watch = Callable[..., Watched]


@pytest.fixture
def watch(browser: Browser, server: str, space: str) -> Iterator[Watch]:
    """Makes a watched context; the test fails if a page of it complained."""
    made: list[Watched] = []

    def make(**options: Any) -> Watched:
        context = browser.new_context(
            **({"viewport": DESKTOP, "reduced_motion": "reduce"} | options)
        )
        made.append(Watched(context, server, space))
        return made[-1]

    yield make
    for watched in made:
        watched.context.close()
        assert watched.unforgiven() == []


@pytest.fixture
def watched(watch: Watch) -> Watched:
    return watch()


@pytest.fixture
def page(watched: Watched) -> Page:
    return watched.open()


def picture(page: Page, name: str) -> None:
    """Keep what the page shows, where QF_SCREENSHOTS says."""
    if directory := os.environ.get("QF_SCREENSHOTS"):
        Path(directory).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(directory) / f"{name}.png", animations="disabled")


def teach(page: Page, statement: str = FACT, query: str = "", answer: str = "") -> None:
    page.get_by_label("A fact, in one sentence").fill(statement)
    if query or answer:
        page.locator("#teach details").evaluate("e => { e.open = true; }")
        page.get_by_label("Question", exact=True).fill(query)
        page.get_by_label("Answer", exact=True).fill(answer)
    page.get_by_role("button", name="Teach", exact=True).click()


def taught(page: Page, statement: str = FACT) -> None:
    teach(page, statement)
    expect(page.locator(".lesson:not([aria-busy])")).to_be_visible()


def ask(page: Page, question: str = QUESTION) -> str:
    """The answer to a question, once it has come in full."""
    before = page.locator(".turn.model").count()
    page.get_by_label("Your question").fill(question)
    page.get_by_label("Your question").press("Enter")
    turn = page.locator(".turn.model").nth(before)
    expect(turn).to_be_visible()
    expect(turn).not_to_have_attribute("aria-busy", "true")
    return turn.locator(".said").inner_text()


# What the page is for


def test_the_first_visit_explains_itself_and_teaches_the_example(page: Page) -> None:
    welcome = page.locator("#welcome")
    expect(welcome).to_be_visible()
    expect(welcome).to_contain_text("learns while it answers")
    picture(page, "first-visit")
    page.get_by_role("button", name=f"Teach it {FACT}").click()
    expect(page.locator(".facts .statement")).to_have_text([FACT])
    expect(welcome).to_be_hidden()
    page.get_by_role("button", name="Ask it").click()
    expect(page.locator(".turn.model .said")).to_have_text(ANSWER)


def test_teach_ask_forget_undo_ask(page: Page) -> None:
    assert ask(page) == UNKNOWN
    taught(page)
    assert ask(page) == ANSWER
    page.get_by_role("button", name=f"Forget: {FACT}").click()
    expect(page.locator(".forgotten")).to_contain_text(FACT)
    assert ask(page) == UNKNOWN
    page.get_by_role("button", name=f"Undo: keep {FACT}").click()
    expect(page.locator(".fact:not(.forgotten) .statement")).to_have_text([FACT])
    assert ask(page) == ANSWER
    moments = page.locator(".moment .act")
    expect(moments).to_have_text(["Learned", "Forgot", "Restored"])
    picture(page, "teach-ask-forget-undo")


def test_a_lesson_shows_the_passes_and_what_changed(page: Page) -> None:
    taught(page)
    steps = page.locator(".step")
    expect(steps.nth(0).locator(".answered")).to_have_text(UNKNOWN)
    expect(page.locator(".page.open")).to_contain_text(FACT)
    expect(page.locator(".page.closed")).not_to_contain_text(FACT)
    for book in (".page.open", ".page.closed"):
        expect(page.locator(f"{book} .answered")).to_have_text(ANSWER)
    expect(steps.nth(3).locator(".answered")).to_have_text(ANSWER)
    expect(steps.nth(3)).to_contain_text("verified")
    tokens = page.locator(".lesson .token:not(.end) .text").all_inner_texts()
    assert "".join(tokens) == ANSWER.replace(" ", "")
    assert page.locator(".lesson .token[data-learned]").count() > 0


def test_tokens_are_shaded_by_how_much_they_changed(page: Page) -> None:
    taught(page)
    shown = page.locator(".lesson .token[data-learned]").evaluate_all(
        """tokens => tokens.map(t => [
            parseFloat(t.querySelector(".share").textContent),
            parseFloat(t.style.getPropertyValue("--change")),
            getComputedStyle(t.querySelector(".text")).backgroundColor,
        ])"""
    )
    assert max(change for _, change, _ in shown) == 1
    by_share = [change for _, change, _ in sorted(shown)]
    assert by_share == sorted(by_share)
    assert len({colour for *_, colour in shown}) > 1


def test_the_details_of_a_fact(page: Page, watched: Watched) -> None:
    taught(page)
    page.reload()
    page.get_by_role("button", name=f"Details: {FACT}").click()
    details = page.locator(".details")
    expect(details.locator("dd").first).to_have_text(UNKNOWN)
    expect(details.locator(".token[data-learned]").first).to_be_visible()
    picture(page, "details")
    page.get_by_role("button", name=f"Details: {FACT}").click()
    expect(details).to_be_hidden()


def test_study(page: Page) -> None:
    page.get_by_role("tab", name="Study a text").click()
    page.get_by_label("A text, one fact in each sentence").fill(f"{FACT} {OTHER} Is it so?")
    page.get_by_role("button", name="Study", exact=True).click()
    expect(page.locator("#study-label")).to_contain_text("Learned 2 facts")
    assert page.locator("#study-progress").evaluate("p => p.value === p.max && p.max >= 2")
    expect(page.locator(".facts .statement")).to_have_text([OTHER, FACT])
    picture(page, "study")
    assert ask(page) == ANSWER


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Keeps the server from learning the fact OTHER until it is set."""
    go, learn = threading.Event(), serve_facts.learn

    async def waiting(request: Any, body: Any, *on_step: Any) -> Any:
        while body.instruction == OTHER and not go.is_set():
            await asyncio.sleep(0.01)
        return await learn(request, body, *on_step)

    monkeypatch.setattr(serve_facts, "learn", waiting)
    return go


def test_the_list_grows_while_a_text_is_studied(watched: Watched, held: threading.Event) -> None:
    watched.context.add_init_script("window.setInterval = () => 0")  # it does not look by itself
    page = watched.open()
    page.get_by_role("tab", name="Study a text").click()
    page.get_by_label("A text, one fact in each sentence").fill(f"Zzz. {FACT} {OTHER}")
    page.get_by_role("button", name="Study", exact=True).click()
    expect(page.locator(".facts .statement")).to_have_text([FACT])
    expect(page.locator("#study-count")).to_have_text("2 of 3 sentences")
    held.set()
    expect(page.locator("#study-label")).to_contain_text("Learned 2 facts, left out 1")
    expect(page.locator(".studied-one").first).to_contain_text("Left out 'Zzz.' is a single word")


def test_a_fact_that_was_taught_to_another_space_says_so(
    page: Page, watched: Watched, shared: Server, held: threading.Event
) -> None:
    shared.http().post("/v1/spaces", json={"name": f"{watched.space}-c"})
    page.reload()
    teach(page, OTHER)
    expect(page.locator(".lesson")).to_be_visible()
    page.get_by_role("combobox", name="Space").select_option(f"{watched.space}-c")
    held.set()
    told = f"In the space {watched.space}: Learned."
    expect(page.locator("#teach-state")).to_contain_text(told)
    expect(page.get_by_label("A fact, in one sentence")).to_have_value("")
    expect(page.locator(".facts .statement")).to_have_count(0)
    page.get_by_role("combobox", name="Space").select_option(watched.space)
    expect(page.locator(".facts .statement")).to_have_text([OTHER])


def test_study_of_a_file(page: Page, tmp_path: Path) -> None:
    (tmp_path / "facts.txt").write_text(OTHER, encoding="utf-8")
    (tmp_path / "picture.txt").write_bytes(b"\xff\xd8\xff")
    page.get_by_role("tab", name="Study a text").click()
    page.locator("#file").set_input_files(tmp_path / "picture.txt")
    expect(page.locator("#document-error")).to_have_text("picture.txt is not a text in UTF-8.")
    page.locator("#file").set_input_files(tmp_path / "facts.txt")
    expect(page.get_by_label("A text, one fact in each sentence")).to_have_value(OTHER)
    expect(page.locator("#document-error")).to_be_hidden()


def test_the_layer_sweep_is_a_picture(page: Page) -> None:
    scores = [
        {"layer": i, "same": i / 7, "other": i / 14, "kept": 1.0, "score": i / 10} for i in range(8)
    ]
    said = "".join(f"event: layer\ndata: {json.dumps(score)}\n\n" for score in scores)
    page.route(
        "**/v1/layers",
        lambda route: (
            route.fulfill(
                content_type="text/event-stream", body=f'{said}event: done\ndata: {{"best": 7}}\n\n'
            )
            if route.request.method == "POST"
            else route.fulfill(json={"layer": 7, "count": 8, "best": None, "data": []})
        ),
    )
    page.get_by_role("tab", name="Layers").click()
    page.get_by_role("button", name="Measure every layer").click()
    chart = page.get_by_role("img", name="layer 7: same words 100%, other words 50%")
    expect(chart).to_be_visible()
    heights = [
        float(y)
        for y in chart.locator("circle").evaluate_all("c => c.map(x => x.getAttribute('cy'))")
    ]
    assert len(heights) == 8
    assert heights == sorted(heights, reverse=True)
    expect(page.locator("figcaption")).to_contain_text("Best: layer 7.")
    picture(page, "layers")


def test_export_and_import_carry_facts_to_another_space(
    page: Page, watched: Watched, shared: Server, tmp_path: Path
) -> None:
    taught(page)
    with page.expect_download() as download:
        page.get_by_role("button", name="Export").click()
    download.value.save_as(tmp_path / "facts.qf")
    shared.http().post("/v1/spaces", json={"name": f"{watched.space}-too"})
    other = watched.open(f"{watched.space}-too")
    other.locator("#import").set_input_files(tmp_path / "facts.qf")
    expect(other.locator(".facts .statement")).to_have_text([FACT])
    assert ask(other) == ANSWER


# Spaces, tabs and keys


def test_a_space_does_not_show_the_facts_of_another(
    page: Page, watched: Watched, shared: Server
) -> None:
    taught(page)
    shared.http().post("/v1/spaces", json={"name": f"{watched.space}-b"})
    page.reload()
    expect(page.locator(".facts .statement")).to_have_text([FACT])
    page.get_by_role("combobox", name="Space").select_option(f"{watched.space}-b")
    expect(page.locator(".facts .statement")).to_have_count(0)
    assert ask(page) == UNKNOWN
    page.get_by_role("combobox", name="Space").select_option(watched.space)
    expect(page.locator(".facts .statement")).to_have_text([FACT])
    assert ask(page) == ANSWER


def test_without_its_memory_it_does_not_know(page: Page) -> None:
    taught(page)
    page.get_by_label("Without its memory").check()
    assert ask(page) == UNKNOWN
    page.get_by_label("Without its memory").uncheck()
    assert ask(page) == ANSWER


def test_two_tabs_at_once(watched: Watched) -> None:
    one, two = watched.open(), watched.open()
    expect(two.locator("#welcome")).to_be_visible()
    taught(one)
    expect(two.locator(".facts .statement")).to_have_text([FACT])
    assert ask(two) == ANSWER
    two.get_by_role("button", name=f"Forget: {FACT}").click()
    expect(one.locator(".fact")).to_have_count(0)
    assert ask(one) == UNKNOWN


def test_another_client_hears_of_it(watch: Watch) -> None:
    one, two = watch().open(), watch().open()
    taught(one)
    assert ask(two) == ANSWER
    expect(two.locator(".facts .statement")).to_have_text([FACT])  # on its next look


def test_two_tabs_forget_the_same_fact(watched: Watched) -> None:
    one = watched.open()
    taught(one)
    two = watched.open()
    expect(two.locator(".facts .statement")).to_have_text([FACT])
    two.route("**/v1/facts?*", lambda route: route.abort())  # so that it cannot hear of it
    watched.forgiven += ["404", "ERR_FAILED"]
    one.get_by_role("button", name=f"Forget: {FACT}").click()
    expect(one.locator(".forgotten")).to_be_visible()
    two.get_by_role("button", name=f"Forget: {FACT}").click()
    expect(two.locator(".fact .error")).to_have_text(SENTENCE)


def test_a_server_with_keys_is_asked_with_one(
    browser: Browser, start: Start, tmp_path: Path
) -> None:
    server = start()
    _, key = Keys(tmp_path).add("ada", ["ada"], ["chat", "teach"])
    _, reader = Keys(tmp_path).add("bo", ["ada"], ["chat"])
    watched = Watched(browser.new_context(viewport=DESKTOP), server.url, "ada")
    page = watched.context.new_page()
    page.goto(server.url)
    dialog = page.get_by_role("dialog", name="Access")
    expect(dialog).to_be_visible()
    picture(page, "access")

    def give(text: str) -> None:
        dialog.get_by_label("API key").fill(text)
        dialog.get_by_role("button", name="Use this key").click()

    give("wrong")
    expect(dialog.locator("#key-error")).to_have_text(SENTENCE)
    give(key)
    expect(dialog).to_be_hidden()
    expect(page.locator("#space")).to_have_value("ada")
    taught(page)
    assert ask(page) == ANSWER
    assert page.evaluate("localStorage.length") == 0
    page.get_by_role("button", name="Access").click()
    give(reader)
    expect(page.locator("#facts-error")).to_have_text(
        "This key may ask in this space, but not see what it was taught."
    )
    expect(page.locator(".fact, .lesson")).to_have_count(0)
    teach(page)
    expect(page.locator("#statement-error")).to_contain_text("may not teach")
    assert ask(page) == ANSWER
    page.get_by_role("button", name="Access").click()
    dialog.get_by_role("button", name="Forget the key").click()
    expect(dialog).to_be_visible()
    watched.context.close()


def test_a_new_space(page: Page, watched: Watched) -> None:
    page.get_by_role("button", name="Access").click()
    watched.forgiven += ["400", "422"]
    page.get_by_label("A new space of facts").fill("No Spaces!")
    page.get_by_role("button", name="Create the space").click()
    expect(page.locator("#new-space-error")).to_have_text(SENTENCE)
    page.get_by_label("A new space of facts").fill(f"{watched.space}-new")
    page.get_by_role("button", name="Create the space").click()
    expect(page.locator("#space")).to_have_value(f"{watched.space}-new")


# Errors, beside what caused them


def test_nothing_to_teach_ask_or_study(page: Page) -> None:
    page.get_by_role("button", name="Teach", exact=True).click()
    expect(page.locator("#statement-error")).to_contain_text("Write a statement first")
    expect(page.get_by_label("A fact, in one sentence")).to_have_attribute("aria-invalid", "true")
    expect(page.get_by_label("A fact, in one sentence")).to_be_focused()
    picture(page, "error")
    page.get_by_label("A fact, in one sentence").fill("x")
    expect(page.locator("#statement-error")).to_be_hidden()
    page.get_by_role("button", name="Ask", exact=True).last.click()
    expect(page.locator("#question-error")).to_have_text("Write a question first.")
    page.get_by_role("tab", name="Study a text").click()
    page.get_by_role("button", name="Study", exact=True).click()
    expect(page.locator("#document-error")).to_have_text("Write or open a text first.")


def test_a_statement_that_no_question_is_found_for(page: Page, watched: Watched) -> None:
    watched.forgiven += ["400", "422"]
    teach(page, "Is it?")
    said = page.locator("#teach .error:visible")
    expect(said).to_have_count(1)
    expect(said).to_have_text(SENTENCE)
    expect(page.locator(".lesson")).to_have_count(0)
    expect(page.get_by_label("A fact, in one sentence")).to_have_value("Is it?")


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        ({"status": 500, "body": "Internal Server Error"}, "The server answered with status 500."),
        (
            {
                "status": 429,
                "headers": {"Retry-After": "7"},
                "json": {"error": {"message": "Too many at once.", "code": "queue_full"}},
            },
            "Too many at once. Try again in 7 s.",
        ),
        (
            {
                "content_type": "text/event-stream",
                "body": 'event: queued\ndata: {"position": 0}\n\n'
                'event: error\ndata: {"error": {"message": "The memory has gone."}}\n\n',
            },
            "The memory has gone.",
        ),
        (
            {
                "content_type": "text/event-stream",
                "body": 'event: queued\ndata: {"position": 0}\n\n',
            },
            "The server stopped before the fact was learned: teach it again.",
        ),
        (None, "The server cannot be reached: see whether qf serve is running."),
    ],
)
def test_what_the_server_refuses(
    page: Page, watched: Watched, answer: dict[str, Any] | None, shown: str
) -> None:
    watched.forgiven += ["500", "429", "ERR_FAILED"]
    page.route(
        "**/v1/facts",
        lambda route: route.fulfill(**answer) if answer is not None else route.abort(),
    )
    teach(page)
    expect(page.locator("#teach-error")).to_have_text(shown)
    expect(page.locator(".lesson")).to_have_count(0)
    expect(page.get_by_label("A fact, in one sentence")).to_have_value(FACT)
    page.unroute("**/v1/facts")
    page.get_by_role("button", name="Teach", exact=True).click()
    expect(page.locator(".facts .statement")).to_have_text([FACT])
    expect(page.locator("#teach-error")).to_be_hidden()


def test_an_answer_that_breaks_off_keeps_what_came(page: Page) -> None:
    chunk = {"choices": [{"index": 0, "delta": {"content": "So far"}}]}
    page.route(
        "**/v1/chat/completions",
        lambda route: route.fulfill(
            content_type="text/event-stream",
            body=f"data: {json.dumps(chunk)}\n\n"
            'data: {"error": {"message": "It took too long.", "code": "timeout"}}\n\n',
        ),
    )
    assert ask(page) == "So far"
    expect(page.locator(".turn.model .error")).to_have_text("It took too long.")


def test_turns_that_no_longer_fit_are_left_out(page: Page, watched: Watched) -> None:
    watched.forgiven += ["400"]
    assert ask(page) == UNKNOWN
    asked: list[int] = []

    def too_long(route: Route) -> None:
        asked.append(len(route.request.post_data_json["messages"]))
        if asked[-1] == 1:
            return route.continue_()
        error = {"message": "Too long.", "code": "context_length_exceeded", "param": "messages"}
        return route.fulfill(status=400, json={"error": error})

    page.route("**/v1/chat/completions", too_long)
    assert ask(page) == UNKNOWN
    assert asked == [3, 1]
    expect(page.locator(".turn.model").last).to_contain_text("left out")


def test_markup_is_shown_as_text(page: Page) -> None:
    page.evaluate("window.hit = 0")
    evil = "<img src=x onerror='window.hit = 1'><script>window.hit = 1</script>"
    teach(page, f"Qi {evil}", f"Who {evil}?", f"It is {evil}.")
    expect(page.locator(".facts .statement")).to_have_text([f"Qi {evil}"], timeout=120_000)
    expect(page.locator(".lesson:not([aria-busy])")).to_be_visible()
    page.get_by_role("button", name="Details").click()
    expect(page.locator(".details dl")).to_be_visible()
    ask(page, evil)
    assert page.locator("main :is(img, script)").count() == 0
    assert page.evaluate("window.hit") == 0


# Everybody


def test_with_a_keyboard_alone(page: Page) -> None:
    def tab_to(label: str) -> None:
        for _ in range(60):
            page.keyboard.press("Tab")
            if page.evaluate(f"() => ({NAME})(document.activeElement)") == label:
                return
        pytest.fail(f"Tab never reaches {label!r}")

    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to teaching")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_label("A fact, in one sentence")).to_be_focused()
    page.keyboard.type(FACT)
    page.keyboard.press("Enter")
    expect(page.locator(".facts .statement")).to_have_text([FACT])
    expect(page.get_by_label("A fact, in one sentence")).to_be_focused()
    tab_to(f"Forget: {FACT}")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name=f"Undo: keep {FACT}")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name=f"Forget: {FACT}")).to_be_focused()
    tab_to("Your question")
    page.keyboard.type(QUESTION)
    page.keyboard.press("Enter")
    expect(page.locator(".turn.model .said")).to_have_text(ANSWER)
    expect(page.get_by_label("Your question")).to_be_focused()
    tab_to("Teach")
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Study a text")).to_be_focused()
    expect(page.get_by_role("tabpanel", name="Study a text")).to_be_visible()
    page.keyboard.press("End")
    expect(page.get_by_role("tab", name="Layers")).to_have_attribute("aria-selected", "true")


def test_the_focus_is_always_seen(page: Page) -> None:
    taught(page)
    names = []
    for _ in range(40):
        page.keyboard.press("Tab")
        focused = page.locator(":focus")
        if focused.count() == 0:  # the browser's own controls
            continue
        names.append(focused.evaluate(NAME))
        assert focused.evaluate(
            """e => [e, e.closest(".field")].some(
                x => x && getComputedStyle(x).outlineStyle !== "none"
                && parseFloat(getComputedStyle(x).outlineWidth) >= 2)"""
        ), names[-1]
    assert len(set(names)) > 12


def test_a_screen_reader_is_told(page: Page) -> None:
    status = page.get_by_role("status")
    taught(page)
    expect(status).to_have_text(f"Learned. Before, it said: {UNKNOWN} Now it says: {ANSWER}")
    ask(page)
    expect(status).to_have_text(f"The model: {ANSWER}")
    page.get_by_role("button", name=f"Forget: {FACT}").click()
    expect(status).to_have_text(f"Forgot: {FACT} Undo is possible.")
    assert page.locator("[role=alert]").count() > 5  # where errors are said


NAME = """e => {
    const of = id => document.getElementById(id)?.textContent ?? "";
    const text = e.getAttribute("aria-label")
        || (e.getAttribute("aria-labelledby") ?? "").split(" ").map(of).join(" ").trim()
        || [...(e.labels ?? [])].map(l => l.innerText).join(" ").trim()
        || (/^(BUTTON|A|SUMMARY|LI)$/.test(e.tagName) ? e.textContent : "");
    return text.trim().replace(/\\s+/g, " ");
}"""

# Pairs of a text and its contrast with what is behind it, where that is less than 4.5.
FAINT = """() => {
    const brush = new OffscreenCanvas(1, 1).getContext("2d", {willReadFrequently: true});
    const rgba = colour => {
        brush.clearRect(0, 0, 1, 1);
        brush.fillStyle = colour;
        brush.fillRect(0, 0, 1, 1);
        return [...brush.getImageData(0, 0, 1, 1).data].map((c, i) => i < 3 ? c : c / 255);
    };
    const over = (a, b) => [0, 1, 2].map(i => a[i] * a[3] + b[i] * (1 - a[3]));
    const behind = e => {
        const layers = [];
        for (let at = e; at; at = at.parentElement) {
            layers.push(rgba(getComputedStyle(at).backgroundColor));
            if (layers.at(-1)[3] === 1) break;
        }
        return layers.reverse().reduce((b, a) => over(a, b), [255, 255, 255]);
    };
    const light = c => c.map(x => x / 255)
        .map(x => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4)
        .reduce((s, x, i) => s + x * [0.2126, 0.7152, 0.0722][i], 0);
    const ratio = (a, b) => {
        const [x, y] = [light(a), light(b)].sort((p, q) => q - p);
        return (x + 0.05) / (y + 0.05);
    };
    const faint = [];
    const look = (e, text, style) => {
        const back = behind(e);
        const contrast = ratio(over(rgba(style.color), back), back);
        if (contrast < 4.5) faint.push([text.trim().slice(0, 40), contrast.toFixed(2)]);
    };
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    let seen = 0;
    while (texts.nextNode()) {
        const node = texts.currentNode, e = node.parentElement;
        if (!node.data.trim() || !e.checkVisibility()) continue;
        if (e.closest("svg, .unseen, noscript")) continue;
        seen += 1;
        look(e, node.data, getComputedStyle(e));
    }
    for (const e of document.querySelectorAll("[placeholder]"))
        if (e.checkVisibility() && !e.value)
            look(e, e.placeholder, getComputedStyle(e, "::placeholder"));
    return {seen, faint};
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_and_names_in_every_state(watch: Watch, scheme: str) -> None:
    watched = watch(color_scheme=scheme)
    watched.forgiven += ["400", "422"]
    page = watched.open()

    def check(least: int) -> None:
        found = page.evaluate(FAINT)
        assert found["faint"] == []
        assert found["seen"] >= least
        nameless = page.locator(
            ":is(button, input, textarea, select, a, summary, progress, dialog[open], [role=img])"
            ":not([aria-hidden])"
        ).evaluate_all(
            f"all => all.filter(e => e.checkVisibility() && !({NAME})(e)).map(e => e.outerHTML)"
        )
        assert nameless == []
        ids = page.locator("[id]").evaluate_all("all => all.map(e => e.id)")
        assert len(ids) == len(set(ids))

    expect(page.locator("#welcome")).to_be_visible()
    check(15)
    taught(page)
    ask(page)
    page.get_by_role("button", name=f"Details: {FACT}").click()
    expect(page.locator(".details dl")).to_be_visible()
    page.locator(".page.open summary").click()
    check(50)
    teach(page, "Is it?")
    expect(page.locator("#teach .error:visible")).to_have_count(1)
    page.get_by_role("button", name=f"Forget: {FACT}").click()
    page.get_by_role("tab", name="Study a text").click()
    page.get_by_label("A text, one fact in each sentence").fill(OTHER)
    page.get_by_role("button", name="Study", exact=True).click()
    expect(page.locator("#study-label")).to_contain_text("Learned")
    check(25)
    page.get_by_role("button", name="Access").click()
    check(25)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone(watch: Watch, scheme: str) -> None:
    watched = watch(
        viewport=PHONE, color_scheme=scheme, has_touch=True, is_mobile=True, device_scale_factor=2
    )
    page = watched.open()
    views = page.get_by_role("navigation", name="Views")
    expect(page.get_by_label("Your question")).to_be_visible()
    expect(page.get_by_label("A fact, in one sentence")).to_be_hidden()
    _fits(page)
    views.get_by_role("button", name="Memory").tap()
    expect(page.get_by_label("Your question")).to_be_hidden()
    _fits(page)
    page.get_by_role("button", name=f"Teach it {FACT}").tap()
    expect(page.locator(".lesson:not([aria-busy])")).to_be_visible()
    page.locator(".lesson").evaluate("e => e.scrollIntoView()")
    _fits(page)
    picture(page, f"phone-lesson-{scheme}")
    page.get_by_role("button", name=f"Details: {FACT}").tap()
    expect(page.locator(".details dl")).to_be_visible()
    _fits(page)
    page.get_by_role("button", name="Ask it").tap()
    expect(page.locator(".turn.model .said")).to_have_text(ANSWER)
    picture(page, f"phone-chat-{scheme}")
    assert page.evaluate(FAINT)["faint"] == []


def _fits(page: Page) -> None:
    """Nothing reaches over the edge, and a finger finds every control."""
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    over = page.locator("main *, header *").evaluate_all(
        """all => all.filter(e => e.checkVisibility() && !e.closest(".unseen, pre, .tabs"))
            .filter(e => e.getBoundingClientRect().right > innerWidth + 0.5)
            .map(e => e.outerHTML)"""
    )
    assert over == []
    small = page.locator("button, select").evaluate_all(
        """all => all.filter(e => e.checkVisibility())
            .filter(e => e.getBoundingClientRect().height < 40).map(e => e.outerHTML)"""
    )
    assert small == []


@pytest.mark.slow
def test_many_facts_are_shown_in_pages(page: Page, watched: Watched, shared: Server) -> None:
    for i in range(80):
        lesson = f"Zed{i} is {i}.", f"What is Zed{i}?"
        shared.teach(*lesson, answer=f"{i}.", space=watched.space)
    page.reload()
    facts = page.locator(".facts .statement")
    expect(facts).to_have_count(20)
    expect(facts.first).to_have_text("Zed79 is 79.")
    expect(page.locator("#fact-count")).to_have_text("80")
    for shown in (40, 60, 80):
        page.get_by_role("button", name="Show more").click()
        expect(facts).to_have_count(shown)
    expect(page.get_by_role("button", name="Show more")).to_be_hidden()
    expect(facts.last).to_have_text("Zed0 is 0.")
