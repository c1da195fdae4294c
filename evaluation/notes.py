"""Evaluate models of notes: free runs next to what the pieces really do, a long run, and copies of training songs."""

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

import corpus
from continuo.audio.files import flac
from continuo.audio.pictures import png
from continuo.model.metadata import Json
from continuo.symbolic import note_metrics
from continuo.symbolic.song import QUARTER, Song
from continuo.symbolic.writing import draw_song
from continuo.system.progress import Display
from dataset import AudioDataset
from evaluation import ngrams, plots
from evaluation.base import Evaluation, Plan
from evaluation.excerpts import SongExcerpt, bounded, next_beat, song_excerpts
from predictor import Predictor

MIN_STEPS = 32  # of a continuation
STRETCH = 8  # events that must follow each other as in a training song to count as a copy
PARTS = 4  # of the long run
MAX_TRAINING_S = 20 * 3600.0  # seconds of training songs that are searched for copies


def statistics(songs: Sequence[Song]) -> dict[str, float | None]:
    """Return the mean of each statistic over the songs that have it; `stuck` is a fraction, 0 ... 1."""
    rows = [
        {
            "pitch_class_entropy": note_metrics.pitch_class_entropy(song),
            "scale_consistency": note_metrics.scale_consistency(song),
            "groove_consistency": note_metrics.groove_consistency(song),
            "notes_per_second": notes_per_second(song),
            "mean_pitch": note_metrics.note_counts(song).mean_pitch,
            "stuck": float(note_metrics.stuck(song) is not None),
        }
        for song in songs
    ]
    known = {name: [row[name] for row in rows if math.isfinite(row[name])] for name in rows[0]}
    return {name: sum(values) / len(values) if values else None for name, values in known.items()}


def notes_per_second(song: Song) -> float:
    """Return the notes per second, or NaN if the song has no length."""
    return len(song.notes) / song.seconds if song.ticks else math.nan


def repeated(song: Song) -> float | None:
    """Return the fraction of the stretches in a song's second half that its first half has too."""
    half = song.ticks // 2
    first_half = ngrams.Copies([song.excerpt(0, half, "first half")])
    return _finite(first_half.fraction(song.excerpt(half, song.ticks, "second half"), STRETCH))


def copied_fraction(training: ngrams.Copies, songs: Sequence[Song]) -> float | None:
    """Return the fraction of all stretches of songs that training songs have too; None if there is no stretch."""
    counts = [max(len(ngrams.events(song)) - STRETCH + 1, 0) for song in songs]
    copied = [training.fraction(song, STRETCH) * count for song, count in zip(songs, counts, strict=True) if count]
    return sum(copied) / sum(counts) if copied else None


