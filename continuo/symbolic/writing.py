"""Songs to files that others open: MIDI, MusicXML, and a picture of the notes."""

from __future__ import annotations

import io
import math
import warnings
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from continuo.symbolic import engraving, notation
from continuo.symbolic.song import QUARTER, Song, SongNote, pitch_name
from continuo.system.files import atomic_write

PROMPT, CONTINUATION, SEAM, WORDS = "#40618f", "#c05a2b", "#38d6c0", "#0e7f71"
MIN_BEFORE_Q = 32.0
"""Quarters of the prompt that are drawn, if it has so many."""
NARROWEST, WIDEST, HIGHEST = 8.0, 24.0, 12.0
"""Inches of a picture."""


def write_song_midi(song: Song, path: Path) -> None:
    """A song as a MIDI file (type 1, `QUARTER` ticks a quarter), one track per program, whole or not at all.

    A note ends where the same pitch of its program begins again, so each is struck; of notes of one pitch that begin
    together the longest is kept. What MIDI cannot say is left out: rests after the last note, and meters whose lower
    number is no power of two.

    Raises:
        ValueError: the folder does not exist or cannot be written.
    """
    import symusic

    score: Any = symusic.Score(QUARTER)
    for k, (tick, qpm) in enumerate(song.tempos):
        score.tempos.append(symusic.Tempo(tick if k else 0, qpm))
    for k, (tick, numerator, denominator) in enumerate(song.meters):
        if denominator & (denominator - 1) == 0 and numerator < 256:
            score.time_signatures.append(symusic.TimeSignature(tick if k else 0, numerator, denominator))
    programs = engraving.by_program(song) or {(False, 0): []}  # without a track symusic 0.5.9 misplaces the tempos
    for (is_drum, program), notes in sorted(programs.items()):
        track = symusic.Track(engraving.program_name(is_drum, program), program, is_drum)
        for note, end in _struck(notes):
            track.notes.append(symusic.Note(note.onset, end - note.onset, note.pitch, note.velocity))
        score.tracks.append(track)
    _write(path, score.dumps_midi())


def _struck(notes: Iterable[SongNote]) -> list[tuple[SongNote, int]]:
    """Notes with the ticks at which they end: none sounds when its pitch begins again."""
    by_pitch: dict[int, dict[int, SongNote]] = defaultdict(dict)
    for note in sorted(notes, key=lambda t: (t.onset, t.length)):
        by_pitch[note.pitch][note.onset] = note
    found = []
    for line in by_pitch.values():
        after = [*list(line)[1:], math.inf]
        found += [(note, int(min(note.end, until))) for note, until in zip(line.values(), after, strict=True)]
    return sorted(found)


def write_musicxml(song: Song, path: Path, *, title: str) -> None:
    """A song as a MusicXML score, whole or not at all.

    Every program is a part: on two braced staves for keyboards that need them, on more where more than four voices
    sound together. The key signature is that of the scale with most notes in it.

    What is not as in the song: times are rounded to 1/12 quarter (32nds are not exact), tempos to 0.01, meters and the
    last bar as `notation.bars` says; velocities are not written; notes of one pitch and program that begin and
    end together are one; strokes of percussion last until the next one or the next quarter.

    Raises:
        ValueError: the folder does not exist or cannot be written.
        engraving.TooLong: it has very many bars.
    """
    from music21.musicxml.m21ToXml import GeneralObjectExporter

    exporter = GeneralObjectExporter(engraving.to_score(song, title))
    exporter.makeNotation = False
    _write(path, exporter.parse())


