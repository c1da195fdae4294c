"""Build MusicXML texts of short scores, and compare their performances."""

import pytest

from continuo.score.notes import Performance

TOLERANCE_S = 0.002

PART = '<score-part id="P1"><part-name>Piano</part-name></score-part>'
FIRST = (
    "<attributes><divisions>4</divisions><key><fifths>0</fifths></key><time><beats>4</beats><beat-type>4</beat-type></time>"
    '</attributes><direction><direction-type><words/></direction-type><sound tempo="{qpm}"/></direction>'
)


def note(
    name: str, length: float = 1, *, inside: str = "", before: str = "", after: str = "", attributes: str = ""
) -> str:
    """Return a <note>: C4, F#5 or R for a rest; length in quarter notes; `inside` goes into <notations>."""
    if name == "R":
        pitch = "<rest/>"
    else:
        alter = name.count("#") - name.count("b")
        pitch = f"<pitch><step>{name[0]}</step><alter>{alter}</alter><octave>{name[-1]}</octave></pitch>"
    notations = f"<notations>{inside}</notations>" if inside else ""
    types = {4: "whole", 2: "half", 1: "quarter", 0.5: "eighth", 0.25: "16th"}
    kind = f"<type>{types[length]}</type>" if length in types else ""
    return f"<note{attributes}>{before}{pitch}<duration>{int(length * 4)}</duration>{after}{kind}{notations}</note>"


def grace(name: str, attributes: str = "") -> str:
    """Return an eighth grace note."""
    pitch = f"<pitch><step>{name[0]}</step><octave>{name[-1]}</octave></pitch>"
    return f"<note><grace{attributes}/>{pitch}<type>eighth</type></note>"


def direction(kind: str, sound: str = "") -> str:
    """Return a <direction> of one type."""
    return f"<direction><direction-type>{kind}</direction-type>{sound}</direction>"


def score(*measures: str, parts: str = PART, qpm: float = 60) -> str:
    """Return a score of one part in 4/4, by default at one quarter note a second."""
    bars = [f'<measure number="{k}">{m}</measure>' for k, m in enumerate(measures, start=1)]
    bars[0] = bars[0].replace(">", ">" + FIRST.format(qpm=qpm), 1)
    return f"<score-partwise><part-list>{parts}</part-list><part id='P1'>{''.join(bars)}</part></score-partwise>"


def onsets(performance: Performance) -> list[tuple[float, float]]:
    """Return onset in seconds and pitch of every note."""
    return [(round(n.onset_s, 3), n.pitch) for n in performance.notes]


def close(performance: Performance, *expected: tuple[float, float]) -> None:
    """Assert the onset (within 2 ms) and pitch of every note, in order."""
    assert [n.pitch for n in performance.notes] == [pitch for _, pitch in expected]
    for n, (onset_s, _) in zip(performance.notes, expected, strict=True):
        assert n.onset_s == pytest.approx(onset_s, abs=TOLERANCE_S)


def lengths(performance: Performance) -> list[float]:
    """Return the duration of every note in seconds."""
    return [round(n.duration_s, 3) for n in performance.notes]


REPEAT = '<barline location="right"><repeat direction="backward"/></barline>'


def ending(number: str, *, repeat: bool) -> tuple[str, str]:
    """Return the barlines before and after an ending, with a backward repeat if asked for."""
    start = f'<barline location="left"><ending number="{number}" type="start"/></barline>'
    back = '<repeat direction="backward"/>' if repeat else ""
    return start, f'<barline location="right"><ending number="{number}" type="stop"/>{back}</barline>'
