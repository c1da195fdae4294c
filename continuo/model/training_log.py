"""Curves of a training: TensorBoard events, a table in CSV and a picture (matplotlib, TensorBoard)."""

import os
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from continuo.audio.files import soft_limit
from continuo.audio.pictures import new_figure, save_figure, spectrogram_image
from continuo.system.files import write_text


def draw_curves(history: list[list[float]], picture: Path, steps_per_second: float) -> None:
    """A PNG of the training and held-out curves, in nats per step and bits per second of music."""
    step, seconds, train, held_out = np.array(history).T
    figure = new_figure(8, 4.5)
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
    save_figure(figure, picture)


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
