"""Score files that are read or refused, and the command that performs them."""

import io
import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import ROOT
from musicxml_text import FIRST, PART, close, lengths, note, score

from continuo.midi.events import parse_midi
from continuo.performance import main
from continuo.score.musicxml import parse_xml
from continuo.score.notes import MAX_SECONDS, MIN_NOTE_S, DraftNote, Note, Performance
from continuo.score.performance import perform, perform_midi, score_bytes
from continuo.score.synth import write_midi


def test_perform_musicxml_needs_no_music21(tmp_path):
    """The import of music21 takes longer than reading a score."""
    (tmp_path / "song.musicxml").write_text(score(note("C4", 4)))
    code = "import sys\nfrom pathlib import Path\nfrom continuo.score.performance import perform\n"
    code += "assert len(perform(Path('song.musicxml')).notes) == 1\nassert 'music21' not in sys.modules"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "CONTINUO_CACHE": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr


class TestFiles:
    @pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "iso-8859-1"])
    def test_encoding_that_is_declared_is_read(self, performed, encoding):
        xml = f'<?xml version="1.0" encoding="{encoding}"?>' + score(note("C4", 4)).replace("Piano", "Flügel")
        close(performed(xml.encode(encoding)), (0, 60))

    def test_utf8_declared_as_utf16_is_read(self, performed):
        close(
            performed("<?xml version='1.0' encoding='UTF-16'?>" + score(note("C4", 4)).replace("Piano", "Flügel")),
            (0, 60),
        )

    def test_timewise_score_is_read(self, performed):
        measure = f'<measure number="1"><part id="P1">{FIRST.format(qpm=60)}{note("C4", 4)}</part></measure>'
        close(performed(f"<score-timewise><part-list>{PART}</part-list>{measure}</score-timewise>"), (0, 60))

    def test_mxl_with_a_stray_member_reads_the_file_in_its_container(self, performed):
        container = "<container><rootfiles><rootfile full-path='in/song.xml'/></rootfiles></container>"
        packed = _zip({"a.xml": "<other/>", "in/song.xml": score(note("C4", 4)), "META-INF/container.xml": container})
        close(performed(packed, "song.mxl"), (0, 60))

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"", "empty"),
            (b"hello", "ill-formed XML"),
            (b"<html/>", "root element is <html>"),
            (b"<score-partwise/>", "no measures"),
            (b"PK\x03\x04 broken", "not a readable .mxl"),
            (b"MThd broken", "MIDI"),
            (b"<!DOCTYPE a [<!ENTITY b 'c'>]><score-partwise>&b;</score-partwise>", "entity"),
            (b"<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/hostname'>]><a>&b;</a>", "entity"),
            (b"<a>" * 100, "nested deeper"),
            (score(note("C4", 4).replace("<duration>16", "<duration>1e12")).encode(), "quarter notes"),
            (score(note("C4", 4).replace("<duration>16", "<duration>nan")).encode(), "song.musicxml: "),
        ],
    )
    def test_damaged_file_is_refused_in_one_line(self, performed, content, reason):
        with pytest.raises(ValueError) as caught:
            performed(content)
        assert reason in str(caught.value)
        assert "\n" not in str(caught.value)
        assert "song.musicxml" in str(caught.value)

    @pytest.mark.parametrize("deep", [b"<a>" * 2_900_000, b"<b>" + b"<a>" * 48 + b"</a>" * 48 + b"<a/>" * 2_900_000])
    def test_deep_file_is_refused_while_it_is_read(self, deep):
        started = time.process_time()
        with pytest.raises(ValueError, match="nested deeper than 48 elements"):
            parse_xml(deep)
        assert time.process_time() - started < 1

    def test_zip_bomb_and_oversize_file_are_refused(self, performed, monkeypatch):
        monkeypatch.setattr("continuo.score.musicxml.MAX_XML_BYTES", 1000)
        with pytest.raises(ValueError, match="unpacks to more than"):
            performed(_zip({"song.xml": " " * 2000}), "song.mxl")
        monkeypatch.setattr("continuo.score.musicxml.MAX_FILE_BYTES", 10)
        with pytest.raises(ValueError, match="larger than"):
            performed(score(note("C4", 4)))

    def test_perform_a_second_time_reads_the_cache(self, tmp_path, monkeypatch):
        monkeypatch.setenv("CONTINUO_CACHE", str(tmp_path / "cache"))
        path = tmp_path / "song.musicxml"
        path.write_text(score(note("C4", 4)))
        first = perform(path)
        monkeypatch.setattr("continuo.score.performance.parse_score", lambda data: pytest.fail("parsed again"))
        assert perform(path) == first

    def test_midi_tempo_map_pedal_and_bend_are_applied(self, tmp_path):
        import mido

        track = mido.MidiTrack()
        track.append(mido.MetaMessage("set_tempo", tempo=500_000))
        track.append(mido.Message("pitchwheel", pitch=2048))
        track.append(mido.Message("control_change", control=64, value=127))
        track.append(mido.Message("note_on", note=60, velocity=70))
        track.append(mido.Message("note_on", note=60, velocity=0, time=97))
        track.append(mido.MetaMessage("set_tempo", tempo=1_000_000))
        track.append(mido.Message("control_change", control=64, value=0, time=97))
        track.append(mido.Message("note_on", note=64, velocity=80))
        track.append(mido.Message("note_off", note=64, time=97))
        file = mido.MidiFile(ticks_per_beat=97, tracks=[track])  # an odd resolution
        file.save(tmp_path / "song.mid")
        performance = perform(tmp_path / "song.mid")
        close(performance, (0, 60.5), (1.5, 64.5))
        assert lengths(performance) == [1.5, 1.0]


