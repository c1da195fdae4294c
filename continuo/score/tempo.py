"""Tempo: a map from musical time to seconds, and the tempo marks of a written score.

Only marks with numbers are performed. The warnings name words alone (ritardando, "Andante"): no two players agree.
"""

import math
import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence

from continuo.score.measures import ROUND_Q, Staff, WrittenScore

DEFAULT_QPM = 120.0  # quarter notes per minute without a mark, as notation programs play
QPM_RANGE = (5.0, 1000.0)  # quarter notes per minute; tempos outside are mistakes and are ignored with a warning
GRADUAL_Q = 8.0  # quarter notes after a ritardando or accelerando within which numbered tempos count as its execution
NEAR_Q = 0.5  # quarter notes between a tempo word and the number that belongs to it

_GRADUAL = re.compile(r"\b(rit|rall|slentando|allarg|accel|string(?!s)|animando|cédez|retenu|retard)", re.IGNORECASE)
_FASTER = re.compile(r"\b(accel|string|animando)", re.IGNORECASE)
_BACK = re.compile(r"\b(a tempo|in tempo|tempo (i|1|primo)\b|tempo 1)", re.IGNORECASE)
_TEMPO_WORD = re.compile(
    r"(?i)(grave|largo|lento|adagio|larghetto|andante|andantino|moderato|allegretto|allegro|vivace|presto|prestissimo"
    r"|langsam|mässig|lebhaft|schnell|lent|modéré|animé|vif)\b"
)


class TempoMap:
    """Seconds as a function of musical time in quarter notes; it has the tempos `qpm` from `positions_q` on.

    >>> tempo = TempoMap([(0.0, 120.0), (4.0, 60.0)])
    >>> tempo.seconds(4.0), tempo.seconds(5.0), tempo.qpm_at(3.0)
    (2.0, 3.0, 120.0)
    """

    def __init__(self, marks: Sequence[tuple[float, float]]) -> None:
        """Take sorted pairs of position in quarter notes and quarter notes per minute; the first holds from 0."""
        self.positions_q = [0.0]
        self.qpm = [marks[0][1] if marks else DEFAULT_QPM]
        self._seconds = [0.0]
        for position_q, qpm in marks:
            if position_q > 0.0:
                self._seconds.append(self.seconds(position_q))
                self.positions_q.append(position_q)
                self.qpm.append(qpm)

    def seconds(self, position_q: float) -> float:
        """Return the seconds from the beginning to a position; after the last mark its tempo holds."""
        k = max(bisect_right(self.positions_q, position_q) - 1, 0)
        return self._seconds[k] + (position_q - self.positions_q[k]) * 60.0 / self.qpm[k]

    def qpm_at(self, position_q: float) -> float:
        """Return the tempo in force at a position, in quarter notes per minute."""
        return self.qpm[max(bisect_right(self.positions_q, position_q + ROUND_Q) - 1, 0)]


def read_tempo_map(written: WrittenScore) -> TempoMap:
    """Return the tempo map of a written score; tempo words without a number go to its warnings."""
    from music21.tempo import MetricModulation, TempoIndication

    found = written.marked(written.staves, TempoIndication)
    tempos: dict[float, float] = {}
    now_qpm = DEFAULT_QPM
    # Of several marks at one position the last counts, and a tempo for playback outweighs the printed one.
    for position_q, mark in sorted(found, key=lambda m: (m[0], getattr(m[1], "numberSounding", None) is not None)):
        if isinstance(mark, MetricModulation):  # such as dotted quarter = quarter
            old, new = mark.oldReferent, mark.newReferent
            is_known = old is not None and new is not None and old.quarterLength
            qpm = now_qpm * float(new.quarterLength) / float(old.quarterLength) if is_known else now_qpm
        else:
            qpm = mark.getQuarterBPM()
        if qpm is not None and QPM_RANGE[0] <= qpm <= QPM_RANGE[1]:
            now_qpm = tempos[position_q] = float(qpm)
        elif qpm is not None:
            written.warn(f"a tempo of {qpm:g} quarter notes per minute is ignored")
    # A mark after the pick-up, or over the first note, holds from the beginning; a later one does not.
    if not tempos or min(tempos) > written.starts_q[min(2, len(written.starts_q) - 1)]:
        tempos[0.0] = tempos.get(0.0, DEFAULT_QPM)
    _warn_of_tempo_words(written, tempos)
    return TempoMap(sorted(tempos.items()))


