"""REMI+ tokens: decoding inverts encoding up to rounding, and any codes give a song."""

import json
import math
import random
import socket
import subprocess
import sys
from bisect import bisect_right
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import symusic
from conftest import ROOT, SHARED
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from continuo.symbolic import remi
from continuo.symbolic.remi import TEMPOS, RemiCodec
from continuo.symbolic.song import QUARTER, Song, SongNote

MIDI = SHARED / "midi"
METERS = [(4, 4), (3, 4), (6, 8), (7, 8), (5, 16), (2, 2), (9, 8), (1, 4), (13, 16)]
QUIET = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def song_of(notes, ticks=0, tempos=((0, 120.0),), meters=((0, 4, 4),)):
    notes = tuple(sorted(notes))
    return Song("s", "s", notes, max([ticks, *(t.end for t in notes)]), tuple(tempos), tuple(meters))


def made(seed, *, meters=METERS, tidy=False):
    """Return a random song with overlaps, doubled notes and odd changes; `tidy` keeps it on sixteenths."""
    rng = random.Random(seed)
    unit = 120 if tidy else 1
    notes = []
    for _ in range(rng.randint(0, 40)):
        onset, length = (
            rng.choice([0, 7, 1900, 1930, rng.randrange(40_000)]),
            rng.choice([1, 20, 240, 479, 5000, 70_000]),
        )
        drum = rng.random() < 0.2
        program = 0 if drum and tidy else rng.choice([0, 0, 41, 127])
        notes.append(SongNote(onset // unit * unit, rng.randrange(128), max(length // unit, 1) * unit,
                          rng.randint(1, 127), program, drum))  # fmt: skip
        if rng.random() < 0.2:
            notes.append(replace(notes[-1], velocity=rng.randint(1, 127), length=rng.choice([120, 480, 960])))
    places = [sorted(rng.randrange(30_000) for _ in range(rng.randint(0, 4))) for _ in range(2)]
    tempos = [(at, rng.choice([5.0, 60.0, 119.7, 152.765, 400.0])) for at in places[0]]
    changes = [(at, *rng.choice(meters)) for at in places[1]]
    if rng.random() < 0.5:
        changes = [(0, *rng.choice(meters)), *changes]
    return song_of(notes, rng.choice([0, 1, 1921, 60_000]), tempos, changes)


def of_real_file(path):
    """Return a MIDI file as symusic reads it, in the ticks of songs."""
    score = symusic.Score(path)

    def at(tick: int) -> int:
        return round(tick * QUARTER / score.ticks_per_quarter)

    notes = {
        SongNote(at(n.time), n.pitch, max(at(n.end) - at(n.time), 1), max(n.velocity, 1), track.program, track.is_drum)
        for track in score.tracks
        for n in track.notes
    }
    meters = [(at(m.time), m.numerator, m.denominator) for m in score.time_signatures]
    return song_of(notes, at(score.end()), [(at(t.time), t.qpm) for t in score.tempos], meters)


def names(codec, codes):
    return [token for code in codes.ravel() for token in codec._tokens[code]]


def walk(codec, rng, length):
    """Return random codes that obey the grammar."""
    codes = [rng.choice(np.flatnonzero(codec.opens))]
    while len(codes) < length:
        codes.append(rng.choice(np.flatnonzero(codec.follows[codes[-1]])))
    return np.array(codes)[:, None]


MADE = [made(seed) for seed in range(40)]
SETTINGS = {
    "plain": {},
    "coarse": {"steps_per_quarter": 4, "velocities": 1},
    "fine": {"steps_per_quarter": 40, "velocities": 127},
    "joined": {"bpe": 900},
}


@pytest.fixture(scope="module")
def codecs():
    return {name: RemiCodec.fit(MADE, **given) for name, given in SETTINGS.items()}


@pytest.fixture(scope="module")
def codec(codecs):
    return codecs["plain"]


@pytest.mark.parametrize("name", SETTINGS)
def test_D01_decode_of_encode_equals_round_trip(codecs, name):
    for song in [*MADE, *(made(seed) for seed in range(100, 130))]:
        codes = codecs[name].encode(song)
        assert codes.dtype == np.int64
        assert codes.shape == (len(codes), 1)
        assert codes.max() < codecs[name].vocabulary[0]
        assert codecs[name].decode(codes) == codecs[name].round_trip(song)


