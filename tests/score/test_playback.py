"""Test what a MusicXML score says about playback: tempo, instruments, transpositions, dynamics, staves."""

import io
import zipfile

import pytest
from musicxml_text import FIRST, close, direction, grace, lengths, note, onsets, score

from continuo.score.instruments import key_of_name, program_of_name
from continuo.score.notes import Performance

QPM_FREE = FIRST.partition("<direction>")[0]  # attributes without a tempo
STRIKE = "<note><unpitched><display-step>E</display-step><display-octave>4</display-octave></unpitched>{}</note>"


def part_list(*names: str, inside: str = "") -> str:
    """Return the <score-part> elements P1, P2 ... of some names."""
    entries = (f'<score-part id="P{k}"><part-name>{n}</part-name>{inside}</score-part>' for k, n in enumerate(names, 1))
    return "".join(entries)


def duet(first: str, second: str, parts: str) -> str:
    """Return a score of one measure in two parts, at one quarter note a second."""
    head = FIRST.format(qpm=60)
    bodies = "".join(
        f'<part id="P{k}"><measure number="1">{head}{text}</measure></part>'
        for k, text in enumerate((first, second), 1)
    )
    return f"<score-partwise><part-list>{parts}</part-list>{bodies}</score-partwise>"


def altered(alter: str, name: str = "C4") -> str:
    """Return a whole note with an <alter>."""
    return note(name, 4).replace("<alter>0</alter>", f"<alter>{alter}</alter>")


def untimed(*measures: str) -> str:
    """Return a score without a tempo of its own."""
    return score(*measures).replace(FIRST.format(qpm=60), QPM_FREE)


def programs(performance: Performance) -> list[int]:
    """Return the program of every note."""
    return [n.program for n in performance.notes]


def velocities(performance: Performance) -> list[int]:
    """Return the velocity of every note."""
    return [n.velocity for n in performance.notes]


class TestPitch:
    @pytest.mark.parametrize("alter", [0.25, 0.05, -0.3, 1.5, 0.5, -1.75, 0.333, 2.25])
    def test_any_decimal_alter_is_played(self, performed, alter):
        assert performed(score(altered(str(alter)))).notes[0].pitch == pytest.approx(60 + alter)

    def test_alter_of_a_tied_note_a_chord_and_a_grace_note_is_played(self, performed):
        first = altered("0.25").replace("</duration>", '</duration><tie type="start"/>')
        second = altered("0.25").replace("</duration>", '</duration><tie type="stop"/>')
        member = altered("0.75", "E4").replace("<note>", "<note><chord/>")
        early = grace("D4").replace("</step>", "</step><alter>0.1</alter>")
        performance = performed(score(first, second + member, early + note("C4", 4)))
        assert sorted(round(n.pitch, 3) for n in performance.notes) == [60, 60.25, 62.1, 64.75]

    @pytest.mark.parametrize(
        ("transpose", "pitch"),
        [
            ("<chromatic>-2</chromatic>", 58),
            ("<chromatic>0</chromatic><octave-change>-1</octave-change>", 48),
            ("<diatonic>-1</diatonic><chromatic>-2</chromatic><octave-change>-1</octave-change>", 46),
            ("<chromatic>-9</chromatic>", 51),
            ("<chromatic>3</chromatic>", 63),
        ],
    )
    def test_transpose_with_or_without_diatonic_is_applied(self, performed, transpose, pitch):
        close(performed(transposed(f"<transpose>{transpose}</transpose>", note("C4", 4))), (0, pitch))

    @pytest.mark.parametrize(("double", "other"), [("<double/>", 48), ('<double above="yes"/>', 72)])
    def test_transpose_with_double_adds_the_octave(self, performed, double, other):
        chord = note("E4", 4).replace("<note>", "<note><chord/>")
        xml = transposed(f"<transpose><chromatic>0</chromatic>{double}</transpose>", note("C4", 4) + chord)
        assert sorted(n.pitch for n in performed(xml).notes) == sorted([60, 64, other, other + 4])

    def test_transpose_of_one_staff_leaves_the_other(self, performed):
        upper, lower = (note("C4", 4, after=f"<staff>{k}</staff>") for k in (1, 2))
        text = f"{upper}<backup><duration>16</duration></backup>{lower}"
        xml = transposed('<transpose number="2"><chromatic>-7</chromatic></transpose>', text)
        xml = xml.replace("<transpose", "<staves>2</staves><transpose")
        assert sorted(n.pitch for n in performed(xml).notes) == [53, 60]

    def test_transpose_that_changes_in_mid_part_holds_from_there(self, performed):
        back = "<attributes><transpose><chromatic>0</chromatic></transpose></attributes>"
        xml = transposed("<transpose><chromatic>-2</chromatic></transpose>", note("C4", 4), back + note("C4", 4))
        close(performed(xml), (0, 58), (4, 60))

    def test_transpose_moves_the_key_of_a_trill(self, performed):
        trill = note("E4", 4, inside="<ornaments><trill-mark/></ornaments>")  # a clarinet in A sounds C sharp, in A
        xml = transposed("<transpose><diatonic>-2</diatonic><chromatic>-3</chromatic></transpose>", trill)
        assert {n.pitch for n in performed(xml).notes} == {61, 62}


