"""Sound of two channels: a recording, and models of one channel that make it."""

import numpy as np
from conftest import melody

from continuo.audio.decoder import Decoder
from featurizer import CodecFeaturizer


def both(seed: int) -> np.ndarray:
    """Return a melody on the left and another one on the right, float32 `(N, 2)`."""
    return np.stack([melody(seed), melody(seed + 100)], axis=1)


class WideDecoder(Decoder):
    """Give the sound of a decoder of one channel twice, the right channel at half the level."""

    channels = 2

    def __init__(self, inner: Decoder) -> None:
        self.inner, self.overlap = inner, inner.overlap

    def push(self, step):
        return wide(self.inner.push(step))

    def finish(self):
        return wide(self.inner.finish())


def wide(samples: np.ndarray) -> np.ndarray:
    return np.stack([samples, samples / 2], axis=1)


def make_wide(monkeypatch) -> None:
    """Let all models of codes make sound of two channels, from now on."""
    one = CodecFeaturizer.decoder
    monkeypatch.setattr(CodecFeaturizer, "decoder", lambda self, prompt=None: WideDecoder(one(self, prompt)))
