"""Test the studio's page in a real browser, from a file to a take and a trained model."""

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile
from conftest import RATE_HZ, ROOT, SMALL_CODEC, melody

import train
from continuo.model import metadata, presets

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
]
PATIENCE_MS = 90_000
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine (Debian: apt install chromium)"),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory, trained, music_folder) -> Path:
    """Return a folder with a small model of sound, one of notes, and one that is not trained yet."""
    folder = tmp_path_factory.mktemp("home")
    for ending in ("json", "safetensors"):
        shutil.copy(trained.with_suffix(f".{ending}"), folder / f"model.{ending}")
    small = {"corpus.pieces": 6, "architecture.hidden": 16, "architecture.head_width": 16, "training.steps": 4}
    section = presets.from_preset("roll-conv", small, state="tunes.safetensors")
    metadata.save(section, folder / "tunes.json")
    assert train.main(["--meta", str(folder / "tunes.json"), "--quiet"]) == 0
    changes = SMALL_CODEC | {"corpus.path": str(music_folder), "training.checkpoint_every_s": 1.0}
    metadata.save(presets.from_preset("codec-lstm", changes, state="fresh.safetensors"), folder / "fresh.json")
    return folder


@pytest.fixture(scope="module")
def address(home):
    """Start a studio; yield its URL and process id, and check that it ends without a message."""
    command = [sys.executable, ROOT / "studio.py", "--port", "0"]
    with subprocess.Popen(command, cwd=home, stderr=subprocess.PIPE, text=True) as process:
        line = process.stderr.readline()
        url = re.search(r"http://\S+", line)[0]
        yield url, process.pid
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert process.stderr.read() == ""


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser, address):
    """Yield the wide page; then check that there were no errors and no requests to other hosts."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(PATIENCE_MS)
    wrong, hosts = [], set()
    page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: hosts.add(request.url.split("/")[2]))
    page.goto(address[0])
    page.wait_for_selector("#examples button")
    page.expected = []  # status codes of errors that the test provokes; browsers report them on the console
    yield page
    page.close()
    assert [words for words in wrong if not any(code in words for code in page.expected)] == []
    assert hosts == {address[0].split("/")[2]}


def until(page, truth: str) -> None:
    """Wait for a JavaScript expression to be true; the page's policy allows no `eval`, which playwright's own needs."""
    deadline = time.monotonic() + PATIENCE_MS / 1000
    while not page.evaluate(truth):
        assert time.monotonic() < deadline, f"never: {truth}; {page.text_content('#problem')}"
        page.wait_for_timeout(50)


def bring(page, name: str = "hymn") -> None:
    page.click(f"#examples button:text-is('{name}')")
    until(page, f"document.getElementById('piece-title').textContent === '{name}.musicxml'")


def make_take(page, number: int, seconds: float = 1.0) -> None:
    page.fill("input[name=seconds]", str(seconds))
    page.click("#go")
    page.wait_for_selector(f"audio[aria-label='Take {number}']")


def lengths(page) -> list[float]:
    """Return the durations of the takes in seconds, the newest first, from the browser."""
    until(page, "[...document.querySelectorAll('#takes audio')].every(a => a.readyState > 0)")
    return page.evaluate("[...document.querySelectorAll('#takes audio')].map(a => a.duration)")


def test_A13_score_is_engraved_continued_played_kept_and_undone(page, tmp_path):
    bring(page)
    until(page, "document.querySelector('#score img').naturalWidth > 0")
    page.select_option("#model", "model")
    make_take(page, 1)
    make_take(page, 2)
    prompt_s = 16 * 60 / 72
    assert lengths(page) == pytest.approx([prompt_s + 1] * 2, abs=0.02)
    assert page.evaluate("performance.getEntriesByName('playing').length") == 2

    page.evaluate("document.querySelector('#takes audio').play()")  # the browser can play it
    until(page, "document.querySelector('#takes audio').currentTime > 9")
    page.evaluate("document.querySelector('#takes li:last-child audio').play()")
    until(page, "document.querySelector('#takes audio').paused")  # one at a time

    with page.expect_download() as download:
        page.click("a[aria-label='Download take 2 as WAV']")
    assert download.value.suggested_filename == "hymn - take 2.wav"
    download.value.save_as(tmp_path / "take.wav")
    assert soundfile.info(tmp_path / "take.wav").duration == pytest.approx(prompt_s + 1, abs=0.02)

    page.click("button[aria-label='Keep take 2']")
    page.wait_for_selector("#undo:visible")
    assert page.text_content("#piece-title") == "hymn.musicxml + 1.0 s"
    assert page.locator("#takes li").count() == 0
    make_take(page, 3)
    assert lengths(page) == pytest.approx([prompt_s + 2], abs=0.05)
    page.click("#undo")
    assert page.text_content("#piece-title") == "hymn.musicxml"
    assert page.locator("#takes li").count() == 2


def test_A13_take_requested_while_another_is_kept_continues_the_kept_one(page):
    """The take was once made from the piece before, and cancelled when the kept take was loaded."""
    bring(page)
    page.select_option("#model", "model")
    make_take(page, 1)
    make_take(page, 2)

    def slowly(route):
        page.wait_for_timeout(1000)
        route.continue_()

    page.route("**/api/preview/**", slowly)
    page.click("button[aria-label='Keep take 1']")
    assert page.is_disabled("#go")
    assert page.evaluate("document.getElementById('takes').inert")  # no other one can be kept meanwhile
    make_take(page, 3)
    assert page.text_content("#piece-title") == "hymn.musicxml + 1.0 s"
    assert lengths(page) == pytest.approx([16 * 60 / 72 + 2], abs=0.05)
    page.route("**/api/preview/**", lambda route: route.fulfill(status=400, body="{}"))
    page.expected = ["400"]
    page.click("button[aria-label='Keep take 3']")
    until(page, "!document.getElementById('problem').hidden")
    assert page.is_enabled("#go")
    assert page.is_enabled("#undo")


def test_A13_stereo_take_is_played_in_both_channels(page):
    """The answers are made up, so that both channels are known."""
    sound = np.stack([np.arange(-4000, 4000), np.arange(4000, -4000, -1)], axis=1).astype("<i2")
    begins = {"kind": "begins", "sample_rate_hz": 8000, "channels": 2, "seam_s": 0.5, "from_s": 0.0, "seconds": 0.5}
    blocks = [base64.b64encode(part.tobytes()).decode() for part in (sound[:3000], sound[3000:])]
    answers = [begins, *({"kind": "audio", "pcm": block} for block in blocks)]
    body = "".join(json.dumps(answer) + "\n" for answer in answers)
    page.route("**/api/takes", lambda route: route.fulfill(content_type="application/x-ndjson", body=body))
    page.evaluate("""() => {
        globalThis.played = [];
        const start = AudioBufferSourceNode.prototype.start;
        AudioBufferSourceNode.prototype.start = function (...time) {
            const length = this.buffer.numberOfChannels;
            played.push(Array.from({ length }, (_, channel) => [...this.buffer.getChannelData(channel)]));
            return start.apply(this, time);
        };
    }""")
    bring(page)
    page.click("#go")
    until(page, "played.length === 2")
    channels = np.concatenate([np.array(block) for block in page.evaluate("played")], axis=1)
    np.testing.assert_array_equal(channels.T * 32768, sound)


def test_A13_spectrogram_is_drawn_and_marks_the_join(page):
    bring(page)
    page.select_option("#model", "model")
    make_take(page, 1)
    label = page.get_attribute("#takes canvas", "aria-label")
    assert label == "Spectrogram; the continuation begins at 5.0 of 6.0 seconds"
    join, drawn = page.evaluate("""() => {
        const canvas = document.querySelector('#takes canvas'), line = document.querySelector('#takes .join');
        const row = canvas.getContext('2d').getImageData(0, 48, canvas.width, 1).data;
        const place = (line.offsetLeft + 1) / canvas.clientWidth;
        return [place, [...row].filter((_, k) => k % 4 === 3 && row[k] === 255).length];
    }""")
    assert join == pytest.approx(5 / 6, abs=0.005)
    assert drawn > 0.9 * 900


def test_A13_recording_is_continued_and_a_take_is_stopped(page, tmp_path):
    soundfile.write(tmp_path / "tune <b>.wav", melody(5), RATE_HZ)
    page.set_input_files("#file", tmp_path / "tune <b>.wav")
    until(page, "document.getElementById('piece-title').textContent === 'tune <b>.wav'")
    page.select_option("#model", "model")
    page.fill("input[name=seconds]", "600")
    page.click("#go")
    page.wait_for_selector("#takes canvas")
    page.click("#stop")
    until(page, "document.getElementById('status').textContent === 'stopped'")
    assert page.locator("#takes li").count() == 0
    make_take(page, 2)  # the model is there for the next one
    assert lengths(page) == pytest.approx([4.0], abs=0.02)


def test_A13_model_of_notes_gives_midi_and_musicxml(page, tmp_path):
    import symusic

    bring(page)
    page.select_option("#model", "tunes")
    make_take(page, 1, seconds=4)
    for words, ending in (("MIDI", "mid"), ("MusicXML", "musicxml")):
        with page.expect_download() as download:
            page.click(f"a[aria-label='Download take 1 as {words}']")
        download.value.save_as(tmp_path / f"take.{ending}")
    assert symusic.Score(tmp_path / "take.mid").note_num() >= 62
    assert b"<score-partwise" in (tmp_path / "take.musicxml").read_bytes()
    page.click("button[aria-label='Keep take 1']")
    until(page, "document.getElementById('piece-title').textContent.startsWith('hymn.musicxml + ')")
    until(page, "document.querySelector('#score img')?.naturalWidth > 0")
    page.select_option("#model", "model")  # a model of sound can continue a take of notes
    make_take(page, 2)


def hold(page, path: str) -> list:
    """Return the list of requests for a path, which wait until the test continues them."""
    held: list = []
    page.route(re.compile(path), lambda route: held.append(route))
    return held


def wait_for_one(page, held: list):
    deadline = time.monotonic() + PATIENCE_MS / 1000
    while not held:
        assert time.monotonic() < deadline, "the page sent no request"
        page.wait_for_timeout(20)
    return held.pop()


def test_A13_take_requested_at_once_continues_the_kept_piece(page):
    bring(page)
    page.select_option("#model", "model")
    make_take(page, 1)
    held = hold(page, "/api/preview/")
    page.evaluate("""() => {
        document.querySelector("button[aria-label='Keep take 1']").click();
        document.getElementById('go').click();
        document.getElementById('settings').elements.seconds.focus();
    }""")
    look = wait_for_one(page, held)
    page.keyboard.press("Enter")
    assert page.is_disabled("#go")
    assert page.is_disabled("#undo")
    assert page.evaluate("document.getElementById('takes').inert")
    assert page.locator("#takes li").count() == 1
    look.continue_()
    make_take(page, 2)
    assert page.text_content("#piece-title") == "hymn.musicxml + 1.0 s"
    assert lengths(page) == pytest.approx([16 * 60 / 72 + 2], abs=0.05)


def test_A13_take_that_failed_to_be_kept_can_be_kept_again(page):
    page.expected = ["ERR_FAILED"]
    bring(page)
    page.select_option("#model", "model")
    make_take(page, 1)
    held = hold(page, "/api/preview/")
    page.focus("button[aria-label='Keep take 1']")
    page.keyboard.press("Enter")
    wait_for_one(page, held).abort()
    page.wait_for_selector("#problem:visible")
    assert page.is_enabled("#go")
    assert not page.evaluate("document.getElementById('takes').inert")
    page.keyboard.press("Enter")  # the focus is where it was
    wait_for_one(page, held).continue_()
    page.wait_for_selector("#undo:enabled:visible")


def test_A13_piece_chosen_last_is_shown(page):
    bring(page)
    page.select_option("#model", "model")
    page.fill("input[name=seconds]", "1")
    page.click("#go")
    page.wait_for_selector("#takes li")
    held = hold(page, "/api/examples/dance")
    page.click("#examples button:text-is('dance')")
    dance = wait_for_one(page, held)
    page.wait_for_selector("audio[aria-label='Take 1']", state="attached")  # the take is still made
    until(page, "document.getElementById('stop').disabled")
    assert page.is_disabled("#go")
    with page.expect_response(re.compile("/api/examples/dance")):
        bring(page, "prompt")
        dance.continue_()
    page.wait_for_timeout(200)
    assert page.text_content("#piece-title") == "prompt.musicxml"
    assert page.is_enabled("#go")
    make_take(page, 2)


def test_A13_error_is_shown_and_the_page_stays_usable(page, tmp_path):
    page.expected = ["400", "413"]
    for name, content, words in [
        ("broken.musicxml", b"<score", "broken.musicxml"),
        ("words.txt", b"do re mi", "words.txt is not a file of a known kind"),
        ("noise.wav", b"no recording", "cannot be decoded"),
    ]:
        (tmp_path / name).write_bytes(content)
        page.set_input_files("#file", tmp_path / name)
        until(page, f"document.getElementById('problem').textContent.includes('{words}')")
        assert page.is_visible("#problem")
    with open(tmp_path / "huge.wav", "wb") as file:
        file.truncate((200 << 20) + 1)
    page.evaluate("""() => {
        const files = new DataTransfer();
        files.items.add(new File([new Blob([new Uint8Array(210 << 20)])], 'huge.wav'));
        dispatchEvent(new DragEvent('drop', { dataTransfer: files, cancelable: true }));
    }""")
    until(page, "document.getElementById('problem').textContent.includes('huge.wav is too large: 200 MB')")
    bring(page)
    assert page.is_hidden("#problem")
    page.click("#tab-train")
    page.fill("input[name=name]", "other")
    page.fill("input[name=corpus]", "/no/such/folder")
    page.click("#start")
    until(page, "document.getElementById('problem').textContent.includes('/no/such/folder is not a folder')")


def test_A13_training_is_started_watched_paused_and_resumed(page, home, address):
    page.click("#tab-train")
    page.fill("input[name=name]", "fresh")
    page.fill("input[name=minutes]", "5")
    page.click("#start")
    until(page, "/^training: .* remaining$/.test(document.getElementById('training-facts').textContent)")
    page.wait_for_selector("#curves:visible")
    page.wait_for_selector("#samples audio")

    page.click("#tab-continue")  # the page stays usable, and the model in training can make takes
    bring(page)
    page.select_option("#model", "fresh")
    make_take(page, 1)
    page.click("#tab-train")

    page.click("#pause")
    until(page, "document.getElementById('training-title').textContent === 'Paused: fresh'")
    stopped = json.loads(urllib.request.urlopen(f"{address[0]}api/training").read())
    at = stopped["training"][-1][0]
    assert at > 1
    assert stopped["held_out"]
    assert "stopped and saved" in page.text_content("#training-log")
    assert page.text_content("#start") == "Resume"
    page.click("#start")
    until(page, f"+/step (\\d+)/.exec(document.getElementById('training-facts').textContent)?.[1] > {at}")
    page.reload()  # the training continues without the page, which finds it again
    until(page, "document.getElementById('training-title').textContent === 'Training fresh'")
    page.click("#pause")
    until(page, "document.getElementById('training-title').textContent === 'Paused: fresh'")
    assert (home / "fresh.safetensors").is_file()


def test_A13_training_that_fails_shows_the_reason(page, tmp_path):
    page.click("#tab-train")
    page.fill("input[name=name]", "empty")
    page.fill("input[name=corpus]", str(tmp_path))
    page.click("#start")
    until(page, "document.getElementById('training-title').textContent === 'Not trained: empty'")
    assert str(tmp_path) in page.text_content("#training-log")


def test_A13_report_is_made_and_shown(page, home):
    page.click("#tab-report")
    page.select_option("#report-model", "tunes")
    until(page, "document.getElementById('report-state').textContent === 'tunes has no report yet'")
    page.click("#measure")
    page.wait_for_selector("#page:visible", timeout=300_000)
    report = page.frame_locator("#page")
    assert report.locator("h1").text_content() == "How good is tunes?"
    assert (home / "tunes.evaluation" / "report.json").is_file()


def test_A13_page_works_with_the_keyboard_alone(page):
    def tab_to(selector: str) -> None:
        for _ in range(60):
            page.keyboard.press("Tab")
            if page.evaluate(f"document.activeElement.matches({selector!r})"):
                outline = page.evaluate(
                    "(e => [e, e.parentElement].map(e => getComputedStyle(e).outlineStyle))(document.activeElement)"
                )
                assert "solid" in outline, f"{selector} does not show that it is in focus"
                return
        raise AssertionError(f"{selector} cannot be reached")

    tab_to("#tab-continue")
    page.keyboard.press("ArrowRight")
    assert page.is_visible("#train")
    page.keyboard.press("ArrowLeft")
    assert page.is_visible("#continue")
    tab_to("#file")
    tab_to("#examples button")
    page.keyboard.press("Enter")
    page.wait_for_selector("#go:enabled")
    tab_to("#model")
    page.keyboard.press("m")
    tab_to("input[name=seconds]")
    page.keyboard.press("Control+a")
    page.keyboard.type("1")
    page.keyboard.press("Enter")
    page.wait_for_selector("audio[aria-label='Take 1']")
    tab_to("button[aria-label='Keep take 1']")
    page.keyboard.press("Enter")
    page.wait_for_selector("#undo:visible")
    until(page, "document.activeElement.id === 'go'")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_A13_page_is_accessible(page, scheme, width):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 844})
    bring(page)
    page.select_option("#model", "model")
    make_take(page, 1)
    page.click("summary")
    for tab in ("continue", "train", "report"):
        page.click(f"#tab-{tab}")
        page.wait_for_timeout(300)
        found = axe.run(page).response["violations"]
        serious = [(v["id"], [n["html"] for n in v["nodes"]]) for v in found if v["impact"] in ("serious", "critical")]
        assert serious == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        if folder := os.environ.get("CONTINUO_SCREENSHOTS"):
            page.screenshot(path=f"{folder}/{tab}-{scheme}-{width}.png", full_page=True)


def test_A13_studio_connects_to_no_other_computer(page, address):
    bring(page)
    page.select_option("#model", "model")
    make_take(page, 1)
    studio = psutil.Process(address[1])
    for process in [studio, *studio.children(recursive=True)]:
        for connection in process.net_connections():
            assert connection.laddr.ip == "127.0.0.1"
            assert not connection.raddr or connection.raddr.ip == "127.0.0.1"


def test_A13_first_sound_plays_soon_after_the_button(page):
    bring(page)
    page.select_option("#model", "model")
    make_take(page, 1)  # loads the model
    make_take(page, 2)
    waited_ms = page.evaluate("""() => {
        const last = name => performance.getEntriesByName(name).at(-1).startTime;
        return last('playing') - last('requested');
    }""")
    assert 0 < waited_ms < 2000


def test_studio_ended_leaves_no_process(home):
    with subprocess.Popen(
        [sys.executable, ROOT / "studio.py", "--port", "0"], cwd=home, stderr=subprocess.PIPE
    ) as process:
        process.stderr.readline()
        children = []
        while not children:
            time.sleep(0.1)
            children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    assert psutil.wait_procs(children, timeout=10)[1] == []