def transposed(transpose: str, *measures: str) -> str:
    """Return a score with a <transpose> in its first attributes."""
    return score(*measures).replace("</attributes>", f"{transpose}</attributes>", 1)


class TestTempo:
    @pytest.mark.parametrize("text", ["c. 60", "ca. 60", "60 ca.", "~60", "(60)", "60,0", "60 bpm", "≈ 60"])
    def test_metronome_with_text_is_played_at_its_number(self, performed, text):
        mark = f"<metronome><beat-unit>quarter</beat-unit><per-minute>{text}</per-minute></metronome>"
        performance = performed(untimed(direction(mark) + note("C4", 4)))
        assert lengths(performance) == [4.0]
        assert not performance.warnings

    @pytest.mark.parametrize(("text", "named", "length_s"), [("60-66", "60-66", 4.0), ("?", "?", 2.0), ("0", "0", 2.0)])
    def test_metronome_of_a_range_or_without_a_number_is_named(self, performed, text, named, length_s):
        mark = f"<metronome><beat-unit>quarter</beat-unit><per-minute>{text}</per-minute></metronome>"
        performance = performed(untimed(direction(mark) + note("C4", 4)))
        assert lengths(performance) == [length_s]
        assert any(named in warning for warning in performance.warnings)

    @pytest.mark.parametrize(
        ("words", "qpm"),
        [
            ("c. 60", 60), ("♩ = 90", 90), ("♩=c. 90", 90), ("Tempo: 240 BPM", 240), ("Allegro (♩ = 150)", 150),
            ("♩. = 60", 90), ("\U0001d15e = 40", 80), ("\U0001d157\U0001d165 = 40", 80), ("♪ = 120", 60),
            ("dotted quarter = 80", 120), ("half note = 30", 60), ("q = 72", 72), ("100 bpm", 100), ("M.M. 66", 66),
            ("M. M. ♩ = 66", 66), ("Andante 76", 76), ("\ue1d5 = 100", 100), ("= 88", 88), ("circa 50", 50),
            ("♩ = 60-66", 60), ("♩ 90", 90), ("♩: 90", 90), ("Halbe = 30", 60), ("Moderato = 88", 88),
            ("bar = 60", 120),
            ("Tempo di marcia, 100", 100), ("Fast rock 160", 160), ("Fingering = 12", 120), ("metric 90", 120),
            ("Bar 60", 120), ("Op. 120", 120), ("1. 60", 120), ("Take 90", 120),
        ],
    )  # fmt: skip
    def test_tempo_as_a_number_in_words_is_played(self, performed, words, qpm):
        performance = performed(untimed(direction(f"<words>{words}</words>") + note("C4", 4)))
        assert lengths(performance) == [pytest.approx(240 / qpm, abs=0.001)]

    def test_tempo_in_words_that_are_split_is_read(self, performed):
        split = direction("<words>Allegro (</words><words>♩</words><words> = 90)</words>")
        assert lengths(performed(untimed(split + note("C4", 4)))) == [2.667]

    def test_tempo_beside_a_symbol_takes_its_note_value(self, performed):
        symbols = "<symbol>metNoteHalfUp</symbol><symbol>metAugmentationDot</symbol><words> = 40</words>"
        assert lengths(performed(untimed(direction(symbols) + note("C4", 4)))) == [2.0]

    def test_tempo_in_words_gives_way_to_the_sound_beside_it(self, performed):
        mark = direction("<words>♩ = 90</words>", '<sound tempo="60"/>')
        assert lengths(performed(untimed(mark + note("C4", 4)))) == [4.0]

    def test_bare_sound_tempo_in_mid_bar_is_played(self, performed):
        assert lengths(performed(score(note("C4", 2) + '<sound tempo="120"/>' + note("D4", 2)))) == [2.0, 1.0]

    def test_tempo_that_is_no_number_is_named(self, performed):
        performance = performed(untimed(direction("<words>x</words>", '<sound tempo="fast"/>') + note("C4", 4)))
        assert performance.warnings == ("the tempo 'fast' is not a number",)


