"""MIDI files: a channel is one stream whatever the track, and damaged or unusual files are read or refused in words."""

import pytest
from midi_bytes import chunk, midi_file, track

from continuo.score.midi import transcribe_midi
from continuo.score.notes import Note, Performance
from continuo.score.performance import perform, perform_midi
from continuo.score.synth import write_midi

GS, XG = "f00a4110421240007f0041f7", "f00843104c00007e00f7"
NOTE = (0, "903c50"), (480, "803c40")  # middle C for half a second


def played(*tracks: bytes, **header) -> Performance:
    return perform_midi(midi_file(*map(chunk, tracks), **header))


def notes(performance: Performance) -> list[tuple[float, float, float]]:
    return [(n.onset_s, n.pitch, n.duration_s) for n in performance.notes]


def only(*events: tuple[int, str], end: int | None = None) -> Performance:
    """Return the performance of a file with one track."""
    return played(track(*events, end=end))


class TestChannels:
    def test_program_in_a_later_track_holds_for_the_channel(self):
        made = played(
            track((0, "913c50"), (480, "813c40"), (480, "914050"), (960, "814040")), track((0, "c128"), (480, "c138"))
        )
        assert [n.program for n in made.notes] == [40, 56]

    def test_note_off_in_another_track_ends_the_note(self):
        assert notes(played(track((0, "903c50"), end=960), track((480, "803c40")))) == [(0, 60, 0.5)]

    def test_unison_of_two_tracks_keeps_both_lengths(self):
        made = played(track((0, "903c50"), (480, "803c40")), track((0, "903c51"), (960, "803c40")))
        assert [(n.duration_s, n.velocity) for n in made.notes] == [(0.5, 80), (1.0, 81)]

    def test_port_makes_channels_of_its_own(self):
        made = played(track((0, "c028")), track((0, "ff210101"), (0, "903c50"), (480, "803c40")))
        assert made.notes[0].program == 0

    def test_reset_keeps_the_programs_that_other_tracks_set_at_its_tick(self):
        assert played(track((0, "c028")), track((0, GS), *NOTE)).notes[0].program == 40


class TestPedals:
    @pytest.mark.parametrize("pedal", ["40", "42", "45"])
    def test_pedal_in_a_track_of_its_own_holds_notes(self, pedal):
        made = played(track((0, "903c50"), (240, "803c40")), track((120, f"b0{pedal}7f"), (1440, f"b0{pedal}00")))
        assert notes(made) == [(0, 60, 1.5)]

    def test_sostenuto_leaves_later_notes_alone(self):
        made = only((0, "903c50"), (120, "b0427f"), (240, "904050"), (480, "803c40"), (480, "804040"), (1920, "b04200"))
        assert notes(made) == [(0, 60, 2.0), (0.25, 64, 0.25)]

    def test_program_change_leaves_the_pedal_down(self):
        made = only((0, "b0407f"), *NOTE, (480, "c004"), (480, "904050"), (720, "804040"), (1440, "b04000"))
        assert [(n.duration_s, n.program) for n in made.notes] == [(1.5, 0), (1.0, 4)]

    def test_pedal_without_release_holds_to_the_last_note(self):
        assert notes(only((0, "b0407f"), *NOTE, (960, "904050"), (1440, "804040"))) == [(0, 60, 1.5), (1.0, 64, 0.5)]

    def test_all_sound_off_ends_held_notes_and_all_notes_off_does_not(self):
        assert notes(only((0, "b0407f"), (0, "903c50"), (480, "b07800"), (960, "b04000"))) == [(0, 60, 0.5)]
        assert notes(only((0, "b0407f"), (0, "903c50"), (480, "b07b00"), (960, "b04000"))) == [(0, 60, 1.0)]

    def test_reset_of_controllers_releases_the_pedal(self):
        assert notes(only((0, "b0407f"), (0, "903c50"), (480, "803c40"), (960, "b07900"))) == [(0, 60, 1.0)]


