"""Songs as events: decoding inverts encoding up to rounding, nothing is out of vocabulary, any events give a song."""

import json
import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from conftest import SHARED
from hypothesis import given, settings
from hypothesis import strategies as st

from continuo.symbolic.chords import FIRST_CHORD, FIRST_NOTE, FIRST_TEMPO, REST, TEMPOS_QPM, ChordCodec
from continuo.symbolic.song import QUARTER, Song, SongNote

GRID = 40
"""Ticks of a step with 12 steps per quarter note."""
REACH = 16 * 12
CODEC = ChordCodec(chords=((60, 64, 67), (60, 64), (62, 65), (48, 60)), program=19, meter=(3, 4), qpm=96.0)


def song(*notes: SongNote, ticks: int | None = None, **facts) -> Song:
    end = max((t.end for t in notes), default=0)
    return Song("s", "s", tuple(sorted(notes)), end if ticks is None else ticks, **facts)


def chord(onset: int, length: int, *pitches: int) -> list[SongNote]:
    return [SongNote(onset, pitch, length) for pitch in pitches]


@st.composite
def songs(draw) -> Song:
    """Draw songs of few pitches and places, so that notes meet, on the grid and off it, some long or far away."""
    place = st.one_of(
        st.integers(0, 8).map(lambda k: k * QUARTER // 2),
        st.integers(0, 24).map(lambda k: k * QUARTER // 3),
        st.integers(0, 60_000),
    )
    length = st.one_of(st.sampled_from([1, 19, 20, 21, 160, 240, 480, 960]), st.integers(1, 12_000))
    pitch = st.one_of(st.sampled_from([48, 60, 62, 64, 65, 67]), st.integers(0, 127))
    note = st.builds(SongNote, place, pitch, length, st.integers(1, 127), st.sampled_from([0, 0, 40]), st.booleans())
    notes, silence = draw(st.lists(note, max_size=15)), draw(st.sampled_from([0, 0, 0, 30_000]))
    notes = [replace(t, onset=t.onset + silence) for t in notes]
    tempos = draw(st.dictionaries(place, st.floats(21, 310), max_size=5))
    meters = draw(st.dictionaries(place, st.sampled_from([(4, 4), (6, 8)]), max_size=2))
    return song(
        *notes,
        ticks=max((t.end for t in notes), default=0) + draw(st.sampled_from([0, 0, 7, 500, 25_000])),
        tempos=tuple(sorted(tempos.items())),
        meters=tuple((at, *meter) for at, meter in sorted(meters.items())),
    )


def events(codec: ChordCodec) -> st.SearchStrategy:
    return st.lists(st.tuples(*(st.integers(0, size - 1) for size in codec.vocabulary)), max_size=40).map(
        lambda rows: np.array(rows, dtype=np.int64).reshape(-1, 3)
    )


def halves_up(tick: int) -> int:
    return math.floor(Fraction(tick, GRID) + Fraction(1, 2))


def check_codes(codec: ChordCodec, codes: np.ndarray) -> None:
    """Check that codes are in the vocabulary, with lengths and gaps only where they have a meaning."""
    assert codes.dtype == np.int64
    assert codes.min() >= 0
    assert (codes < codec.vocabulary).all()
    sounds, tempo = codes[:, 0] >= FIRST_NOTE, (codes[:, 0] > REST) & (codes[:, 0] < FIRST_NOTE)
    assert (codes[sounds, 1] > 0).all()
    assert (codes[~sounds, 1] == 0).all()
    assert (codes[tempo, 2] == 0).all()
    assert (codes[codes[:, 0] == REST, 2] > 0).all()
    assert tempo[0]


@given(songs())
def test_D01_decode_of_encode_equals_round_trip(piece):
    codes = CODEC.encode(piece)
    check_codes(CODEC, codes)
    assert CODEC.decode(codes, like=piece) == CODEC.round_trip(piece)
    assert CODEC.round_trip(CODEC.round_trip(piece)) == CODEC.round_trip(piece)


@settings(max_examples=60)
@given(songs())
def test_round_trip_equals_a_reckoning_in_fractions(piece):
    longest: dict[tuple[int, int], int] = {}
    for note in piece.notes:
        if not note.is_drum:
            onset, end = halves_up(note.onset), halves_up(note.end)
            lengths = longest.get((onset, note.pitch), 1), min(end - onset, REACH)
            longest[onset, note.pitch] = max(lengths)
    found = CODEC.round_trip(piece)
    assert {(t.onset // GRID, t.pitch): t.length // GRID for t in found.notes} == longest
    assert len(found.notes) == len(longest)
    assert {t.onset % GRID + t.length % GRID for t in found.notes} <= {0}
    assert {(t.velocity, t.program, t.is_drum) for t in found.notes} <= {(80, piece.program(), False)}
    assert found.ticks == GRID * max([halves_up(piece.ticks), *(at + n for (at, _), n in longest.items())])
    assert found.meters == piece.meters
    assert found.tempos[0][0] == 0
    for tick in range(0, found.ticks, 600):
        here = {piece.qpm_at(tick + near) for near in (-GRID // 2, 0, GRID // 2)}  # a change may move by half a step
        assert any(abs(math.log(found.qpm_at(tick) / qpm)) < math.log(1.095) for qpm in here)


@settings(max_examples=60)
@given(songs(), st.integers(0, 9))
def test_decode_with_appended_events_begins_them_at_the_end(piece, length):
    codes, end = CODEC.encode(piece), CODEC.round_trip(piece).ticks
    after = [[FIRST_NOTE + 50, length, 6], [FIRST_NOTE + 53, 12, 12]]
    longer = CODEC.decode(np.concatenate([codes, after]), like=piece)
    expected = (SongNote(end, 50, max(length, 1) * GRID), SongNote(end + 6 * GRID, 53, QUARTER))
    program = piece.program()
    assert longer.notes == (*CODEC.round_trip(piece).notes, *(replace(t, program=program) for t in expected))
    assert longer.ticks == end + 18 * GRID


@settings(max_examples=80)
@given(events(CODEC), st.sampled_from([None, None, Song("like", "l", (), 0, ((960, 70.0),), ((0, 6, 8),))]))
def test_decode_of_any_events_gives_a_song(codes, like):
    made = CODEC.decode(codes, like)
    assert list(made.notes) == sorted(made.notes)
    assert len({(t.onset, t.pitch) for t in made.notes}) == len(made.notes)
    assert all(t.onset >= 0 and 0 <= t.pitch <= 127 and t.length > 0 and t.end <= made.ticks for t in made.notes)
    assert made.ticks >= GRID * codes[:, 2].sum()
    assert [at for at, _ in made.tempos] == sorted({at for at, _ in made.tempos})
    if like is None:
        assert made.tempos[0][0] == 0
        assert CODEC.decode(CODEC.encode(made)) == made


def test_encode_gives_events_in_their_order():
    """The song has an upbeat, chords of several lengths, a rest, a new tempo within a rest, and a long end."""
    piece = song(
        *chord(480, 480, 60, 64, 67), SongNote(480, 36, 1440), SongNote(960, 72, 60), *chord(960, 480, 62, 66),
        SongNote(0, 35, 480, is_drum=True), ticks=23_000, tempos=((0, 120.0), (700, 121.0), (3000, 60.0)),
    )  # fmt: skip

    def note(pitch: int) -> int:
        return FIRST_NOTE + pitch

    assert CODEC.encode(piece).tolist() == [
        [FIRST_TEMPO + 20, 0, 0],
        [REST, 0, 12],
        [note(36), 36, 0],
        [FIRST_CHORD, 12, 12],
        [note(62), 12, 0],
        [note(66), 12, 0],
        [note(72), 2, 51],
        [FIRST_TEMPO + 12, 0, 0],
        [REST, 0, 192],
        [REST, 0, 192],
        [REST, 0, 116],
    ]
    assert CODEC.round_trip(piece).tempos == ((0, 120.0), (3000, 60.0))
    assert CODEC.round_trip(piece).ticks == 23_000


def test_encode_without_pitched_notes_gives_tempo_and_rests():
    drums = song(SongNote(0, 36, 240, is_drum=True), ticks=9600)
    assert CODEC.encode(drums).tolist() == [[21, 0, 0], [REST, 0, 192], [REST, 0, 48]]
    assert CODEC.encode(song(ticks=16 * QUARTER)).tolist() == [[21, 0, 0], [REST, 0, 192]]
    assert CODEC.encode(song()).tolist() == [[21, 0, 0]]
    assert CODEC.decode(np.zeros((0, 3), dtype=np.int64)).ticks == 0


@given(st.sets(st.integers(0, 127), min_size=1))
def test_B02_encode_of_a_chord_without_class_gives_its_parts(pitches):
    piece = song(*chord(0, 480, *pitches))
    codes = CODEC.encode(piece)
    assert CODEC.decode(codes, like=piece) == piece
    assert {tuple(row) for row in codes[1:-1, 1:].tolist()} <= {(12, 0)}
    assert codes[-1].tolist()[1:] == [12, 12]


def test_encode_of_an_unknown_chord_takes_the_largest_parts():
    assert CODEC.encode(song(*chord(0, 480, 48, 60, 64, 67, 70)))[1:, 0].tolist() == [
        FIRST_NOTE + 48, FIRST_CHORD, FIRST_NOTE + 70,
    ]  # fmt: skip
    assert CODEC.encode(song(*chord(0, 480, 60, 62, 64, 65)))[1:, 0].tolist() == [FIRST_CHORD + 1, FIRST_CHORD + 2]


def test_round_trip_keeps_overlaps_and_merges_equal_onsets():
    piece = song(SongNote(0, 60, 960), SongNote(480, 60, 960), SongNote(0, 60, 240, program=5), SongNote(485, 60, 100))
    assert CODEC.round_trip(piece).notes == (SongNote(0, 60, 960), SongNote(480, 60, 960))
    assert CODEC.decode(CODEC.encode(piece), like=piece) == CODEC.round_trip(piece)
    twice = np.array([[FIRST_NOTE + 60, 24, 0], [FIRST_CHORD + 1, 12, 12]])
    assert CODEC.decode(twice).notes == (SongNote(0, 60, 960, program=19), SongNote(0, 64, 480, program=19))
    legato = CODEC.round_trip(song(SongNote(0, 60, 461), SongNote(461, 62, 480)))
    assert legato.notes == (SongNote(0, 60, 480), SongNote(480, 62, 480))  # both ends rounded: no gap, no overlap


def test_decode_takes_tempo_and_meter_from_events_then_prompt_then_corpus():
    like = song(SongNote(0, 60, 480, program=7), tempos=((0, 133.0), (960, 50.0)), meters=((0, 5, 8),))
    note, tempo = [FIRST_NOTE + 60, 12, 12], [FIRST_TEMPO + 31, 0, 0]
    assert CODEC.decode(np.array([note] * 3), like).tempos == like.tempos
    assert CODEC.decode(np.array([note, tempo, note]), like).tempos == ((0, 133.0), (480, TEMPOS_QPM[31]))
    assert CODEC.decode(np.array([note, tempo, note])).tempos == ((0, 96.0), (480, TEMPOS_QPM[31]))
    assert CODEC.decode(np.array([note])).meters == ((0, 3, 4),)
    assert CODEC.decode(np.array([note]), like).meters == like.meters
    assert [CODEC.decode(np.array([note]), replace(like, has_ending=ends)).has_ending for ends in (True, False)] == [
        True,
        False,
    ]
    assert (CODEC.decode(np.array([note])).program(), CODEC.decode(np.array([note]), like).program()) == (19, 7)
    assert TEMPOS_QPM[31] == pytest.approx(320)
    extreme = song(SongNote(0, 60, 480), tempos=((0, 5.0),))
    assert CODEC.encode(extreme)[0].tolist() == [FIRST_TEMPO, 0, 0]
    assert CODEC.decode(CODEC.encode(extreme), like=extreme).tempos == ((0, 5.0),)


def corpus() -> list[Song]:
    """Return songs with a triad three times, a third twice, another chord once, an upbeat, and only drums."""
    waltz = song(
        *chord(480, 480, 60, 64, 67), *chord(960, 480, 60, 64, 67), *chord(1440, 480, 62, 65), ticks=4000,
        tempos=((0, 90.0),), meters=((0, 1, 4), (480, 3, 4)),
    )  # fmt: skip
    waltz = replace(waltz, notes=tuple(replace(t, program=40) for t in waltz.notes))
    other = song(*chord(0, 480, 62, 65), *chord(480, 240, 60, 64, 67), *chord(960, 480, 50, 51), tempos=((0, 100.0),))
    drums = song(SongNote(0, 36, 480, is_drum=True), tempos=((0, 300.0),))
    return [waltz, drums, drums, replace(waltz, notes=waltz.notes[-1:]), other]


def test_fit_finds_frequent_chords_and_usual_facts():
    codec = ChordCodec.fit(corpus())
    assert codec == ChordCodec(chords=((60, 64, 67), (62, 65)), program=40, meter=(3, 4), qpm=90.0)
    assert codec.vocabulary == (163, 193, 193)
    assert ChordCodec.fit(corpus(), classes=162).chords == ((60, 64, 67),)
    assert ChordCodec.fit(corpus(), classes=161, steps_per_quarter=4).vocabulary == (161, 65, 65)


@pytest.mark.parametrize("steps", [1, 4, 24])
@settings(max_examples=25)
@given(piece=songs())
def test_codec_on_other_grids_decodes_what_it_encodes(steps, piece):
    codec = ChordCodec.fit(corpus(), steps_per_quarter=steps)
    check_codes(codec, codec.encode(piece))
    assert codec.decode(codec.encode(piece), like=piece) == codec.round_trip(piece)


@settings(max_examples=25)
@given(songs(), st.integers(-90, 90))
def test_encode_of_transposed_songs_needs_no_new_classes(piece, semitones):
    moved = piece.transposed(semitones)
    check_codes(CODEC, CODEC.encode(moved))
    assert CODEC.decode(CODEC.encode(moved), like=moved) == CODEC.round_trip(moved)


def test_B02_codec_from_its_dict_is_equal():
    codec = ChordCodec.fit(corpus())
    again = ChordCodec.from_dict(json.loads(json.dumps(codec.to_dict())))
    assert again == codec
    assert again.vocabulary == codec.vocabulary
    assert all((again.encode(piece) == codec.encode(piece)).all() for piece in corpus())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"kind": "roll"}, "kind is 'roll'"),
        ({"chords": [[64, 60]]}, "ascending"),
        ({"chords": [[60, 60]]}, "ascending"),
        ({"chords": [[60, 128]]}, "ascending"),
        ({"chords": [[60]]}, "ascending"),
        ({"chords": [[60, 64], [60, 64]]}, "two classes"),
        ({"chords": 3}, "not iterable"),
        ({"meter": [4]}, "unpack"),
        ({"meter": [0, 4]}, "impossible"),
        ({"program": 128}, "impossible"),
        ({"qpm": "fast"}, "not supported"),
        ({"qpm": math.nan}, "impossible"),
        ({"steps_per_quarter": 7}, "divide"),
        ({"steps_per_quarter": 0}, "divide"),
    ],
)
def test_from_dict_of_another_dictionary_is_refused(change, says):
    with pytest.raises(ValueError, match=f"^not a chord codec .*{says}") as caught:
        ChordCodec.from_dict(CODEC.to_dict() | change)
    assert "\n" not in str(caught.value)


def test_codec_with_impossible_values_is_refused():
    for data in ({}, [], {"kind": "chords"}):
        with pytest.raises(ValueError, match="not a chord codec"):
            ChordCodec.from_dict(data)
    with pytest.raises(ValueError, match="160 classes are too few"):
        ChordCodec.fit(corpus(), classes=160)
    with pytest.raises(ValueError, match="no pitched note"):
        ChordCodec.fit([song(SongNote(0, 36, 480, is_drum=True))])
    for codes in ([[0, 0]], [0, 0, 0]):
        with pytest.raises(ValueError, match="shape"):
            CODEC.decode(np.array(codes))
    for row in ([CODEC.vocabulary[0], 0, 0], [0, 193, 0], [0, 0, 193], [-1, 0, 0]):
        with pytest.raises(ValueError, match="another codec"):
            CODEC.decode(np.array([row]))


def read(path) -> Song:
    """Read a MIDI file with symusic, its ticks rounded to those of songs."""
    symusic = pytest.importorskip("symusic")
    score = symusic.Score.from_file(str(path))

    def ticks(time: int) -> int:
        return round(time * QUARTER / score.ticks_per_quarter)

    notes = [
        SongNote(ticks(n.time), n.pitch, max(ticks(n.end) - ticks(n.time), 1), n.velocity, track.program, track.is_drum)
        for track in score.tracks
        for n in track.notes
    ]
    tempos = sorted((ticks(t.time), t.qpm) for t in score.tempos)
    meters = sorted((ticks(m.time), m.numerator, m.denominator) for m in score.time_signatures)
    return song(*notes, tempos=tuple(tempos), meters=tuple(meters))


@pytest.mark.slow
def test_codec_on_real_files_decodes_what_it_encodes():
    if not (SHARED / "midi").is_dir():
        pytest.skip("the shared real data is not on this machine")
    tunes = [read(path) for path in sorted((SHARED / "midi" / "nottingham-gpl").glob("*.mid"))[::8]]
    bands = [read(path) for path in sorted((SHARED / "midi" / "multitrack-bsd").glob("*.mid"))[::4]]
    codec = ChordCodec.fit(tunes)
    assert len(codec.chords) > 50
    for piece in tunes + bands:
        codes = codec.encode(piece)
        check_codes(codec, codes)
        assert codec.decode(codes, like=piece) == codec.round_trip(piece)
    kept = [len(codec.round_trip(tune).notes) / len({(t.onset, t.pitch) for t in tune.notes}) for tune in tunes]
    assert min(kept) > 0.95  # the grid holds what is in the tunes
