"""The page in a real browser: it shows the words of its microphone and of files, and says what is wrong."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from playwright.sync_api import Browser, Page, Playwright, expect

from speechrnn.audio import Samples
from speechrnn.decoding import read
from speechrnn.recognizer import Recognizer
from speechrnn.serving import uploads
from tests.helpers import COMMAND, RATE_HZ, fake_recognizer, silence, sine, wait_until, write_audio
from tests.serving.browser import NEEDS_CHROMIUM, SpotResult, launch, open_page
from tests.serving.server import EXAMPLES, ROOT, Serving

pytestmark = NEEDS_CHROMIUM


@pytest.fixture(scope="module")
def serving(recognizer: Recognizer) -> Iterator[Serving]:
    with Serving(recognizer) as running:
        yield running


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first four words of an example, after a while in which a browser can start."""
    samples = read(EXAMPLES / "commands.wav", RATE_HZ)[: round(6.6 * RATE_HZ)]
    lead = tmp_path_factory.mktemp("words") / "words.wav"
    return write_audio(lead, np.concatenate([silence(3), samples, silence(0.5)]), subtype="PCM_16")


@pytest.fixture(scope="module")
def browser(hearing: SpotResult, words: Path) -> Browser:
    return hearing(words)


@pytest.fixture
def page(browser: Browser, serving: Serving) -> Iterator[Page]:
    with open_page(browser, serving) as shown:
        yield shown


def transcribed(path: Path, *arguments: str) -> str:
    """What `speechrnn transcribe` says of a file."""
    command = [*COMMAND, "transcribe", path.name, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, cwd=path.parent, env=environment, check=True).stdout


def labels_of(path: Path) -> list[str]:
    return [found["label"] for found in json.loads(transcribed(path, "--format", "json"))["detections"]]


def detected(page: Page) -> list[str]:
    """The words in the list, oldest first."""
    return page.locator("#detections b").all_inner_texts()[::-1]


def start(page: Page) -> None:
    page.get_by_role("button", name="Start listening").click()
    expect(page.get_by_role("button", name="Stop listening")).to_be_visible()


def number(page: Page, selector: str) -> float:
    """The number before a unit."""
    return float(page.locator(selector).inner_text().split()[0])


# The microphone


def test_the_page_shows_the_words_of_its_microphone(hearing: SpotResult, serving: Serving, words: Path) -> None:
    expected = labels_of(words)
    with open_page(hearing(words, once=True), serving) as page:
        start(page)
        expect(page.locator("#detections li")).to_have_count(len(expected))
        expect(page.locator("#word")).to_have_text(expected[-1])
        assert detected(page) == expected
        assert 0 < number(page, "#delay") < 2000
        assert 0 <= number(page, "#lag") < 1000
        rows = page.evaluate(DARKEST_OF_ROWS)
        assert min(rows[:4]) > 1.5 * max(rows[4:])  # yes, no, up, down; left, right, on, off, stop, go
        page.get_by_role("button", name="Stop listening").click()
        expect(page.get_by_role("button", name="Start listening")).to_be_visible()


DARKEST_OF_ROWS = """() => {
  const { width, height } = document.getElementById("heat");
  const pixels = document.getElementById("heat").getContext("2d").getImageData(0, 0, width, height).data;
  return [0, 1, 2, 3, 4, 5, 6, 7, 8, 9].map((row) => {
    const start = 4 * width * Math.round(((row + 0.5) * height) / 10);
    return 255 - pixels.slice(start, start + 4 * width).filter((_, i) => i % 4 === 0).reduce((a, b) => Math.min(a, b));
  });
}"""


def test_only_the_keywords_that_are_ticked_are_detected_and_one_is_left(page: Page) -> None:
    for label in ("yes", "up", "down", "left", "right", "on", "off", "stop", "go"):
        page.get_by_role("checkbox", name=label, exact=True).uncheck()
    expect(page.get_by_role("checkbox", name="no", exact=True)).to_be_disabled()
    start(page)
    expect(page.locator("#detections li")).to_have_count(2)
    assert detected(page) == ["no", "no"]


