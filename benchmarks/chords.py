"""Make synthetic chords, so that a benchmark needs neither a corpus nor a synthesizer."""

from pathlib import Path

import numpy as np
import soundfile

RATE_HZ = 24_000


def write_chords(folder: Path, pieces: int, seconds: int) -> None:
    """Write `pieces` WAVs of 30 tones that come and go, with a little noise, into an existing folder."""
    rng = np.random.default_rng(0)
    time_s = np.arange(RATE_HZ * seconds) / RATE_HZ
    for number in range(pieces):
        tones = [
            np.sin(2 * np.pi * rng.uniform(80, 3000) * time_s) * (np.sin(rng.uniform(0.5, 4) * time_s) > 0)
            for _ in range(30)
        ]
        noise = rng.standard_normal(len(time_s)) * 0.02
        soundfile.write(folder / f"{number}.wav", 0.02 * np.sum(tones, axis=0) + noise, RATE_HZ)
