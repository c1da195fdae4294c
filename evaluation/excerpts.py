"""Choose excerpts of held-out music: a prompt, and what the piece really does after it."""

import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from continuo.audio.piece import Piece
from continuo.audio.samples import mix_to_mono
from continuo.model import metadata
from continuo.symbolic.song import QUARTER, Song
from continuo.system.progress import Display
from corpus import Corpus
from predictor import Predictor

MIN_BEATS = 2  # of a prompt of notes, and of what follows it
P = TypeVar("P", Piece, Song)


def load_split(
    predictor: Predictor, meta_path: Path, load: Callable[..., Corpus[P]], display: Display | None = None
) -> tuple[list[P], list[P], list[str]]:
    """Load a model's corpus, split as its training split it: training pieces, held-out pieces, notes for the reader.

    `meta_path` says where the corpus is now; `load` is `corpus.load` for sound and `corpus.load_songs` for notes.
    ValueError: there is no such corpus, or it has none of the held-out pieces, or no others.
    """
    saved, section = predictor.metadata, predictor.in_channels(metadata.load(meta_path).corpus)
    notes: list[str] = []
    if predictor.facts.get("soundfont"):
        section, remark = predictor.with_soundfont(section)
        notes = [f"the corpus {remark}"] * bool(remark)
    corpus = load(section, seed=saved.training.seed, display=display)
    train, held_out = corpus.split(saved.corpus.validation_share, saved.training.seed)
    then = set(predictor.facts["validation"])
    if {piece.id for piece in held_out} == then:
        return train, held_out, notes
    train = [piece for piece in corpus.pieces if piece.id not in then]
    held_out = [piece for piece in corpus.pieces if piece.id in then]
    if not (train and held_out):
        raise ValueError(f"the corpus {section.path} is not the one that the model was trained on: it lacks the "
                         "held-out pieces; set corpus.path in the metadata file")  # fmt: skip
    note = f"the corpus changed since the training: {len(held_out)} of {len(then)} held-out pieces are still in it"
    return train, held_out, [*notes, note]


def bounded(pieces: Sequence[P], seconds: float, seed: int) -> list[P]:
    """Return pieces drawn at random, `seconds` in total; the last is cut, and only roughly if its tempo changes."""
    found: list[P] = []
    for place in np.random.default_rng(seed).permutation(len(pieces)):
        piece = pieces[place]
        if piece.seconds > seconds:
            piece = piece.excerpt(0, int(seconds * piece.extent / piece.seconds), "beginning")
        if piece.seconds > 0.5 or not found:
            found.append(piece)
        seconds -= piece.seconds
        if seconds <= 0:
            break
    return sorted(found, key=lambda piece: piece.id)


@dataclass(frozen=True)
class Excerpt:
    """A part of a recording: `prompt` ends at sample `join`, and `real` are the `length` samples after it, in mono."""

    name: str
    piece: Piece
    prompt: Piece
    join: int
    length: int

    @property
    def real(self) -> np.ndarray:
        return mono(self.piece, self.join, self.join + self.length)


def mono(piece: Piece, start: int = 0, stop: int | None = None) -> np.ndarray:
    """Return samples of a piece `(N,)` at its own loudness, the mean of its channels: evaluation measures mono."""
    return mix_to_mono(np.asarray(piece.samples[start:stop]))


