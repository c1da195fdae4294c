"""Test that files made to do harm are refused in one line or do none; `test_fuzz` tests random damage."""

import ast
import json
import os
import pickle
import re
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import soundfile
import torch
from conftest import RATE_HZ, ROOT, melody
from sandbox import CONNECTED, STARTED, UNPICKLED, WROTE, Outcome

import corpus
from continuo.audio.files import decode_blocks
from continuo.audio.resampling import MAX_TAPS, Resampler
from continuo.model import checkpoint, metadata
from continuo.score.musicxml import MAX_XML_BYTES, parse_score, parse_xml, unzip
from continuo.score.notes import DraftNote, hold_pedal
from continuo.score.soundfont import is_soundfont, repair
from continuo.system.int8 import SCALE
from continuo.system.text import MAX_LETTERS, one_line
from model_definition import build_model, model_size

NOTE = "<note><pitch><step>C</step><octave>4</octave></pitch><duration>1</duration><type>quarter</type></note>"
PARTS = '<part-list><score-part id="P1"><part-name>P</part-name></score-part></part-list>'


def score(bar: str, attributes: str = "<divisions>1</divisions>") -> str:
    """Return a score of one bar."""
    inside = f'<measure number="1"><attributes>{attributes}</attributes>{bar}</measure>'
    return f"<score-partwise>{PARTS}<part id='P1'>{inside}</part></score-partwise>"


def midi(track: bytes, division: int = 480) -> bytes:
    """Return a MIDI file of one track."""
    header = b"MThd" + (6).to_bytes(4) + (0).to_bytes(2) + (1).to_bytes(2) + division.to_bytes(2)
    return header + b"MTrk" + len(track).to_bytes(4) + track


@pytest.fixture
def refused(box, tmp_path):
    """Return a function that runs a script, asserts exit status 2 and one line, and returns the line."""

    def run(script: str, *argv: str | Path) -> str:
        outcome: Outcome = box.run(script, *argv, cwd=tmp_path)
        assert outcome.complaint(script) == ""
        assert outcome.status == 2, outcome.out
        return outcome.err.splitlines()[-1]

    return run


# --- scores -----------------------------------------------------------------------------------------------------------


def bomb(path: Path, inside: str = "score.xml", size: int = 2**30) -> None:
    """Write an archive whose member unpacks to `size` zeros: 1 MB on disk for 1 GB."""
    block = bytes(2**24)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open(inside, "w") as file:
        for _ in range(size // len(block)):
            file.write(block)


@pytest.mark.slow
def test_corpus_zip_bomb_is_refused(box, tmp_path, refused):
    bomb(tmp_path / "bomb.mxl")
    assert f"unpacks to more than {MAX_XML_BYTES >> 20} MiB" in refused("corpus", "bomb.mxl")


def test_parse_score_zip_with_a_false_size_is_refused(tmp_path):
    path = tmp_path / "lies.mxl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("score.xml", score(NOTE) + " " * 100_000)
    data = path.read_bytes()
    true = struct.pack("<I", len(score(NOTE)) + 100_000)
    assert data.count(true) == 2
    with pytest.raises(ValueError, match=r"not a readable \.mxl|ill-formed"):
        parse_score(data.replace(true, struct.pack("<I", 10)))


@pytest.mark.parametrize("name", ["../../escaped.musicxml", "/tmp/escaped.musicxml", "..\\escaped.musicxml"])
def test_corpus_zip_members_outside_the_folder_are_never_written(name, box, tmp_path):
    with zipfile.ZipFile(tmp_path / "song.mxl", "w") as archive:
        container = f'<container><rootfiles><rootfile full-path="{name}"/></rootfiles></container>'
        archive.writestr("META-INF/container.xml", container)
        archive.writestr(name, score(NOTE * 4))
    before = sorted(tmp_path.parent.rglob("*escaped*"))
    outcome = box.run("corpus", "song.mxl", cwd=tmp_path)  # the sandbox ends a process that writes elsewhere
    assert (outcome.complaint("corpus"), outcome.status) == ("", 0)
    assert sorted(tmp_path.parent.rglob("*escaped*")) == before


def test_unzip_container_naming_a_local_file_is_refused(tmp_path):
    path = tmp_path / "song.mxl"
    with zipfile.ZipFile(path, "w") as archive:
        container = '<container><rootfiles><rootfile full-path="/etc/passwd"/></rootfiles></container>'
        archive.writestr("META-INF/container.xml", container)
    with pytest.raises(ValueError, match="holds no MusicXML score"):
        unzip(path.read_bytes())


LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))


