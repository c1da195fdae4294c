"""Takes for the studio, made in a process of its own: a file that crashes or stalls a decoder costs this, not the page.

Standard input brings requests, one JSON object a line; standard output answers each with several: `begins`, `audio`
(16-bit PCM in base64, as it is made), and last `done`, `cancelled`, or `failed` with one line of reasons. SIGINT gives
the request up.
"""

import base64
import contextlib
import json
import math
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from continuo.audio.files import soft_limit, write_wav
from continuo.model import metadata
from continuo.model.sampling import Sampling
from continuo.score.synth import render
from continuo.symbolic.engraving import TooLong
from continuo.symbolic.writing import write_musicxml, write_song_midi
from predictor import Predictor, joined

FIRST_S, BLOCK_S = 0.1, 0.5  # seconds of sound in the first answer, and in the later ones
Answer = Callable[..., None]


@dataclass(frozen=True)
class Request:
    """A take to make.

    Attributes:
        meta: metadata file of the model.
        prompt: what is continued.
        out: WAV to write; a model of notes writes MIDI and MusicXML beside it.
        seconds: of the continuation, about.
        coarse, fine: temperatures; None: as the metadata file says.
        lead_s: seconds before the seam from which on sound is sent.
    """

    meta: str
    prompt: str
    out: str
    seconds: float
    temperature: float
    coarse: float | None
    fine: float | None
    seed: int
    lead_s: float

    def how(self, predictor: Predictor) -> Sampling:
        flags = {"coarse_temperature": self.coarse, "fine_temperature": self.fine}
        return predictor.sampling.but(temperature=self.temperature, **flags)

    def steps(self, predictor: Predictor) -> int:
        return math.ceil(self.seconds * predictor.steps_per_second)


class Shelf:
    """The model that was used last, loaded anew when its state is."""

    def __init__(self) -> None:
        self.held: tuple[Any, Predictor | None] = None, None

    def predictor(self, meta: Path) -> Predictor:
        """Raises ValueError as `Predictor.load` does."""
        state = meta.parent / metadata.load(meta).state
        key = (meta, meta.stat().st_mtime_ns, state.exists() and state.stat().st_mtime_ns)
        held, predictor = self.held
        if predictor is None or held != key:
            predictor = Predictor.load(meta)
            self.held = key, predictor
        return predictor


def make(request: Request, predictor: Predictor, answer: Answer) -> dict[str, Any]:
    """Make a take and answer with its sound meanwhile; returns the facts about it.

    Raises:
        ValueError: the prompt cannot be continued by this model, with the reason.
    """
    prompt = predictor.prompt(Path(request.prompt))
    seam_s, rate_hz = prompt.seconds, predictor.sample_rate_hz
    from_s = max(0.0, seam_s - request.lead_s)
    answer("begins", sample_rate_hz=rate_hz, seam_s=seam_s, from_s=from_s, seconds=request.seconds)
    make_blocks = sound_blocks if predictor.modality == "sound" else song_blocks
    written = write_wav(
        Path(request.out), told(make_blocks(request, predictor, prompt), rate_hz, from_s, answer), rate_hz
    )
    return {"seconds": written / rate_hz, "seam_s": seam_s, "step": predictor.weights_step}


def sound_blocks(request: Request, predictor: Predictor, prompt: Any) -> Iterator[np.ndarray]:
    """The prompt but for its last second, at once; then the rest of it and the continuation, while that is made."""
    early = max(0, len(prompt.samples) - predictor.sample_rate_hz)
    yield np.asarray(prompt.samples[:early])
    take = predictor.take(prompt, seed=request.seed, how=request.how(predictor))
    for block in joined(take, prompt, request.steps(predictor)):
        yield block[early:]
        early -= min(early, len(block))


def song_blocks(request: Request, predictor: Predictor, prompt: Any) -> Iterator[np.ndarray]:
    """The prompt, then, once its notes are written, the continuation."""
    rate_hz, font = predictor.sample_rate_hz, predictor.metadata.corpus.soundfont
    soundfont = Path(font).expanduser() if font else None
    heard = lambda song: render(song.performance(), rate_hz, soundfont=soundfont)  # noqa: E731
    seam, out = round(prompt.seconds * rate_hz), Path(request.out)
    yield heard(prompt)[:seam]
    song = predictor.take(prompt, seed=request.seed, how=request.how(predictor)).song(request.steps(predictor))
    yield heard(song)[seam:]
    write_song_midi(song, out.with_suffix(".mid"))
    with contextlib.suppress(TooLong):  # then it can be downloaded as MIDI
        write_musicxml(song, out.with_suffix(".musicxml"), title=out.stem)


def told(blocks: Iterable[np.ndarray], rate_hz: int, from_s: float, answer: Answer) -> Iterator[np.ndarray]:
    """Hands blocks on, and answers with what is heard from `from_s` on."""
    waiting, skipped, due_s = [np.zeros(0, np.float32)], round(from_s * rate_hz), FIRST_S

    def tell() -> None:
        pcm = np.rint(soft_limit(np.concatenate(waiting)) * 32767).astype("<i2")
        answer("audio", pcm=base64.b64encode(pcm.tobytes()).decode())

    for block in blocks:
        yield block
        waiting.append(block[skipped:])
        skipped -= min(skipped, len(block))
        if sum(map(len, waiting)) >= due_s * rate_hz:
            tell()
            waiting, due_s = [], BLOCK_S
    if any(map(len, waiting)):
        tell()


def main() -> int:
    torch.set_num_threads(1)  # a training may want the other cores
    working, shelf = False, Shelf()

    def give_up(*_: object) -> None:
        if working:
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, give_up)
    lines = os.dup(1)
    os.dup2(2, 1)  # whatever prints, prints elsewhere

    def answer(kind: str, **facts: Any) -> None:
        line = memoryview(("\n" * (kind != "audio") + json.dumps({"kind": kind} | facts) + "\n").encode())
        while line:  # a request may be given up in the middle of a line: the next kind begins a new one
            line = line[os.write(lines, line) :]

    for line in sys.stdin:
        request = json.loads(line)
        try:
            working = True
            predictor = shelf.predictor(Path(request["meta"]))
            facts = make(Request(**request), predictor, answer) if "prompt" in request else {}
            working = False
            answer("done", **facts)
        except KeyboardInterrupt:
            working = False
            answer("cancelled")
        except (ValueError, OSError) as error:
            working = False
            answer("failed", text=getattr(error, "strerror", None) or str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
