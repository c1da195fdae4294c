"""The studio's process that makes takes: a file that crashes or stalls a decoder stops this process, not the page.

Standard input brings requests, one JSON object per line. Standard output answers each with several lines: `begins`,
`audio` (16-bit PCM in base64, left and right in turn, while it is made), and last `done`, `cancelled`, or `failed` with
the reason in one line. SIGINT cancels the request.
"""

import base64
import json
import math
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from continuo.audio.files import soft_limit, with_channels
from continuo.audio.piece import Piece
from continuo.model import metadata
from continuo.system.workers import use_one_thread
from predictor import Predictor
from takes import TakeRequest, write_take

FIRST_S, BLOCK_S = 0.1, 0.5  # seconds of sound in the first answer, and in the later ones
BLENDED_S = 1.0  # seconds at the end of a prompt of sound that the continuation may change
Answer = Callable[..., None]


@dataclass(frozen=True)
class Request:
    """One request of the page."""

    meta: str  # metadata file of the model
    prompt: str  # file to continue
    out: str  # WAV to write
    seconds: float  # approximate length of the continuation
    temperature: float
    coarse: float | None  # temperature; None takes that of the metadata file
    fine: float | None
    seed: int
    lead_s: float  # seconds of the prompt, before the join, to send as sound


@lru_cache(maxsize=1)
def _loaded(meta: Path, *changed_ns: int) -> Predictor:
    return Predictor.load(meta)


def load_predictor(meta: Path) -> Predictor:
    """Load the model of a metadata file, unless it is the last one and unchanged; ValueError: as `Predictor.load`."""
    state = meta.parent / metadata.load(meta).state
    return _loaded(meta, meta.stat().st_mtime_ns, state.stat().st_mtime_ns if state.exists() else 0)


class SoundSender:
    """Answers with blocks of sound as 16-bit PCM, collected to about `FIRST_S`, later `BLOCK_S`, seconds per answer."""

    def __init__(self, answer: Answer, rate_hz: int, skipped: int) -> None:
        self.answer, self.rate_hz, self.skipped, self.due_s = answer, rate_hz, skipped, FIRST_S
        self.waiting: list[np.ndarray] = []

    def send(self, block: np.ndarray) -> None:
        """Take a block `(n,)` or `(n, 2)`, leave out the first `skipped` samples, and answer when enough waits."""
        self.waiting.append(block[self.skipped :])
        self.skipped -= min(self.skipped, len(block))
        if sum(map(len, self.waiting)) >= self.due_s * self.rate_hz:
            self.flush()

    def flush(self) -> None:
        """Answer with everything that waits."""
        if any(map(len, self.waiting)):
            self.answer("audio", pcm=to_pcm(np.concatenate(self.waiting)))
        self.waiting, self.due_s = [], BLOCK_S


def make(request: Request, predictor: Predictor, answer: Answer) -> dict[str, float]:
    """Make and write a take, answer with its sound meanwhile, and return the facts for the last answer.

    The part of the prompt that the continuation does not change is sent before the model processes the prompt.
    ValueError: this model cannot continue the prompt.
    """
    path, rate_hz = Path(request.prompt), predictor.sample_rate_hz
    prompt = predictor.prompt(path)
    join_s = prompt.seconds
    from_s = max(0.0, join_s - request.lead_s)
    pcm_format = {"sample_rate_hz": rate_hz, "channels": predictor.channels}
    remark = getattr(prompt, "rendering", "")
    answer("begins", **pcm_format, seam_s=join_s, from_s=from_s, seconds=request.seconds, remark=remark)
    sound, blended_s = (prompt.samples, BLENDED_S) if isinstance(prompt, Piece) else (predictor.render(prompt), 0.0)
    first = round(from_s * rate_hz)
    known = max(first, round((join_s - blended_s) * rate_hz))
    sender = SoundSender(answer, rate_hz, skipped=known)
    if known > first:
        answer("audio", pcm=to_pcm(with_channels(np.asarray(sound[first:known]), predictor.channels)))
    steps = math.ceil(request.seconds * predictor.steps_per_second)
    heat = {"coarse_temperature": request.coarse, "fine_temperature": request.fine}
    sampling = predictor.sampling.but(temperature=request.temperature, **heat)
    take = TakeRequest(Path(request.out), steps, request.seed, sampling, path.name, picture=False)
    report = write_take(predictor, prompt, take, watch=lambda block, fraction: sender.send(block))
    sender.flush()
    return {"seconds": report.seconds, "seam_s": join_s, "step": report.weights_step}


def to_pcm(samples: np.ndarray) -> str:
    """Return float samples `(N,)` or `(N, 2)` as 16-bit PCM in base64, left and right in turn."""
    return base64.b64encode(np.rint(soft_limit(samples) * 32767).astype("<i2").tobytes()).decode()


def main() -> int:
    use_one_thread()  # a training may want the other cores
    working = False

    def cancel(*_: object) -> None:
        if working:
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, cancel)
    lines = os.dup(1)
    os.dup2(2, 1)  # libraries that print must not write between the answers

    def answer(kind: str, **facts: object) -> None:
        line = memoryview(("\n" * (kind != "audio") + json.dumps({"kind": kind} | facts) + "\n").encode())
        while line:  # a request may be cancelled in the middle of a line: the next kind begins a new line
            line = line[os.write(lines, line) :]

    for line in sys.stdin:
        request = json.loads(line)
        try:
            working = True
            predictor = load_predictor(Path(request["meta"]))
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
