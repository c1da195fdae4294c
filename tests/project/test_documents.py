"""Test that every command in a document exists, and that the commands of the README run, with small models."""

import argparse
import re
import shlex
import subprocess
import sys

import pytest
import soundfile
from conftest import HOP, RATE_HZ, ROOT, SMALL, SMALL_OF, melody, set_flags
from tunes import TINY, tune

import corpus
import evaluate
import predict
import train
from continuo import __main__ as together
from continuo import performance
from continuo.model import metadata, presets
from continuo.symbolic.writing import write_musicxml, write_song_midi

MAINS = {"train": train, "predict": predict, "evaluate": evaluate, "corpus": corpus}
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
STARTS = r"(?:\.venv/bin/)?(?:python3?|pip|make|torchrun|continuo|source|tensorboard|pre-commit) "
SCRIPT = re.compile(r"(\w+)\.py")
STUDIO = "studio.py"

NOT_OURS = {
    "source .venv/bin/activate": "the shell's",
    "python3 -m venv .venv": "Python's own",
    ".venv/bin/pip install -r requirements.txt": "pip's: `make env` does the same with uv",
    "pip install .": "tests/project/test_packaging.py installs a wheel",
    "pre-commit install": "pre-commit's own",
    "tensorboard --logdir model.runs": "TensorBoard's own; tests/commands/test_manners.py reads that folder",
}
NOT_RUN = {
    "--from": "a large model: tests/commands/test_train.py begins one training with another that is smaller",
    "--cache": "is the reader's cache; tests/stages/test_corpus.py asks one of its own",
    "--clear-cache": "the same",
    "music21:bach": "400 chorales: test_A11_load_embedded_chorales_needs_no_data",
    "-": "test_predict_out_dash_sends_the_same_sound_and_nothing_else",
}


