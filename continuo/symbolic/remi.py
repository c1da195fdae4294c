"""Encode songs as REMI+ tokens: bars with their meter, positions, tempos, and the notes of all programs.

Huang and Yang, Pop Music Transformer, 2020 (REMI); von Rütte et al., FIGARO, 2022 (REMI+). The tokens are those of
miditok. A note is four tokens, Program, Pitch, Velocity and Duration, at the time of the last Bar and Position:

    Bar  TimeSig_4/4  Position_0  Tempo_120.0  Program_0  Pitch_60  Velocity_79  Duration_1.0.12  Position_12 ...

miditok counts positions and durations in beats of the meter in force: 12 are a quarter in 4/4 and an eighth in 6/8.
Songs are rounded to one grid in all meters, so eighths use every second position and sixteenths every fourth.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import tempfile
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from continuo.model.metadata import Json
from continuo.symbolic.codec import NoteCodec
from continuo.symbolic.grid import effective_changes, nearest_step
from continuo.symbolic.song import DEFAULT_METER, DEFAULT_QPM, QUARTER, Song, SongNote

if TYPE_CHECKING:
    from miditok import REMI, TokenizerConfig, TokSequence

TEMPOS = tuple(round(24 * 5 ** (k / 40), 2) for k in range(65))  # quarter notes per minute: 24 to 315.18, 4.1 % apart
DENOMINATORS = (4, 8, 16)  # of the meters in a vocabulary
MAX_BEATS = 16  # of the meters in a vocabulary
MAX_GRID_BEATS = 16  # lengths up to here are on the grid, longer ones are whole beats
MAX_LENGTH_BEATS = 64  # of a note
BAR, METER, TEMPO = "Bar_None", "TimeSig_", "Tempo_"  # tokens of miditok, or how they begin
DRUMS = -1  # the program that miditok uses for the percussion channel

Notes = dict[tuple[int, int, int], tuple[int, int]]  # onset, pitch and program or DRUMS: length and velocity
Meter = tuple[int, int, int]  # tick, numerator and denominator of a change


class RemiCodec(NoteCodec):
    """Converts songs to REMI+ codes and back; made by `fit` or `from_dict`. There is one level.

    `follows` is the grammar of miditok, but a meter follows a bar line only. Padding follows nothing.
    """

    def __init__(self, tokenizer: REMI) -> None:
        self._tokenizer = tokenizer
        self._tokens = _tokens_of_codes(tokenizer)
        self._meters = sorted(tokenizer.time_signatures)
        self._step = QUARTER // tokenizer.config.max_num_pos_per_beat  # ticks
        velocities = np.arange(1, tokenizer.config.num_velocities + 1) * 127 // tokenizer.config.num_velocities
        nearest = np.abs(np.arange(128)[:, None] - velocities).argmin(axis=1)
        self._velocity: list[int] = velocities[nearest].tolist()  # the nearest one in the vocabulary
        self.follows, self.opens = _grammar(tokenizer.tokens_types_graph, self._tokens)

    @property
    def vocabulary(self) -> tuple[int, ...]:
        return (len(self._tokens),)

    @classmethod
    def fit(cls, songs: Sequence[Song], *, steps_per_quarter: int = 12, velocities: int = 8, bpe: int = 0) -> RemiCodec:
        """Return the codec for a corpus, with its meters, 4/4, and every pitch, program and drum.

        Args:
            songs: the corpus; meters count if they have at most 16 beats of a quarter, an eighth or a sixteenth.
            steps_per_quarter: grid of onsets and lengths: 4, 8, 12, 20, 24, 40, 60 or 120.
            velocities: number of velocities, evenly spaced, 1 to 127.
            bpe: size of the vocabulary up to which byte pair encoding joins tokens within a bar; 0 joins none. The
                vocabulary stays smaller if there is nothing left to join.

        Raise ValueError if an argument is out of range.
        """
        tokenizer = _miditok().REMI(_config(songs, steps_per_quarter, velocities))
        codec = cls(tokenizer)
        if not bpe:
            return codec
        if bpe <= len(tokenizer):
            raise ValueError(f"bpe must be 0 or more than the {len(tokenizer)} tokens there are to join, got {bpe}")
        bars = [[tokenizer._ids_to_bytes(bar.ids, True) for bar in codec._bars(song)] for song in songs]
        with _native_output_hidden():  # the tokenizer's progress bar has no switch
            tokenizer.train(vocab_size=bpe, model="BPE", iterator=bars)
        return cls(tokenizer)

    def round_trip(self, song: Song) -> Song:
        """Return what the codes keep of a song; `decode(encode(song))` equals it.

        - Onsets and ends go to the nearest step, halves to the later one; a note lasts at least one step. Lengths of
          more than 16 beats become whole beats, at most 64.
        - Notes of equal onset, pitch and program become one, with the greatest length and velocity.
        - Velocities become the nearest one known, halves the softer one; drums lose their program.
        - Tempos become the nearest known one by ratio, at the nearest step; 120 if there is none.
        - Meters begin at bar lines: a change within a bar waits for the next one. 2/2 becomes 4/4, and so on; an
          unknown meter becomes the known one with the nearest bar length, and its bar lines are lost.
        - The end is a bar line: there are whole bars, at least one, up to the end of the song and of its last note.
        - Changes of tempo and meter that change nothing, `has_ending`, id and source are lost.
        """
        meters = self._nearest_meters(song)
        places = [at for at, _, _ in meters]
        notes: Notes = {}
        for note in song.notes:
            onset = self._nearest_tick(note.onset)
            length = max(self._nearest_tick(note.end) - onset, self._step)
            beat = 4 * QUARTER // meters[bisect_right(places, onset) - 1][2]
            if length > MAX_GRID_BEATS * beat:
                length = min(nearest_step(length, beat), MAX_LENGTH_BEATS) * beat
            key = (onset, note.pitch, DRUMS if note.is_drum else note.program)
            longest, loudest = notes.get(key, (0, 0))
            notes[key] = (max(length, longest), max(self._velocity[note.velocity], loudest))
        tempos = [(self._nearest_tick(at) if k else 0, _nearest_tempo(qpm)) for k, (at, qpm) in enumerate(song.tempos)]
        return _song(notes, max(self._nearest_tick(song.ticks), 1), tempos, meters)

    def _nearest_tick(self, tick: int) -> int:
        return nearest_step(tick, self._step) * self._step

    def _nearest_meters(self, song: Song) -> list[Meter]:
        """Return the changes of meter with known meters, at bar lines."""
        found: list[Meter] = []
        for at, *meter in song.meters or ((0, *DEFAULT_METER),):
            line = _bar_line(found[-1], self._nearest_tick(at)) if found else 0
            found.append((line, *self._nearest_meter(*meter)))
        return effective_changes(found, math.inf)

    def _nearest_meter(self, numerator: int, denominator: int) -> tuple[int, int]:
        n, d = _in_quarters(numerator, denominator)
        return min(self._meters, key=lambda meter: ((n, d) != meter, abs(n / d - meter[0] / meter[1])))

    def encode(self, song: Song) -> np.ndarray:
        """Return the codes `(T, 1)` int64 of a song, rounded as by `round_trip`, with empty bars up to its end."""
        bars = self._bars(song)
        if self._tokenizer.is_trained:
            self._tokenizer.encode_token_ids(bars)
        return np.array([code for bar in bars for code in bar.ids if self._tokens[code]], dtype=np.int64)[:, None]

    def _bars(self, song: Song) -> list[TokSequence]:
        """Return a sequence of single tokens for each bar."""
        rounded = self.round_trip(song)
        # Repeat the meter at the last bar line, because miditok writes bars only up to the last event.
        meters = dict.fromkeys([*rounded.meters, (rounded.bars()[-1], *rounded.meters[-1][1:])])
        score = replace(rounded, meters=tuple(meters)).to_symusic(self._tokenizer.time_division)
        score.tracks = sorted(score.tracks, key=lambda track: not track.is_drum)  # in the order of miditok's programs
        ids = self._tokenizer.encode(score, encode_ids=False, no_preprocess_score=True).ids
        starts = [k for k, code in enumerate(ids) if self._tokenizer[code] == BAR]
        return [_miditok().TokSequence(ids=ids[a:b]) for a, b in pairwise([*starts, len(ids)])]

    def decode(self, codes: np.ndarray, like: Song | None = None) -> Song:
        """Return the song of any codes. Later codes never change earlier notes.

        Ignored are incomplete notes, repeated notes of one onset, pitch and program, and meters within a bar.

        Args:
            codes: `(T, 1)`; ValueError if one is not in the vocabulary.
            like: lends its first meter if the codes do not begin with one, and its tempos up to the first one of the
                codes. Without it the meter is 4/4 and the tempo the first one of the codes, or 120.
        """
        flat = np.asarray(codes, dtype=np.int64).reshape(-1).tolist()
        if unknown := [code for code in flat if not 0 <= code < len(self._tokens)]:
            raise ValueError(f"codes must lie in 0 ... {len(self._tokens) - 1}, got {unknown[0]}: of another codec?")
        tokens = [token for code in flat for token in self._tokens[code]]
        tokens = [b for a, b in pairwise(["", *tokens]) if a == BAR or not b.startswith(METER)]
        if like and not "".join(tokens[1:2]).startswith(METER):
            tokens.insert(0, "{}{}/{}".format(METER, *self._nearest_meter(*like.meter_at(0))))
        tokens += [BAR, "Position_0", f"{TEMPO}{TEMPOS[0]}"]  # the time of this tempo will be the end of the last bar
        score = self._tokenizer.decode(_miditok().TokSequence(tokens=tokens))
        scale = QUARTER // score.ticks_per_quarter
        notes: Notes = {}
        for track in score.tracks:
            program = DRUMS if track.is_drum else track.program
            for note in track.notes:
                notes.setdefault((note.time * scale, note.pitch, program), (note.duration * scale, note.velocity))
        meters = [(t.time * scale, t.numerator, t.denominator) for t in score.time_signatures]
        # miditok puts a default before the codes' first tempo if that comes late.
        count = sum(token.startswith(TEMPO) for token in tokens)
        *tempos, (end, _) = [(t.time * scale, round(t.tempo, 2)) for t in score.tempos][-count:]
        first = min((at for at, _ in tempos), default=math.inf)
        before = [change for change in (like.tempos if like else ()) if change[0] < first]
        return _song(notes, end, [*before, *sorted(tempos, key=lambda change: change[0])], meters)

    def to_dict(self) -> Json:
        tokenizer = json.loads(json.dumps(self._tokenizer.to_dict()))
        return {"kind": "remi", "vocabulary": len(self._tokens), "tokenizer": tokenizer}

    @classmethod
    def from_dict(cls, data: Json) -> RemiCodec:
        """Return the codec that `to_dict` described; ValueError if this miditok reads none, or another one, from it."""
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


def _miditok() -> ModuleType:
    """Return miditok, which takes a second to import."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # else it warns when a process is forked later
    return importlib.import_module("miditok")


