"""Run the scripts on thousands of damaged files: each file is used or refused in one line.

A run fails if it prints a traceback, takes over 20 s of processor time or 2 GB, exits with a status other than 0 or 2,
unpickles, or writes a file elsewhere (`sandbox`). CONTINUO_THOROUGH=1 runs all cases instead of a twentieth;
CONTINUO_FUZZ_SEED=7 runs other cases. An input that fails is kept, and its path is printed.
"""

import io
import json
import os
import shutil
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

import file_mutations
import numpy as np
import pytest
import soundfile
from conftest import RATE_HZ, ROOT, SHARED, SMALL_CODEC, melody, set_flags
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sandbox import Sandbox

THOROUGH = os.environ.get("CONTINUO_THOROUGH") == "1"
SEED = int(os.environ.get("CONTINUO_FUZZ_SEED", "0"))
KEPT = Path(tempfile.gettempdir()) / "continuo-fuzz"

pytestmark = pytest.mark.slow


def cases(full: int) -> int:
    """Return the number of cases to run, of `full`."""
    return full if THOROUGH else full // 20


TINY = {"hidden": 16, "head_width": 16, "layers": 1}
NOTES = ("notes-lstm", "roll-conv", "remi-transformer")


@pytest.fixture(scope="session")
def models(box, tmp_path_factory) -> dict[str, Path]:
    """Return metadata files of tiny models, one of sound and three of notes; their corpora lie next to them."""
    found = {}
    for preset in ("codec-lstm", *NOTES):
        folder = tmp_path_factory.mktemp(preset)
        music = folder / "music"
        music.mkdir()
        small = SMALL_CODEC if preset == "codec-lstm" else {"training.batch_size": 2, "training.window": 8}
        for number in range(2):
            if preset == "codec-lstm":
                soundfile.write(music / f"{number}.wav", melody(number), RATE_HZ)
            else:
                shutil.copy(ROOT / "examples" / ("hymn.musicxml", "dance.musicxml")[number], music)
        flags = set_flags(small | {f"architecture.{key}": value for key, value in TINY.items()} | HEADS.get(preset, {}))
        found[preset] = folder / "model.json"
        made = box.run(
            "train", "--meta", found[preset], "--preset", preset, "--corpus", music, "--steps", "2", "--device", "cpu",
            "--quiet", *flags, cwd=folder,
        )  # fmt: skip
        assert made.status == 0, made.err
    return found


HEADS = {"remi-transformer": {"architecture.heads": 2}}


class Cases:
    """Run cases, keep the inputs of those that fail, and count."""

    def __init__(self, box: Sandbox, name: str, folder: Path) -> None:
        self.box, self.name, self.folder = box, name, folder
        self.failures: list[str] = []
        self.counts: Counter[str] = Counter()
        self.slowest = self.largest = self.seconds = 0.0
        self.number = 0

    def try_(self, files: dict[str, bytes], script: str, *argv: str | Path, keep: bool = False) -> str:
        """Run a script in a folder with these files; return the complaint, or "" if there is none."""
        self.number += 1
        place = self.folder / f"{self.number}"
        place.mkdir()
        for name, data in files.items():
            (place / name).write_bytes(data)
        outcome = self.box.run(script, *argv, cwd=place)
        complaint = outcome.complaint(script)
        self.counts["used" if outcome.status == 0 else "refused" if outcome.status == 2 else "failed"] += 1
        self.slowest, self.seconds = max(self.slowest, outcome.seconds), self.seconds + outcome.seconds
        self.largest = max(self.largest, outcome.peak_bytes)
        if complaint:
            kept = KEPT / f"{self.name}-{SEED}-{self.number}"
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(place, kept, symlinks=True)
            words = " ".join(map(str, argv))
            self.failures.append(f"case {self.number}, kept in {kept}: {script}.py {words}\n{complaint}")
            print(self.failures[-1], flush=True)
        shutil.rmtree(place)
        return complaint

    def conclude(self) -> None:
        counts = ", ".join(f"{count} {name}" for name, count in sorted(self.counts.items()))
        used = f"{self.seconds:.0f} s of computing, slowest {self.slowest:.1f} s, largest {self.largest / 1e9:.2f} GB"
        print(f"{self.name}, seed {SEED}: {self.number} cases, {counts}; {used}", flush=True)
        assert not self.failures, f"{len(self.failures)} of {self.number} failed:\n" + "\n".join(self.failures[:8])


def seeded(name: str, number: int) -> Random:
    """Return the generator of one case, which depends on the seed but not on the other cases."""
    return Random(zlib.crc32(f"{name} {SEED} {number}".encode()))


