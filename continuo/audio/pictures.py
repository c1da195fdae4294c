"""Draw audio with matplotlib: waveforms and spectrograms."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import scipy.fft
import soundfile
import torch

from continuo.audio.stft import spectrum
from continuo.system.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

MAX_COLUMNS = 1600  # places of a recording in a picture
MAX_HZ = 6000  # Hz, the upper end of spectrograms
WINDOW_S = 0.064  # s
MARGINS = {"left": 0.06, "right": 0.945, "top": 0.94, "bottom": 0.085}
PNG_OPTIONS = {"compress_level": 1}  # slightly larger pictures, drawn a fifth faster


def draw_continuation(wav: Path, picture: Path, join_s: float, title: str) -> None:
    """Draw waveform and spectrogram of a WAV as a PNG, with the join between prompt and continuation marked.

    The picture shows as much of the prompt as of the continuation, and at least ten seconds of it.
    """
    length_s = soundfile.info(wav).duration
    has_join = 0 < join_s < length_s
    first_s = max(0.0, join_s - max(length_s - join_s, 10.0)) if has_join else 0.0
    excerpt = analyze(wav, first_s, length_s)
    figure = new_figure(12, 6, layout=None)  # fixed places save the third of the time that a layout takes
    places = figure.add_gridspec(2, 2, wspace=0.025, hspace=0.1, width_ratios=(60, 1), height_ratios=(1, 4), **MARGINS)
    wave = figure.add_subplot(places[0, 0])
    image, scale = figure.add_subplot(places[1, 0], sharex=wave), figure.add_subplot(places[1, 1])
    wave.tick_params(labelbottom=False)
    wave.fill_between(excerpt.seconds, excerpt.lowest, excerpt.highest, linewidth=0, color="#40618f")
    wave.set(ylim=(-1, 1), ylabel="amplitude")
    wave.set_title(title, parse_math=False)
    draw_spectrogram(figure, image, excerpt, scale=scale)
    if has_join:
        for axes in (wave, image):
            axes.axvline(join_s, color="#38d6c0", linewidth=1.5)
        for text, side in (("prompt  ", "right"), ("  continuation", "left")):
            wave.text(join_s, 0.82, text, color="#0e7f71", weight="bold", ha=side, va="center")
    save_figure(figure, picture)


def spectrogram_image(samples: np.ndarray, sample_rate_hz: int) -> np.ndarray:
    """Return a spectrogram up to `MAX_HZ` without axes: uint8 `(K, C, 3)`, 16 ms per column, low frequencies below."""
    from matplotlib import colormaps

    n_fft = _window_samples(sample_rate_hz)
    padded = np.pad(samples, (0, max(0, n_fft - len(samples))))
    magnitude = spectrum(padded, n_fft, n_fft // 4).abs().numpy()[:, : round(MAX_HZ * n_fft / sample_rate_hz) + 1]
    level_db = _level_db(magnitude.T[::-1], n_fft)
    return (colormaps["magma"](np.clip((level_db + 90) / 80, 0, 1))[..., :3] * 255).astype(np.uint8)


def _window_samples(sample_rate_hz: int) -> int:
    """Return the power of two nearest to `WINDOW_S`."""
    return int(2 ** round(np.log2(WINDOW_S * sample_rate_hz)))


def _level_db(magnitude: np.ndarray, n_fft: int) -> np.ndarray:
    """Convert STFT magnitudes to dB below full scale."""
    return np.asarray(20 * np.log10(magnitude / (n_fft / 4) + 1e-5))


@dataclass(frozen=True)
class Excerpt:
    """Hold a WAV at C places: seconds, lowest and highest sample `(C,)`, and levels `(K, C)` in dB at `hertz`."""

    seconds: np.ndarray
    hertz: np.ndarray
    lowest: np.ndarray
    highest: np.ndarray
    level_db: np.ndarray


def analyze(wav: Path, first_s: float, last_s: float) -> Excerpt:
    """Analyze a part of a WAV at no more than `MAX_COLUMNS` places, so that memory stays flat."""
    with soundfile.SoundFile(wav) as file:
        rate_hz = file.samplerate
        n_fft = _window_samples(rate_hz)
        first, last = first_s * rate_hz, min(last_s * rate_hz, len(file))
        columns = min(MAX_COLUMNS, max(int(last - first) // 256, 2))
        places = np.linspace(first, max(last - n_fft, first), columns).astype(int)
        if last - first <= columns * n_fft:  # the windows overlap: read everything once
            samples = _read_mono(file, int(first), int(last - first) + n_fft)
            windows = np.lib.stride_tricks.sliding_window_view(samples, n_fft)[places - int(first)]
        else:
            windows = np.array([_read_mono(file, place, n_fft) for place in places])
    hertz = np.arange(n_fft // 2 + 1) * rate_hz / n_fft
    hertz = hertz[hertz <= MAX_HZ]
    magnitude = np.abs(scipy.fft.rfft(windows * torch.hann_window(n_fft).numpy()))[:, : len(hertz)]
    seconds = (places + n_fft / 2) / rate_hz
    if places[-1] - places[0] < n_fft:  # a part that is hardly longer than a window fills the whole width
        seconds = np.linspace(places[0], places[-1] + n_fft, columns) / rate_hz
    return Excerpt(seconds, hertz, windows.min(axis=1), windows.max(axis=1), _level_db(magnitude.T, n_fft))


def _read_mono(file: soundfile.SoundFile, place: int, length: int) -> np.ndarray:
    """Return `(length,)` samples from `place` on, averaged over the channels, with silence after the end."""
    file.seek(int(place))
    return np.asarray(file.read(length, dtype="float32", always_2d=True, fill_value=0.0).mean(axis=1))


def draw_spectrogram(
    figure: Figure, axes: Axes, excerpt: Excerpt, *, lowest_hz: float = 0.0, scale: Axes | None = None
) -> None:
    """Draw a spectrogram and its color scale, which takes the axes `scale` or a part of `axes`.

    Frequencies are logarithmic from `lowest_hz` on, or linear where that is 0, which is drawn much faster.
    """
    image: ScalarMappable
    if lowest_hz:
        image = axes.pcolormesh(excerpt.seconds, excerpt.hertz, excerpt.level_db, rasterized=True)
        axes.set(yscale="log")
    else:
        edges = (*excerpt.seconds[[0, -1]], *excerpt.hertz[[0, -1]])
        image = axes.imshow(excerpt.level_db, aspect="auto", origin="lower", extent=edges)
    image.set(clim=(-90, -10), cmap="magma")
    axes.set(xlim=excerpt.seconds[[0, -1]], ylim=(lowest_hz, excerpt.hertz[-1]), xlabel="seconds", ylabel="Hz")
    if scale:
        figure.colorbar(image, cax=scale, label="dB below full scale")
    else:
        figure.colorbar(image, ax=axes, pad=0.01, label="dB below full scale")


def new_figure(width: float, height: float, layout: Literal["constrained"] | None = "constrained") -> Figure:
    """Return a figure of `width` by `height` inches."""
    from matplotlib.figure import Figure  # pyplot would double the loading time

    return Figure(figsize=(width, height), layout=layout)


def png(figure: Figure) -> bytes:
    """Return a figure as the bytes of a PNG."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # titles contain names in any script
        figure.savefig(buffer, dpi=110, format="png", metadata={"Software": None}, pil_kwargs=PNG_OPTIONS)
    return buffer.getvalue()


def save_figure(figure: Figure, picture: Path) -> None:
    """Write a figure as a PNG."""
    with atomic_write(picture) as temporary:
        temporary.write_bytes(png(figure))
