"""Every element of MusicXML 4.0 is performed, irrelevant to sound, or named in the warnings."""

from collections import Counter
from pathlib import Path

import pytest
from musicxml_text import direction, note, score

from continuo.score.musicxml import COMPARISON, ELEMENTS, IRRELEVANT, MEANINGS, NAMED, PERFORMED, parse_score

NAMES = [
    name
    for line in (Path(__file__).parents[1] / "data" / "musicxml-4.0-elements.txt").read_text().splitlines()
    if not line.startswith("#")
    for name in line.split()
]
REPORTED = {tag: meaning for tag, meaning in ELEMENTS.items() if meaning not in (PERFORMED, IRRELEVANT)}


def test_every_element_of_musicxml_has_one_meaning():
    assert len(NAMES) == 442
    assert Counter(" ".join(MEANINGS.values()).split()) == Counter(NAMES)


@pytest.mark.parametrize("tag", REPORTED)
def test_element_that_is_not_performed_is_named(tag):
    inside = f"<metronome><{tag}/></metronome>" if REPORTED[tag] == COMPARISON else f"<{tag}>x</{tag}>"
    written = parse_score(score(direction(inside) + note("C4", 4)).encode())
    name = tag.replace("-", " ") if REPORTED[tag] == NAMED else REPORTED[tag]
    assert list(written.warnings) == [f"not performed: {name}"]


def test_element_that_musicxml_does_not_have_is_named():
    written = parse_score(score("<pitchbend/>" + note("C4", 4)).encode())
    assert list(written.warnings) == ["not elements of MusicXML: pitchbend"]


@pytest.mark.parametrize(("tag", "text"), [("pan", "0"), ("midi-bank", "1"), ("mute", "off")])
def test_element_that_states_the_usual_sound_is_not_named(tag, text):
    assert not parse_score(score(f"<{tag}>{text}</{tag}>" + note("C4", 4)).encode()).warnings