SWING = "<sound><swing><first>{}</first><second>{}</second><swing-type>{}</swing-type></swing></sound>"
STRAIGHT = "<sound><swing><straight/></swing></sound>"


class TestSwing:
    def test_swing_moves_off_beats_until_it_is_straight(self, performed):
        eighths = note("C4", 0.5) + note("D4", 0.5)
        swing = direction("<words>Swing</words>", SWING.format(2, 1, "eighth"))
        performance = performed(score(swing + eighths * 2 + note("R", 2), STRAIGHT + eighths + note("E4", 3)))
        close(performance, (0, 60), (2 / 3, 62), (1, 60), (5 / 3, 62), (4, 60), (4.5, 62), (5, 64))
        assert lengths(performance)[:2] == [0.667, 0.333]

    def test_swing_of_16ths_three_to_one(self, performed):
        text = SWING.format(3, 1, "16th") + (note("C4", 0.25) + note("D4", 0.25)) * 2 + note("E4", 0.5) + note("R", 2.5)
        close(performed(score(text)), (0, 60), (0.375, 62), (0.5, 60), (0.875, 62), (1, 64))

    def test_swing_leaves_triplets_and_shorter_notes(self, performed):
        bar = SWING.format(2, 1, "eighth") + note("C4", 0.75) + note("D4", 0.25) + note("E4", 0.25) * 4 + note("R", 2)
        close(performed(score(bar)), (0, 60), (0.75, 62), (1, 64), (1.25, 64), (1.5, 64), (1.75, 64))

    def test_swing_of_one_part_holds_for_the_others(self, performed):
        eighths = note("C4", 0.5) + note("D4", 0.5) + note("E4", 3)
        xml = duet(SWING.format(2, 1, "eighth") + eighths, eighths, part_list("Piano", "Flute"))
        assert {onset_s for onset_s, pitch in onsets(performed(xml)) if pitch == 62} == {0.667}

    def test_swing_in_words_alone_is_named(self, performed):
        performance = performed(score(direction("<words>Medium Swing</words>") + note("C4", 4)))
        assert performance.warnings == ("not performed: Medium Swing",)


FLUTE_AND_OBOE = (
    '<score-instrument id="A"><instrument-name>Flute</instrument-name></score-instrument>'
    '<score-instrument id="B"><instrument-name>Oboe</instrument-name></score-instrument>'
)


def played_by(name: str, text: str) -> str:
    """Return a note that names its instrument."""
    return text.replace("</duration>", f'</duration><instrument id="{name}"/>')


