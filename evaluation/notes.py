"""Evaluation of models of notes: what `evaluation.py` leaves open, measured on songs instead of sound.

Continuations stand beside what the pieces really do after the same prompts, a long run and the stretches that training
songs have too beside the same of held-out songs.
"""

import math
import tempfile
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from continuo.audio.files import flac
from continuo.score import synth
from continuo.symbolic import note_metrics
from continuo.symbolic.song import QUARTER, Song
from continuo.symbolic.writing import draw_song
from continuo.system.progress import Display
from dataset import AudioDataset
from evaluation import ngrams, plots
from evaluation.excerpts import Plan, bounded
from evaluation.sound import Evaluation
from predictor import Predictor

MIN_BEATS = 2  # of a prompt, and of what follows it
MIN_STEPS = 32  # of a continuation
STRETCH = 8  # events that are looked for in training songs
PARTS = 4  # of the long run
MAX_TRAINING_S = 20 * 3600.0  # of training songs in which copies are looked for


@dataclass(frozen=True)
class SongExcerpt:
    """Ticks `start` to `stop` of a song; what lies before `seam` is the prompt."""

    name: str
    song: Song
    start: int
    seam: int
    stop: int

    @property
    def prompt(self) -> Song:
        return self.song.excerpt(self.start, self.seam, "prompt")

    @property
    def real(self) -> Song:
        """What the song does after the prompt."""
        return self.song.excerpt(self.seam, self.stop, "real")


def song_excerpts(songs: Sequence[Song], *, count: int, prompt_seconds: float, seconds: float) -> list[SongExcerpt]:
    """`count` excerpts at most: the beginnings of songs, and where those are few, what comes later in them.

    They begin, turn and stop at a beat. A song that is too short gives a third of itself as a prompt.

    Raises:
        ValueError: no song has a note in four beats.
    """
    need = prompt_seconds + seconds
    slots: list[list[SongExcerpt]] = []
    for song in songs:
        places = max(1, int(song.seconds / need))
        share = min(1.0, song.seconds / need)
        for slot in range(places):
            start = _beat(song, slot * need)
            seam = _beat(song, song.second(start) + (prompt_seconds if share == 1 else song.seconds / 3))
            stop = _beat(song, song.second(start) + need * share)
            name = Path(song.source).stem + (f" {slot + 1}" if slot else "")
            found = SongExcerpt(name, song, start, seam, stop)
            if min(seam - start, stop - seam) >= MIN_BEATS * QUARTER and found.prompt.notes and found.real.notes:
                slots += [[] for _ in range(slot + 1 - len(slots))]
                slots[slot].append(found)
    if not any(slots):
        raise ValueError(f"no held-out song has {MIN_BEATS} beats to prompt with and {MIN_BEATS} to compare with: "
                         "hold more songs out, or longer ones")  # fmt: skip
    chosen: list[SongExcerpt] = []
    for row in slots:
        places = min(count - len(chosen), len(row))
        chosen += [row[place] for place in np.linspace(0, len(row) - 1, places).astype(int)]
    return chosen


def _beat(song: Song, second: float) -> int:
    """The first quarter note at or after a second, or the last one of the song."""
    beats = range(0, song.ticks + 1, QUARTER)
    return beats[min(bisect_left(beats, second - 1e-6, key=song.second), len(beats) - 1)]


def manner(songs: Sequence[Song]) -> dict[str, float | None]:
    """What songs are like on average, each figure over those that have it; `stuck` is a share, 0 to 1."""
    rows = [
        {
            "pitch_class_entropy": note_metrics.pitch_class_entropy(song),
            "scale_consistency": note_metrics.scale_consistency(song),
            "groove_consistency": note_metrics.groove_consistency(song),
            "notes_per_second": pace(song),
            "mean_pitch": note_metrics.note_counts(song).mean_pitch,
            "stuck": float(note_metrics.stuck(song) is not None),
        }
        for song in songs
    ]
    return {name: _mean([row[name] for row in rows]) for name in rows[0]}


def pace(song: Song) -> float:
    """Notes per second; nan of nothing."""
    return len(song.notes) / song.seconds if song.ticks else math.nan


def repeated(song: Song) -> float | None:
    """Share (0 to 1) of the stretches in a song's second half that are in its first half too."""
    half = song.ticks // 2
    known = ngrams.Copies([song.excerpt(0, half, "first half")])
    return _number(known.share(song.excerpt(half, song.ticks, "second half"), STRETCH))


