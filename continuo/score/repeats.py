"""The order in which the bars of a score are played: repeats, endings, da capo, dal segno, coda, fine.

Rules (K. Stone, "Music Notation in the Twentieth Century", ch. 1; MusicXML 4.0, elements repeat, ending, sound,
barline): a repeated section is played twice unless the score gives a number; a section within another is repeated in
each pass of the outer one; an ending is played in the passes of its number; after a da capo or dal segno, repeats are
not taken again (unless ``after-jump`` says so) and the last ending is played; "to coda" and "fine" count only after
such a jump, or in the passes of their ``time-only``; after the coda sign repeats are taken again. What ``<sound>``
states outweighs the words and signs next to it.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from xml.etree.ElementTree import Element

MAX_BARS = 20_000  # bars of a part, and of a performance with its repeats
DOUBLE = "2"  # name of a sign that is written twice, as in "D.S.S." or "Coda 2"
WITH_REPEATS = re.compile(r"\b(with|con|mit|avec) (all |the |i |le |la |les |den |allen )?(rep|rip|wiederh)")
GLYPHS = {"\U0001d10b": "segno", "\ue047": "segno", "\U0001d10c": "coda", "\ue048": "coda"}  # Unicode and SMuFL


@dataclass
class BarMarks:
    """The marks of one bar that decide the order of the bars."""

    starts: bool = False  # a forward repeat at the beginning of the bar
    times: int = 0  # number of times to play the section that ends with the bar's backward repeat; 0 without a repeat
    after_jump: bool = False  # whether that repeat is taken after a jump too
    passes: frozenset[int] = frozenset()  # passes in which the bar is played as an ending; empty outside endings
    segno: set[str] = field(default_factory=set)  # names of the signs at the beginning of the bar, "" without a name
    coda: set[str] = field(default_factory=set)
    to_coda: str | None = None  # name of the coda that follows the bar, None without
    fine: bool = False  # sign at the end of the bar
    jump: str = ""  # destination after this bar: "capo", "segno" or "" for none
    goal: str = ""  # name of that segno
    until: str = ""  # end of the music after that jump: "fine", "coda" or "" for the first of them, or the last bar
    until_name: str = ""  # name of that coda
    repeats_again: bool = False  # whether repeats are taken after that jump
    visits: dict[str, frozenset[int]] = field(default_factory=dict)  # times through the bar when a sign counts, by sign

    def add(
        self, sign: str, name: str = "", until: str = "", until_name: str = "", visits: str = "", again: str = ""
    ) -> None:
        """Enter a sign of `read_signs`."""
        self.repeats_again = self.repeats_again or bool(again)
        if sign in ("segno", "coda"):
            getattr(self, sign).add(name)
        elif sign == "to_coda":
            self.to_coda = self.to_coda or name
        elif sign in ("jump_capo", "jump_segno"):
            self.jump, self.goal = sign.removeprefix("jump_"), name or self.goal
            self.until, self.until_name = until or self.until, until_name or self.until_name
        else:  # starts, fine, after_jump
            setattr(self, sign, True)
        if visits:
            self.visits[sign.partition("_")[0]] = passes(visits)


def passes(text: str) -> frozenset[int]:
    """Return the numbers in a list such as "1, 2" or "1-3".

    >>> sorted(passes("1-3, 5."))
    [1, 2, 3, 5]
    """
    found = re.finditer(r"(\d{1,3})(?: *[-\u2013] *(\d{1,3}))?", text)
    return frozenset(number for span in found for number in range(int(span[1]), int(span[2] or span[1]) + 1))


def read_words(text: str) -> dict[str, str]:
    """Return the jump or sign that is written in words, as arguments of `BarMarks.add`; {} for other words.

    >>> read_words("D.S. al Coda"), read_words("To Coda 2"), read_words("dolce")
    ({'sign': 'jump_segno', 'until': 'coda'}, {'sign': 'to_coda', 'name': '2'}, {})
    """
    for glyph, name in GLYPHS.items():
        text = text.replace(glyph, f" {name} ")
    plain = re.sub(r"[^a-z0-9]+", " ", text.lower()).strip()
    plain = re.sub(r"\b(to|al|alla|a la) (?:double|2nd|second|doppia) coda\b", r"\1 coda 2", plain)
    plain = re.sub(r"^(?:double|2nd|second|doppia) coda$", "coda 2", plain).replace("coda coda", "coda")
    name = r"(d ?c|da capo|d ?s ?s|d ?s|d[ae]l segno(?: segno)?)"
    plain = re.sub(r"\b(coda|segno) i(i?)$", lambda m: m[1] + (" 2" if m[2] else ""), plain).removesuffix(" 1")
    is_dotted = re.match(r"\s*d\. ?[cs]\b", text.lower())  # any words may follow
    jump = re.fullmatch(name + (r"(|\b.*)" if is_dotted else r"(| .*\b(?:fine|coda|segno|rep).*)"), plain)
    if jump:
        name, rest = jump.groups()
        double = bool(re.fullmatch("d ?s ?s|d[ae]l segno segno", name)) or bool(re.match(r" (?:segno )?2\b", rest))
        number = re.search(r"coda (\d)", rest)
        until = "coda" if "coda" in rest else "fine" if "fine" in rest else ""
        found = {"sign": "jump_capo" if name.startswith(("dc", "d c", "da ")) else "jump_segno"}
        found |= {"name": DOUBLE} if double else {}
        again = {"again": "yes"} if WITH_REPEATS.search(rest) else {}
        return found | again | ({"until": until} if until else {}) | ({"until_name": number[1]} if number else {})
    sign = re.fullmatch(r"(to |al |alla |a la )?(coda|segno|fine)(?: ([2-9]))?(?: on repeat| 2nd time)?", plain)
    if not sign or (sign[1] and sign[2] == "segno") or (sign[2] == "fine" and sign[1] not in (None, "al ")):
        return {}
    kind = "to_coda" if sign[1] and sign[2] == "coda" else sign[2]
    return {"sign": kind} | ({"name": sign[3]} if sign[3] else {})


def read_signs(placed: list[tuple[Element, bool]]) -> list[tuple[dict[str, str], bool]]:
    """Return the signs of a MusicXML measure, as arguments of `BarMarks.add`, each with whether it opens the next bar.

    That is a segno or coda at the end of a bar. Signs that a ``<sound>`` states come last, to outweigh the others.
    `placed` holds the directions, sounds and barlines of the measure, each with whether it stands at the end.
    """
    stated, written = [], []
    for item, is_last in placed:
        own = list(_stated(item))
        words = _written(item)
        for sign in own:
            if sign["sign"].startswith("jump") and words.get("sign", "").startswith("jump"):
                sign |= {key: value for key, value in words.items() if key.startswith(("until", "again"))}
            stated.append((sign, is_last and sign["sign"] in ("segno", "coda")))
        if words and all(sign["sign"] == "starts" for sign in own):
            written.append((words, is_last and words["sign"] in ("segno", "coda")))
    # The sign next to a stated jump names the jump, and is no target.
    kinds = {sign["sign"] for sign, _ in stated}
    named = {"coda": "to_coda", "segno": "jump_segno"}
    return [entry for entry in written if named.get(entry[0]["sign"]) not in kinds] + stated


_SOUNDS = {
    "dacapo": "jump_capo", "dalsegno": "jump_segno", "segno": "segno", "coda": "coda", "tocoda": "to_coda",
    "fine": "fine", "forward-repeat": "starts",
}  # fmt: skip


def _stated(item: Element) -> Iterator[dict[str, str]]:
    """Yield the signs that the attributes of a <sound>, of the <sound> of a direction, or of a <barline> state."""
    if item.tag == "barline":
        yield from ({"sign": k, "name": item.get(k, "")} for k in ("segno", "coda") if item.get(k))
        if any(repeat.get("after-jump") == "yes" for repeat in item.findall("repeat")):
            yield {"sign": "after_jump"}
    for sound in [item] if item.tag == "sound" else item.findall("sound"):
        for attribute, sign in _SOUNDS.items():
            if sound.get(attribute, "no") != "no":
                name = sound.get(attribute, "") if attribute in ("dalsegno", "segno", "coda", "tocoda") else ""
                yield {"sign": sign, "name": name, "visits": sound.get("time-only", "")}


def _written(item: Element) -> dict[str, str]:
    """Return the sign that the words and glyphs of a direction or barline mean, as of `read_words`."""
    parts = [e.tag if e.tag in ("segno", "coda") else e.text or "" for e in item.iter() if e.tag in _TEXTS]
    for glyph in ("segno", "coda"):
        if parts == [glyph, glyph]:
            return {"sign": glyph, "name": DOUBLE}
    return read_words(" ".join(parts))


_TEXTS = frozenset({"words", "rehearsal", "symbol", "segno", "coda"})


def play_bars(bars: list[BarMarks]) -> list[tuple[int, int]]:
    """Return the index of each bar in playing order, and its pass; raise ValueError above `MAX_BARS` bars.

    The pass is that of the innermost repeated section; after a jump it is the last one, and at least the second.

    >>> play_bars([BarMarks(), BarMarks(passes=frozenset({1}), times=2), BarMarks(passes=frozenset({2}))])
    [(0, 1), (1, 1), (0, 2), (2, 2)]
    """
    found: list[tuple[int, int]] = []
    walk, i = _Walk(bars), 0
    while i < len(bars):
        if not walk.enter(i):
            i += 1
            continue
        found.append((i, walk.turns[i]))
        if len(found) > MAX_BARS:
            raise ValueError(f"its repeats would play more than {MAX_BARS} bars")
        i = walk.leave(i)
    return found


class _Walk:
    """The way through the bars of a score."""

    def __init__(self, bars: list[BarMarks]) -> None:
        _find_to_coda(bars)
        self.bars = bars
        self.known = _known_passes(bars)
        self.sections = [(0, 1)]  # first bar and pass of the sections in force, the innermost last
        self.jump = -1  # bar of the da capo or dal segno that was taken
        self.taken: set[tuple[str, int]] = set()  # jumps that were taken, and their bars
        self.visits: Counter[int] = Counter()
        self.turns: dict[int, int] = {}  # latest pass of each bar
        self.has_jumps = any(bar.jump for bar in bars)
        self.repeats_again = any(bar.after_jump for bar in bars)

    def enter(self, i: int) -> bool:
        """Return whether bar `i` is played in this pass, and count it; a bar that starts a repeat begins a section."""
        bar, known = self.bars[i], self.known[i]
        if bar.starts and self.sections[-1][0] != i:
            self.sections.append((i, 1))
        turn = self.sections[-1][1]
        is_last = self.jump >= 0 and not (self.repeats_again or self.bars[self.jump].repeats_again)
        # A pass without an ending of its own takes the last ending, and so does all that follows a jump.
        if bar.passes and (max(known) if is_last or turn not in known else turn) not in bar.passes:
            return False
        self.turns[i] = max(turn, self.turns.get(i, 0), 2) if self.jump >= 0 else turn
        self.visits[i] += 1
        return True

    def leave(self, i: int) -> int:
        """Return the bar that follows a bar, or the number of bars at the end of the music."""
        bar = self.bars[i]
        jump = self.bars[self.jump] if self.jump >= 0 else None
        coda = self._coda(i, jump)
        if coda >= 0:
            self.taken.add(("coda", i))
            self.sections, self.jump = [(coda, 1)], -1
            return coda
        if bar.fine and (
            self.visits[i] in bar.visits["fine"] if "fine" in bar.visits else jump and jump.until != "coda"
        ):
            return len(self.bars)
        first, turn = self.sections[-1]
        if bar.times and (not jump or bar.after_jump or jump.repeats_again) and turn < max([bar.times, *self.known[i]]):
            self.sections[-1] = (first, turn + 1)
            return first
        has_next_ending = bool(bar.passes and i + 1 < len(self.bars) and self.bars[i + 1].passes)
        if (bar.times or bar.passes) and not has_next_ending:
            self._close(i)
        visits = bar.visits.get("jump")
        if bar.jump and (self.visits[i] in visits if visits else ("jump", i) not in self.taken):
            self.taken.add(("jump", i))
            self.jump = i
            goal = 0 if bar.jump == "capo" else self._segno(i)
            self.sections = [(goal, 1)]
            return goal
        return i + 1

    def _close(self, i: int) -> None:
        """End the innermost section with a bar; a section without a sign of its own begins after it."""
        self.sections.pop()
        if not self.sections or not self.bars[self.sections[-1][0]].starts:
            self.sections[-1:] = [(i + 1, 1)]

    def _segno(self, i: int) -> int:
        """Return the bar of the segno to which the jump of a bar goes: of its name, else the nearest one before it."""
        found = [k for k, bar in enumerate(self.bars) if bar.segno]
        goal = self.bars[i].goal
        named = [k for k in found if goal in self.bars[k].segno]
        is_counted = goal in ("", DOUBLE) and any(bar.goal == DOUBLE for bar in self.bars)
        if is_counted and len(found) > 1 and not any(DOUBLE in bar.segno for bar in self.bars):
            named = [found[goal == DOUBLE]]  # D.S. goes to the first sign, D.S.S. to the second
        found = named or found
        return max((k for k in found if k <= i), default=min(found, default=0))

    def _coda(self, i: int, jump: BarMarks | None) -> int:
        """Return the bar of the coda that follows a bar now, -1 for none."""
        bar = self.bars[i]
        if bar.to_coda is None or ("coda", i) in self.taken:
            return -1
        if "to" in bar.visits:
            is_due = self.visits[i] in bar.visits["to"]
        elif jump:
            wanted = jump.until_name and any(b.to_coda == jump.until_name for b in self.bars)
            is_due = jump.until != "fine" and not (wanted and bar.to_coda != jump.until_name)
        else:
            is_due = not self.has_jumps and self.visits[i] > 1
        if not is_due:
            return -1
        found = [k for k, other in enumerate(self.bars) if other.coda]
        named = [k for k in found if bar.to_coda in self.bars[k].coda]
        if not named and bar.to_coda == DOUBLE:
            named = found[1:]
        return next((k for k in named or found if k > i), -1)


def lost_jumps(bars: list[BarMarks]) -> list[str]:
    """Return a warning for each kind of jump whose destination is missing, as a D.S. without a segno."""
    found = []
    if any(bar.jump == "segno" for bar in bars) and not any(bar.segno for bar in bars):
        found.append("a dal segno has no segno: it goes to the beginning")
    if any(bar.to_coda is not None for bar in bars) and not any(bar.coda for bar in bars):
        found.append('a "to coda" has no coda: it is not followed')
    return found


def _find_to_coda(bars: list[BarMarks]) -> None:
    """Find "to coda" where nothing says so: the first of two coda signs with a jump between them, else the fine."""
    signs = [k for k, bar in enumerate(bars) if bar.coda]
    jumps = [k for k, bar in enumerate(bars) if bar.jump and bar.until != "fine"]
    is_split = len(signs) > 1 and any(0 < signs[0] <= k < signs[1] for k in jumps)
    if is_split and all(bar.to_coda is None for bar in bars):
        bars[signs[0] - 1].to_coda = min(bars[signs[0]].coda)
        bars[signs[0]].coda.clear()
    elif signs and all(bar.to_coda is None for bar in bars) and any(bars[k].until == "coda" for k in jumps):
        for bar in bars[: signs[0]]:  # "al Fine e poi la Coda"
            bar.to_coda = "" if bar.fine else None


def _known_passes(bars: list[BarMarks]) -> list[frozenset[int]]:
    """Return for each bar the passes of all endings in its run of ending bars; none outside endings."""
    runs: list[list[BarMarks]] = []
    for bar in bars:
        if runs and runs[-1][-1].passes and bar.passes and not bar.starts:
            runs[-1].append(bar)
        else:
            runs.append([bar])
    return [frozenset[int]().union(*(bar.passes for bar in run)) for run in runs for _ in run]