@QUIET
@given(st.data())
def test_decode_of_encode_of_any_song_equals_round_trip(codecs, data):
    tick = st.integers(0, 20_000)
    note = st.builds(
        SongNote,
        tick,
        st.integers(0, 127),
        st.integers(1, 40_000),
        st.integers(1, 127),
        st.integers(0, 127),
        st.booleans(),
    )
    tempo = st.tuples(tick, st.floats(1, 1000))
    meter = st.builds(lambda at, n, d: (at, n, d), tick, st.integers(1, 40), st.sampled_from([1, 2, 4, 8, 16, 32]))
    song = song_of(
        data.draw(st.lists(note, max_size=12)),
        data.draw(tick),
        sorted(data.draw(st.lists(tempo, max_size=4))),
        sorted(data.draw(st.lists(meter, max_size=4))),
    )
    codec = codecs[data.draw(st.sampled_from(sorted(codecs)))]
    rounded = codec.round_trip(song)
    assert codec.decode(codec.encode(song)) == rounded
    assert codec.round_trip(rounded) == rounded


def test_round_trip_equals_a_reckoning_in_fractions(codec):
    """The slow reference: nearest steps, whole beats for long notes, nearest velocities, doubled notes merged."""
    step, levels = 40, [15, 31, 47, 63, 79, 95, 111, 127]

    def half_up(x: Fraction) -> int:
        return math.floor(x + Fraction(1, 2))

    for song in MADE:
        rounded = codec.round_trip(song)
        want = {}
        for t in song.notes:
            onset = half_up(Fraction(t.onset, step)) * step
            at = bisect_right([m[0] for m in rounded.meters], onset) - 1
            beat = {4: 480, 8: 240, 16: 120}[rounded.meters[at][2]]
            length = max(half_up(Fraction(t.end, step)) * step - onset, step)
            if length > 16 * beat:
                length = min(half_up(Fraction(length, beat)), 64) * beat
            key = (onset, t.pitch, 0 if t.is_drum else t.program, t.is_drum)
            velocity = min(levels, key=lambda level, t=t: (abs(level - t.velocity), level))
            longest, loudest = want.get(key, (0, 0))
            want[key] = (max(longest, length), max(loudest, velocity))
        assert {(t.onset, t.pitch, t.program, t.is_drum): (t.length, t.velocity) for t in rounded.notes} == want
        assert rounded.notes == tuple(sorted(rounded.notes))


def test_encode_gives_the_tokens_of_the_example(codec):
    song = song_of([SongNote(0, 60, 480, 80), SongNote(480, 36, 1, 127, 5, True)])
    start = ["Bar_None", "TimeSig_4/4", "Position_0", "Tempo_120.0", "Program_0", "Pitch_60", "Velocity_79"]
    end = ["Duration_1.0.12", "Position_12", "Program_-1", "Pitch_36", "Velocity_127", "Duration_0.1.12"]
    assert names(codec, codec.encode(song)) == start + end


@pytest.mark.parametrize("seed", range(8))
def test_encode_on_the_grid_gives_the_notes_of_miditok(codec, seed):
    """On the grid and in quarters nothing needs rounding, so miditok reads the same notes."""
    song = made(seed, meters=[(4, 4), (3, 4)], tidy=True)
    song = replace(codec.round_trip(song), tempos=((0, 120.0),))
    score = symusic.Score(QUARTER)
    score.tempos, score.time_signatures = [symusic.Tempo(0, 120)], [symusic.TimeSignature(*m) for m in song.meters]
    for t in song.notes:
        track = symusic.Track(program=t.program, is_drum=t.is_drum)
        track.notes.append(symusic.Note(t.onset, t.length, t.pitch, t.velocity))
        score.tracks.append(track)
    theirs = codec._tokenizer.decode(codec._tokenizer.encode(score))
    ours = codec.decode(codec.encode(song))
    scale = QUARTER // theirs.ticks_per_quarter
    theirs_in_ticks = [
        SongNote(n.time * scale, n.pitch, n.duration * scale, n.velocity, track.program, track.is_drum)
        for track in theirs.tracks
        for n in track.notes
    ]
    assert tuple(sorted(theirs_in_ticks)) == ours.notes == song.notes
    assert tuple((m.time * scale, m.numerator, m.denominator) for m in theirs.time_signatures) == ours.meters


