"""The order in which the bars of a score are played: repeats, endings, da capo, dal segno, coda, fine.

Practice followed (K. Stone, "Music Notation in the Twentieth Century", ch. 1; MusicXML 4.0, elements repeat, ending,
sound): a repeat is played twice unless it says how often; an ending is played in the passes it is numbered for;
after a da capo or dal segno repeats are not taken again and the last ending is played; "to coda" and "fine" are
obeyed only after such a jump; after the coda sign repeats are taken again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from continuo.score.musicxml import MAX_BARS


@dataclass
class Marks:
    """What one bar says about the order of bars.

    Attributes:
        starts: a forward repeat at its beginning.
        times: how often the section is played that ends with this bar's backward repeat; 0 without one.
        passes: the passes in which this bar is played as an ending; empty outside endings.
        ending: an identity shared by the bars of one ending.
        jump: "" or where to go after this bar: "capo" or "segno".
        until: "" or how that jump ends: "fine" or "coda".
    """

    starts: bool = False
    times: int = 0
    passes: frozenset[int] = frozenset()
    ending: int = -1
    segno: bool = False
    coda: bool = False
    to_coda: bool = False
    fine: bool = False
    jump: str = ""
    until: str = ""


def read_words(text: str, marks: Marks) -> bool:
    """Enter a jump written in words into `marks`; False when the words are no jump.

    >>> marks = Marks()
    >>> read_words("D.S. al Coda", marks), marks.jump, marks.until
    (True, 'segno', 'coda')
    """
    plain = re.sub(r"[^a-z]+", " ", text.lower()).strip()
    jump = re.fullmatch(r"(?:d ?c|da capo|d ?s|dal segno)(?: (?:sin |e poi |senza rep\w* )?al? (.*))?", plain)
    if jump:
        marks.jump = "segno" if plain.startswith(("d s", "ds", "dal")) else "capo"
        aim = jump.group(1) or ""
        marks.until = "coda" if "coda" in aim else "fine" if "fine" in aim else ""
    elif plain in ("fine", "al fine"):
        marks.fine = True
    elif plain in ("to coda", "al coda", "alla coda", "a la coda"):
        marks.to_coda = True
    elif plain == "coda":
        marks.coda = True
    elif plain == "segno":
        marks.segno = True
    else:
        return False
    return True


def playing_order(bars: list[Marks]) -> list[int]:
    """Indices of the bars in the order in which they are played.

    Raises:
        ValueError: the order is longer than `MAX_BARS`.

    >>> playing_order([Marks(), Marks(passes=frozenset({1}), times=2), Marks(passes=frozenset({2}))])
    [0, 1, 0, 2]
    """
    order: list[int] = []
    groups = _groups(bars)
    used_jumps: set[int] = set()
    i, start, turn, jump = (0, 0, 1, -1)  # jump: the bar whose da capo or dal segno is being obeyed
    while i < len(bars):
        bar = bars[i]
        if bar.starts and start != i:
            start, turn = i, 1
        if bar.passes and not _plays(bars[i], groups[i], turn, jump >= 0):
            i += 1
            continue
        order.append(i)
        if len(order) > MAX_BARS:
            raise ValueError(f"its repeats would play more than {MAX_BARS} bars")
        if jump >= 0 and bar.fine:
            break
        if jump >= 0 and bar.to_coda and bars[jump].until != "fine":
            coda = next((k for k in range(i + 1, len(bars)) if bars[k].coda), None)
            if coda is not None:
                i, start, turn, jump = coda, coda, 1, -1
                continue
        if bar.times and jump < 0 and turn < max(bar.times, max(groups[i], default=0)):
            i, turn = start, turn + 1
            continue
        if bar.times or (bar.passes and (i + 1 == len(bars) or not bars[i + 1].passes)):
            start, turn = (i + 1, 1) if not _more_endings(bars, i) else (start, turn)
        if bar.jump and i not in used_jumps:
            used_jumps.add(i)
            target = 0 if bar.jump == "capo" else max((k for k in range(i + 1) if bars[k].segno), default=0)
            i, start, turn, jump = target, target, 1, i
            continue
        i += 1
    return order


def _groups(bars: list[Marks]) -> list[frozenset[int]]:
    """Of each bar the passes that the endings around it know: those of a run of ending bars; none outside endings."""
    found: list[frozenset[int]] = []
    while len(found) < len(bars):
        first = len(found)
        last = first + 1
        while bars[first].passes and last < len(bars) and bars[last].passes and not bars[last].starts:
            last += 1
        found += [frozenset[int]().union(*(bar.passes for bar in bars[first:last]))] * (last - first)
    return found


def _plays(bar: Marks, known: frozenset[int], turn: int, last_only: bool) -> bool:
    """Whether an ending bar sounds in this pass; a pass no ending is numbered for takes the last ending."""
    if last_only or turn not in known:
        return max(known) in bar.passes
    return turn in bar.passes


def _more_endings(bars: list[Marks], i: int) -> bool:
    """Whether another ending follows bar i directly."""
    return bool(bars[i].passes) and i + 1 < len(bars) and bool(bars[i + 1].passes)
