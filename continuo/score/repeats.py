"""The order in which the bars of a score are played: repeats, endings, da capo, dal segno, coda, fine.

Rules (K. Stone, "Music Notation in the Twentieth Century", ch. 1; MusicXML 4.0, elements repeat, ending, sound): a
repeated section is played twice unless the score gives a number; an ending is played in the passes of its number; after
a da capo or dal segno, repeats are not taken again and the last ending is played; "to coda" and "fine" count only after
such a jump; after the coda sign repeats are taken again.
"""

import re
from dataclasses import dataclass

from continuo.score.musicxml import MAX_BARS


@dataclass
class BarMarks:
    """The marks of one bar that decide the order of the bars."""

    starts: bool = False  # a forward repeat at the beginning of the bar
    times: int = 0  # number of times to play the section that ends with the bar's backward repeat; 0 without a repeat
    passes: frozenset[int] = frozenset()  # passes in which the bar is played as an ending; empty outside endings
    segno: bool = False  # signs at the beginning of the bar
    coda: bool = False
    to_coda: bool = False  # signs at the end of the bar
    fine: bool = False
    jump: str = ""  # destination after this bar: "capo", "segno" or "" for none
    until: str = ""  # end of the music after that jump: "fine", "coda" or "" for the last bar


def read_words(text: str, marks: BarMarks) -> None:
    """Enter a jump or sign that is written in words into `marks`; other words change nothing.

    >>> marks = BarMarks()
    >>> read_words("D.S. al Coda", marks)
    >>> marks.jump, marks.until
    ('segno', 'coda')
    """
    plain = re.sub(r"[^a-z]+", " ", text.lower()).strip()
    jump = re.fullmatch(r"(?:d ?c|da capo|d ?s|dal segno)(?: (?:sin |e poi |senza rep\w* )?al? (.*))?", plain)
    if jump:
        marks.jump = "segno" if plain.startswith(("d s", "ds", "dal")) else "capo"
        goal = jump.group(1) or ""
        marks.until = "coda" if "coda" in goal else "fine" if "fine" in goal else ""
    marks.fine |= plain in ("fine", "al fine")
    marks.to_coda |= plain in ("to coda", "al coda", "alla coda", "a la coda")
    marks.coda |= plain == "coda"
    marks.segno |= plain == "segno"


def playing_order(bars: list[BarMarks]) -> list[int]:
    """Return the indices of the bars in playing order; raise ValueError if there are more than `MAX_BARS`.

    >>> playing_order([BarMarks(), BarMarks(passes=frozenset({1}), times=2), BarMarks(passes=frozenset({2}))])
    [0, 1, 0, 2]
    """
    # Longer than 40 lines: one state machine, whose five variables would have to be passed between its parts.
    order: list[int] = []
    known_passes = _known_passes(bars)
    used_jumps: set[int] = set()
    i = section = 0  # this bar, and the first bar of the section that a repeat plays again
    turn = 1  # pass of the section
    jump = -1  # bar of the da capo or dal segno that was taken
    while i < len(bars):
        bar = bars[i]
        if bar.starts and section != i:
            section, turn = i, 1
        known = known_passes[i]
        # A pass without an ending of its own takes the last ending, and so does all that follows a jump.
        if bar.passes and (max(known) if jump >= 0 or turn not in known else turn) not in bar.passes:
            i += 1
            continue
        order.append(i)
        if len(order) > MAX_BARS:
            raise ValueError(f"its repeats would play more than {MAX_BARS} bars")
        coda = next((k for k in range(i + 1, len(bars)) if bars[k].coda), -1) if bar.to_coda else -1
        if jump >= 0 and bar.fine:
            break
        if jump >= 0 and coda >= 0 and bars[jump].until != "fine":
            i, section, turn, jump = coda, coda, 1, -1
        elif bar.times and jump < 0 and turn < max([bar.times, *known]):
            i, turn = section, turn + 1
        else:
            has_next_ending = bool(bar.passes and i + 1 < len(bars) and bars[i + 1].passes)
            if (bar.times or bar.passes) and not has_next_ending:
                section, turn = i + 1, 1
            i += 1
            if bar.jump and i - 1 not in used_jumps:
                jump = i - 1
                used_jumps.add(jump)
                i = section = 0 if bar.jump == "capo" else max((k for k in range(i) if bars[k].segno), default=0)
                turn = 1
    return order


def _known_passes(bars: list[BarMarks]) -> list[frozenset[int]]:
    """Return for each bar the passes of all endings in its run of ending bars; none outside endings."""
    runs: list[list[BarMarks]] = []
    for bar in bars:
        if runs and runs[-1][-1].passes and bar.passes and not bar.starts:
            runs[-1].append(bar)
        else:
            runs.append([bar])
    return [frozenset[int]().union(*(bar.passes for bar in run)) for run in runs for _ in run]
