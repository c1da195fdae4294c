"""Test the server of the studio, its child processes and its command line; test_studio_page.py tests the page."""

import asyncio
import contextlib
import io
import json
import math
import re
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import RATE_HZ, ROOT, melody, train_small
from starlette.testclient import TestClient
from stereo import make_wide

import studio
from continuo.system.paths import WEB
from predictor import Predictor, joined
from web import preview, processes, take_worker, uploads
from web.processes import RequestWorker, complete_lines
from web.security import PAGE_HEADER
from web.server import Studio

HYMN = ROOT / "examples" / "hymn.musicxml"


@pytest.fixture
def server(tmp_path):
    (tmp_path / "files").mkdir()
    (tmp_path / "models").mkdir()
    return Studio(tmp_path / "models", tmp_path / "files")


@pytest.fixture
def client(server):
    """Return a client that sends the headers of the page; the server's background work does not run."""
    return TestClient(server.app(), base_url="http://127.0.0.1:8642", headers={PAGE_HEADER: "test"})


def recording(samples: np.ndarray) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, RATE_HZ, format="WAV", subtype="FLOAT")
    return file.getvalue()


def uploaded(client, name: str, content: bytes):
    return client.post("/api/upload", params={"name": name}, content=content)


# --- security ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "192.168.1.5:8642", ""])
def test_request_with_another_host_name_is_refused(client, host):
    assert client.get("/api/choices", headers={"host": host}).status_code == 400


@pytest.mark.parametrize("host", ["127.0.0.1:8642", "localhost:9000", "[::1]:8642"])
def test_request_with_a_loopback_host_is_answered(client, host):
    assert client.get("/api/choices", headers={"host": host}).status_code == 200


def test_post_from_another_site_is_refused(server, client):
    plain = TestClient(server.app(), base_url="http://127.0.0.1:8642")
    assert plain.post("/api/examples/hymn").status_code == 403
    for origin in ("http://evil.example", "http://127.0.0.1:9999", "null"):
        assert client.post("/api/examples/hymn", headers={"origin": origin}).status_code == 403
    assert client.post("/api/training/pause", headers={"origin": "http://127.0.0.1:8642"}).status_code == 200


def test_answer_of_any_path_forbids_other_hosts(client):
    for path in ("/", "/studio.js", "/api/choices", "/api/files/x/take.wav"):
        headers = client.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "http" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


def test_page_names_no_other_host():
    for path in WEB.iterdir():
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|//[a-z]+\.[a-z]", text), path


# --- uploads and previews ---------------------------------------------------------------------------------------------


def test_example_is_engraved_and_has_its_notes(client):
    found = client.post("/api/examples/hymn").json()
    assert found["name"] == "hymn.musicxml"
    assert found["seconds"] == pytest.approx(16 * 60 / 72)
    assert len(found["notes"]) == 62
    assert found["pages"] == 1
    page = client.get(f"/api/files/{found['id']}/page-1.svg")
    assert page.headers["content-type"] == "image/svg+xml"
    assert "sandbox" in page.headers["content-security-policy"]
    assert page.text.count('class="note"') == 62


def test_engrave_narrow_page_has_more_systems(tmp_path):
    def systems(width):
        preview.engrave(ROOT / "examples" / "prompt.musicxml", tmp_path, width)
        return (tmp_path / "page-1.svg").read_text().count('class="system"')

    assert systems(320) > systems(1200) >= 1