class TestInstruments:
    @pytest.mark.parametrize(
        ("name", "program"),
        [
            ("Bass Guitar", 33), ("Electric Bass", 33), ("E-Bass", 33), ("5-string Electric Bass", 33),
            ("El. Bass", 33),
            ("Bassgitarre", 33), ("Fretless Bass", 35), ("Acoustic Bass", 32), ("Contrabassoon", 70),
            ("Kontrafagott", 70), ("Double Bassoon", 70), ("Controfagotto", 70), ("Contrebasse", 43),
            ("Contrabass", 43), ("Double Bass", 43), ("Bass Clarinet", 71), ("Bass Trombone", 57), ("Bass", 52),
            ("Guitar", 24), ("Electric Guitar", 27), ("E-Gitarre", 27), ("Bassoon", 70), ("Voice Piano", 0),
            ("Electric Piano", 4), ("Alto Flute", 73), ("Contrabass Clarinet", 71), ("Contrabajo", 43),
            ("Basse électrique", 33), ("Baritone", 52),
            ("Synth Bass", 38), ("Tenor Saxophone", 66), ("Baritone Sax", 67), ("Euphonium", 58),
            ("Basset Horn", 71), ("Bassethorn", 71), ("Cor de basset", 71), ("Clavecin", 6), ("Corno inglese", 69),
            ("Corni in F", 60), ("Hörner", 60), ("Trombe in D", 56), ("Kornett", 56), ("Oboi", 68), ("Flauti", 73),
            ("Flûte à bec", 74), ("Röhrenglocken", 14), ("Violão", 24), ("Bass Viol", 42), ("Picked Bass", 34),
            ("Tenor Banjo", 105), ("Bass Ukulele", 24), ("Psaltery", None), ("Contralto", 52), ("Saxofón alto", 65),
            ("Piano eléctrico", 4), ("Guitare électrique", 27), ("Bandoneon", 23), ("Shakuhachi", 77),
            ("Steel Drums", 114), ("Violone", 43), ("Violon", 40), ("Basso continuo", 6),
        ],
    )  # fmt: skip
    def test_program_of_name_knows_common_names(self, name, program):
        assert program_of_name(name) == program

    @pytest.mark.parametrize(
        ("name", "key"),
        [
            ("Snare Drum", 38), ("Triangle", 81), ("Bass Drum", 36), ("Grosse Caisse", 36), ("Gran Cassa", 36),
            ("Piatti", 49), ("Cymbals", 49), ("Tambourine", 54), ("Triangel", 81), ("Castanets", 85), ("Drumset", None),
            ("Drums", None), ("Tom", 47), ("Hi-Hat", 42), ("Open Hi-Hat", 46), ("Primo", None), ("Violin", None),
            ("Große Trommel", 36), ("Claves", 75), ("Tam-tam", 52), ("Wood Blocks", 76), ("Snare Drums", 38),
            ("Handclap", 39), ("Clavecin", None), ("Steel Drum", None), ("Batería", None),
        ],
    )  # fmt: skip
    def test_key_of_name_knows_common_names(self, name, key):
        assert key_of_name(name) == key

    @pytest.mark.parametrize(
        ("names", "sung", "expected"),
        [
            (["Violini", "Viole", "Celli", "Bassi"], "", [40, 41, 42, 43]),
            (["Violins", "Cellos", "Basses"], "", [40, 42, 43]),
            (["Violons", "Altos", "Violoncelles", "Basses"], "", [40, 41, 42, 43]),
            (["Soprani", "Contralti", "Tenori", "Bassi"], "", [52] * 4),
            (["Soprani", "Alti", "Tenori", "Bassi"], "1234", [52] * 4),
            (["Tenore", "Basso", "Violini", "Basso"], "12", [52, 52, 40, 43]),
            (["Alto", "Basso", "Violini"], "", [41, 43, 40]),
            (["Alto", "Bass"], "", [52, 52]),
            (["Basso"], "1", [52]),
            (["Voice", "Guitar", "Bass", "Drumset"], "1", [52, 24, 33, 0]),
            (["Bass", "Piano"], "", [43, 0]),
            (["Basso"], "", [43]),
            (["Bass voice"], "", [52]),
            (["Alti"], "", [52]),
            (["Tenori"], "", [52]),
        ],
    )
    def test_names_of_singers_and_strings_are_decided_by_lyrics_and_company(self, performed, names, sung, expected):
        lyric = "<lyric><text>la</text></lyric>"
        bodies = [note(f"C{k}", 4).replace("</note>", lyric * (str(k) in sung) + "</note>") for k in range(1, 5)]
        parts = "".join(
            f'<part id="P{k}"><measure number="1">{FIRST.format(qpm=60)}{body}</measure></part>'
            for k, body in enumerate(bodies[: len(names)], 1)
        )
        text = f"<score-partwise><part-list>{part_list(*names)}</part-list>{parts}</score-partwise>"
        assert [n.program for n in sorted(performed(text).notes, key=lambda n: n.pitch)] == expected

    @pytest.mark.parametrize(("sound", "program"), [("voice.bass", 52), ("pluck.bass", 33)])
    def test_instrument_sound_outweighs_an_ambiguous_name(self, performed, sound, program):
        inside = f"<score-instrument id='A'><instrument-sound>{sound}</instrument-sound></score-instrument>"
        assert programs(performed(score(note("C4", 4), parts=part_list("Bassi", inside=inside)))) == [program]

    @pytest.mark.parametrize("where", ["part", "instrument"])
    def test_unpitched_notes_take_the_key_of_the_name(self, performed, where):
        inside = "<score-instrument id='A'><instrument-name>Triangle</instrument-name></score-instrument>"
        parts = part_list("Triangle") if where == "part" else part_list("Percussion 1", inside=inside)
        hit = STRIKE.format("<duration>16</duration>")
        hit = played_by("A", hit) if where == "instrument" else hit
        assert [(n.pitch, n.is_drum) for n in performed(score(hit, parts=parts)).notes] == [(81, True)]

    def test_unpitched_notes_of_an_unknown_name_are_percussion_by_place_and_named(self, performed):
        performance = performed(score(STRIKE.format("<duration>16</duration>"), parts=part_list("Wobble board")))
        assert [n.is_drum for n in performance.notes] == [True]
        assert performance.warnings == (
            "the instrument 'Wobble board' is not known; the places of its notes choose percussion",
        )

    def test_pitched_notes_of_a_percussion_part_are_percussion(self, performed):
        performance = performed(score(note("C4", 4), parts=part_list("Snare Drum")))
        assert [(n.pitch, n.is_drum) for n in performance.notes] == [(38, True)]

    @pytest.mark.parametrize("name", ["Steel Drums", "Clavecin"])
    def test_instruments_with_pitches_and_names_like_percussion_keep_them(self, performed, name):
        performance = performed(score(note("C4", 4), parts=part_list(name)))
        assert [(n.pitch, n.is_drum) for n in performance.notes] == [(60, False)]

    @pytest.mark.parametrize(
        ("sound", "program"),
        [
            ("wind.reed.english-horn", 69), ("pluck.bass", 33), ("synth.bass", 38), ("voice.bass", 52),
            ("pluck.guitar.electric", 27), ("wind.reed.clarinet.bass", 71), ("pitched-percussion.tubular-bells", 14),
            ("drum.timpani", 47), ("strings.contrabass", 43), ("wind.reed.saxophone.alto", 65),
        ],
    )  # fmt: skip
    def test_sound_of_an_instrument_without_a_known_name_chooses_its_program(self, performed, sound, program):
        stated = f"<score-instrument id='A'><instrument-name/><instrument-sound>{sound}</instrument-sound>"
        parts = part_list("Part 1", inside=f"{stated}</score-instrument>")
        performance = performed(score(note("C4", 4), parts=parts))
        assert [(n.program, n.is_drum) for n in performance.notes] == [(program, False)]

    def test_drum_set_without_numbers_plays_by_name_of_each_instrument(self, performed):
        inside = FLUTE_AND_OBOE.replace("Flute", "Bass Drum").replace("Oboe", "Hi-Hat")
        hit = STRIKE.format("<duration>8</duration>")
        xml = score(played_by("A", hit) + played_by("B", hit), parts=part_list("Drumset", inside=inside))
        assert [(n.pitch, n.is_drum) for n in performed(xml).notes] == [(36, True), (42, True)]

    def test_note_that_names_its_instrument_is_played_by_it(self, performed):
        text = played_by("A", note("C5", 2)) + played_by("B", note("C5", 2))
        parts = part_list("Wind", inside=FLUTE_AND_OBOE)
        early = played_by("B", grace("D5").replace("</pitch>", "</pitch><duration>0</duration>"))
        performance = performed(score(text, note("C5", 4) + early.replace("<duration>0</duration>", ""), parts=parts))
        assert programs(performance)[:3] == [73, 68, 73]

    def test_instrument_that_changes_in_mid_part_is_played_from_there(self, performed):
        change = '<sound><midi-instrument id="A"><midi-program>72</midi-program></midi-instrument></sound>'
        named = "<instrument-sound>wind.reed.oboe</instrument-sound>"
        sound = f'<sound><instrument-change id="A">{named}</instrument-change></sound>'
        inside = FLUTE_AND_OBOE.partition("<score-instrument id='B'")[0]
        parts = part_list("Flute", inside=inside)
        bars = note("C5", 2) + change + note("C5", 2), direction("<words>Oboe</words>", sound) + note("C5", 4)
        assert programs(performed(score(*bars, parts=parts))) == [73, 71, 68]

    def test_change_of_instrument_before_a_backup_leaves_earlier_notes(self, performed):
        change = '<sound><midi-instrument id="P1"><midi-program>72</midi-program></midi-instrument></sound>'
        low = note("C4", 2, after="<voice>2</voice>") + note("D4", 2, after="<voice>2</voice>")
        text = note("C5", 2) + change + note("D5", 2) + "<backup><duration>16</duration></backup>" + low
        performance = performed(score(text, parts=part_list("Flute")))
        assert sorted((n.pitch, n.program) for n in performance.notes) == [(60, 73), (62, 71), (72, 73), (74, 71)]

    def test_pizzicato_in_sound_changes_the_program_until_it_ends(self, performed):
        bars = '<sound pizzicato="yes"/>' + note("C4", 2) + '<sound pizzicato="no"/>' + note("C4", 2)
        assert programs(performed(score(bars, parts=part_list("Violin")))) == [45, 40]

    def test_pizzicato_of_one_note_is_its_own(self, performed):
        xml = score(note("C4", 2, attributes=' pizzicato="yes"') + note("C4", 2), parts=part_list("Viola"))
        assert programs(performed(xml)) == [45, 41]

    def test_pizzicato_of_an_instrument_without_it_is_named(self, performed):
        performance = performed(score('<sound pizzicato="yes"/>' + note("C4", 4), parts=part_list("Flute")))
        assert any("pizzicato" in warning for warning in performance.warnings)

    def test_volume_of_a_part_scales_its_velocities(self, performed):
        midi = '<midi-instrument id="{}"><volume>{}</volume></midi-instrument>'
        parts = part_list("Flute", "Oboe").replace("</score-part>", midi.format("A", 80) + "</score-part>", 1)
        quiet, silent = (parts[:-13] + midi.format("B", volume) + "</score-part>" for volume in (40, 0))
        assert velocities(performed(duet(note("C5", 4), note("C4", 4), quiet))) == [40, 80]
        performance = performed(duet(note("C5", 4), note("C4", 4), silent))
        assert [n.pitch for n in performance.notes] == [72]
        assert any("Oboe" in warning for warning in performance.warnings)

    def test_equal_part_names_keep_their_own_dynamics(self, performed):
        loud = direction("<dynamics><ff/></dynamics>") + note("C5", 4)
        assert velocities(performed(duet(loud, note("C4", 4), part_list("Violin", "Violin")))) == [80, 112]