def test_a_threshold_that_is_moved_counts_from_then_on(browser: Browser, recognizer: Recognizer) -> None:
    deaf = msgspec.structs.replace(recognizer.info.options, threshold=1.0, thresholds={})
    model = Recognizer(msgspec.structs.replace(recognizer.info, options=deaf), recognizer.logits, recognizer.path)
    with Serving(model) as serving, open_page(browser, serving) as page:
        start(page)
        page.wait_for_timeout(6000)  # the first word is past
        expect(page.locator("#detections li")).to_have_count(0)
        page.get_by_role("slider", name="Threshold").fill("0.5")
        expect(page.locator("#threshold-text")).to_have_text("0.50")
        expect(page.locator("#detections li")).not_to_have_count(0)


@pytest.mark.parametrize(("peak", "is_clipping"), [(0.5, False), (1.0, True)])
def test_the_level_is_shown_and_clipping_with_it(
    hearing: SpotResult, serving: Serving, tmp_path: Path, peak: float, is_clipping: bool
) -> None:
    tone = 2 * peak * sine(440, 2)
    with open_page(hearing(write_audio(tmp_path / "tone.wav", tone, subtype="PCM_16")), serving) as page:
        start(page)
        level = page.get_by_role("meter", name="Input level in decibels")
        expect(level).to_have_attribute("aria-valuenow", "0" if is_clipping else "-6")
        expect(page.get_by_text("clipping")).to_be_visible(visible=is_clipping)


def test_a_refused_microphone_is_explained(playwright: Playwright, serving: Serving) -> None:
    refusing = launch(playwright, "--deny-permission-prompts")
    with open_page(refusing, serving) as page:
        page.get_by_role("button", name="Start listening").click()
        expect(page.locator("#message")).to_contain_text("The browser refused the microphone")
        expect(page.get_by_role("button", name="Start listening")).to_be_enabled()
    refusing.close()


@pytest.mark.parametrize(
    ("before", "said"),
    [
        ("delete Navigator.prototype.mediaDevices", "only to secure pages"),
        (
            "navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('', 'NotFoundError'); }",
            "No microphone was found",
        ),
        (
            "navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('', 'NotReadableError'); }",
            "another program",
        ),
    ],
    ids=["no secure page", "none", "in use"],
)
def test_why_there_is_no_microphone_is_explained(browser: Browser, serving: Serving, before: str, said: str) -> None:
    with open_page(browser, serving, before=before) as page:
        page.get_by_role("button", name="Start listening").click()
        expect(page.locator("#message")).to_contain_text(said)


def test_a_microphone_that_goes_away_is_explained_and_can_be_started_again(browser: Browser, serving: Serving) -> None:
    keep_tracks = """
      const open = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
      navigator.mediaDevices.getUserMedia = async (wanted) => (window.stream = await open(wanted));
    """
    with open_page(browser, serving, before=keep_tracks) as page:
        start(page)
        page.evaluate("window.stream.getAudioTracks()[0].dispatchEvent(new Event('ended'))")
        expect(page.locator("#message")).to_contain_text("The microphone is gone")
        start(page)
        expect(page.locator("#message")).to_be_empty()
        expect(page.locator("#detections li")).not_to_have_count(0)


def test_microphones_can_be_chosen_once_they_may_be_used(page: Page) -> None:
    start(page)
    expect(page.locator("#microphone option")).not_to_have_count(1)
    page.get_by_role("combobox", name="Microphone").select_option(index=1)
    expect(page.get_by_role("button", name="Stop listening")).to_be_visible()
    expect(page.locator("#detections li")).not_to_have_count(0)


# The server


