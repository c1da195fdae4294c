"""Pictures and curves: what was heard, what was made, how training went (matplotlib, TensorBoard)."""

import os
import socket
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
import scipy.fft
import soundfile

from continuo.audio import soft_limit
from continuo.files import replacing, write_text
from continuo.notes import Performance
from continuo.stft import hann, spectrum

PICTURE_COLUMNS = 1600
HIGHEST_HZ = 6000
MARGINS = {"left": 0.06, "right": 0.945, "top": 0.94, "bottom": 0.085}
QUICK = {"compress_level": 1}  # pictures are a little larger, and there a fifth sooner


def draw_continuation(wav: Path, picture: Path, seam_s: float, title: str) -> None:
    """A PNG of a WAV's waveform and spectrogram, the seam between prompt and continuation marked.

    As much of the prompt is shown as of the continuation, and at least ten seconds.
    """
    length_s = soundfile.info(wav).duration
    has_seam = 0 < seam_s < length_s
    first_s = max(0.0, seam_s - max(length_s - seam_s, 10.0)) if has_seam else 0.0
    sound = _look(wav, first_s, length_s)
    figure = _figure(12, 6, layout=None)  # places that are given need not be worked out, for a third of the time
    places = figure.add_gridspec(2, 2, wspace=0.025, hspace=0.1, width_ratios=(60, 1), height_ratios=(1, 4), **MARGINS)
    wave = figure.add_subplot(places[0, 0])
    image, scale = figure.add_subplot(places[1, 0], sharex=wave), figure.add_subplot(places[1, 1])
    wave.tick_params(labelbottom=False)
    wave.fill_between(sound.seconds, sound.lowest, sound.highest, linewidth=0, color="#40618f")
    wave.set(ylim=(-1, 1), ylabel="amplitude")
    wave.set_title(title, parse_math=False)
    _draw_spectrogram(figure, image, sound, scale=scale)
    if has_seam:
        for axis in (wave, image):
            axis.axvline(seam_s, color="#38d6c0", linewidth=1.5)
        sides = {"prompt  ": "right", "  continuation": "left"}
        for text, side in sides.items():
            wave.text(seam_s, 0.82, text, color="#0e7f71", weight="bold", ha=side, va="center")
    _save(figure, picture)


def draw_performance(performance: Performance, wav: Path, picture: Path, title: str) -> None:
    """A PNG of a performance's piano roll, by instrument, over the spectrogram of its rendering, on one time axis.

    At most the first 40 seconds are shown. The fundamentals of the notes are drawn into the spectrogram too.
    """
    shown_s = min(40.0, soundfile.info(wav).duration)
    sound = _look(wav, 0.0, shown_s)
    from pretty_midi import program_to_instrument_name

    figure = _figure(12, 8)
    roll, image = figure.subplots(2, 1, sharex=True)
    notes = [note for note in performance.notes if note.onset_s < shown_s]
    for number, (is_drum, program) in enumerate(sorted({(note.is_drum, note.program) for note in notes})):
        part = [note for note in notes if (note.is_drum, note.program) == (is_drum, program)]
        pitch, onset_s, end_s = np.array([(n.pitch, n.onset_s, n.onset_s + n.duration_s) for n in part]).T
        name = "percussion" if is_drum else program_to_instrument_name(program)
        roll.hlines(pitch, onset_s, end_s, linewidth=4, color=f"C{number % 10}", label=name)
        roll.plot(onset_s, pitch, "|", color="black", markersize=7)
        if not is_drum:
            image.hlines(440 * 2 ** ((pitch - 69) / 12), onset_s, end_s, linewidth=1, color="#38d6c0")
    roll.set(ylabel="pitch (60 is middle C)")
    roll.set_title(title, parse_math=False)
    roll.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=6)
    _draw_spectrogram(figure, image, sound, lowest_hz=50)
    _save(figure, picture)