class TestStaves:
    TWO = "<staves>2</staves><clef number='1'><sign>G</sign></clef><clef number='2'><sign>{}</sign></clef>{}"

    def guitar(self, sign: str, details: str, upper: str, lower: str) -> str:
        """Return a part of two staves with a measure each."""
        upper, lower = upper.replace("{}", "<staff>1</staff>"), lower.replace("{}", "<staff>2</staff>")
        text = f"{upper}<backup><duration>16</duration></backup>{lower}"
        return score(text).replace("</attributes>", self.TWO.format(sign, details) + "</attributes>", 1)

    @pytest.mark.parametrize("kind", ["alternate", "ossia", "cue"])
    def test_staff_of_an_alternate_type_is_silent(self, performed, kind):
        details = f'<staff-details number="2"><staff-type>{kind}</staff-type></staff-details>'
        xml = self.guitar("G", details, note("E4", 4, after="{}"), note("C4", 2, after="{}") * 2)
        close(performed(xml), (0, 64))

    def test_tablature_that_repeats_the_other_staff_is_silent(self, performed):
        chord = note("E4", 4, after="{}") + note("G4", 4, after="{}").replace("<note>", "<note><chord/>")
        close(performed(self.guitar("TAB", "", chord, chord)), (0, 64), (0, 67))

    def test_tablature_that_ties_what_the_other_staff_holds_is_silent(self, performed):
        tied = note("E4", 2, after="<tie type='start'/>{}") + note("E4", 2, after="<tie type='stop'/>{}")
        close(performed(self.guitar("TAB", "", note("E4", 4, after="{}"), tied)), (0, 64))

    def test_tablature_with_notes_of_its_own_sounds(self, performed):
        xml = self.guitar("TAB", "", note("R", 4, after="{}"), note("E3", 4, after="{}"))
        close(performed(xml), (0, 52))

    def test_tablature_part_that_repeats_another_part_is_silent(self, performed):
        tab = "<attributes><clef><sign>TAB</sign></clef></attributes>"
        xml = duet(note("E4", 4), tab + note("E4", 4), part_list("Guitar", "Guitar (Tab)"))
        close(performed(xml), (0, 64))
        close(performed(duet(note("E4", 4), tab + note("F4", 4), part_list("A", "B"))), (0, 64), (0, 65))


