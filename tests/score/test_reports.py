"""Inputs from public bug reports of other programs (shared/reports): the notes are right, or the fault is named."""

import json
from typing import Any

import pytest
from conftest import SHARED

from continuo.score.notes import Performance
from continuo.score.performance import perform
from continuo.score.synth import write_midi

REPORTS = SHARED.parent / "reports"
ENTRIES: dict[str, Any] = {}
if (REPORTS / "expected.json").exists():
    ENTRIES = json.loads((REPORTS / "expected.json").read_text())
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


@pytest.mark.skipif(not ENTRIES, reason="the reports are not here")
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
