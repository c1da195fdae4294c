"""Pictures of an evaluation, as PNG bytes (matplotlib, without a window system)."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from continuo.symbolic.song import pitch_name
from evaluation import audio_metrics

BLUE, ORANGE, GREEN, GREY = "#40618f", "#c05a2b", "#0e7f71", "#8a8a8a"
COLOURS = {"model": ORANGE, "copy_last": BLUE, "unigram": GREY, "model on training music": GREEN}


def level_bars(nats: Mapping[str, Sequence[float]]) -> bytes:
    """Nats per step of each level, side by side: rows by name, `(L,)` each."""
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axis = figure.subplots()
    width = 0.8 / max(len(nats), 1)
    for number, (name, values) in enumerate(nats.items()):
        places = np.arange(len(values)) + (number - (len(nats) - 1) / 2) * width
        axis.bar(places, values, width, label=name.replace("_", " "), color=COLOURS.get(name, GREY))
    levels = max((len(values) for values in nats.values()), default=0)
    word = "level " if levels <= 8 else ""
    axis.set_xticks(range(levels), [f"{word}{level + 1}" for level in range(levels)])
    axis.set(ylabel="nats per step", title="What a step of held-out music costs, by level")
    axis.set_ylim(0, 1.25 * max(max(values) for values in nats.values()))  # room for the legend
    _finish(axis, columns=4)
    return _png(figure)


def spectrograms(sounds: Mapping[str, np.ndarray], rate_hz: int) -> bytes:
    """Spectrograms one below the other, on one time axis and one scale of levels."""
    figure = Figure(figsize=(8, 1.9 * len(sounds) + 0.4), layout="constrained")
    axes = figure.subplots(len(sounds), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (name, audio) in zip(axes, sounds.items(), strict=True):
        level = 20 * np.log10(audio_metrics.magnitudes(audio, rate_hz).T + 1e-3)
        extent = (0, len(audio) / rate_hz, 0, audio_metrics.RATE_HZ / 2)
        shown = level.max() - 75
        axis.imshow(level, origin="lower", aspect="auto", extent=extent, cmap="magma", vmin=shown)
        axis.set(ylim=(0, min(5000, rate_hz / 2)), ylabel="Hz")
        axis.set_title(name, fontsize=10, loc="left")
    axes[-1].set_xlabel("seconds")
    return _png(figure)


def level_over_time(levels_db: np.ndarray, real_db: float) -> bytes:
    """Level of every second of the long run, beside the mean level of its prompt."""
    figure = Figure(figsize=(8, 2.8), layout="constrained")
    axis = figure.subplots()
    axis.plot(np.arange(len(levels_db)) + 0.5, levels_db, color=ORANGE, label="long run")
    axis.axhline(real_db, color=BLUE, linestyle="--", label="its prompt")
    low = min(float(np.median(levels_db)), real_db) - 25
    axis.set(ylim=(low, max(float(np.max(levels_db)), real_db) + 6), xlabel="seconds", ylabel="dB below full scale")
    axis.set_title("Level of the long run")
    _finish(axis)
    return _png(figure)


def distances(sides: Mapping[str, np.ndarray]) -> bytes:
    """Histograms of distances to the nearest second of the training music."""
    figure = Figure(figsize=(8, 3.0), layout="constrained")
    axis = figure.subplots()
    most = max(float(np.max(side)) for side in sides.values() if len(side))
    edges = np.linspace(0, most, 40)
    for (name, side), colour in zip(sides.items(), (BLUE, ORANGE, GREEN), strict=False):
        axis.hist(side, list(edges), density=True, histtype="stepfilled", alpha=0.45, color=colour, label=name)
    axis.set(xlabel="distance to the nearest second of the training music", ylabel="share", yticks=[])
    axis.set_title("Novelty: near 0 would be a copy")
    _finish(axis)
    return _png(figure)


def pitch_classes(sides: Mapping[str, np.ndarray]) -> bytes:
    """Shares of the twelve pitch classes, `(12,)` each, side by side."""
    figure = Figure(figsize=(8, 2.8), layout="constrained")
    axis = figure.subplots()
    for number, ((name, shares), colour) in enumerate(zip(sides.items(), (BLUE, ORANGE), strict=False)):
        axis.bar(np.arange(12) + 0.4 * number - 0.2, shares, 0.4, label=name, color=colour)
    axis.set_xticks(range(12), [pitch_name(pitch)[:-2] for pitch in range(12)])
    axis.set(ylabel="share of notes", title="Pitch classes")
    _finish(axis)
    return _png(figure)


def _finish(axis: Any, columns: int = 1) -> None:
    axis.grid(alpha=0.3)
    axis.legend(fontsize=9, ncols=columns)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=100, format="png", metadata={"Software": None})
    return buffer.getvalue()
