"""Songs as REMI+ tokens: bars with their meter, positions, tempos, and the notes of all programs in one stream.

Huang and Yang, Pop Music Transformer, 2020 (REMI); von Rütte et al., FIGARO, 2022 (REMI+); the tokens are miditok's.
A note is four of them, Program, Pitch, Velocity and Duration, at the time of the last Bar and Position before it:

    Bar  TimeSig_4/4  Position_0  Tempo_120.0  Program_0  Pitch_60  Velocity_79  Duration_1.0.12  Position_12 ...

miditok counts positions and durations in beats of the meter in force: 12 are a quarter in 4/4 and an eighth in 6/8.
Songs are rounded to one grid in all meters, so that eighths use every other position and sixteenths every fourth.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import tempfile
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from continuo.symbolic.song import DEFAULT_METER, DEFAULT_QPM, QUARTER, Song, SongNote

TEMPOS = tuple(round(24 * 5 ** (k / 40), 2) for k in range(65))
"""Known tempos, quarter notes per minute: 24 to 315.18, 4.1 % apart, 120 among them."""
DENOMINATORS, MAX_BEATS = (4, 8, 16), 16
"""Meters that can be known; the vocabulary has `steps_per_quarter` positions for every beat of the longest one."""
NEAR_BEATS, FAR_BEATS = 16, 64
"""Lengths up to the first are on the grid, from there up to the second in whole beats."""
BAR, METER, TEMPO, DRUMS = "Bar_None", "TimeSig_", "Tempo_", -1
"""Of miditok's tokens; the last is its program of the percussion channel."""

Notes = dict[tuple[int, int, int], tuple[int, int]]  # (onset, pitch, program or DRUMS) to (length, velocity)
Meters = list[tuple[int, tuple[int, int]]]  # tick and meter