def test_a_page_whose_server_was_lost_goes_on_when_it_is_back(browser: Browser, recognizer: Recognizer) -> None:
    running = Serving(recognizer)
    with open_page(browser, running) as page:
        start(page)
        expect(page.locator("#detections li")).not_to_have_count(0)
        running.stop()
        expect(page.locator("#message")).to_contain_text("The server cannot be reached. Trying again")
        n_detected = page.locator("#detections li").count()
        with Serving(recognizer, port=running.port):
            expect(page.locator("#message")).to_be_empty()
            wait_until(lambda: page.locator("#detections li").count() > n_detected)


def test_a_page_that_comes_when_the_server_is_full_is_told_and_gets_the_next_seat(browser: Browser) -> None:
    with Serving(fake_recognizer(), max_clients=1) as running, open_page(browser, running) as first:
        start(first)
        with open_page(browser, running) as second:
            start(second)
            expect(second.locator("#message")).to_contain_text("Every place of this server is taken (1)")
            first.get_by_role("button", name="Stop listening").click()
            expect(second.locator("#message")).to_be_empty()


def test_a_page_leaves_a_server_that_cannot_keep_up_and_comes_again(browser: Browser) -> None:
    fake, is_free = fake_recognizer(), threading.Event()

    def stuck(samples: Samples) -> Samples:
        is_free.wait()
        return fake.logits(samples)

    is_free.set()
    with Serving(Recognizer(fake.info, stuck, fake.path)) as running, open_page(browser, running) as page:
        start(page)
        expect(page.locator("#lag")).to_contain_text("ms")
        is_free.clear()
        expect(page.locator("#message")).to_contain_text("The server cannot keep up. Trying again")
        is_free.set()
        expect(page.locator("#message")).to_be_empty()


# A recording


def choose(page: Page, path: Path) -> None:
    page.locator("#file").set_input_files(path)


def drop(page: Page, path: Path) -> None:
    transfer = page.evaluate_handle(
        """([name, base64]) => {
          const transfer = new DataTransfer();
          transfer.items.add(new File([Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0))], name));
          return transfer;
        }""",
        [path.name, base64.b64encode(path.read_bytes()).decode()],
    )
    page.dispatch_event("main", "drop", {"dataTransfer": transfer})


@pytest.mark.parametrize(("give", "name"), [(choose, "commands.wav"), (choose, "drive.flac"), (drop, "menu.ogg")])
def test_a_file_shows_and_keeps_what_transcribe_finds(
    page: Page, give: Callable[[Page, Path], None], name: str, tmp_path: Path
) -> None:
    give(page, EXAMPLES / name)
    expect(page.locator("#recording")).to_be_visible()
    assert page.locator("#picture button").all_inner_texts() == labels_of(EXAMPLES / name)
    for link, kind in (("JSON", "json"), ("WebVTT", "vtt"), ("Audacity labels", "audacity")):
        with page.expect_download() as download:
            page.get_by_role("link", name=link).click()
        download.value.save_as(tmp_path / kind)
        assert (tmp_path / kind).read_text() == transcribed(EXAMPLES / name, "--format", kind)
        assert download.value.suggested_filename.startswith(Path(name).stem)


def test_a_click_on_a_word_plays_it_and_no_more(page: Page) -> None:
    choose(page, EXAMPLES / "commands.wav")
    page.get_by_role("button", name="Play left").click()
    player = page.locator("#player")
    wait_until(lambda: player.evaluate("player => player.currentTime > 7.6"))
    wait_until(lambda: player.evaluate("player => player.paused"))
    assert player.evaluate("player => player.currentTime") < 8.5


def test_a_recording_is_searched_for_the_keywords_that_are_ticked(page: Page) -> None:
    page.get_by_role("checkbox", name="yes").uncheck()
    choose(page, EXAMPLES / "commands.wav")
    expect(page.locator("#picture button")).to_have_text(["no", "up", "down", "left", "right", "stop", "go"])


