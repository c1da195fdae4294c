"""Decoding, resampling and loudness against whole-file oracles."""

import io
import itertools
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from hypothesis import given, settings
from hypothesis import strategies as st

from continuo.audio.files import (
    TRUNCATED,
    UNCLOSED,
    damage,
    decode_blocks,
    made_by_a_model,
    soft_limit,
    stream_wav,
    with_channels,
    write_wav,
)
from continuo.audio.loudness import audible_range, baseline, block_powers, loudness_db
from continuo.audio.mixdown import mix_blocks
from continuo.audio.piece import Piece
from continuo.audio.resampling import Resampler, resample_blocks
from continuo.audio.samples import ResampledView, mix_to_mono


def read_audio(path: Path, sample_rate_hz: int, channels: int = 1) -> np.ndarray:
    """Return a whole file, float32 `(N,)`, or `(N, 2)` in stereo."""
    return np.concatenate([*decode_blocks(path, sample_rate_hz, channels)])


def noise(frames: int, channels: int) -> np.ndarray:
    """Return float32 noise `(frames, channels)`, different in each channel."""
    return 0.1 * np.random.default_rng(0).standard_normal((frames, channels), np.float32)


def sine(hz: float, seconds: float, rate_hz: int, amplitude: float = 0.5) -> np.ndarray:
    return (amplitude * np.sin(2 * np.pi * hz * np.arange(int(seconds * rate_hz)) / rate_hz)).astype(np.float32)


@pytest.mark.parametrize(
    ("from_hz", "to_hz"), [(44100, 24000), (48000, 24000), (8000, 24000), (96000, 22050), (11025, 16000)]
)
def test_resample_blocks_any_blocks_equal_resampling_the_whole(from_hz, to_hz, monkeypatch):
    monkeypatch.setattr("continuo.audio.resampling.BLOCK_SAMPLES", 5000)
    audio = np.random.default_rng(0).standard_normal(30_011).astype(np.float32)
    blocks = np.split(audio, [1, 700, 701, 9000, 21_000])
    whole = torchaudio.transforms.Resample(from_hz, to_hz)(torch.from_numpy(audio)).numpy()
    ours = np.concatenate([*resample_blocks(blocks, from_hz, to_hz)])
    assert ours.shape == whole.shape
    np.testing.assert_allclose(ours, whole, atol=2e-6)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("ratio", [(44, 37), (49, 55), (1, 2)])
def test_resampled_view_slice_equals_slice_of_the_whole(ratio, channels):
    audio = noise(20_011, channels) if channels == 2 else noise(20_011, 1)[:, 0]
    whole = torchaudio.transforms.Resample(*ratio)(torch.from_numpy(audio.T)).numpy().T
    view = ResampledView(audio, Resampler(*ratio))
    assert len(view) == len(whole)
    for part in (slice(None), slice(0, 1), slice(700, 9001), slice(-50, None), slice(5, 5)):
        assert view[part].shape == whole[part].shape
        np.testing.assert_allclose(view[part], whole[part], atol=2e-6)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(1, 4000), min_size=1, max_size=8), st.sampled_from([8000, 22050, 44100, 48000]))
