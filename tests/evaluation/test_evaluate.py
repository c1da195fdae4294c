"""Evaluation of models of sound: figures that are identities, the diagnosis, the page and the command."""

import json
import math
import re
import shutil

import numpy as np
import pytest
import soundfile
import torch
from conftest import HOP, RATE_HZ, melody, train_small
from reports import changed
from stereo import both, make_wide

import corpus
from continuo.audio.piece import Piece
from continuo.model import metadata
from continuo.model.stream import StreamSpec
from evaluate import main
from evaluation import long_run, novelty
from evaluation.baselines import Baselines, unigram
from evaluation.diagnosis import diagnose
from evaluation.excerpts import bounded, excerpts, load_split, other_real_music
from evaluation.report import page
from evaluation.sound import free_run, similarity, through_codec, with_new_phases
from predictor import Predictor

FLAGS = ("--pieces", "2", "--seconds", "2", "--prompt-seconds", "1", "--long", "10", "--device", "cpu", "--quiet")


@pytest.fixture(scope="module")
def longer_music(tmp_path_factory):
    """Return a folder of four recordings of 12 s, with names that HTML must escape."""
    folder = tmp_path_factory.mktemp("longer")
    for seed in range(4):
        soundfile.write(folder / f"<script>{seed}&.wav", melody(seed, seconds=12), RATE_HZ)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory, longer_music):
    return train_small(tmp_path_factory.mktemp("evaluated"), longer_music, "codec-lstm", steps=8)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, model):
    """Return the folder of a report that compares two models."""
    out = tmp_path_factory.mktemp("out") / "report"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "evaluation.audio_metrics.separability", lambda real, other, rate: 0.75
        )  # its own tests are elsewhere
        assert main(["--meta", str(model), "--out", str(out), "--beside", str(model), *FLAGS]) == 0
    return out