class TestVolume:
    def test_volume_and_expression_scale_velocities_from_the_default_on(self):
        made = only(
            (0, "b00732"),
            *NOTE,
            (480, "b00764"),
            (480, "903c50"),
            (960, "803c40"),
            (960, "b00b40"),
            (960, "903c50"),
            (1440, "803c40"),
        )
        assert [n.velocity for n in made.notes] == [40, 80, 40]
        assert made.warnings == ()

    def test_loudest_volume_above_the_default_is_the_measure(self):
        made = only((0, "b0077f"), (0, "903c7f"), (480, "803c40"), (480, "b00764"), (480, "903c7f"), (960, "803c40"))
        assert [n.velocity for n in made.notes] == [127, 100]

    def test_muted_channel_is_silent_and_named(self):
        made = only((0, "b10700"), *NOTE, (480, "913c50"), (960, "813c40"))
        assert notes(made) == [(0, 60, 0.5)]
        assert "volume or expression 0" in made.warnings[0]
        with pytest.raises(ValueError, match=r"^all its notes are at volume or expression 0 \(controls 7 and 11\)$"):
            only((0, "b00700"), *NOTE)

    def test_fade_within_a_note_has_its_mean_and_is_named(self):
        made = only((0, "903c50"), (240, "b00700"), (480, "803c40"))
        assert made.notes[0].velocity == 40
        assert "(controls 7 and 11) within a note are not followed: it has their mean" in made.warnings[0]

    def test_master_volume_scales_all_channels(self):
        for packets in ("f0077f7f04010040f7",), ("f0037f7f04", "f704010040f7"), ("f0067f7f04010040",):
            assert only(*((0, packet) for packet in packets), *NOTE).notes[0].velocity == 40


class TestPitch:
    @pytest.mark.parametrize(
        ("set_up", "pitch"),
        [
            ((), 61),
            (("b06500", "b06400", "b0060c"), 66),
            (("b06400", "b06500", "b0060c", "b02632"), 66.25),  # 12.5 semitones
            (("b06500", "b06400", "b0060c", "b0657f", "b0647f", "b00618"), 66),  # no parameter is chosen
            (("b06500", "b06400", "b0060c", "b06301", "b06208", "b00618"), 66),  # a non-registered one is
            (("b06500", "b06402", "b00634"), 49),  # 12 semitones lower
            (("b06500", "b06401", "b00660"), 61.5),  # half a semitone higher
            (("f0077f7f04040034f7",), 49),  # master tuning
        ],
    )
    def test_bend_range_and_tuning(self, set_up, pitch):
        made = only(*((0, event) for event in set_up), (0, "e00060"), *NOTE)
        assert made.notes[0].pitch == pytest.approx(pitch)

    def test_reset_of_controllers_keeps_the_bend_range(self):
        made = only((0, "b06500"), (0, "b06400"), (0, "b0060c"), (0, "e00000"), (0, "b07900"), (0, "e00060"), *NOTE)
        assert made.notes[0].pitch == 66

    def test_zone_has_a_wide_range_and_the_bends_and_pedal_of_its_main_channel(self):
        zone = (0, "b06500"), (0, "b06406"), (0, "b00602")
        made = only(*zone, (0, "e10050"), (0, "e00060"), (0, "b0407f"), (0, "913c50"), (480, "813c40"), (960, "b04000"))
        assert notes(made) == [(0, 60 + 48 / 4 + 1, 1.0)]

    def test_bend_up_to_a_note_is_at_its_pitch_and_named(self):
        made = only((0, "e00000"), (0, "903c50"), (60, "e00040"), (480, "803c40"))
        assert made.notes[0].pitch == 60
        assert made.warnings == ("bends within a note are not followed: it has the pitch that lasts longest",)


