"""Songs in files: independent readers read back every note."""

import itertools
import random
import sys
from collections import Counter, defaultdict
from fractions import Fraction
from xml.etree import ElementTree

import numpy as np
import pytest
import symusic
from hypothesis import example, given, settings
from hypothesis import strategies as st
from midi_bytes import chunk, midi_file, track

from continuo.audio.pictures import save_figure
from continuo.symbolic import notation
from continuo.symbolic.engraving import TooLong, to_score
from continuo.symbolic.notation import Bar, Chord
from continuo.symbolic.song import QUARTER, Song, SongNote
from continuo.symbolic.transcription import read_song
from continuo.symbolic.writing import CONTINUATION, JOIN, PROMPT, draw_song, write_musicxml, write_song_midi

QUARTERS = {
    "whole": 4,
    "half": 2,
    "quarter": 1,
    "eighth": Fraction(1, 2),
    "16th": Fraction(1, 4),
    "32nd": Fraction(1, 8),
}
METERS = [(4, 4), (3, 4), (6, 8), (2, 2), (5, 8), (7, 16), (12, 8), (9, 16), (3, 8), (4, 2), (5, 4), (1, 4)]


def song(*notes: SongNote, ticks: int = 0, **rest) -> Song:
    return Song("s", "s", tuple(sorted(notes)), ticks or max((t.end for t in notes), default=0), **rest)


def units(*notes: tuple[int, int, int], **rest) -> Song:
    """Return a song of `(onset, length, pitch)` in 1/12 of a quarter."""
    return song(*(SongNote(onset * 40, pitch, length * 40) for onset, length, pitch in notes), **rest)


@st.composite
def songs(draw) -> Song:
    """Draw songs with chords, overlaps, triplets, rests, programs and meters; each pitch sounds once at a time."""
    grid = draw(st.sampled_from([40, 80, 120, 160, 480, 17]))
    programs = draw(st.sampled_from([(0,), (40,), (0, 33, 48)]))
    lengths = st.sampled_from([40, 80, 120, 160, 240, 360, 480, 500, 960, 2880, 5000])
    drawn = st.tuples(st.integers(0, 60), lengths, st.integers(36, 84), st.sampled_from(programs))
    notes, sounding = [], {}
    for k, length, pitch, program in sorted(draw(st.lists(drawn, max_size=40))):
        note = SongNote(k * grid, pitch, length, 80, program)
        start, end = notation.span(note)
        if sounding.get((pitch, program), 0) <= start:
            notes.append(note)
            sounding[pitch, program] = end
    drums = draw(st.lists(st.tuples(st.integers(0, 30), st.sampled_from([35, 36, 38, 42, 49, 60])), max_size=8))
    notes += {SongNote(k * grid, key, 30, 90, 0, True) for k, key in drums}
    meters, at = [], 0
    for meter in draw(st.lists(st.sampled_from(METERS), min_size=1, max_size=3)):
        meters.append((at, *meter))
        at += draw(st.sampled_from([480, 1440, 1920, 3840, 2000]))
    changes = st.tuples(st.integers(1, 9), st.floats(30, 240))
    tempos = {0: 120.0} | {place * 480: qpm for place, qpm in draw(st.lists(changes, max_size=2))}
    end = max([t.end for t in notes], default=0) + draw(st.sampled_from([0, 960]))
    return song(*notes, ticks=end, meters=tuple(meters), tempos=tuple(sorted(tempos.items())))


def sounding(song: Song) -> list[tuple]:
    """Return program, onset, pitch and length of the pitched notes on the grid, in quarters."""
    spans = [(t.program, *notation.span(t), t.pitch) for t in song.notes if not t.is_drum]
    return sorted({(program, Fraction(a, 12), pitch, Fraction(b - a, 12)) for program, a, b, pitch in spans})


