"""Curves of a training: TensorBoard events, a table in CSV and a picture."""

import io
import os
import socket
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile

from continuo.audio.files import soft_limit
from continuo.audio.pictures import new_figure, spectrogram_image
from continuo.audio.samples import mix_to_mono
from continuo.system.files import write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from tensorboard.compat.proto.summary_pb2 import Summary

LOSS_EVERY_STEPS = 20


def draw_curves(history: list[list[float]], steps_per_second: float) -> "Figure":
    """Draw the losses, in nats per step and bits per second of music.

    `history` has two or more rows of step, seconds, training loss and held-out loss, one for each validation.
    """
    step, seconds, train, held_out = np.array(history).T
    figure = new_figure(8, 4.5)
    axis = figure.subplots()
    elapsed, unit = (seconds / 60, "minutes") if seconds[-1] > 90 else (seconds, "seconds")
    axis.plot(elapsed, train, label="training", color="#40618f")
    axis.plot(elapsed, held_out, label="held out (average of the weights)", color="#c05a2b")
    best = int(np.argmin(held_out))
    label = f"best: {held_out[best]:.2f} at step {step[best]:.0f}"
    axis.plot(elapsed[best], held_out[best], "o", color="#c05a2b", label=label)
    axis.set(xlabel=f"{unit} of training", ylabel="nats per step", title="How training went")
    to_bits = steps_per_second / np.log(2)
    other = axis.secondary_yaxis("right", functions=(lambda nats: nats * to_bits, lambda bits: bits / to_bits))
    other.set_ylabel("bits per second of music")
    axis.grid(alpha=0.3)
    axis.legend()
    return figure


class TrainingLog(AbstractContextManager["TrainingLog"]):
    """Write TensorBoard events and `training.csv` to the folder `NAME.runs` of a state; `fresh` deletes earlier ones.

    torch's `SummaryWriter` would write from a thread of its own, which prints a traceback when the disk is full.
    """

    def __init__(self, state_path: Path, *, fresh: bool) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        self.folder = state_path.with_suffix(".runs")
        if fresh:
            for old in self.folder.glob("events.out.tfevents.*"):
                old.unlink()
        self.folder.mkdir(exist_ok=True)
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}"
        self.file = open(self.folder / name, "ab", buffering=0)  # noqa: SIM115, `__exit__` closes it
        self.events = RecordWriter(self.file)
        self.events.write(Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString())

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.file.close()

    def write(self, step: int, train_loss: float | None, history: list[list[float]]) -> None:
        """Log the loss of every 20th step, and the history (see `draw_curves`) after a validation, in nats."""
        from torch.utils.tensorboard import summary

        if train_loss is not None and step % LOSS_EVERY_STEPS == 0:
            self._add(step, summary.scalar("nats/training", train_loss))
        if history and history[-1][0] == step:
            self._add(step, summary.scalar("nats/held-out", history[-1][3]))
            self.folder.mkdir(exist_ok=True)
            rows = [f"{int(at)},{seconds:.1f},{train:.4f},{held_out:.4f}" for at, seconds, train, held_out in history]
            write_text(self.folder / "training.csv", "\n".join(["step,seconds,training,held_out", *rows]) + "\n")

    def add_audio(self, step: int, samples: np.ndarray, sample_rate_hz: int) -> None:
        """Log a sound, float32 `(N,)` or `(N, 2)`, softly limited to ±1, and a picture of its spectrogram."""
        from tensorboard.compat.proto.summary_pb2 import Summary
        from torch.utils.tensorboard import summary

        file, pcm = io.BytesIO(), (soft_limit(samples) * 32767).astype(np.int16)
        soundfile.write(file, pcm, sample_rate_hz, "PCM_16", format="WAV")
        facts = {"sample_rate": sample_rate_hz, "num_channels": pcm[:1].size, "length_frames": len(pcm)}
        audio = Summary.Audio(**facts, encoded_audio_string=file.getvalue(), content_type="audio/wav")
        self._add(step, Summary(value=[Summary.Value(tag="continuation", audio=audio)]))
        image = spectrogram_image(mix_to_mono(samples), sample_rate_hz)
        self._add(step, summary.image("continuation", image, dataformats="HWC"))

    def _add(self, step: int, content: "Summary") -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self.events.write(Event(wall_time=time.time(), step=step, summary=content).SerializeToString())
