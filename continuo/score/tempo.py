"""Tempo: the tempos that a MusicXML direction states, and a map from musical time to seconds.

Only marks with numbers are performed. The warnings name words alone (ritardando, "Andante"): no two players agree.

Source: MusicXML 4.0, https://www.w3.org/2021/06/musicxml40/ (elements metronome, sound, swing).
"""

import math
import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Sequence
from xml.etree.ElementTree import Element

from continuo.score.measures import ROUND_Q, TYPES_Q, Staff, TempoMark, WrittenScore
from continuo.system.text import finite_number

DEFAULT_QPM = 120.0  # quarter notes per minute without a mark, as notation programs play
QPM_RANGE = (5.0, 1000.0)  # quarter notes per minute; tempos outside are mistakes and are ignored with a warning
GRADUAL_Q = 8.0  # quarter notes after a ritardando or accelerando within which numbered tempos count as its execution
NEAR_Q = 0.5  # quarter notes between a tempo word and the number that belongs to it

MAX_WORDS = 200  # letters of a direction in which a tempo is looked for
UNITS_Q = {"whole": 4.0, "half": 2.0, "quarter": 1.0, "eighth": 0.5, "16th": 0.25}  # note values in quarter notes
UNITS_Q |= {"8th": 0.5, "semibreve": 4.0, "minim": 2.0, "crotchet": 1.0, "quaver": 0.5, "h": 2.0, "q": 1.0, "e": 0.5}
UNITS_Q |= {"ganze": 4.0, "halbe": 2.0, "viertel": 1.0, "achtel": 0.5, "ronde": 4.0, "blanche": 2.0, "noire": 1.0}
UNITS_Q |= {"croche": 0.5, "minima": 2.0, "semiminima": 1.0, "croma": 0.5, "blanca": 2.0, "negra": 1.0, "corchea": 0.5}
GLYPHS = {
    "\U0001d158\U0001d165\U0001d16e": "eighth", "\U0001d158\U0001d165\U0001d16f": "16th",
    "\U0001d158\U0001d165": "quarter", "\U0001d157\U0001d165": "half", "\U0001d15d": "whole", "\U0001d15e": "half",
    "\U0001d15f": "quarter", "\U0001d160": "eighth", "\U0001d161": "16th", "\u2669": "quarter", "\u266a": "eighth",
    "\ue1d2": "whole", "\ue1d3": "half", "\ue1d5": "quarter", "\ue1d7": "eighth", "\ue1d9": "16th", "\ue1e7": ".",
    "\ueca2": "whole", "\ueca3": "half", "\ueca5": "quarter", "\ueca7": "eighth", "\ueca9": "16th", "\uecb7": ".",
    "\U0001d16d": ".",
}  # fmt: skip
"""Note values as characters (Unicode, and SMuFL 1.4, https://w3c.github.io/smufl/latest/), longest first."""
_ABOUT = r"(?:circa|ca?\.?|etwa|approx\.?|about|[~\u2248])"
_NUMBER = rf"{_ABOUT}? ?(\d{{2,3}}(?:[.,]\d+)?)"
_UNIT = rf"(?:\b(dotted) )?\b({'|'.join(UNITS_Q)})(?: note)?( ?\.)?"
_WITH_UNIT = re.compile(rf"{_UNIT} ?(?:[=~:\u2248]|is|(?<=\w{{3}}) ) ?{_NUMBER}\b")
_CHARACTER = (
    r"\b(?:largo|larghetto|lento|adagio|andant\w+|moderato|allegr\w+|vivace|presto|slow|medium|moderate(?:ly)?|fast|bright"
    r"|lively|rock|ballad|waltz|swing|tempo di \w+)"
)
_WITHOUT_UNIT = (
    re.compile(rf"\b(?:tempo|m\.? ?m\.?|bpm) ?[:=]? ?{_NUMBER}\b"),
    re.compile(rf"{_NUMBER} ?(?:b\.?p\.?m\b|beats per min)"),
    re.compile(rf"(?:^|[^\w ]|{_CHARACTER}) ?[=\u2248] ?{_NUMBER}\b"),
    re.compile(rf"^\W*{_ABOUT} ?(\d{{2,3}}(?:[.,]\d+)?)\W*$"),
    re.compile(rf"^(?:\w+ )*{_CHARACTER}\W+{_NUMBER}\W*$"),
)
_EQUATION = re.compile(rf"{_UNIT} ?= ?{_UNIT}|[=\u2248] ?\d\d")

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


