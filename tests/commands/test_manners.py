"""Test the command lines (pipes, `--quiet`, colors, suggestions), the model card and sounds logged in training."""

import io
import os
import pty
import re
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import soundfile
import torch
from conftest import HOP, RATE_HZ, ROOT, melody, train_small
from stereo import make_wide
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import corpus
import evaluate
import predict
import train
from continuo.audio.files import made_by_a_model
from continuo.model import checkpoint, presets
from continuo.model.card import card_path
from continuo.performance import main as perform
from continuo.system import paths
from continuo.system.progress import Display
from predictor import Predictor
from trainer import build_trainer


@pytest.fixture(scope="module")
def prompt(tmp_path_factory):
    path = tmp_path_factory.mktemp("prompt") / "prompt.wav"
    soundfile.write(path, melody(11, seconds=2.013), RATE_HZ)
    return path


def words(meta, prompt, *flags):
    return ["--meta", str(meta), "--prompt", str(prompt), "--device", "cpu", *map(str, flags)]


def on_a_terminal(command_line, cwd, **environment) -> str:
    """Return the standard error of a command that runs on a new terminal."""
    ours, its = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "140", **environment}
    process = subprocess.Popen(command_line, cwd=cwd, env=environment, stdout=subprocess.DEVNULL, stderr=its)
    os.close(its)
    shown = b""
    while True:
        try:
            block = os.read(ours, 1 << 16)
        except OSError:  # on Linux the end of a terminal is an error
            break
        if not block:
            break
        shown += block
    os.close(ours)
    assert process.wait(timeout=240) == 0, shown.decode()
    return shown.decode()