def test_an_unreadable_file_is_explained_and_the_next_one_works(page: Page, tmp_path: Path) -> None:
    (tmp_path / "letter.wav").write_bytes(b"Dear reader")
    choose(page, tmp_path / "letter.wav")
    expect(page.locator("#file-message")).to_contain_text("letter.wav: not readable as audio")
    expect(page.locator("#recording")).to_be_hidden()
    choose(page, EXAMPLES / "menu.ogg")
    expect(page.locator("#recording")).to_be_visible()
    expect(page.locator("#file-message")).to_be_empty()


def test_a_file_that_is_too_large_is_not_sent(
    browser: Browser, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(uploads, "MAX_UPLOAD_BYTES", 1_000_000)
    (tmp_path / "long.wav").write_bytes(b"\0" * 1_000_001)
    with Serving(fake_recognizer()) as running, open_page(browser, running) as page:
        choose(page, tmp_path / "long.wav")
        expect(page.locator("#file-message")).to_contain_text("long.wav is larger than 1 MB")


def test_a_file_for_a_server_that_is_gone_is_explained(browser: Browser) -> None:
    running = Serving(fake_recognizer())
    with open_page(browser, running) as page:
        running.stop()
        choose(page, EXAMPLES / "menu.ogg")
        expect(page.locator("#file-message")).to_contain_text("The server cannot be reached")


def test_what_a_file_is_called_is_only_text(page: Page, tmp_path: Path) -> None:
    name = "<img src=x onerror=alert(1)>.ogg"
    shutil.copy(EXAMPLES / "menu.ogg", tmp_path / name)
    choose(page, tmp_path / name)
    expect(page.locator("#file-title")).to_contain_text(name)


# For everybody


def test_everything_can_be_reached_with_the_keyboard(page: Page) -> None:
    choose(page, EXAMPLES / "menu.ogg")
    expect(page.locator("#recording")).to_be_visible()
    page.locator("h1").click()
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
    wanted = {"listen", "microphone", "threshold", "file", "player", "down", "as-json", "as-vtt", "as-audacity"}
    assert wanted <= reached
    page.locator("#listen").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Stop listening", pressed=True)).to_be_focused()


def test_a_screen_reader_is_told_of_words_and_of_problems(page: Page) -> None:
    expect(page.get_by_role("log", name="Detected words")).to_be_attached()
    expect(page.get_by_role("status")).to_have_count(2)
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, a, canvas")]
          .filter((element) => !element.closest("[hidden], [aria-hidden]"))
          .filter((element) => !element.labels?.length && !element.ariaLabel && !element.textContent)
          .map((element) => element.outerHTML)"""
    )
    assert unnamed == []


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_nothing_sticks_out_at_any_width(browser: Browser, serving: Serving, width: int) -> None:
    with open_page(browser, serving, viewport={"width": width, "height": 800}) as page:
        choose(page, EXAMPLES / "commands.wav")
        expect(page.locator("#recording")).to_be_visible()
        assert page.evaluate("document.scrollingElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_can_be_read_in_light_and_dark(browser: Browser, serving: Serving, scheme: str) -> None:
    with open_page(browser, serving, color_scheme=scheme) as page:
        for ink in ("ink", "soft", "accent", "problem"):
            for paper in ("paper", "card"):
                assert contrast(page, ink, paper) >= 4.5, (ink, paper)
        assert contrast(page, "on-accent", "accent") >= 4.5
        assert contrast(page, "ink", "track") >= 4.5


def contrast(page: Page, *names: str) -> float:
    """The contrast of two colours of the page by the formula of the Web Content Accessibility Guidelines."""
    light = []
    for name in names:
        colour = page.evaluate(f"getComputedStyle(document.body).getPropertyValue('--{name}').trim()")
        shares = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
        light.append(float(linear @ [0.2126, 0.7152, 0.0722]))
    return (max(light) + 0.05) / (min(light) + 0.05)