def read_elements(path) -> list[tuple]:
    """Read the result of `sounding` from the elements of a MusicXML file, and check the file.

    Every voice fills its bar without gap or overlap, every note lasts what type, dots and tuplet say, every tuplet
    holds three of its values in the time of two, and every tie begins and ends within its voice.
    """
    root = ElementTree.parse(path).getroot()
    programs = {p.get("id"): int(p.findtext("midi-instrument/midi-program")) - 1 for p in root.iter("score-part")}
    found = []
    for part in root.iter("part"):
        begin, tied, divisions = Fraction(0), {}, 0
        for measure in part.iter("measure"):
            divisions = Fraction(measure.findtext("attributes/divisions") or divisions)
            now, filled, tuplets = Fraction(0), defaultdict(Fraction), {}
            for e in measure:
                length = Fraction(e.findtext("duration") or 0) / divisions
                if e.tag in ("backup", "forward"):
                    now += length if e.tag == "forward" else -length
                if e.tag != "note":
                    continue
                voice, in_chord = e.findtext("voice"), e.find("chord") is not None
                edges = [mark.get("type") for mark in e.iterfind("notations/tuplet")]
                change = e.find("time-modification")
                if e.find("rest[@measure='yes']") is None:
                    written = QUARTERS[e.findtext("type")] * (2 - Fraction(1, 2 ** len(e.findall("dot"))))
                    assert length == (written * Fraction(2, 3) if change is not None else written)
                if in_chord:
                    now -= length
                else:
                    assert filled[voice] == now
                    filled[voice] = now + length
                    if "start" in edges:
                        tuplets[voice] = now, QUARTERS[change.findtext("normal-type")]
                    assert (change is not None) == (voice in tuplets)
                    if "stop" in edges:
                        start, third = tuplets.pop(voice)
                        assert now + length - start == 2 * third
                if (pitch := e.find("pitch")) is not None:
                    step = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}[pitch.findtext("step")]
                    number = 12 * int(pitch.findtext("octave")) + 12 + step + int(pitch.findtext("alter") or 0)
                    ties = {tie.get("type") for tie in e.iterfind("tie")}
                    start, before = tied.pop((voice, number)) if "stop" in ties else (begin + now, Fraction(0))
                    assert start + before == begin + now
                    if "start" in ties:
                        tied[voice, number] = start, before + length
                    else:
                        found.append((programs[part.get("id")], start, number, before + length))
                now += length
            assert not tuplets
            assert len(set(filled.values())) == 1
            begin += filled.popitem()[1]
        assert not tied
    return sorted(found)


def read_music21(path) -> list[tuple]:
    """Read the result of `sounding` with music21, ties joined."""
    from music21 import converter, stream

    found = []
    for part in converter.parse(path, forceSource=True).parts:
        program, tied = part.getInstrument().midiProgram, {}
        for element in part.recurse().notes:
            home = element.activeSite  # a bar itself where it has but the first voice
            voice = (int(home.id) - 1) % 4 if isinstance(home, stream.Voice) else 0
            onset = Fraction(element.getOffsetInHierarchy(part)).limit_denominator(48)
            end = onset + Fraction(element.quarterLength).limit_denominator(48)
            for note in element.notes if element.isChord else [element]:
                if not hasattr(note, "pitch"):
                    continue
                number, kind = note.pitch.midi, note.tie.type if note.tie else ""
                start = tied.pop((voice, number, onset)) if kind in ("stop", "continue") else onset
                if kind in ("start", "continue"):
                    tied[voice, number, end] = start
                else:
                    found.append((program, start, number, end - start))
        assert not tied
    return sorted(found)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("written")