def _warn_of_tempo_words(written: WrittenScore, tempos: dict[float, float]) -> None:
    """Name the tempo words that have no number: they are not performed."""
    from music21.expressions import TextExpression

    unperformed: list[str] = []
    for position_q, text in sorted({(q, e.content or "") for q, e in written.marked(written.staves, TextExpression)}):
        if _GRADUAL.search(text):
            is_performed = _is_written_out(tempos, position_q, faster=bool(_FASTER.search(text)))
        elif _BACK.search(text) or _TEMPO_WORD.match(text):
            near = [(q, qpm) for q, qpm in tempos.items() if abs(q - position_q) < NEAR_Q]
            is_performed = any(mark != (0.0, DEFAULT_QPM) for mark in near)  # which is the tempo without a mark
        else:
            continue
        if not is_performed:
            unperformed.append(" ".join(text.split())[:30])
    if unperformed:
        names = ", ".join(dict.fromkeys(unperformed[:6]))
        written.warn(f"tempo words without a number do not change the tempo: {names}")


def _is_written_out(tempos: dict[float, float], position_q: float, *, faster: bool) -> bool:
    """Return True if the next numbered tempo soon after a ritardando (or, `faster`, an accelerando) moves its way."""
    now_q = max((q for q in tempos if q <= position_q + ROUND_Q), default=min(tempos))
    next_q = min((q for q in tempos if position_q < q <= position_q + GRADUAL_Q), default=now_q)
    return tempos[next_q] > tempos[now_q] if faster else tempos[next_q] < tempos[now_q]


def read_swing(written: WrittenScore, staff: Staff) -> dict[float, float]:
    """Return where the off-beats of a staff are played under a <swing>, by their written position in quarter notes.

    As in MuseScore, an off-beat moves only where nothing else begins or ends between the two beats around it, so that
    triplets and shorter notes stay. A pick-up bar counts from its end. Source: MusicXML 4.0, element swing.
    """
    marks = [(q, hint) for q, hint in written.marked(written.staves, dict) if "swing" in hint]
    marks.sort(key=lambda mark: mark[0])
    pairs: dict[tuple[float, float], list[float]] = defaultdict(list)  # by off-beat and where it is played
    for i, bar in enumerate(staff.bars if marks else ()):
        start_q = written.starts_q[i]
        edges_q = {start_q + q for note in bar.notes for q in (note.start_q, note.start_q + note.length_q)}
        grid_q = start_q + min(bar.length_q - bar.meter_q, 0.0) * (i == 0)
        for edge_q in edges_q:
            k = bisect_right(marks, edge_q + ROUND_Q, key=lambda mark: mark[0])
            unit_q, fraction = (float(marks[k - 1][1][key]) if k else 0.5 for key in ("unit", "swing"))
            pair_q = grid_q + math.floor((edge_q - grid_q) / (2 * unit_q) + ROUND_Q) * 2 * unit_q
            if edge_q > pair_q + ROUND_Q:
                pairs[round(pair_q + unit_q, 4), pair_q + 2 * unit_q * fraction].append(edge_q)
    return {
        off_q: played_q for (off_q, played_q), inside in pairs.items() if all(abs(q - off_q) < ROUND_Q for q in inside)
    }


def read_fermatas(written: WrittenScore) -> list[tuple[float, float]]:
    """Return where each fermata begins and ends, in quarter notes, once for all staves."""
    from music21.expressions import Fermata

    found: dict[float, float] = {}
    for staff in written.staves:
        for start_q, bar in zip(written.starts_q, staff.bars, strict=False):
            for note in bar.notes:
                if any(isinstance(mark, Fermata) for mark in note.element.expressions):
                    begin_q = round(start_q + note.start_q, 6)
                    found[begin_q] = max(found.get(begin_q, 0.0), begin_q + note.length_q)
    return sorted(found.items())
