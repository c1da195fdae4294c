"""The parts of a report (`report.json`) as types.

None stands for a figure that could not be measured. Fractions are 0 ... 1. A ratio is a figure of generated music over
the same figure of real music.
"""

from collections.abc import Mapping
from typing import Generic, NotRequired, TypedDict, TypeVar

from typing_extensions import TypeIs

Figures = Mapping[str, float | None]
LongRun = TypeVar("LongRun")
Novelty = TypeVar("Novelty")


class ModelFacts(TypedDict):
    """The model under test and its corpus; `hears` is its modality, "sound" or "notes"."""

    name: str
    version: str
    hears: str
    preset: str | None
    hidden: int
    step: int
    weights_step: int | None
    parameters: int
    steps_per_second: float
    levels: int
    continuous: bool
    corpus: str
    training_pieces: int
    training_minutes: float
    held_out_pieces: int
    held_out_minutes: float


class TrainingFacts(TypedDict):
    """The course of the training."""

    history: list[list[float]]  # step, seconds, training loss and held-out loss of each validation
    minutes: float
    best_step: int | None
    best_nats: float | None
    last_nats: float | None
    improving: bool
    risen: float  # fraction by which the held-out loss rose again after its best
    again: str  # the command that trains twice as long


class Loss(TypedDict):
    """A negative log-likelihood: by level in nats, and in total per step, per second and per beat (quarter note)."""

    levels: list[float]
    nats_per_step: float
    bits_per_second: float
    bits_per_beat: float | None


class HeldOut(TypedDict):
    """The loss of the model and of two baselines on held-out music, and of the model on training music."""

    frames: int
    seconds: float
    training_frames: int
    model: Loss
    unigram: Loss
    copy_last: Loss
    training: Loss


class FreeRuns(TypedDict):
    """Continuations of held-out prompts next to real music and, for sound, what a perfect model would reach."""

    excerpts: int
    real: Figures
    generated: Figures
    floor: NotRequired[Figures | None]  # other real music of the same pieces
    codec: NotRequired[Figures]  # real music through the codec
    inversion: NotRequired[Figures]  # true magnitudes with reconstructed phases


class SoundLongRun(TypedDict):
    """One long continuation; `loop_s` is the length of a loop, `still_s` the longest time without change."""

    seconds: float
    level_drift_db: dict[str, float]
    endings_s: list[float]
    silence: float
    onset_ratio_by_30_s: list[float | None]
    loop_s: float | None
    real_loop_s: float | None
    still_s: float
    real_still_s: float


class SoundNovelty(TypedDict):
    """Distances to the training music and the longest copied stretch."""

    training_minutes: float
    of_minutes: float
    spectrum: Mapping[str, Figures]  # by the name of a side, as in `harmony`
    harmony: Mapping[str, Figures]
    near_ratio: float | None  # compares the nearest seconds
    threshold: float
    copied_s: float
    held_out_copied_s: float
    control_copied_s: float | None
    control_of_s: float


class NoteLongRun(TypedDict):
    """One long continuation; `repeated` is the fraction of its second half that its first half has too."""

    seconds: float
    stuck: str | None
    notes_per_second_by_part: list[float | None]
    real_notes_per_second: float | None
    repeated: float | None
    real_repeated: float | None
    endings_s: list[float]


class Copied(TypedDict):
    """Stretches that training songs have too: their fraction, and the events of the longest, from the song `of`."""

    share: float | None
    longest: int
    of: str


class NoteNovelty(TypedDict):
    """Stretches of `stretch` events that the output, and held-out music, share with training songs."""

    training_minutes: float
    of_minutes: float
    stretch: int
    generated: Copied
    held_out: Copied


class Brief(TypedDict):
    """The figures of another model that stand in the same tables."""

    model: ModelFacts
    held_out: HeldOut
    free_runs: FreeRuns


class Report(Brief, Generic[LongRun, Novelty]):
    """Every figure of one model."""

    plan: dict[str, float]
    training: TrainingFacts
    long_run: LongRun | None
    novelty: Novelty | None
    notes: list[str]
    verdict: list[dict[str, str]]
    seconds_taken: float
    beside: NotRequired[list[Brief]]


SoundReport = Report[SoundLongRun, SoundNovelty]
NotesReport = Report[NoteLongRun, NoteNovelty]
AnyReport = SoundReport | NotesReport


def is_of_notes(report: AnyReport) -> TypeIs[NotesReport]:
    """Return whether a report is about a model of notes."""
    return report["model"]["hears"] == "notes"
