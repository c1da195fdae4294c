"""Pictures and curves: what was heard, what was made, how training went (matplotlib, TensorBoard)."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import scipy.fft
import soundfile

from continuo.audio.stft import hann, spectrum
from continuo.system.files import atomic_write

PICTURE_COLUMNS = 1600
MAX_HZ = 6000
MARGINS = {"left": 0.06, "right": 0.945, "top": 0.94, "bottom": 0.085}
QUICK = {"compress_level": 1}  # pictures are a little larger, and there a fifth sooner


def draw_continuation(wav: Path, picture: Path, seam_s: float, title: str) -> None:
    """A PNG of a WAV's waveform and spectrogram, the seam between prompt and continuation marked.

    As much of the prompt is shown as of the continuation, and at least ten seconds.
    """
    length_s = soundfile.info(wav).duration
    has_seam = 0 < seam_s < length_s
    first_s = max(0.0, seam_s - max(length_s - seam_s, 10.0)) if has_seam else 0.0
    sound = look(wav, first_s, length_s)
    figure = new_figure(12, 6, layout=None)  # places that are given need not be worked out, for a third of the time
    places = figure.add_gridspec(2, 2, wspace=0.025, hspace=0.1, width_ratios=(60, 1), height_ratios=(1, 4), **MARGINS)
    wave = figure.add_subplot(places[0, 0])
    image, scale = figure.add_subplot(places[1, 0], sharex=wave), figure.add_subplot(places[1, 1])
    wave.tick_params(labelbottom=False)
    wave.fill_between(sound.seconds, sound.lowest, sound.highest, linewidth=0, color="#40618f")
    wave.set(ylim=(-1, 1), ylabel="amplitude")
    wave.set_title(title, parse_math=False)
    draw_spectrogram(figure, image, sound, scale=scale)
    if has_seam:
        for axis in (wave, image):
            axis.axvline(seam_s, color="#38d6c0", linewidth=1.5)
        sides = {"prompt  ": "right", "  continuation": "left"}
        for text, side in sides.items():
            wave.text(seam_s, 0.82, text, color="#0e7f71", weight="bold", ha=side, va="center")
    save_figure(figure, picture)


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


def look(wav: Path, first_s: float, last_s: float) -> _Sound:
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
    hertz = hertz[hertz <= MAX_HZ]
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


def draw_spectrogram(figure: Any, axis: Any, sound: _Sound, *, lowest_hz: float = 0.0, scale: Any = None) -> None:
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


def new_figure(width: float, height: float, layout: Literal["constrained"] | None = "constrained") -> Any:
    from matplotlib.figure import Figure  # not pyplot, which takes as long again to load

    return Figure(figsize=(width, height), layout=layout)


def save_figure(figure: Any, picture: Path) -> None:
    with atomic_write(picture) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # titles hold names in any script
        figure.savefig(temporary, dpi=110, format="png", metadata={"Software": None}, pil_kwargs=QUICK)