def _config(songs: Sequence[Song], steps_per_quarter: int, velocities: int) -> TokenizerConfig:
    if steps_per_quarter < 4 or steps_per_quarter % 4 or 120 % steps_per_quarter:
        raise ValueError(f"steps_per_quarter must be 4, 8, 12, 20, 24, 40, 60 or 120, got {steps_per_quarter}")
    if not 1 <= velocities <= 127:
        raise ValueError(f"velocities must lie in 1 ... 127, got {velocities}")
    meters = {DEFAULT_METER} | {_in_quarters(n, d) for song in songs for _, n, d in song.meters}
    beats = {d: sorted(n for n, of in meters if of == d and 1 <= n <= MAX_BEATS) for d in DENOMINATORS}
    config: TokenizerConfig = _miditok().TokenizerConfig(
        pitch_range=(0, 127),
        beat_res={(0, MAX_GRID_BEATS): steps_per_quarter, (MAX_GRID_BEATS, MAX_LENGTH_BEATS): 1},
        num_velocities=velocities,
        special_tokens=["PAD"],  # miditok requires it
        encode_ids_split="bar",
        use_programs=True,
        use_pitchdrum_tokens=False,  # Program_-1 marks drums, so that all 128 keys may be drums
        use_tempos=True,
        num_tempos=len(TEMPOS),
        tempo_range=(24, 24 * 5**1.6),
        log_tempos=True,
        use_time_signatures=True,
        time_signature_range={d: numerators for d, numerators in beats.items() if numerators},
    )
    return config


