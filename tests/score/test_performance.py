"""Performances of short scores: every number here was computed by hand from the notation."""

import json

import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from musicxml_text import (
    FIRST,
    PART,
    REPEAT,
    TOLERANCE_S,
    close,
    direction,
    ending,
    grace,
    lengths,
    note,
    onsets,
    score,
)

from continuo.score.notes import Note, Performance
from continuo.score.performance import perform
from continuo.score.repeats import BarMarks, play_bars

DATA = ROOT / "tests" / "data"


class TestTime:
    def test_tempo_of_dotted_beats_gives_exact_onsets(self, performed):
        dotted = "<metronome><beat-unit>quarter</beat-unit><beat-unit-dot/><per-minute>40</per-minute></metronome>"
        xml = score(note("C4", 4), direction(dotted) + note("D4", 2) + note("E4", 2), note("F4", 4))
        close(performed(xml), (0, 60), (4, 62), (6, 64), (8, 65))  # 40 dotted quarters are 60 quarters

    def test_tempo_for_playback_outweighs_the_printed_number(self, performed):
        printed = "<metronome><beat-unit>quarter</beat-unit><per-minute>66</per-minute></metronome>"
        xml = score(note("C4", 4), direction(printed, '<sound tempo="120"/>') + note("D4", 2) + note("E4", 2))
        close(performed(xml), (0, 60), (4, 62), (5, 64))

    def test_tempo_after_the_pick_up_holds_from_there(self, performed):
        """Verovio 6.4 and music21 10 play the pick-up in the tempo of no mark, 120."""
        xml = score(note("G4"), direction("<words>Lento</words>", '<sound tempo="30"/>') + note("C5", 4)).replace(
            '<sound tempo="60"/>', ""
        )
        close(performed(xml), (0, 67), (0.5, 72))

    def test_tempo_after_a_full_bar_holds_from_there(self, performed):
        later = direction("<words/>", '<sound tempo="30"/>') + note("C5", 4)
        xml = score(note("G4", 4), later).replace('<sound tempo="60"/>', "")
        close(performed(xml), (0, 67), (2, 72))

    def test_divisions_after_the_first_note_hold_for_it_too(self, performed):
        late = "<attributes><divisions>4</divisions></attributes>"
        close(
            performed(score(note("C4") + late + note("D4", 3)).replace("<divisions>4</divisions>", "", 1)),
            (0, 60),
            (1, 62),
        )

    def test_duration_that_is_no_number_is_refused(self, performed):
        with pytest.raises(ValueError, match="the duration 'long' is not a number"):
            performed(score(note("C4").replace("<duration>4", "<duration>long")))

    def test_pick_up_with_a_bar_long_rest_in_another_part_keeps_its_length(self, performed):
        parts = PART + PART.replace("P1", "P2")
        rest = '<note><rest measure="yes"/><duration>16</duration></note>'
        second = f'<part id="P2"><measure number="0">{FIRST.format(qpm=60)}{rest}</measure>'
        second += f'<measure number="1">{note("C3", 4)}</measure></part></score-partwise>'
        xml = score(note("G4"), note("C5", 4), parts=parts).replace("</score-partwise>", second)
        close(performed(xml), (0, 67), (1, 48), (1, 72))

    def test_staves_in_different_meters_are_aligned_at_barlines(self, performed):
        parts = PART + PART.replace("P1", "P2")
        other = FIRST.format(qpm=60).replace("<beats>4</beats><beat-type>4", "<beats>12</beats><beat-type>8")
        dotted = "".join(note("C5", 1.5) for _ in range(4))
        bars = "".join(f'<measure number="{k}">{other if k == 1 else ""}{dotted}</measure>' for k in (1, 2))
        bottom = note("C3", 4)
        third = f'<part id="P3"><measure number="1">{FIRST.format(qpm=60)}{bottom}</measure>'
        third += f'<measure number="2">{bottom}</measure></part>'
        xml = score(note("C3", 4), note("D3", 4), parts=parts + PART.replace("P1", "P3"))
        xml = xml.replace("</score-partwise>", f'<part id="P2">{bars}</part>{third}</score-partwise>')
        assert [o for o, p in onsets(performed(xml)) if p == 72] == [0, 1, 2, 3, 4, 5, 6, 7]

    def test_triplet_has_exact_onsets(self, performed):
        three = "<time-modification><actual-notes>3</actual-notes><normal-notes>2</normal-notes></time-modification>"
        xml = score("".join(note("C4", 0.5, after=three) for _ in range(3)) + note("D4"), qpm=60)
        xml = xml.replace("<divisions>4", "<divisions>6")  # now an eighth of 2 is a third of a quarter
        close(performed(xml), (0, 60), (1 / 3, 60), (2 / 3, 60), (1, 62))

    def test_tempo_words_and_fermatas_change_no_tempo_and_are_named(self, performed):
        fermata = note("D4", 2, inside="<fermata/>") + note("E4", 2)
        xml = score(direction("<words>rit.</words>") + note("C4", 4), fermata, note("F4", 4))
        performance = performed(xml)
        close(performance, (0, 60), (4, 62), (6, 64), (8, 65))
        assert any("rit." in w for w in performance.warnings)
        assert any("fermata" in w for w in performance.warnings)

    def test_last_fermata_lengthens_its_note(self, performed):
        assert lengths(performed(score(note("C4", 4, inside="<fermata/>")))) == [7.0]