class TestMidi:
    @settings(max_examples=40, deadline=None)
    @given(made=songs())
    @example(made=Song("s", "s", (SongNote(663, 36, 240), SongNote(901, 36, 40)), 941))
    def test_reads_back(self, made, folder):
        import symusic

        write_song_midi(made, folder / "song.mid")
        read = symusic.Score(folder / "song.mid")
        assert read.ticks_per_quarter == QUARTER
        assert [(t.time, round(t.qpm, 2)) for t in read.tempos] == [
            (tick, pytest.approx(qpm, abs=0.01)) for tick, qpm in made.tempos
        ]
        assert [(m.time, m.numerator, m.denominator) for m in read.time_signatures] == list(made.meters)
        notes = [(n.time, n.pitch, n.duration, n.velocity, t.program, t.is_drum) for t in read.tracks for n in t.notes]
        pitched = [t for t in made.notes if not t.is_drum]

        def until(note) -> int:  # its end, or where the same note begins again
            again = [t.onset for t in pitched if (t.pitch, t.program) == (note.pitch, note.program)]
            return min([note.end, *(onset for onset in again if onset > note.onset)])

        assert sorted(n for n in notes if not n[5]) == sorted(
            (t.onset, t.pitch, until(t) - t.onset, t.velocity, t.program, False) for t in pitched
        )
        assert {n[:2] for n in notes if n[5]} == {(t.onset, t.pitch) for t in made.notes if t.is_drum}
        assert len(read.tracks) == len({(t.is_drum, t.program) for t in made.notes})

    def test_repeated_note_ends_the_one_before(self, tmp_path):
        write_song_midi(
            song(SongNote(0, 60, 960), SongNote(480, 60, 960, 50), SongNote(480, 64, 10)), tmp_path / "s.mid"
        )
        read = read_song(tmp_path / "s.mid")
        assert [(t.onset, t.pitch, t.length, t.velocity) for t in read.notes] == [
            (0, 60, 480, 80), (480, 60, 960, 50), (480, 64, 10, 80),
        ]  # fmt: skip

    def test_notes_of_one_pitch_and_onset_keep_the_longest(self, tmp_path):
        write_song_midi(
            song(SongNote(0, 60, 480), SongNote(0, 60, 960), SongNote(0, 60, 240, 80, 40)), tmp_path / "s.mid"
        )
        assert [(t.length, t.program) for t in read_song(tmp_path / "s.mid").notes] == [(240, 40), (960, 0)]

    def test_late_first_tempo_and_meter_hold_from_the_beginning(self, tmp_path):
        made = song(SongNote(0, 60, 960), tempos=((480, 90.0), (960, 60.0)), meters=((480, 3, 4),))
        write_song_midi(made, tmp_path / "s.mid")
        read = read_song(tmp_path / "s.mid")
        assert [(tick, round(qpm, 2)) for tick, qpm in read.tempos] == [(0, 90), (960, 60)]
        assert read.meters == ((0, 3, 4),)