def spectrogram_image(samples: np.ndarray, sample_rate_hz: int) -> np.ndarray:
    """A spectrogram up to 6 kHz without axes: uint8 (K, C, 3), one column each 16 ms, low frequencies at the bottom."""
    from matplotlib import colormaps

    n_fft = 2 ** round(np.log2(0.064 * sample_rate_hz))
    windows = np.pad(samples, (0, max(0, n_fft - len(samples))))
    magnitude = spectrum(windows, n_fft, n_fft // 4).abs().numpy()[:, : round(6000 * n_fft / sample_rate_hz) + 1]
    level_db = 20 * np.log10(magnitude.T[::-1] / (n_fft / 4) + 1e-5)
    return (colormaps["magma"](np.clip((level_db + 90) / 80, 0, 1))[..., :3] * 255).astype(np.uint8)


@dataclass(frozen=True)
class _Sound:
    """What a picture shows of a WAV: amplitudes `(C,)` and levels in dB `(K, C)` at C places."""

    seconds: np.ndarray
    hertz: np.ndarray
    lowest: np.ndarray
    highest: np.ndarray
    level_db: np.ndarray


def _look(wav: Path, first_s: float, last_s: float) -> _Sound:
    """A stretch of a WAV in at most 1,600 places, so that memory stays flat."""
    with soundfile.SoundFile(wav) as file:
        rate = file.samplerate
        n_fft = 2 ** round(np.log2(0.064 * rate))
        first, last = first_s * rate, min(last_s * rate, len(file))
        columns = min(PICTURE_COLUMNS, max(int(last - first) // 256, 2))
        places = np.linspace(first, max(last - n_fft, first), columns).astype(int)
        if last - first <= columns * n_fft:  # windows overlap: read it once
            sound = _read(file, int(first), int(last - first) + n_fft)
            windows = np.lib.stride_tricks.sliding_window_view(sound, n_fft)[places - int(first)]
        else:
            windows = np.array([_read(file, place, n_fft) for place in places])
    hertz = np.arange(n_fft // 2 + 1) * rate / n_fft
    hertz = hertz[hertz <= HIGHEST_HZ]
    magnitude = np.abs(scipy.fft.rfft(windows * hann(n_fft).numpy()))[:, : len(hertz)]
    level_db = 20 * np.log10(magnitude.T / (n_fft / 4) + 1e-5)
    seconds = (places + n_fft / 2) / rate
    if places[-1] - places[0] < n_fft:  # hardly more than one window: as wide as what it holds
        seconds = np.linspace(places[0], places[-1] + n_fft, columns) / rate
    return _Sound(seconds, hertz, windows.min(axis=1), windows.max(axis=1), level_db)


def _read(file: soundfile.SoundFile, place: int, length: int) -> np.ndarray:
    """One channel from `place` on, `(length,)`, silent after the end."""
    file.seek(int(place))
    return np.asarray(file.read(length, dtype="float32", always_2d=True, fill_value=0.0).mean(axis=1))


def _draw_spectrogram(figure: Any, axis: Any, sound: _Sound, *, lowest_hz: float = 0.0, scale: Any = None) -> None:
    """Over a logarithmic axis from `lowest_hz` on, or, where that is 0, a linear one, which is drawn much faster.

    Colours are explained in an axis of its own, `scale`, or in a part of this one.
    """
    look = {"vmin": -90, "vmax": -10, "cmap": "magma"}
    if lowest_hz:
        image = axis.pcolormesh(sound.seconds, sound.hertz, sound.level_db, rasterized=True, **look)
        axis.set(yscale="log")
    else:
        edges = [*sound.seconds[[0, -1]], *sound.hertz[[0, -1]]]
        image = axis.imshow(sound.level_db, aspect="auto", origin="lower", extent=edges, **look)
    axis.set(xlim=sound.seconds[[0, -1]], ylim=(lowest_hz, sound.hertz[-1]), xlabel="seconds", ylabel="Hz")
    beside = {"cax": scale} if scale else {"ax": axis, "pad": 0.01}
    figure.colorbar(image, label="dB below full scale", **beside)


def draw_curves(history: list[list[float]], picture: Path, steps_per_second: float) -> None:
    """A PNG of the training and held-out curves, in nats per step and bits per second of music."""
    step, seconds, train, held_out = np.array(history).T
    figure = _figure(8, 4.5)
    axis = figure.subplots()
    time, unit = (seconds / 60, "minutes") if seconds[-1] > 90 else (seconds, "seconds")
    axis.plot(time, train, label="training", color="#40618f")
    axis.plot(time, held_out, label="held out (average of the weights)", color="#c05a2b")
    best = int(np.argmin(held_out))
    axis.plot(
        time[best],
        held_out[best],
        "o",
        color="#c05a2b",
        label=f"best: {held_out[best]:.2f} at step {step[best]:.0f}",
    )
    axis.set(xlabel=f"{unit} of training", ylabel="nats per step", title="How training went")
    to_bits = steps_per_second / np.log(2)
    other = axis.secondary_yaxis("right", functions=(lambda nats: nats * to_bits, lambda bits: bits / to_bits))
    other.set_ylabel("bits per second of music")
    axis.grid(alpha=0.3)
    axis.legend()
    _save(figure, picture)


class TrainingLog:
    """Curves beside a state: TensorBoard events and `training.csv` in `NAME.runs/`, a picture, `NAME.curves.png`."""

    def __init__(self, state_path: Path, *, fresh: bool) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        self.picture = state_path.with_suffix(".curves.png")
        self.folder = state_path.with_suffix(".runs")
        if fresh:
            for old in self.folder.glob("events.out.tfevents.*"):
                old.unlink()
        self.folder.mkdir(exist_ok=True)
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}"
        self.events = RecordWriter(open(self.folder / name, "ab", buffering=0))  # noqa: SIM115, it is open as long as this object lives
        self._add(file_version="brain.Event:2")

    def __enter__(self) -> "TrainingLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.events.close()

    def write(self, step: int, train_nats: float | None, history: list[list[float]]) -> None:
        """The training loss every 20 steps, the held-out nats whenever they are new."""
        if train_nats is not None and step % 20 == 0:
            self._scalar("nats/training", train_nats, step)
        if history and history[-1][0] == step:
            self._scalar("nats/held-out", history[-1][3], step)
            self.folder.mkdir(exist_ok=True)
            rows = [f"{int(at)},{seconds:.1f},{train:.4f},{held_out:.4f}" for at, seconds, train, held_out in history]
            write_text(self.folder / "training.csv", "\n".join(["step,seconds,training,held_out", *rows]) + "\n")

    def hear(self, step: int, samples: np.ndarray, sample_rate_hz: int) -> None:
        """A sound, float32 `(N,)`, and its spectrogram, for TensorBoard."""
        from torch.utils.tensorboard import summary

        image = spectrogram_image(samples, sample_rate_hz)
        self._add(step=step, summary=summary.audio("continuation", soft_limit(samples)[None], sample_rate_hz))
        self._add(step=step, summary=summary.image("continuation", image, dataformats="HWC"))

    def _scalar(self, name: str, value: float, step: int) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        self._add(step=step, summary=Summary(value=[Summary.Value(tag=name, simple_value=value)]))

    def _add(self, **content: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self.events.write(Event(wall_time=time.time(), **content).SerializeToString())

    def draw(self, history: list[list[float]], steps_per_second: float) -> None:
        """The picture of the curves, where there is anything to draw."""
        if len(history) >= 2:
            draw_curves(history, self.picture, steps_per_second)


def _figure(width: float, height: float, layout: Literal["constrained"] | None = "constrained") -> Any:
    from matplotlib.figure import Figure  # not pyplot, which takes as long again to load

    return Figure(figsize=(width, height), layout=layout)


def _save(figure: Any, picture: Path) -> None:
    with replacing(picture) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # titles hold names in any script
        figure.savefig(temporary, dpi=110, format="png", metadata={"Software": None}, pil_kwargs=QUICK)