def words(text: str, sound: str = "") -> str:
    return direction(f"<words>{text}</words>", sound)


FORWARD = '<barline location="left"><repeat direction="forward"/></barline>'
SEGNO, CODA, TWO_SEGNOS = (direction(signs) for signs in ("<segno/>", "<coda/>", "<segno/><segno/>"))
ORDERS = [
    ("CDECDF", ["_", '_<sound tocoda="a"/>', '_<sound dacapo="yes"/>', '<sound coda="a"/>_']),
    ("CDECD", ["_", '_<sound fine="yes"/>', '_<sound dacapo="yes"/>']),
    ("CDEFCDG", ['<sound segno="a"/>_', '<sound segno="b"/>_<sound tocoda="x"/>', "_", '_<sound dalsegno="a"/>',
                 '<sound coda="x"/>_']),
    ("CDEFDG", ["_", SEGNO + "_" + words("To Coda on repeat", '<sound tocoda="x"/>'), "_",
                "_" + words("Del Segno y Coda", '<sound dalsegno="s"/>'), words("Outro", '<sound coda="x"/>') + "_"]),
    ("CDECDF", ["_", "_" + CODA, "_" + words("D.C. al Coda"), CODA + "_"]),
    ("CDECDF", ["_", "_" + direction("<words>To</words></direction-type><direction-type><coda/>"),
                "_" + words("D.C. al \U0001d10c"), words("Coda") + "_"]),
    ("CDEDFGFA", ["_", SEGNO + "_" + words("To Coda"), "_" + words("D.S. al Coda"),
                                   CODA + TWO_SEGNOS + "_" + words("To Double Coda"),
                                   "_" + words("D.S.S. al Double Coda"), words("Coda 2") + "_"]),
    ("CDECDF", ["_", "_" + words("Fine"), "_" + words("D.C. al Fine e poi la Coda"), words("Coda") + "_"]),
    ("CDEE", ["_", '_<barline segno="x"><segno/></barline>', '_<sound dalsegno="x"/>']),
    ("CDCDE", ['<sound forward-repeat="yes"/>_', "_" + REPEAT, "_"]),
    ("CDCDECD", [FORWARD + "_", "_" + REPEAT + '<sound fine="yes" time-only="3"/>', '_<sound dacapo="yes"/>']),
    ("CDDECDDE", [FORWARD + "_", FORWARD + "_" + REPEAT, "_" + REPEAT]),
    ("CDDECDDF", [FORWARD + "_", FORWARD + "_" + REPEAT, "_".join(ending("1", repeat=True)),
                  "_".join(ending("2", repeat=False))]),
    ("CCDCCD", ["_" + REPEAT, "_" + words("D.C. con repetizione")]),
    ("CCDECCD", ["_" + REPEAT, "_" + words("Fine"), "_" + words("D.C. al Fine with repeats")]),
    ("CCDCD", ["_" + REPEAT, "_" + words("D.C. senza repetizione")]),
    ("CDEFEFG", ["_", SEGNO + "_", SEGNO + "_", "_" + words("D.S.S. al Fine"), "_"]),
    ("CDEDFGFA", ["_", SEGNO + "_" + words("To Coda"), "_" + words("D.S. al Coda"), CODA + SEGNO + "_" +
                  words("To Coda 2"), "_" + words("D.S.S. al Coda 2"), CODA + "_"]),
    ("CCDCCD", ["_" + REPEAT.replace("/><", ' after-jump="yes"/><'), '_<sound dacapo="yes"/>']),
    ("CDECDF", ["_", '_<sound tocoda="c" time-only="2"/>', '_<sound dacapo="yes"/>', '<sound coda="c"/>_']),
]  # fmt: skip
"""The order in which bars are played, and the bars."""


