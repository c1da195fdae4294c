"""Sounds on their way to a performance, and the sustain pedal's effect on them."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from dataclasses import dataclass

MAX_SECONDS = 3 * 3600.0
"""Longest performance; longer ones come from broken tempi, durations or repeats."""
MAX_NOTES = 500_000
"""Most notes of a performance; a long opera has a fifth."""


def check_length(seconds: float) -> None:
    """Raises ValueError for a performance that lasts longer than `MAX_SECONDS`."""
    if not seconds <= MAX_SECONDS:
        hours = f"{seconds / 3600:.1f} hours; the most is {MAX_SECONDS / 3600:.0f}"
        raise ValueError(f"it would last {hours}: correct its tempi or repeats, or split it")


def check_count(notes: int) -> None:
    """Raises ValueError for a performance of more than `MAX_NOTES`."""
    if notes > MAX_NOTES:
        raise ValueError(f"more than {MAX_NOTES} notes; split the score")


@dataclass(slots=True)
class Sound:
    """One sounding note; mutable, and not yet checked as `continuo.score.notes.Note` is.

    Attributes:
        onset_s, end_s: seconds from the beginning.
        pitch: MIDI number, fractional between the keys.
        velocity: MIDI velocity, not yet rounded or clipped.
        program: General MIDI program, 0 to 127.
    """

    onset_s: float
    end_s: float
    pitch: float
    velocity: float
    program: int
    is_drum: bool


def pedal_spans(presses: list[tuple[float, bool]]) -> list[tuple[float, float]]:
    """From and until when the pedal is down; pressed and never released, it stays down for ever.

    >>> pedal_spans([(0.0, True), (1.0, True), (2.0, False)])
    [(0.0, 2.0)]
    """
    spans: list[tuple[float, float]] = []
    down_s: float | None = None
    for time_s, is_down in presses:
        if is_down and down_s is None:
            down_s = time_s
        elif not is_down and down_s is not None:
            spans.append((down_s, time_s))
            down_s = None
    if down_s is not None:
        spans.append((down_s, float("inf")))
    return spans


def hold_pedal(sounds: list[Sound], spans: list[tuple[float, float]]) -> None:
    """Lengthen sounds whose key goes up while the pedal is down, to the pedal's release or the key's next stroke.

    Nothing is held beyond the end of the last sound, so a pedal that is never lifted does no harm.

    Args:
        sounds: of one instrument, changed in place.
        spans: from and until when the pedal is down, in seconds, sorted.
    """
    if not spans or not sounds:
        return
    last_s = max(s.end_s for s in sounds)
    reach = list(itertools.accumulate((up for _, up in spans), max))  # of the spans so far
    strokes: dict[float, list[Sound]] = {}
    for sound in sorted(sounds, key=lambda s: s.onset_s):
        strokes.setdefault(sound.pitch, []).append(sound)
    for same_key in strokes.values():
        onsets = [sound.onset_s for sound in same_key]
        for sound in same_key:
            k = bisect_right(reach, sound.end_s + 1e-6)  # the first span that ends later
            if k < len(spans) and spans[k][0] < sound.end_s - 1e-6:
                following = bisect_right(onsets, sound.onset_s)
                next_s = onsets[following] if following < len(onsets) else float("inf")
                sound.end_s = max(sound.end_s, min(spans[k][1], next_s, last_s))