@pytest.mark.parametrize(
    "doctype",
    [
        f'<!DOCTYPE x [<!ENTITY l0 "ha">{LAUGHS}]>',
        '<!DOCTYPE x [<!ENTITY secret SYSTEM "file:///etc/passwd">]>',
        '<!DOCTYPE x [<!ENTITY % more SYSTEM "http://127.0.0.1:9/x.dtd"> %more;]>',
    ],
    ids=["billion laughs", "external", "parameter"],
)
def test_corpus_xml_entities_are_refused(doctype, refused, tmp_path):
    text = score(f"<direction><direction-type><words>&l9;&secret;</words></direction-type></direction>{NOTE}")
    (tmp_path / "x.musicxml").write_text(doctype + text)
    assert "entities are refused" in refused("corpus", "x.musicxml")


def test_corpus_external_dtd_is_never_fetched(box, tmp_path):
    (tmp_path / "x.musicxml").write_text('<!DOCTYPE score-partwise SYSTEM "http://127.0.0.1:9/x.dtd">' + score(NOTE))
    outcome = box.run("corpus", "x.musicxml", "--notes", cwd=tmp_path)  # the sandbox ends a process that connects
    assert (outcome.complaint("corpus"), outcome.status) == ("", 0)


@pytest.mark.slow
def test_corpus_ten_million_notes_are_refused(tmp_path, refused):
    head, tail = score("@").encode().split(b"@")
    with (
        zipfile.ZipFile(tmp_path / "x.mxl", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("x.xml", "w") as file,
    ):
        for part in (head, *[NOTE.encode() * 10_000] * 1000, tail):
            file.write(part)
    assert "unpacks to more than" in refused("corpus", "x.mxl")


def test_parse_xml_too_many_elements_are_refused(monkeypatch):
    monkeypatch.setattr("continuo.score.musicxml.MAX_ELEMENTS", 100)
    with pytest.raises(ValueError, match="more than 100 elements; split the score"):
        parse_xml(score(NOTE * 50).encode())


COUNTED = {
    "fifths": score(NOTE, "<key><fifths>1000000</fifths></key>"),
    "beats": score(NOTE, "<time><beats>1000000</beats><beat-type>4</beat-type></time>"),
    "staves": score(NOTE, "<staves>1000000</staves>"),
    "chromatic": score(NOTE, "<transpose><chromatic>1000000</chromatic></transpose>"),
    "octave": score(NOTE.replace("<octave>4", "<octave>1000000")),
    "alter": score(NOTE.replace("</step>", "</step><alter>99999</alter>")),
    "dots": score(NOTE.replace("</type>", "</type>" + "<dot/>" * 5000)),
    "quarter notes": score(NOTE.replace(">1<", ">1000000000<")),
    "divisions": score(NOTE, "<divisions>1e-300</divisions>"),
    "ending": score(f'{NOTE}<barline><ending number="1-1000000000" type="start"/></barline>'),
    "repeat": score(f'{NOTE}<barline><repeat direction="backward" times="1000000000"/></barline>'),
}


@pytest.mark.parametrize("reason", COUNTED)
def test_parse_score_huge_numbers_are_refused(reason):
    with pytest.raises(ValueError, match=reason):
        parse_score(COUNTED[reason].encode())


def test_corpus_score_lasting_days_is_refused(refused, tmp_path):
    slow = '<direction><direction-type><words>x</words></direction-type><sound tempo="5"/></direction>'
    (tmp_path / "x.musicxml").write_text(score(slow + NOTE.replace(">1<", ">9000<")))
    assert "it would last" in refused("corpus", "x.musicxml")


def test_hold_pedal_many_repeated_notes_take_no_time():
    """An algorithm of quadratic time took minutes for the largest number of notes that a file may hold."""
    count = 100_000
    notes = [DraftNote(k * 0.01, k * 0.01 + 0.005, 60.0, 80, 0, False) for k in range(count)]
    hold_pedal(notes, [(k * 0.01 + 0.004, k * 0.01 + 0.009) for k in range(count)])
    assert [round(s.end_s - s.onset_s, 6) for s in notes[:3]] == [0.009, 0.009, 0.009]


# --- MIDI -------------------------------------------------------------------------------------------------------------

STRUCK = b"\x00\x90\x3c\x50\x83\x60\x80\x3c\x00"


@pytest.mark.parametrize("flags", [(), ("--notes",)], ids=["sound", "notes"])
def test_corpus_midi_extreme_tempos_do_no_harm(flags, box, tmp_path):
    for name, tempo in {"zero": b"\0\0\0", "one": b"\0\0\1", "slowest": b"\xff\xff\xff"}.items():
        (tmp_path / f"{name}.mid").write_bytes(midi(b"\x00\xff\x51\x03" + tempo + STRUCK + b"\x00\xff\x2f\x00"))
        assert box.run("corpus", f"{name}.mid", *flags, cwd=tmp_path).complaint("corpus") == ""


@pytest.mark.parametrize("division", [0, 0x8000, 0xE700, 0xFFFF])
def test_corpus_midi_invalid_division_is_refused(division, refused, tmp_path):
    (tmp_path / "x.mid").write_bytes(midi(STRUCK, division))
    assert "how long a tick lasts" in refused("corpus", "x.mid", "--notes")


def test_corpus_midi_times_out_of_range_are_refused(refused, tmp_path):
    (tmp_path / "x.mid").write_bytes(midi((b"\xff\xff\xff\x7f" + STRUCK[1:]) * 20))
    assert "beyond what can be counted" in refused("corpus", "x.mid")


def test_corpus_midi_hours_of_silence_are_refused(refused, tmp_path):
    (tmp_path / "x.mid").write_bytes(midi(STRUCK + b"\xc0\x80\x80\x00" + STRUCK[1:]))
    assert "it would last" in refused("corpus", "x.mid")


@pytest.mark.slow
def test_corpus_longest_midi_stays_within_memory(box, tmp_path):
    """Put just under three hours between two notes: the silence is not stored twice."""
    (tmp_path / "x.mid").write_bytes(midi(STRUCK + b"\x84\xf8\x80\x00" + STRUCK[1:]))
    outcome = box.run("corpus", "x.mid", cwd=tmp_path)
    assert (outcome.complaint("corpus"), outcome.status) == ("", 0)
    assert float(outcome.out.split()[0]) > 10_000


@pytest.mark.slow
def test_corpus_midi_too_many_notes_are_refused(refused, tmp_path):
    (tmp_path / "x.mid").write_bytes(midi(b"\x00\x90\x3c\x50" + b"\x01\x3c\x00\x00\x3c\x50" * 600_000))
    assert "more than 500000 notes; split the score" in refused("corpus", "x.mid", "--notes")


# --- audio ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2**31, 2**32 - 1])
def test_corpus_wav_header_with_a_false_size_is_read_to_its_end(size, box, tmp_path):
    path = tmp_path / "x.wav"
    soundfile.write(path, melody(1), RATE_HZ)
    data = bytearray(path.read_bytes())
    data[4:8] = data[40:44] = struct.pack("<I", size)
    path.write_bytes(data)
    outcome = box.run("corpus", "x.wav", cwd=tmp_path)
    assert (outcome.complaint("corpus"), outcome.status) == ("", 0)
    assert float(outcome.out.split()[0]) < 3.5


def test_corpus_rf64_header_with_a_false_size_does_no_harm(box, tmp_path):
    path = tmp_path / "x.rf64"
    soundfile.write(path, melody(1), RATE_HZ, format="RF64", subtype="PCM_16")
    data = bytearray(path.read_bytes())
    at = data.index(b"ds64") + 8
    data[at : at + 16] = struct.pack("<QQ", 2**42, 2**42)
    path.write_bytes(data)
    assert box.run("corpus", "x.rf64", cwd=tmp_path).complaint("corpus") == ""


@pytest.mark.parametrize("rate_hz", [44_101, 767_999, 1_009, 65_521])
def test_resampler_rates_without_a_common_factor_need_little_memory(rate_hz):
    """Exact filters for 24,000 phases took 4 GB at 44,101 Hz; now the ratio of rates is approximated to 2e-6."""
    resampler = Resampler(rate_hz, 24_000)
    assert resampler.unit * resampler.made <= MAX_TAPS
    assert resampler.made / resampler.unit == pytest.approx(24_000 / rate_hz, rel=2e-6)
    sine = np.sin(2 * np.pi * 300 * np.arange(rate_hz) / rate_hz).astype(np.float32)
    spectrum = np.abs(np.fft.rfft(resampler(sine)[:24_000]))
    assert abs(int(spectrum.argmax()) - 300) <= 1


def test_decode_blocks_recording_too_long_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("continuo.audio.files.MAX_SECONDS", 2.0)
    soundfile.write(tmp_path / "x.flac", np.zeros(3 * RATE_HZ), RATE_HZ)
    with pytest.raises(ValueError, match="it lasts more than 0 hours: cut it into parts"):
        list(decode_blocks(tmp_path / "x.flac", RATE_HZ))


# --- metadata ---------------------------------------------------------------------------------------------------------


def preset(**changes: object) -> dict:
    content = json.loads((ROOT / "models" / "codec-lstm.json").read_text())
    for key, value in changes.items():
        section, _, name = key.partition("__")
        content[section] = content[section] | {name: value} if name else value
    return content


@pytest.mark.parametrize(
    "state", ["../m.safetensors", "/tmp/m.safetensors", "a/../../m.safetensors", "m.py", "m\0.safetensors", ".", ""]
)
def test_predict_state_path_outside_the_folder_is_refused(state, refused, tmp_path):
    (tmp_path / "model.json").write_text(json.dumps(preset(state=state)))
    assert "state" in refused("predict", "--meta", "model.json", "--prompt", "none", "--frames", "1", "--quiet")


@pytest.mark.parametrize("script", ["train", "predict"])
@pytest.mark.parametrize("link", ["file", "folder"])
def test_commands_state_linked_out_of_the_folder_is_refused(script, link, refused, tmp_path):
    away = tmp_path / "away"
    away.mkdir()
    (away / "m.safetensors").write_bytes(b"precious")
    inside = tmp_path / "inside"
    inside.mkdir()
    if link == "file":
        (inside / "m.safetensors").symlink_to(away / "m.safetensors")
    else:
        (inside / "sub").symlink_to(away)
    state = "m.safetensors" if link == "file" else "sub/m.safetensors"
    (inside / "model.json").write_text(json.dumps(preset(state=state, corpus__path=str(tmp_path))))
    argv = ["--prompt", "none", "--frames", "1"] if script == "predict" else ["--steps", "1"]
    said = refused(script, "--meta", "inside/model.json", *argv, "--quiet")
    assert "a link that leads out of the folder of model.json: put the file itself there" in said
    assert (away / "m.safetensors").read_bytes() == b"precious"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 100_000, "not valid JSON"),
        ('{"a":' * 990 + "1" + "}" * 990, "model.json"),
        (f'{{"training": {{"seed": {"9" * 5000}}}}}', "not valid JSON"),
        (json.dumps({f"key{n}": n for n in range(50_000)}), "4"),
        (" " * 2**21, "larger than"),
        (json.dumps(preset(training__seed=10**4000)), "training.seed"),
        (json.dumps(preset(state="s" * 100_000 + ".safetensors")), "state"),
        ('{"\\u001b[2J\\u202e": 1}', "unknown key"),
        ("\ufeff{}", "not valid JSON"),
        ("null", "must hold a JSON object"),
    ],
    ids=["open lists", "nested", "digits", "many keys", "blanks", "seed", "long", "escapes", "mark", "null"],
)
def test_predict_hostile_metadata_is_refused_in_one_line(text, reason, refused, tmp_path):
    (tmp_path / "model.json").write_text(text)
    assert reason in refused("predict", "--meta", "model.json", "--prompt", "none", "--frames", "1", "--quiet")