def test_resample_blocks_any_blocks_give_the_same_length(lengths, rate_hz):
    blocks = [np.zeros(n, np.float32) for n in lengths]
    made = sum(len(block) for block in resample_blocks(blocks, rate_hz, 24000))
    assert made == -(-sum(lengths) * 24000 // rate_hz)


@pytest.mark.parametrize(
    ("ending", "tolerance"), [("wav", 1e-4), ("flac", 1e-4), ("aiff", 1e-4), ("ogg", 0.05), ("mp3", 0.05)]
)
def test_A01_decode_blocks_every_format_keeps_pitch_and_level(tmp_path, ending, tolerance):
    path = tmp_path / f"tone.{ending}"
    soundfile.write(path, np.stack([sine(440, 1, 44100, 0.6), sine(440, 1, 44100, 0.2)], axis=1), 44100)
    audio = read_audio(path, 24000)
    assert abs(len(audio) - 24000) <= 24000 * 0.06  # MP3 pads
    spectrum = np.abs(np.fft.rfft(audio[4000:20000] * np.hanning(16000)))
    assert abs(spectrum.argmax() * 24000 / 16000 - 440) < 2
    assert np.sqrt(np.mean(audio[4000:20000] ** 2)) == pytest.approx(0.4 / np.sqrt(2), abs=max(tolerance, 2e-3))


def test_A01_decode_blocks_stereo_is_averaged(tmp_path):
    path = tmp_path / "loud.wav"
    left = sine(300, 0.5, 8000, 0.9)
    soundfile.write(path, np.stack([left, left], axis=1), 8000, subtype="FLOAT")
    np.testing.assert_allclose(read_audio(path, 8000), left, atol=1e-7)


@pytest.mark.parametrize("rate_hz", [24000, 44100, 48000])
def test_decode_blocks_in_stereo_keeps_left_and_right_apart(tmp_path, rate_hz, monkeypatch):
    monkeypatch.setattr("continuo.audio.files.BLOCK_SAMPLES", 9000)
    monkeypatch.setattr("continuo.audio.resampling.BLOCK_SAMPLES", 5000)
    sound = noise(30_011, 2)
    soundfile.write(tmp_path / "x.wav", sound, rate_hz, subtype="FLOAT")
    whole = torchaudio.transforms.Resample(rate_hz, 24000)(torch.from_numpy(sound.T)).numpy().T
    made = read_audio(tmp_path / "x.wav", 24000, channels=2)
    assert made.shape == whole.shape
    np.testing.assert_allclose(made, whole, atol=2e-6)
    np.testing.assert_allclose(mix_to_mono(made), read_audio(tmp_path / "x.wav", 24000), atol=2e-6)


def test_decode_blocks_equal_channels_and_more_than_two_are_mono(tmp_path, monkeypatch):
    """Equal channels are found in the whole file: one sample that differs in the last block makes it stereo."""
    monkeypatch.setattr("continuo.audio.files.BLOCK_SAMPLES", 8192)
    twice = np.repeat(noise(20_000, 1), 2, axis=1)
    almost = twice.copy()
    almost[-1, 1] += 1e-3
    path = tmp_path / "x.wav"
    for sound, axes in [(twice[:, :1], 1), (twice, 1), (almost, 2), (noise(20_000, 3), 1)]:
        soundfile.write(path, sound, 8000, subtype="FLOAT")
        made = read_audio(path, 8000, channels=2)
        assert made.ndim == axes
        np.testing.assert_array_equal(mix_to_mono(made), read_audio(path, 8000))
        np.testing.assert_array_equal(made, sound if axes == 2 else mix_to_mono(sound))


def test_channels_out_of_phase_lose_nothing_in_stereo(tmp_path):
    tone = sine(440, 2, 8000)
    soundfile.write(tmp_path / "x.wav", np.stack([tone, -tone], axis=1), 8000, subtype="FLOAT")
    np.testing.assert_allclose(read_audio(tmp_path / "x.wav", 8000), tone)
    piece = Piece.from_samples(read_audio(tmp_path / "x.wav", 8000, channels=2), 8000)
    assert piece.loudness_db == pytest.approx(loudness_db(tone, 8000), abs=1e-9)
    np.testing.assert_allclose(piece.read_channels(0, 16000).T / piece.gain, [tone, -tone], atol=1e-6)
    assert not piece.read(0, 16000).any()
    assert audible_range(piece.samples, 8000, piece.loudness_db) == (0, 16000)


def test_decode_blocks_samples_above_full_scale_are_kept(tmp_path):
    path = tmp_path / "hot.wav"
    soundfile.write(path, sine(100, 0.2, 8000, 1.7), 8000, subtype="FLOAT")
    assert read_audio(path, 8000).max() == pytest.approx(1.7, abs=0.01)


@pytest.mark.parametrize("content", [b"", b"RIFF", b"OggS" + bytes(100), bytes(range(256)) * 20])
def test_decode_blocks_undecodable_file_raises_value_error(tmp_path, content):
    path = tmp_path / "broken.wav"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="cannot be decoded"):
        list(decode_blocks(path, 8000))