def commands(text: str) -> list[str]:
    """Return the commands in a Markdown text: lines of fenced blocks, and code between single backticks."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.M | re.S)
    blocks = [block for language, block in fenced if language in ("", "sh", "bash")]
    outside = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    spans = [" ".join(span.replace("\\|", "|").split()) for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", outside)]
    lines = [line.strip() for block in blocks for line in re.sub(r"\\\n\s*", "", block).splitlines()]
    shown = [line.split("   ")[0] for line in lines] + spans
    return [line for line in dict.fromkeys(shown) if re.match(STARTS, line)]


SHOWN = [(path, command) for path in DOCUMENTS for command in commands(path.read_text())]


def typed(command: str) -> list[str]:
    """Return the words of a command as a shell passes them, with values for single capitals and for "..."."""
    words = shlex.split(command.split(" | ")[0])
    words = ["2" if re.fullmatch(r"[A-Z]", word) else word for word in words]
    filler = ["--prompt", "song.mid", "--frames", "3"] if "predict.py" in words else []
    return [other for word in words for other in (filler if word == "..." else [word])]


def parsed(words: list[str]) -> argparse.Namespace | None:
    """Return the parsed arguments of a script of this project, or None if it has no parser."""
    if words[0] == "continuo":
        assert words[1] in together.COMMANDS
        return MAINS[words[1]].build_parser().parse_args(words[2:]) if words[1] in MAINS and words[2:] else None
    if words[1:3] == ["-m", "continuo.performance"]:
        return performance.build_parser().parse_args(words[3:])
    place = next(i for i, word in enumerate(words) if word.endswith(".py"))
    script, flags = words[place], words[place + 1 :]
    if script == STUDIO and not (ROOT / STUDIO).exists():
        return None
    source = (ROOT / script).read_text()
    if script.removesuffix(".py") in MAINS:
        return MAINS[script.removesuffix(".py")].build_parser().parse_args(flags)
    assert [flag for flag in flags if flag.startswith("--") and f'"{flag}"' not in source] == []
    return None


def test_commands_are_found_in_markdown():
    text = "Type `python a.py`, not `a`.\n```python\nmake = 1\n```\n```\nmake x\n\npython b.py \\\n  --c\n```\n"
    assert commands(text) == ["make x", "python b.py --c", "python a.py"]
    assert len(SHOWN) > 40


@pytest.mark.parametrize(("path", "command"), SHOWN, ids=[f"{path.name}: {command}" for path, command in SHOWN])
def test_documents_every_command_is_understood(path, command):
    if command in NOT_OURS:
        return
    words = typed(command)
    if words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.M)
        assert [word for word in words[1:] if "=" not in word and word not in targets] == []
        return
    arguments = parsed(words)
    if arguments is not None and hasattr(arguments, "set"):
        flags = presets.parse_assignments(arguments.set)
        presets.from_preset(arguments.preset or presets.DEFAULT_PRESET, {}, state="x.safetensors")
        assert [key for key in flags if key not in metadata.known_keys()] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_documents_links_lead_to_files(path):
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text())
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_exceptions_are_commands_of_the_documents():
    assert set(NOT_OURS) <= {command for _, command in SHOWN}


README = [command for command in commands((ROOT / "README.md").read_text()) if SCRIPT.search(command)]


@pytest.mark.slow
def test_readme_commands_run_in_order(tmp_path, tmp_path_factory, monkeypatch, capsys):
    """Run the commands from top to bottom in one folder, with short music, small models and three steps."""
    music, tunes = tmp_path_factory.mktemp("recordings"), tmp_path_factory.mktemp("midi")
    for seed in range(4):
        soundfile.write(music / f"live{seed}.wav", melody(seed, seconds=6), RATE_HZ)
        write_song_midi(tune(seed, 48), tunes / f"tune{seed}.mid")
    write_song_midi(tune(7), tmp_path / "song.mid")
    write_musicxml(tune(8), tmp_path / "song.musicxml", title="song")
    soundfile.write(tmp_path / "riff.wav", melody(9, seconds=8), RATE_HZ)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    ran = 0
    for command in README:
        script, *flags = typed(command)[1:]
        name = script.removesuffix(".py")
        if name not in MAINS or any(flag in NOT_RUN for flag in flags):
            continue
        flags = [{"~/recordings": str(music), "~/midi": str(tunes)}.get(flag, flag) for flag in flags]
        assert MAINS[name].main(small(name, flags, music, tunes)) == 0, f"{command}: {capsys.readouterr().err}"
        ran += 1
    assert ran > 15


def small(name: str, flags: list[str], music, tunes) -> list[str]:
    """Return the flags with others that make the command quick."""
    arguments = MAINS[name].build_parser().parse_args(flags)
    if name == "train":
        new = not arguments.meta.exists()
        preset = arguments.preset or "codec-lstm"
        tiny = SMALL_OF.get(preset, TINY | ({"architecture.heads": 2} if preset == "remi-transformer" else {}))
        flags = [flag for flag in flags if flag != "--epochs"] if arguments.epochs else flags
        if arguments.minutes or arguments.epochs:
            budget = flags.index("--minutes" if arguments.minutes else next(f for f in flags if f == "20"))
            flags = [*flags[:budget], *flags[budget + (2 if arguments.minutes else 1) :]]
        corpus_of = str(music if preset in SMALL_OF else tunes)
        made = ["--corpus", corpus_of, *set_flags(SMALL | tiny)] if new else []
        return [*flags, *made, "--steps", "3", "--device", "cpu", "--quiet"]
    if name == "predict":
        return [*flags, "--frames", "8", "--force", "--quiet"]
    if name == "evaluate":
        little = ["--pieces", "1", "--seconds", "2", "--prompt-seconds", "1", "--long", "0"]
        return [*flags, *little, "--force", "--quiet"]
    return flags


def test_readme_code_runs(monkeypatch):
    (code,) = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), flags=re.M | re.S)
    assert len([line for line in code.splitlines() if line]) <= 5
    monkeypatch.chdir(ROOT)
    scope: dict = {}
    exec(code.replace("500", "6"), scope)
    assert sum(map(len, scope["blocks"])) == 6 * HOP + scope["take"].overlap_samples


@pytest.mark.slow
def test_reference_is_made_from_the_docstrings(tmp_path):
    flags = ["--docformat", "google", "--no-show-source", "--output-directory", str(tmp_path)]
    command = [sys.executable, "-m", "pdoc", *flags, "predictor", "continuo.system.files"]
    assert " ".join(flags[:3]) in (ROOT / "Makefile").read_text()
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=600)
    page = (tmp_path / "predictor.html").read_text()
    assert "A trained model, ready to continue prompts." in page
    assert 'id="Predictor.take"' in page
    assert (tmp_path / "continuo" / "system" / "files.html").exists()


def test_features_every_row_has_tests_with_its_number():
    rows = [line.split("|") for line in (ROOT / "docs" / "FEATURES.md").read_text().splitlines() if line[:3] != "|--"]
    words = {word for row in rows if len(row) > 4 for word in re.findall(r"[A-EN]\d+", row[-2])}
    names = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"def test_([A-EN]\d+)_", path.read_text())
    }
    assert len(words) > 30
    assert words - names == set()