# --- pipes ------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("stub_pictures")
def test_predict_out_dash_sends_the_same_sound_and_nothing_else(trained, prompt, tmp_path, capfdbinary, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert predict.main(words(trained, prompt, "--frames", 40, "--out", "whole.wav", "--quiet")) == 0
    (tmp_path / "whole.png").unlink()
    capfdbinary.readouterr()
    assert predict.main(words(trained, prompt, "--frames", 40, "--out", "-")) == 0
    sent, said = capfdbinary.readouterr()
    assert sent.partition(b"data")[2][4:] == soundfile.read(tmp_path / "whole.wav", dtype="int16")[0].tobytes()
    (tmp_path / "sent.wav").write_bytes(sent)
    assert soundfile.info(tmp_path / "sent.wav").samplerate == RATE_HZ
    assert made_by_a_model(tmp_path / "sent.wav")  # so no corpus includes it
    assert b"2.01 s of prompt" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sent.wav", "whole.wav"]


@pytest.mark.usefixtures("stub_pictures")
def test_predict_out_dash_in_stereo_has_a_header_of_two_channels(trained, prompt, tmp_path, capfdbinary, monkeypatch):
    make_wide(monkeypatch)
    assert predict.main(words(trained, prompt, "--frames", 40, "--out", tmp_path / "whole.wav", "--quiet")) == 0
    capfdbinary.readouterr()
    assert predict.main(words(trained, prompt, "--frames", 40, "--out", "-", "--quiet")) == 0
    (tmp_path / "sent.wav").write_bytes(capfdbinary.readouterr().out)
    (sent, rate), (whole, _) = (soundfile.read(tmp_path / f"{name}.wav", dtype="int16") for name in ("sent", "whole"))
    assert (sent.ndim, rate) == (2, RATE_HZ)
    np.testing.assert_array_equal(sent, whole)


def test_predict_pipe_closed_early_ends_the_process_in_silence(trained, prompt, tmp_path):
    command = [sys.executable, str(ROOT / "predict.py"), *words(trained, prompt, "--frames", 500_000, "--out", "-")]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    sent = process.stdout.read(44 + 2 * (len(melody(11, seconds=2.013)) + 1000))
    assert np.frombuffer(sent[-1000:], "<i2").any()
    process.stdout.close()
    assert process.wait(timeout=240) == 141
    assert process.stderr.read() == b""


def test_exit_now_flushes_all_output():
    program = "from continuo.system.command_line import exit_now; import sys; "
    program += "sys.stdout.write('a' * 70_000); sys.stderr.write('b'); "
    run = partial(subprocess.run, capture_output=True, text=True, cwd=ROOT)
    left = run([sys.executable, "-c", program + "exit_now(3)"])
    assert (left.returncode, left.stdout, left.stderr) == (3, "a" * 70_000, "b")
    closed = run([sys.executable, "-c", program + "sys.stdout.close(); exit_now(2)"])
    assert (closed.returncode, closed.stderr) == (2, "b")


@pytest.mark.parametrize("flags", [["--json"], ["--takes", "2"]])
def test_predict_out_dash_with_other_output_is_refused(trained, prompt, flags, capsys):
    assert predict.main(words(trained, prompt, "--frames", 3, "--out", "-", *flags)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("predict.py: --out - leaves no room for")


# --- words ------------------------------------------------------------------------------------------------------------


def test_commands_quiet_write_nothing_to_standard_error(trained, prompt, music_folder, tmp_path, capfd):
    assert predict.main(words(trained, prompt, "--frames", 3, "--out", tmp_path / "a.wav", "--quiet")) == 0
    assert corpus.main([str(music_folder), "--quiet"]) == 0
    assert perform([str(ROOT / "examples" / "prompt.musicxml"), "--out", str(tmp_path), "--midi", "--quiet"]) == 0
    train_small(tmp_path, music_folder, steps=2)
    captured = capfd.readouterr()
    assert captured.err == ""
    assert len(captured.out.splitlines()) == 5  # the output of corpus.py


@pytest.mark.slow
def test_commands_show_progress_and_colors_on_a_terminal_only(tmp_path, music_folder, trained, prompt):
    script = lambda name, *flags: [sys.executable, str(ROOT / f"{name}.py"), *map(str, flags)]  # noqa: E731
    from conftest import SMALL_CODEC, set_flags

    small = SMALL_CODEC | {"representation.adaptation_steps": 2}
    learn = script("train", "--corpus", music_folder, "--steps", 40, *set_flags(small))
    fresh_cache = {"CONTINUO_CACHE": str(tmp_path / "cache")}
    shown = on_a_terminal(learn, tmp_path, **fresh_cache)
    for part in ("reading the corpus", "encoding", "the codec is adapted to the corpus", "training"):
        assert part in shown
    assert re.search(r"training.*elapsed 0\d:\d\d, remaining 0\d:\d\d", shown)
    go_on = script("predict", *words(trained, prompt, "--frames", 5000, "--out", tmp_path / "a.wav"))
    shown = on_a_terminal(go_on, tmp_path)
    assert re.search(r"continuing.*remaining 0\d:\d\d", shown)
    colour = r"\x1b\[[0-9;]*(3[0-79]|38;5;\d+)m"
    assert re.search(colour, shown)
    assert not re.search(colour, on_a_terminal([*go_on, "--force"], tmp_path, NO_COLOR="1"))
    piped = subprocess.run([*go_on, "--force"], capture_output=True, text=True, cwd=tmp_path, timeout=240)
    assert "\x1b" not in piped.stderr + piped.stdout


@pytest.mark.parametrize("columns", [60, 80, 100, 200])
def test_display_time_remaining_fits_into_a_line(monkeypatch, columns):
    """The line was once wrapped over four lines on terminals of 80 columns."""

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    for name, value in {"COLUMNS": str(columns), "TERM": "xterm-256color", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    terminal = Terminal()
    with Display(stream=terminal) as display:
        display.task("training", 1.0).update(0.5, "step 1,234, loss 19.62 nats, held-out 9.82, 9,138 frames/s", 3700.0)
        display.live.refresh()
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())
    line = [line for line in re.split(r"[\r\n]", shown) if "training" in line][-1]
    assert re.fullmatch(r"training +\S+ +step? .*elapsed 00:0\d, remaining 01:01:(39|40) *", line.replace("…", " "))
    assert len(line) <= columns
    assert ("9,138 frames/s" in line) == (columns == 200)


@pytest.mark.parametrize(
    ("main", "flags", "meant"),
    [
        (train, ["--set", "trainng.minutes=3"], "unknown key trainng.minutes; did you mean 'training.minutes'?"),
        (train, ["--set", "hidden=3"], "did you mean 'architecture.hidden'?"),
        (train, ["--corpus", "exmaples"], "did you mean 'examples'?; check --corpus"),
        (train, ["--from", "models/demo/choral.safetensors"], "did you mean 'chorales.safetensors'?"),
        (evaluate, ["--meta", "models/demo/choral.json"], "did you mean 'chorales.json'? Or create it: python"),
        (predict, ["--prompt", "examples/himn.musicxml", "--frames", "3"], "exist; did you mean 'hymn.musicxml'?"),
        (predict, ["--prompt", "nowhere.mid", "--frames", "3"], "nowhere.mid does not exist; check the spelling"),
        (predict, ["--prompt", "", "--frames", "3"], "argument --prompt: the path is empty: name a file"),
        (evaluate, ["--meta", "model.json"], "model.json does not exist; check --meta"),  # there is no similar name
    ],
)
def test_commands_misspelled_word_suggests_the_known_one(main, flags, meant, tmp_path, monkeypatch, capsys):
    for name in ("examples", "models"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    try:
        status = main.main(flags)
    except SystemExit as left:
        status = left.code
    assert status == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert meant in line
    assert captured.out == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["examples", "models"]


@pytest.mark.parametrize("script", ["train", "predict", "evaluate", "corpus", "studio", "export"])
def test_command_without_the_packages_says_so_in_one_line(script):
    words = [sys.executable, "-S", str(ROOT / f"{script}.py"), "--help"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=20)
    (line,) = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (2, "")
    assert "lacks packages that Continuo needs: make env, then source .venv/bin/activate" in line


def test_import_without_the_packages_raises_and_does_not_exit():
    words = [
        sys.executable,
        "-S",
        "-c",
        "import sys\ntry: import continuo\nexcept ImportError as e: sys.exit(f'caught {e}')",
    ]
    done = subprocess.run(words, capture_output=True, text=True, timeout=20, cwd=ROOT)
    assert "caught" in done.stderr
    assert "make env" in done.stderr


# --- the card ---------------------------------------------------------------------------------------------------------


def test_card_of_a_resumed_training_keeps_its_evaluation(tmp_path, tmp_path_factory):
    music_folder = tmp_path_factory.mktemp("music")
    for seed in range(4):
        soundfile.write(music_folder / f"tune{seed}.wav", melody(seed, seconds=6), RATE_HZ)
    meta = train_small(tmp_path, music_folder, steps=6, extra=("--set", 'corpus.licence="CC0 1.0"'))
    text = (tmp_path / "model.card.md").read_text()
    progress = checkpoint.read_facts(tmp_path / "model.safetensors")["progress"]
    assert f"{music_folder.name}, 3 pieces of 0.3 minutes for training, 1 piece of 0.1 minutes held out" in text
    assert str(music_folder) not in text  # the card does not disclose the path
    assert "**License of the corpus**: CC0 1.0" in text
    assert f"{progress.best_nats:.2f} at step {progress.best_step}" in text
    assert "## Evaluation" not in text
    flags = ["--pieces", "1", "--seconds", "2", "--prompt-seconds", "1", "--long", "0", "--quiet"]
    assert evaluate.main(["--meta", str(meta), "--out", str(tmp_path / "out"), *flags]) == 0
    evaluated = (tmp_path / "model.card.md").read_text()
    assert evaluated.startswith(text)
    assert "weights of step 6" in evaluated
    assert not re.search(r"\de[+-]\d", evaluated)  # numbers such as 2e+03 are hard to read
    train_small(tmp_path, music_folder, steps=9)
    longer = (tmp_path / "model.card.md").read_text()
    assert "9 steps" in longer
    assert longer.endswith(evaluated[len(text) :])
    train_small(tmp_path, music_folder, steps=3, extra=("--fresh",))
    assert "## Evaluation" not in (tmp_path / "model.card.md").read_text()


def test_card_code_runs(trained, prompt, monkeypatch):
    text = card_path(trained.with_suffix(".safetensors")).read_text()
    code = text.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(trained.parent)
    scope: dict = {}
    exec(code.replace("song.musicxml", str(prompt)), scope)  # the code that a reader copies
    assert isinstance(scope["predictor"], Predictor)
    take = scope["take"]
    assert len(np.concatenate([*take.samples(20), take.finish()])) == 20 * HOP + take.overlap_samples


def test_program_and_command_of_a_checkout_and_of_an_installation(monkeypatch):
    assert (paths.program("train"), paths.command("train")) == ("train.py", "python train.py")
    monkeypatch.setattr(paths, "INSTALLED", True)
    assert (paths.program("train"), paths.command("train")) == ("continuo train", "continuo train")
    assert (paths.program("speed.py"), paths.command("python -m x")) == ("speed.py", "python -m x")


# --- sounds logged in training ----------------------------------------------------------------------------------------


def small_trainer(folder, music):
    from conftest import SMALL_CODEC

    values = SMALL_CODEC | {"corpus.path": str(music), "training.steps": 12}
    made = presets.from_preset("codec-lstm", values, state="model.safetensors")
    folder.mkdir(exist_ok=True)
    return build_trainer(made, folder / "model.safetensors", torch.device("cpu"))


def test_continuation_logger_changes_nothing_of_the_training(tmp_path, music_folder, monkeypatch):
    from continuo.model.training_log import TrainingLog

    plain = small_trainer(tmp_path / "plain", music_folder)
    plain.run()
    monkeypatch.setattr(train, "CONTINUE_EVERY_S", 0.0)
    monkeypatch.setattr(train, "CONTINUE_FRACTION", 1e9)
    logged = small_trainer(tmp_path / "logged", music_folder)
    with TrainingLog(logged.state_path, fresh=True) as log:
        logged.run(train.ContinuationLogger(logged, log))
    ours, theirs = (checkpoint.load(trainer.state_path)[0] for trainer in (plain, logged))
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    events = EventAccumulator(str(log.folder)).Reload()
    assert events.Tags()["audio"] == ["continuation"]
    assert [event.step for event in events.Images("continuation")] == [4, 8, 12]
    sound = events.Audio("continuation")[0]
    assert sound.sample_rate == RATE_HZ
    assert sound.length_frames > 250 * HOP


def test_training_log_has_both_channels_of_a_stereo_model(tmp_path, music_folder, monkeypatch):
    from continuo.model.training_log import TrainingLog

    make_wide(monkeypatch)
    trainer = small_trainer(tmp_path, music_folder)
    samples = train.sample_continuation(trainer, 60)
    assert samples.shape == (len(samples), 2)
    samples *= 0.9 / np.abs(samples).max()  # an untrained model may be louder than full scale, which is limited
    with TrainingLog(trainer.state_path, fresh=True) as log:
        log.add_audio(1, samples, RATE_HZ)
        log.add_audio(2, samples[:, 0], RATE_HZ)
    events = EventAccumulator(str(log.folder)).Reload()
    stereo, mono = (soundfile.read(io.BytesIO(e.encoded_audio_string))[0] for e in events.Audio("continuation"))
    np.testing.assert_allclose(stereo, samples, atol=1e-4)
    np.testing.assert_array_equal(stereo[:, 0], mono)
    assert len(events.Images("continuation")) == 2


def test_continuation_logger_on_a_busy_machine_makes_no_sound(tmp_path, music_folder, monkeypatch):
    """The training once ended here with a message about a zero-size array."""
    from continuo.model.training_log import TrainingLog

    monkeypatch.setattr(train, "CONTINUE_EVERY_S", 0.0)
    monkeypatch.setattr(train, "CONTINUE_FRACTION", 1e-9)
    trainer = small_trainer(tmp_path, music_folder)
    with TrainingLog(trainer.state_path, fresh=True) as log:
        trainer.run(train.ContinuationLogger(trainer, log))
    assert trainer.progress.step == 12
    assert EventAccumulator(str(log.folder)).Reload().Tags()["audio"] == []


def test_continuation_logger_keeps_to_its_fraction_of_the_time(tmp_path, music_folder, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(train.time, "monotonic", lambda: now[0])

    class Log:
        def __init__(self):
            self.steps = []

        def add_audio(self, step, samples, rate):
            self.steps.append(step)

    def slow(trainer, seconds):
        assert seconds == pytest.approx(train.CONTINUE_FRACTION * (now[0] - slow.last))
        now[0] += 2 * seconds  # twice the allowed time, so that the next sound is made later
        slow.last = now[0]
        return np.zeros(10, np.float32)

    slow.last = 0.0
    monkeypatch.setattr(train, "sample_continuation", slow)
    trainer, log = small_trainer(tmp_path, music_folder), Log()
    listener = train.ContinuationLogger(trainer, log)
    for step in range(1, 2001):
        now[0] += 1.0
        trainer.progress.step, trainer.progress.seconds = step, now[0]
        if step % 10 == 0:
            trainer.progress.history.append([step, now[0], 1.0, 1.0])
        listener(trainer)
    assert log.steps == [180, 540, 1260]  # 3.6 s were allowed and 7.2 s taken: 360 s until the next