def excerpts(pieces: Sequence[Piece], *, count: int, prompt_seconds: float, seconds: float) -> list[Excerpt]:
    """Return at most `count` excerpts from the middle of as many pieces; several of each piece if there are few.

    Excerpts of one piece are evenly spaced, do not overlap, and leave room for other music of the piece between them.
    ValueError: no piece is long enough.
    """
    need = prompt_seconds + seconds
    fitting = [piece for piece in pieces if piece.seconds >= need + 0.1]
    if not fitting:
        longest = max((piece.seconds for piece in pieces), default=0.0)
        raise ValueError(f"no held-out piece lasts {need + 0.1:g} s (the longest: {longest:.1f} s): "
                         "lower --prompt-seconds and --seconds, or hold longer recordings out")  # fmt: skip
    each = math.ceil(count / len(fitting))
    found: list[Excerpt] = []
    for piece in fitting:
        rate = piece.sample_rate_hz
        slots = max(1, min(each, int(piece.seconds / (need + seconds))))
        pause = (piece.seconds - slots * need) / (slots + 1)
        for slot in range(slots):
            start = int(rate * (pause * (slot + 1) + need * slot))
            join = start + int(prompt_seconds * rate)
            prompt = Piece.from_samples(piece.samples[start:join], rate, source=piece.source)
            name = Path(piece.source).stem + (f" {slot + 1}" if slots > 1 else "")
            found.append(Excerpt(name, piece, prompt, join, int(seconds * rate)))
    places = np.linspace(0, len(found) - 1, count).astype(int) if len(found) > count else range(len(found))
    return [found[place] for place in places] if each > 1 else found[:count]


def other_real_music(found: Sequence[Excerpt]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pair the real music of excerpts with as much of its piece from outside of every excerpt, if there is a place."""
    taken: defaultdict[str, list[int]] = defaultdict(list)
    for excerpt in found:
        taken[excerpt.piece.id].append(excerpt.join)
    pairs = []
    for excerpt in found:
        length, places = excerpt.length, taken[excerpt.piece.id]
        starts = np.arange(0, len(excerpt.piece.samples) - length + 1, max(1, excerpt.piece.sample_rate_hz // 4))
        clear = starts[np.all(np.abs(starts[:, None] - np.array(places)) >= length, axis=1)]
        if len(clear):
            start = int(clear[np.argmin(np.abs(clear - excerpt.join))])
            places.append(start)
            pairs.append((excerpt.real, mono(excerpt.piece, start, start + length)))
    return pairs


@dataclass(frozen=True)
class SongExcerpt:
    """Ticks `start` to `stop` of a song: `prompt` is the part before `join`, and `real` what the song does after it."""

    name: str
    song: Song
    start: int
    join: int
    stop: int

    @property
    def prompt(self) -> Song:
        return self.song.excerpt(self.start, self.join, "prompt")

    @property
    def real(self) -> Song:
        return self.song.excerpt(self.join, self.stop, "real")


def song_excerpts(songs: Sequence[Song], *, count: int, prompt_seconds: float, seconds: float) -> list[SongExcerpt]:
    """Return at most `count` excerpts between beats: the beginnings of songs, and later parts if there are few songs.

    A short song gives its first third as the prompt. ValueError: no song has notes in its first and next two beats.
    """
    need = prompt_seconds + seconds
    slots: defaultdict[int, list[SongExcerpt]] = defaultdict(list)
    for song in songs:
        fraction = min(1.0, song.seconds / need)
        for slot in range(max(1, int(song.seconds / need))):
            start = next_beat(song, slot * need)
            join = next_beat(song, song.second(start) + (prompt_seconds if fraction == 1 else song.seconds / 3))
            stop = next_beat(song, song.second(start) + need * fraction)
            name = Path(song.source).stem + (f" {slot + 1}" if slot else "")
            found = SongExcerpt(name, song, start, join, stop)
            if min(join - start, stop - join) >= MIN_BEATS * QUARTER and found.prompt.notes and found.real.notes:
                slots[slot].append(found)
    if not slots:
        raise ValueError(f"no held-out song has {MIN_BEATS} beats to prompt with and {MIN_BEATS} to compare with: "
                         "hold more songs out, or longer ones")  # fmt: skip
    chosen: list[SongExcerpt] = []
    for _, row in sorted(slots.items()):
        places = min(count - len(chosen), len(row))
        chosen += [row[place] for place in np.linspace(0, len(row) - 1, places).astype(int)]
    return chosen


def next_beat(song: Song, second: float) -> int:
    """Return the first quarter note at or after a second, in ticks, or the last one of the song."""
    beats = range(0, song.ticks + 1, QUARTER)
    return beats[min(bisect_left(beats, second - 1e-6, key=song.second), len(beats) - 1)]