def draw_song(song: Song, path: Path, seam_tick: int | None, title: str) -> None:
    """A PNG of a song's notes over its bars; those before and from `seam_tick` on differ in colour, programs in shade.

    As much is shown before the seam as after it, and at least `MIN_BEFORE_Q`. Percussion has rows of its own.

    Raises:
        ValueError: the folder does not exist or cannot be written.
    """
    from matplotlib.figure import Figure

    starts = [bar.start / notation.UNITS for bar in notation.bars(song)]
    end = max([song.beats, 1.0, *(t.end / QUARTER for t in song.notes)])
    seam = math.inf if seam_tick is None else seam_tick / QUARTER
    shown_before = max(end - seam, MIN_BEFORE_Q)
    first = max([0.0, *(q for q in starts if q <= seam - shown_before)]) if seam_tick is not None else 0.0
    notes = [t for t in song.notes if t.onset >= first * QUARTER]
    programs = sorted({(t.is_drum, t.program) for t in notes})
    rows = [row for is_drum in (False, True) if (row := [t for t in notes if t.is_drum == is_drum])] or [[]]
    spans = [(min([t.pitch for t in row], default=60), max([t.pitch for t in row], default=72)) for row in rows]
    heights = [high - low + 3 for low, high in spans]
    size = (min(max(2 + 0.15 * (end - first), NARROWEST), WIDEST), min(1.5 + 0.14 * sum(heights), HIGHEST))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(rows), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
    for axis, row, (low, high) in zip(axes, rows, spans, strict=True):
        _draw_tones(axis, row, seam, programs)
        _draw_bars(axis, starts, first, end)
        _name_pitches(axis, row, low, high)
        axis.set(xlim=(first, end), ylim=(low - 1.5, high + 1.5))
        if first < seam < end:
            axis.axvline(seam, color=SEAM, linewidth=1.5)
    if first < seam < end:
        for text, side in {"prompt  ": "right", "  continuation": "left"}.items():
            place = {"ha": side, "va": "bottom", "transform": axes[0].get_xaxis_transform()}
            axes[0].text(seam, 1.0, text, color=WORDS, weight="bold", **place)
    axes[0].set_title(title, pad=20, parse_math=False)
    axes[-1].set_xlabel("bar")
    if len(programs) > 1:
        _explain(
            figure, programs, [PROMPT] if seam >= end else [PROMPT, CONTINUATION] if seam > first else [CONTINUATION]
        )
    picture = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # titles hold names in any script
        figure.savefig(picture, dpi=110, format="png", metadata={"Software": None})
    _write(path, picture.getvalue())


def _shade(number: int, count: int, colour: str) -> tuple[float, float, float]:
    """The colour of a program, the first as it is, the last of `count` rather pale."""
    from matplotlib.colors import to_rgb

    red, green, blue = (c + (1 - c) * 0.7 * number / count for c in to_rgb(colour))
    return red, green, blue


def _draw_tones(axis: Any, notes: list[SongNote], seam: float, programs: list[tuple[bool, int]]) -> None:
    """A bar for each note, from its onset to its end."""
    from matplotlib.collections import PolyCollection

    corners, colours = [], []
    for t in notes:
        left, right = t.onset / QUARTER, max(t.end / QUARTER, t.onset / QUARTER + 0.1)
        corners.append([(left, t.pitch - 0.4), (left, t.pitch + 0.4), (right, t.pitch + 0.4), (right, t.pitch - 0.4)])
        colour = PROMPT if left < seam else CONTINUATION
        colours.append(_shade(programs.index((t.is_drum, t.program)), len(programs), colour))
    axis.add_collection(PolyCollection(corners, facecolors=colours, edgecolors="black", linewidths=0.4))


def _draw_bars(axis: Any, starts: list[float], first: float, end: float) -> None:
    """Bar lines, some with their numbers, and fainter lines for quarters."""
    shown = [(start, str(number)) for number, start in enumerate(starts, start=1) if first <= start < end]
    apart = math.ceil(len(shown) / 40)
    axis.set_xticks([start for start, _ in shown[::apart]], [name for _, name in shown[::apart]])
    axis.vlines([start for start, _ in shown], 0, 1, color="0.6", linewidth=0.6, zorder=0, transform=_tall(axis))
    if end - first <= 200:
        quarters = [first + k for k in range(math.ceil(end - first))]
        axis.vlines(quarters, 0, 1, color="0.88", linewidth=0.5, zorder=-1, transform=_tall(axis))


def _tall(axis: Any) -> Any:
    """Data across, 0 to 1 from bottom to top."""
    return axis.get_xaxis_transform()


def _name_pitches(axis: Any, notes: list[SongNote], low: int, high: int) -> None:
    """Names beside the rows: of the percussion keys that are struck, of all naturals, or of the Cs of a wide range."""
    from pretty_midi import note_number_to_drum_name

    if notes and notes[0].is_drum:
        names = {t.pitch: note_number_to_drum_name(t.pitch) or str(t.pitch) for t in notes}
    else:
        wanted = (0, 2, 4, 5, 7, 9, 11) if high - low <= 40 else (0,)
        names = {k: pitch_name(k) for k in range(low, high + 1) if k % 12 in wanted}
    axis.set_yticks(list(names), list(names.values()), size=8)


def _explain(figure: Any, programs: list[tuple[bool, int]], colours: list[str]) -> None:
    """A legend: the shades of each program."""
    from matplotlib.legend_handler import HandlerTuple
    from matplotlib.patches import Patch

    shades = [[Patch(color=_shade(k, len(programs), c)) for c in colours] for k in range(len(programs))]
    names = [engraving.program_name(*program) for program in programs]
    handler = {tuple: HandlerTuple(ndivide=None, pad=0)}
    figure.legend(map(tuple, shades), names, handler_map=handler, loc="outside lower center", ncols=4)


def _write(path: Path, data: bytes) -> None:
    try:
        with atomic_write(path) as temporary:
            temporary.write_bytes(data)
    except OSError as error:
        raise ValueError(f"{path} cannot be written ({error.strerror or error})") from None