class RemiCodec:
    """Songs to codes and back; made by `fit` or `from_dict`.

    Attributes:
        vocabulary: (V,), the number of codes; there is one level.
        follows: `(V, V)` bool, whether code b may follow code a: miditok's graph of token types for the last type of a
            and the first of b, but a meter follows a bar line only. Padding follows nothing.
        opens: `(V,)` bool, whether a code may begin a song.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._tokens = _tokens_of_codes(tokenizer)
        self._known = sorted((n, d) for n, d in tokenizer.time_signatures)
        self._step: int = QUARTER // tokenizer.config.max_num_pos_per_beat  # ticks
        levels = np.arange(1, tokenizer.config.num_velocities + 1) * 127 // tokenizer.config.num_velocities
        self._level_of: list[int] = levels[np.abs(np.arange(128)[:, None] - levels).argmin(axis=1)].tolist()
        self.vocabulary = (len(self._tokens),)
        self.follows, self.opens = _grammar(tokenizer.tokens_types_graph, self._tokens)

    @classmethod
    def fit(cls, songs: Sequence[Song], *, steps_per_quarter: int = 12, velocities: int = 8, bpe: int = 0) -> RemiCodec:
        """The codec for a corpus: it knows the meters met there, 4/4, and every pitch, program and drum.

        Args:
            songs: their meters are known if they have at most 16 beats of a quarter, an eighth or a sixteenth.
            steps_per_quarter: of the grid for onsets and lengths; 4, 8, 12, 20, 24, 40, 60 or 120.
            velocities: levels, evenly spaced, 1 to 127.
            bpe: size of the vocabulary up to which byte pair encoding joins tokens within a bar; 0 joins none. Where
                nothing is left to join, the vocabulary stays smaller.

        Raises:
            ValueError: steps_per_quarter, velocities or bpe out of range.
        """
        if steps_per_quarter < 4 or steps_per_quarter % 4 or 120 % steps_per_quarter:
            raise ValueError(f"steps_per_quarter must be 4, 8, 12, 20, 24, 40, 60 or 120, got {steps_per_quarter}")
        if not 1 <= velocities <= 127:
            raise ValueError(f"velocities must lie in 1 ... 127, got {velocities}")
        met = {DEFAULT_METER} | {_in_quarters(n, d) for song in songs for _, n, d in song.meters}
        beats = {d: sorted(n for n, of in met if of == d and 1 <= n <= MAX_BEATS) for d in DENOMINATORS}
        config = _miditok().TokenizerConfig(
            pitch_range=(0, 127),
            beat_res={(0, NEAR_BEATS): steps_per_quarter, (NEAR_BEATS, FAR_BEATS): 1},
            num_velocities=velocities,
            special_tokens=["PAD"],  # miditok cannot do without
            encode_ids_split="bar",
            use_programs=True,
            use_pitchdrum_tokens=False,  # Program_-1 says it, and all 128 keys may be drums
            use_tempos=True,
            num_tempos=len(TEMPOS),
            tempo_range=(24, 24 * 5**1.6),
            log_tempos=True,
            use_time_signatures=True,
            time_signature_range={d: numerators for d, numerators in beats.items() if numerators},
        )
        tokenizer = _miditok().REMI(config)
        codec = cls(tokenizer)
        if not bpe:
            return codec
        if bpe <= len(tokenizer):
            raise ValueError(f"bpe must be 0 or more than the {len(tokenizer)} tokens there are to join, got {bpe}")
        bars = [[tokenizer._ids_to_bytes(bar.ids, True) for bar in codec._bars(song)] for song in songs]
        with _native_output_hidden():  # a progress bar that has no switch
            tokenizer.train(vocab_size=bpe, model="BPE", iterator=bars)
        return cls(tokenizer)

    def round_trip(self, song: Song) -> Song:
        """What the codes keep; `decode(encode(song))` equals it.

        - Onsets and ends go to the nearest step, halves to the later one; a note lasts a step at least. Lengths of more
          than 16 beats become whole beats, and at most 64.
        - Notes of equal onset, pitch and program become one, with the longest length and the greatest velocity.
        - Velocities become the nearest level, halves the softer one; drums lose their program.
        - Tempos become the nearest known one, on a log scale, at the nearest step; 120 if there is none.
        - Meters hold from a bar line on: a change within a bar is put off until the next one. 2/2 becomes 4/4, and so
          on; an unknown meter becomes the known one of nearest bar length, and its bar lines are lost.
        - The end is a bar line: ticks are the whole bars, one at least, in which the song and its last note end.
        - Changes of tempo and meter that change nothing, `ends`, and what the song is called, are lost.
        """
        meters = self._meters(song)
        places = [at for at, _ in meters]
        notes: Notes = {}
        for note in song.notes:
            onset = self._nearest_step(note.onset)
            length = max(self._nearest_step(note.end) - onset, self._step)
            beat = 4 * QUARTER // meters[bisect_right(places, onset) - 1][1][1]
            if length > NEAR_BEATS * beat:
                length = min((2 * length + beat) // (2 * beat), FAR_BEATS) * beat
            key = (onset, note.pitch, DRUMS if note.is_drum else note.program)
            longest, loudest = notes.get(key, (0, 0))
            notes[key] = (max(length, longest), max(self._level_of[note.velocity], loudest))
        tempos = [(self._nearest_step(at) if k else 0, _nearest_tempo(qpm)) for k, (at, qpm) in enumerate(song.tempos)]
        return _song(notes, max(self._nearest_step(song.ticks), 1), tempos, meters)

    def _nearest_step(self, tick: int) -> int:
        return (2 * tick + self._step) // (2 * self._step) * self._step

    def _meters(self, song: Song) -> Meters:
        found: Meters = []
        for at, numerator, denominator in song.meters or ((0, *DEFAULT_METER),):
            line = _bar_line(found[-1], self._nearest_step(at)) if found else 0
            _change(found, line, self._nearest_meter(numerator, denominator))
        return found

    def _nearest_meter(self, numerator: int, denominator: int) -> tuple[int, int]:
        n, d = _in_quarters(numerator, denominator)
        return min(self._known, key=lambda meter: ((n, d) != meter, abs(n / d - meter[0] / meter[1])))

    def encode(self, song: Song) -> np.ndarray:
        """All codes of a song, rounded as `quantised` says; bars without notes too, up to its end.

        Shape:
            (T, 1) int64.
        """
        bars = self._bars(song)
        if self._tokenizer.is_trained:
            self._tokenizer.encode_token_ids(bars)
        return np.array([code for bar in bars for code in bar.ids if self._tokens[code]], dtype=np.int64)[:, None]

    def _bars(self, song: Song) -> list[Any]:
        """miditok's sequences of single tokens, one for each bar."""
        score = self._score(self.round_trip(song))
        ids = self._tokenizer.encode(score, encode_ids=False, no_preprocess_score=True).ids
        starts = [k for k, code in enumerate(ids) if self._tokenizer[code] == BAR]
        return [_miditok().TokSequence(ids=ids[a:b]) for a, b in pairwise([*starts, len(ids)])]

    def _score(self, song: Song) -> Any:
        """A quantised song as symusic has it, a track for each program, in miditok's ticks."""
        import symusic

        score = symusic.Score(self._tokenizer.time_division)
        ticks = lambda tick: tick * score.ticks_per_quarter // QUARTER  # noqa: E731
        # The last bar's meter once more: miditok writes bars only up to the last event.
        meters = dict.fromkeys([*song.meters, (song.bars()[-1], *song.meters[-1][1:])])
        score.time_signatures = [symusic.TimeSignature(ticks(at), n, d) for at, n, d in meters]
        score.tempos = [symusic.Tempo(ticks(at), qpm) for at, qpm in song.tempos]
        for program in sorted({DRUMS if t.is_drum else t.program for t in song.notes}):
            notes = [t for t in song.notes if (DRUMS if t.is_drum else t.program) == program]
            track = symusic.Track(program=max(program, 0), is_drum=program == DRUMS)
            track.notes = [symusic.Note(ticks(t.onset), ticks(t.length), t.pitch, t.velocity) for t in notes]
            score.tracks.append(track)
        return score

    def decode(self, codes: np.ndarray, like: Song | None = None) -> Song:
        """The song of any codes; what makes no sense is passed over.

        That is: tokens of incomplete notes, notes that are there already (equal onset, pitch and program), and meters
        that do not follow a bar line. What comes later changes no note that was there before.

        Args:
            codes: `(T, 1)`.
            like: its first meter holds where the codes begin with none, its tempos hold up to the first one of the
                codes. Without it: miditok's 4/4; the codes' first tempo, or 120.

        Raises:
            ValueError: a code is not in the vocabulary.
        """
        flat = np.asarray(codes, dtype=np.int64).reshape(-1).tolist()
        if strange := [code for code in flat if not 0 <= code < len(self._tokens)]:
            raise ValueError(f"codes must lie in 0 ... {len(self._tokens) - 1}, got {strange[0]}: of another codec?")
        tokens = [token for code in flat for token in self._tokens[code]]
        tokens = [b for a, b in pairwise(["", *tokens]) if a == BAR or not b.startswith(METER)]
        if like and not "".join(tokens[1:2]).startswith(METER):
            tokens.insert(0, "{}{}/{}".format(METER, *self._nearest_meter(*like.meter_at(0))))
        tokens += [BAR, "Position_0", f"{TEMPO}{TEMPOS[0]}"]  # this tempo's time will be the last bar's end
        score = self._tokenizer.decode(_miditok().TokSequence(tokens=tokens))
        scale = QUARTER // score.ticks_per_quarter
        notes: Notes = {}
        for track in score.tracks:
            program = DRUMS if track.is_drum else track.program
            for note in track.notes:
                notes.setdefault((note.time * scale, note.pitch, program), (note.duration * scale, note.velocity))
        meters = [(t.time * scale, (t.numerator, t.denominator)) for t in score.time_signatures]
        # Where the codes' first tempo comes late, miditok puts a default before it.
        count = sum(token.startswith(TEMPO) for token in tokens)
        *said, (end, _) = [(t.time * scale, round(t.tempo, 2)) for t in score.tempos][-count:]
        before = [change for change in (like.tempos if like else ()) if change[0] < min(said, default=(math.inf,))[0]]
        return _song(notes, end, before + sorted(said, key=lambda change: change[0]), meters)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; `from_dict` gives an equal codec back."""
        tokenizer = json.loads(json.dumps(self._tokenizer.to_dict()))
        return {"kind": "remi", "vocabulary": len(self._tokens), "tokenizer": tokenizer}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> RemiCodec:
        """The codec that `to_dict` described.

        Raises:
            ValueError: the dictionary is of another kind, or this version of miditok makes another vocabulary of it.
        """
        if not isinstance(data, dict) or data.get("kind") != "remi":
            raise ValueError("not a REMI codec")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "tokenizer.json")
            path.write_text(json.dumps(data.get("tokenizer")), encoding="utf-8")
            try:
                codec = cls(_miditok().REMI(params=path))
            except Exception as error:  # miditok checks nothing, and tokenizers has no exception of its own
                raise ValueError(f"not a REMI codec ({type(error).__name__}: {' '.join(str(error).split())})") from None
        if codec.vocabulary[0] != data.get("vocabulary"):
            raise ValueError(f"not a REMI codec: {data.get('vocabulary')} codes, miditok makes {codec.vocabulary[0]}")
        return codec


def _miditok() -> Any:
    """miditok, imported late because it takes a second."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # else it warns when a process is forked later
    return importlib.import_module("miditok")