class TestOrder:
    def test_repeat_with_two_endings_plays_each_once(self, performed):
        start, stop = ending("1", repeat=True)
        last, end = ending("2", repeat=False)
        xml = score(note("C4", 4), start + note("D4", 4) + stop, last + note("E4", 4) + end)
        close(performed(xml), (0, 60), (4, 62), (8, 60), (12, 64))

    def test_ending_for_two_passes_is_played_twice(self, performed):
        start, stop = ending("1, 2", repeat=True)
        last, end = ending("3", repeat=False)
        xml = score(note("C4", 4), start + note("D4", 4) + stop, last + note("E4", 4) + end)
        assert [p for _, p in onsets(performed(xml))] == [60, 62, 60, 62, 60, 64]

    def test_da_capo_al_fine_takes_no_repeat_again(self, performed):
        fine = direction("<words>Fine</words>")
        xml = score(
            note("C4", 4) + REPEAT, note("D4", 4) + fine, note("E4", 4) + direction("<words>D.C. al Fine</words>")
        )
        assert [p for _, p in onsets(performed(xml))] == [60, 60, 62, 64, 60, 62]

    def test_dal_segno_al_coda_in_sound_attributes_is_played(self, performed):
        xml = score(
            note("C4", 4),
            direction("<segno/>", '<sound segno="s"/>')
            + note("D4", 4)
            + direction("<other-direction/>", '<sound tocoda="c"/>'),
            note("E4", 4) + direction("<other-direction/>", '<sound dalsegno="s"/>'),
            direction("<coda/>", '<sound coda="c"/>') + note("F4", 4),
        )
        assert [p for _, p in onsets(performed(xml))] == [60, 62, 64, 62, 65]

    def test_tie_over_a_repeat_sign_joins_the_note_that_follows(self, performed):
        tied = note("C4", 4, after='<tie type="start"/>')
        xml = score(note("C4", 2, after='<tie type="stop"/>') + note("E4", 2), tied + REPEAT)
        performance = performed(xml)
        close(performance, (0, 60), (2, 64), (4, 60), (10, 64), (12, 60))
        assert performance.notes[2].duration_s == pytest.approx(6)

    @pytest.mark.parametrize(("order", "bars"), ORDERS)
    def test_order_of_bars_follows_jumps_and_nested_repeats(self, performed, order, bars):
        """Bars play C4, D4, E4 and so on; "_" stands for the note."""
        xml = score(*(bar.replace("_", note(f"{name}4", 4)) for name, bar in zip("CDEFGAB", bars, strict=False)))
        pitches = {"C": 60, "D": 62, "E": 64, "F": 65, "G": 67, "A": 69, "B": 71}
        assert [p for _, p in onsets(performed(xml))] == [pitches[name] for name in order]

    def test_jumps_without_a_destination_are_named(self, performed):
        xml = score(
            note("C4", 4) + direction("<words>To Coda</words>"), note("D4", 4) + direction("<words>D.S.</words>")
        )
        assert len([w for w in performed(xml).warnings if "segno" in w or "coda" in w]) == 2

    @given(st.lists(st.tuples(st.booleans(), st.integers(0, 3), st.sampled_from(["", "capo", "segno"])), max_size=8))
    @settings(max_examples=200, deadline=None)
    def test_playing_order_of_any_marks_ends_and_contains_every_bar(self, bars):
        marks = [BarMarks(starts=s, times=t, jump=j) for s, t, j in bars]
        order = [i for i, _ in play_bars(marks)]
        assert set(order) == set(range(len(marks)))

    def test_playing_order_of_too_many_repeats_is_refused(self):
        with pytest.raises(ValueError, match="more than 20000 bars"):
            play_bars([BarMarks() for _ in range(300)] + [BarMarks(times=99)])


