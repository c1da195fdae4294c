"""Test that killed processes, full disks, short memory and damaged files lose nothing.

CONTINUO_THOROUGH=1 repeats as often as docs/log/2026-11-26-reliability.md says.
"""

import functools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import fault_processes
import numpy as np
import pytest
import soundfile
import torch
from conftest import HOP, RATE_HZ, ROOT, SMALL_OF, melody
from fault_processes import digest, run_command, start_process, wait_for
from torchrun import torchrun, worker

import corpus
import predict
import train
from continuo.model import checkpoint, metadata, presets
from continuo.model.metadata import CorpusSection
from continuo.system import cache
from predictor import Predictor
from trainer import build_trainer

THOROUGH = bool(os.environ.get("CONTINUO_THOROUGH"))
FOREVER = 10**9
CPU = torch.device("cpu")


def times(thorough: int, small: int) -> int:
    return thorough if THOROUGH else small


@pytest.fixture
def seed() -> int:
    """Return a new seed in each run, or CONTINUO_SEED; pytest prints it where the test fails."""
    chosen = int(os.environ.get("CONTINUO_SEED", time.time_ns() % 10**6))
    print(f"CONTINUO_SEED={chosen}")
    return chosen


def begin(folder, music, steps, preset="codec-lstm", **values):
    """Write the metadata of a tiny model; return the flags that train it and save after every step."""
    folder.mkdir(exist_ok=True)
    values = SMALL_OF[preset] | {"corpus.path": str(music), "training.validate_every_steps": 20} | values
    metadata.save(presets.from_preset(preset, values, state="model.safetensors"), folder / "model.json")
    return words_for(folder / "model.json", steps)


def words_for(meta, steps, every_s=1e-6):
    budget = ["--steps", str(steps), "--checkpoint-every", str(every_s)]
    return ["--meta", str(meta), *budget, "--device", "cpu", "--quiet"]


def start_train_script(words) -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "train.py"), *words]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)


def pairs(log) -> dict[int, str]:
    """Return the logged values by step; ignore a last line that is not complete."""
    whole = log.read_text().rpartition("\n")[0] if log.exists() else ""
    return {int(step): rest for step, _, rest in (line.partition(" ") for line in whole.splitlines())}


def step_of(state) -> int:
    return checkpoint.read_facts(state)["progress"].step if state.exists() else 0


def digest_of(state) -> str:
    tensors, facts = checkpoint.load(state)
    return digest(tensors, facts["progress"])


def assert_one_line(err: str, *words: str) -> None:
    assert err.count("\n") == 1, err
    assert [word for word in words if word not in err] == [], err


# --- killed -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_A06_killed_at_any_moment_and_resumed_equals_never_killed(tmp_path, music_folder, seed):
    """Kill with -9 while starting, training and saving; every tenth time kill the real `python train.py`.

    Each state that is found equals, bit for bit, that of the undisturbed run at the same step. The steps that were
    reported as trained but are not in it took less than a checkpoint interval.
    """
    kills, draw = times(50, 10), random.Random(seed)
    steps, log = 16 * kills, tmp_path / "log"
    meta, state = tmp_path / "killed" / "model.json", tmp_path / "killed" / "model.safetensors"
    undisturbed = start_process(
        fault_processes.train_and_log, log, begin(tmp_path / "whole", music_folder, steps), True
    )
    undisturbed.join()
    expected = pairs(log)
    assert len(expected) == steps
    begin(tmp_path / "killed", music_folder, steps)
    found: list[int] = []
    for number in range(kills):
        before, delay_s = step_of(state), draw.random() * 0.03
        later = number % 2 == 0  # ends with a later state, however busy the machine is
        every_s = 1e-6 if later else draw.choice([1e-6, 0.1])
        if number % 10 == 9:
            kill_train_script(words_for(meta, steps, every_s), state, 10 * delay_s)
        else:
            log.unlink(missing_ok=True)
            running = start_process(fault_processes.train_and_log, log, words_for(meta, steps, every_s))
            least = before + draw.randrange(2, 6) if later else draw.choice([0, before + draw.randrange(4)])
            wait_for(lambda least=least: not least or max(pairs(log), default=0) >= least)
            time.sleep(delay_s)
            running.kill()
            running.join()
            assert running.exitcode == -signal.SIGKILL
            if reported := pairs(log):
                last_s, saved = float(reported[max(reported)]), state.exists()
                assert last_s - (checkpoint.read_facts(state)["progress"].seconds if saved else 0.0) < every_s
        assert state.exists() or not found
        if state.exists():
            found.append(step_of(state))
            assert found[-1] >= before
            assert digest_of(state) == expected[found[-1]]
    print(f"{kills} kills, found at steps {found}")
    assert len(set(found)) > kills // 3
    assert found[-1] < steps
    assert run_command(train.main, *words_for(meta, steps)) == (0, "")
    assert digest_of(state) == expected[steps]
    assert [path.name for path in state.parent.iterdir() if path.name.startswith(".")] == []