def test_upload_of_recording_or_midi_is_previewed(client, tmp_path):
    soundfile.write(tmp_path / "tune.wav", melody(1), RATE_HZ)
    found = uploaded(client, "tune.WAV", (tmp_path / "tune.wav").read_bytes()).json()
    assert (found["seconds"], found["notes"], found["pages"]) == (3.0, [], 0)
    from continuo.score.performance import perform
    from continuo.score.synth import write_midi

    write_midi(perform(HYMN), tmp_path / "hymn.mid")
    found = uploaded(client, "hymn.mid", (tmp_path / "hymn.mid").read_bytes()).json()
    assert (len(found["notes"]), found["pages"]) == (62, 0)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("song.musicxml", b"<score", "song.musicxml: "),
        ("song.mid", b"not a midi file", "song.mid"),
        ("song.wav", b"nor a recording", "cannot be decoded"),
        ("song.mxl", b"PK\x03\x04broken", "song.mxl"),
        ("notes.txt", b"do re mi", "notes.txt is not a file of a known kind"),
        ("rest.wav", recording(np.zeros(RATE_HZ)), "rest.wav is silent"),
        ("torn.wav", recording(np.r_[melody(1), np.nan]), "torn.wav holds samples that are not numbers"),
        ("song", b"x", "whose name ends like song.mid"),
        ("", b"x", "whose name ends like song.mid"),
    ],
)
def test_upload_unreadable_is_refused_in_one_line(server, client, name, content, words):
    answer = uploaded(client, name, content)
    assert answer.status_code == 400
    text = answer.json()["error"]
    assert words in text
    assert "\n" not in text
    assert str(server.store.folder) not in text
    assert not list(server.store.folder.iterdir()), "no file is left after a failure"


def test_upload_too_large_is_refused_while_it_arrives(server, client, monkeypatch):
    monkeypatch.setattr(uploads, "MAX_FILE_BYTES", 1000)
    answer = uploaded(client, "long.wav", bytes(2000))
    assert answer.status_code == 413
    assert "long.wav is too large" in answer.json()["error"]
    assert not list(server.store.folder.iterdir())


def test_file_store_full_refuses_new_files(server, client, monkeypatch):
    monkeypatch.setattr(uploads, "MAX_TOTAL_BYTES", 10)
    (server.store.folder / "old.wav").write_bytes(bytes(11))
    assert "download what you want to keep" in client.post("/api/examples/hymn").json()["error"]


def test_preview_too_slow_is_cancelled(client, monkeypatch):
    monkeypatch.setattr(uploads, "MAX_READ_S", 0.01)
    assert "took longer than" in client.post("/api/examples/hymn").json()["error"]


def test_upload_with_a_hostile_name_is_harmless(server, client):
    name = "../../<img src=x onerror=alert(1)>\x1b[31m.musicxml"
    found = uploaded(client, name, HYMN.read_bytes()).json()
    assert found["name"] == "<img src=x onerror=alert(1)>\\x1b[31m.musicxml"  # shown as text, never as HTML
    assert [path.name for path in server.store.folder.iterdir()] == [found["id"]]
    assert (server.store.folder / found["id"] / "prompt.musicxml").is_file()


def test_file_outside_the_store_is_not_served(server, client):
    found = client.post("/api/examples/hymn").json()
    for path in (
        "/api/files/nobody/take.wav",
        f"/api/files/{found['id']}/../x.svg",
        "/api/files/x/%2e%2e%2fetc%2fpasswd",
    ):
        assert client.get(path).status_code == 404
    (server.store.folder / found["id"] / "secret.txt").write_text("x")
    assert client.get(f"/api/files/{found['id']}/secret.txt").status_code == 404
    assert client.get("/../studio.py").status_code == 404
    assert client.post("/api/examples/..%2F..%2Fetc").status_code in (404, 405)


# --- bodies of requests -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seconds": 0}, "seconds"),
        ({"seconds": 1e9}, "seconds"),
        ({"temperature": -1}, "temperature"),
        ({"seed": -1}, "seed"),
        ({"model": "../secret"}, "there is no trained model"),
        ({"unknown": 1}, "unknown"),
    ],
)
def test_take_with_impossible_values_is_refused(client, changes, words):
    found = client.post("/api/examples/hymn").json()
    answer = client.post("/api/takes", json={"source": found["id"], "model": "demo", "seconds": 1} | changes)
    assert answer.status_code == 400
    assert words in answer.json()["error"]


