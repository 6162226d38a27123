"""The page that records own words, in a real browser: what it keeps, what it refuses, and what it hands out."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, Route, expect

from speechrnn.audio import Samples
from speechrnn.decoding import read
from speechrnn.recognizer import load
from tests.helpers import RATE_HZ, ROOT, noise, run, silence, sine, wait_until, write_audio
from tests.serving.browser import NEEDS_CHROMIUM, SpotResult, open_page
from tests.serving.server import Serving

pytestmark = NEEDS_CHROMIUM
CURTAINS = ROOT / "examples" / "own-words" / "curtains"
PERIOD_S = 3.2  # so long that a take has one word in it, and so short that few of them have none
RECORDED_MS = 300_000  # takes that come between two words are refused, and recorded again


def spoken() -> Samples:
    """The recordings of an example, one after the other, in faint noise."""
    parts = []
    for word in (read(path, RATE_HZ) for path in sorted(CURTAINS.iterdir())):
        parts += [word * (0.5 / np.abs(word).max()), silence(PERIOD_S - len(word) / RATE_HZ)]
    samples = np.concatenate(parts)
    return np.asarray(samples + 0.03 * noise(len(samples)), dtype=np.float32)


@pytest.fixture(scope="module")
def speaking(hearing: SpotResult, tmp_path_factory: pytest.TempPathFactory) -> Browser:
    """A browser into whose microphone somebody says "curtains" again and again."""
    return hearing(write_audio(tmp_path_factory.mktemp("spoken") / "words.wav", spoken(), subtype="PCM_16"))


@pytest.fixture
def page(speaking: Browser, serving: Serving) -> Iterator[Page]:
    with open_page(speaking, serving, "words.html", ready="#record", accept_downloads=True) as shown:
        yield shown


def record(page: Page, count: int, word: str = "curtains", speaker: str = "ana") -> None:
    """Ask for recordings, again where too many takes came between two words."""
    page.get_by_role("textbox", name="Word").fill(word)
    page.get_by_role("spinbutton", name="Recordings of it").fill(str(count))
    page.get_by_role("textbox", name="Who speaks").fill(speaker)
    while page.locator("#takes li").count() < count:
        page.get_by_role("button", name="Start recording").click()
        expect(page.get_by_role("button", name="Start recording")).to_be_enabled(timeout=RECORDED_MS)


def test_words_are_recorded_kept_and_handed_out_and_teach_takes_them(page: Page, tmp_path: Path) -> None:
    record(page, 3)
    expect(page.locator("#message")).to_have_text("“curtains” is done: 3 recordings.")
    page.reload()
    expect(page.locator("#takes li")).to_have_count(3)
    page.get_by_role("button", name="Play curtains 1").click()
    wait_until(lambda: page.locator("#player").evaluate("player => player.ended"))
    with page.expect_download() as download:
        page.get_by_role("link", name="Download my-words.zip").click()
    archive = tmp_path / download.value.suggested_filename
    download.value.save_as(archive)
    with zipfile.ZipFile(archive) as opened:
        assert opened.testzip() is None
        assert opened.namelist() == [f"my-words/curtains/ana_nohash_{n}.wav" for n in range(3)]
    done = run("teach", archive, "--output", tmp_path / "my.onnx", "--only", "--minutes", "0")
    assert done.returncode == 0, done.stderr
    assert load(tmp_path / "my.onnx").info.spec.labels.keywords == ("curtains",)


def test_a_take_is_deleted_and_another_recorded_again(page: Page) -> None:
    record(page, 3)
    first = page.evaluate(WAV_OF_FIRST)
    page.get_by_role("button", name="Delete curtains 2").click()
    expect(page.locator("#takes li")).to_have_count(2)
    expect(page.locator("#record")).to_be_focused()
    page.get_by_role("button", name="Record again curtains 1").click()
    expect(page.locator("#message")).to_have_text("“curtains” was recorded again.", timeout=RECORDED_MS)
    assert page.locator("#takes li").evaluate_all("items => items.map(({ title }) => title)") == [
        "ana_nohash_0.wav",
        "ana_nohash_2.wav",
    ]
    assert page.evaluate(WAV_OF_FIRST) != first
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Delete all").click()
    expect(page.locator("#no-takes")).to_be_visible()
    page.reload()
    expect(page.locator("#no-takes")).to_be_visible()
    expect(page.locator("#takes li")).to_have_count(0)


WAV_OF_FIRST = """() => new Promise((resolve) => {
  indexedDB.open("speechrnn").onsuccess = ({ target }) => {
    target.result.transaction("takes").objectStore("takes").get(1).onsuccess = ({ target: { result } }) =>
      resolve(String.fromCharCode(...new Uint8Array(result.wav.slice(44, 20000))));
  };
})"""


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        (0.001 * noise(4 * RATE_HZ), "nothing heard"),
        (2 * sine(300, 4), "clipped"),
        (0.012 * np.tile(np.concatenate([sine(300, 0.4), silence(0.6)]), 4), "words heard"),
    ],
)
def test_a_take_that_will_not_do_is_not_kept_and_why_is_said(
    hearing: SpotResult, serving: Serving, tmp_path: Path, samples: Samples, reason: str
) -> None:
    wrong = hearing(write_audio(tmp_path / "wrong.wav", samples, subtype="PCM_16"))
    with open_page(wrong, serving, "words.html", ready="#record") as page:
        page.get_by_role("textbox", name="Word").fill("curtains")
        page.get_by_role("button", name="Start recording").click()
        expect(page.locator("#message")).to_contain_text(re.compile(f"Not kept, .*{reason}"))
        page.get_by_role("button", name="Stop recording").click()
        expect(page.get_by_role("button", name="Start recording")).to_be_enabled()
        expect(page.locator("#takes li")).to_have_count(0)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("yes", "The model knows “yes” already"),
        ("a/b", "“a/b” cannot be the name of a folder"),
        ("_not_", "“_not_” cannot be the name of a folder"),
        ("unknown", "“unknown” is a reserved name"),
        (" ", "Type a word"),
    ],
)
def test_words_that_cannot_be_taught_are_refused_before_they_are_recorded(page: Page, word: str, said: str) -> None:
    page.get_by_role("textbox", name="Word").fill(word)
    page.get_by_role("button", name="Start recording").click()
    expect(page.locator("#message")).to_contain_text(said)


def test_the_room_is_recorded_as_it_is(page: Page, tmp_path: Path) -> None:
    def shortened(route: Route) -> None:
        text = route.fetch().text()
        assert "ROOM_S = 30" in text
        route.fulfill(body=text.replace("ROOM_S = 30", "ROOM_S = 1"), content_type="text/javascript")

    page.route("**/words.js", shortened)
    page.reload()
    page.get_by_role("button", name="Record the room").click()
    expect(page.locator("#message")).to_have_text("The room is done.")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download my-words.zip").click()
    download.value.save_as(tmp_path / "my-words.zip")
    with zipfile.ZipFile(tmp_path / "my-words.zip") as opened:
        opened.extractall(tmp_path)
    room = read(tmp_path / "my-words" / "_background_noise_" / "room_nohash_0.wav", RATE_HZ)
    assert len(room) == pytest.approx(RATE_HZ, abs=2)


def test_a_refused_microphone_and_a_server_that_is_gone_are_explained(speaking: Browser, serving: Serving) -> None:
    fail = "navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('', 'NotAllowedError'); }"
    with open_page(speaking, serving, "words.html", before=fail, ready="#record") as page:
        page.get_by_role("textbox", name="Word").fill("curtains")
        page.get_by_role("button", name="Start recording").click()
        expect(page.locator("#message")).to_contain_text("The browser refused the microphone")
    with open_page(speaking, serving, "words.html", ready="#record") as page:
        page.route("**/v1/take*", lambda route: route.abort())
        page.get_by_role("textbox", name="Word").fill("curtains")
        page.get_by_role("button", name="Start recording").click()
        expect(page.locator("#message")).to_contain_text("The server cannot be reached")


def test_a_browser_that_keeps_nothing_says_so(speaking: Browser, serving: Serving) -> None:
    before = "indexedDB.open = () => { throw new DOMException('', 'SecurityError'); }"
    with open_page(speaking, serving, "words.html", before=before, ready="#record") as page:
        expect(page.locator("#kept")).to_contain_text("download before you leave")


def test_the_keyboard_is_enough_and_everything_has_a_name(page: Page) -> None:
    record(page, 3)
    page.locator("h1").click()
    reached = set()
    for _ in range(30):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.ariaLabel"))
    assert {"name", "count", "speaker", "microphone", "record", "room", "download", "clear"} <= reached
    assert {"Play curtains 1", "Record again curtains 3", "Delete curtains 2"} <= reached
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, a, canvas")]
          .filter((element) => !element.closest("[hidden], [aria-hidden]"))
          .filter((element) => !element.labels?.length && !element.ariaLabel && !element.textContent)
          .map((element) => element.outerHTML)"""
    )
    assert unnamed == []
    page.get_by_role("textbox", name="Word").fill("lights")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Stop recording", pressed=True)).to_be_visible()
    for width in (320, 390, 768):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.scrollingElement.scrollWidth") <= width


def test_the_pages_lead_to_each_other(speaking: Browser, serving: Serving) -> None:
    with open_page(speaking, serving) as page:
        page.get_by_role("link", name="Record your own words").click()
        expect(page.locator("#record")).to_be_enabled()
        page.get_by_role("link", name="Listen").click()
        expect(page.locator("#listen")).to_be_enabled()