def in_voice(number: int, *notes: str, staff: int = 1) -> str:
    """Return notes with a voice and a staff."""
    place = f"</duration><voice>{number}</voice>"
    return "".join(n.replace("</duration>", place).replace("</note>", f"<staff>{staff}</staff></note>") for n in notes)


BACK = "<backup><duration>16</duration></backup>"
START, STOP = '<tie type="start"/>', '<tie type="stop"/>'


class TestGroups:
    def test_chord_with_other_elements_between_its_notes_sounds_together(self, performed):
        mark, figure = direction("<dynamics><f/></dynamics>"), "<figured-bass><figure/></figured-bass>"
        third, fifth = note("E4", 2, before="<chord/>"), note("G4", 2, before="<chord/>")
        performance = performed(score(note("D4", 2) + note("C4", 2) + mark + third + figure + fifth, note("C4", 4)))
        close(performance, (0, 62), (2, 60), (2, 64), (2, 67), (4, 60))
        assert [n.velocity for n in performance.notes] == [80, 96, 96, 96, 96]

    def test_tie_goes_from_staff_to_staff_and_from_voice_to_voice(self, performed):
        first = in_voice(1, note("C4", 4, after=START), staff=2) + BACK + in_voice(2, note("R", 4), staff=1)
        second = in_voice(2, note("C4", 2, after=STOP + START), note("R", 2)) + BACK
        third = in_voice(5, note("R", 2), note("C4", 2, after=STOP), staff=2)
        xml = score(first, second + third).replace("</time>", "</time><staves>2</staves>")
        assert lengths(performed(xml)) == [8.0]

    def test_tie_passes_the_notes_of_a_written_out_arpeggio_but_not_its_own_pitch(self, performed):
        broken = note("C4", after=START) + note("E4", after=START) + note("G4", 2, after=START)
        chord = "".join(note(p, 4, before="<chord/>" * (p != "C4"), after=STOP) for p in ("C4", "E4", "G4"))
        assert lengths(performed(score(broken, chord))) == [8.0, 7.0, 6.0]
        struck = note("C4", after=START) + note("E4") + note("C4") + note("C4", after=STOP)
        assert lengths(performed(score(struck))) == [1.0] * 4

    def test_tied_without_tie_is_a_tie(self, performed):
        bars = [note("C4", 4, inside=f'<tied type="{kind}"/>') for kind in ("start", "continue", "stop")]
        assert lengths(performed(score(*bars))) == [12.0]

    def test_arpeggio_of_one_number_passes_through_both_staves(self, performed):
        def chords(upper: str, lower: str) -> str:
            top = in_voice(1, note("C5", 4, inside=upper), note("E5", 4, before="<chord/>", inside=upper))
            return top + BACK + in_voice(5, note("C3", 4, inside=lower), staff=2)

        one, two, down = (
            '<arpeggiate number="1"/>',
            '<arpeggiate number="2"/>',
            '<arpeggiate direction="down" number="1"/>',
        )
        xml = score(chords(one, one), chords(down, down), chords(one, two))
        performance = performed(xml.replace("</time>", "</time><staves>2</staves>"))
        rising, falling = [(0, 48), (0.067, 72), (0.133, 76)], [(4, 76), (4.067, 72), (4.133, 48)]
        close(performance, *rising, *falling, (8, 48), (8, 72), (8.067, 76))

    def test_tremolo_in_a_tuplet_strikes_at_its_speed(self, performed):
        three = "<time-modification><actual-notes>3</actual-notes><normal-notes>2</normal-notes></time-modification>"
        struck = note("C4", inside='<ornaments><tremolo type="single">1</tremolo></ornaments>')
        struck = struck.replace("<notations>", f"{three}<notations>")
        xml = score(struck * 3 + note("R", 3)).replace("<divisions>4", "<divisions>6")
        close(performed(xml), *[(k / 3, 60) for k in range(6)])

    def test_tempo_and_tie_of_some_passes_are_named(self, performed):
        tie = note("C4", 4, after='<tie type="start" time-only="1"/>')
        xml = score(direction("<words/>", '<sound tempo="90" time-only="2"/>') + tie)
        assert len([w for w in performed(xml).warnings if w.endswith("passes only")]) == 2

    def test_ties_of_a_unison_stay_two(self, performed):
        bars = [
            in_voice(1, note("C4", 4, after=tie)) + BACK + in_voice(2, note("C4", 4, after=tie))
            for tie in (START, STOP)
        ]
        assert lengths(performed(score(*bars))) == [8.0, 8.0]

    def test_time_only_notes_sound_in_their_passes_and_after_a_jump_in_the_last(self, performed):
        only = [note(p, 4, attributes=f' time-only="{k}"') for p, k in (("C4", "1"), ("E4", "2"))]
        xml = score(only[0] + BACK + only[1] + REPEAT, note("F4", 4) + words("D.C."))
        close(performed(xml), (0, 60), (4, 64), (8, 65), (12, 64), (16, 65))