def test_made_by_a_model_damaged_header_prints_nothing(tmp_path, capfd):
    soundfile.write(tmp_path / "x.aiff", np.zeros(100), 8000)
    (tmp_path / "x.aiff").write_bytes((tmp_path / "x.aiff").read_bytes().replace(b"SSND", b"S.ND"))
    assert not made_by_a_model(tmp_path / "x.aiff")
    assert capfd.readouterr() == ("", "")


def test_soft_limit_bends_peaks_and_keeps_the_rest():
    x = np.linspace(-4, 4, 1001).astype(np.float32)
    y = soft_limit(x)
    assert np.abs(y).max() <= 1
    assert (np.diff(y) >= 0).all()
    np.testing.assert_array_equal(y[np.abs(x) <= 0.9], x[np.abs(x) <= 0.9])


def test_soft_limit_of_two_channels_keeps_their_ratio():
    loud = np.random.default_rng(0).standard_normal((1000, 2)).astype(np.float32)
    limited, peak = soft_limit(loud), np.abs(loud).max(axis=1)
    np.testing.assert_allclose(np.abs(limited).max(axis=1), soft_limit(peak), atol=1e-6)
    np.testing.assert_allclose(limited[:, 0] * loud[:, 1], limited[:, 1] * loud[:, 0], atol=1e-5)
    np.testing.assert_array_equal(limited[peak <= 0.9], loud[peak <= 0.9])
    np.testing.assert_allclose(soft_limit(with_channels(loud[:, 0], 2)).T, [soft_limit(loud[:, 0])] * 2, atol=1e-7)


def test_write_wav_any_blocks_read_back_the_same(tmp_path):
    audio = sine(200, 0.3, 8000)
    assert write_wav(tmp_path / "whole.wav", [audio], 8000) == len(audio)
    assert write_wav(tmp_path / "parts.wav", np.split(audio, [1, 5, 900]), 8000) == len(audio)
    assert (tmp_path / "whole.wav").read_bytes() == (tmp_path / "parts.wav").read_bytes()
    np.testing.assert_allclose(read_audio(tmp_path / "whole.wav", 8000), audio, atol=2 / 32768)


def test_write_wav_failing_halfway_leaves_no_file(tmp_path):
    def blocks():
        yield sine(200, 0.1, 8000)
        raise ValueError("the source dried up")

    with pytest.raises(ValueError, match="dried up"):
        write_wav(tmp_path / "out.wav", blocks(), 8000)
    assert list(tmp_path.iterdir()) == []


def test_audible_range_leaves_out_silence_at_both_ends():
    tone = sine(440, 1, 8000, 0.5)
    audio = np.concatenate(
        [np.zeros(8000, np.float32), tone, np.zeros(4000, np.float32), tone, np.zeros(16000, np.float32)]
    )
    start, stop = audible_range(audio, 8000, loudness_db(audio, 8000))
    assert start == pytest.approx(8000 - 800, abs=160)
    assert stop == pytest.approx(28000 + 800, abs=160)
    assert audible_range(tone, 8000, loudness_db(tone, 8000)) == (0, 8000)


def test_block_powers_in_stereo_are_the_mean_of_both_channels():
    sound = noise(700_003, 2)
    both = [block_powers(channel, 9600) for channel in sound.T]
    np.testing.assert_allclose(block_powers(sound, 9600), np.mean(both, axis=0), rtol=1e-12)


@pytest.mark.parametrize("size", [1, 441, 480, 9600, 300_000])
def test_block_powers_equal_powers_block_by_block(size):
    audio = np.random.default_rng(size).standard_normal(1000 if size == 1 else 700_003).astype(np.float32)
    one_by_one = [np.mean(np.square(audio[i : i + size], dtype=np.float64)) for i in range(0, len(audio), size)]
    np.testing.assert_array_equal(block_powers(audio, size), one_by_one)