def _in_quarters(numerator: int, denominator: int) -> tuple[int, int]:
    """Return a meter of whole or half notes in quarters, any other as it is."""
    return (numerator * 4 // denominator, 4) if denominator in (1, 2) else (numerator, denominator)


def _nearest_tempo(qpm: float) -> float:
    """Return the known tempo that is nearest by ratio."""
    return TEMPOS[min(max(round(40 * math.log(qpm / 24, 5)), 0), len(TEMPOS) - 1)]


def _bar_line(meter: Meter, tick: int) -> int:
    """Return the first bar line of a meter at or after a tick, never before the meter begins."""
    at, numerator, denominator = meter
    bar = numerator * 4 * QUARTER // denominator
    return at + max(0, math.ceil((tick - at) / bar)) * bar


def _song(notes: Notes, end: int, tempos: list[tuple[int, float]], meters: list[Meter]) -> Song:
    """Return a song of whole bars up to a tick or the end of its last note; the first tempo and meter move to 0."""
    found = [SongNote(key[0], key[1], *value, max(key[2], 0), key[2] == DRUMS) for key, value in notes.items()]
    end = max([end, *(note.end for note in found)])
    meters = effective_changes([(0, *meters[0][1:]), *meters[1:]], max(end, 1))
    ticks = _bar_line(meters[-1], end)
    inside = [tempo for tempo in tempos if tempo[0] < max(ticks, 1)] or [(0, DEFAULT_QPM)]
    tempos = effective_changes([(0, inside[0][1]), *inside[1:]], math.inf)
    return Song("remi", "remi", tuple(sorted(found)), ticks, tuple(tempos), tuple(meters))


def _tokens_of_codes(tokenizer: REMI) -> list[tuple[str, ...]]:
    """Return the tokens of each code: one, several that BPE joined, or none for BPE's mark of a beginning."""
    found = []
    for code in range(len(tokenizer)):
        sequence = _miditok().TokSequence(ids=[code], are_ids_encoded=tokenizer.is_trained)
        tokenizer.decode_token_ids(sequence)
        found.append(tuple(tokenizer[single] for single in sequence.ids))
    return found


def _grammar(graph: Mapping[str, set[str]], tokens: list[tuple[str, ...]]) -> tuple[np.ndarray, np.ndarray]:
    """Return `follows` and `opens`. A code without tokens follows nothing, and a bar line follows it."""
    first, last = ([found[end].split("_")[0] if found else "" for found in tokens] for end in (0, -1))
    allowed = {kind: followers - {"PAD"} for kind, followers in graph.items()} | {"": {"Bar"}}
    allowed["Tempo"] -= {"TimeSig"}
    rows = {kind: np.array([other in followers for other in first]) for kind, followers in allowed.items()}
    return np.stack([rows[kind] for kind in last]), rows[""]


@contextmanager
def _native_output_hidden() -> Iterator[None]:
    """Discard what native code writes to standard output and error."""
    kept = [os.dup(1), os.dup(2)]
    with open(os.devnull, "wb") as sink:
        os.dup2(sink.fileno(), 1)
        os.dup2(sink.fileno(), 2)
    try:
        yield
    finally:
        for number, copy in enumerate(kept, start=1):
            os.dup2(copy, number)
            os.close(copy)