class TestPitch:
    def test_transposing_instrument_is_played_at_sounding_pitch(self, performed):
        transpose = "<transpose><diatonic>-1</diatonic><chromatic>-2</chromatic></transpose></attributes>"
        xml = score(note("D5", 4)).replace("</attributes>", transpose, 1)
        close(performed(xml), (0, 72))

    def test_quarter_tone_and_ottava_give_the_sounding_pitch(self, performed):
        up = direction('<octave-shift type="down" size="8"/>')
        xml = score(up + note("C5", 2) + note("D4", 2).replace("<alter>0", "<alter>0.5"))
        close(performed(xml), (0, 72), (2, 62.5))  # MusicXML writes sounding octaves under 8va

    def test_chord_and_second_voice_sound_together(self, performed):
        chord = note("C4", 4) + note("E4", 4, before="<chord/>")
        second = "<backup><duration>16</duration></backup>" + note("R", 2) + note("C3", 2)
        close(performed(score(chord + second)), (0, 60), (0, 64), (2, 48))

    def test_cue_notes_are_silent(self, performed):
        close(performed(score(note("C4", 2, before="<cue/>") + note("D4", 2))), (2, 62))

    def test_percussion_key_comes_from_the_instrument_else_from_the_staff_position(self, performed):
        part = (
            '<score-part id="P1"><part-name>Drums</part-name><score-instrument id="A"><instrument-name>x'
            '</instrument-name></score-instrument><midi-instrument id="A"><midi-channel>10</midi-channel>'
            "<midi-unpitched>57</midi-unpitched></midi-instrument></score-part>"
        )
        hit = note("G5").replace("<pitch><step>G</step><alter>0</alter><octave>5</octave></pitch>", "{}")
        place = "<unpitched><display-step>G</display-step><display-octave>5</display-octave></unpitched>"
        named = hit.format(place).replace("</duration>", '</duration><instrument id="A"/>')
        performance = performed(score(named + hit.format(place) + note("R", 2), parts=part))
        assert [(n.pitch, n.is_drum) for n in performance.notes] == [(56, True), (42, True)]

    def test_program_comes_from_the_name_and_the_technique(self, performed):
        part = PART.replace("Piano", "Violoncello")
        pizz = (
            note("C3")
            + direction("<words>pizz.</words>")
            + note("D3")
            + direction("<words>arco</words>")
            + note("E3", 2)
        )
        assert [n.program for n in performed(score(pizz, parts=part)).notes] == [42, 45, 42]


