"""Small songs, and the sizes of small models that learn them."""

import numpy as np
from conftest import SMALL

from continuo.symbolic.song import Song, SongNote

SCALE = (0, 2, 4, 5, 7, 9, 11)
TINY = SMALL | {"architecture.hidden": 16, "architecture.head_width": 16, "architecture.layers": 2}


def tune(seed: int, notes: int = 24) -> Song:
    """A melody of quarters and eighths over held fifths."""
    rng = np.random.default_rng(seed)
    notes, at = [], 0
    for _ in range(notes):
        length = int(rng.choice([240, 480]))
        notes.append(SongNote(at, 72 + SCALE[rng.integers(7)], length))
        if at % 960 == 0:
            notes += [SongNote(at, 48 + shift, 960) for shift in (0, 7)]
        at += length
    end = -(-at // 1920) * 1920
    return Song(f"tune{seed}", f"tune{seed}", tuple(sorted(notes)), end, ((0, 96.0),), ((0, 3, 4),))
