"""Files that hold scores: what is read, what is refused, and the command that performs them."""

import io
import json
import zipfile

import pytest
from notation import FIRST, PART, close, lengths, note, score

from continuo.midi import check_bounds
from continuo.notes import Note, Performance
from continuo.performance import main, perform
from continuo.synth import write_midi


class TestFiles:
    @pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "iso-8859-1"])
    def test_encodings(self, heard, encoding):
        xml = f'<?xml version="1.0" encoding="{encoding}"?>' + score(note("C4", 4)).replace("Piano", "Flügel")
        close(heard(xml.encode(encoding)), (0, 60))

    def test_utf8_that_says_utf16(self, heard):
        close(
            heard("<?xml version='1.0' encoding='UTF-16'?>" + score(note("C4", 4)).replace("Piano", "Flügel")), (0, 60)
        )

    def test_timewise(self, heard):
        measure = f'<measure number="1"><part id="P1">{FIRST.format(qpm=60)}{note("C4", 4)}</part></measure>'
        close(heard(f"<score-timewise><part-list>{PART}</part-list>{measure}</score-timewise>"), (0, 60))

    def test_mxl_with_a_stray_member_and_the_container_last(self, heard):
        container = "<container><rootfiles><rootfile full-path='in/song.xml'/></rootfiles></container>"
        packed = _zip({"a.xml": "<other/>", "in/song.xml": score(note("C4", 4)), "META-INF/container.xml": container})
        close(heard(packed, "song.mxl"), (0, 60))

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
    def test_refused_in_one_line(self, heard, content, reason):
        with pytest.raises(ValueError) as caught:
            heard(content)
        assert reason in str(caught.value)
        assert "\n" not in str(caught.value)
        assert "song.musicxml" in str(caught.value)

    def test_zip_bomb_and_oversize_are_refused(self, heard, monkeypatch):
        monkeypatch.setattr("continuo.score.MAX_XML_BYTES", 1000)
        with pytest.raises(ValueError, match="unpacks to more than"):
            heard(_zip({"song.xml": " " * 2000}), "song.mxl")
        monkeypatch.setattr("continuo.score.MAX_FILE_BYTES", 10)
        with pytest.raises(ValueError, match="larger than"):
            heard(score(note("C4", 4)))

    def test_second_reading_comes_from_the_cache(self, tmp_path, monkeypatch):
        monkeypatch.setenv("CONTINUO_CACHE", str(tmp_path / "cache"))
        path = tmp_path / "song.musicxml"
        path.write_text(score(note("C4", 4)))
        first = perform(path)
        monkeypatch.setattr("continuo.performance.parse_score", lambda data: pytest.fail("parsed again"))
        assert perform(path) == first

    def test_midi_tempo_map_pedal_and_bend(self, tmp_path):
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
    def test_cut_midi_is_refused_before_symusic_reads_beyond_its_end(self, tmp_path):
        notes = tuple(Note(k / 4, 0.25, 60 + k % 12, 80, 0, False) for k in range(200))
        write_midi(Performance(notes, 50.0), tmp_path / "whole.mid")
        data = (tmp_path / "whole.mid").read_bytes()
        check_bounds(data)
        for length in range(0, len(data), 7):
            with pytest.raises(ValueError, match="MIDI"):
                check_bounds(data[:length])
        for event in (
            b"\x00\x90\x3c",
            b"\x00\xff\x51\x02\x07\xa1",
            b"\x00\xff\x03\x7fx",
            b"\x00\x3c\x40",
            b"\x81\x82\x83\x84",
        ):
            with pytest.raises(ValueError, match="MIDI"):
                check_bounds(b"MThd\0\0\0\6\0\0\0\1\1\xe0MTrk" + len(event).to_bytes(4) + event)

    def test_no_score_of_a_run_is_overwritten(self, tmp_path, capsys):
        (tmp_path / "a.musicxml").write_text(score(note("C4", 4)))
        write_midi(perform(tmp_path / "a.musicxml"), tmp_path / "a.mid")
        before = (tmp_path / "a.mid").read_bytes()
        scores = [str(tmp_path / "a.musicxml"), str(tmp_path / "a.mid")]
        assert main([*scores, "--out", str(tmp_path), "--midi"]) == 2
        assert "would overwrite a score" in capsys.readouterr().err
        assert (tmp_path / "a.mid").read_bytes() == before

    def test_a_score_of_rests_is_silence_and_says_so(self, tmp_path, capsys):
        (tmp_path / "rest.musicxml").write_text(score(note("R", 4)))
        assert main([str(tmp_path / "rest.musicxml"), "--out", str(tmp_path / "out"), "--rate", "8000"]) == 0
        assert "there is no note: silence" in capsys.readouterr().out
        assert perform(tmp_path / "rest.musicxml").seconds == 4.0
        assert (tmp_path / "out" / "rest.wav").stat().st_size >= 4 * 8000 * 4

    def test_one_bad_file_does_not_stop_the_others(self, tmp_path, capsys, monkeypatch):
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
