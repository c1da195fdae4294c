"""Sounds on their way to a performance, and the sustain pedal's effect on them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Sound:
    """One sounding note; mutable, and not yet checked as `continuo.notes.Note` is.

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
    strokes: dict[float, list[Sound]] = {}
    for sound in sorted(sounds, key=lambda s: s.onset_s):
        strokes.setdefault(sound.pitch, []).append(sound)
    for same_key in strokes.values():
        for k, sound in enumerate(same_key):
            up_s = next((up for down, up in spans if down < sound.end_s - 1e-6 and sound.end_s < up - 1e-6), None)
            if up_s is not None:
                next_s = next((s.onset_s for s in same_key[k + 1 :] if s.onset_s > sound.onset_s), float("inf"))
                sound.end_s = max(sound.end_s, min(up_s, next_s, last_s))
