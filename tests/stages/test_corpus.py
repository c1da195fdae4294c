"""The corpus: files that are found and skipped, the cache, and the split into training and validation."""

import os
import resource
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from conftest import RATE_HZ, ROOT, melody
from hypothesis import example, given
from hypothesis import strategies as st

import corpus
from continuo.audio.files import MADE_BY_A_MODEL, TRUNCATED, decode_blocks, write_wav
from continuo.audio.piece import Piece, check_audible
from continuo.audio.samples import StoredSamples
from continuo.model.metadata import CodecSection, CorpusSection
from continuo.score.performance import perform
from continuo.system import cache
from continuo.system.progress import Display
from dataset import AudioDataset
from featurizer import CodecFeaturizer
from web import preview


def section(path, **keys) -> CorpusSection:
    return CorpusSection(path=str(path), sample_rate_hz=RATE_HZ, **keys)


def test_A01_load_finds_every_audio_file_and_reports_every_skip(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for number, name in enumerate(["a.WAV", "deep/b.Flac", "deep/er/c.ogg", "d.AIFF", "e.Mp3"]):
        kind = name.rsplit(".", 1)[1].lower()
        soundfile.write(tmp_path / name, melody(number, rate_hz=22050), 22050, format=kind)
    (tmp_path / "notes.txt").write_text("not music")
    (tmp_path / "cover.m4a").write_bytes(b"x")
    (tmp_path / "broken.ogg").write_bytes(b"OggS nothing")
    soundfile.write(tmp_path / "silence.wav", np.zeros(RATE_HZ * 2), RATE_HZ)
    soundfile.write(tmp_path / "blip.wav", np.ones(50), RATE_HZ)
    soundfile.write(tmp_path / "nan.wav", np.full(RATE_HZ, np.nan), RATE_HZ, subtype="FLOAT")
    loaded = corpus.load(section(tmp_path))
    assert [piece.id for piece in loaded.pieces] == ["a.WAV", "d.AIFF", "deep/b.Flac", "deep/er/c.ogg", "e.Mp3"]
    reasons = dict(loaded.skipped)
    assert "cannot be decoded" in reasons["broken.ogg"]
    assert "silent" in reasons["silence.wav"]
    assert "too short" in reasons["blip.wav"]
    assert "not numbers" in reasons["nan.wav"]
    assert "convert it" in reasons["cover.m4a"]
    assert reasons["1 file"] == ".txt: neither audio nor a score"
    (tmp_path / "more.txt").write_text("not music")
    found = corpus.load(section(tmp_path, exclude=("blip", "nan", "silence")))
    assert dict(found.skipped)["3 files"] == "filtered out by corpus.include or corpus.exclude"
    assert found.left_out == 3 + 2 + len(["broken.ogg", "cover.m4a"])


def test_main_file_that_is_refused_is_not_reported_as_skipped_too(tmp_path, capsys):
    (tmp_path / "text.wav").write_text("no sound")
    assert corpus.main([str(tmp_path / "text.wav")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_A01_load_gives_mono_at_the_rate_of_the_model(tmp_path):
    tone = 0.3 * np.sin(2 * np.pi * 500 * np.arange(48000) / 48000)
    soundfile.write(tmp_path / "tone.wav", np.stack([tone, tone, 0 * tone], axis=1), 48000)
    (piece,) = corpus.load(section(tmp_path)).pieces
    assert np.asarray(piece.samples).dtype == np.float32
    assert len(piece.samples) == RATE_HZ
    middle = np.asarray(piece.samples[2000:6000])
    expected = 0.2 * np.sin(2 * np.pi * 500 * np.arange(2000, 6000) / RATE_HZ)
    np.testing.assert_allclose(middle, expected, atol=2e-3)


def test_load_include_and_exclude_are_unicode_patterns(tmp_path):
    for number, name in enumerate(["Ελλάδα.wav", "Sonata.wav", "Sonata (live).wav"]):
        soundfile.write(tmp_path / name, melody(number), RATE_HZ)
    names = lambda **keys: [p.id for p in corpus.load(section(tmp_path, **keys)).pieces]  # noqa: E731
    assert names(include=(r"\p{Greek}",)) == ["Ελλάδα.wav"]
    assert names(exclude=(r"\(live\)", r"^\p{Greek}")) == ["Sonata.wav"]
    with pytest.raises(ValueError, match=r"corpus\.include: '\(' is not a regular expression"):
        names(include=("(",))


def test_load_reports_what_is_not_a_file(tmp_path):
    soundfile.write(tmp_path / "a.wav", melody(0), RATE_HZ)
    (tmp_path / "gone.wav").symlink_to(tmp_path / "nowhere.wav")
    (tmp_path / "away").symlink_to(tmp_path.parent)
    os.mkfifo(tmp_path / "pipe.wav")
    assert dict(corpus.load(section(tmp_path)).skipped) == {
        "away": "a link to a folder is not followed",
        "gone.wav": "a link that leads nowhere",
        "pipe.wav": "neither a file nor a folder",
    }


def test_load_equal_content_is_kept_once(tmp_path):
    soundfile.write(tmp_path / "a.wav", melody(0), RATE_HZ)
    (tmp_path / "copy.wav").write_bytes((tmp_path / "a.wav").read_bytes())
    loaded = corpus.load(section(tmp_path))
    assert len(loaded.pieces) == 1
    assert loaded.skipped == (("copy.wav", "the same content as a.wav"),)


def test_check_audible_finds_nan_anywhere():
    audio = np.full(3 * 2**20, 0.1, np.float32)
    for place in (0, 2**20 + 5, len(audio) - 1):
        bad = audio.copy()
        bad[place] = np.nan
        with pytest.raises(ValueError, match="not numbers"):
            check_audible(bad, RATE_HZ, min_samples=10, source="it")
    check_audible(audio, RATE_HZ, min_samples=10, source="it")


@pytest.mark.parametrize("rate_hz", [44100, 48000])
def test_load_in_stereo_keeps_left_and_right_apart(tmp_path, rate_hz, monkeypatch):
    """Decoded, cached, resampled, transposed and cut, each channel equals a mono file of it."""
    monkeypatch.setattr("continuo.audio.files.BLOCK_SAMPLES", 20_000)
    monkeypatch.setattr("continuo.audio.resampling.BLOCK_SAMPLES", 9000)
    monkeypatch.setenv("CONTINUO_CACHE", str(tmp_path / "cache"))
    sides = [melody(number, rate_hz=rate_hz) for number in (1, 2)]
    soundfile.write(tmp_path / "both.wav", np.stack(sides, axis=1), rate_hz, subtype="FLOAT")
    for name, side in zip(("left.wav", "right.wav"), sides, strict=True):
        soundfile.write(tmp_path / name, side, rate_hz, subtype="FLOAT")
    load = lambda name: corpus.load_prompt(tmp_path / name, section("unused", channels=2))  # noqa: E731
    both, left, right = load("both.wav"), load("left.wav"), load("right.wav")
    assert [piece.channels for piece in (both, left, right)] == [2, 1, 1]
    assert len({len(piece.samples) for piece in (both, left, right)}) == 1
    for change in (lambda p: p, lambda p: p.transposed(3), lambda p: p.excerpt(500, 9000, "x").transposed(-2)):
        stereo, one, other = change(both), change(left), change(right)
        heard = stereo.read_channels(-50, len(stereo.samples) + 50) / stereo.gain
        parts = [side.read(-50, len(side.samples) + 50) / side.gain for side in (one, other)]
        np.testing.assert_allclose(heard, np.stack(parts, axis=1), atol=1e-6)
        np.testing.assert_allclose(stereo.read(0, 300), stereo.read_channels(0, 300).mean(axis=1), atol=1e-7)
    (piece,) = corpus.load(section(tmp_path / "both.wav", channels=2)).pieces
    assert piece.channels == 2
    assert piece.loudness_db == pytest.approx(both.loudness_db, abs=1e-9)


def test_load_equal_channels_are_stored_as_mono(tmp_path, monkeypatch):
    soundfile.write(tmp_path / "a.wav", np.stack([melody(1)] * 2, axis=1), RATE_HZ)
    one, two = (corpus.load(section(tmp_path, channels=channels)).pieces[0] for channels in (1, 2))
    assert (one.channels, two.channels) == (1, 1)
    assert one.key != two.key == corpus.load(section(tmp_path, channels=2)).pieces[0].key
    assert one.key == cache.key_of(tmp_path / "a.wav", "audio", RATE_HZ, corpus.AUDIO_VERSION)  # as before stereo
    np.testing.assert_array_equal(one.samples, two.samples)


@pytest.mark.parametrize("balance", [0.5, 1.0])
def test_load_in_stereo_renders_scores_in_stereo(monkeypatch, balance):
    """A score whose channels are equal is stored as mono."""
    score, asked = ROOT / "examples" / "hymn.musicxml", []

    def render(performance, rate, *, soundfont, stereo):
        asked.append(stereo)
        return np.stack([melody(1), np.float32(balance) * melody(1)]) if stereo else melody(1)

    monkeypatch.setattr(corpus.synth, "render", render)
    monkeypatch.setattr(corpus.synth, "VERSION", f"test {balance}")
    one, two = (corpus.load_prompt(score, section("unused", channels=c), ring_out=True) for c in (1, 2))
    assert asked == [False, True]
    np.testing.assert_array_equal(one.samples, melody(1))
    expected = melody(1) if balance == 1 else np.stack([melody(1), np.float32(0.5) * melody(1)], axis=1)
    np.testing.assert_array_equal(two.samples, expected)


@pytest.mark.parametrize("damage", [None, 4 * 501, 0])
def test_load_lost_stereo_cache_file_is_restored_while_in_use(tmp_path, monkeypatch, damage):
    monkeypatch.setenv("CONTINUO_CACHE", str(tmp_path / "cache"))
    soundfile.write(tmp_path / "a.wav", np.stack([melody(1), melody(2)], axis=1), RATE_HZ)
    (piece,) = corpus.load(section(tmp_path / "a.wav", channels=2)).pieces
    whole = np.array(piece.samples)
    (stored,) = (tmp_path / "cache").rglob("*.f32")
    stored.unlink() if damage is None else os.truncate(stored, damage)
    np.testing.assert_array_equal(piece.transposed(0).excerpt(700, 9000, "x").samples, whole[700:9000])
    assert stored.stat().st_size >= whole.nbytes


@pytest.mark.parametrize(
    ("make", "words"), [(None, "neither a folder"), ("empty", "no music found"), ("text", "no music found")]
)
def test_load_empty_corpus_is_refused(tmp_path, make, words):
    folder = tmp_path / "music"
    if make:
        folder.mkdir()
    if make == "text":
        (folder / "readme.txt").write_text("no music here")
    with pytest.raises(ValueError, match=words):
        corpus.load(section(folder))


def test_load_of_many_bad_files_names_three_and_counts_the_rest(tmp_path):
    for number in range(5):
        (tmp_path / f"{number}.wav").write_text("no music here")
    with pytest.raises(ValueError, match=r"0\.wav: .*2\.wav: .*; and 2 more$"):
        corpus.load(section(tmp_path))


def test_load_takes_the_second_run_from_the_cache_which_may_be_damaged_or_cleared(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CONTINUO_CACHE", str(tmp_path / "cache"))
    music = tmp_path / "music"
    music.mkdir()
    soundfile.write(music / "a.wav", melody(1), RATE_HZ)
    first = np.array(corpus.load(section(music)).pieces[0].samples)

    def refuse(*_):
        raise AssertionError("decoded again")

    with monkeypatch.context() as patch:
        patch.setattr(corpus, "decode_blocks", refuse)
        (piece,) = corpus.load(section(music)).pieces
        assert isinstance(piece.samples, StoredSamples)
        np.testing.assert_array_equal(piece.samples, first)
    (stored,) = (tmp_path / "cache").rglob("*.f32")
    stored.write_bytes(stored.read_bytes()[:100])
    np.testing.assert_array_equal(corpus.load(section(music)).pieces[0].samples, first)
    assert cache.size_bytes() > first.nbytes
    assert corpus.main(["--clear-cache"]) == 0
    assert "freed" in capsys.readouterr().out
    assert cache.size_bytes() == 0


def test_load_changed_file_is_decoded_again(tmp_path):
    soundfile.write(tmp_path / "a.wav", melody(1), RATE_HZ)
    before = np.array(corpus.load(section(tmp_path)).pieces[0].samples)
    soundfile.write(tmp_path / "a.wav", melody(2), RATE_HZ)
    after = np.array(corpus.load(section(tmp_path)).pieces[0].samples)
    assert not np.array_equal(before, after)


def test_load_changed_file_is_decoded_again_alone(tmp_path, monkeypatch):
    """Change one of four recordings and touch another: only the changed one is decoded."""
    for number in range(4):
        soundfile.write(tmp_path / f"{number}.wav", melody(number + 40), RATE_HZ)
    decoded = []

    def counting(path, rate_hz, channels):
        decoded.append(path.name)
        return decode_blocks(path, rate_hz, channels)

    monkeypatch.setattr(corpus, "decode_blocks", counting)
    before = corpus.load(section(tmp_path)).pieces
    assert sorted(decoded) == ["0.wav", "1.wav", "2.wav", "3.wav"]
    decoded.clear()
    soundfile.write(tmp_path / "2.wav", melody(50), RATE_HZ)
    os.utime(tmp_path / "1.wav", (1, 1))
    after = corpus.load(section(tmp_path)).pieces
    assert decoded == ["2.wav"]
    assert [a.key == b.key for a, b in zip(before, after, strict=True)] == [True, True, False, True]


def test_load_keeps_no_file_open(tmp_path):
    """A corpus of more pieces than the process may have files open is read and encoded."""
    for number in range(24):
        soundfile.write(tmp_path / f"{number}.wav", melody(number, seconds=0.6), RATE_HZ)
    corpus.load(section(tmp_path))  # so that what is imported and opened once is open already
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len([*Path("/dev/fd").iterdir()]) + 12, hard))
    try:
        pieces = corpus.load(section(tmp_path)).pieces
        featurizer = CodecFeaturizer(CodecSection(kind="codec", adaptation_steps=2), RATE_HZ)
        featurizer.fit(pieces, seed=0)
        dataset = AudioDataset(pieces, featurizer, window=16)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(dataset.pieces) == 24


@pytest.mark.parametrize("channels", [1, 2])
def test_stored_samples_slice_like_an_array(tmp_path, channels):
    """Slices of slices and slices beyond the ends equal those of an array; nothing is read before it is used."""
    array = np.arange(1000 * channels, dtype=np.float32).reshape([(1000,), (1000, 2)][channels - 1])
    (tmp_path / "a.f32").write_bytes(array.tobytes())
    stored = StoredSamples(tmp_path / "a.f32", channels=channels)
    for part in (slice(None), slice(10, 20), slice(-5, None), slice(990, 2000), slice(7, 3), slice(0, 0)):
        np.testing.assert_array_equal(np.asarray(stored[part]), array[part])
        assert len(stored[part]) == len(array[part])
    np.testing.assert_array_equal(np.square(stored[100:900][50:-700]), np.square(array[150:200]))
    later = stored[5:8]
    (tmp_path / "a.f32").write_bytes((array + 1).tobytes())
    np.testing.assert_array_equal(later, array[5:8] + 1)


def test_load_ctrl_c_in_a_long_file_ends_at_once_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("CONTINUO_CACHE", str(tmp_path / "cache"))
    (tmp_path / "music").mkdir()
    for number in range(40):
        soundfile.write(tmp_path / "music" / f"{number}.wav", melody(number, seconds=0.6), RATE_HZ)
    begun, pressed = threading.Event(), []

    def endless(path, rate_hz, channels):
        begun.set()
        for _ in range(600):  # a minute, then it would go on to the next file
            time.sleep(0.1)
            yield np.ones(RATE_HZ, np.float32)

    def interrupt():
        begun.wait(30)
        time.sleep(0.5)  # every worker is at it
        pressed.append(time.monotonic())
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    monkeypatch.setattr(corpus, "decode_blocks", endless)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        corpus.load(section(tmp_path / "music"))
    assert time.monotonic() - pressed[0] < 5
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


def test_split_is_by_piece_seeded_and_complete(music_folder):
    loaded = corpus.load(section(music_folder))
    train, held_out = loaded.split(0.25, seed=3)
    assert {p.id for p in train} | {p.id for p in held_out} == {p.id for p in loaded.pieces}
    assert not {p.id for p in train} & {p.id for p in held_out}
    assert len(held_out) == 1
    assert [p.id for p in loaded.split(0.25, seed=3)[1]] == [held_out[0].id]
    assert len({loaded.split(0.25, seed=s)[1][0].id for s in range(20)}) > 1


@given(
    lengths=st.lists(st.floats(0.5, 3600), min_size=corpus.FEW, max_size=40),
    fraction=st.floats(0.01, 0.5),
    seed=st.integers(0, 99),
)
@example(lengths=[3.0, 4.0] + [80.0] * 16, fraction=0.1, seed=0)
def test_split_of_very_different_lengths_holds_out_enough_music(lengths, fraction, seed):
    """The example once held out two pieces of a few seconds from eighteen, without a word."""
    pieces = [SimpleNamespace(id=str(number), seconds=length) for number, length in enumerate(lengths)]
    train, held_out = corpus.Corpus(tuple(pieces), ()).split(fraction, seed)
    assert sorted([*train, *held_out], key=lambda p: int(p.id)) == pieces
    assert train
    assert held_out
    wanted, held_s = fraction * sum(lengths), sum(piece.seconds for piece in held_out)
    assert held_s >= wanted / 2 or len(train) == 1
    longest = max(piece.seconds for piece in held_out)
    assert held_s <= max(sum(lengths) / 2, wanted * 3 / 2) + 1e-6 or longest <= min(piece.seconds for piece in train)


def test_split_of_a_few_long_pieces_holds_out_their_ends_and_trains_on_short_ones_whole():
    lengths = [600, 300, 80]
    pieces = [Piece(f"{n}", "", 10, np.arange(10 * s, dtype=np.float32), -20.0) for n, s in enumerate(lengths)]
    train, held_out = corpus.Corpus(tuple(pieces), ()).split(0.1, seed=0)
    assert [piece.id for piece in train] == ["0#beginning", "1#beginning", "2"]
    assert [piece.seconds for piece in train] == [540, 270, 80]
    assert [(piece.id, piece.seconds) for piece in held_out] == [("0#end", 60), ("1#end", 30)]
    assert np.array_equal(np.concatenate([train[0].samples, held_out[0].samples]), pieces[0].samples)


def test_split_of_few_pieces_most_of_them_short_is_by_piece():
    lengths = [130, 60, 60, 60]
    pieces = [Piece(f"{n}", "", 10, np.zeros(10 * s, np.float32), -20.0) for n, s in enumerate(lengths)]
    train, held_out = corpus.Corpus(tuple(pieces), ()).split(0.25, seed=0)
    assert sorted(piece.id for piece in [*train, *held_out]) == ["0", "1", "2", "3"]


def test_split_lone_recording_is_cut_in_time(tmp_path):
    soundfile.write(tmp_path / "only.wav", melody(0, seconds=10), RATE_HZ)
    loaded = corpus.load(section(tmp_path))
    (train,), (held_out,) = loaded.split(0.1, seed=0)
    assert len(train.samples) + len(held_out.samples) == len(loaded.pieces[0].samples)
    assert train.gain == held_out.gain == loaded.pieces[0].gain


def test_read_outside_a_piece_gives_silence():
    piece = Piece.from_samples(np.ones(10), RATE_HZ)
    read = piece.read(-3, 13) / piece.gain
    np.testing.assert_allclose(read, [0] * 3 + [1] * 10 + [0] * 3, rtol=1e-6)
    assert len(piece.read(20, 25)) == len(piece.read(-9, -4)) == 5
    assert not piece.read(20, 25).any()


def test_A11_load_embedded_chorales_needs_no_data():
    loaded = corpus.load(CorpusSection(sample_rate_hz=RATE_HZ, program=0, pieces=3), seed=1)
    assert len(loaded.pieces) == 3
    for piece in loaded.pieces:
        assert piece.id.startswith("bwv")
        assert 10 < piece.seconds < 300
        assert piece.loudness_db > -45
    other = corpus.load(CorpusSection(sample_rate_hz=RATE_HZ, program=0, pieces=3), seed=2)
    assert {p.id for p in other.pieces} != {p.id for p in loaded.pieces}


@pytest.mark.parametrize("channels", [1, 2])
def test_load_truncated_recording_is_used_and_reported(tmp_path, capsys, channels):
    for name, sound in (("whole.wav", melody(1)), ("cut.wav", melody(2))):
        soundfile.write(tmp_path / name, np.stack([sound, sound / 2][:channels], axis=1), RATE_HZ)
    content = (tmp_path / "cut.wav").read_bytes()
    (tmp_path / "cut.wav").write_bytes(content[: len(content) // 2])
    for _ in range(2):  # read, then from the cache
        cut, whole = corpus.load(section(tmp_path, channels=channels), display=Display()).pieces
        assert cut.channels == whole.channels == channels
        assert (cut.damage, cut.has_ending, whole.damage, whole.has_ending) == (TRUNCATED, False, "", True)
        assert cut.seconds == pytest.approx(whole.seconds / 2, rel=0.2)
        said = capsys.readouterr().err
        assert said.splitlines()[-1].startswith("cut.wav is truncated: its file holds less than its header declares")
        assert "whole.wav" not in said
    assert preview.read_preview(tmp_path / "cut.wav", tmp_path, 400)["warnings"] == [TRUNCATED]
    assert preview.read_preview(tmp_path / "whole.wav", tmp_path, 400)["warnings"] == []


def test_find_files_that_are_not_there_yet_are_named(tmp_path):
    soundfile.write(tmp_path / "here.wav", melody(1), RATE_HZ)
    (tmp_path / "deep").mkdir()
    for name in (".song.wav.icloud", "deep/.Score.MusicXML.icloud", "take.flac.part", ".hidden.wav", "notes.txt.part"):
        (tmp_path / name).write_bytes(b"bplist00")
    skipped = dict(corpus.load(section(tmp_path)).skipped)
    assert skipped.pop("1 file") == ".part: neither audio nor a score"
    assert skipped.pop("take.flac.part") == "its download is not complete"
    assert list(skipped) == [".song.wav.icloud", "deep/.Score.MusicXML.icloud"]
    assert set(skipped.values()) == {
        "not downloaded from iCloud: open it in Finder or Files, and start again when it is there"
    }
    for name in ("song.wav", ".song.wav.icloud"):
        with pytest.raises(ValueError, match="is not downloaded from iCloud"):
            corpus.load_prompt(tmp_path / name, section(tmp_path))


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("where", ["everywhere", "more and more"])
def test_load_prompt_with_an_offset_is_the_music_without_it(tmp_path, channels, where):
    music = 0.1 * np.stack([melody(1), melody(2)][:channels], axis=1)
    offset = np.linspace(0.3 if where == "everywhere" else 0, 0.3, len(music))[:, None]
    soundfile.write(tmp_path / "centered.wav", music, RATE_HZ, subtype="FLOAT")
    soundfile.write(tmp_path / "moved.wav", music + offset * [1, -0.5][:channels], RATE_HZ, subtype="FLOAT")
    made, moved = (
        corpus.load_prompt(tmp_path / f"{n}.wav", section(tmp_path, channels=channels)) for n in ("centered", "moved")
    )
    assert made.remarks == []
    assert moved.remarks == [f"lies {moved.offset:+.3f} off zero (a DC offset), which was removed from it"]
    assert moved.offset == pytest.approx(0.3, abs=0.03)
    assert moved.loudness_db == pytest.approx(made.loudness_db, abs=0.2)
    np.testing.assert_allclose(moved.samples, made.samples, atol=0.03)
    soundfile.write(tmp_path / "only.wav", np.full(RATE_HZ, 0.4), RATE_HZ)
    with pytest.raises(ValueError, match="without its DC offset it is silent"):
        corpus.load_prompt(tmp_path / "only.wav", section(tmp_path))


def test_load_of_channels_out_of_phase_is_their_sound(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.stack([melody(1), -0.99 * melody(1)], axis=1), RATE_HZ)
    soundfile.write(tmp_path / "b.wav", melody(1), RATE_HZ)
    out, usual = (corpus.load_prompt(tmp_path / name, section(tmp_path)) for name in ("a.wav", "b.wav"))
    np.testing.assert_allclose(out.samples, usual.samples, atol=1e-4)
    assert preview.read_preview(tmp_path / "a.wav", tmp_path, 400)["warnings"] == []


def test_load_audio_over_full_scale_is_reported(tmp_path, capsys):
    """Integers saved as floats lie far over full scale; a continuation at that level would clip."""
    soundfile.write(tmp_path / "loud.wav", melody(1) * 30_000, RATE_HZ, subtype="FLOAT")
    write_wav(tmp_path / "usual.wav", [melody(2)], RATE_HZ)
    loud, usual = corpus.load(section(tmp_path), display=Display()).pieces
    assert loud.loudness_db > 60
    assert usual.remarks == []
    said = capsys.readouterr().err
    assert f"loud.wav lies {loud.loudness_db:.0f} dB over full scale, and continuations will clip" in said
    assert "usual.wav" not in said


def test_load_mp3_without_sound_is_not_reported_as_missing(tmp_path):
    (tmp_path / "noise.mp3").write_bytes(np.random.default_rng(0).bytes(20_000))
    write_wav(tmp_path / "a.wav", [melody(2)], RATE_HZ)
    ((name, reason),) = corpus.load(section(tmp_path)).skipped
    assert name == "noise.mp3"
    assert "exist" not in reason
    assert "is it whole, and what its name says?" in reason


def test_load_skips_recordings_that_a_model_made(tmp_path):
    sound = melody(1)
    write_wav(tmp_path / "a.wav", [sound], RATE_HZ)
    write_wav(tmp_path / "a.continued.wav", [sound, sound], RATE_HZ, comment=MADE_BY_A_MODEL)
    (tmp_path / "model.runs").mkdir()
    (tmp_path / "model.runs" / "events").write_text("curves")
    found = corpus.load(section(tmp_path))
    assert [piece.id for piece in found.pieces] == ["a.wav"]
    assert found.skipped == (("a.continued.wav", "a model made it, and models learn from people's music"),)
    assert corpus.load_prompt(tmp_path / "a.continued.wav", section(tmp_path)).seconds == 2 * len(sound) / RATE_HZ


@pytest.mark.parametrize(("tail", "kept_s"), [("silence", 4.0), ("fade", 5.8), ("short", 4.9), ("none", 4.0)])
def test_load_prompt_ends_before_it_fades_or_falls_silent(tmp_path, tail, kept_s):
    """A fade of 80 dB in 6 s is 25 dB below the loudness after about 2 s."""
    noise = 0.2 * np.random.default_rng(0).standard_normal(10 * RATE_HZ).astype(np.float32)
    time = np.arange(len(noise)) / RATE_HZ
    gain = {
        "silence": np.where(time < 4, 1.0, 0.0),
        "fade": 10 ** (-np.maximum(0, time - 4) * 80 / 6 / 20),
        "short": np.where(time < 4, 1.0, 0.0)[: int(4.9 * RATE_HZ)],
        "none": np.ones(4 * RATE_HZ),
    }[tail]
    soundfile.write(tmp_path / "p.wav", noise[: len(gain)] * gain, RATE_HZ, subtype="FLOAT")
    piece = corpus.load_prompt(tmp_path / "p.wav", section(tmp_path))
    assert piece.seconds == pytest.approx(kept_s, abs=0.2 if tail == "fade" else 0.03)
    assert piece.faded_s == pytest.approx(len(gain) / RATE_HZ - piece.seconds, abs=1e-3)
    assert bool(piece.remarks) == (tail in ("silence", "fade"))
    assert corpus.load_prompt(tmp_path / "p.wav", section(tmp_path), ring_out=True).seconds == len(gain) / RATE_HZ


def test_load_prompt_performs_a_score_once_and_ends_with_its_last_bar(tmp_path, monkeypatch):
    """The length of the score comes from the cache with its samples; a second prompt performs nothing."""
    monkeypatch.setenv("CONTINUO_CACHE", str(tmp_path / "cache"))
    performed = []
    monkeypatch.setattr(corpus, "perform", lambda path: performed.append(path) or perform(path))
    score, seconds = ROOT / "examples" / "hymn.musicxml", perform(ROOT / "examples" / "hymn.musicxml").seconds
    prompts = [corpus.load_prompt(score, section("unused"), ring_out=ring_out) for ring_out in (False, False, True)]
    assert performed == [score]
    assert [len(prompt.samples) for prompt in prompts[:2]] == [round(seconds * RATE_HZ)] * 2
    assert len(prompts[2].samples) > len(prompts[0].samples)