@pytest.mark.parametrize("body", [b"", b"[1]", b"{", b'{"seconds": NaN}', b"x" * 100_000])
def test_take_with_a_broken_body_is_refused(client, body):
    assert client.post("/api/takes", content=body).status_code in (400, 413)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "../up"}, "name"),
        ({"name": "demo"}, "choose another name"),
        ({"minutes": 0}, "minutes"),
        ({"corpus": ""}, "type the folder"),
        ({"corpus": "/no/such/folder"}, "/no/such/folder is not a folder"),
        ({"corpus": "relative"}, "is not a folder"),
    ],
)
def test_training_with_impossible_values_is_refused(client, changes, words):
    body = {"name": "mine", "corpus": "music21:bach", "preset": "codec-lstm", "minutes": 1} | changes
    answer = client.post("/api/training", json=body)
    assert answer.status_code == 400
    assert words in answer.json()["error"]
    assert client.get("/api/training").json() == {"state": "idle"}


def test_choices_models_are_those_with_a_state(server, client, trained):
    assert client.get("/api/choices").json()["models"] == ["demo"]
    (server.models.folder / "bare.json").write_text(
        json.dumps(json.loads(trained.read_text()) | {"state": "bare.safetensors"})
    )
    (server.models.folder / "broken.json").write_text("{")
    (server.models.folder / "good.json").write_text(trained.read_text())
    (server.models.folder / "model.safetensors").write_bytes(b"")
    assert client.get("/api/choices").json()["models"] == ["good", "demo"]


def test_report_of_an_unknown_model_is_refused(client):
    assert client.get("/report/demo").status_code == 404
    assert client.get("/api/report", params={"model": "demo"}).json() == {"state": "none", "log": [], "page": False}
    assert client.get("/report/secret").status_code == 400


# --- the worker ------------------------------------------------------------------------------------------------------

ECHO = """
import json, signal, sys, time
def answer(**facts): print(json.dumps(facts), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    try:
        if request.get("dies"): sys.exit(1)
        if request.get("junk"): print('{"kind": "au', end="\\n")
        answer(kind="begins")
        time.sleep(request.get("sleeps", 0))
        answer(kind="done", of=request["n"])
    except KeyboardInterrupt:
        answer(kind="cancelled")
"""


def ask_worker(requests, *, cancel_after: float | None = None, script: str = ECHO):
    """Return a worker's answers to requests that are made at once, and the process ids it used."""

    async def go():
        worker = RequestWorker([sys.executable, "-c", script])
        answers: list[list[dict]] = [[] for _ in requests]
        pids = []

        async def ask(k, request):
            async with contextlib.aclosing(worker.ask(request)) as given:
                async for answer in given:
                    answers[k].append(answer)
            pids.append(worker.process.pid)

        tasks = [asyncio.create_task(ask(k, request)) for k, request in enumerate(requests)]
        if cancel_after is not None:
            while not answers[0]:
                await asyncio.sleep(0.01)
            await asyncio.sleep(cancel_after)
            tasks[0].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await worker.close()
        return answers, pids

    return asyncio.run(go())


def test_worker_requests_are_answered_one_after_the_other():
    answers, pids = ask_worker([{"n": 1, "sleeps": 0.1}, {"n": 2}])
    assert [answer["kind"] for answer in answers[0]] == ["begins", "done"]
    assert [answer["kind"] for answer in answers[1]] == ["queued", "begins", "done"]
    assert answers[1][-1]["of"] == 2
    assert pids[0] == pids[1]


def test_worker_started_in_another_folder_finds_the_project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answers, _ = ask_worker([{"n": 1}], script="import web.security\n" + ECHO)
    assert answers[0][-1] == {"kind": "done", "of": 1}


def test_worker_cancelled_request_leaves_the_process_ready():
    answers, _ = ask_worker([{"n": 1, "sleeps": 30}, {"n": 2}], cancel_after=0.1)
    assert [answer["kind"] for answer in answers[0]] == ["begins"]
    assert answers[1][-1] == {"kind": "done", "of": 2}