def test_loudness_db_ignores_pauses():
    tone = sine(440, 2, 8000, 0.5)
    pause = np.zeros(16000, np.float32)
    assert loudness_db(tone, 8000) == pytest.approx(20 * np.log10(0.5 / np.sqrt(2)), abs=0.05)
    assert loudness_db(np.concatenate([tone, pause, pause]), 8000) == pytest.approx(loudness_db(tone, 8000), abs=0.05)
    assert loudness_db(pause, 8000) == -120


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("share", [0.2, 0.6, 0.97])
def test_decode_blocks_truncated_file_gives_what_is_there(tmp_path, monkeypatch, share, channels):
    """Nothing takes the place of the missing part."""
    monkeypatch.setattr("continuo.audio.files.BLOCK_SAMPLES", 50_000)
    sound = noise(12 * 48_000, channels)
    soundfile.write(tmp_path / "whole.mp3", sound, 48_000)
    content = (tmp_path / "whole.mp3").read_bytes()
    (tmp_path / "cut.mp3").write_bytes(content[: int(share * len(content))])
    expected = soundfile.read(tmp_path / "cut.mp3", dtype="float32")[0]
    assert len(expected) < len(sound)
    made = read_audio(tmp_path / "cut.mp3", 48_000, channels)
    np.testing.assert_allclose(made, expected, atol=1e-6)  # blocks round otherwise than the whole


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("kind", ["wav", "wavex", "aiff", "au", "w64", "rf64", "mp3"])
def test_damage_of_a_truncated_file_compares_with_the_length_in_the_header(tmp_path, kind, channels):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    soundfile.write(whole, noise(5 * 48_000, channels), 48_000, format=kind.upper())
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 4 // 5])
    seconds = {path: len(soundfile.read(path)[0]) / 48_000 for path in (whole, cut)}
    assert seconds[cut] < seconds[whole] == pytest.approx(5, abs=0.1)
    assert not damage(whole, seconds[whole])
    assert damage(cut, seconds[cut]) == TRUNCATED


def test_stream_wav_of_two_channels_equals_the_file(tmp_path):
    audio, sent = np.stack([sine(300, 0.5, 8000), sine(200, 0.5, 8000, 1.2)], axis=1), io.BytesIO()
    assert stream_wav(sent, [audio[:100], audio[:0], audio[100:]], 8000, channels=2) == len(audio)
    assert write_wav(tmp_path / "file.wav", [audio], 8000, channels=2) == len(audio)
    file = (tmp_path / "file.wav").read_bytes()
    assert (sent.getvalue()[:4], sent.getvalue()[8:40], sent.getvalue()[44:]) == (file[:4], file[8:40], file[44:])
    assert soundfile.info(tmp_path / "file.wav").channels == 2


@pytest.mark.parametrize("comment", ["", "odd", "even"])
def test_stream_wav_declares_no_length_and_keeps_its_comment(tmp_path, comment):
    path, audio = tmp_path / "sent.wav", sine(300, 0.5, 8000)
    with open(path, "wb") as file:
        assert stream_wav(file, [audio[:100], audio[100:]], 8000, comment=comment) == len(audio)
    with soundfile.SoundFile(path) as file:
        assert (file.comment, file.frames) == (comment, len(audio))
    np.testing.assert_allclose(read_audio(path, 8000), audio, atol=1e-4)
    assert not damage(path, 0.5)