def test_round_trip_on_the_grid_loses_nothing(codec):
    """The song has long rests, an upbeat of one quarter, and every pitch, program and drum."""
    keys = [SongNote(120 * k, k, 40 + 40 * k, 79) for k in range(128)]
    programs = [SongNote(480, 60, 480, 15, program) for program in range(128)]
    drums = [SongNote(480 * k, k, 120, 127, 0, True) for k in range(128)]
    late = [SongNote(480 + 200 * 1920, 60, 16 * 480, 127), SongNote(480 + 200 * 1920, 61, 64 * 480, 127)]
    song = song_of(
        [*keys, *programs, *drums, *late],
        480 + 300 * 1920,
        [(0, 60.55), (40, TEMPOS[0]), (250 * 1920, TEMPOS[-1])],
        [(0, 1, 4), (480, 4, 4)],
    )
    assert replace(codec.round_trip(song), id="s", source="s") == song
    assert replace(codec.decode(codec.encode(song)), id="s", source="s") == song


@pytest.mark.parametrize(
    ("meters", "written"),
    [
        ([], [(0, 4, 4)]),
        ([(960, 3, 4)], [(0, 3, 4)]),
        ([(0, 2, 2), (1920, 3, 2)], [(0, 4, 4), (1920, 6, 4)]),
        ([(0, 4, 4), (1900, 3, 4)], [(0, 4, 4), (1920, 3, 4)]),
        ([(0, 4, 4), (1000, 3, 4)], [(0, 4, 4), (1920, 3, 4)]),
        ([(0, 4, 4), (1000, 3, 4), (1500, 6, 8)], [(0, 4, 4), (1920, 6, 8)]),
        ([(0, 4, 4), (1000, 3, 4), (1500, 4, 4), (5760, 4, 4)], [(0, 4, 4)]),
        ([(0, 12, 8), (2880, 23, 32)], [(0, 6, 4), (2880, 3, 4)]),
    ],
)
def test_round_trip_moves_meters_to_bar_lines_and_nearest_known_ones(meters, written):
    codec = RemiCodec.fit([song_of([], 0, meters=[(0, 3, 4), (0, 6, 8), (0, 3, 2)])])
    song = song_of([SongNote(40 * k, 60, 40) for k in range(200)], meters=meters)
    decoded = codec.decode(codec.encode(song))
    assert decoded.meters == codec.round_trip(song).meters == tuple(written)
    assert [t.onset for t in decoded.notes] == [t.onset for t in song.notes]
    assert decoded.ticks == Song("", "", (), decoded.ticks + 1, meters=decoded.meters).bars()[-1]


def test_decode_of_encode_keeps_tempos_within_half_a_class(codec):
    for qpm in np.geomspace(24, 315, 200):
        song = song_of([SongNote(0, 60, 480)], tempos=[(0, float(qpm)), (100, 24.0 if qpm > 60 else 300.0)])
        (_, first), (at, _) = codec.decode(codec.encode(song)).tempos
        assert abs(np.log(first / qpm)) <= np.log(5) / 80 + 1e-4
        assert at == 120


def test_round_trip_of_an_empty_song_is_one_bar(codec):
    silence = codec.decode(codec.encode(song_of([], tempos=[], meters=[])))
    assert silence == Song("remi", "remi", (), 1920)
    assert codec.decode(np.zeros((0, 1), np.int64)) == Song("remi", "remi", (), 0)


@pytest.mark.parametrize("name", SETTINGS)
def test_decode_with_later_codes_keeps_the_prompt(codecs, name):
    codec, rng = codecs[name], np.random.default_rng(1)
    for song in MADE[:15]:
        prompt = codec.encode(song)
        longer = codec.decode(np.concatenate([prompt, walk(codec, rng, 100)]))
        before = codec.round_trip(song)
        assert set(before.notes) <= set(longer.notes)
        assert longer.ticks > before.ticks
        assert longer.meters[: len(before.meters)] == before.meters


def test_encode_of_a_prompt_begins_the_codes_of_the_song(codecs):
    notes = [SongNote(480 * k, 60 + k % 5, 480, 79) for k in range(64)]
    song, prompt = song_of(notes), song_of(notes[:20])
    for codec in codecs.values():
        whole, part = codec.encode(song), codec.encode(prompt)
        np.testing.assert_array_equal(whole[: len(part)], part)


@pytest.mark.parametrize("name", SETTINGS)
def test_encode_obeys_the_grammar(codecs, name):
    codec = codecs[name]
    for song in MADE:
        codes = codec.encode(song)[:, 0]
        assert codec.opens[codes[0]]
        assert codec.follows[codes[:-1], codes[1:]].all()