def test_worker_that_dies_is_replaced():
    answers, _ = ask_worker([{"n": 1, "dies": True}, {"n": 2}])
    assert answers[0][-1]["kind"] == "failed"
    assert "ended unexpectedly" in answers[0][-1]["text"]
    assert answers[1][-1] == {"kind": "done", "of": 2}


def test_worker_that_stalls_is_replaced(monkeypatch):
    monkeypatch.setattr(processes, "MAX_SILENCE_S", 1.0)
    answers, _ = ask_worker([{"n": 1, "sleeps": 60}, {"n": 2}])
    assert "took longer" in answers[0][-1]["text"]
    assert answers[1][-1] == {"kind": "done", "of": 2}


def test_worker_broken_line_is_skipped():
    answers, _ = ask_worker([{"n": 1, "junk": True}])
    assert [answer["kind"] for answer in answers[0]] == ["begins", "done"]


def test_take_connection_closed_cancels_the_take(server):
    """The worker gives up a take of half a minute at once, its folder is removed, and the next request is answered."""

    async def go():
        server.worker = RequestWorker([sys.executable, "-c", ECHO.replace('request.get("sleeps", 0)', "30")])
        server.store.files["hymn"] = uploads.StoredFile("hymn", HYMN, "hymn.musicxml")
        begun, sent = asyncio.Event(), []
        body = json.dumps({"source": "hymn", "model": "demo", "seconds": 1}).encode()
        requests = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def receive():
            if message := next(requests, None):
                return message
            await begun.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            sent.append(message.get("body", b""))
            if b"begins" in sent[-1]:
                begun.set()

        headers = [(b"host", b"127.0.0.1"), (PAGE_HEADER.encode(), b"test")]
        scope = {"type": "http", "method": "POST", "path": "/api/takes", "query_string": b"", "headers": headers}
        await asyncio.wait_for(server.app()(scope, receive, send), 20)
        assert b"done" not in b"".join(sent)
        for _ in range(100):
            if server.worker.cancelling and not server.worker.turn.locked():
                break
            await asyncio.sleep(0.05)
        await asyncio.wait_for(server.worker.cancelling, 5)
        assert list(server.store.folder.iterdir()) == []
        assert server.worker.process.returncode is None
        await server.worker.close()

    asyncio.run(go())


# --- takes ------------------------------------------------------------------------------------------------------------


def request_for(meta: Path, prompt: Path, out: Path, **changes) -> take_worker.Request:
    values = {"seconds": 0.5, "temperature": 1.0, "coarse": 1.0, "fine": 1.0, "seed": 3, "lead_s": 0.25} | changes
    return take_worker.Request(str(meta), str(prompt), str(out), **values)


def made(request: take_worker.Request) -> tuple[list[dict], dict, np.ndarray]:
    """Make a take; return the answers, the facts and the 16-bit samples that were sent."""
    import base64

    answers = []
    facts = take_worker.make(
        request, Predictor.load(Path(request.meta)), lambda kind, **f: answers.append({"kind": kind} | f)
    )
    pcm = b"".join(base64.b64decode(answer["pcm"]) for answer in answers if answer["kind"] == "audio")
    return answers, facts, np.frombuffer(pcm, "<i2")


@pytest.fixture
def tune(tmp_path) -> Path:
    soundfile.write(tmp_path / "tune.wav", melody(9), RATE_HZ)
    return tmp_path / "tune.wav"


def test_take_sent_sound_equals_the_written_file(trained, tune, tmp_path):
    answers, facts, sent = made(request_for(trained, tune, tmp_path / "take.wav"))
    written, _ = soundfile.read(tmp_path / "take.wav", dtype="int16")
    begins = {"kind": "begins", "sample_rate_hz": RATE_HZ, "channels": 1, "seam_s": 3.0, "from_s": 2.75, "seconds": 0.5}
    assert answers[0] == begins | {"remark": ""}
    assert np.abs(sent.astype(int) - written[-len(sent) :]).max() <= 1
    assert len(sent) == len(written) - round(2.75 * RATE_HZ)
    assert facts["seconds"] == len(written) / RATE_HZ


