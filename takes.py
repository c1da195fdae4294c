"""Takes: make one continuation of a prompt and write its files, for the command line and the studio alike.

    report = write_take(predictor, prompt, TakeRequest(Path("take.wav"), steps=500, seed=1))

A model of sound writes a WAV while it is made, and a picture. A model of notes writes MIDI, MusicXML, a WAV of how they
sound and a piano roll. Every file is written whole or not at all.
"""

import math
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from continuo.audio.files import MADE_BY_A_MODEL, in_blocks, stream_wav, write_wav
from continuo.audio.pictures import draw_continuation, save_figure
from continuo.model.metadata import Sampling
from continuo.symbolic.engraving import TooLong
from continuo.symbolic.note_metrics import stuck
from continuo.symbolic.song import Song
from continuo.symbolic.writing import draw_song, write_musicxml, write_song_midi
from continuo.system.files import remove_leftovers
from continuo.system.process_pool import process_map
from continuo.system.text import pluralize
from continuo.system.workers import WORKERS
from predictor import Predictor, Prompt, SongTake, SoundTake, joined

STANDARD_OUTPUT = Path("-")
SIDE_BY_SIDE = 16  # takes of one process that are drawn together
PICTURE_STEPS = 1000  # steps that take as long as a picture
SUFFIXES = ".wav", ".png", ".mid", ".musicxml"
MIN_PROCESS_STEPS = 10_000  # steps below which another process costs more than it saves
Watch = Callable[[np.ndarray, float], object]


@dataclass(frozen=True)
class TakeRequest:
    """One take to make."""

    out: Path  # WAV to write, or `STANDARD_OUTPUT`; the other files are named after it
    steps: int  # number of steps to draw; 0 writes the prompt alone
    seed: int = 0
    sampling: Sampling | None = None  # None: as the model's metadata says
    name: str = "prompt"  # of the prompt, for titles
    with_prompt: bool = True  # whether the files begin with the prompt
    until_end: bool = False  # whether to stop where the model ends the piece
    picture: bool = True  # whether to draw a PNG


@dataclass
class TakeReport:
    """The files and figures of one finished take; `midi`, `musicxml` and `notes` are those of a model of notes."""

    out: str
    picture: str
    state_step: int
    weights_step: int
    device: str
    prompt_seconds: float
    frames: int = 0  # number of steps that were drawn
    seconds: float = 0.0  # length of the WAV
    channels: int = 1  # of the WAV
    continuation_seconds: float = 0.0
    realtime_factor: float = 0.0  # seconds of the continuation made in a second
    first_audio_s: float | None = None  # until the first sound of the continuation; None where there is none
    endings_s: list[float] = field(default_factory=list)  # after the prompt, where the model ended a piece
    midi: str | None = None
    musicxml: str | None = None
    notes: int | None = None  # number of notes
    remarks: list[str] = field(default_factory=list)  # sentences about the music, for the user
    warning: str = ""  # a sentence about a missing file, for the user even where nothing else is printed

    def facts(self) -> dict[str, object]:
        """Return the figures under the keys of `predict.py --json`."""
        absent = {name for name in ("midi", "musicxml", "notes") if getattr(self, name) is None}
        return {name: value for name, value in vars(self).items() if name not in absent | {"remarks", "warning"}}


def write_take(
    predictor: Predictor,
    prompt: Prompt | None,
    request: TakeRequest,
    *,
    take: SoundTake | SongTake | None = None,
    watch: Watch = lambda block, fraction: None,
) -> TakeReport:
    """Make a take, unless `take` is it, and write its files.

    `watch` is called with each block of the WAV, `(n,)` or `(n, 2)`, and the fraction of the continuation that is
    made. ValueError: this model cannot continue the prompt. OSError: a file cannot be written.
    """
    if take is None:
        take = predictor.take(prompt, seed=request.seed, sampling=request.sampling, until_end=request.until_end)
    report = TakeReport(
        out=str(request.out),
        picture=str(request.out.with_suffix(".png")),
        state_step=predictor.step,
        weights_step=predictor.weights_step,
        device=predictor.device.type,
        prompt_seconds=0.0 if prompt is None else prompt.seconds,
    )
    if isinstance(take, SoundTake):
        _write_sound(predictor, take, request, report, watch)
    else:
        _write_song(predictor, take, request, report, watch)
    report.frames, report.endings_s = take.made, take.endings
    return report


def _write_sound(predictor: Predictor, take: SoundTake, request: TakeRequest, report: TakeReport, watch: Watch) -> None:
    """Write the WAV while it is made, then the picture."""
    rate_hz, prompt = predictor.sample_rate_hz, take.prompt
    join = len(prompt.samples) if request.with_prompt and prompt is not None else 0
    expected = max(request.steps / predictor.steps_per_second * rate_hz, 1.0)
    started, elapsed_s = time.perf_counter(), 1.0

    def watched() -> Iterator[np.ndarray]:
        nonlocal elapsed_s
        made = -join
        for block in joined(take, prompt, request.steps, with_prompt=join > 0):
            made += len(block)
            if made > 0 and report.first_audio_s is None:
                report.first_audio_s = time.perf_counter() - started
            yield block
            watch(block, min(max(made, 0) / expected, 1.0))
        elapsed_s = time.perf_counter() - started

    report.channels = take.channels
    report.seconds = _write_wav(request, watched(), rate_hz, take.channels)
    report.continuation_seconds = take.made / predictor.steps_per_second
    report.realtime_factor = report.continuation_seconds / elapsed_s
    if request.picture and request.out != STANDARD_OUTPUT:
        join_s = report.seconds - report.continuation_seconds
        draw_continuation(request.out, Path(report.picture), join_s, _title(predictor, take, request))