def originals(*patterns: str, shared: str) -> list[Path]:
    """Return the real files that exist in the project and in the shared data."""
    ours = sorted(
        path for pattern in patterns for folder in ("tests/data", "examples") for path in (ROOT / folder).glob(pattern)
    )
    theirs = (
        sorted(path for pattern in patterns for path in (SHARED / shared).rglob(pattern)) if SHARED.is_dir() else []
    )
    return ours + [path for path in theirs if 0 < path.stat().st_size < 400_000]


def try_as_music(cases: Cases, rng: Random, models: dict[str, Path], name: str, data: bytes) -> None:
    """Use one file as a prompt or as a corpus, as sound or as notes."""
    kind = rng.choices(range(4), [4, 3, 1, 2])[0]
    if kind == 0:
        cases.try_({name: data}, "corpus", name)
    elif kind == 1:
        cases.try_({name: data}, "corpus", name, "--notes", "--text")
    elif kind == 2:
        cases.try_(
            {name: data}, "predict", "--meta", models["codec-lstm"], "--prompt", name, "--frames", "2", "--quiet"
        )
    else:
        meta = models[rng.choice(NOTES)]
        cases.try_({name: data}, "predict", "--meta", meta, "--prompt", name, "--frames", "4", "--quiet", "--json")


def test_commands_damaged_musicxml_is_used_or_refused(box, models, tmp_path):
    tried, files = Cases(box, "musicxml", tmp_path), originals("*.musicxml", "*.xml", "*.mxl", shared="musicxml")
    for number in range(cases(1700)):
        rng = seeded("musicxml", number)
        path = rng.choice(files)
        data = file_mutations.mutate_score(path.read_bytes(), rng)
        try_as_music(tried, rng, models, f"x{path.suffix if rng.random() < 0.9 else '.mxl'}", data)
    tried.conclude()


def test_commands_damaged_midi_is_used_or_refused(box, models, tmp_path):
    tried, files = Cases(box, "midi", tmp_path), originals("*.mid", shared="midi")
    ours = box.run("predict", "--meta", models["notes-lstm"], "--prompt", ROOT / "examples" / "hymn.musicxml",
                   "--frames", "4", "--out", "hymn.wav", cwd=tmp_path)  # fmt: skip
    assert ours.status == 0, ours.err
    files.append(tmp_path / "hymn.mid")
    for number in range(cases(1700)):
        rng = seeded("midi", number)
        path = rng.choice(files)
        try_as_music(tried, rng, models, "x.mid", file_mutations.mutate_midi(path.read_bytes(), rng))
    tried.conclude()


FORMATS = {
    ".wav": [("WAV", "PCM_16"), ("WAV", "FLOAT"), ("WAV", "IMA_ADPCM"), ("WAV", "MS_ADPCM"), ("WAV", "GSM610")],
    ".wave": [("WAVEX", "PCM_24")],
    ".flac": [("FLAC", "PCM_16")],
    ".ogg": [("OGG", "VORBIS")],
    ".opus": [("OGG", "OPUS")],
    ".mp3": [("MP3", "MPEG_LAYER_III")],
    ".aiff": [("AIFF", "PCM_16"), ("AIFF", "FLOAT")],
    ".au": [("AU", "PCM_16"), ("AU", "ULAW")],
    ".caf": [("CAF", "PCM_16"), ("CAF", "ALAC_16")],
    ".w64": [("W64", "PCM_16")],
    ".rf64": [("RF64", "PCM_16")],
}  # fmt: skip


def recordings() -> list[tuple[str, bytes]]:
    """Return endings and contents: a melody in every format, and the beginnings of real recordings."""
    found = []
    for ending, kinds in FORMATS.items():
        for form, subtype in kinds:
            buffer = io.BytesIO()
            sound = np.stack([melody(1, 1.0, 16000), melody(2, 1.0, 16000)], axis=1)
            soundfile.write(buffer, sound[:, :1] if subtype == "GSM610" else sound, 16000, format=form, subtype=subtype)
            found.append((ending, buffer.getvalue()))
    files = sorted((SHARED / "audio").rglob("*.ogg")) if SHARED.is_dir() else []
    return found + [(path.suffix, path.read_bytes()[:60_000]) for path in files]


def test_commands_damaged_audio_is_used_or_refused(box, models, tmp_path):
    tried, files = Cases(box, "audio", tmp_path), recordings()
    for number in range(cases(1000)):
        rng = seeded("audio", number)
        ending, data = rng.choice(files)
        name = f"x{ending if rng.random() < 0.9 else rng.choice(sorted(FORMATS))}"
        data = file_mutations.mutate_bytes(data, rng, head=rng.choice([48, 200, 4000]))
        if rng.random() < 0.7:
            tried.try_({name: data}, "corpus", name)
        else:
            meta = models["codec-lstm"]
            tried.try_({name: data}, "predict", "--meta", meta, "--prompt", name, "--frames", "2", "--quiet")
    tried.conclude()