class TestOrnaments:
    def test_slashed_grace_note_takes_65_ms_from_the_beat(self, performed):
        performance = performed(score(note("C4", 2) + grace("D5", ' slash="yes"') + note("C5", 2)))
        close(performance, (0, 60), (2, 74), (2.065, 72))
        assert performance.notes[1].velocity < performance.notes[2].velocity

    def test_unslashed_grace_note_takes_half_or_two_thirds_of_a_dotted_note(self, performed):
        dotted = note("C5", 3).replace("</note>", "<type>half</type><dot/></note>")
        close(performed(score(grace("D5") + note("C5", 2) + note("R", 2))), (0, 74), (1, 72))
        close(performed(score(grace("D5") + dotted + note("R"))), (0, 74), (2, 72))

    def test_several_grace_notes_take_65_ms_each(self, performed):
        close(performed(score(grace("D5") + grace("E5") + note("C5", 4))), (0, 74), (0.065, 76), (0.13, 72))

    def test_grace_notes_of_a_trill_move_at_its_speed(self, performed):
        trill = note("E5", 1, inside="<ornaments><trill-mark/></ornaments>")
        performance = performed(score(grace("F5") + trill + grace("D5") + grace("E5") + note("R", 3)))
        ending = [(6 / 8, 74), (7 / 8, 76)]
        close(performance, (0, 77), *[(k / 8, 76 + (k - 1) % 2) for k in range(1, 6)], *ending)

    def test_turn_takes_neighbors_with_the_accidentals_of_the_bar(self, performed):
        turn = note("E5", 2, inside="<ornaments><turn/></ornaments>")
        assert [n.pitch for n in performed(score(note("F#5") + note("D4") + turn)).notes][2:] == [78, 76, 74, 76]
        assert [n.pitch for n in performed(score(note("F#5", 4), turn + note("R", 2))).notes][1:] == [77, 76, 74, 76]

    def test_trill_in_a_slow_tempo_moves_in_64ths(self, performed):
        trill = note("E5", 1, inside="<ornaments><trill-mark/></ornaments>") + note("R", 3)
        performance = performed(score(trill, qpm=40))
        assert performance.notes[1].onset_s == pytest.approx(1.5 / 16)

    def test_grace_notes_after_a_note_end_with_it(self, performed):
        close(performed(score(note("C5", 4) + grace("B4") + grace("C5"))), (0, 72), (3.87, 71), (3.935, 72))

    def test_trill_alternates_with_its_upper_neighbor_and_ends_on_the_main_note(self, performed):
        performance = performed(score(note("E5", 1, inside="<ornaments><trill-mark/></ornaments>") + note("R", 3)))
        close(performance, *[(k / 8, 76 + k % 2) for k in range(7)])  # E and F, 32nds of 1/8 s

    @pytest.mark.parametrize(
        ("mark", "pitches"),
        [
            ("mordent", [72, 71, 72]),
            ("inverted-mordent", [72, 74, 72]),
            ("turn", [74, 72, 71, 72]),
            ("inverted-turn", [71, 72, 74, 72]),
        ],
    )
    def test_mordents_and_turns_follow_their_patterns(self, performed, mark, pitches):
        performance = performed(score(note("C5", 4, inside=f"<ornaments><{mark}/></ornaments>")))
        close(performance, *[(k / 8, pitch) for k, pitch in enumerate(pitches)])

    def test_slur_over_a_barline_covers_all_notes_but_the_last(self, performed):
        start, stop = (f'<slur type="{t}" number="1"/>' for t in ("start", "stop"))
        xml = score(note("C4", 4, inside=start), note("D4", 2) + note("E4", 2, inside=stop), note("F4", 4))
        assert lengths(performed(xml)) == [4.03, 2.03, 2.0, 4.0]

    def test_pedal_does_not_hold_the_slurred_note_before_it(self, performed):
        start, stop = (f'<slur type="{t}" number="1"/>' for t in ("start", "stop"))
        pedal = direction('<pedal type="start"/>')
        xml = score(note("C4", 2, inside=start) + pedal + note("D4", 1, inside=stop) + note("R"))
        assert lengths(performed(xml)) == [2.03, 2.0]

    def test_trill_over_a_barline_goes_on(self, performed):
        start, stop = (f'<ornaments><wavy-line type="{t}" number="1"/></ornaments>' for t in ("start", "stop"))
        xml = score(note("C5", 4, inside=start), note("C5", 2) + note("C5", 2, inside=stop), note("F4", 4))
        assert [n.pitch for n in performed(xml).notes if n.onset_s >= 4].count(74) > 10

    def test_grace_note_on_another_staff_comes_before_its_main_note(self, performed):
        on = "<voice>1</voice><staff>{}</staff>"
        early = grace("D4").replace("</note>", on.format(2) + "</note>")
        xml = score(note("C5", 2, after=on.format(1)) + early + early + note("E5", 2, after=on.format(1)))
        close(performed(xml), (0, 72), (2, 62), (2.065, 62), (2.13, 76))

    def test_mordent_with_an_accidental_mark_alters_its_neighbor(self, performed):
        sharp = "<ornaments><mordent/><accidental-mark>flat</accidental-mark></ornaments>"
        assert [n.pitch for n in performed(score(note("C5", 4, inside=sharp))).notes] == [72, 70, 72]

    def test_tremolo_on_one_note_or_two_plays_its_marks(self, performed):
        single = note("C4", 1, inside='<ornaments><tremolo type="single">2</tremolo></ornaments>') + note("R", 3)
        close(performed(score(single)), *[(k / 4, 60) for k in range(4)])
        start, stop = (f'<ornaments><tremolo type="{t}">1</tremolo></ornaments>' for t in ("start", "stop"))
        pair = note("C4", 1, inside=start) + note("E4", 1, inside=stop) + note("R", 2)
        close(performed(score(pair)), (0, 60), (0.5, 64), (1, 60), (1.5, 64))

    def test_tremolo_on_two_staves_alternates_between_them(self, performed):
        start, stop = (f'<ornaments><tremolo type="{t}">1</tremolo></ornaments>' for t in ("start", "stop"))
        gap, back = "<forward><duration>4</duration></forward>", "<backup><duration>16</duration></backup>"
        upper = gap + gap.join(note(p, 1, inside=stop, after="<voice>1</voice><staff>1</staff>") for p in ("E5", "F5"))
        lower = gap.join(note(p, 1, inside=start, after="<voice>5</voice><staff>2</staff>") for p in ("C3", "D3"))
        xml = score(upper + back + lower)
        close(performed(xml), (0, 48), (0.5, 76), (1, 48), (1.5, 76), (2, 50), (2.5, 77), (3, 50), (3.5, 77))

    def test_tremolo_of_more_than_eight_marks_is_performed(self, performed):
        many = note("C4", 1, inside='<ornaments><tremolo type="single">9</tremolo></ornaments>') + note("R", 3)
        assert len(performed(score(many)).notes) == 32

    def test_arpeggio_rises_from_the_beat_and_is_held(self, performed):
        chord = "".join(
            note(p, 4, before="<chord/>" * (k > 0), inside="<arpeggiate/>") for k, p in enumerate(("C4", "E4", "G4"))
        )
        performance = performed(score(chord))
        close(performance, (0, 60), (1 / 15, 64), (2 / 15, 67))
        assert {round(n.onset_s + n.duration_s, 3) for n in performance.notes} == {4.0}

    def test_glissando_plays_every_key(self, performed):
        start, stop = (f'<glissando type="{t}" number="1"/>' for t in ("start", "stop"))
        xml = score(note("C4", 2, inside=start) + note("E4", 2, inside=stop))
        close(performed(xml), (0, 60), (0.5, 61), (1, 62), (1.5, 63), (2, 64))


