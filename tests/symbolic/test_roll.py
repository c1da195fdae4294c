"""Piano rolls: decoding inverts encoding up to rounding, and every set has one form."""

import json
import math
from fractions import Fraction

import numpy as np
import pytest
from conftest import SHARED
from hypothesis import given, settings
from hypothesis import strategies as st

from continuo.symbolic.roll import STOP, RollCodec
from continuo.symbolic.song import QUARTER, Song, SongNote
from continuo.symbolic.transcription import read_song

TONES = st.builds(
    SongNote,
    onset=st.integers(0, 4000),
    pitch=st.integers(40, 80),
    length=st.integers(1, 2500),
    is_drum=st.booleans(),
)
SONGS = st.builds(
    lambda notes, rest: Song("s", "s", tuple(sorted({*notes, SongNote(0, 60, 100)})), 6500 + rest, ((0, 90.0),)),
    st.lists(TONES, max_size=25),
    st.integers(0, 2000),
)
GRIDS = pytest.mark.parametrize(("steps", "reattacks"), [(1, False), (4, True), (4, False), (12, True)])


def same(a: Song, b: Song) -> bool:
    return (a.notes, a.ticks, a.tempos, a.meters) == (b.notes, b.ticks, b.tempos, b.meters)


def rounded(song: Song, steps_per_quarter: int, *, reattacks: bool) -> list[tuple[int, int, int]]:
    """Return onset, pitch and length in ticks of the notes that a roll keeps, found without any codes."""
    step = QUARTER // steps_per_quarter
    ends: dict[tuple[int, int], int] = {}
    for note in song.notes:
        if not note.is_drum:
            onset, end = (math.floor(Fraction(tick, step) + Fraction(1, 2)) for tick in (note.onset, note.end))
            ends[note.pitch, onset] = max(ends.get((note.pitch, onset), 0), end, onset + 1)
    found: list[list[int]] = []  # pitch, onset and end in steps
    for (pitch, onset), end in sorted(ends.items()):
        if found and found[-1][0] == pitch and found[-1][2] >= onset:
            found[-1][2] = onset
            if not reattacks:
                found[-1][2] = max(found[-1][2], end)
                continue
        found.append([pitch, onset, end])
    return sorted((onset * step, pitch, (end - onset) * step) for pitch, onset, end in found)