def test_take_in_stereo_sends_both_channels_of_the_written_file(trained, tune, tmp_path, monkeypatch):
    make_wide(monkeypatch)
    answers, facts, sent = made(request_for(trained, tune, tmp_path / "take.wav"))
    written, _ = soundfile.read(tmp_path / "take.wav", dtype="int16")
    assert answers[0]["channels"] == 2
    sent = sent.reshape(-1, 2).astype(int)
    assert len(sent) == len(written) - round(2.75 * RATE_HZ)
    assert np.abs(sent - written[-len(sent) :]).max() <= 1
    assert np.abs(sent[-2000:, 0] - 2 * sent[-2000:, 1]).max() <= 2
    assert facts["seconds"] == len(written) / RATE_HZ


def test_take_of_the_studio_equals_that_of_predict(trained, tune, tmp_path):
    made(request_for(trained, tune, tmp_path / "take.wav"))
    model = Predictor.load(trained)
    prompt = model.prompt(tune)
    natural = model.sampling.but(temperature=1.0, coarse_temperature=1.0, fine_temperature=1.0)
    take = model.take(prompt, seed=3, sampling=natural)
    whole = np.concatenate(list(joined(take, prompt, math.ceil(0.5 * model.steps_per_second))))
    written, _ = soundfile.read(tmp_path / "take.wav")
    np.testing.assert_allclose(written, whole, atol=1e-4)


def test_model_cache_changed_state_is_loaded_again(trained, tmp_path):
    import os
    import shutil

    for name in ("model.json", "model.safetensors"):
        shutil.copy(trained.with_name(name), tmp_path / name)
    first = take_worker.load_predictor(tmp_path / "model.json")
    assert take_worker.load_predictor(tmp_path / "model.json") is first
    os.utime(tmp_path / "model.safetensors", ns=(1, 1))
    assert take_worker.load_predictor(tmp_path / "model.json") is not first


def test_train_journal_has_progress_for_programs(tmp_path, music_folder):
    journal = tmp_path / "journal.jsonl"
    train_small(tmp_path, music_folder, steps=12, extra=("--journal", str(journal)))
    entries = [json.loads(line) for line in journal.read_text().splitlines()]
    learning = [entry for entry in entries if entry["task"] == "training"]
    assert learning[0]["step"] >= 1
    assert learning[0]["training"] > 0
    assert 0 < learning[0]["share"] <= 1
    assert learning[0]["remaining_s"] >= 0


# --- the command line -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--port", "70000"], "--port 70000"),
        (["--port", "-1"], "--port -1"),
    ],
)
def test_studio_with_an_impossible_port_is_refused_in_one_line(capsys, flags, words):
    assert studio.main(flags) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_studio_with_a_port_in_use_is_refused(capsys):
    with studio._listen(0) as taken:
        assert studio.main(["--port", str(taken.getsockname()[1])]) == 2
    assert "--port 0" in capsys.readouterr().err


def test_studio_listens_on_this_computer_alone():
    """A connection to another address of this computer fails."""
    with studio._listen(0) as listening:
        address, port = listening.getsockname()
        assert address == "127.0.0.1"
        socket.create_connection((address, port), timeout=5).close()
        with pytest.raises(OSError):
            socket.create_connection(("127.0.0.2", port), timeout=5)


def test_complete_lines_skips_a_line_in_the_making(tmp_path, monkeypatch):
    (tmp_path / "journal").write_text('{"a": 1}\n{"a": 2}\n{"a"')
    assert complete_lines(tmp_path / "journal") == ['{"a": 1}', '{"a": 2}']
    assert complete_lines(tmp_path / "nothing") == []
    monkeypatch.setattr(processes, "TAIL_BYTES", 14)
    assert complete_lines(tmp_path / "journal") == ['{"a": 2}']