def _in_quarters(numerator: int, denominator: int) -> tuple[int, int]:
    """A meter of whole or half notes in quarters, any other as it is.

    >>> _in_quarters(3, 2), _in_quarters(6, 8)
    ((6, 4), (6, 8))
    """
    return (numerator * 4 // denominator, 4) if denominator in (1, 2) else (numerator, denominator)


def _nearest_tempo(qpm: float) -> float:
    """The known tempo at the smallest ratio.

    >>> _nearest_tempo(121), _nearest_tempo(1)
    (120.0, 24.0)
    """
    return TEMPOS[min(max(round(40 * math.log(qpm / 24, 5)), 0), len(TEMPOS) - 1)]


def _bar_line(change: tuple[int, tuple[int, int]], tick: int) -> int:
    """The first bar line at or after a tick, by a meter that came before; never before the meter."""
    at, (numerator, denominator) = change
    bar = numerator * 4 * QUARTER // denominator
    return at + max(0, math.ceil((tick - at) / bar)) * bar


def _change(found: list[tuple[int, Any]], at: int, value: Any) -> None:
    """Append a change: the last one at a tick counts, the first one from tick 0 on, and none that changes nothing."""
    if found and found[-1][0] == at:
        found.pop()
    if not found or found[-1][1] != value:
        found.append((at if found else 0, value))


def _song(notes: Notes, end: int, tempos: Iterable[tuple[int, float]], meters: Meters) -> Song:
    """A song of whole bars, up to a tick or the last note's end; changes come sorted by tick."""
    found = [SongNote(key[0], key[1], *value, max(key[2], 0), key[2] == DRUMS) for key, value in notes.items()]
    end = max([end, *(note.end for note in found)])
    used: Meters = []
    for at, meter in meters:
        if at < max(end, 1):
            _change(used, at, meter)
    ticks = _bar_line(used[-1], end)
    heard: list[tuple[int, float]] = []
    for at, qpm in tempos:
        if at < max(ticks, 1):
            _change(heard, at, qpm)
    changes = tuple((at, *meter) for at, meter in used)
    return Song("remi", "remi", tuple(sorted(found)), ticks, tuple(heard or [(0, DEFAULT_QPM)]), changes)


def _tokens_of_codes(tokenizer: Any) -> list[tuple[str, ...]]:
    """One token, several that BPE has joined, or none: BPE's own mark of a beginning."""
    found = []
    for code in range(len(tokenizer)):
        sequence = _miditok().TokSequence(ids=[code], are_ids_encoded=tokenizer.is_trained)
        tokenizer.decode_token_ids(sequence)
        found.append(tuple(tokenizer[single] for single in sequence.ids))
    return found


def _grammar(graph: Mapping[str, set[str]], tokens: list[tuple[str, ...]]) -> tuple[np.ndarray, np.ndarray]:
    """`follows` and `opens`; a code without tokens follows nothing, a bar line follows it."""
    first, last = ([found[end].split("_")[0] if found else "" for found in tokens] for end in (0, -1))
    opens = np.array([kind == "Bar" for kind in first])
    rows = {"": opens}
    for kind, followers in graph.items():
        allowed = followers - {"PAD"} - ({"TimeSig"} if kind == "Tempo" else set())
        rows[kind] = np.array([kind in allowed for kind in first])
    return np.stack([rows[kind] for kind in last]), opens


@contextmanager
def _native_output_hidden() -> Iterator[None]:
    """Nothing goes to the process's standard output and error, below Python's own."""
    kept = {number: os.dup(number) for number in (1, 2)}
    with open(os.devnull, "wb") as sink:
        for number in kept:
            os.dup2(sink.fileno(), number)
        try:
            yield
        finally:
            for number, copy in kept.items():
                os.dup2(copy, number)
                os.close(copy)