def words_of(direction: Element) -> str:
    """Return the text of a direction; a <symbol> that shows a note value becomes the name of the value."""
    return " ".join(map(_text_of, direction.iterfind("direction-type/*")))


def _text_of(mark: Element) -> str:
    if mark.tag == "symbol":
        found = re.search(r"(?i)note(whole|half|quarter|8th|16th)|(augmentationdot)", mark.text or "")
        return "" if found is None else "." if found.group(2) else found.group(1).lower()
    return (mark.text or "") if mark.tag in ("words", "rehearsal") else ""


def shown(words: str, letters: int = 40) -> str:
    """Return the beginning of words, on one line."""
    return " ".join(words.split())[:letters]


def _spelt(words: str) -> str:
    """Return words in small letters, with the names of note values instead of their glyphs."""
    words = words[:MAX_WORDS]
    for glyph, name in GLYPHS.items():
        words = words.replace(glyph, f" {name}" if name != "." else name)
    return " ".join(words.lower().split())


def tempo_in_words(words: str) -> float | None:
    """Return the quarter notes per minute that words state as a number, None without.

    >>> tempo_in_words("c. 60"), tempo_in_words("Allegro (\u2669. = 90)"), tempo_in_words("Bar 60")
    (60.0, 135.0, None)
    """
    plain = _spelt(words)
    found = _WITH_UNIT.search(plain)
    if found:
        dotted, unit, dot, minute = found.groups()
        return UNITS_Q[unit] * (1.5 if dotted or dot else 1.0) * float(minute.replace(",", "."))
    numbers = (match.group(1) for pattern in _WITHOUT_UNIT if (match := pattern.search(plain)))
    return next((float(minute.replace(",", ".")) for minute in numbers), None)


def read_tempos(direction: Element, sound: Element | None, warn: Callable[[str], None]) -> list[TempoMark]:
    """Return the tempos of a <direction> with its <sound>: for playback, else as metronome marks, else in words."""
    stated = sound.get("tempo") if sound is not None else None
    qpm = finite_number(stated)
    if qpm is not None:
        return [TempoMark(qpm, is_for_playback=True)] if qpm else []
    if stated is not None:
        warn(f"the tempo '{stated[:30]}' is not a number")
    metronomes = direction.findall("direction-type/metronome")
    if sound is None and any(e.tag.startswith("metronome-") for metronome in metronomes for e in metronome):
        warn("not performed: a metronome mark that compares notes")
    found = [mark for metronome in metronomes if (mark := _read_metronome(metronome, warn)) is not None]
    words = words_of(direction)
    if not found and (qpm := tempo_in_words(words)) is not None:
        return [TempoMark(qpm, is_for_playback=True)]
    if not metronomes and _EQUATION.search(_spelt(words)):
        warn(f"not performed: {shown(words)}")
    return found


def _read_metronome(metronome: Element, warn: Callable[[str], None]) -> TempoMark | None:
    """Return the tempo of a metronome mark; of a text such as "c. 60" the number; None without any."""
    units: list[tuple[float, int]] = []  # note values in quarter notes, and their dots
    for child in metronome:
        if child.tag == "beat-unit":
            units.append((TYPES_Q.get((child.text or "").strip(), 1.0), 0))
        elif child.tag == "beat-unit-dot" and units:
            units[-1] = (units[-1][0], units[-1][1] + 1)
    units_q = [unit_q * (2 - 0.5**dots) for unit_q, dots in units] or [1.0]
    units_q[0] += sum(TYPES_Q.get((e.text or "").strip(), 0.0) for e in metronome.iterfind("beat-unit-tied/beat-unit"))
    if len(units_q) > 1:
        return TempoMark(None, units_q[1] / units_q[0])
    per_minute = metronome.find("per-minute")
    if per_minute is None:
        return None
    text = shown(per_minute.text or "")
    stated = finite_number(text) or 0.0
    numbers = [float(n.replace(",", ".")) for n in re.findall(r"\d+(?:[.,]\d+)?", text)]
    numbers = [stated] if stated > 0 else [n for n in numbers if n >= 10] or [n for n in numbers if n > 0]
    if len(numbers) != 1:
        warn(f"the tempo '{text[:30]}' " + (f"is played as {numbers[0]:g}" if numbers else "is no positive number"))
    return TempoMark(numbers[0] * units_q[0]) if numbers else None