def kill_train_script(words, state, delay_s) -> None:
    """Run `python train.py`, and kill it some time after its first save."""
    looks = lambda: state.stat().st_mtime_ns if state.exists() else 0  # noqa: E731
    before, running = looks(), start_train_script(words)
    wait_for(lambda: looks() != before or running.poll() is not None)
    time.sleep(delay_s)
    running.kill()
    assert running.wait() == -signal.SIGKILL


def test_train_saved_often_or_rarely_ends_in_the_same_state(tmp_path, music_folder):
    """Validate the last step whether or not it was saved before, and also if the process was killed in between."""
    states = []
    for name, every_s in [("often", 1e-6), ("rarely", 1e6), ("cut", 1e-6)]:
        words = begin(tmp_path / name, music_folder, 7)
        if name == "cut":
            trainer = build_trainer(
                metadata.load(Path(words[1]), {"training.steps": 7}), tmp_path / name / "model.safetensors", CPU
            )
            trainer.run(lambda t: t.stop() if t.progress.step == 7 else None)
            assert trainer.progress.history == []
        assert run_command(train.main, *words_for(words[1], 7, every_s)) == (0, "")
        states.append(digest_of(tmp_path / name / "model.safetensors"))
    assert len(set(states)) == 1


@pytest.mark.slow
def test_predictor_live_states_are_loaded_whole(tmp_path, music_folder):
    """Load in two processes while a trainer saves after every step: all loaded weights are those of some step."""
    words = begin(tmp_path / "live", music_folder, FOREVER)
    meta, log = tmp_path / "live" / "model.json", tmp_path / "log"
    trainer = start_process(fault_processes.train_and_log_averages, log, words)
    wait_for(lambda: step_of(meta.with_name("model.safetensors")) > 0)
    outs = [tmp_path / f"reader{n}.json" for n in range(2)]
    readers = [start_process(fault_processes.read_often, meta, out, times(5000, 500)) for out in outs]
    for reader in readers:
        reader.join()
        assert reader.exitcode == 0
    assert trainer.is_alive()
    wait_for(lambda: step_of(meta.with_name("model.safetensors")) in pairs(log))
    trainer.kill()
    trainer.join()
    known = pairs(log)
    for out in outs:
        result = json.loads(out.read_text())
        print(f"{len(result['seen'])} different states seen, {result['used'][1]} to {result['used'][-1]}")
        assert len(result["seen"]) > 10
        assert {step: known[int(step)] for step in result["seen"]} == result["seen"]
        assert_flat(result["used"][1:])


def assert_flat(used: list[dict[str, int]], megabytes: float = 8.0) -> None:
    """Assert that the second half of the readings shows no higher usage than the first."""
    half = len(used) // 2
    for name, slack in {"memory": megabytes * 1e6, "files": 0, "threads": 0}.items():
        first, second = (max(entry[name] for entry in part) for part in (used[:half], used[half:]))
        assert second <= first + slack, f"{name}: {first:,} and then {second:,}"