class TestEnds:
    def test_missing_note_off_lasts_to_the_restrike_or_the_end_of_the_track(self):
        made = only((0, "903c50"), (480, "903c51"), (720, "803c40"), (720, "904050"), end=1440)
        assert notes(made) == [(0, 60, 0.5), (0.5, 60, 0.25), (0.75, 64, 0.75)]
        assert made.warnings == ("notes without an end last to the next of their key, or to the end of their track",)

    def test_overlapping_notes_of_a_key_end_in_their_order(self):
        made = only((0, "903c50"), (240, "903c51"), (480, "803c40"), (720, "803c40"))
        assert notes(made) == [(0, 60, 0.5), (0.25, 60, 0.5)]

    @pytest.mark.parametrize("control", ["78", "7b", "7c", "7d", "7e", "7f"])
    def test_all_notes_off_ends_all_notes_of_its_channel(self, control):
        made = only((0, "903c50"), (0, "914050"), (480, f"b0{control}00"), (960, "814040"))
        assert notes(made) == [(0, 60, 0.5), (0, 64, 1.0)]

    def test_notes_of_no_length_sound(self):
        made = only((0, "992464"), (0, "892440"), (480, "903c50"), (480, "803c40"))
        assert [(n.onset_s, n.pitch, n.is_drum) for n in made.notes] == [(0, 36, True), (0.5, 60, False)]


class TestFiles:
    @pytest.mark.parametrize("between", ["ff0102252b", "f0030102f7", "f8", "f105", "f301", "f20102"])
    def test_running_status_outlasts_other_events(self, between):
        made = only((0, "903c50"), (240, between), (480, "3c00"))
        assert notes(made) == [(0, 60, 0.5)]

    @pytest.mark.parametrize("stated", [1, 2, 9])
    def test_number_of_tracks_in_the_header_does_not_matter(self, stated):
        made = played(track(*NOTE), track((0, "914050"), (480, "814040")), tracks=stated)
        assert notes(made) == [(0, 60, 0.5), (0, 64, 0.5)]
        assert bool(made.warnings) == (stated == 9)

    @pytest.mark.parametrize("error", [-4, -1, 1, 9, 12, 21 + 8, 21 + 8 + 21, 10_000])
    @pytest.mark.parametrize("place", [0, 1, 2])
    def test_length_of_a_track_does_not_matter(self, error, place):
        contents = [track((0, f"9{k}3c50"), (480, f"8{k}3c40")) for k in range(3)]
        chunks = [chunk(c, len(c) + error * (k == place)) for k, c in enumerate(contents)]
        assert notes(perform_midi(midi_file(*chunks))) == [(0, 60, 0.5)] * 3

    def test_unknown_chunks_are_skipped(self):
        extra = b"XFIH" + (3).to_bytes(4) + b"abc"
        assert notes(perform_midi(midi_file(extra, chunk(track(*NOTE)), extra))) == [(0, 60, 0.5)]

    def test_format_2_plays_its_tracks_in_order_each_with_its_tempo(self):
        slow = track((0, "c028"), (0, "ff51030f4240"), *NOTE)
        made = played(slow, track(*NOTE, end=960), track(*NOTE), form=2)
        assert notes(made) == [(0, 60, 1.0), (1.0, 60, 0.5), (2.0, 60, 0.5)]
        assert [n.program for n in made.notes] == [40, 0, 0]
        assert "format 2" in made.warnings[0]

    def test_tempo_of_zero_is_ignored_and_named(self):
        made = only((0, "ff510307a120"), (0, "ff5103000000"), *NOTE)
        assert notes(made) == [(0, 60, 0.5)]
        assert "tempo of 0" in made.warnings[0]

    def test_ticks_as_parts_of_a_second_have_no_tempo(self):
        assert notes(played(track((0, "ff51030f4240"), *NOTE), division=0xE728)) == [
            (0, 60, pytest.approx(0.48))
        ]  # 25 frames of 40
        with pytest.raises(ValueError, match="how long a tick lasts"):
            played(track(*NOTE), division=0)

    def test_rmi_and_kar_files_are_read(self, tmp_path):
        data = midi_file(chunk(track(*NOTE)))
        inner = b"RMIDdata" + len(data).to_bytes(4, "little") + data + b"LIST" + bytes(4)
        (tmp_path / "a.rmi").write_bytes(b"RIFF" + len(inner).to_bytes(4, "little") + inner)
        (tmp_path / "a.kar").write_bytes(data)
        assert [notes(perform(tmp_path / name)) for name in ("a.rmi", "a.kar")] == [[(0, 60, 0.5)]] * 2

    def test_controls_that_are_not_performed_are_named(self):
        made = only((0, "b0015f"), (0, "b00a40"), (0, "b04301"), (0, "d040"), (0, "f0047e0001f7"), *NOTE)
        assert [w.split(" is ")[0].split(" but ")[0] for w in made.warnings] == [
            "system exclusive messages", "the modulation (control 1)", "the soft pedal (control 67)", "aftertouch",
        ]  # fmt: skip

    @pytest.mark.parametrize(
        ("banks", "name"), [(("b00008",), "8"), (("b02003",), "0.3"), (("b00079", "b02001"), "121.1")]
    )
    def test_bank_beyond_general_midi_is_named(self, banks, name):
        made = only(*((0, bank) for bank in banks), (0, "c000"), *NOTE)
        assert made.warnings == (f"sounds of bank {name} are not played: those of General MIDI stand in",)

    def test_melodic_bank_of_general_midi_is_not_named(self):
        assert only((0, "b00079"), (0, "b02000"), (0, "c000"), *NOTE).warnings == ()