class TestTouch:
    def test_articulations_change_length_and_velocity(self, performed):
        def marked(name: str) -> str:
            return f"<articulations><{name}/></articulations>"

        xml = score(
            note("C4", 1, inside=marked("staccato")) + note("C4", 1, inside=marked("tenuto")) + note("C4", 2),
            note("C4", 2, inside=marked("accent")) + note("C4", 2, inside=marked("strong-accent")),
            note("C4", 2, inside=marked("staccatissimo")) + note("C4", 2, inside=marked("breath-mark")),
        )
        performance = performed(xml)
        assert lengths(performance) == [0.5, 1.0, 2.0, 2.0, 1.7, 0.6, 1.8]
        velocities = [n.velocity for n in performance.notes]
        assert velocities == [80, 84, 80, 98, 108, 80, 80]

    def test_slur_lengthens_notes_and_makes_a_staccato_portato(self, performed):
        begin, end = '<slur type="start" number="1"/>', '<slur type="stop" number="1"/>'
        dot = "<articulations><staccato/></articulations>"
        xml = score(note("C4", inside=begin) + note("D4", inside=dot) + note("E4", inside=end) + note("F4"))
        assert lengths(performed(xml)) == [1.03, 0.75, 1.0, 1.0]

    def test_dynamics_hairpin_and_stress_give_exact_velocities(self, performed):
        p, f, sfz = (direction(f"<dynamics><{d}/></dynamics>") for d in ("p", "f", "sfz"))
        begin, end = direction('<wedge type="crescendo"/>'), direction('<wedge type="stop"/>')
        xml = score(
            p + note("C4", 4),
            begin + "".join(note("C4") for _ in range(4)) + end,
            f + note("C4", 4),
            sfz + note("C4", 2) + note("C4", 2),
        )
        assert [n.velocity for n in performed(xml).notes] == [48, 48, 60, 72, 84, 96, 120, 96]

    def test_crescendo_in_words_reaches_the_next_dynamic(self, performed):
        p, f = (direction(f"<dynamics><{d}/></dynamics>") for d in ("p", "f"))
        xml = score(p + direction("<words>cresc.</words>") + "".join(note("C4") for _ in range(4)), f + note("C4", 4))
        assert [n.velocity for n in performed(xml).notes] == [48, 60, 72, 84, 96]

    def test_pedal_holds_notes_until_its_change_or_release(self, performed):
        pedal = {t: direction(f'<pedal type="{t}" line="yes"/>') for t in ("start", "change", "stop")}
        xml = score(
            pedal["start"] + note("C4") + note("D4") + pedal["change"] + note("E4") + note("F4") + pedal["stop"],
            note("G4", 4),
        )
        assert lengths(performed(xml)) == [2.0, 1.0, 2.0, 1.0, 4.0]

    def test_pedal_over_barlines_holds_whatever_the_rounding_of_seconds(self, performed):
        """Bars that begin a rounding error after the end of the bar before once released the pedal."""
        pedal = direction('<pedal type="start" line="yes"/>')
        bars = [note("G3"), pedal + note("C4", 4), *[note("E4", 4)] * 17, note("D4", 4)]
        performance = performed(score(*bars, qpm=92))
        assert lengths(performance)[1] == pytest.approx(performance.seconds - performance.notes[1].onset_s, abs=1e-3)


