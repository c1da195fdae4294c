"""Draw the pictures of a report, as PNG bytes (matplotlib, without a window system)."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from continuo.audio.pictures import new_figure, png
from continuo.model.metadata import Json
from continuo.symbolic.song import pitch_name
from evaluation import audio_metrics

BLUE, ORANGE, GREEN, GREY = "#40618f", "#c05a2b", "#0e7f71", "#8a8a8a"


def level_bars(held_out: Json) -> bytes:
    """Draw the loss of each level, side by side for the model and the baselines."""
    losses = {"unigram": held_out["unigram"], "copy last": held_out["copy_last"], "model": held_out["model"],
              "model on training music": held_out["training"]}  # fmt: skip
    figure = new_figure(8, 3.6)
    axis = figure.subplots()
    levels = len(held_out["model"]["levels"])
    for number, ((name, loss), color) in enumerate(zip(losses.items(), (GREY, BLUE, ORANGE, GREEN), strict=True)):
        axis.bar(np.arange(levels) + 0.2 * number - 0.3, loss["levels"], 0.2, label=name, color=color)
    axis.set_xticks(range(levels), [f"{'level ' if levels <= 8 else ''}{level + 1}" for level in range(levels)])
    axis.set(ylabel="nats per step", title="Loss on held-out music by level")
    axis.set_ylim(0, 1.25 * max(max(loss["levels"]) for loss in losses.values()))  # room for the legend
    return _finished(figure, axis, columns=4)


def spectrograms(sounds: Mapping[str, np.ndarray], rate_hz: int) -> bytes:
    """Draw spectrograms one below the other, on one time axis."""
    figure = new_figure(8, 1.9 * len(sounds) + 0.4)
    axes = figure.subplots(len(sounds), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (name, audio) in zip(axes, sounds.items(), strict=True):
        level = 20 * np.log10(audio_metrics.magnitudes(audio, rate_hz).T + 1e-3)
        extent = (0, len(audio) / rate_hz, 0, audio_metrics.RATE_HZ / 2)
        axis.imshow(level, origin="lower", aspect="auto", extent=extent, cmap="magma", vmin=level.max() - 75)
        axis.set(ylim=(0, min(5000, rate_hz / 2)), ylabel="Hz")
        axis.set_title(name, fontsize=10, loc="left")
    axes[-1].set_xlabel("seconds")
    return png(figure)


def level_over_time(levels_db: np.ndarray, real_db: float) -> bytes:
    """Draw the level of every second of the long run, and the mean level of its prompt."""
    figure = new_figure(8, 2.8)
    axis = figure.subplots()
    axis.plot(np.arange(len(levels_db)) + 0.5, levels_db, color=ORANGE, label="long run")
    axis.axhline(real_db, color=BLUE, linestyle="--", label="its prompt")
    low = min(float(np.median(levels_db)), real_db) - 25
    axis.set(ylim=(low, max(float(np.max(levels_db)), real_db) + 6), xlabel="seconds", ylabel="dB below full scale")
    axis.set_title("Level of the long run")
    return _finished(figure, axis)


def distances(sides: Mapping[str, np.ndarray]) -> bytes:
    """Draw histograms of the distances to the nearest second of the training music."""
    figure = new_figure(8, 3)
    axis = figure.subplots()
    edges = np.linspace(0, max(float(np.max(side)) for side in sides.values() if len(side)), 40)
    for (name, side), color in zip(sides.items(), (BLUE, ORANGE, GREEN), strict=False):
        axis.hist(side, list(edges), density=True, histtype="stepfilled", alpha=0.45, color=color, label=name)
    axis.set(xlabel="distance to the nearest second of the training music", ylabel="fraction", yticks=[])
    axis.set_title("Novelty: near 0 would be a copy")
    return _finished(figure, axis)


def pitch_classes(sides: Mapping[str, np.ndarray]) -> bytes:
    """Draw the fractions of the twelve pitch classes, `(12,)` for each side."""
    figure = new_figure(8, 2.8)
    axis = figure.subplots()
    for number, ((name, fractions), color) in enumerate(zip(sides.items(), (BLUE, ORANGE), strict=False)):
        axis.bar(np.arange(12) + 0.4 * number - 0.2, fractions, 0.4, label=name, color=color)
    axis.set_xticks(range(12), [pitch_name(pitch)[:-2] for pitch in range(12)])
    axis.set(ylabel="fraction of notes", title="Pitch classes")
    return _finished(figure, axis)


def _finished(figure: Figure, axis: Axes, columns: int = 1) -> bytes:
    axis.grid(alpha=0.3)
    axis.legend(fontsize=9, ncols=columns)
    return png(figure)