def test_commands_damaged_metadata_is_used_or_refused(box, models, tmp_path):
    tried, metas = Cases(box, "metadata", tmp_path), [path.read_bytes() for path in models.values()]
    hymn = (ROOT / "examples" / "hymn.musicxml").read_bytes()
    for number in range(cases(400)):
        rng = seeded("metadata", number)
        which = rng.choice(sorted(models))
        files = {"model.json": file_mutations.mutate_metadata(models[which].read_bytes(), rng), "hymn.musicxml": hymn}
        if rng.random() < 0.5:
            files["model.safetensors"] = models[which].with_suffix(".safetensors").read_bytes()
            tried.try_(
                files, "predict", "--prompt", "hymn.musicxml", "--meta", "model.json", "--frames", "2", "--quiet"
            )
        else:
            tried.try_(files, "train", "--meta", "model.json", "--prepare-only", "--device", "cpu", "--quiet")
    assert metas == [path.read_bytes() for path in models.values()]
    tried.conclude()


def test_commands_damaged_states_are_used_or_refused(box, models, tmp_path):
    tried = Cases(box, "state", tmp_path)
    hymn = (ROOT / "examples" / "hymn.musicxml").read_bytes()
    for number in range(cases(500)):
        rng = seeded("state", number)
        meta = models[rng.choice(sorted(models))]
        data = file_mutations.mutate_state(meta.with_suffix(".safetensors").read_bytes(), rng)
        files = {"model.json": meta.read_bytes(), "model.safetensors": data, "hymn.musicxml": hymn}
        kind = rng.randrange(5)
        if kind < 3:
            tried.try_(
                files, "predict", "--prompt", "hymn.musicxml", "--meta", "model.json", "--frames", "2", "--quiet"
            )
        elif kind == 3:  # one step more, so that the restored values are also used
            tried.try_(files, "train", "--meta", "model.json", "--steps", "3", "--device", "cpu", "--quiet")
        else:
            begin = ("--from", "model.safetensors", "--corpus", meta.parent / "music", "--device", "cpu", "--quiet")
            few = ("--steps", "1", "--set", "representation.adaptation_steps=2")
            tried.try_(files, "train", "--meta", "new.json", *begin, *few)
    tried.conclude()


# --- input generated from grammars ------------------------------------------------------------------------------------

NUMBERS = st.one_of(st.integers(-3, 300).map(str), st.sampled_from(file_mutations.HOSTILE_NUMBERS))
SIMPLE = [
    "duration", "divisions", "fifths", "beats", "beat-type", "octave", "alter", "voice", "staff", "staves", "step",
    "type", "actual-notes", "normal-notes", "tremolo", "multiple-rest", "measure-repeat", "string", "fret", "dot",
    "diatonic", "chromatic", "octave-change", "midi-program", "midi-channel", "per-minute", "grace", "chord", "rest",
    "tie", "cue", "staff-lines", "root-step", "kind", "degree-value", "beat-unit", "instrument", "display-octave",
]  # fmt: skip
HOLDERS = [
    "note", "attributes", "key", "time", "pitch", "transpose", "direction", "direction-type", "sound", "barline",
    "repeat", "ending", "notations", "ornaments", "technical", "articulations", "time-modification", "tuplet", "slur",
    "metronome", "wedge", "pedal", "octave-shift", "dynamics", "harmony", "degree", "forward", "backup", "unpitched",
    "measure-style", "trill-mark", "wavy-line", "mordent", "turn", "glissando", "arpeggiate", "fermata", "words",
    "segno", "coda", "clef", "tied", "figured-bass", "lyric", "print", "part", "score-part", "measure",
]  # fmt: skip
KEYS = [
    "number",
    "type",
    "tempo",
    "times",
    "size",
    "id",
    "dacapo",
    "direction",
    "dynamics",
    "spread",
    "measure",
    "implicit",
]
WORDS = st.one_of(
    NUMBERS, st.sampled_from(["C", "quarter", "start", "stop", "up", "backward", "forward", "1", "yes", "mf"])
)