class TestMusicXml:
    @settings(max_examples=20, deadline=None)
    @given(made=songs())
    def test_reads_back(self, made, folder):
        path = folder / "song.musicxml"
        write_musicxml(made, path, title="Generated")
        assert read_elements(path) == sounding(made)
        assert read_music21(path) == sounding(made)

    @settings(max_examples=12, deadline=None)
    @given(made=songs())
    def test_reads_back_with_tempos_meters_and_percussion(self, made, folder):
        path = folder / "own.musicxml"
        if not made.notes:
            return
        write_musicxml(made, path, title="Generated")
        read = read_song(path)
        assert sounding(read) == sounding(made)
        assert {(t.onset, t.pitch) for t in read.notes if t.is_drum} == {
            (notation.to_units(t.onset) * 40, t.pitch) for t in made.notes if t.is_drum
        }
        bars = notation.bars(made)
        assert list(read.meters) == [(b.start * 40, b.numerator, b.denominator) for b in bars if b.is_new_meter]
        assert read.ticks == (bars[-1].start + bars[-1].length) * 40
        assert [(tick, round(qpm, 2)) for tick, qpm in read.tempos] == [
            (tick, round(qpm, 2)) for k, (tick, qpm) in enumerate(made.tempos)
            if tick < read.ticks and (k == 0 or abs(qpm - made.tempos[k - 1][1]) > 0.01)
        ]  # fmt: skip

    def test_one_pitch_in_two_voices_reads_back(self, tmp_path):
        made = units((0, 100, 60), (6, 30, 60), (7, 61, 60), (0, 3, 40))
        write_musicxml(made, tmp_path / "s.musicxml", title="")
        assert read_elements(tmp_path / "s.musicxml") == sounding(made)

    def test_five_voices_take_another_staff(self, tmp_path):
        made = units(*((k, 40 + k, 50 + 2 * k) for k in range(11)))
        made = song(*(SongNote(t.onset, t.pitch, t.length, 80, 40) for t in made.notes))
        write_musicxml(made, tmp_path / "s.musicxml", title="")
        root = ElementTree.parse(tmp_path / "s.musicxml")
        assert root.findtext(".//staves") == "3"
        voices = {(n.findtext("staff"), n.findtext("voice")) for n in root.iter("note")}
        assert max(Counter(staff for staff, _ in voices).values()) == 4
        assert len({voice for _, voice in voices}) == len(voices)
        assert read_elements(tmp_path / "s.musicxml") == sounding(made)

    def test_part_has_clef_name_title_and_key(self, tmp_path):
        scale = [
            SongNote(k * 480, p, 480) for k, p in enumerate([63, 65, 67, 68, 70, 72, 74, 66])
        ]  # E flat major, and its third lowered
        bass = [SongNote(k * 480, 34 + k, 480, 80, 33) for k in (0, 2)]
        write_musicxml(song(*scale, *bass), tmp_path / "s.musicxml", title="Here & there")
        root = ElementTree.parse(tmp_path / "s.musicxml")
        assert root.findtext("work/work-title") == "Here & there"
        assert [p.findtext("part-name") for p in root.iter("score-part")] == [
            "Acoustic Grand Piano",
            "Electric Bass (finger)",
        ]
        assert [c.findtext("sign") for c in root.iter("clef")] == ["G", "F"]
        assert {k.findtext("fifths") for k in root.iter("key")} == {"-3"}
        pitches = [p.findtext("step") + (p.findtext("alter") or "0") for p in root.iter("pitch")]
        assert pitches == ["E-1", "F0", "G0", "A-1", "B-1", "C0", "D0", "G-1", "B-1", "C0"]
        assert [a.text for a in root.iter("accidental")] == ["flat"]  # the key says the others

    def test_accidental_holds_to_the_bar_line_but_not_through_a_tie(self, tmp_path):
        plain = [(k * 12, 12, 60 + (0, 2, 4, 5, 7, 9, 11)[k % 7]) for k in range(28)]
        made = units(*plain, (336, 12, 66), (348, 12, 65), (360, 12, 66), (372, 24, 66), (396, 12, 66), (408, 12, 66))
        write_musicxml(made, tmp_path / "s.musicxml", title="")
        shown = [
            [a.text for a in measure.iter("accidental")]
            for measure in ElementTree.parse(tmp_path / "s.musicxml").iter("measure")
        ]
        assert shown == [[]] * 7 + [["sharp", "natural", "sharp"], ["sharp"]]

    def test_percussion_reads_back_its_keys(self, tmp_path):
        drums = [SongNote(k * 240, key, 1, 90, 0, True) for k in range(4) for key in ((36, 42, 49), (42,))[k % 2]]
        write_musicxml(song(*drums, SongNote(0, 60, 960)), tmp_path / "s.musicxml", title="")
        root = ElementTree.parse(tmp_path / "s.musicxml")
        keys = {m.get("id"): int(m.findtext("midi-unpitched")) - 1 for m in root.iter("midi-instrument") if len(m) > 2}
        played = [keys[n.find("instrument").get("id")] for n in root.iter("note") if n.find("unpitched") is not None]
        assert played == [36, 42, 49, 42, 36, 42, 49, 42]
        assert {n.findtext("type") for n in root.iter("note") if n.find("unpitched") is not None} == {"eighth"}

    def test_single_percussion_key_reads_back(self, tmp_path):
        write_musicxml(song(SongNote(0, 54, 10, 80, 0, True)), tmp_path / "s.musicxml", title="")
        assert [(t.pitch, t.is_drum) for t in read_song(tmp_path / "s.musicxml").notes] == [(54, True)]

    def test_times_between_the_grid_are_rounded(self, tmp_path):
        made = song(SongNote(60, 60, 60), SongNote(139, 62, 1), SongNote(475, 64, 490))  # 32nds lie between two units
        write_musicxml(made, tmp_path / "s.musicxml", title="")
        assert [(o * 12, length * 12) for _, o, _, length in read_music21(tmp_path / "s.musicxml")] == [
            (2, 1), (3, 1), (12, 12),
        ]  # fmt: skip

    def test_empty_song_has_full_measure_rests(self, tmp_path):
        write_musicxml(song(ticks=3840), tmp_path / "s.musicxml", title="")
        root = ElementTree.parse(tmp_path / "s.musicxml")
        assert len(root.findall(".//measure")) == len(root.findall(".//rest[@measure='yes']")) == 2

    def test_more_programs_than_channels_read_back(self, tmp_path, capfd):
        made = song(*(SongNote(0, 60, 480, 80, program) for program in range(24, 46)))
        write_musicxml(made, tmp_path / "s.musicxml", title="")
        assert read_elements(tmp_path / "s.musicxml") == sounding(made)
        channels = {int(c.text) for c in ElementTree.parse(tmp_path / "s.musicxml").iter("midi-channel")}
        assert channels == set(range(1, 17)) - {10}
        assert capfd.readouterr().err == ""

    def test_every_program_reads_back(self, tmp_path):
        write_musicxml(
            song(*(SongNote(0, 60, 480, 80, program) for program in range(128))), tmp_path / "s.musicxml", title=""
        )
        assert [program for program, *_ in read_music21(tmp_path / "s.musicxml")] == list(range(128))

    def test_same_song_makes_the_same_file(self, tmp_path):
        made = units((0, 12, 60), (12, 4, 64), (16, 8, 67))
        for name in ("a.musicxml", "b.musicxml"):
            write_musicxml(made, tmp_path / name, title="Twice")
        assert (tmp_path / "a.musicxml").read_bytes() == (tmp_path / "b.musicxml").read_bytes()

    def test_work_grows_linearly_with_notes(self, tmp_path):
        """Calls are counted, because a clock would also measure the machine."""

        def calls(notes: int) -> int:
            dice, count = random.Random(0), itertools.count()
            made = units(*((k // 2 * 6, dice.choice([3, 6, 12]), dice.randrange(40, 80)) for k in range(notes)))
            sys.setprofile(lambda frame, event, _: next(count) if event in {"call", "c_call"} else None)
            try:
                write_musicxml(made, tmp_path / "s.musicxml", title="")
            finally:
                sys.setprofile(None)
            return next(count)

        calls(10)  # what is imported and remembered
        few, many = calls(150), calls(600)
        assert 150 < few < 3000 * 150
        assert few < many < 4.4 * few

    def test_real_midi_reads_back(self, shared_data, tmp_path):
        folder = shared_data / "midi"
        for path in (folder / "nottingham-gpl" / "jigs135.mid", folder / "multitrack-bsd" / "d_dm2ttl.mid"):
            made = read_song(path)
            write_musicxml(made, tmp_path / "s.musicxml", title=path.stem)
            assert read_elements(tmp_path / "s.musicxml") == sounding(made)
            assert read_music21(tmp_path / "s.musicxml") == sounding(made)
            write_song_midi(made, tmp_path / "s.mid")
            again = read_song(tmp_path / "s.mid")
            assert {(t.onset, t.pitch, t.program) for t in again.notes} == {
                (t.onset, t.pitch, t.program) for t in made.notes
            }


class TestNotation:
    @pytest.mark.parametrize(
        ("start", "end", "meter", "expected"),
        [
            (0, 48, (4, 4), [("whole", 0)]),
            (0, 30, (4, 4), [("half", 0), ("eighth", 0)]),
            (6, 18, (4, 4), [("quarter", 0)]),  # a syncopation
            (3, 15, (4, 4), [("eighth", 1), ("16th", 0)]),  # beats stay in sight
            (12, 30, (4, 4), [("quarter", 0), ("eighth", 0)]),  # so does the middle of the bar
            (6, 15, (4, 4), [("eighth", 0), ("16th", 0)]),
            (0, 18, (6, 8), [("quarter", 1)]),
            (0, 24, (6, 8), [("quarter", 1), ("eighth", 0)]),
            (12, 24, (6, 8), [("eighth", 0), ("eighth", 0)]),
            (9, 18, (6, 8), [("eighth", 1)]),  # two in the time of three
            (0, 36, (3, 4), [("half", 1)]),
            (0, 60, (5, 4), [("whole", 0), ("quarter", 0)]),
            (4, 12, (4, 4), [("quarter", 0)]),  # in a tuplet of three eighths
            (0, 17, (4, 4), [("quarter", 0), ("eighth", 0), ("32nd", 0)]),
        ],
    )
    def test_values_of_one_note_read_well(self, start, end, meter, expected):
        bar = Bar(0, 48 * meter[0] // meter[1], *meter, True)
        values = notation.values([Chord(start, end, (60,))], bar)
        assert [(v.type, v.dots) for v in values if v.pitches] == expected
        assert [v.to_tie for v in values if v.pitches] == [True] * (len(expected) - 1) + [False]
        assert sum(v.length for v in values) == bar.length

    def test_tuplets_are_whole_and_shortest(self):
        line = [Chord(k, k + 2, (60,)) for k in (6, 8, 10)]  # 16ths of a triplet after an eighth
        values = notation.values([Chord(0, 6, (60,)), *line], Bar(0, 12, 1, 4, True))
        assert [(v.type, v.tuplet, v.edge) for v in values] == [
            ("eighth", "", ""), ("16th", "16th", "start"), ("16th", "16th", ""), ("16th", "16th", "stop"),
        ]  # fmt: skip

    def test_bars_are_cut_by_a_new_meter(self):
        bars = notation.bars(song(SongNote(0, 60, 5000), meters=((0, 4, 4), (2400, 3, 8), (3121, 3, 32))))
        assert [(b.start, b.length, b.numerator, b.denominator) for b in bars[:5]] == [
            (0, 48, 4, 4), (48, 12, 1, 4), (60, 18, 3, 8), (78, 9, 3, 16), (87, 9, 3, 16),
        ]  # fmt: skip
        assert [b.is_new_meter for b in bars[:5]] == [True, True, True, True, False]
        assert bars[-1].start + bars[-1].length >= 125

    def test_voices_put_the_melody_above_held_notes(self):
        made = units((0, 48, 48), (0, 12, 72), (12, 12, 74), (24, 24, 72))
        ((upper, lower),) = notation.voices(made.notes, notation.bars(made))
        assert [c.pitches for c in upper] == [(72,), (74,), (72,)]
        assert [c.pitches for c in lower] == [(48,)]


class TestPicture:
    def pixels(self, path) -> np.ndarray:
        from matplotlib import image

        return (image.imread(path)[..., :3] * 255).round().astype(int)

    def columns(self, path, color: str) -> np.ndarray:
        """Return the columns of the picture that contain a color, from 0 to 1."""
        rgb = [int(color[k : k + 2], 16) for k in (1, 3, 5)]
        pixels = self.pixels(path)
        return np.flatnonzero((pixels == rgb).all(axis=-1).any(axis=0)) / pixels.shape[1]

    def test_join_separates_the_colors(self, tmp_path):
        made = song(*(SongNote(k * 480, 60 + k % 5, 480) for k in range(16)))
        save_figure(draw_song(made, 6 * 480, "Scale"), tmp_path / "s.png")
        prompt, join, after = (self.columns(tmp_path / "s.png", c) for c in (PROMPT, JOIN, CONTINUATION))
        assert prompt.max() < join.mean() < after.min()
        assert np.ptp(join) < 0.01
        width = after.max() - prompt.min()
        assert (join.mean() - prompt.min()) / width == pytest.approx(6 / 16, abs=0.02)

    def test_picture_without_join_has_one_color(self, tmp_path):
        save_figure(
            draw_song(song(*(SongNote(k * 480, 60 + k % 5, 480) for k in range(16))), None, "Scale"), tmp_path / "s.png"
        )
        assert len(self.columns(tmp_path / "s.png", PROMPT)) > 100
        assert not len(self.columns(tmp_path / "s.png", CONTINUATION))
        assert not len(self.columns(tmp_path / "s.png", JOIN))

    def test_programs_have_shades_and_percussion_rows(self, tmp_path):
        notes = [SongNote(k * 480, 60 + k, 400, 80, (0, 40)[k % 2]) for k in range(8)]
        drums = [SongNote(k * 240, 36 + 6 * (k % 2), 30, 90, 0, True) for k in range(16)]
        save_figure(draw_song(song(*notes), 960, "Two programs"), tmp_path / "one.png")
        save_figure(draw_song(song(*notes, *drums), 960, "And drums"), tmp_path / "two.png")
        assert self.pixels(tmp_path / "two.png").shape[0] > self.pixels(tmp_path / "one.png").shape[0]
        blues = {tuple(p) for p in self.pixels(tmp_path / "one.png").reshape(-1, 3)}
        assert {(64, 97, 143), (131, 152, 182)} <= blues  # the second program a third and more of the way to white

    def test_long_prompt_shows_its_last_bars(self, tmp_path):
        made = song(*(SongNote(k * 480, 60 + k % 5, 480) for k in range(800)))
        save_figure(draw_song(made, 796 * 480, "Long"), tmp_path / "s.png")
        prompt, after = (self.columns(tmp_path / "s.png", c) for c in (PROMPT, CONTINUATION))
        assert np.ptp(after) / np.ptp(prompt) == pytest.approx(4 / 32, abs=0.02)

    def test_empty_song_is_drawn(self, tmp_path):
        save_figure(draw_song(song(ticks=1920), 480, "Silence"), tmp_path / "s.png")
        assert len(self.columns(tmp_path / "s.png", JOIN))


@pytest.mark.parametrize("name", ["midi", "musicxml", "png"])
def test_failed_write_leaves_the_file_before(name, tmp_path, monkeypatch):
    made = units((0, 12, 60))
    write = {
        "midi": lambda path: write_song_midi(made, path),
        "musicxml": lambda path: write_musicxml(made, path, title="t"),
        "png": lambda path: save_figure(draw_song(made, None, "t"), path),
    }[name]
    with pytest.raises((ValueError, OSError), match=r"cannot be written|No such file"):
        write(tmp_path / "missing" / f"s.{name}")
    (tmp_path / f"s.{name}").write_text("before")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("continuo.system.files.os.replace", fail)
    with pytest.raises((ValueError, OSError), match="No space left"):
        write(tmp_path / f"s.{name}")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [(f"s.{name}", "before")]


def test_to_score_counts_staves_not_instruments(monkeypatch):
    hands = Song("h", "h", (SongNote(0, 48, QUARTER), SongNote(0, 72, QUARTER)), 8 * QUARTER)  # two bars on two staves
    monkeypatch.setattr("continuo.symbolic.engraving.MAX_BARS", 4)
    assert len(to_score(hands, "h").parts) == 2
    monkeypatch.setattr("continuo.symbolic.engraving.MAX_BARS", 3)
    with pytest.raises(TooLong, match="2 bars on 2 staves or more are above 3 in all"):
        to_score(hands, "h")


def test_read_song_drops_tempos_and_meters_after_the_end(tmp_path):
    """One of them is too late for a MIDI file after rounding to other ticks."""
    score = symusic.Score(24)
    score.tracks.append(symusic.Track("", 0, False))
    score.tracks[0].notes.append(symusic.Note(0, 24, 60, 90))
    score.tempos.extend(symusic.Tempo(at, qpm) for at, qpm in [(0, 90.0), (24, 100.0), (2**28 - 1, 60.0)])
    score.time_signatures.append(symusic.TimeSignature(2**28 - 1, 3, 4))
    score.dump_midi(tmp_path / "late.mid")
    song = read_song(tmp_path / "late.mid")
    assert [(at, round(qpm)) for at, qpm in song.tempos] == [(0, 90), (QUARTER, 100)]
    assert song.meters == ((0, 4, 4),)
    write_song_midi(song, tmp_path / "again.mid")
    assert read_song(tmp_path / "again.mid").ticks == QUARTER


class TestParts:
    """A song of two piano tracks and a flute, with two keys, as a prompt."""

    @pytest.fixture
    def prompt(self, tmp_path):
        tracks = [
            track((0, "ff59020300"), (960, "ff5902fd01"), end=1920),  # A major, then C minor
            track((0, "ff0305" + b"Right".hex()), (0, "c000"), (0, "904850"), (1920, "804840")),
            track((0, "ff0304" + b"Left".hex()), (0, "913050"), (1920, "813040")),
            track((0, "ff0303" + b"Air".hex()), (0, "c249"), (0, "925450"), (1920, "825440")),
        ]
        (tmp_path / "p.mid").write_bytes(midi_file(*map(chunk, tracks)))
        return read_song(tmp_path / "p.mid")

    def test_song_has_names_and_keys(self, prompt):
        assert prompt.parts == ("Right", "Left", "Air")
        assert prompt.keys == ((0, 3, False), (960, -3, True))
        assert prompt.transposed(-3).keys == ((0, 6, False), (960, 0, True))
        assert prompt.excerpt(1440, 1920, "end").keys == ((0, -3, True),)

    def test_continuation_stays_in_its_parts(self, prompt):
        new = (
            SongNote(1920, 70, 480),
            SongNote(1920, 50, 480),
            SongNote(1920, 60, 480, 80, 73),
            SongNote(1920, 60, 480, 80, 40),
        )
        assert [note.part for note in prompt.in_parts(new)] == [0, 1, 2, 3]

    def test_midi_and_musicxml_keep_names_programs_and_keys(self, prompt, tmp_path):
        write_song_midi(prompt, tmp_path / "s.mid")
        write_musicxml(prompt, tmp_path / "s.musicxml", title="parts")
        for name in ("s.mid", "s.musicxml"):
            read = read_song(tmp_path / name)
            assert read.parts == ("Right", "Left", "Air")
            assert [(n.part, n.pitch, n.program) for n in read.notes] == [(1, 48, 0), (0, 72, 0), (2, 84, 73)]
            assert read.keys[0][:2] == (0, 3)
        assert read_song(tmp_path / "s.mid").keys == prompt.keys

    def test_midi_without_keys_has_that_of_the_best_scale(self, tmp_path):
        scale = [SongNote(480 * k, 62 + step, 480) for k, step in enumerate((0, 2, 4, 5, 7, 9, 11))]
        write_song_midi(song(*scale), tmp_path / "s.mid")
        assert read_song(tmp_path / "s.mid").keys == ((0, 2, False),)