@pytest.mark.parametrize("name", SETTINGS)
def test_D08_decode_of_random_walks_gives_songs(codecs, name):
    codec = codecs[name]
    assert codec.follows.shape == (*codec.vocabulary, *codec.vocabulary)
    assert codec.follows.any(axis=1).all()
    assert {codec._tokens[k][0] for k in np.flatnonzero(codec.opens)} == {"Bar_None"}
    special = [k for k, tokens in enumerate(codec._tokens) if not tokens or tokens[0].startswith("PAD")]
    assert special
    assert not codec.follows[:, special].any()
    before_meters = codec.follows[:, [bool(t) and t[0].startswith("TimeSig") for t in codec._tokens]].any(axis=1)
    assert {codec._tokens[k][-1] for k in np.flatnonzero(before_meters)} <= {"Bar_None", "PAD_None"}
    for seed in range(5):
        codes = walk(codec, np.random.default_rng(seed), 500)
        decoded = codec.decode(codes)
        tokens = names(codec, codes)
        incomplete = sum(token.startswith("Pitch") for token in tokens[-2:])
        doubles = sum(t.startswith("Pitch") for t in tokens) - incomplete - len(decoded.notes)
        assert len(decoded.notes) > 10
        assert doubles <= 0.02 * len(decoded.notes)
        assert codec.decode(codec.encode(decoded)) == codec.round_trip(decoded)
        assert max(t.end for t in decoded.notes) <= decoded.ticks


@QUIET
@given(st.data())
def test_decode_of_any_codes_gives_a_song(codecs, data):
    codec = codecs[data.draw(st.sampled_from(sorted(codecs)))]
    codes = data.draw(st.lists(st.integers(0, codec.vocabulary[0] - 1), max_size=60))
    like = data.draw(st.sampled_from([None, MADE[3], MADE[4]]))
    decoded = codec.decode(np.array(codes, np.int64)[:, None], like)
    assert decoded.tempos
    assert all(0 <= t.onset < t.end <= decoded.ticks for t in decoded.notes)
    assert codec.decode(codec.encode(decoded)) == codec.round_trip(decoded)


def test_decode_ignores_incomplete_notes_and_meters_within_bars(codec):
    code = {tokens[0]: k for k, tokens in enumerate(codec._tokens)}
    note = ["Program_0", "Pitch_60", "Velocity_79", "Duration_1.0.12"]
    louder = [*note[:2], "Velocity_127", "Duration_2.0.12"]  # of a note that is there already: the first one stays
    tokens = ["Bar_None", "TimeSig_3/4", "Position_12", *note[:3], *note, "TimeSig_4/4", *louder, "Velocity_79"]
    tokens += ["Bar_None", "PAD_None", "Position_0", *note[1:], *note[:2]]
    decoded = codec.decode(np.array([code[token] for token in tokens])[:, None])
    assert decoded.notes == (SongNote(480, 60, 480, 79), SongNote(1440, 60, 480, 79))
    assert decoded.meters == ((0, 3, 4),)
    assert decoded.ticks == 2880


@pytest.mark.parametrize("wrong", [-1, 10_000])
def test_decode_of_unknown_codes_is_refused(codec, wrong):
    with pytest.raises(ValueError, match=f"codes must lie in 0 ... {codec.vocabulary[0] - 1}, got {wrong}"):
        codec.decode(np.array([[1], [wrong]]))


def test_decode_without_tempo_and_meter_takes_those_of_like(codec):
    code = {tokens[0]: k for k, tokens in enumerate(codec._tokens)}
    note = ["Program_0", "Pitch_60", "Velocity_79", "Duration_1.0.12"]
    like = song_of([], 9600, [(0, 77.0), (480, 99.0)], [(0, 3, 4)])
    plain = np.array([code[t] for t in ["Bar_None", "Position_0", *note, "Bar_None", "Position_0", *note]])[:, None]
    assert codec.decode(plain).meters == ((0, 4, 4),)
    assert codec.decode(plain).tempos == ((0, 120.0),)
    assert [t.onset for t in codec.decode(plain, like).notes] == [0, 1440]
    assert codec.decode(plain, like).meters == like.meters
    assert codec.decode(plain, like).tempos == like.tempos
    late = np.array([code[t] for t in ["Bar_None", "TimeSig_4/4", "Position_6", "Tempo_60.55", *note]])[:, None]
    assert codec.decode(late, like).meters == ((0, 4, 4),)
    assert codec.decode(late, like).tempos == ((0, 77.0), (240, 60.55))
    assert codec.decode(late).tempos == ((0, 60.55),)