class NotesEvaluation(Evaluation[Song]):
    """The evaluation of a model of notes."""

    load = staticmethod(corpus.load_songs)
    excerpts: list[SongExcerpt]

    def __init__(self, meta_path: Path, predictor: Predictor, plan: Plan, display: Display) -> None:
        super().__init__(meta_path, predictor, plan, display)
        self.excerpts = song_excerpts(self.held_out, count=plan.pieces, **plan.times)
        self.continued: list[Song] = []  # with their prompts
        self.generated: list[Song] = []
        self.long: Song | None = None
        wanted_s = sum(plan.times.values())
        if short := sum(excerpt.song.seconds < wanted_s for excerpt in self.excerpts):
            count = f"{short} of {len(self.excerpts)} excerpts"
            self.notes.append(f"{count} are shorter than {wanted_s:g} s, as their songs are")

    def lengths(self, music: AudioDataset, steps: np.ndarray) -> tuple[float, float | None]:
        """Steps differ in length, so a fraction of a song's steps counts as that fraction of its time."""
        fractions = steps / np.array(music.steps)
        seconds = np.array([piece.seconds for piece in music.pieces])
        beats = np.array([piece.extent / QUARTER for piece in music.pieces])
        return float(fractions @ seconds), float(fractions @ beats)

    def free_runs(self, *, ceilings: bool = True) -> Json:
        count = max(MIN_STEPS, math.ceil(self.plan.seconds * self.spec.steps_per_second))
        for seed, excerpt in enumerate(self.tracked("free runs", self.excerpts), start=self.plan.seed):
            prompt = excerpt.prompt
            whole = self.predictor.take(prompt, seed=seed).song(count)
            stop = min(whole.ticks, excerpt.stop - excerpt.start)
            self.continued.append(whole.excerpt(0, stop, "continued"))
            self.generated.append(whole.excerpt(prompt.ticks, stop, "generated"))
        real = statistics([excerpt.real for excerpt in self.excerpts])
        return {"excerpts": len(self.excerpts), "real": real, "generated": statistics(self.generated)}

    def long_run(self) -> Json:
        prompt, count = self.excerpts[0].prompt, math.ceil(self.plan.long_seconds * self.spec.steps_per_second)
        task, take = self.display.task("long run", count), self.predictor.take(prompt, seed=self.plan.seed)
        whole = take.song(count)
        task.close()
        stop = next_beat(whole, prompt.seconds + self.plan.long_seconds)  # slow music would last longer
        run = self.long = whole.excerpt(prompt.ticks, max(stop, prompt.ticks), "long run")
        edges = [run.ticks * part // PARTS for part in range(PARTS + 1)]
        parts = [run.excerpt(a, b, "part") for a, b in pairwise(edges)]
        longest = max(self.held_out, key=lambda song: song.seconds)
        return {
            "seconds": run.seconds,
            "stuck": note_metrics.stuck(run),
            "notes_per_second_by_part": [_finite(notes_per_second(part)) for part in parts],
            "real_notes_per_second": _finite(notes_per_second(longest)),
            "repeated": repeated(run),  # fraction of its second half that its first half has too
            "real_repeated": repeated(longest.excerpt(0, min(run.ticks, longest.ticks), "beginning")),
            "endings_s": take.endings,
        }

    def novelty(self) -> Json:
        """Compare the stretches that the output shares with training songs with those of as much held-out music."""
        output = [*self.generated, *([self.long] if self.long else [])]
        held_out = bounded(self.held_out, sum(song.seconds for song in output), self.plan.seed)
        training = bounded(self.train, MAX_TRAINING_S, self.plan.seed)
        known = ngrams.Copies(training)

        def copied(songs: Sequence[Song]) -> Json:
            """Return the fraction of stretches that training songs have, and the longest, in events, with its song."""
            longest, source = max((known.longest(song) for song in songs), key=lambda pair: pair[0])
            return {"share": copied_fraction(known, songs), "longest": longest, "of": source}

        return {
            "training_minutes": sum(song.seconds for song in training) / 60,
            "of_minutes": sum(song.seconds for song in self.train) / 60,
            "stretch": STRETCH,  # events
            "generated": copied(output),
            "held_out": copied(held_out),
        }

    def draw(self, report: Json) -> dict[str, bytes]:
        first = self.excerpts[0]
        join = first.join - first.start
        real = first.song.excerpt(first.start, first.stop, "excerpt")
        sides = {"real": [excerpt.real for excerpt in self.excerpts], "generated": self.generated}
        return super().draw(report) | {
            "roll_real": png(draw_song(real, join, f"{first.name}: the piece itself")),
            "roll_generated": png(draw_song(self.continued[0], join, f"{first.name}: continued by the model")),
            "pitch_classes": plots.pitch_classes({name: _pitch_classes(songs) for name, songs in sides.items()}),
        }

    def sounds(self, count: int = 3) -> list[tuple[str, dict[str, bytes]]]:
        found = []
        for excerpt, made in zip(self.excerpts[:count], self.generated, strict=False):
            sides = {"real": excerpt.real, "generated": made}
            audio = {side: self.predictor.render(song) for side, song in sides.items() if song.notes}
            found.append((excerpt.name, {side: flac(samples, self.rate) for side, samples in audio.items()}))
        return found


def _pitch_classes(songs: Sequence[Song]) -> np.ndarray:
    counts = np.sum([song.pitch_classes() for song in songs], axis=0)
    return counts / max(counts.sum(), 1)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