class TestDrums:
    @pytest.mark.parametrize(
        ("set_up", "channel", "is_drum"),
        [
            ((), 9, True),
            ((), 10, False),
            ((XG, "ba007f", "ca00"), 10, True),
            ((XG, "f00843104c080a0702f7",), 10, True),
            ((XG, "b90000", "c900"), 9, False),
            ((GS, "f00a41104212401a15020ff7"), 10, True),
            ((GS, "f00a411042124010150010f7"), 9, False),
            ((GS, "ba007f", "ca00"), 10, False),  # sounds of the MT-32
            (("f0057e7f0903f7", "ba0078", "ca00"), 10, True),
            (("f0057e7f0903f7", "b90079", "c900"), 9, False),
            (("ba0078", "ca00", "ba0000", "ca00"), 10, False),
        ],
    )  # fmt: skip
    def test_channel_is_drums_by_number_bank_or_message(self, set_up, channel, is_drum):
        made = only(*((0, event) for event in set_up), (0, f"9{channel:x}2464"), (480, f"8{channel:x}2440"))
        assert made.notes[0].is_drum == is_drum


def test_transcript_has_keys_as_pressed_with_volume_and_tuning():
    data = midi_file(chunk(track((0, "b0407f"), (0, "b00732"), (0, "b06500"), (0, "b06402"), (0, "b00634"), *NOTE)))
    (found,) = transcribe_midi(data).notes
    assert (found.onset_s, found.end_s, found.pitch, found.velocity) == (0, 1, 48, 40)


def test_written_midi_reads_back_with_unisons_and_many_programs(tmp_path):
    unison = Note(0, 2, 60, 80, 0, False), Note(1, 0.25, 60, 80, 0, False), Note(1, 0.5, 60, 80, 0, False)
    many = tuple(Note(2, 1, 60, 80, program, False) for program in range(40))
    drums = tuple(Note(3, 1, 36, 80, kit, True) for kit in (0, 16, 25))
    for made in (unison, many + drums, (*unison, *many)):
        write_midi(Performance(made, 4.0), tmp_path / "made.mid")
        read = perform_midi((tmp_path / "made.mid").read_bytes())
        assert set(read.notes) == set(made)