def wav(sound: np.ndarray, kind: str = "WAV", subtype: str = "PCM_16", endian: str = "FILE") -> bytearray:
    """Return a file of 8 kHz as bytes."""
    buffer = io.BytesIO()
    soundfile.write(buffer, sound, 8000, subtype, endian, kind)
    return bytearray(buffer.getvalue())


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")  # from callbacks of libsndfile
@pytest.mark.parametrize("riff", [0, 36, 0xFFFFFFFF, None])
@pytest.mark.parametrize("kind", ["WAV", "WAVEX", "RF64", "RIFX"])
@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT", "PCM_U8"])
def test_decode_blocks_wav_that_was_never_closed_is_read_to_its_end(tmp_path, kind, subtype, riff):
    big = kind == "RIFX"
    content = wav(noise(8000, 2), "WAV" if big else kind, subtype, "BIG" if big else "FILE")
    (tmp_path / "closed.wav").write_bytes(content)
    place = content.find(b"data")
    content[place + 4 : place + 8] = b"\xff" * 4 if kind == "RF64" else bytes(4)
    if kind == "RF64":
        content[20:44] = bytes(24)
    if riff is not None:
        content[4:8] = riff.to_bytes(4, "big" if big else "little")
    (tmp_path / "open.wav").write_bytes(content)
    made = read_audio(tmp_path / "open.wav", 8000, channels=2)
    assert made.shape == (8000, 2)
    np.testing.assert_array_equal(made, read_audio(tmp_path / "closed.wav", 8000, channels=2))
    assert damage(tmp_path / "open.wav", len(made) / 8000) == UNCLOSED


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")  # from callbacks of libsndfile
@pytest.mark.parametrize("fraction", [0.0, 0.5])
@pytest.mark.parametrize("outer", [0, 46, None])
@pytest.mark.parametrize(
    ("kind", "subtype"),
    [("WAV", "PCM_16"), ("RF64", "PCM_24"), ("RIFX", "FLOAT"), ("AIFF", "PCM_16"), ("AIFF", "FLOAT")],
)
def test_decode_blocks_header_of_an_earlier_save_does_not_matter(tmp_path, kind, subtype, outer, fraction):
    """Recorders write the length now and then; after a crash there is more than the header declares."""
    big = kind in ("RIFX", "AIFF")
    content = wav(noise(8000, 2), "WAV" if kind == "RIFX" else kind, subtype, "BIG" if kind == "RIFX" else "FILE")
    (tmp_path / "closed").write_bytes(content)
    place, order = content.find(b"SSND" if kind == "AIFF" else b"data"), "big" if big else "little"
    offset = 8 * (kind == "AIFF")
    samples = round((len(content) - place - 8 - offset) * fraction) + offset
    if kind == "RF64":
        content[28:36] = samples.to_bytes(8, order)
    else:
        content[place + 4 : place + 8] = samples.to_bytes(4, order)
    if outer is not None:
        content[4:8] = outer.to_bytes(4, order)
    (tmp_path / "open").write_bytes(content)
    made = read_audio(tmp_path / "open", 8000, channels=2)
    np.testing.assert_array_equal(made, read_audio(tmp_path / "closed", 8000, channels=2))
    assert damage(tmp_path / "open", 1.0) == UNCLOSED


@pytest.mark.parametrize("kind", ["WAV", "AIFF"])
@pytest.mark.parametrize("behind", [b"LIST\0\0\x10\0" + bytes(4000), b"ID3\4" + b"\1" * 4000, bytes(4000), b"\1" * 900])
def test_decode_blocks_tags_and_padding_behind_the_samples_are_no_sound(tmp_path, kind, behind):
    (tmp_path / "tagged").write_bytes(wav(noise(8000, 2), kind) + behind)
    assert len(read_audio(tmp_path / "tagged", 8000)) == 8000
    assert not damage(tmp_path / "tagged", 1.0)


@pytest.mark.parametrize("kind", ["WAV", "AIFF"])
def test_decode_blocks_length_beyond_the_end_gives_what_is_there(tmp_path, kind):
    content = wav(noise(8000, 2), kind)
    place, order = content.find(b"SSND" if kind == "AIFF" else b"data"), "big" if kind == "AIFF" else "little"
    content[place + 4 : place + 8] = (200_000).to_bytes(4, order)
    content[4:8] = (200_044).to_bytes(4, order)
    (tmp_path / "short").write_bytes(content)
    np.testing.assert_allclose(read_audio(tmp_path / "short", 8000, channels=2), noise(8000, 2), atol=1e-4)
    assert damage(tmp_path / "short", 1.0) == TRUNCATED