def test_train_deeply_nested_override_is_refused(refused):
    assert "hidden" in refused("train", "--set", f"architecture.hidden={'[' * 50_000}", "--quiet")


HUGE = {
    "mlp": {"kind": "mlp", "hidden": 8192, "window": 4096},
    "conv": {"kind": "conv", "hidden": 8192, "kernel": 64, "layers": 12},
    "transformer": {"kind": "transformer", "hidden": 8192, "layers": 48, "context": 16384, "heads": 128},
}


def test_train_huge_hidden_width_is_refused(refused, tmp_path):
    (tmp_path / "model.json").write_text(json.dumps(preset(architecture__hidden=10**9)))
    said = refused("train", "--meta", "model.json", "--quiet")
    assert "architecture.hidden" in said
    assert "8192" in said


@pytest.mark.parametrize("architecture", HUGE)
def test_train_model_beyond_memory_is_refused_before_reading(architecture, refused, tmp_path, monkeypatch):
    whole = {"head_width": 8192} | HUGE[architecture]
    content = preset(architecture=whole, training__batch_size=65536, training__window=65536)
    (tmp_path / "model.json").write_text(json.dumps(content))
    said = refused("train", "--meta", "model.json", "--corpus", ROOT / "examples", "--quiet")
    assert re.search(r"training this model takes [\d.]+ [TP]B or more, and this machine has .*: lower archi", said)


