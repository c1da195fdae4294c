"""Timed notes: what a performance is, whoever made it and whatever plays it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Note:
    """One sounding note.

    Attributes:
        onset_s: seconds from the beginning of the performance, at least 0.
        duration_s: how long the key is held, more than 0.
        pitch: MIDI number, 60 is middle C; fractional for quarter tones. For drums a General MIDI percussion key.
        velocity: MIDI velocity, 1 to 127.
        program: General MIDI program, 0 to 127; 0 is the grand piano.
        is_drum: whether it belongs to the percussion channel.
    """

    onset_s: float
    duration_s: float
    pitch: float
    velocity: int
    program: int
    is_drum: bool


@dataclass(frozen=True)
class Performance:
    """Timed notes.

    Attributes:
        notes: sorted by onset, then pitch.
        seconds: length as written, final rests included.
        warnings: what the score says and this performance does not, once each.
    """

    notes: tuple[Note, ...]
    seconds: float
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; `from_dict` gives the same performance back.

        >>> p = Performance((Note(0.5, 1.0, 60.5, 80, 0, False),), 2.0)
        >>> Performance.from_dict(p.to_dict()) == p
        True
        """
        notes = [[n.onset_s, n.duration_s, n.pitch, n.velocity, n.program, n.is_drum] for n in self.notes]
        return {"notes": notes, "seconds": self.seconds, "warnings": list(self.warnings)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Performance:
        """The performance that `to_dict` described.

        Raises:
            ValueError: the dictionary is of another kind.
        """
        try:
            return cls(tuple(Note(*values) for values in data["notes"]), data["seconds"], tuple(data["warnings"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a performance ({error})") from None

    def transposed(self, semitones: float) -> Performance:
        """Every pitched note higher (or, negative, lower); drums stay, and notes that would leave 0-127 are dropped."""
        moved = (n if n.is_drum else replace(n, pitch=n.pitch + semitones) for n in self.notes)
        return replace(self, notes=tuple(n for n in moved if 0 <= n.pitch <= 127))

    def faster(self, factor: float) -> Performance:
        """The same at `factor` times the tempo.

        Raises:
            ValueError: the factor is not positive and finite.
        """
        if not 0 < factor < math.inf:
            raise ValueError(f"a tempo factor must be positive, not {factor}")
        notes = (replace(n, onset_s=n.onset_s / factor, duration_s=n.duration_s / factor) for n in self.notes)
        return replace(self, notes=tuple(notes), seconds=self.seconds / factor)

    def with_program(self, program: int) -> Performance:
        """Every pitched note on one General MIDI program (0 to 127); drums stay.

        Raises:
            ValueError: no such program.
        """
        if not 0 <= program <= 127:
            raise ValueError(f"General MIDI programs are 0 to 127, not {program}")
        return replace(self, notes=tuple(n if n.is_drum else replace(n, program=program) for n in self.notes))