def test_decode_blocks_wav_without_samples_stays_empty(tmp_path):
    """A list of words after no samples is no sound."""
    content = wav(np.zeros(0)) + b"LIST\x04\0\0\0INFO"
    content[4:8] = (len(content) - 8).to_bytes(4, "little")
    (tmp_path / "empty.wav").write_bytes(content)
    assert not any(map(len, decode_blocks(tmp_path / "empty.wav", 8000)))
    assert not damage(tmp_path / "empty.wav", 0)


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
@pytest.mark.parametrize("rates", [(24000, 24000, 24000), (24000, 48000, 16000)])
def test_decode_blocks_chained_ogg_is_read_whole(tmp_path, subtype, rates):
    content, tones = b"", (440, 880, 660)
    for number, (rate_hz, hz) in enumerate(zip(rates, tones, strict=True)):
        tone = sine(hz, 1, rate_hz)
        path = tmp_path / f"{number}.ogg"
        soundfile.write(path, np.stack([tone] * (1 + number % 2), axis=1), rate_hz, subtype, format="OGG")
        content += path.read_bytes()
    path = tmp_path / "chain.ogg"
    path.write_bytes(content)
    for channels in (1, 2):
        made = mix_to_mono(read_audio(path, 24000, channels))
        assert len(made) == 72_000
        assert not damage(path, 3.0)
        for part, hz in zip(np.split(made, 3), tones, strict=True):
            assert np.abs(np.fft.rfft(part)).argmax() == hz
    part = bytearray(content)
    place = part.rfind(b"OggS\0\x02")
    part[place + 30 : place + 50] = bytes(20)
    path.write_bytes(part)
    assert len(read_audio(path, 24000)) == 48_000
    assert damage(path, 2.0).startswith("is damaged: 1 of its 3 streams cannot be decoded")


def test_mix_blocks_ordinary_recordings_are_their_mean():
    left, right = noise(50_000, 2).T
    tones = [sine(hz, 2, 8000, 0.3) for hz in (300, 440, 550)]
    wide = np.stack([tones[0] + 0.3 * tones[1] + tones[2], tones[0] - 0.3 * tones[1]], axis=1)
    for sound in (noise(50_000, 2), np.stack([left, 0 * left], 1), np.stack([left, left - 0.9 * right], 1), wide):
        np.testing.assert_array_equal(np.concatenate([*mix_blocks([sound], 8000)]), mix_to_mono(sound))
    np.testing.assert_array_equal(np.concatenate([*mix_blocks([noise(9000, 6)], 8000)]), mix_to_mono(noise(9000, 6)))


@pytest.mark.parametrize(
    ("where", "other"),  # the gains of further channels, of which none is chosen where two tones differ
    [*itertools.product(["all", "begin", "end"], [(), (0.0,), (0.2, 0.2)]), ("one of two tones", ())],
)
def test_mix_blocks_nothing_that_cancels_is_lost_and_blocks_make_no_difference(where, other):
    first, second = sine(440, 4, 8000, 0.2), sine(660, 4, 8000, 0.2)
    half, polarity = np.arange(32_000) < 16_000, {"all": -1, "begin": 1, "end": -1, "one of two tones": -1}[where]
    right = first * (polarity if where in ("all", "one of two tones") else np.where(half, -polarity, polarity))
    if where == "one of two tones":
        first, right = first + second, second + right
    sound = np.stack([first, right, *(gain * second for gain in other)], axis=1).astype(np.float32)
    sound += 0.1  # an offset is no music
    whole = np.concatenate([*mix_blocks([sound], 8000)])
    parts = np.concatenate([*mix_blocks(np.split(sound, [1, 700, 701, 9000, 21_000]), 8000)])
    np.testing.assert_array_equal(whole, parts)
    assert np.abs(np.diff(whole)).max() < 0.25  # no click
    for part in (whole[:14_000], whole[18_000:]):
        levels = np.abs(np.fft.rfft(part))[[440 * 14 // 8, 660 * 14 // 8]] / 7000
        assert levels[0] > 0.095
        assert levels[1] > 0.19 or where != "one of two tones"


def test_baseline_is_the_offset_of_a_recording_and_nothing_of_music():
    music = sine(60, 8, 8000, 0.03) + sine(440, 8, 8000, 0.03)
    assert baseline(music, 8000, loudness_db(music, 8000)) is None
    drift = np.linspace(0.3, -0.1, len(music), dtype=np.float32)
    steps = np.where(np.arange(len(music)) < 23_456, 0, -0.2).astype(np.float32)
    for offset in (0.3, -0.02, drift, steps, steps[::-1]):
        moved = music + offset
        found = baseline(moved, 8000, loudness_db(moved, 8000))
        np.testing.assert_allclose(moved - found.over(0, len(music))[:, 0], music, atol=0.02)
        np.testing.assert_array_equal(found.over(700, 900), found.over(0, 1000)[700:900])