def _zip(members: dict[str, str]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return packed.getvalue()


class TestCommand:
    def test_midi_cut_anywhere_is_refused(self, tmp_path):
        notes = tuple(Note(k / 4, 0.25, 60 + k % 12, 80, 0, False) for k in range(200))
        write_midi(Performance(notes, 50.0), tmp_path / "whole.mid")
        data = (tmp_path / "whole.mid").read_bytes()
        parse_midi(data)
        for length in range(0, len(data), 7):
            with pytest.raises(ValueError, match="MIDI"):
                parse_midi(data[:length])
        for event in (
            b"\x00\x90\x3c",
            b"\x00\xff\x51\x02\x07\xa1",
            b"\x00\xff\x03\x7fx",
            b"\x00\x3c\x40",
            b"\x81\x82\x83\x84",
        ):
            with pytest.raises(ValueError, match="MIDI"):
                parse_midi(b"MThd\0\0\0\6\0\0\0\1\1\xe0MTrk" + len(event).to_bytes(4) + event)

    def test_command_never_overwrites_a_score_of_its_run(self, tmp_path, capsys):
        (tmp_path / "a.musicxml").write_text(score(note("C4", 4)))
        write_midi(perform(tmp_path / "a.musicxml"), tmp_path / "a.mid")
        before = (tmp_path / "a.mid").read_bytes()
        scores = [str(tmp_path / "a.musicxml"), str(tmp_path / "a.mid")]
        assert main([*scores, "--out", str(tmp_path), "--midi"]) == 2
        assert "would overwrite a score" in capsys.readouterr().err
        assert (tmp_path / "a.mid").read_bytes() == before

    def test_command_performs_a_score_of_rests_as_silence_with_a_warning(self, tmp_path, capsys):
        (tmp_path / "rest.musicxml").write_text(score(note("R", 4)))
        assert main([str(tmp_path / "rest.musicxml"), "--out", str(tmp_path / "out"), "--rate", "8000"]) == 0
        assert "there is no note: silence" in capsys.readouterr().out
        assert perform(tmp_path / "rest.musicxml").seconds == 4.0
        assert (tmp_path / "out" / "rest.wav").stat().st_size >= 4 * 8000 * 4

    def test_command_with_one_bad_file_performs_the_others(self, tmp_path, capsys, monkeypatch):
        monkeypatch.setenv("CONTINUO_CACHE", str(tmp_path / "cache"))
        good, bad = tmp_path / "good.musicxml", tmp_path / "bad.musicxml"
        good.write_text(score(note("C4", 4)))
        bad.write_text("<html/>")
        code = main(
            [str(bad), str(good), "--out", str(tmp_path / "out"), "--midi", "--wav", "--rate", "8000", "--json"]
        )
        captured = capsys.readouterr()
        assert code == 2
        assert captured.err == "performance: bad.musicxml: not a MusicXML score (its root element is <html>)\n"
        report = json.loads(captured.out.splitlines()[-1])
        assert report["files"][str(good)]["notes"] == 1
        assert report["files"][str(good)]["seconds"] == 4.0
        assert close(perform(tmp_path / "out" / "good.mid"), (0, 60)) is None
        assert (tmp_path / "out" / "good.wav").read_bytes()[:4] == b"RIFF"


def sound(onset_s: float = 0.0, end_s: float = 1.0, pitch: float = 60.0, velocity: float = 80.0, **rest) -> DraftNote:
    return DraftNote(onset_s, end_s, pitch, velocity, rest.get("program", 0), rest.get("is_drum", False))


@pytest.fixture
def from_drafts(monkeypatch):
    """Make a performance of notes that were read from a MIDI file."""

    def make(*drafts: DraftNote, seconds: float = 0.0, warnings: tuple[str, ...] = ()) -> Performance:
        monkeypatch.setattr("continuo.score.performance.read_midi", lambda data: (drafts, seconds, warnings))
        return perform_midi(b"MThd")

    return make


class TestFromDrafts:
    def test_from_drafts_sorts_by_onset_pitch_program_and_length(self, from_drafts):
        sounds = [
            sound(1, 2), sound(0, 3, 61), sound(0, 3, 60, program=7), sound(0, 2, 60, program=7), sound(0, 9, 60),
            sound(0, 1, 59, is_drum=True),
        ]  # fmt: skip
        made = from_drafts(*sounds)
        keys = [(n.onset_s, n.pitch, n.program, n.duration_s) for n in made.notes]
        assert keys == [(0, 59, 0, 1), (0, 60, 0, 9), (0, 60, 7, 2), (0, 60, 7, 3), (0, 61, 0, 3), (1, 60, 0, 1)]
        assert [n.is_drum for n in made.notes] == [True, *[False] * 5]

    def test_from_drafts_clips_velocity_onset_and_duration(self, from_drafts):
        made = from_drafts(
            sound(velocity=0.2),
            sound(1, velocity=300, end_s=2),
            sound(2, 3, velocity=79.6),
            sound(3, 4, velocity=126.9),
        )
        assert [n.velocity for n in made.notes] == [1, 127, 80, 127]
        made = from_drafts(sound(-0.5, 1), sound(2, 2.001))
        assert [(n.onset_s, n.duration_s) for n in made.notes] == [(0, 1), (2, MIN_NOTE_S)]

    def test_from_drafts_drops_notes_that_cannot_sound(self, from_drafts):
        kept = [sound(pitch=0), sound(pitch=127), sound(pitch=60.5)]
        made = from_drafts(*kept, sound(pitch=-0.01), sound(pitch=127.01), sound(1, 1), sound(2, 1.5))
        assert [n.pitch for n in made.notes] == [0, 60.5, 127]

    @pytest.mark.parametrize("bad", [sound(float("nan")), sound(end_s=float("inf")), sound(pitch=float("nan"))])
    def test_from_drafts_with_a_value_that_is_not_finite_is_refused(self, from_drafts, bad):
        with pytest.raises(ValueError, match=r"^a note has no finite time or pitch; export the score again$"):
            from_drafts(sound(), bad)

    def test_from_drafts_lasts_as_long_as_the_score_or_the_last_note(self, from_drafts):
        assert from_drafts(sound(0, 1), sound(0.5, 3), sound(1, 2)).seconds == 3
        assert from_drafts(sound(0, 1), seconds=5.0).seconds == 5
        assert from_drafts(sound(2, 2.001)).seconds == 2 + MIN_NOTE_S

    def test_from_drafts_with_too_many_hours_or_notes_is_refused(self, from_drafts, monkeypatch):
        assert from_drafts(sound(), seconds=MAX_SECONDS).seconds == 3 * 3600
        with pytest.raises(ValueError, match=r"^it would last 3\.1 hours; the most is 3: correct .* split it$"):
            from_drafts(sound(), seconds=MAX_SECONDS + 360)
        monkeypatch.setattr("continuo.score.notes.MAX_NOTES", 3)
        assert len(from_drafts(*[sound()] * 3).notes) == 3
        with pytest.raises(ValueError, match=r"^more than 3 notes; split the score$"):
            from_drafts(*[sound()] * 4)

    def test_from_drafts_keeps_each_warning_once_in_order(self, from_drafts):
        assert from_drafts(sound(), warnings=("b", "a", "b")).warnings == ("b", "a")

    def test_midi_file_without_notes_is_refused(self, from_drafts):
        with pytest.raises(ValueError, match=r"^there is no note to perform$"):
            from_drafts(seconds=4.0)

    def test_score_of_nothing_is_refused_and_one_of_rests_warns(self, performed, monkeypatch):
        assert performed(score(note("R", 4))).warnings == ("there is no note: silence",)
        assert performed(score(note("C4", 4))).warnings == ()
        monkeypatch.setattr("continuo.score.performance._bar_times", lambda *_: ([], 0.0))
        with pytest.raises(ValueError, match=r"^song2\.musicxml: .*there is neither a note nor a rest to perform"):
            performed(score(note("D4", 4)), "song2.musicxml")

    def test_score_bytes_decides_by_content_before_the_name(self, tmp_path):
        contents = {
            "a.mid": b"x",
            "b.MIDI": b"x",
            "c.xml": b"MThd",
            "d.mxl": b"RIFF",
            "e.xml": b"<",
            "f.musicxml": b"PK",
        }
        for name, content in contents.items():
            (tmp_path / name).write_bytes(content)
            assert score_bytes(tmp_path / name) == (content, name[0] in "abcd")
        (tmp_path / "g.txt").write_bytes(b"MThd")
        known = "known endings are .kar .mid .midi .musicxml .mxl .rmi .xml"
        with pytest.raises(ValueError, match=f"^g.txt: not a score; {known}$"):
            score_bytes(tmp_path / "g.txt")

    def test_cache_with_damaged_or_older_entries_performs_again(self, tmp_path, monkeypatch):
        monkeypatch.setenv("CONTINUO_CACHE", str(tmp_path / "cache"))
        path = tmp_path / "song.musicxml"
        path.write_text(score(note("D4", 2) + note("E4", 2)))
        first = perform(str(path))
        assert perform(path) == first
        for entry in (tmp_path / "cache").rglob("*.json"):
            entry.write_text("{")
        assert perform(path) == first
        monkeypatch.setattr("continuo.score.performance.CACHE_VERSION", -1)
        monkeypatch.setattr("continuo.score.performance.perform_score", lambda _: Performance((), 4.0))
        assert perform(path).notes == ()


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Run the command in a folder with one score of one second; return its status, output, errors and new files."""
    monkeypatch.chdir(tmp_path)
    bar = note("C4", 2, inside="<fermata/>") + note("C5", 2)
    (tmp_path / "tune.musicxml").write_text(score(bar, qpm=240))

    def run(*words: str) -> tuple[int, str, str, list[str]]:
        status = main([*words, "--out", "in/out", "--rate", "8000"])
        captured = capsys.readouterr()
        return status, captured.out, captured.err, sorted(p.name for p in (tmp_path / "in" / "out").glob("*"))

    return run


class TestOptions:
    @pytest.mark.parametrize(
        ("options", "made"),
        [
            ([], ["tune.mid", "tune.wav"]),
            (["--midi"], ["tune.mid"]),
            (["--wav"], ["tune.wav"]),
            (["--midi", "--wav"], ["tune.mid", "tune.wav"]),
            (["--midi", "--picture"], ["tune.mid", "tune.png", "tune.wav"]),
        ],
    )
    def test_command_writes_the_files_of_its_options(self, command, options, made):
        status, out, err, names = command("tune.musicxml", *options)
        assert (status, err, names) == (0, "", made)
        assert out.splitlines()[0] == "tune.musicxml: 2 notes, 1.0 s"
        assert out.splitlines()[1].startswith("  ")  # the fermata that is not performed
        assert len(out.splitlines()) == 2

    def test_command_json_reports_every_file(self, command, tmp_path):
        status, out, _, _ = command("tune.musicxml", "--json", "--picture")
        report = json.loads(out)
        one = report["files"]["tune.musicxml"]
        assert (status, report["failed"], list(report["files"])) == (0, 0, ["tune.musicxml"])
        assert (one["notes"], one["seconds"], len(one["warnings"])) == (2, 1.0, 1)
        for kind, ending in [("midi", "mid"), ("wav", "wav"), ("picture", "png")]:
            assert one[kind] == f"in/out/tune.{ending}"
        assert (tmp_path / one["picture"]).read_bytes()[:4] == b"\x89PNG"
        status, out, _, _ = command("none.musicxml", "tune.musicxml", "--json", "--midi")
        report = json.loads(out)
        assert (status, report["failed"]) == (2, 1)
        assert "none.musicxml" in report["files"]["none.musicxml"]["error"]
        assert report["files"]["tune.musicxml"].keys() == {"notes", "seconds", "midi", "warnings"}

    @pytest.mark.parametrize(("option", "channels"), [([], 2), (["--mono"], 1)])
    def test_command_writes_the_channels_and_rate_of_its_options(self, command, option, channels):
        assert command("tune.musicxml", "--wav", *option)[0] == 0
        info = soundfile.info("in/out/tune.wav")
        assert (info.channels, info.samplerate) == (channels, 8000)
        assert info.duration >= 1

    def test_command_without_a_rate_writes_44100_hz(self, command):
        assert main(["tune.musicxml", "--out", "there", "--wav", "--mono"]) == 0
        assert soundfile.info("there/tune.wav").samplerate == 44_100
        assert main(["tune.musicxml", "--out", "there", "--midi"]) == 0  # a folder that is there is fine

    def test_command_with_scores_of_one_name_numbers_its_files(self, command, tmp_path):
        for folder, step in [("a", "D4"), ("b", "E4")]:
            (tmp_path / folder).mkdir()
            (tmp_path / folder / "tune.musicxml").write_text(score(note(step, 4)))
        status, _, _, names = command("tune.musicxml", "a/tune.musicxml", "b/tune.musicxml", "--midi")
        assert (status, names) == (0, ["tune-2.mid", "tune-3.mid", "tune.mid"])
        assert [perform(f"in/out/{name}").notes[0].pitch for name in ("tune.mid", "tune-2.mid", "tune-3.mid")] == [
            60,
            62,
            64,
        ]

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["tune.musicxml", "--rate", "1", "--out", "x"], "performance: a sample rate must be 4000 to"),
            (
                ["tune.musicxml", "--soundfont", "tune.musicxml", "--out", "x"],
                "performance: the SoundFont tune.musicxml is not a SoundFont",
            ),
        ],
    )
    def test_command_with_a_bad_value_makes_no_folder(self, command, tmp_path, capsys, words, message):
        assert main(words) == 2
        captured = capsys.readouterr()
        assert captured.err.startswith(message)
        assert captured.err.count("\n") == 1
        assert not (tmp_path / "x").exists()

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["tune.musicxml"], "the following arguments are required: --out"),
            (["--out", "x"], "the following arguments are required: SCORE"),
            (["tune.musicxml", "--out", "x", "--rate", "fast"], "argument --rate: invalid int value: 'fast'"),
        ],
    )
    def test_command_with_wrong_options_is_refused_in_one_line(self, command, capsys, words, message):
        with pytest.raises(SystemExit) as left:
            main(words)
        assert left.value.code == 2
        end = "; python -m continuo.performance --help lists the options\n"
        assert capsys.readouterr().err == f"python -m continuo.performance: {message}{end}"

    def test_command_help_names_every_option(self, command, capsys):
        with pytest.raises(SystemExit) as left:
            main(["--help"])
        assert left.value.code == 0
        words = " ".join(capsys.readouterr().out.split())
        assert words.startswith("usage: python -m continuo.performance [-h] --out DIR [--midi] [--notes] [--wav]")
        for line in (
            "Perform scores: write each as MIDI and audio.", "SCORE MusicXML or MIDI file", "--rate HZ sample rate",
            "--out DIR folder for", "--midi write MIDI", "--notes write NAME.notes.json",
            "--wav write audio", "--picture also write NAME.png",
            "--soundfont FILE SoundFont to play", "--mono write one channel", "--json print one",
        ):  # fmt: skip
            assert line in words

    def test_command_lists_the_notes_in_order_of_onset(self, command, tmp_path):
        status, _ = command("tune.musicxml", "--notes", "--json")[:2]
        assert status == 0
        (listed,) = tmp_path.rglob("tune.notes.json")
        notes = json.loads(listed.read_text())
        expected = perform(next(tmp_path.rglob("tune.musicxml"))).notes
        assert notes == sorted([n.onset_s, n.pitch, n.duration_s, n.program, n.velocity, n.is_drum] for n in expected)
        assert not list(tmp_path.rglob("tune.mid"))

    def test_command_plays_the_given_soundfont(self, command, monkeypatch):
        given = []
        monkeypatch.setattr("continuo.performance.find_soundfont", lambda path: path)
        monkeypatch.setattr(
            "continuo.performance.render",
            lambda performance, rate, *, soundfont, stereo: given.append(soundfont) or np.zeros((2, 8000), np.float32),
        )
        assert command("tune.musicxml", "--wav", "--soundfont", "mine.sf2")[0] == 0
        assert given == [Path("mine.sf2")]