def test_evaluation_of_a_stereo_model_measures_mono(model, monkeypatch):
    make_wide(monkeypatch)
    predictor, samples = Predictor.load(model), np.concatenate([both(1), both(2)])
    (excerpt,) = excerpts([Piece.from_samples(samples, RATE_HZ)], count=1, prompt_seconds=1, seconds=2)
    assert excerpt.prompt.samples.shape == (RATE_HZ, 2)
    np.testing.assert_allclose(excerpt.real, samples[excerpt.join :][: excerpt.length].mean(axis=1), atol=1e-7)
    sides = (
        free_run(predictor, excerpt, seed=0),
        through_codec(predictor, excerpt),
        with_new_phases(predictor, excerpt)[0],
    )
    assert {(audio.ndim, len(audio) // HOP) for audio in sides} == {(1, excerpt.length // HOP)}


# --- baselines -------------------------------------------------------------------------------------------------------


def test_A12_unigram_loss_is_that_of_the_smoothed_frequencies():
    stream = np.array([[0, 1], [0, 1], [0, 1], [1, 1]])
    spec = StreamSpec(10.0, (2, 4))
    codes = torch.from_numpy(stream)
    nats = Baselines(spec, [stream]).nll(codes[:-1], codes[1:])["unigram"]
    expected = [[-math.log(4 / 6), -math.log(5 / 8)]] * 2 + [[-math.log(2 / 6), -math.log(5 / 8)]]
    np.testing.assert_allclose(nats, expected, rtol=1e-6)
    np.testing.assert_allclose(np.exp(unigram([stream[:, 0]], 2)).sum(), 1)


def test_A12_copy_last_fits_the_best_probability():
    """Codes that stay with probability 0.9, or else are drawn at random, give a probability near 0.9."""
    rng = np.random.default_rng(0)
    codes = [0]
    for _ in range(20_000):
        codes.append(codes[-1] if rng.random() < 0.9 else int(rng.integers(8)))
    stream = np.array(codes)[:, None]
    baselines = Baselines(StreamSpec(10.0, (8,)), [stream])
    assert baselines.same[0] == pytest.approx(0.9, abs=0.01)
    tensor = torch.from_numpy(stream)
    nats = {name: float(x.mean()) for name, x in baselines.nll(tensor[:-1], tensor[1:]).items()}
    stay, leave = 0.9 + 0.1 / 8, 0.1 / 8
    assert nats["copy_last"] == pytest.approx(-stay * math.log(stay) - 7 * leave * math.log(leave), abs=0.02)
    assert nats["unigram"] == pytest.approx(math.log(8), abs=0.01)


def test_A12_continuous_baselines_are_unit_gaussians():
    spec = StreamSpec(10.0, features=2, mean=torch.tensor([1.0, 0.0]), deviation=torch.tensor([2.0, 1.0]))
    last, now = torch.tensor([[3.0, 0.0]]), torch.tensor([[5.0, 1.0]])
    nats = Baselines(spec, []).nll(last, now)
    assert float(nats["unigram"]) == pytest.approx(0.5 * (4 + 1) + math.log(2 * math.pi))
    assert float(nats["copy_last"]) == pytest.approx(0.5 * (1 + 1) + math.log(2 * math.pi))


# --- copies, loops, frozen sound -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def index():
    return novelty.Index([melody(seed, seconds=12) for seed in range(4)], RATE_HZ)


def test_A12_a_copied_stretch_is_found_with_its_length(index):
    held_out = [melody(seed, seconds=12) for seed in (10, 11)]
    threshold = index.calibrate(held_out)
    copy = melody(2, seconds=12)[int(3.3 * RATE_HZ) :][: 5 * RATE_HZ]
    mixed = np.concatenate([melody(12, seconds=3), 0.3 * copy, melody(13, seconds=3)])
    assert index.copied(mixed, threshold) == pytest.approx(5, abs=1)  # its neighbours may match by chance
    assert index.copied(melody(14, seconds=10), threshold) < 2.5
    assert max(index.copied(audio, threshold) for audio in held_out) < 2.5


def test_A12_noise_is_no_copy_and_distant(index):
    noise = np.random.default_rng(0).standard_normal(6 * RATE_HZ) * 0.1
    threshold = index.calibrate([melody(10, seconds=12)])
    assert index.copied(noise, threshold) == 0
    known, new = (index.nearest([audio]) for audio in (melody(1, seconds=6), melody(10, seconds=6)))
    assert np.median(known) < 0.2 * np.median(new)
    assert np.median(new) < np.median(index.nearest([noise]))
    assert index.copied(np.zeros(6 * RATE_HZ), threshold) == 0


def test_A12_harmony_is_compared_in_any_key():
    """A melody a fifth higher is as near in pitch classes as the melody itself, and far in its spectrum."""
    tune = melody(0, seconds=8, rate_hz=12_000)
    higher = tune.copy()  # the same samples, said to be faster: 8 / 12 of the time, a fifth up
    chroma = novelty.Index([tune], 8000, chroma=True)
    same, fifth = chroma.nearest([tune]), novelty.Index([tune], 8000, chroma=True).nearest([higher])
    np.testing.assert_allclose(same, fifth)
    rows = novelty.grouped(novelty.blocks(tune, 8000, chroma=True), novelty.SECOND, every=16)
    turned = np.roll(rows.reshape(len(rows), novelty.SECOND, 12), 7, axis=2).reshape(len(rows), -1)
    plain = chroma.seconds.nearest(turned, 1)[0]
    assert np.median(same) < 0.5 * np.median(plain)


@pytest.mark.parametrize("lag_s", [1.0, 3.2])
def test_A12_a_loop_is_found_with_its_lag(lag_s):
    loop = melody(3, seconds=lag_s)
    assert long_run.loop_length_s(np.tile(loop, int(40 / lag_s)), RATE_HZ) == pytest.approx(lag_s, abs=0.02)


def test_A12_loop_length_of_music_and_of_a_steady_tone_is_none():
    assert long_run.loop_length_s(melody(3, seconds=20), RATE_HZ) is None
    tone = np.sin(2 * np.pi * 440 * np.arange(20 * RATE_HZ) / RATE_HZ)
    assert long_run.loop_length_s(tone, RATE_HZ) is None


def test_A12_longest_still_time_of_frozen_steps_is_their_length():
    spec = StreamSpec(10.0, (50, 50))
    stream = np.random.default_rng(0).integers(0, 50, (100, 2))
    stream[30:61] = stream[30]
    change = long_run.changes(stream, spec)
    assert long_run.longest_still_s(change, 1.0, 10.0) == pytest.approx(3.0)
    frames = np.random.default_rng(0).standard_normal((100, 3))
    frames[50:71] = frames[50] + 1e-3 * frames[50:71]
    change = long_run.changes(frames, StreamSpec(10.0, features=3, mean=torch.zeros(3), deviation=torch.ones(3)))
    assert long_run.longest_still_s(change, float(np.median(change)), 10.0) == pytest.approx(2.0)


def test_A12_level_drift_is_relative_to_the_first_ten_seconds():
    noise = np.random.default_rng(0).standard_normal(60 * RATE_HZ) * 0.1
    noise[25 * RATE_HZ : 30 * RATE_HZ] *= 10 ** (-12 / 20)
    noise[55 * RATE_HZ :] *= 10 ** (6 / 20)
    drift = long_run.level_drift(noise, RATE_HZ)
    assert drift == pytest.approx({"at_10_s": 0, "at_30_s": -12, "at_the_end": 6}, abs=0.2)


# --- excerpts --------------------------------------------------------------------------------------------------------


def test_A12_excerpts_and_other_real_music_do_not_overlap():
    noise = np.random.default_rng(0).standard_normal(60 * RATE_HZ) * 0.1
    piece = Piece.from_samples(noise, RATE_HZ, source="long.wav")
    found = excerpts([piece], count=3, prompt_seconds=2, seconds=4)
    starts = [excerpt.join - 2 * RATE_HZ for excerpt in found]
    assert len(found) == 3
    assert np.diff(starts).min() >= 6 * RATE_HZ
    np.testing.assert_array_equal(found[1].prompt.samples, piece.samples[starts[1] : found[1].join])
    assert len(other_real_music(found)) == 3
    (middle,) = excerpts([piece], count=1, prompt_seconds=2, seconds=4)
    assert middle.join == int(RATE_HZ * (0.5 * 54 + 2))
    with pytest.raises(ValueError, match="no held-out piece lasts 70"):
        excerpts([piece], count=1, prompt_seconds=10, seconds=60)


def test_A12_bounded_large_corpus_is_sampled():
    pieces = [Piece.from_samples(melody(seed, seconds=4), RATE_HZ, source=f"{seed}") for seed in range(5)]
    assert sum(piece.seconds for piece in bounded(pieces, 10, seed=0)) == pytest.approx(10, abs=0.01)
    assert len(bounded(pieces, 1000, seed=0)) == 5


def test_A12_similarity_of_one_excerpt_without_onsets_has_none_for_unknown_figures():
    quiet = np.sin(2 * np.pi * 220 * np.arange(2 * RATE_HZ) / RATE_HZ)  # one excerpt, no onset in it
    figures = similarity([quiet], [quiet], RATE_HZ)
    assert figures["onset_ratio"] is None
    assert figures["mmd2"] is None
    assert figures["auc"] is None
    assert figures["flux_ratio"] == pytest.approx(1)


# --- the diagnosis ---------------------------------------------------------------------------------------------------

GOOD = {
    "model": {"hears": "sound", "preset": None, "hidden": 512},
    "held_out": {name: {"nats_per_step": nats} for name, nats in
                 {"model": 5.0, "training": 4.9, "unigram": 10.0, "copy_last": 8.0}.items()},
    "training": {"improving": False, "risen": 0.0, "again": "train.py --minutes 20"},
    "free_runs": {
        "real": {"silence": 0.0},
        "generated": {"onset_ratio": 1.0, "pulse_ratio": 1.0, "flux_ratio": 1.0, "silence": 0.0, "mmd2": 0.1,
                      "auc": 0.8},
        "codec": {"flux_ratio": 1.0, "mmd2": 0.07},
    },
    "long_run": {"silence": 0.0, "still_s": 0.1, "real_still_s": 0.1, "loop_s": None, "real_loop_s": None,
                 "level_drift_db": {"at_the_end": 1.0}},
    "novelty": {"copied_s": 1.0, "held_out_copied_s": 1.2, "near_ratio": 0.95},
}  # fmt: skip
MODEL, TRAIN = "held_out.model.nats_per_step", "held_out.training.nats_per_step"
MADE, CODEC, LONG = "free_runs.generated.", "free_runs.codec.", "long_run."
FINDINGS = [
    ({}, {"learning", "generalising", "close", "novel"}),
    ({MODEL: 8.1, TRAIN: 8.1}, {"untrained", "close", "novel"}),
    ({MODEL: 7.0, TRAIN: 2.0}, {"memorising", "close", "novel"}),
    ({"training.risen": 0.1}, {"memorising", "close", "novel"}),
    ({MODEL: 6.0}, {"learning", "overfitting", "close", "novel"}),
    ({"training.improving": True}, {"learning", "generalising", "improving", "close", "novel"}),
    ({MADE + "silence": 0.5}, {"learning", "generalising", "silent", "close", "novel"}),
    ({LONG + "silence": 0.5}, {"learning", "generalising", "silent", "close", "novel"}),
    ({MADE + "silence": 0.5, "free_runs.real.silence": 0.5}, {"learning", "generalising", "close", "novel"}),
    ({LONG + "still_s": 20.0}, {"learning", "generalising", "frozen", "close", "novel"}),
    ({MADE + "onset_ratio": 0.0}, {"learning", "generalising", "sluggish", "close", "novel"}),
    ({MADE + "onset_ratio": 0.5}, {"learning", "generalising", "sluggish", "close", "novel"}),
    ({MADE + "pulse_ratio": 0.5}, {"learning", "generalising", "unsteady", "close", "novel"}),
    ({MADE + "pulse_ratio": 0.8}, {"learning", "generalising", "close", "novel"}),
    ({MADE + "pulse_ratio": 0.5, LONG + "still_s": 20.0},
     {"learning", "generalising", "frozen", "close", "novel"}),
    ({MADE + "onset_ratio": 2.0}, {"learning", "generalising", "noisy", "close", "novel"}),
    ({MADE + "pulse_ratio": 0.5, MADE + "onset_ratio": 2.0},
     {"learning", "generalising", "noisy", "unsteady", "close", "novel"}),
    ({MADE + "flux_ratio": 1.5}, {"learning", "generalising", "noisy", "close", "novel"}),
    ({MADE + "flux_ratio": 1.5, CODEC + "flux_ratio": 1.5}, {"learning", "generalising", "close", "novel"}),
    ({LONG + "loop_s": 2.0}, {"learning", "generalising", "looping", "close", "novel"}),
    ({LONG + "loop_s": 2.0, LONG + "real_loop_s": 2.0}, {"learning", "generalising", "close", "novel"}),
    ({LONG + "level_drift_db.at_the_end": -12.0}, {"learning", "generalising", "drifting", "close", "novel"}),
    ({MADE + "mmd2": 0.8}, {"learning", "generalising", "distant", "novel"}),
    ({MADE + "mmd2": 0.8, MADE + "auc": None}, {"learning", "generalising", "novel"}),
    ({MADE + "mmd2": 0.5, CODEC + "mmd2": 0.5}, {"learning", "generalising", "coarse", "novel"}),
    ({"novelty.copied_s": 5.0}, {"learning", "generalising", "close", "copying"}),
    ({"novelty.near_ratio": 0.3}, {"learning", "generalising", "close", "copying"}),
]  # fmt: skip


@pytest.mark.parametrize(("change", "names"), FINDINGS)
def test_A12_every_finding_has_its_words(change, names):
    found = diagnose(changed(GOOD, change))
    assert {finding.name for finding in found} == names
    assert all(finding.text.endswith(".") for finding in found)
    for finding in found:
        fine = finding.name in ("learning", "generalising", "close", "novel")
        assert bool(finding.advice) != fine
        assert "nan" not in finding.text


def test_A12_diagnosis_of_an_untrained_model_advises_only_training():
    untrained = {MODEL: 8.1, TRAIN: 8.1, MADE + "mmd2": 0.8, MADE + "flux_ratio": 3.0, LONG + "loop_s": 2.0}
    first, *others = diagnose(changed(GOOD, untrained))
    assert first.name == "untrained"
    assert first.advice.startswith("Train longer")
    assert {finding.name for finding in others} >= {"noisy", "distant", "looping"}
    assert not any(finding.advice for finding in others)


@pytest.mark.parametrize(
    "change",
    [{MADE + "onset_ratio": 0.5}, {MADE + "mmd2": 0.8}, {LONG + "loop_s": 2.0},
     {LONG + "level_drift_db.at_the_end": -12.0}],
)  # fmt: skip
def test_A12_diagnosis_of_a_memorizing_model_does_not_advise_longer_training(change):
    learned = diagnose(changed(GOOD, change))
    assert any("rain longer" in finding.advice for finding in learned)
    memorizes = diagnose(changed(GOOD, change | {MODEL: 7.0, TRAIN: 2.0}))
    assert "learning" in {finding.name for finding in learned}
    assert "memorising" in {finding.name for finding in memorizes}
    assert not any("rain longer" in finding.advice for finding in memorizes)
    assert all(finding.advice.endswith((".", ")")) for finding in memorizes if finding.advice)


def test_A12_diagnosis_begins_with_what_a_listener_notices_and_gives_an_advice_once():
    change = {MADE + "flux_ratio": 1.5, "novelty.copied_s": 5.0, MODEL: 6.0}
    found = diagnose(changed(GOOD, change))
    assert [finding.name for finding in found] == ["noisy", "close", "copying", "learning", "overfitting"]
    assert [finding.advice for finding in found].count("More recordings help most; longer training does not.") == 1


def test_A12_diagnosis_needs_only_the_losses():
    nothing = {side: dict.fromkeys(figures) for side, figures in GOOD["free_runs"].items()}
    report = GOOD | {"free_runs": nothing, "long_run": None, "novelty": None}
    found = {finding.name for finding in diagnose(changed(report, {"training.improving": True}))}
    assert found == {"learning", "generalising", "improving"}


# --- the command -----------------------------------------------------------------------------------------------------


def test_A12_report_holds_every_figure(evaluated):
    report = json.loads((evaluated / "report.json").read_text())
    keys = {"model", "plan", "training", "held_out", "free_runs", "long_run", "novelty", "notes", "verdict", "beside"}
    assert report.keys() == keys | {"seconds_taken"}
    costs = report["held_out"]
    for name in ("model", "unigram", "copy_last", "training"):
        assert len(costs[name]["levels"]) == 3
        assert costs[name]["nats_per_step"] == pytest.approx(sum(costs[name]["levels"]))
        assert costs[name]["bits_per_second"] == pytest.approx(
            costs[name]["nats_per_step"] * RATE_HZ / HOP / math.log(2)
        )
    assert costs["frames"] == math.ceil(12 * RATE_HZ / HOP)  # every step of the held-out piece but its first
    assert report["free_runs"].keys() == {"excerpts", "real", "generated", "floor", "codec", "inversion"}
    assert report["free_runs"]["inversion"]["spectral_convergence"] < 0.3
    assert report["long_run"]["seconds"] == pytest.approx(10, abs=HOP / RATE_HZ)
    assert report["long_run"]["level_drift_db"].keys() == {"at_10_s", "at_the_end"}
    assert report["novelty"]["spectrum"]["held-out"]["median_ratio"] == 1
    beside = report["beside"][0]
    assert beside["held_out"]["model"] == costs["model"]
    assert beside["free_runs"]["generated"] == report["free_runs"]["generated"]
    assert report["verdict"]


def test_A12_held_out_nats_are_those_of_the_training(evaluated, model):
    """The loss of all steps at once is that of the validation in the training."""
    from dataset import AudioDataset, validation_batches
    from predictor import Predictor

    predictor = Predictor.load(model)
    rows = validation_batches(
        AudioDataset(load_split(predictor, model, corpus.load)[1], predictor.featurizer, 3000), 16_384
    )
    (batch,) = rows[0]
    with torch.inference_mode():
        nats, _ = predictor.model.nll(batch.inputs, batch.targets, predictor.model.initial_state(1))
    mean = float(nats.sum(-1)[batch.mask & ~batch.ends].mean())
    report = json.loads((evaluated / "report.json").read_text())
    assert report["held_out"]["model"]["nats_per_step"] == pytest.approx(mean, rel=1e-4)


def test_A12_page_stands_alone_and_escapes_names(evaluated):
    html = (evaluated / "report.html").read_text()
    assert html.count("data:image/png;base64,") == 5
    assert html.count("data:audio/flac;base64,") == 6
    bare = re.sub(r"base64,[A-Za-z0-9+/=]+", "", html)
    assert not re.search(r"https?:|<script|<link|@import|url\(", bare)
    assert "&lt;script&gt;" in bare
    assert "prefers-color-scheme" in bare or "color-scheme: light dark" in bare


def test_A12_page_omits_figures_that_were_not_measured(evaluated):
    report = json.loads((evaluated / "report.json").read_text())
    report |= {"long_run": None, "novelty": None, "beside": [], "notes": ["<b>"]}
    report["free_runs"] |= {"floor": None, "inversion": None}
    html = page(report, {}, [])
    assert "<img" not in html
    assert "Novelty" not in html
    assert "&lt;b&gt;" in html


def test_A12_reports_are_not_overwritten_without_force(evaluated, model, capsys):
    before = (evaluated / "report.json").read_bytes()
    assert main(["--meta", str(model), "--out", str(evaluated), *FLAGS]) == 2
    error = capsys.readouterr().err
    assert "--force" in error
    assert error.count("\n") == 1
    assert (evaluated / "report.json").read_bytes() == before


def test_A12_command_to_train_a_packed_model_longer_starts_from_it(model, longer_music, tmp_path):
    from demo_model import pack

    pack(model, tmp_path)
    path = tmp_path / "chorales.json"
    packed = metadata.load(path, {"corpus.program": 0, "corpus.include": [".* ?"]})
    metadata.save(packed, path)
    flags = [*FLAGS, "--pieces", "1", "--long", "0"]
    assert main(["--meta", str(tmp_path / "chorales.json"), "--out", str(tmp_path / "r"), *flags]) == 0
    again = json.loads((tmp_path / "r" / "report.json").read_text())["training"]["again"]
    state = tmp_path / "chorales.safetensors"
    begun = (
        f"python train.py --meta longer.json --from {state} --corpus {longer_music} --set 'corpus.include=[\".* ?\"]' "
    )
    assert (
        again == f"{begun}--set corpus.program=0 --set corpus.validation_share=0.25 --set corpus.transpose=0 --steps 16"
    )


def test_A12_a_continuous_stream_is_evaluated_too(tmp_path, longer_music, capsys):
    """A continuous stream goes through the same code, with --json, without a long run, over an old report."""
    meta = train_small(tmp_path, longer_music, "spectral-lstm", steps=2)
    out = tmp_path / "r"
    out.mkdir()
    (out / "report.json").write_text("old")
    flags = [*FLAGS, "--pieces", "1", "--long", "0", "--json", "--force"]
    assert main(["--meta", str(meta), "--out", str(out), *flags]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result == json.loads((out / "report.json").read_text())
    assert result["model"]["continuous"]
    assert result["long_run"] is None
    assert result["free_runs"]["codec"]["auc"] is None
    said = {finding["name"] for finding in result["verdict"]}
    assert not said & {"coarse", "distant", "close", "improving"}  # of one excerpt, and of one validation
    assert len(result["held_out"]["unigram"]["levels"]) == 1
    assert (out / "report.html").stat().st_size > 10_000


BAD = [
    (["--pieces", "0"], "--pieces 0"),
    (["--seconds", "1"], "--seconds 1.0"),
    (["--seconds", "nan"], "--seconds nan"),
    (["--prompt-seconds", "0"], "--prompt-seconds 0.0"),
    (["--prompt-seconds", "100"], "no held-out piece lasts"),
    (["--prompt-seconds", "0.01"], "too short"),
    (["--long", "5"], "--long 5.0"),
    (["--seed", "-1"], "--seed -1"),
    (["--device", "cuda:9"], "--device"),
    (["--meta", "nowhere.json"], "nowhere.json does not exist"),
    (["--beside", "nowhere.json"], "nowhere.json does not exist"),
    (["--out", "no/such/folder"], "no/such does not exist"),
]


@pytest.mark.parametrize(("flags", "words"), BAD)
def test_A12_bad_arguments_give_one_line_and_no_files(model, tmp_path, monkeypatch, capsys, flags, words):
    monkeypatch.chdir(tmp_path)
    defaults = {"--meta": str(model), "--out": "o"} | dict(zip(FLAGS[:-1:2], FLAGS[1:-1:2], strict=True))
    values = defaults | dict([flags])
    assert main(["--quiet", *(word for pair in values.items() for word in pair)]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not [*tmp_path.iterdir()]


def test_A12_missing_states_and_other_corpora_are_refused(model, tmp_path, capsys):
    for file in model.parent.glob("model.*"):
        if file.is_file():
            shutil.copy(file, tmp_path / file.name)
    meta = tmp_path / "model.json"
    other = tmp_path / "other"
    other.mkdir()
    for seed in (7, 8):
        soundfile.write(other / f"{seed}.wav", melody(seed, seconds=12), RATE_HZ)
    content = json.loads(meta.read_text())
    content["corpus"]["path"] = str(other)
    meta.write_text(json.dumps(content))
    assert main(["--meta", str(meta), "--out", str(tmp_path / "o"), *FLAGS]) == 2
    assert "is not the one that the model was trained on" in capsys.readouterr().err
    (tmp_path / "model.safetensors").unlink()
    assert main(["--meta", str(meta), "--out", str(tmp_path / "o"), *FLAGS]) == 2
    assert "train first" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