class TestDynamics:
    def test_dynamics_in_notations_hold_from_their_note(self, performed):
        soft, loud = (f"<dynamics><{name}/></dynamics>" for name in ("pp", "ff"))
        member = note("E4", 1, inside=loud).replace("<note>", "<note><chord/>")
        text = note("C4", 1, inside=soft) + note("D4", 1) + note("C4", 1) + member + note("C4", 1)
        assert velocities(performed(score(text))) == [32, 32, 112, 112, 112]

    def test_dynamics_in_sound_alone_are_played(self, performed):
        text = note("C4", 1) + '<sound dynamics="50"/>' + note("C4", 1)
        text += direction("<words>loud</words>", '<sound dynamics="120"/>') + note("C4", 2)
        assert velocities(performed(score(text))) == [80, 45, 108]

    def test_damper_pedal_in_sound_holds_the_notes(self, performed):
        text = (
            '<sound damper-pedal="yes"/>' + note("C4", 1) + note("D4", 2) + '<sound damper-pedal="no"/>' + note("E4", 1)
        )
        assert lengths(performed(score(text))) == [3.0, 2.0, 1.0]

    @pytest.mark.parametrize("attribute", ["soft-pedal", "sostenuto-pedal"])
    def test_other_pedals_in_sound_are_named(self, performed, attribute):
        performance = performed(score(f'<sound {attribute}="yes"/>' + note("C4", 4)))
        assert any(attribute.partition("-")[0] in warning for warning in performance.warnings)


