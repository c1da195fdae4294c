"""Renderings of notes: pitch and onsets measured from the samples, the same bytes every time."""

import importlib.util
import struct
from pathlib import Path

import numpy as np
import pytest

from continuo.score import synth
from continuo.score.notes import Note, Performance
from continuo.score.performance import perform
from continuo.score.soundfont import in_tune
from continuo.score.synth import PEAK, RELEASE_S, find_soundfont, render, write_midi

RATE_HZ = 22_050


def performance(*notes: Note, seconds: float = 0.0) -> Performance:
    return Performance(notes, max([seconds, *(n.onset_s + n.duration_s for n in notes)]))


def tone(pitch: float, *, program: int = 0, onset_s: float = 0.0, duration_s: float = 2.0, velocity: int = 100) -> Note:
    return Note(onset_s, duration_s, pitch, velocity, program, False)


def cents_off(sound: np.ndarray, pitch: float, rate_hz: int = RATE_HZ) -> float:
    """Return the distance of a sound's harmonics from a pitch: the shift that collects most of their energy."""
    size = 1 << 20
    part = sound[int(0.1 * rate_hz) : int(1.0 * rate_hz)].astype(float)
    spectrum = np.abs(np.fft.rfft(part * np.hanning(len(part)), size))
    hz = 440 * 2 ** ((pitch - 69) / 12)
    shifts = np.arange(-150, 150.5, 0.5)
    bins = [np.round(hz * k * 2 ** (shifts / 1200) * size / rate_hz).astype(int) for k in range(1, 6)]
    return float(shifts[np.argmax(sum(spectrum[b] / k for k, b in enumerate(bins, start=1)))])


@pytest.mark.parametrize("program", [0, 4, 6, 12, 19, 24, 40, 42, 48, 56, 60, 68, 71, 73])
@pytest.mark.parametrize("pitch", [55, 60, 69, 72])
def test_render_of_a_held_note_is_in_tune(program, pitch):
    """symusic alone plays TimGM6mb's piano 20 semitones too high, and its guitars 33 cents off at C5."""
    assert abs(cents_off(render(performance(tone(pitch, program=program)), RATE_HZ), pitch)) < 10


@pytest.mark.parametrize("pitch", [59.5, 60.25, 61.75])
def test_render_of_a_quarter_tone_is_in_tune(pitch):
    assert abs(cents_off(render(performance(tone(pitch)), RATE_HZ), pitch)) < 10


@pytest.mark.parametrize("rate_hz", [8_000, 22_050, 44_100])
def test_render_has_exact_onsets_length_and_bytes(rate_hz):
    notes = [tone(60 + k, onset_s=0.5 + k, duration_s=0.4) for k in range(3)] + [Note(3.5, 0.1, 38, 100, 0, True)]
    piece = performance(*notes, seconds=4.0)
    sound = render(piece, rate_hz)
    assert sound.dtype == np.float32
    assert 4.0 * rate_hz <= len(sound) <= (4.0 + RELEASE_S) * rate_hz + 1
    assert sound.tobytes() == render(piece, rate_hz).tobytes()
    loud = np.abs(sound) > 0.02 * np.abs(sound).max()
    for onset_s in (0.5, 1.5, 2.5, 3.5):
        before, after = int((onset_s - 0.1) * rate_hz), int(onset_s * rate_hz)
        assert not loud[before : after - 1].any()
        assert loud[after : after + int(0.03 * rate_hz)].any()


def test_render_of_loud_notes_limits_peaks_by_one_gain():
    """A soft note before a loud chord keeps its ratio to it: one gain does not pump."""
    crowd = [tone(40 + k, onset_s=2.0, velocity=127) for k in range(40)]
    soft = tone(60, duration_s=1.0, velocity=40)
    together, alone = render(performance(soft, *crowd), RATE_HZ), render(performance(soft, *crowd[:1]), RATE_HZ)
    assert np.abs(together).max() <= PEAK + 1e-6
    ratio = (
        together[: 2 * RATE_HZ][np.abs(alone[: 2 * RATE_HZ]) > 0.01]
        / alone[: 2 * RATE_HZ][np.abs(alone[: 2 * RATE_HZ]) > 0.01]
    )
    assert ratio.std() < 1e-3 * abs(ratio.mean())