def read_swing_mark(sound: Element | None, words: str, warn: Callable[[str], None]) -> tuple[float, float] | None:
    """Return the unit of the <swing> in a <sound>, in quarter notes, and the part of a pair that its first takes."""
    swing = sound.find("swing") if sound is not None else None
    if swing is None:
        if re.search(r"(?i)\b(swing|swung|shuffle)\b", words):
            warn(f"not performed: {shown(words)}")
        return None
    is_straight = swing.find("straight") is not None
    parts = [1.0 if is_straight else finite_number(swing.findtext(tag)) or 1.0 for tag in ("first", "second")]
    first, second = (max(part, 0.01) for part in parts)
    return UNITS_Q.get((swing.findtext("swing-type") or "eighth").strip(), 0.5), first / (first + second)


def read_tempo_map(written: WrittenScore) -> TempoMap:
    """Return the tempo map of a written score; tempo words without a number go to its warnings."""
    found = written.marked(written.staves, lambda marks: marks.tempos)
    tempos: dict[float, float] = {}
    now_qpm = DEFAULT_QPM
    # Of several marks at one position the last counts, and a tempo for playback outweighs the printed one.
    for position_q, mark in sorted(found, key=lambda entry: (entry[0], entry[1].is_for_playback)):
        qpm = now_qpm * mark.ratio if mark.qpm is None else mark.qpm
        if QPM_RANGE[0] <= qpm <= QPM_RANGE[1]:
            now_qpm = tempos[position_q] = qpm
        else:
            written.warn(f"a tempo of {qpm:g} quarter notes per minute is ignored")
    # A mark within the first bar holds from the beginning; a later one, also after a pick-up, does not (as in verovio).
    if not tempos or min(tempos) > written.starts_q[min(1, len(written.starts_q) - 1)] - ROUND_Q:
        tempos[0.0] = tempos.get(0.0, DEFAULT_QPM)
    _warn_of_tempo_words(written, tempos)
    return TempoMap(sorted(tempos.items()))


def _warn_of_tempo_words(written: WrittenScore, tempos: dict[float, float]) -> None:
    """Name the tempo words that have no number: they are not performed."""
    unperformed: list[str] = []
    for position_q, text in sorted(set(written.marked(written.staves, lambda marks: marks.words))):
        if _GRADUAL.search(text):
            is_performed = _is_written_out(tempos, position_q, faster=bool(_FASTER.search(text)))
        elif _BACK.search(text) or _TEMPO_WORD.match(text):
            near = [(q, qpm) for q, qpm in tempos.items() if abs(q - position_q) < NEAR_Q]
            is_performed = any(mark != (0.0, DEFAULT_QPM) for mark in near)  # which is the tempo without a mark
        else:
            continue
        if not is_performed:
            unperformed.append(shown(text, 30))
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
    marks = sorted(written.marked(written.staves, lambda marks: marks.swings))
    pairs: dict[tuple[float, float], list[float]] = defaultdict(list)  # by off-beat and where it is played
    for i, bar in enumerate(staff.bars if marks else ()):
        start_q = written.starts_q[i]
        edges_q = {start_q + q for chord in bar.chords for q in (chord.start_q, chord.start_q + chord.length_q)}
        grid_q = start_q + min(bar.length_q - bar.meter_q, 0.0) * (i == 0)
        for edge_q in edges_q:
            k = bisect_right(marks, edge_q + ROUND_Q, key=lambda mark: mark[0])
            unit_q, fraction = marks[k - 1][1] if k else (0.5, 0.5)
            pair_q = grid_q + math.floor((edge_q - grid_q) / (2 * unit_q) + ROUND_Q) * 2 * unit_q
            if edge_q > pair_q + ROUND_Q:
                pairs[round(pair_q + unit_q, 4), pair_q + 2 * unit_q * fraction].append(edge_q)
    return {
        off_q: played_q for (off_q, played_q), inside in pairs.items() if all(abs(q - off_q) < ROUND_Q for q in inside)
    }
