"""Inputs made after public bug reports of other programs: the notes are right, or the fault is named."""

import json
from typing import Any

import numpy as np
import pytest
import soundfile
from conftest import ROOT

import corpus
import predict
from continuo.model.metadata import CorpusSection
from continuo.score.notes import Performance
from continuo.score.performance import perform
from continuo.score.synth import write_midi

REPORTS = ROOT / "tests" / "data" / "reports"
ENTRIES: dict[str, Any] = json.loads((REPORTS / "expected.json").read_text())
SCORES = {name: entry for name, entry in ENTRIES.items() if not name.startswith("audio_")}
TOLERANCE_S = 0.01

NAMED_AS = {
    "swing_sound-element": "swing", "structure_part-not-in-part-list": "P2", "sound_pizzicato-attr": "pizz",
    "midi_cc7-zero-mutes-channel": "7", "midi_cc7-fade-out": "7", "midi_format-2-two-patterns": "2",
    "midi_rpn-coarse-tuning": "tun", "midi_tempo-zero": "tempo", "midi_karaoke": "rename",
    "tempo_number-in-words": "quarter = 90",
}  # fmt: skip
"""Words in a warning or refusal that are as good as the right notes."""


def is_as_expected(performance: Performance, entry: dict[str, Any]) -> bool:
    """Return True if the notes are the expected ones; None stands for any value."""
    if not isinstance(entry["expected"], list):
        velocities = [n.velocity for n in performance.notes]
        return len(velocities) == 8 and velocities == sorted(set(velocities), reverse=True)
    wanted = sorted(entry["expected"], key=lambda w: (w[0], w[1], w[3:]))
    found = sorted(performance.notes, key=lambda n: (round(n.onset_s, 3), n.pitch, n.program))
    if len(wanted) != len(found):
        return False
    for (onset_s, pitch, duration_s, *rest), n in zip(wanted, found, strict=True):
        got = [n.program, n.velocity, n.is_drum]
        if abs(n.onset_s - onset_s) > TOLERANCE_S or abs(n.pitch - pitch) > 1e-6:
            return False
        if duration_s is not None and abs(n.duration_s - duration_s) > TOLERANCE_S:
            return False
        if any(value is not None and value != own for value, own in zip(rest, got, strict=False)):
            return False
    return True


@pytest.mark.parametrize("name", SCORES)
def test_report_gives_the_right_notes_or_names_what_is_not_played(name, tmp_path):
    word = NAMED_AS.get(name.rpartition(".")[0], "\0")
    try:
        performance = perform(REPORTS / name)
        if name.startswith("out_"):
            write_midi(performance, tmp_path / "out.mid")
            performance = perform(tmp_path / "out.mid")
    except ValueError as error:
        remarks, is_right = [str(error).partition(": ")[2]], False
    else:
        remarks, is_right = list(performance.warnings), is_as_expected(performance, SCORES[name])
    assert is_right or any(word in remark for remark in remarks)


def tones(name: str) -> tuple[list[int], float]:
    """Return the frequencies (Hz) of the first and the second half of a recording, and its length in seconds."""
    piece = corpus.load_prompt(REPORTS / name, CorpusSection(path=str(REPORTS)))
    halves = np.array_split(np.asarray(piece.samples), 2)
    return [
        round(np.abs(np.fft.rfft(half)).argmax() * piece.sample_rate_hz / len(half)) for half in halves
    ], piece.seconds


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("audio_stereo-out-of-phase.flac", ([440, 440], 2)),
        ("audio_ogg-chained.ogg", ([440, 880], 4)),
        ("audio_wav-data-size-0.wav", ([440, 440], 2)),
    ],
)
def test_report_recording_is_read_whole(name, expected):
    assert tones(name) == expected


def test_report_dc_offset_changes_neither_the_level_nor_the_join(tmp_path, capsys):
    given, out = REPORTS / "audio_dc-offset-prompt.flac", tmp_path / "out.wav"
    meta = ROOT / "models" / "demo" / "chorales.json"
    assert not predict.main(["--meta", str(meta), "--prompt", str(given), "--frames", "100", "--out", str(out)])
    assert "lies +0.300 off zero (a DC offset), which was removed from it" in capsys.readouterr().err
    samples, rate_hz = soundfile.read(out)
    join = 3 * rate_hz
    prompt, continuation = samples[:join].std(), samples[join:].std()
    assert 0.5 < continuation / prompt < 2
    assert abs(samples).max() < 0.5
    assert abs(np.diff(samples[join - rate_hz // 10 : join + rate_hz // 10], axis=0)).max() < 0.03


def test_report_icloud_placeholder_is_named():
    found = corpus.load(CorpusSection(path=str(REPORTS / "audio_folder-with-icloud-placeholder")))
    assert [name for name, reason in found.skipped if "not downloaded" in reason] == [".song.wav.icloud"]
