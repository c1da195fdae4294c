"""Make small songs, and define the sizes of small models that learn them."""

import numpy as np
from conftest import SMALL

from continuo.symbolic.song import Song, SongNote

SCALE = (0, 2, 4, 5, 7, 9, 11)
TINY = SMALL | {"architecture.hidden": 16, "architecture.head_width": 16, "architecture.layers": 2}


def tune(seed: int, length: int = 24) -> Song:
    """Return a melody of `length` quarters and eighths over held fifths."""
    rng = np.random.default_rng(seed)
    notes, at = [], 0
    for _ in range(length):
        ticks = int(rng.choice([240, 480]))
        notes.append(SongNote(at, 72 + SCALE[rng.integers(7)], ticks))
        if at % 960 == 0:
            notes += [SongNote(at, 48 + shift, 960) for shift in (0, 7)]
        at += ticks
    end = -(-at // 1920) * 1920
    return Song(f"tune{seed}", f"tune{seed}", tuple(sorted(notes)), end, ((0, 96.0),), ((0, 3, 4),))