@pytest.mark.parametrize("kind", ["lstm", "conv", "mlp", "transformer"])
def test_model_size_equals_the_size_of_the_built_model(kind):
    from continuo.model.stream import StreamSpec

    section = metadata.validated(preset(architecture={"kind": kind, "hidden": 256, "head_width": 192}), {}, source="x")
    for spec in (
        StreamSpec(60.0, (512, 512), vectors=torch.randn(2, 512, 8)),
        StreamSpec(60.0, (700, 49, 49)),
        StreamSpec(60.0, (90,) * 4, ranks=torch.arange(90)),
        StreamSpec(60.0, features=300, mean=torch.zeros(300), deviation=torch.ones(300)),
    ):
        model = build_model(section.architecture, spec)
        weights, state_values = model_size(section.architecture, spec)
        assert weights == sum(p.numel() for p in model.parameters())
        assert 3 * state_values == sum(tensor.numel() for tensor in model.initial_state(3))


# --- states -----------------------------------------------------------------------------------------------------------


class Trap:
    """An object that creates a file when it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch UNPICKLED",)


@pytest.mark.parametrize("form", ["pickle", "torch"])
def test_predict_pickle_as_a_state_is_refused(form, refused, trained, tmp_path):
    state = tmp_path / "model.safetensors"
    if form == "pickle":
        state.write_bytes(pickle.dumps(Trap()))
    else:
        torch.save({"metadata": Trap()}, state)
    (tmp_path / "model.json").write_bytes(trained.read_bytes())
    said = refused("predict", "--meta", "model.json", "--prompt", "none", "--frames", "1", "--quiet")
    assert "is damaged or not a state" in said
    assert not list(tmp_path.glob("UNPICKLED"))


def rewritten(trained: Path, folder: Path, change) -> Path:
    """Copy the trained model, apply `change(tensors, facts)` to its state, and return the metadata file."""
    tensors, facts = checkpoint.load(trained.with_suffix(".safetensors"))
    change(tensors, facts)
    checkpoint.save(folder / "model.safetensors", tensors, facts)
    (folder / "model.json").write_bytes(trained.read_bytes())
    return folder / "model.json"


def set_tensor(name: str, value: torch.Tensor):
    return lambda tensors, facts: tensors.update({name: value})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda tensors, facts: facts.update(progress=None), "progress"),
        (lambda tensors, facts: facts["progress"].update(step=-1), "progress.step"),
        (lambda tensors, facts: facts["progress"].update(history=[[1]]), "progress.history"),
        (lambda tensors, facts: facts.update(metadata=[]), "metadata"),
        (lambda tensors, facts: facts["metadata"].update(corpus=3), "metadata.corpus"),
        (lambda tensors, facts: facts.update(precision="load"), "precision"),
        (set_tensor("featurizer.shipped", torch.zeros(16, dtype=torch.int64)), "not those of codec.safetensors"),
        (set_tensor("featurizer.passes", torch.zeros(2)), "lacks what its model needs"),
        (set_tensor("featurizer.channels", torch.tensor(-1)), "-1 channels"),
        (set_tensor("featurizer.network.ln.bias", torch.zeros(1)), "lacks what its model needs"),
        (set_tensor("featurizer.network.ln.bias", torch.full((288,), torch.nan)), "not finite"),
        (set_tensor("featurizer.x", torch.zeros(3, dtype=torch.bfloat16)), "no state holds torch.bfloat16"),
        (lambda tensors, facts: [tensors.pop(n) for n in [*tensors] if "backbone" in n or "vectors" in n],
         "weights, where the model"),
    ],
)  # fmt: skip
def test_predict_state_with_wrong_contents_is_refused(change, reason, refused, trained, tmp_path):
    meta = rewritten(trained, tmp_path, change)
    assert reason in refused("predict", "--meta", meta, "--prompt", "none", "--frames", "1", "--quiet")


def test_load_int8_scales_broadcasting_to_terabytes_are_refused(tmp_path):
    path = tmp_path / "m.safetensors"
    tensors = {"a": torch.ones(1, 10**6, dtype=torch.int8), f"a{SCALE}": torch.ones(10**6, 1)}
    safetensors.torch.save_file(tensors, path, {"format": checkpoint.FORMAT, "facts": "{}"})
    with pytest.raises(ValueError, match="a and its scale do not fit"):
        checkpoint.load(path)


def described(text: bytes, data: bytes = b"") -> bytes:
    return len(text).to_bytes(8, "little") + text + data


LIES = {
    "nothing": b"",
    "long": (2**63).to_bytes(8, "little"),
    "open": described(b"{" * 100),
    "nested": described(b"[" * 100_000),
    "terabytes": described(b'{"a":{"dtype":"F32","shape":[1000000,1000000],"data_offsets":[0,4000000000000]}}'),
    "overflow": described(b'{"a":{"dtype":"F32","shape":[18446744073709551615,2],"data_offsets":[0,8]}}', bytes(8)),
    "backwards": described(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}', bytes(8)),
    "other facts": described(b'{"__metadata__":{"format":"continuo-1","facts":"[[["}}'),
}


@pytest.mark.parametrize("lie", LIES)
def test_load_state_with_a_false_header_is_refused(lie, tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(LIES[lie])
    with pytest.raises(ValueError, match="is damaged or not a state"):
        checkpoint.load(path)


def test_predict_state_beyond_memory_is_refused(refused, trained, tmp_path):
    (tmp_path / "model.json").write_bytes(trained.read_bytes())
    with open(tmp_path / "model.safetensors", "wb") as file:
        file.truncate(checkpoint.machine_memory_bytes())  # a sparse file, which takes no room on disk
    said = refused("predict", "--meta", "model.json", "--prompt", "none", "--frames", "1", "--quiet")
    assert "states up to" in said


# --- SoundFonts -------------------------------------------------------------------------------------------------------


def riff(*chunks: bytes) -> bytes:
    body = b"sfbk" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def part(name: bytes, body: bytes, size: int | None = None) -> bytes:
    return name + struct.pack("<I", len(body) if size is None else size) + body + bytes(len(body) % 2)


def listed(name: bytes, body: bytes, size: int | None = None) -> bytes:
    return part(b"LIST", name + body, size)


def font(instruments: bytes, bags: bytes, generators: bytes, headers: bytes, samples: bytes = bytes(100)) -> bytes:
    tables = part(b"inst", instruments) + part(b"ibag", bags) + part(b"igen", generators) + part(b"shdr", headers)
    return riff(listed(b"INFO", b""), listed(b"sdta", part(b"smpl", samples)), listed(b"pdta", tables))


def instrument(zone: int) -> bytes:
    return bytes(20) + struct.pack("<H", zone)


def header(start: int, end: int) -> bytes:
    return struct.pack("<20sIIIIIBbHH", b"s", start, end, start, end, 44100, 60, 0, 0, 1)


OVER_EACH_OTHER = b"".join(header(k % 7, 10**6 - k) for k in range(60_000))


@pytest.mark.parametrize(
    "data",
    [
        riff(),
        riff(listed(b"pdta", b"", 2**32 - 1)),
        riff(listed(b"INFO", b"", 0), listed(b"sdta", b"", 3), listed(b"pdta", b"", 1)),
        font(b"".join(instrument(z) for z in [0, 65535] * 50_000), bytes(4), bytes(4), header(0, 40) * 2),
        font(instrument(0) + instrument(60_000), bytes(4) * 60_001, bytes(4), header(0, 40) * 2),
        font(instrument(0) * 2, bytes(4), bytes(4), OVER_EACH_OTHER, bytes(2 * 10**6)),
    ],
    ids=["empty", "endless list", "short lists", "zones back and forth", "zones", "samples over each other"],
)  # fmt: skip
def test_repair_hostile_soundfont_raises_at_once(data):
    with pytest.raises((struct.error, IndexError, KeyError, ValueError)):
        repair(data)


def test_train_damaged_soundfont_is_refused_in_one_line(box, tmp_path):
    (tmp_path / "x.sf2").write_bytes(riff(listed(b"pdta", b"", 2**32 - 1)))
    (tmp_path / "tune.mid").write_bytes(midi(STRUCK))
    content = preset(corpus__path=str(tmp_path / "tune.mid"), corpus__soundfont=str(tmp_path / "x.sf2"))
    (tmp_path / "model.json").write_text(json.dumps(content))
    outcome = box.run("train", "--meta", "model.json", "--prepare-only", "--quiet", cwd=tmp_path)
    assert outcome.status == 2
    assert re.search(r"the SoundFont .*x.sf2 is damaged \(\w+\): get it again", outcome.err.splitlines()[-1])


# --- folders, links, names --------------------------------------------------------------------------------------------


def test_find_follows_links_to_files_and_reports_links_to_folders(tmp_path):
    elsewhere, music = tmp_path / "elsewhere", tmp_path / "music"
    elsewhere.mkdir()
    music.mkdir()
    soundfile.write(elsewhere / "song.wav", melody(1), RATE_HZ)
    soundfile.write(music / "tune.wav", melody(2), RATE_HZ)
    (music / "a.wav").symlink_to(elsewhere / "song.wav")
    (music / "b").symlink_to(elsewhere)
    (music / "loop.wav").symlink_to(music / "loop.wav")
    (music / "round").symlink_to(music)
    sources, skipped = corpus.find(metadata.CorpusSection(path=str(music)))
    assert [source.id for source in sources] == ["a.wav", "tune.wav"]
    assert dict(skipped) == {
        "b": "a link to a folder is not followed",
        "loop.wav": "a link that leads nowhere",
        "round": "a link to a folder is not followed",
    }
    (tmp_path / "linked").symlink_to(music)  # the corpus itself may be a link
    assert len(corpus.find(metadata.CorpusSection(path=str(tmp_path / "linked")))[0]) == 2


@pytest.mark.parametrize("pattern", [r"(a+)+$", r"(a|aa)+$", "(" * 900, "(?R)", "a{99999999999999}"])
def test_train_endless_include_pattern_is_refused(pattern, box, tmp_path):
    music = tmp_path / "music"
    music.mkdir()
    soundfile.write(music / ("a" * 80 + "!.wav"), melody(1), RATE_HZ)
    content = preset(corpus__path=str(music), corpus__include=[pattern])
    (tmp_path / "model.json").write_text(json.dumps(content))
    outcome = box.run("train", "--meta", "model.json", "--prepare-only", "--quiet", cwd=tmp_path)
    assert outcome.status == 2
    assert outcome.complaint("train") == ""


def test_matches_slow_pattern_is_refused_by_name(monkeypatch):
    class Slow:
        def search(self, text, timeout):
            assert timeout == corpus.MATCH_TIMEOUT_S
            raise TimeoutError

    with pytest.raises(ValueError, match=r"corpus\.include takes more than 1 s on the name 'x\.wav'"):
        corpus._matches([Slow()], "x.wav", "include")


NAMES = [
    "new\nline.wav", "\x1b[31mred\x1b[0m.wav", "\x1b]0;title\x07.wav", "back\rward.wav", "\u202egnp.exe.wav",
    "zero\u200bwidth.wav", "[bold]x.wav", "$x^{$.wav", "<b>&amp;.wav", "a'; rm \".wav", "日本語🎼.wav",
    "-n.wav", "é" * 80 + ".wav", "\u2028line.wav", "tab\tbed.wav", "%s%n{0}.wav",
]  # fmt: skip


def test_corpus_hostile_names_are_shown_escaped(box, tmp_path):
    music = tmp_path / "music"
    music.mkdir()
    for number, name in enumerate(NAMES):
        soundfile.write(music / name, melody(number, 0.7), RATE_HZ)
    (music / os.fsdecode(b"invalid\xff.wav")).write_bytes((music / NAMES[0]).read_bytes()[:-2])
    (music / "broken\x1b[2J.wav").write_bytes(b"no sound")
    (music / "other\x1b[2J.\x1b[31m").write_bytes(b"")
    outcome = box.run("corpus", "music", cwd=tmp_path)
    assert (outcome.complaint("corpus"), outcome.status) == ("", 0)
    assert outcome.out.count("\n") == len(NAMES) + 2
    for shown in ("new\\nline.wav", "\\x1b[31mred", "\\u202egnp", "invalid\\udcff.wav", "日本語🎼.wav"):
        assert shown in outcome.out
    assert "broken\\x1b[2J.wav" in outcome.err


@pytest.mark.slow
@pytest.mark.parametrize("name", [NAMES[0], NAMES[1], "$x^{$.wav", "日本語🎼.wav", os.fsdecode(b"invalid\xff.wav")])
def test_predict_prompt_with_a_hostile_name_is_continued(name, box, trained, tmp_path):
    soundfile.write(tmp_path / "x.wav", melody(1), RATE_HZ)
    (tmp_path / "x.wav").rename(tmp_path / name)
    argv = ["--meta", trained, f"--prompt={name}", "--frames", "2", "--json"]
    outcome = box.run("predict", *argv, cwd=tmp_path, pictures=True)
    assert (outcome.complaint("predict"), outcome.status) == ("", 0)
    made = json.loads(outcome.out.splitlines()[-1])
    assert (tmp_path / made["out"]).is_file()
    assert (tmp_path / made["picture"]).stat().st_size > 5000


def test_predict_refusal_shows_hostile_names_escaped(refused):
    said = refused("predict", "--prompt", "no\x1b[31m\nsuch\u202e.wav", "--frames", "1", "--quiet")
    assert "no\\x1b[31m" in said
    assert "\\u202e" in said


def test_one_line_long_text_is_shortened():
    line = one_line("x\n" + "y" * 10**6 + "\x1b end")
    assert len(line) < MAX_LETTERS + 50
    assert line.startswith("x y")
    assert line.endswith("\\x1b end")


# --- pipes, devices ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "argv",
    [
        ("predict", "--frames", "1", "--quiet", "--prompt", "pipe.wav"),
        ("predict", "--frames", "1", "--quiet", "--prompt", "pipe.mid"),
        ("predict", "--frames", "1", "--quiet", "--prompt", "zero.wav"),
        ("predict", "--frames", "1", "--quiet", "--prompt", "zero.mid"),
        ("predict", "--frames", "1", "--quiet", "--prompt", "none", "--meta", "pipe.json"),
        ("predict", "--frames", "1", "--quiet", "--prompt", "none", "--meta", "zero.json"),
        ("predict", "--frames", "1", "--quiet", "--prompt", "loop.wav"),
        ("train", "--quiet", "--from", "pipe.safetensors", "--meta", "new.json"),
        ("corpus", "pipe.wav"),
        ("corpus", "zero.wav"),
    ],
    ids=lambda argv: " ".join(argv),
)
def test_commands_pipes_and_devices_are_refused(argv, refused, tmp_path):
    for ending in ("wav", "mid", "json", "safetensors"):
        os.mkfifo(tmp_path / f"pipe.{ending}")
        (tmp_path / f"zero.{ending}").symlink_to("/dev/zero")
    (tmp_path / "loop.wav").symlink_to("loop.wav")
    assert refused(*argv)


def test_corpus_pipes_and_devices_are_skipped(box, tmp_path):
    music = tmp_path / "music"
    music.mkdir()
    os.mkfifo(music / "pipe.wav")
    (music / "zero.flac").symlink_to("/dev/zero")
    soundfile.write(music / "tune.wav", melody(2), RATE_HZ)
    outcome = box.run("corpus", "music", cwd=tmp_path)
    assert (outcome.complaint("corpus"), outcome.status) == ("", 0)
    assert "1 piece, 0.1 minutes; 2 skipped" in outcome.out
    assert "skipped pipe.wav: neither a file nor a folder" in outcome.err
    assert not is_soundfont(music / "pipe.wav")


# --- nothing is unpickled ---------------------------------------------------------------------------------------------

FORBIDDEN = re.compile(
    r"^(c?pickle|dill|shelve|marshal|joblib|cloudpickle)(\.|$)|^torch\.(load|hub)|^(eval|exec|__import__)$|^yaml\.(load|unsafe)"
    r"|^np\.load$|^numpy\.load$|^os\.(system|popen|exec)|\.read_pickle$|^converter\.(parse|thaw)|freezeThaw"
)
ALLOWED = {("continuo/system/cache.py", "np.load")}  # with allow_pickle=False, as the next test asserts


def calls(path: Path):
    """Yield the dotted name and the node of everything that a file calls or imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node
        elif isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((f"{node.module}.{alias.name}", node) for alias in node.names)