# --- long runs --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_train_thousands_of_saves_leave_nothing_behind(tmp_path, music_folder):
    saves, out = times(2000, 600), tmp_path / "used.json"
    running = start_process(
        fault_processes.save_often, out, begin(tmp_path / "a", music_folder, saves), max(saves // 40, 1)
    )
    running.join()
    result = json.loads(out.read_text())
    print(f"{result['saves']} saves, {result['used'][2]} to {result['used'][-1]}")
    assert (result["status"], result["saves"]) == (0, saves)
    assert_flat(result["used"][4:])
    left = {path.name for path in (tmp_path / "a").iterdir()}
    assert left == {"model.json", "model.safetensors", "model.card.md", "model.runs", "model.curves.png"}


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["codec-lstm", "spectral-lstm"])
def test_predict_hour_of_music_needs_no_more_memory(tmp_path, music_folder, preset):
    seconds, out, wav = times(3600, 240), tmp_path / "used.json", tmp_path / "long.wav"
    assert run_command(train.main, *begin(tmp_path / "a", music_folder, 40, preset)) == (0, "")
    words = ["--meta", str(tmp_path / "a" / "model.json"), "--prompt", str(music_folder / "tune0.wav"), "--quiet"]
    words += ["--frames", str(seconds * RATE_HZ // HOP), "--out", str(wav), "--continuation-only"]
    running = start_process(fault_processes.predict_long, out, words, seconds / 40)
    running.join()
    result = json.loads(out.read_text())
    print(f"{soundfile.info(wav).duration:.0f} s, {result['used'][2]} to {result['used'][-1]}, {result['after']}")
    assert result["status"] == 0
    assert soundfile.info(wav).duration == pytest.approx(seconds, abs=0.5)
    assert_flat(result["used"][4:])
    assert result["after"]["files"] == result["before"]["files"]


# --- the disk ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_commands_on_full_and_read_only_disks_refuse_in_one_line(tmp_path, music_folder):
    """Mount small disks for one process, which trains and predicts onto them and prints the messages."""
    if subprocess.run(["unshare", "--map-root-user", "--mount", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no disks can be mounted here")
    shutil.copytree(music_folder, tmp_path / "music")
    assert run_command(train.main, *begin(tmp_path / "trained", tmp_path / "music", 4)) == (0, "")
    command = [
        "unshare",
        "--map-root-user",
        "--mount",
        sys.executable,
        str(ROOT / "tests" / "helpers" / "fault_processes.py"),
        str(tmp_path),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for name, words in {
        "state": ["model.safetensors", "No space left on device", "free some space", "the state before is intact"],
        "state again": ["model.safetensors", "No space left on device", "free some space"],
        "curves": ["No space left on device", "free some space"],
        "sound": ["predict.py: cannot write", "take.wav", "free some space"],
        "both": ["predict.py: cannot write", "take.wav", "are needed", "free some space"],
        "picture": ["take.png", "No space left on device", "free some space"],
        "cache": ["the cache cannot be written (No space left on device)", "set CONTINUO_CACHE", "free some space"],
        "cache read-only": ["Read-only file system", "set CONTINUO_CACHE"],
        "state read-only": ["Read-only file system", "choose another folder"],
        "sound read-only": ["Read-only file system", "choose another folder"],
    }.items():
        status, err = found[name]
        assert status == 2, name
        assert_one_line(err, *words)
    assert found["state left"] == ["model.card.md", "model.json", "model.safetensors"]
    assert 1 <= found["state step"] <= found["step after all"] < 40
    assert found["sound left"] == found["both left"] == []
    assert (found["picture left"], found["sound whole"]) == (["take.wav"], True)
    assert found["cache left"] == ["model.json"]


@pytest.mark.slow
def test_train_file_size_limit_keeps_the_earlier_state(tmp_path, music_folder):
    """Allow one state but not the next, which is larger because it holds the best weights too."""
    words, out = begin(tmp_path / "a", music_folder, 60), tmp_path / "said.json"
    state = tmp_path / "a" / "model.safetensors"
    assert run_command(train.main, *words_for(tmp_path / "a" / "model.json", 4)) == (0, "")
    most, before = state.stat().st_size - 1000, digest_of(state)
    running = start_process(fault_processes.limited, "FSIZE", most, out, words)
    running.join()
    status, err = json.loads(out.read_text())
    assert status == 2
    assert_one_line(err, "cannot save", "File too large", "the state before is intact")
    assert digest_of(state) == before
    assert [path.name for path in state.parent.iterdir() if path.name.startswith(".")] == []


def test_train_deleted_state_is_saved_again(tmp_path, music_folder):
    for name in "ab":
        begin(tmp_path / name, music_folder, 20, **{"training.validate_every_steps": 10})
    assert run_command(train.main, *words_for(tmp_path / "a" / "model.json", 20, 1e6)) == (0, "")

    class Deleting(train.Reporter):
        def __call__(self, trainer):
            if trainer.progress.step == 6:
                trainer.state_path.unlink()
                shutil.rmtree(trainer.state_path.with_suffix(".runs"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "Reporter", Deleting)
        assert run_command(train.main, *words_for(tmp_path / "b" / "model.json", 20)) == (0, "")
    assert digest_of(tmp_path / "b" / "model.safetensors") == digest_of(tmp_path / "a" / "model.safetensors")
    rows = (tmp_path / "b" / "model.runs" / "training.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["step", "10", "20"]


@pytest.mark.parametrize("then", ["nothing", "a file"])
def test_train_removed_folder_is_refused_in_one_line(tmp_path, music_folder, monkeypatch, then):
    words = begin(tmp_path / "a", music_folder, 30)

    class Moving(train.Reporter):
        def __call__(self, trainer):
            if trainer.progress.step == 3:
                (tmp_path / "a").rename(tmp_path / "moved")
                if then == "a file":
                    (tmp_path / "a").write_text("in its place")

    monkeypatch.setattr(train, "Reporter", Moving)
    status, err = run_command(train.main, *words)
    assert status == 2
    assert_one_line(err, str(tmp_path / "a" / "model.safetensors"), "removed" if then == "nothing" else "is a file")
    assert step_of(tmp_path / "moved" / "model.safetensors") == 3


# --- other trainers, other clocks, lost workers -----------------------------------------------------------------------


@pytest.mark.slow
def test_train_state_in_use_is_refused_until_its_trainer_is_killed(tmp_path, music_folder):
    words = begin(tmp_path / "a", music_folder, FOREVER)
    state = tmp_path / "a" / "model.safetensors"
    first = start_train_script(words)
    try:
        wait_for(lambda: step_of(state) > 3)
        status, err = run_command(train.main, *words)
        assert status == 2
        assert_one_line(err, str(state), "is being trained already", "choose another --meta")
        assert run_command(train.main, *words, "--prepare-only") == (2, err)
        Predictor.load(tmp_path / "a" / "model.json")  # loading the state is allowed meanwhile
        assert first.poll() is None
    finally:
        first.kill()
        first.wait()
    assert (state.parent / ".model.safetensors.lock").exists()
    reached = step_of(state)
    assert run_command(train.main, *words_for(words[1], reached + 2)) == (0, "")
    assert step_of(state) == reached + 2
    assert not (state.parent / ".model.safetensors.lock").exists()


@pytest.mark.slow
def test_train_killed_worker_ends_the_training_in_one_line(tmp_path, music_folder):
    """Without restarts torchrun ends. The saved state stays, and one process can continue from it."""
    begin(tmp_path / "a", music_folder, FOREVER)
    meta, state = tmp_path / "a" / "model.json", tmp_path / "a" / "model.safetensors"
    running = torchrun(meta, "--steps", str(FOREVER), "--checkpoint-every", "0.05", "--quiet")
    try:
        wait_for(lambda: step_of(state) > 3 or running.poll() is not None)
        os.kill(worker(running, rank=1), signal.SIGKILL)
        _, err = running.communicate(timeout=120)
    finally:
        running.terminate()  # torchrun ends its workers too
    assert running.returncode == 1  # torchrun's own exit status
    lines = [line for line in err.splitlines() if line.startswith("train.py: ")]
    assert lines in ([], ["train.py: another process of this training was lost: the last state is intact"])
    reached = step_of(state)
    assert run_command(train.main, *words_for(meta, reached + 2)) == (0, "")
    assert step_of(state) == reached + 2


def test_train_clock_set_back_changes_nothing(tmp_path, music_folder, monkeypatch):
    """Set the clock back by an hour at every reading, and date states and cache entries into the future."""
    for name in "ab":
        begin(tmp_path / name, music_folder, 20, **{"training.validate_every_steps": 10})
    assert run_command(train.main, *words_for(tmp_path / "a" / "model.json", 20, 1e6)) == (0, "")
    clock = iter(range(2 * 10**9, 0, -3600))
    monkeypatch.setattr(time, "time", lambda: float(next(clock)))
    assert run_command(train.main, *words_for(tmp_path / "b" / "model.json", 20, 1e-3)) == (0, "")
    state = tmp_path / "b" / "model.safetensors"
    assert digest_of(state) == digest_of(tmp_path / "a" / "model.safetensors")
    for path in (state, *(path for path in cache.folder().rglob("*") if path.is_file())):
        os.utime(path, (2**32, 2**32))
    assert run_command(train.main, *words_for(tmp_path / "b" / "model.json", 22)) == (0, "")
    progress = checkpoint.read_facts(state)["progress"]
    assert progress.step == 22
    seconds = [row[1] for row in progress.history]
    assert sorted(seconds) == seconds


def test_train_finished_restores_signal_handlers(tmp_path, music_folder):
    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    assert run_command(train.main, *begin(tmp_path / "a", music_folder, 2)) == (0, "")
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == handlers


# --- memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("fits_at_first", [False, True])
def test_train_batch_beyond_memory_names_the_key_to_lower(tmp_path, music_folder, fits_at_first):
    """Limit memory to 150 MB above what is used; the batch needs several times that."""
    words, out = begin(tmp_path / "a", music_folder, 8), tmp_path / "said.json"
    state = tmp_path / "a" / "model.safetensors"
    if fits_at_first:
        assert run_command(train.main, *words_for(tmp_path / "a" / "model.json", 4)) == (0, "")
    before = state.read_bytes() if fits_at_first else b""
    sizes = ["--set", "training.batch_size=2000", "--set", "training.window=512"]
    running = start_process(fault_processes.limited, "AS", 15 * 10**7, out, [*words, *sizes])
    running.join()
    status, err = json.loads(out.read_text())
    assert status == 2
    assert_one_line(err, "not enough memory: lower training.batch_size (now 2000) or training.window (now 512)")
    assert ("; the state of step 4 is intact" in err) == fits_at_first
    assert (state.read_bytes() if state.exists() else b"") == before


def test_train_corpus_beyond_memory_is_refused_in_one_line(tmp_path, music_folder, monkeypatch):
    monkeypatch.setattr(corpus, "decode_blocks", lambda path, rate, channels: iter([np.zeros(2**55, np.float32)]))
    monkeypatch.setenv("CONTINUO_CACHE", str(tmp_path / "cache"))
    status, err = run_command(train.main, *begin(tmp_path / "a", music_folder, 4))
    assert status == 2
    assert_one_line(err, "there is not enough memory: close other programs")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["model.json"]


# --- the corpus and the cache -----------------------------------------------------------------------------------------


@pytest.fixture
def own_music(tmp_path, monkeypatch):
    """Return recordings that a test may damage, and set up a cache of its own."""
    monkeypatch.setenv("CONTINUO_CACHE", str(tmp_path / "cache"))
    (tmp_path / "music").mkdir()
    for number in range(4):
        soundfile.write(tmp_path / "music" / f"tune{number}.wav", melody(number), RATE_HZ)
    return tmp_path / "music"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, music_folder):
    """Return a function from a preset to the digest of 12 steps on equal recordings, which are trained once."""

    @functools.cache
    def trained_digest(preset: str) -> str:
        folder = tmp_path_factory.mktemp("undisturbed")
        begin(folder, music_folder, 12, preset)
        assert run_command(train.main, *words_for(folder / "model.json", 12, 1.0)) == (0, "")
        return digest_of(folder / "model.safetensors")

    return trained_digest


def remove(music):
    for path in music.iterdir():
        path.unlink()


def truncate(music):
    for path in music.iterdir():
        os.truncate(path, 1000)


def change(music):
    for number, path in enumerate(sorted(music.iterdir())):
        soundfile.write(path, melody(40 + number), RATE_HZ)


def clear_cache(music):
    shutil.rmtree(cache.folder())


def cut_cache(music):
    for path in cache.folder().rglob("*.f32"):
        os.truncate(path, path.stat().st_size // 2)


def fill_cache_with_nan(music):
    for path in cache.folder().rglob("*.f32"):
        path.write_bytes(np.full(path.stat().st_size // 4, np.nan, np.float32).tobytes())


def damaged_at(step: int, what, music) -> type[train.Reporter]:
    class Damaging(train.Reporter):
        def __call__(self, trainer):
            if trainer.progress.step == step:
                what(music)

    return Damaging


@pytest.mark.parametrize("preset", ["codec-lstm", "spectral-lstm"])
@pytest.mark.parametrize("what", [remove, truncate, change, clear_cache, cut_cache, fill_cache_with_nan])
def test_train_damaged_corpus_or_cache_changes_nothing(tmp_path, own_music, undisturbed, monkeypatch, preset, what):
    begin(tmp_path / "a", own_music, 12, preset)
    expected = undisturbed(preset)
    monkeypatch.setattr(train, "Reporter", damaged_at(6, what, own_music))
    assert run_command(train.main, *words_for(tmp_path / "a" / "model.json", 12, 1.0)) == (0, "")
    assert digest_of(tmp_path / "a" / "model.safetensors") == expected


@pytest.mark.parametrize(
    ("what", "why"), [(remove, "No such file or directory"), (truncate, "it changed"), (change, "it changed")]
)
def test_train_corpus_and_cache_lost_together_end_the_training(tmp_path, own_music, monkeypatch, what, why):
    words = begin(tmp_path / "a", own_music, 24, "spectral-lstm")

    def both(music):
        clear_cache(music)
        what(music)

    monkeypatch.setattr(train, "Reporter", damaged_at(6, both, own_music))
    status, err = run_command(train.main, *words)
    assert status == 2
    assert_one_line(err, "is gone from the cache and cannot be read again", why, "start again")
    assert step_of(tmp_path / "a" / "model.safetensors") == 6
    assert list(cache.folder().rglob("*.f32")) == []  # no entry holds other contents than its name says


def test_load_recording_growing_while_read_is_skipped(tmp_path, own_music, monkeypatch):
    """A file may grow because it is being copied. The part that was read must not be cached as the whole."""
    decode = corpus.decode_blocks

    def growing(path, rate, channels):
        yield from decode(path, rate, channels)
        if path.name == "tune1.wav":
            soundfile.write(path, melody(1, seconds=4.0), RATE_HZ)

    section = CorpusSection(path=str(own_music), sample_rate_hz=RATE_HZ)
    with monkeypatch.context() as patch:
        patch.setattr(corpus, "decode_blocks", growing)
        loaded = corpus.load(section)
    assert loaded.skipped == (("tune1.wav", "it changed while it was read: start again when it is complete"),)
    assert len(loaded.pieces) == 3
    lengths = [round(piece.seconds) for piece in corpus.load(section).pieces]
    assert lengths == [3, 4, 3, 3]


def test_cache_damaged_entries_are_made_again(tmp_path, own_music, seed):
    """Empty, truncate, overwrite or extend entries: the next training ends as with an empty cache."""
    draw = random.Random(seed)
    damages = {
        "emptied": lambda content: b"",
        "cut": lambda content: content[: draw.randrange(len(content))],
        "noise": lambda content: draw.randbytes(len(content)),
        "zeros": lambda content: bytes(len(content)),
        "longer": lambda content: content + b"\xff",
    }
    begin(tmp_path / "whole", own_music, 4)
    assert run_command(train.main, *words_for(tmp_path / "whole" / "model.json", 4)) == (0, "")
    expected = digest_of(tmp_path / "whole" / "model.safetensors")
    for name, damaged in damages.items():
        for ending in (".json", ".npy", ".safetensors") + ((".f32",) if name not in ("noise", "zeros") else ()):
            entries = list(cache.folder().rglob(f"*{ending}"))
            assert entries
            for path in entries:
                path.write_bytes(damaged(path.read_bytes()))
        begin(tmp_path / name, own_music, 4)
        assert run_command(train.main, *words_for(tmp_path / name / "model.json", 4, 1.0)) == (0, "")
        assert digest_of(tmp_path / name / "model.safetensors") == expected, name


def test_cache_codes_out_of_range_are_encoded_again(tmp_path, own_music):
    begin(tmp_path / "a", own_music, 4)
    assert run_command(train.main, *words_for(tmp_path / "a" / "model.json", 4)) == (0, "")
    expected = digest_of(tmp_path / "a" / "model.safetensors")
    for wrong in (-1, 1024):
        for path in cache.folder().rglob("*.npy"):
            np.save(path, np.full_like(np.load(path), wrong))
        assert run_command(train.main, *words_for(tmp_path / "a" / "model.json", 4), "--fresh") == (0, "")
        assert digest_of(tmp_path / "a" / "model.safetensors") == expected


def test_cache_cleared_while_loading_loses_no_piece(tmp_path, own_music):
    """Load while another thread clears the cache: all pieces are there, and a removed file is no error."""
    section = CorpusSection(path=str(own_music), sample_rate_hz=RATE_HZ)
    done = threading.Event()

    def clear():
        while not done.is_set():
            cache.clear()
            cache.size_bytes()

    clearing = threading.Thread(target=clear)
    clearing.start()
    try:
        for _ in range(times(300, 30)):
            assert len(corpus.load(section).pieces) == 4
    finally:
        done.set()
        clearing.join()


def write_and_die(path) -> int:
    """Let a process die while it writes `path`, and return its exit status."""
    writer = [sys.executable, str(ROOT / "tests" / "helpers" / "killed_writer.py"), str(path)]
    return subprocess.run(writer, env=os.environ | {"PYTHONPATH": str(ROOT)}).returncode


def test_cache_clear_removes_old_leftovers_of_killed_writers(tmp_path, own_music):
    entry = cache.entry("ab" * 20, ".f32")
    for _ in range(2):
        assert write_and_die(entry) == 9
    fresh, old = entry.parent.glob(".*/*.f32")
    for other in entry.parent.glob(".*/.tmp*"):
        other.unlink()
    entry.write_bytes(b"1234")
    os.utime(old, (time.time() - 7200,) * 2)
    assert cache.clear() == 8
    assert [path for path in cache.folder().rglob("*") if path.is_file()] == [fresh]


def test_train_removes_leftovers_of_a_killed_save(tmp_path, music_folder):
    """Remove the temporary files of all that a training writes, and those that safetensors names itself."""
    words = begin(tmp_path, music_folder, 2)
    (tmp_path / "model.runs").mkdir()
    names = ["model.safetensors", "model.card.md", "model.curves.png", "model.runs/training.csv"]
    for name in names:
        assert write_and_die(tmp_path / name) == 9
    assert len(list(tmp_path.rglob("*/.tmp*"))) == len(names)
    (tmp_path / ".model.safetensors.mine").mkdir()
    assert run_command(train.main, *words) == (0, "")
    assert [path.name for path in tmp_path.rglob(".*")] == [".model.safetensors.mine"]


# --- not a number -----------------------------------------------------------------------------------------------------


def test_train_recordings_with_nan_or_infinity_are_skipped(tmp_path, own_music):
    for number, wrong in enumerate((np.nan, np.inf)):
        samples = melody(number)
        samples[1000] = wrong
        soundfile.write(own_music / f"tune{number}.wav", samples, RATE_HZ, "FLOAT")
    words = begin(tmp_path / "a", own_music, 4)
    words.remove("--quiet")
    status, err = run_command(train.main, *words)
    assert status == 0
    for number in range(2):
        assert f"skipped tune{number}.wav: it holds samples that are not numbers (NaN or infinity): export it" in err
    take = ["--meta", words[1], "--prompt", own_music / "tune0.wav", "--frames", 4, "--out", tmp_path / "a.wav"]
    status, err = run_command(predict.main, *take, "--quiet")
    assert status == 2
    assert_one_line(err, "tune0.wav", "samples that are not numbers")
    assert not (tmp_path / "a.wav").exists()


@pytest.mark.parametrize(
    "name", ["weights.in_proj.weight", "average.in_proj.weight", "lanes.0", "featurizer.network.ln.bias"]
)
def test_train_state_with_nan_is_refused(tmp_path, music_folder, name):
    words = begin(tmp_path / "a", music_folder, 6)
    assert run_command(train.main, *words_for(words[1], 4)) == (0, "")
    state = tmp_path / "a" / "model.safetensors"
    tensors, facts = checkpoint.load(state)
    tensors.setdefault(name, torch.zeros(288)).view(-1)[0] = torch.nan  # a codec that was not adapted has no network
    checkpoint.save(state, tensors, facts)
    before = state.read_bytes()
    status, err = run_command(train.main, *words)
    assert status == 2
    assert_one_line(
        err, str(state), "holds values that are not finite", "restore a copy of it, or train a new one with --fresh"
    )
    assert state.read_bytes() == before


def test_trainer_infinite_weights_are_never_saved(tmp_path, music_folder):
    """The step that breaks the weights has a finite loss, but its state must not replace the one before."""
    words, state = begin(tmp_path / "a", music_folder, 6), tmp_path / "a" / "model.safetensors"
    assert run_command(train.main, *words_for(words[1], 4)) == (0, "")
    meta = metadata.load(tmp_path / "a" / "model.json", {"training.steps": 20, "training.checkpoint_every_s": 1e-6})
    trainer = build_trainer(meta, state, CPU)
    before, step = state.read_bytes(), trainer._train_step

    def breaking(batch):
        step(batch)
        trainer.model.in_proj.weight.data[0, 0] = torch.inf

    trainer._train_step = breaking
    with pytest.raises(ValueError, match=r"a weight became NaN or infinite at step 5: lower .* step 4 is intact"):
        trainer.run()
    assert state.read_bytes() == before