def _write_song(predictor: Predictor, take: SongTake, request: TakeRequest, report: TakeReport, watch: Watch) -> None:
    """Draw all notes, then write MIDI, MusicXML, WAV and piano roll."""
    started = time.perf_counter()
    song = take.song(request.steps, lambda made: watch(np.zeros(0, np.float32), made / request.steps))
    join = 0 if take.prompt is None else take.prompt.ticks
    report.continuation_seconds = song.seconds - song.second(join)
    continuation = song.excerpt(join, song.ticks, "continuation")
    if not song.notes:
        report.remarks = ["no note came: try another --seed, more --frames, or --temperature 1"]
    elif request.steps and (words := stuck(continuation)):
        report.remarks = [f"the continuation is stuck. {words} A higher --temperature, or more training, would help"]
    if not request.with_prompt:
        song, join = continuation, 0
    title, sound = _title(predictor, take, request), predictor.render(song)
    report.notes = len(song.notes)
    if request.out != STANDARD_OUTPUT:
        _write_notation(song, request.out, report, title)
    report.seconds = _write_wav(request, in_blocks(sound), predictor.sample_rate_hz)
    watch(sound, 1.0)
    if request.picture and request.out != STANDARD_OUTPUT:
        save_figure(draw_song(song, join or None, title), Path(report.picture))
    report.first_audio_s = time.perf_counter() - started
    report.realtime_factor = report.continuation_seconds / report.first_audio_s


def _write_notation(song: Song, out: Path, report: TakeReport, title: str) -> None:
    """Write MIDI, and MusicXML unless the song is too long for it."""
    midi, musicxml = out.with_suffix(".mid"), out.with_suffix(".musicxml")
    write_song_midi(song, midi)
    report.midi = str(midi)
    try:
        write_musicxml(song, musicxml, title=title)
        report.musicxml = str(musicxml)
    except TooLong as error:
        musicxml.unlink(missing_ok=True)  # left by an earlier take of the same name
        report.warning = f"no MusicXML, the MIDI file has it all: {error}"


def _write_wav(request: TakeRequest, blocks: Iterator[np.ndarray], rate_hz: int, channels: int = 1) -> float:
    """Write blocks to the request's WAV or pipe; return the seconds."""
    comment = MADE_BY_A_MODEL if request.steps else ""
    if request.out == STANDARD_OUTPUT:
        return stream_wav(sys.stdout.buffer, blocks, rate_hz, channels=channels, comment=comment) / rate_hz
    return write_wav(request.out, blocks, rate_hz, channels=channels, comment=comment) / rate_hz


def _title(predictor: Predictor, take: SoundTake | SongTake, request: TakeRequest) -> str:
    """Return the title of a finished take; it may have fewer steps than requested."""
    made = f"{pluralize(take.made, 'frame')}, weights of step {predictor.weights_step:,}, seed {request.seed}"
    return f"{request.name} + {made}"


def write_takes(
    predictor: Predictor, prompt: Prompt | None, requests: Sequence[TakeRequest]
) -> Generator[TakeReport, None, None]:
    """Write many takes, in several processes where that is faster; yield their reports in any order.

    Each take is the one that `write_take` makes of its request. All requests have the same sampling and `until_end`.
    ChildProcessError: a process was killed; other errors are those of `write_take`.
    """
    steps = sum(request.steps + PICTURE_STEPS for request in requests)
    most = min(WORKERS, len(requests)) if predictor.device.type == "cpu" else 1
    processes = max(1, min(most, steps // MIN_PROCESS_STEPS))
    size = min(SIDE_BY_SIDE, math.ceil(len(requests) / processes))
    groups = [requests[first : first + size] for first in range(0, len(requests), size)]
    try:
        with closing(process_map(partial(_write_group, predictor, prompt), groups, processes)) as reports:
            yield from reports
    except BaseException:  # Ctrl-C too; a process that was killed, or stopped twice, cannot clean up
        for request in requests:
            for suffix in SUFFIXES:
                remove_leftovers(request.out.with_suffix(suffix))
        raise


def _write_group(predictor: Predictor, prompt: Prompt | None, requests: Sequence[TakeRequest]) -> Iterator[TakeReport]:
    """Write takes that are drawn side by side."""
    seeds, first = [request.seed for request in requests], requests[0]
    takes = predictor.takes(prompt, seeds, sampling=first.sampling, until_end=first.until_end)
    for request, take in zip(requests, takes, strict=True):
        yield write_take(predictor, prompt, request, take=take)