FOLDERS = ("continuo", "evaluation", "web", "benchmarks", "examples")
SOURCES = [*ROOT.glob("*.py"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_source_unpickles_and_evaluates_nothing(path):
    place = path.relative_to(ROOT).as_posix()
    found = {name for name, _ in calls(path) if FORBIDDEN.search(name)}
    assert {(place, name) for name in found} <= ALLOWED


def test_cache_arrays_are_read_without_pickles():
    (call,) = [node for name, node in calls(ROOT / "continuo" / "system" / "cache.py") if name == "np.load"]
    assert {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}["allow_pickle"] == "False"


def test_calls_forbidden_ones_are_found(tmp_path):
    code = "import pickle\nimport torch\nfrom joblib import load\ntorch.load('x')\neval('1')\n"
    (tmp_path / "x.py").write_text(code)
    found = [name for name, _ in calls(tmp_path / "x.py") if FORBIDDEN.search(name)]
    assert sorted(found) == ["eval", "joblib.load", "pickle", "torch.load"]


@pytest.mark.slow
def test_load_embedded_corpus_unpickles_nothing(tmp_path):
    """music21 keeps pickles of parsed scores. An audit hook shows that neither these nor others are read."""
    code = """
import sys
found = []
sys.addaudithook(lambda event, what: found.append(what) if event == "pickle.find_class" else None)
import corpus, continuo.model.metadata as md
section = md.CorpusSection(path="music21:bach", pieces=2)
assert len(corpus.load_songs(section).pieces) == 2
assert len(corpus.load(section).pieces) == 2
assert not found, found
"""
    environment = os.environ | {"CONTINUO_CACHE": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


DEEDS = {
    "pickle.loads(pickle.dumps(Path))": UNPICKLED,
    "os.system('true')": STARTED,
    "subprocess.run(['true'])": STARTED,
    "socket.create_connection(('127.0.0.1', 9))": CONNECTED,
    "open('elsewhere', 'w')": WROTE,
    "os.open('elsewhere', os.O_WRONLY | os.O_CREAT)": WROTE,
}


@pytest.mark.parametrize("deed", DEEDS)
def test_sandbox_forbidden_deed_ends_the_process(deed, tmp_path):
    code = "import os, pickle, socket, subprocess, sys\nfrom pathlib import Path\nimport sandbox\n"
    code += f"sys.addaudithook(sandbox._watch(['/nowhere']))\n{deed}"
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tests" / "helpers")}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, timeout=60)
    assert done.returncode == DEEDS[deed]
    assert not list(tmp_path.iterdir())