class TestPage:
    def test_page_of_all_notations_gives_the_notes_worked_out_by_hand(self, tmp_path, monkeypatch):
        """Compare a hand-written page of all notations with the notes in page.json, worked out by hand."""
        expected = json.loads((DATA / "page.json").read_text())
        performance = perform(DATA / "page.musicxml")
        assert performance.seconds == pytest.approx(expected["seconds"], abs=TOLERANCE_S)
        assert not performance.warnings
        notes = [note for bar in expected["bars"].values() for note in bar]
        for n, (onset_s, duration_s, *rest) in zip(performance.notes, notes, strict=True):
            assert n.onset_s == pytest.approx(onset_s, abs=TOLERANCE_S)
            assert n.duration_s == pytest.approx(duration_s, abs=TOLERANCE_S)
            assert [n.pitch, n.velocity, n.program, n.is_drum] == rest
        assert max(n.onset_s + n.duration_s for n in performance.notes) <= performance.seconds


NOTES = st.builds(
    Note,
    onset_s=st.floats(0, 100),
    duration_s=st.floats(0.01, 10),
    pitch=st.floats(0, 127),
    velocity=st.integers(1, 127),
    program=st.integers(0, 127),
    is_drum=st.booleans(),
)


class TestPerformance:
    @given(st.lists(NOTES, max_size=20), st.floats(0, 1000))
    def test_performance_to_dict_and_back_is_the_same(self, notes, seconds):
        performance = Performance(tuple(notes), seconds, ("a",))
        assert Performance.from_dict(json.loads(json.dumps(performance.to_dict()))) == performance

    def test_with_program_changes_no_drum(self):
        performance = Performance((Note(1, 1, 36, 80, 0, True), Note(1, 2, 60, 80, 5, False)), 4.0)
        assert [n.program for n in performance.with_program(40).notes] == [0, 40]
        with pytest.raises(ValueError, match="0 to 127"):
            performance.with_program(128)
