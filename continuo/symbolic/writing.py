"""Write songs to files that other programs open: MIDI, MusicXML, and a picture of the notes."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from continuo.midi.ports import dumps_midi
from continuo.symbolic import engraving, notation
from continuo.symbolic.song import QUARTER, Song, SongNote, pitch_name, program_name
from continuo.system.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PROMPT, CONTINUATION, JOIN, WORDS = "#40618f", "#c05a2b", "#38d6c0", "#0e7f71"  # colors
MIN_PROMPT_QUARTERS = 32.0  # of the prompt in a picture, if it is that long
MIN_WIDTH, MAX_WIDTH, MAX_HEIGHT = 8.0, 24.0, 12.0  # inches of a picture
Program = tuple[bool, int]  # is_drum and the General MIDI program


def write_song_midi(song: Song, path: Path) -> None:
    """Write a song as a MIDI file (type 1, `QUARTER` ticks per quarter), whole or not at all.

    Each program of each part is a track, with its name. Without keys the key is that of the best scale.

    A note ends where the same pitch of its program begins again, so that each one has an onset of its own. Of notes of
    one pitch that begin together the longest is kept. MIDI has no code for rests after the last note, nor for meters
    whose denominator is not a power of two. Raise ValueError if the file cannot be written.
    """
    import symusic

    notes = [note for members in song.by_part().values() for note in _without_overlaps(members)]
    score = replace(song, notes=tuple(notes)).to_symusic(by_part=True)
    for tick, sharps, is_minor in song.keys or ((0, song.sharps_at(0), False),):
        score.key_signatures.append(symusic.KeySignature(tick, sharps, is_minor))
    write_bytes(path, dumps_midi(score))


def _without_overlaps(notes: Iterable[SongNote]) -> list[SongNote]:
    """Return notes of one program so that none sounds when its pitch begins again."""
    by_pitch: dict[int, dict[int, SongNote]] = defaultdict(dict)  # by pitch and onset
    for note in sorted(notes, key=lambda n: (n.onset, n.length)):
        by_pitch[note.pitch][note.onset] = note
    found = []
    for line in by_pitch.values():
        ends = [*list(line)[1:], math.inf]
        found += [replace(n, length=int(min(n.end, end)) - n.onset) for n, end in zip(line.values(), ends, strict=True)]
    return sorted(found)


def write_musicxml(song: Song, path: Path, *, title: str) -> None:
    """Write a song as a MusicXML score, whole or not at all.

    Every program of every part is a part: on two braced staves for keyboards that need them (where no other part has
    their program), on more where more than four voices sound together. Without keys the key signature is that of the
    scale with most notes in it.

    The score differs from the song: times are rounded to 1/12 of a quarter (32nds are not exact), tempos to 0.01,
    meters and the last bar as by `notation.bars`; there are no velocities; notes of one pitch and program that begin
    and end together are one; percussion lasts to its next onset or the next quarter.

    Raise ValueError if the file cannot be written, and engraving.TooLong if the song has too many bars.
    """
    from music21.musicxml.m21ToXml import GeneralObjectExporter

    exporter = GeneralObjectExporter(engraving.to_score(song, title))
    exporter.makeNotation = False
    write_bytes(path, exporter.parse())


def draw_song(song: Song, join_tick: int | None, title: str) -> Figure:
    """Draw the notes of a song over its bars: prompt and continuation in two colors, programs in shades.

    As much is shown before the join as after it, and at least `MIN_PROMPT_QUARTERS`. Percussion has its own rows.
    """
    from continuo.audio.pictures import new_figure  # slow: imports torch

    starts = [bar.start / notation.UNITS for bar in notation.bars(song)]
    end = max([song.ticks / QUARTER, 1.0, *(note.end / QUARTER for note in song.notes)])
    join = math.inf if join_tick is None else join_tick / QUARTER
    first = max([0.0, *(q for q in starts if q <= join - max(end - join, MIN_PROMPT_QUARTERS) < math.inf)])
    notes = [note for note in song.notes if note.onset >= first * QUARTER]
    programs = sorted({(note.is_drum, note.program) for note in notes})
    rows = [row for is_drum in (False, True) if (row := [n for n in notes if n.is_drum == is_drum])] or [[]]
    ranges = [(min((n.pitch for n in row), default=60), max((n.pitch for n in row), default=72)) for row in rows]
    heights = [high - low + 3 for low, high in ranges]
    width = min(max(2 + 0.15 * (end - first), MIN_WIDTH), MAX_WIDTH)
    figure = new_figure(width, min(1.5 + 0.14 * sum(heights), MAX_HEIGHT))
    axes = figure.subplots(len(rows), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
    for axis, row, (low, high) in zip(axes, rows, ranges, strict=True):
        _draw_notes(axis, row, join, programs)
        _draw_bars(axis, starts, first, end)
        _name_pitches(axis, row, low, high)
        axis.set(xlim=(first, end), ylim=(low - 1.5, high + 1.5))
        if first < join < end:
            axis.axvline(join, color=JOIN, linewidth=1.5)
    if first < join < end:  # write over the join which side is which
        for text, side in {"prompt  ": "right", "  continuation": "left"}.items():
            where: dict[str, Any] = {"ha": side, "va": "bottom", "transform": axes[0].get_xaxis_transform()}
            axes[0].text(join, 1.0, text, color=WORDS, weight="bold", **where)
    axes[0].set_title(title, pad=20, parse_math=False)
    axes[-1].set_xlabel("bar")
    if len(programs) > 1:
        _draw_legend(figure, programs, [PROMPT] * (first < join) + [CONTINUATION] * (join < end))
    return figure


def _shade(number: int, count: int, color: str) -> tuple[float, float, float]:
    """Return the color of a program: the first one of `count` unchanged, the last one rather pale."""
    from matplotlib.colors import to_rgb

    red, green, blue = (c + (1 - c) * 0.7 * number / count for c in to_rgb(color))
    return red, green, blue


def _draw_notes(axis: Axes, notes: list[SongNote], join: float, programs: list[Program]) -> None:
    """Draw a box for each note from its onset to its end, in quarters."""
    from matplotlib.collections import PolyCollection

    corners, colors = [], []
    for n in notes:
        left, right, low, high = n.onset / QUARTER, n.end / QUARTER, n.pitch - 0.4, n.pitch + 0.4
        right = max(right, left + 0.1)
        corners.append([(left, low), (left, high), (right, high), (right, low)])
        color = PROMPT if left < join else CONTINUATION
        colors.append(_shade(programs.index((n.is_drum, n.program)), len(programs), color))
    axis.add_collection(PolyCollection(corners, facecolors=colors, edgecolors="black", linewidths=0.4))


def _draw_bars(axis: Axes, starts: list[float], first: float, end: float) -> None:
    """Draw bar lines, some with numbers, and fainter lines for quarters."""
    across = axis.get_xaxis_transform()  # x in quarters, y from 0 to 1
    shown = [(start, str(number)) for number, start in enumerate(starts, start=1) if first <= start < end]
    named = shown[:: math.ceil(len(shown) / 40)]
    axis.set_xticks([start for start, _ in named], [name for _, name in named])
    axis.vlines([start for start, _ in shown], 0, 1, color="0.6", linewidth=0.6, zorder=0, transform=across)
    if end - first <= 200:
        quarters = [first + k for k in range(math.ceil(end - first))]
        axis.vlines(quarters, 0, 1, color="0.88", linewidth=0.5, zorder=-1, transform=across)


def _name_pitches(axis: Axes, notes: list[SongNote], low: int, high: int) -> None:
    """Name the rows: the percussion keys that sound, all naturals, or the Cs of a wide range."""
    from pretty_midi import note_number_to_drum_name

    if notes and notes[0].is_drum:
        names = {n.pitch: note_number_to_drum_name(n.pitch) or str(n.pitch) for n in notes}
    else:
        wanted = (0, 2, 4, 5, 7, 9, 11) if high - low <= 40 else (0,)
        names = {k: pitch_name(k) for k in range(low, high + 1) if k % 12 in wanted}
    axis.set_yticks(list(names), list(names.values()), size=8)


def _draw_legend(figure: Figure, programs: list[Program], colors: list[str]) -> None:
    from matplotlib.legend_handler import HandlerTuple
    from matplotlib.patches import Patch

    shades = [tuple(Patch(color=_shade(k, len(programs), color)) for color in colors) for k in range(len(programs))]
    handler: dict[type, Any] = {tuple: HandlerTuple(ndivide=None, pad=0)}
    facts: dict[str, Any] = {"handles": shades, "labels": [program_name(*program) for program in programs]}
    figure.legend(**facts, handler_map=handler, loc="outside lower center", ncols=4)
