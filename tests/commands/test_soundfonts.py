"""Test that a model remembers the SoundFont that rendered its corpus, and renders prompts with it."""

import hashlib
import pickle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from conftest import ROOT, train_small
from midi_bytes import chunk, midi_file, track

import corpus
from continuo.model import checkpoint, metadata
from continuo.model.metadata import CorpusSection
from continuo.score import synth
from continuo.score.notes import Note, Performance
from continuo.score.synth import choose_soundfont, find_soundfont, identify_soundfont, render
from evaluation.excerpts import load_split
from predict import main as predict
from predictor import Predictor
from train import main as train
from web import take_worker

HYMN = ROOT / "examples" / "hymn.musicxml"
DEMO = ROOT / "models" / "demo" / "chorales.json"


@pytest.fixture(scope="module")
def own() -> Path:
    """Return the SoundFont of pretty_midi, which every computer with Continuo has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synth, "SYSTEM_FOLDERS", ())
        patch.delenv("CONTINUO_SOUNDFONT", raising=False)
        return find_soundfont()


@pytest.fixture(scope="module")
def other(own, tmp_path_factory) -> Path:
    """Return a SoundFont that plays everything with half the amplitude."""
    data = bytearray(own.read_bytes())
    start = data.index(b"smpl") + 8
    stop = start + int.from_bytes(data[start - 4 : start], "little")
    data[start:stop] = (np.frombuffer(data[start:stop], "<i2") // 2).tobytes()
    path = tmp_path_factory.mktemp("fonts") / "Other.sf2"
    path.write_bytes(data)
    return path


@pytest.fixture(autouse=True)
def installed(monkeypatch, other):
    """Make `other` the SoundFont of the system, which comes before the one of pretty_midi."""
    monkeypatch.setattr(synth, "SYSTEM_FOLDERS", (str(other.parent),))
    monkeypatch.delenv("CONTINUO_SOUNDFONT", raising=False)


@pytest.fixture(scope="module")
def scores(tmp_path_factory) -> Path:
    """Return a folder of four MIDI files."""
    folder = tmp_path_factory.mktemp("scores")
    for seed in range(4):
        keys = np.random.default_rng(seed).integers(48, 72, 8)
        events = [(240 * n, f"90{key:02x}60") for n, key in enumerate(keys)]
        content = track(*[e for n, (at, on) in enumerate(events) for e in ((at, on), (at + 200, f"80{on[2:4]}00"))])
        (folder / f"{seed}.mid").write_bytes(midi_file(chunk(content)))
    return folder


@pytest.fixture(scope="module")
def model(scores, own, tmp_path_factory) -> Path:
    """Return a model of scores that were rendered with the SoundFont of pretty_midi."""
    return train_small(tmp_path_factory.mktemp("model"), scores, steps=1, extra=("--soundfont", str(own)))


def without_soundfont(model: Path, folder: Path) -> Path:
    """Return a copy of a model whose state, as those of earlier versions, names no SoundFont."""
    tensors, facts = checkpoint.load(model.with_suffix(".safetensors"))
    facts = {key: value for key, value in facts.items() if key != "soundfont"}
    facts["metadata"]["corpus"]["soundfont"] = None
    checkpoint.save(folder / "model.safetensors", tensors, facts)
    (folder / "model.json").write_bytes(model.read_bytes())
    return folder / "model.json"


def test_state_of_rendered_scores_names_their_soundfont_and_its_hash(model, own):
    facts = checkpoint.read_facts(model.with_suffix(".safetensors"))
    sha256 = hashlib.sha256(own.read_bytes()).hexdigest()
    assert facts["soundfont"] == {"name": own.name, "bytes": own.stat().st_size, "sha256": sha256}
    assert f"- **SoundFont of its scores**: {own.name} (SHA-256 {sha256})" in model.with_suffix(".card.md").read_text()


def test_state_of_recordings_names_no_soundfont(trained):
    assert "soundfont" not in checkpoint.read_facts(trained.with_suffix(".safetensors"))
    assert "SoundFont" not in trained.with_suffix(".card.md").read_text()


def test_shipped_state_names_the_soundfont_of_pretty_midi(own):
    assert checkpoint.read_facts(DEMO.with_suffix(".safetensors"))["soundfont"] == identify_soundfont(own)


def test_prompt_is_rendered_as_the_corpus_was_whatever_is_installed(model, own, other):
    rendered, section = Predictor.load(model).prompt(HYMN), metadata.load(model).corpus
    with_own, with_other = (
        corpus.load_prompt(HYMN, section.model_copy(update={"soundfont": str(font)})) for font in (own, other)
    )
    assert rendered.rendering == ""
    np.testing.assert_array_equal(rendered.samples, with_own.samples)
    assert np.abs(with_other.samples).max() < 0.7 * np.abs(with_own.samples).max()


def test_soundfont_is_found_by_its_content_under_another_name(model, own, tmp_path, monkeypatch):
    learned = checkpoint.read_facts(model.with_suffix(".safetensors"))["soundfont"]
    moved = tmp_path / "renamed.sf3"
    moved.write_bytes(own.read_bytes())
    monkeypatch.setattr(synth.importlib.util, "find_spec", lambda name: None)
    assert choose_soundfont(None, learned)[0].name == "Other.sf2"
    assert choose_soundfont(None, learned, moved) == (moved, "")
    monkeypatch.setenv("CONTINUO_SOUNDFONT", str(moved))
    assert choose_soundfont(None, learned) == (moved, "")
    monkeypatch.delenv("CONTINUO_SOUNDFONT")
    monkeypatch.setattr(synth, "SYSTEM_FOLDERS", (*synth.SYSTEM_FOLDERS, str(tmp_path)))
    assert choose_soundfont(None, learned) == (moved, "")


@pytest.mark.usefixtures("stub_pictures")
def test_predict_given_soundfont_outweighs_that_of_the_model_and_is_named(model, own, other, tmp_path, capsys):
    flags = ["--meta", str(model), "--prompt", str(HYMN), "--frames", "2", "--device", "cpu"]
    assert predict([*flags, "--out", str(tmp_path / "a.wav"), "--soundfont", str(other)]) == 0
    words = f"the prompt {HYMN} is rendered with Other.sf2 instead of {own.name}, whose sound the model has learned"
    assert f"{words}: the music may come out worse\n" in capsys.readouterr().err
    assert predict([*flags, "--out", str(tmp_path / "b.wav"), "--soundfont", str(own)]) == 0
    assert f"the prompt {HYMN} is rendered with {own.name}\n" in capsys.readouterr().err
    assert predict([*flags, "--out", str(tmp_path / "c.wav")]) == 0
    assert "rendered" not in capsys.readouterr().err
    sounds = [(tmp_path / f"{name}.wav").read_bytes() for name in "abc"]
    assert sounds[0] != sounds[1] == sounds[2]
    assert predict([*flags, "--out", str(tmp_path / "d.wav"), "--soundfont", "missing.sf2"]) == 2
    assert "the SoundFont missing.sf2 does not exist" in capsys.readouterr().err


@pytest.mark.usefixtures("stub_pictures")
def test_predict_soundfont_without_a_score_to_render_is_named(model, other, tmp_path, capsys):
    recording = tmp_path / "recording.wav"
    soundfile.write(recording, np.random.default_rng(1).normal(scale=0.1, size=24_000), 24_000)
    flags = ["--meta", str(model), "--frames", "2", "--device", "cpu", "--out", str(tmp_path / "out.wav")]
    assert predict([*flags, "--prompt", str(recording), "--soundfont", str(other)]) == 0
    assert f"the prompt {recording} is a recording: the SoundFont Other.sf2 is not used\n" in capsys.readouterr().err
    assert predict([*flags, "--force", "--prompt", "none", "--soundfont", str(other)]) == 0
    assert "there is no score to render: the SoundFont Other.sf2 is not used\n" in capsys.readouterr().err
    assert predict([*flags, "--force", "--prompt", str(recording)]) == 0
    assert "SoundFont" not in capsys.readouterr().err


def test_missing_soundfont_is_named_with_its_substitute(model, own, tmp_path, monkeypatch, capsys):
    facts = checkpoint.load(model.with_suffix(".safetensors"))[1]
    predictor = Predictor.load(model)
    predictor.facts = {**facts, "soundfont": {**facts["soundfont"], "name": "Lost.sf2", "sha256": "0" * 64}}
    expected = (
        "is rendered with Other.sf2, because Lost.sf2, whose sound the model has learned, is not on this computer"
    )
    assert predictor.prompt(HYMN).remarks == [f"{expected}: the music may come out worse"]
    monkeypatch.setattr(take_worker, "write_take", lambda *_, **__: SimpleNamespace(seconds=1.0, weights_step=1))
    answers = []
    request = take_worker.Request(str(model), str(HYMN), str(tmp_path / "x.wav"), 0.1, 1.0, None, None, 0, 1.0)
    take_worker.make(request, predictor, lambda kind, **facts: answers.append((kind, facts)))
    assert answers[0][0] == "begins"
    assert answers[0][1]["remark"].startswith(expected)  # the studio shows it with the take


def test_state_without_a_soundfont_renders_prompts_as_before(model, other, tmp_path):
    predictor = Predictor.load(without_soundfont(model, tmp_path))
    section, remark = predictor.with_soundfont(predictor.metadata.corpus)
    assert (section.soundfont, remark) == (str(other), "")


def test_resumed_training_renders_its_corpus_as_before(model, own, other, scores, tmp_path, capsys):
    folder = tmp_path / "copy"
    folder.mkdir()
    for ending in (".json", ".safetensors"):
        (folder / f"model{ending}").write_bytes(model.with_suffix(ending).read_bytes())
    content = metadata.read_json(folder / "model.json")
    content["corpus"]["soundfont"] = None
    metadata.save(metadata.Metadata.model_validate(content), folder / "model.json")
    flags = ["--meta", str(folder / "model.json"), "--device", "cpu"]
    assert train([*flags, "--steps", "2"]) == 0
    assert f"the corpus is rendered with {own.name} ({own})" in capsys.readouterr().err
    assert checkpoint.read_facts(folder / "model.safetensors")["soundfont"] == identify_soundfont(own)
    assert train([*flags, "--steps", "3", "--soundfont", str(other)]) == 0
    assert f"the corpus is rendered with Other.sf2 instead of {own.name}, whose sound" in capsys.readouterr().err
    assert checkpoint.read_facts(folder / "model.safetensors")["soundfont"] == identify_soundfont(other)


def test_new_training_says_which_soundfont_renders_the_corpus(other, scores, tmp_path, capsys):
    flags = ["--meta", str(tmp_path / "new.json"), "--corpus", str(scores), "--prepare-only", "--device", "cpu"]
    assert train([*flags, "--set", "representation.adaptation_steps=0", "--set", "corpus.transpose=0"]) == 0
    assert f"the corpus is rendered with Other.sf2 ({other})" in capsys.readouterr().err
    assert train([*flags, "--soundfont", "missing.sf2"]) == 2
    assert "missing.sf2 does not exist" in capsys.readouterr().err


def test_evaluation_renders_the_corpus_as_the_training_did(model, own):
    meta = metadata.load(model)
    changed = meta.model_copy(update={"corpus": meta.corpus.model_copy(update={"soundfont": None})})
    metadata.save(changed, model.with_name("moved.json"))
    train_pieces, _, notes = load_split(Predictor.load(model), model.with_name("moved.json"), corpus.load)
    expected = corpus.load(meta.corpus)
    keys = {piece.id: piece.key for piece in expected.pieces}
    assert notes == []
    assert {piece.id: piece.key for piece in train_pieces}.items() <= keys.items()


def test_cached_rendering_belongs_to_the_content_of_its_soundfont(own, other, tmp_path):
    renamed = tmp_path / "renamed.sf2"
    renamed.write_bytes(own.read_bytes())
    source = corpus.Source("hymn", HYMN)
    first, same, second = (
        corpus.audio_key(source, CorpusSection(soundfont=str(font))) for font in (own, renamed, other)
    )
    assert first == same != second


def test_predictor_in_another_process_keeps_the_given_soundfont(model, other):
    predictor = Predictor.load(model)
    predictor.soundfont = other
    assert pickle.loads(pickle.dumps(predictor)).soundfont == other


def test_render_with_the_other_soundfont_is_softer(own, other):
    tone = Performance((Note(0.0, 0.5, 60.0, 90, 0, False),), 0.5)
    loud, soft = (np.abs(render(tone, 8000, soundfont=font)).max() for font in (own, other))
    assert soft == pytest.approx(loud / 2, rel=0.02)