@GRIDS
@settings(max_examples=60, deadline=None)
@given(song=SONGS)
def test_C03_decode_of_encode_equals_a_reckoning_in_fractions(steps, reattacks, song):
    codec = RollCodec.fit([song], steps_per_quarter=steps, reattacks=reattacks)
    codes = codec.encode(song)
    decoded = codec.decode(codes, like=song)
    assert [(n.onset, n.pitch, n.length) for n in decoded.notes] == rounded(song, steps, reattacks=reattacks)
    assert decoded.ticks == max([-(-song.ticks * steps // QUARTER) * QUARTER // steps, *(n.end for n in decoded.notes)])
    assert (decoded.tempos, decoded.meters) == (song.tempos, song.meters)
    assert same(decoded, codec.round_trip(song))
    assert codes.max() < codec.vocabulary[0]
    for row in codes:
        sounding = row[: list(row).index(STOP)] if STOP in row else row
        assert np.all(np.diff(codec.ranks[sounding]) > 0)
        assert not row[len(sounding) :].any()


def test_C10_encode_rounds_halves_up_and_keeps_repeated_notes():
    notes = (SongNote(59, 60, 61), SongNote(60, 64, 420), SongNote(480, 64, 120), SongNote(600, 64, 10))
    codec = RollCodec.fit([Song("s", "s", notes, 1000)])
    found = codec.decode(codec.encode(Song("s", "s", notes, 1000))).notes
    assert [(t.onset, t.pitch, t.length) for t in found] == [
        (0, 60, 120),
        (120, 64, 360),
        (480, 64, 120),
        (600, 64, 120),
    ]


def test_encode_without_reattacks_joins_touching_notes():
    song = Song("s", "s", (SongNote(0, 60, 480), SongNote(480, 60, 480)), 960)
    codec = RollCodec.fit([song], reattacks=False)
    assert [(t.onset, t.length) for t in codec.decode(codec.encode(song)).notes] == [(0, 960)]


def test_decode_with_appended_steps_begins_them_after_final_rests():
    song = Song("s", "s", (SongNote(0, 60, 120),), 1920)
    codec = RollCodec.fit([song])
    codes = codec.encode(song)
    assert len(codes) == 16
    more = codec.decode(np.concatenate([codes, codes[:1]]))
    assert more.notes[-1].onset == 1920


def test_encode_moves_pitches_out_of_range_by_octaves():
    codec = RollCodec.fit([Song("s", "s", (SongNote(0, 50, 120), SongNote(0, 70, 120)), 480)])
    song = Song("s", "s", (SongNote(0, 97, 120), SongNote(120, 13, 120), SongNote(240, 60, 120)), 480)
    assert codec.out_of_range(song) == 2
    assert [t.pitch for t in codec.decode(codec.encode(song)).notes] == [61, 61, 60]


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_decode_of_any_codes_gives_a_song(seed):
    song = Song("s", "s", tuple(SongNote(0, 60 + k, 480) for k in range(4)), 480)
    codec = RollCodec.fit([song])
    codes = np.random.default_rng(seed).integers(codec.vocabulary[0], size=(20, 4))
    decoded = codec.decode(codes)
    assert decoded.ticks == 20 * QUARTER // 4
    assert all(60 <= t.pitch <= 63 and t.end <= decoded.ticks for t in decoded.notes)


def test_decode_takes_tempo_meter_and_program_from_like_or_the_corpus():
    songs = [
        Song("s", "s", (SongNote(0, 60, 480, 80, 41),), 480, ((0, qpm),), ((0, 3, 4),)) for qpm in (90.0, 100.0, 110.0)
    ]
    codec = RollCodec.fit(songs)
    alone = codec.decode(codec.encode(songs[0]))
    assert (alone.tempos, alone.meters, alone.program()) == (((0, 100.0),), ((0, 3, 4),), 41)
    like = Song("l", "l", (SongNote(0, 50, 480, 80, 7),), 480, ((0, 70.0),), ((0, 6, 8),))
    lent = codec.decode(codec.encode(songs[0]), like)
    assert (lent.tempos, lent.meters, lent.program()) == (like.tempos, like.meters, 7)


def test_B02_codec_from_its_dict_is_equal():
    song = Song("s", "s", (SongNote(0, 60, 480), SongNote(0, 65, 240)), 960)
    codec = RollCodec.fit([song])
    again = RollCodec.from_dict(json.loads(json.dumps(codec.to_dict())))
    assert again.vocabulary == codec.vocabulary
    assert np.array_equal(again.encode(song), codec.encode(song))


def test_codec_with_impossible_values_is_refused():
    with pytest.raises(ValueError, match="no pitched note"):
        RollCodec.fit([Song("s", "s", (SongNote(0, 36, 10, is_drum=True),), 480)])
    with pytest.raises(ValueError, match="does not divide"):
        RollCodec.fit([Song("s", "s", (SongNote(0, 36, 10),), 480)], steps_per_quarter=7)
    with pytest.raises(ValueError, match="not a roll codec"):
        RollCodec.from_dict({"kind": "chords"})


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared real data is not on this machine")
def test_codec_on_real_files_decodes_what_it_encodes():
    paths = (
        sorted((SHARED / "midi").rglob("*.mid"))[::8] + sorted((SHARED / "musicxml" / "osmd-bsd").rglob("*.*ml"))[:6]
    )
    read = 0
    for path in paths:
        try:
            song = read_song(path)
        except ValueError:
            continue
        if any(not t.is_drum for t in song.notes):
            codec = RollCodec.fit([song], max_notes=64)
            decoded = codec.decode(codec.encode(song), like=song)
            assert [(n.onset, n.pitch, n.length) for n in decoded.notes] == rounded(song, 4, reattacks=True), path
            read += 1
    assert read > 40