def element(tag: st.SearchStrategy[str], inside: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    attributes = st.dictionaries(st.sampled_from(KEYS), WORDS, max_size=2).map(
        lambda pairs: "".join(f' {key}="{value}"' for key, value in pairs.items())
    )
    return st.tuples(tag, attributes, inside).map(lambda t: f"<{t[0]}{t[1]}>{t[2]}</{t[0]}>")


TREES = st.recursive(
    element(st.sampled_from(SIMPLE), WORDS),
    lambda inner: element(st.sampled_from(HOLDERS), st.lists(inner, max_size=6).map("".join)),
    max_leaves=25,
)
NOTE = "<note><pitch><step>C</step><octave>4</octave></pitch><duration>1</duration><type>quarter</type></note>"
ATTRIBUTES = "<attributes><divisions>1</divisions><time><beats>4</beats><beat-type>4</beat-type></time></attributes>"


def score(trees: list[list[str]]) -> bytes:
    """Return a score that is valid except for the trees among its notes."""
    bars = "".join(
        f'<measure number="{n}">{ATTRIBUTES if n == 1 else ""}{NOTE}{"".join(bar)}{NOTE}</measure>'
        for n, bar in enumerate(trees, start=1)
    )
    parts = '<part-list><score-part id="P1"><part-name>P</part-name></score-part></part-list>'
    return f'<score-partwise version="4.0">{parts}<part id="P1">{bars}</part></score-partwise>'.encode()


def generated(examples: int) -> Callable:
    """Return settings with the same examples in every run and no deadline; the sandbox limits the time."""
    return settings(
        max_examples=cases(examples),
        derandomize=True,
        database=None,
        deadline=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )


def test_commands_generated_scores_are_used_or_refused(box, models, tmp_path):
    tried = Cases(box, "grammar", tmp_path)

    @generated(300)
    @given(st.lists(st.lists(TREES, max_size=5), min_size=1, max_size=4), st.integers(0, 2**32))
    def run(trees, seed):
        try_as_music(tried, Random(seed), models, "x.musicxml", score(trees))

    run()
    tried.conclude()


EVENTS = st.tuples(
    st.sampled_from([b"\x00", b"\x01", b"\x60", b"\x83\x60", b"\xff\x7f", b"\xff\xff\xff\x7f"]),
    st.one_of(
        st.tuples(st.integers(0x80, 0xBF), st.integers(0, 127), st.integers(0, 127)).map(bytes),
        st.tuples(st.integers(0xC0, 0xDF), st.integers(0, 127)).map(bytes),
        st.tuples(st.integers(0xE0, 0xEF), st.integers(0, 127), st.integers(0, 127)).map(bytes),
        st.binary(min_size=3, max_size=3).map(lambda b: b"\xff\x51\x03" + b),
        st.binary(min_size=4, max_size=4).map(lambda b: b"\xff\x58\x04" + b),
        st.tuples(st.integers(0, 127), st.binary(max_size=9)).map(lambda t: b"\xff" + bytes([t[0], len(t[1])]) + t[1]),
        st.binary(max_size=9).map(lambda b: b"\xf0" + bytes([len(b)]) + b),
    ),
).map(b"".join)


def test_commands_generated_midi_is_used_or_refused(box, models, tmp_path):
    tried = Cases(box, "events", tmp_path)

    @generated(300)
    @given(
        st.lists(st.lists(EVENTS, max_size=40).map(b"".join), min_size=1, max_size=4),
        st.sampled_from([0, 1, 2, 3]),
        st.one_of(st.integers(1, 960), st.integers(0, 65535)),
        st.integers(0, 2**32),
    )
    def run(tracks, kind, division, seed):
        header = b"MThd" + (6).to_bytes(4) + kind.to_bytes(2) + len(tracks).to_bytes(2) + division.to_bytes(2)
        struck = b"\x00\x90\x3c\x50\x60\x80\x3c\x00"
        chunks = [b"MTrk" + len(struck + t).to_bytes(4) + struck + t for t in tracks]
        try_as_music(tried, Random(seed), models, "x.mid", header + b"".join(chunks))

    run()
    tried.conclude()


JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20),
        st.sampled_from(file_mutations.HOSTILE_JSON),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
    max_leaves=20,
)  # fmt: skip


def test_train_generated_metadata_is_used_or_refused(box, models, tmp_path):
    tried = Cases(box, "json", tmp_path)
    whole = {name: json.loads(path.read_text()) for name, path in models.items()}
    keys = sorted({(section, key) for meta in whole.values() for section, part in meta.items() if isinstance(part, dict)
                   for key in part})  # fmt: skip

    @generated(100)
    @given(st.sampled_from(sorted(whole)), st.dictionaries(st.sampled_from(keys), JSON, min_size=1, max_size=3))
    def read(which, changes):
        meta = json.loads(json.dumps(whole[which]))
        for (section, key), value in changes.items():
            meta[section][key] = value
        files = {"model.json": json.dumps(meta).encode()}
        tried.try_(files, "train", "--meta", "model.json", "--prepare-only", "--device", "cpu", "--quiet")

    read()
    tried.conclude()