class TestFiles:
    @pytest.mark.parametrize(
        ("encoding", "text"),
        [
            ("Shift_JIS", "ピアノ"), ("shift-jis", "表"), ("GB2312", "钢琴"), ("GBK", "鋼琴"), ("gb18030", "钢琴"),
            ("EUC-KR", "피아노"), ("ks_c_5601-1987", "피아노"), ("Big5", "鋼琴"), ("EUC-JP", "ピアノ"),
            ("utf8", "Flügel"), ("windows-1252", "Flügel"), ("koi8-r", "рояль"),
        ],
    )  # fmt: skip
    def test_declared_multibyte_encoding_is_read(self, performed, encoding, text):
        codec = {"ks_c_5601-1987": "euc_kr"}.get(encoding, encoding)
        xml = f"<?xml version='1.0' encoding='{encoding}'?>" + score(note("C4", 4)).replace("Piano", f"Piano {text}")
        close(performed(xml.encode(codec)), (0, 60))

    def test_bytes_outside_the_declared_encoding_are_refused_in_one_line(self, performed):
        xml = b"<?xml version='1.0' encoding='EUC-KR'?>" + score(note("C4", 4)).replace("Piano", "\xff").encode(
            "latin-1"
        )
        with pytest.raises(ValueError, match="not in the encoding euc-kr"):
            performed(xml)

    @pytest.mark.parametrize(
        ("stated", "stored"),
        [
            ("./full.xml", "full.xml"), ("full.xml", "./full.xml"), ("/full.xml", "full.xml"), ("a%20b.xml", "a b.xml"),
            ("a%20b.xml", "a%20b.xml"), ("a\\full.xml", "a/full.xml"), ("a/../full.xml", "full.xml"),
            ("Full.XML", "full.xml"), ("Stück.xml", "Stück.xml"), ("St%C3%BCck.xml", "Stück.xml"),
        ],
    )  # fmt: skip
    def test_root_path_of_mxl_is_found_however_it_is_written(self, performed, stated, stored):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            archive.writestr(
                "META-INF/container.xml",
                f"<container><rootfiles><rootfile full-path='{stated}'/></rootfiles></container>",
            )
            archive.writestr("a-part.xml", score(note("D4", 4)))
            archive.writestr(stored, score(note("C4", 4)))
        close(performed(stream.getvalue(), "song.mxl"), (0, 60))

    @pytest.mark.parametrize("second", ["P2", "P1", ""])
    def test_part_missing_in_the_part_list_is_played_and_named(self, performed, second):
        xml = duet(note("C4", 4), note("E4", 4), part_list("Piano")).replace('<part id="P2">', f'<part id="{second}">')
        performance = performed(xml)
        close(performance, (0, 60), (0, 64))
        assert any("part list" in warning for warning in performance.warnings)

    def test_score_without_a_part_list_is_played(self, performed):
        xml = duet(note("C4", 4), note("E4", 4), "").replace("<part-list></part-list>", "")
        close(performed(xml), (0, 60), (0, 64))