class NotesEvaluation(Evaluation):
    """A model of notes under test."""

    excerpts: list[SongExcerpt]

    def __init__(self, meta_path: Path, predictor: Predictor, plan: Plan, display: Display) -> None:
        super().__init__(meta_path, predictor, plan, display)
        times = {"prompt_seconds": plan.prompt_seconds, "seconds": plan.seconds}
        self.excerpts = song_excerpts(self.held_out, count=plan.pieces, **times)
        self.whole: list[Song] = []
        self.made: list[Song] = []
        self.long: Song | None = None
        short = sum(excerpt.song.seconds < sum(times.values()) for excerpt in self.excerpts)
        if short:
            self.notes.append(f"{short} of {len(self.excerpts)} excerpts are shorter than {sum(times.values()):g} s, "
                              "as their songs are")  # fmt: skip

    def lengths(self, music: AudioDataset, scored: np.ndarray) -> tuple[float, float | None]:
        """Steps are of unequal length: a part of the steps of a song stands for so much of its time."""
        shares = scored / np.array(music.steps)
        seconds = np.array([piece.seconds for piece in music.pieces])
        beats = np.array([piece.extent / QUARTER for piece in music.pieces])
        return float(shares @ seconds), float(shares @ beats)

    # --- free runs --------------------------------------------------------------------------------------------------

    def free_runs(self) -> dict[str, Any]:
        """What continuations are like, as far as there is real music to compare, and what that is like."""
        count = max(MIN_STEPS, math.ceil(self.plan.seconds * self.spec.steps_per_second))
        task = self.display.task("free runs", len(self.excerpts))
        for number, excerpt in enumerate(self.excerpts):
            prompt = excerpt.prompt
            whole = self.predictor.take(prompt, seed=self.plan.seed + number).song(count)
            stop = min(whole.ticks, excerpt.stop - excerpt.start)
            self.whole.append(whole.excerpt(0, stop, "continued"))
            self.made.append(whole.excerpt(prompt.ticks, stop, "generated"))
            task.update(number + 1)
        task.close()
        real = manner([excerpt.real for excerpt in self.excerpts])
        return {"excerpts": len(self.excerpts), "real": real, "generated": manner(self.made)}

    def long_run(self) -> dict[str, Any]:
        prompt, count = self.excerpts[0].prompt, math.ceil(self.plan.long_seconds * self.spec.steps_per_second)
        task = self.display.task("long run", count)
        take = self.predictor.take(prompt, seed=self.plan.seed)
        whole = take.song(count)
        task.close()
        stop = _beat(whole, prompt.seconds + self.plan.long_seconds)  # slow music would last longer
        run = self.long = whole.excerpt(prompt.ticks, max(stop, prompt.ticks), "long run")
        edges = [run.ticks * part // PARTS for part in range(PARTS + 1)]
        parts = [run.excerpt(a, b, "part") for a, b in pairwise(edges)]
        longest = max(self.held_out, key=lambda song: song.seconds)
        return {
            "seconds": run.seconds,
            "stuck": note_metrics.stuck(run),
            "notes_per_second_by_part": [_number(pace(part)) for part in parts],
            "real_notes_per_second": _number(pace(longest)),
            "repeated": repeated(run),
            "real_repeated": repeated(longest.excerpt(0, min(run.ticks, longest.ticks), "beginning")),
            "endings_s": take.endings,
        }

    # --- novelty ----------------------------------------------------------------------------------------------------

    def newness(self) -> dict[str, Any]:
        """Stretches that the output shares with training songs, beside those of as much held-out music."""
        output = [*self.made, *([self.long] if self.long else [])]
        held_out = bounded(self.held_out, sum(song.seconds for song in output), self.plan.seed)
        training = bounded(self.train, MAX_TRAINING_S, self.plan.seed)
        known = ngrams.Copies(training)
        found: dict[str, Any] = {
            "training_minutes": sum(song.seconds for song in training) / 60,
            "of_minutes": sum(song.seconds for song in self.train) / 60,
            "stretch": STRETCH,
        }
        for side, songs in (("generated", output), ("held_out", held_out)):
            longest, source = max((known.longest(song) for song in songs), key=lambda pair: pair[0])
            found[side] = {"share": copied_share(known, songs), "longest": longest, "of": source}
        return found

    # --- pictures and sounds ----------------------------------------------------------------------------------------

    def draw(self, report: dict[str, Any]) -> dict[str, bytes]:
        first = self.excerpts[0]
        seam = first.seam - first.start
        pictures = super().draw(report)
        real = first.song.excerpt(first.start, first.stop, "excerpt")
        pictures["roll_real"] = _roll(real, seam, f"{first.name}: what it is")
        pictures["roll_generated"] = _roll(self.whole[0], seam, f"{first.name}: as the model goes on")
        sides = {"real": [excerpt.real for excerpt in self.excerpts], "generated": self.made}
        pictures["pitch_classes"] = plots.pitch_classes({name: _classes(songs) for name, songs in sides.items()})
        return pictures

    def listen(self, count: int = 3) -> list[tuple[str, dict[str, bytes]]]:
        """Real and generated notes, played as the corpus's scores are."""
        found = []
        for excerpt, made in zip(self.excerpts[:count], self.made, strict=False):
            sides = {"real": self._flac(excerpt.real), "generated": self._flac(made)}
            found.append((excerpt.name, {side: sound for side, sound in sides.items() if sound}))
        return found

    def _flac(self, song: Song) -> bytes | None:
        font = self.predictor.metadata.corpus.soundfont
        if not song.notes:
            return None
        path = Path(font).expanduser() if font else None
        return flac(synth.render(song.performance(), self.rate, soundfont=path), self.rate)


def copied_share(known: ngrams.Copies, songs: Sequence[Song]) -> float | None:
    """Share (0 to 1) of all stretches of songs that training songs have; None if they have none."""
    counts = [max(len(ngrams.events(song)) - STRETCH + 1, 0) for song in songs]
    shares = [known.share(song, STRETCH) * count for song, count in zip(songs, counts, strict=True) if count]
    return sum(shares) / sum(counts) if shares else None


def _roll(song: Song, seam: int, title: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "roll.png"
        draw_song(song, picture, seam, title)
        return picture.read_bytes()


def _classes(songs: Sequence[Song]) -> np.ndarray:
    """Share of each pitch class in all notes, `(12,)`."""
    pitches = [note.pitch % 12 for song in songs for note in song.notes if not note.is_drum]
    return np.bincount(pitches, minlength=12) / max(len(pitches), 1)


def _mean(values: Sequence[float]) -> float | None:
    known = [value for value in values if math.isfinite(value)]
    return sum(known) / len(known) if known else None


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