@pytest.mark.parametrize("name", SETTINGS)
def test_D01_codec_from_its_json_is_equal(codecs, name):
    codec = codecs[name]
    text = json.dumps(codec.to_dict())
    again = RemiCodec.from_dict(json.loads(text))
    assert json.dumps(again.to_dict()) == text
    assert again.vocabulary == codec.vocabulary
    np.testing.assert_array_equal(again.follows, codec.follows)
    np.testing.assert_array_equal(again.opens, codec.opens)
    for song in MADE[:10]:
        np.testing.assert_array_equal(again.encode(song), codec.encode(song))
        assert again.round_trip(song) == codec.round_trip(song)
        assert again.decode(codec.encode(song)) == codec.round_trip(song)


def test_from_dict_of_another_dictionary_is_refused_in_one_line(codec):
    data = codec.to_dict()
    others = [{}, [], {"kind": "roll"}, {**data, "tokenizer": None}, {**data, "vocabulary": 7}]
    others.append({**data, "tokenizer": {**data["tokenizer"], "config": {"beat_res": 3}}})
    for other in others:
        with pytest.raises(ValueError, match=r"^not a REMI codec[^\n]*$"):
            RemiCodec.from_dict(other)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"steps_per_quarter": 16}, "got 16"),
        ({"steps_per_quarter": 0}, "got 0"),
        ({"velocities": 128}, "got 128"),
        ({"bpe": 300}, "got 300"),
    ],
)
def test_fit_with_impossible_settings_is_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        RemiCodec.fit(MADE, **wrong)


def test_fit_with_bpe_shortens_codes_and_is_deterministic(codecs):
    repeating = [song_of([SongNote(240 * k, 60 + k % 8, 240, 80) for k in range(64)])]
    plain, joined = RemiCodec.fit(repeating), RemiCodec.fit(repeating, bpe=700)
    assert len(joined.encode(repeating[0])) < len(plain.encode(repeating[0])) / 4
    assert RemiCodec.fit(repeating, bpe=700).to_dict() == joined.to_dict()
    assert codecs["joined"].vocabulary == (900,)
    hardly = RemiCodec.fit(repeating, bpe=plain.vocabulary[0] + 1)  # room for the mark of a beginning, and no join
    np.testing.assert_array_equal(hardly.encode(repeating[0]), plain.encode(repeating[0]))
    nothing = RemiCodec.fit([], bpe=2000)
    assert nothing.decode(nothing.encode(repeating[0])) == plain.round_trip(repeating[0])


def test_codec_prints_nothing_and_opens_no_connection(capfd, monkeypatch, recwarn):
    def refuse(*_, **__):
        raise AssertionError("a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    codec = RemiCodec.from_dict(RemiCodec.fit(MADE, bpe=800).to_dict())
    codec.decode(codec.encode(MADE[0]))
    print("still printed")
    assert capfd.readouterr() == ("still printed\n", "")
    assert not recwarn.list


def test_import_loads_no_large_package():
    code = "import sys, continuo.symbolic.remi; print(*{'miditok', 'symusic', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.slow
@pytest.mark.skipif(not MIDI.is_dir(), reason="the shared MIDI files are not here")
@pytest.mark.parametrize("bpe", [0, 1200])
def test_codec_on_real_files_decodes_what_it_encodes(bpe):
    paths = [p for p in sorted(MIDI.rglob("*.mid")) if p.stat().st_size < 40_000]
    songs = []
    for path in paths[:: len(paths) // 60]:
        try:
            songs.append(of_real_file(path))
        except (RuntimeError, ValueError):
            continue  # malformed on purpose
    assert len(songs) >= 50
    codec = RemiCodec.fit(songs, bpe=bpe)
    exact = 0
    for song in songs:
        rounded = codec.round_trip(song)
        assert codec.decode(codec.encode(song)) == rounded
        exact += [(t.onset, t.pitch, t.length) for t in rounded.notes] == [
            (t.onset, t.pitch, t.length) for t in song.notes
        ]
    assert exact > len(songs) / 2  # most are on the grid, and nothing but velocities changes


def test_meters_of_halves_are_in_quarters_and_tempos_the_nearest_known():
    assert (remi._in_quarters(3, 2), remi._in_quarters(6, 8)) == ((6, 4), (6, 8))
    assert (remi._nearest_tempo(121), remi._nearest_tempo(1)) == (120.0, 24.0)