def test_render_in_mono_is_the_mean_of_stereo_and_grows_with_velocity():
    piece = performance(tone(60))
    stereo = render(piece, RATE_HZ, stereo=True)
    mono = render(piece, RATE_HZ)
    assert stereo.shape == (2, len(mono))
    assert np.allclose(stereo.mean(axis=0), mono, atol=1e-6)
    levels = [np.abs(render(performance(tone(60, velocity=v)), RATE_HZ)).max() for v in (20, 60, 100, 127)]
    assert levels == sorted(levels)
    assert levels[0] < levels[-1] / 4


def test_find_soundfont_with_a_file_that_is_none_is_refused(tmp_path, monkeypatch):
    wrong = tmp_path / "x.sf2"
    with pytest.raises(ValueError, match="does not exist"):
        find_soundfont(wrong)
    wrong.write_bytes(b"RIFF....WAVE")
    with pytest.raises(ValueError, match="is not a SoundFont"):
        find_soundfont(wrong)
    monkeypatch.setenv("CONTINUO_SOUNDFONT", str(wrong))
    with pytest.raises(ValueError, match="is not a SoundFont"):
        find_soundfont()
    monkeypatch.delenv("CONTINUO_SOUNDFONT")
    monkeypatch.setattr("continuo.score.synth.is_soundfont", lambda path: False)
    with pytest.raises(ValueError, match=r"pretty_midi.*CONTINUO_SOUNDFONT"):
        find_soundfont()
    monkeypatch.undo()
    right = tmp_path / "y.sf2"
    right.write_bytes(b"RIFF....sfbk")
    assert find_soundfont(right) == right
    with pytest.raises(ValueError, match="damaged"):
        render(performance(tone(60)), RATE_HZ, soundfont=right)


def samples_of(font: bytes) -> list[bytes]:
    """Return the data of each sample of a SoundFont, from its start to the end of its loop."""
    pcm, headers = font.index(b"smpl") + 8, font.index(b"shdr")
    size = int.from_bytes(font[headers + 4 : headers + 8], "little")
    fields = [struct.unpack_from("<4I", font, headers + 28 + 46 * k) for k in range(size // 46 - 1)]
    return [font[pcm + 2 * start : pcm + 2 * loop_end] for start, _, _, loop_end in fields]


def test_soundfont_of_pretty_midi_is_found_and_corrected_once(tmp_path, monkeypatch):
    monkeypatch.delenv("CONTINUO_SOUNDFONT", raising=False)
    monkeypatch.setattr("continuo.score.synth.SYSTEM_FOLDERS", ())
    font = find_soundfont()
    assert font.parent == Path(importlib.util.find_spec("pretty_midi").submodule_search_locations[0])
    repaired = in_tune(font, tmp_path)
    assert repaired != font
    assert in_tune(font, tmp_path) == repaired
    assert len(list(tmp_path.iterdir())) == 1
    before, after = (samples_of(path.read_bytes()) for path in (font, repaired))
    assert len(after) >= len(before) > 100
    for old, new in zip(before, after, strict=False):
        assert len(new) >= len(old)
        assert new.startswith(old)  # up to the loop's end not one sample has changed


@pytest.mark.parametrize("rate_hz", [0, -1, 3_999, 192_001])
def test_render_at_an_impossible_rate_is_refused(rate_hz):
    with pytest.raises(ValueError, match="4000 to 192000"):
        render(performance(tone(60)), rate_hz)


def test_write_midi_and_perform_give_the_same_notes(tmp_path):
    notes = (
        Note(0.0, 0.5, 60.0, 80, 0, False),
        Note(0.25, 1.0, 64.5, 90, 40, False),
        Note(0.75, 0.25, 38.0, 100, 0, True),
        *(Note(2.0 + k, 0.5, 60.0 + k, 64, k, False) for k in range(20)),  # more programs than channels
    )
    write_midi(Performance(notes, 23.0), tmp_path / "x.mid")
    again = perform(tmp_path / "x.mid")
    assert len(again.notes) == len(notes)
    for a, b in zip(again.notes, notes, strict=True):
        assert a.onset_s == pytest.approx(b.onset_s, abs=0.001)
        assert a.duration_s == pytest.approx(b.duration_s, abs=0.001)
        assert (a.pitch, a.velocity, a.program, a.is_drum) == (b.pitch, b.velocity, b.program, b.is_drum)
    with pytest.raises(ValueError, match="cannot be written"):
        write_midi(Performance(notes, 23.0), tmp_path / "missing" / "x.mid")


def test_key_is_the_nearest_and_halves_go_up():
    assert (synth._key(60.5), synth._key(60.4)) == (61, 60)
