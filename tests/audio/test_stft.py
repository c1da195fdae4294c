"""The transform and its inverse, and frames to audio and back: physical identities."""

import math

import numpy as np
import pytest
import torch
from conftest import RATE_HZ, melody
from hypothesis import given, settings
from hypothesis import strategies as st

from continuo.audio.piece import Piece
from continuo.audio.stft import (
    OverlapAdd,
    check_hop,
    from_frames,
    inverse,
    mel_filters,
    overlapped_power,
    share_of_earlier,
    spectrum,
    to_frames,
)
from continuo.model.metadata import SpectrumSection
from featurizer import SpectrumFeaturizer

SIGNALS = {
    "noise": np.random.default_rng(0).standard_normal(12_345).astype(np.float32) * 0.1,
    "sines": sum(np.sin(2 * np.pi * hz * np.arange(9001) / RATE_HZ) * 0.1 for hz in (110, 441.3, 2000.7)),
    "music": melody(5),
    "impulse": np.eye(1, 3000, 1234)[0],
}


def featurizer(n_fft: int, hop: int) -> SpectrumFeaturizer:
    return SpectrumFeaturizer(SpectrumSection.model_construct(kind="spectrum", n_fft=n_fft, hop=hop), RATE_HZ)


@pytest.mark.parametrize("name", SIGNALS)
@pytest.mark.parametrize(
    ("n_fft", "hop"), [(1536, 384), (1024, 256), (512, 512 // 2), (256, 100), (300, 7), (1024, 800)]
)
def test_A02_encode_is_inverted_exactly_by_decode(name, n_fft, hop):
    piece = Piece.from_samples(SIGNALS[name], RATE_HZ)
    original = piece.read(0, len(piece.samples))
    f = featurizer(n_fft, hop)
    frames = f.encode(piece)
    assert frames.shape == (1 + math.ceil(len(original) / hop), n_fft + 2)
    assert (frames[:, : n_fft // 2 + 1] >= 0).all()
    audio = f.decode(frames)[: len(original)]
    assert np.abs(audio - original).max() < 1e-5 * max(1.0, np.abs(original).max())


@settings(deadline=None, max_examples=40)
@given(st.integers(8, 200), st.floats(0.01, 0.8), st.integers(1, 2000))
def test_A02_encode_any_allowed_hop_is_inverted_exactly(half, share, samples):
    n_fft = 2 * half
    hop = max(1, int(share * n_fft))
    audio = np.random.default_rng(samples).standard_normal(samples).astype(np.float32)
    piece = Piece("x", "x", RATE_HZ, audio, -23.0)
    f = featurizer(n_fft, hop)
    assert np.abs(f.decode(f.encode(piece))[:samples] - audio).max() < 1e-5 * max(1, np.abs(audio).max())


@pytest.mark.parametrize(("n_fft", "hop"), [(512, 0), (512, -1), (512, 512), (512, 470), (511, 128), (2, 1)])
def test_A02_check_hop_refuses_other_hops(n_fft, hop):
    with pytest.raises(ValueError, match=r"hop|n_fft"):
        check_hop(n_fft, hop)


def test_A02_check_hop_allows_hops_as_far_as_windows_overlap():
    check_hop(4, 1)
    check_hop(512, 1)
    for n_fft in (4, 16, 100, 512, 1536):
        widest = max(hop for hop in range(1, n_fft) if overlapped_power(n_fft, hop).min() >= 0.01)
        check_hop(n_fft, widest)
        assert 0.8 * n_fft <= widest + 1 <= 0.9 * n_fft + 1
        for hop in (0, widest + 1, n_fft):
            words = f"^hop {hop} does not suit n_fft {n_fft}: choose 1 to {int(0.8 * n_fft)} samples, best n_fft / 4$"
            with pytest.raises(ValueError, match=words):
                check_hop(n_fft, hop)
    for n_fft in (2, 0, -4, 5, 511):
        with pytest.raises(ValueError, match=f"^n_fft must be even and at least 4, not {n_fft}$"):
            check_hop(n_fft, 1)


@pytest.mark.parametrize(("n_fft", "hop"), [(16, 4), (16, 5), (16, 13), (30, 7)])
def test_overlapped_power_is_the_sum_of_squared_windows(n_fft, hop):
    """Frame by frame, laid on one long line."""
    squared = np.sin(np.pi * np.arange(n_fft) / n_fft) ** 4
    line = np.zeros(20 * n_fft)
    for start in range(0, len(line) - n_fft + 1, hop):
        line[start : start + n_fft] += squared
    steady = 8 * n_fft // hop * hop
    power = overlapped_power(n_fft, hop)
    assert power.dtype == np.float64
    np.testing.assert_allclose(power, line[steady : steady + hop], atol=1e-12)
    np.testing.assert_allclose(power.sum(), squared.sum())
    past = np.zeros(5 * n_fft)
    for end in range(len(past), n_fft - 1, -hop):
        past[end - n_fft : end] += squared
    earlier = share_of_earlier(n_fft, hop)
    assert earlier.dtype == np.float64
    np.testing.assert_allclose(earlier, past[len(past) - (n_fft - hop) :], atol=1e-12)


def test_frames_cover_the_last_sample():
    f = SpectrumFeaturizer(SpectrumSection(kind="spectrum", n_fft=16, hop=4), RATE_HZ)
    pieces = [Piece("p", "p", RATE_HZ, np.zeros(samples, np.float32), -23.0) for samples in (0, 1, 4, 5, 8)]
    assert [f.steps(piece) for piece in pieces] == [1, 2, 2, 3, 3]


def test_hann_is_the_periodic_window():
    np.testing.assert_allclose(torch.hann_window(8).numpy(), np.sin(np.pi * np.arange(8) / 8) ** 2, atol=1e-7)


def test_spectrum_is_the_windowed_transform_and_inverse_gives_the_audio_back():
    audio = SIGNALS["noise"][:1000]
    padded = np.pad(audio, 32)
    frames = spectrum(padded, 64, 24)
    assert frames.dtype == torch.complex64
    assert frames.shape == (42, 33)
    for t in (0, 7, 41):
        expected = np.fft.rfft(padded[t * 24 : t * 24 + 64] * torch.hann_window(64).numpy())
        np.testing.assert_allclose(frames[t].numpy(), expected, atol=1e-5)
    torch.testing.assert_close(spectrum(padded.astype(np.float64), 64, 24), frames)
    made = inverse(frames, 64, 24)
    assert made.shape == (41 * 24,)
    np.testing.assert_allclose(made, audio[: 41 * 24], atol=1e-6)


def test_from_frames_accepts_half_precision():
    z = torch.polar(torch.rand(4, 5) + 0.1, torch.rand(4, 5) * 6 - 3)
    torch.testing.assert_close(from_frames(to_frames(z).half()), z, rtol=0, atol=5e-3)
    assert to_frames(z).shape == (4, 10)
    assert from_frames(to_frames(z)[None])[0].shape == (4, 5)


def test_mel_filters_are_triangles_that_add_up_to_one():
    bins_hz = np.linspace(0, 12_000, 3001)
    filters = mel_filters(bins_hz, 20)
    assert filters.shape == (20, 3001)
    assert filters.min() == 0
    peaks_hz = bins_hz[filters.argmax(-1)]
    mel = 2595 * np.log10(1 + peaks_hz / 700)
    mel_40, mel_8000 = 2595 * np.log10(1 + np.array([40, 8000]) / 700)
    np.testing.assert_allclose(mel, np.linspace(mel_40, mel_8000, 22)[1:-1], atol=4)
    assert (filters.max(-1) > 0.9).all()
    inside = (bins_hz > peaks_hz[0]) & (bins_hz < peaks_hz[-1])
    np.testing.assert_allclose(filters[:, inside].sum(0), 1, atol=0.01)
    assert filters[:, (bins_hz <= 40) | (bins_hz >= 8000)].max() < 1e-9
    assert (filters[0, (bins_hz > 41) & (bins_hz < peaks_hz[0])] > 0).all()
    narrow = mel_filters(np.linspace(0, 4000, 1001), 10, low_hz=100, high_hz=2000)
    np.testing.assert_allclose(np.flatnonzero(narrow.sum(0))[[0, -1]] * 4, [104, 1996], atol=5)
    low = mel_filters(np.linspace(0, 4000, 1001), 10)  # the highest bin ends the last triangle
    assert low[-1, -2] > 0
    assert low[-1, -1] < 1e-9


def test_overlap_add_begins_with_silence_and_ends_empty():
    frames = spectrum(SIGNALS["noise"][:640], 64, 16).numpy()
    overlap = OverlapAdd(64, 16)
    assert (overlap.n_fft, overlap.hop) == (64, 16)
    first = [*map(overlap.push, frames), overlap.finish()]
    assert [len(block) for block in first] == [16] * 37 + [48]
    assert all(block.dtype == np.float32 for block in first)
    again = [*map(overlap.push, frames), overlap.finish()]
    np.testing.assert_array_equal(np.concatenate(first), np.concatenate(again))
    assert not overlap.finish().any()
    whole = np.concatenate(first)
    np.testing.assert_allclose(whole[48:592], SIGNALS["noise"][48:592], atol=1e-6)  # under four windows
    windows = np.sin(np.pi * np.arange(64) / 64) ** 4
    faded = SIGNALS["noise"][:16] * windows[:16] / overlapped_power(64, 16)
    np.testing.assert_allclose(whole[:16], faded, atol=1e-6)
    with pytest.raises(ValueError, match="hop 60"):
        OverlapAdd(64, 60)


def test_A02_spectrum_of_a_sine_has_its_amplitude():
    tone = 0.5 * np.sin(2 * np.pi * np.arange(8000) / 8)
    frames = spectrum(tone, 512, 128)
    assert frames.abs().max().item() == pytest.approx(0.5 * torch.hann_window(512).sum().item() / 2, rel=1e-4)


def test_to_frames_is_magnitude_then_phase():
    z = torch.polar(torch.rand(4, 5) + 0.1, torch.rand(4, 5) * 6 - 3)
    torch.testing.assert_close(from_frames(to_frames(z)), z)
    torch.testing.assert_close(to_frames(z)[:, 5:], z.angle())


def test_encode_part_of_a_piece_equals_part_of_the_whole():
    piece = Piece.from_samples(melody(1), RATE_HZ)
    f = featurizer(256, 64)
    whole = f.encode(piece)
    part = f.encode(piece, 17, 40)
    torch.testing.assert_close(part[:, :129], whole[17:40, :129])
    torch.testing.assert_close(from_frames(part), from_frames(whole[17:40]))


@pytest.mark.parametrize(("n_fft", "hop"), [(512, 128), (256, 100), (256, 128)])
def test_A09_overlap_add_of_true_frames_continues_real_audio_exactly(n_fft, hop):
    """True frames after a true tail reproduce the audio itself, across the join."""
    audio = melody(3)
    join = 8000
    later = [audio[join - n_fft + j * hop : join + j * hop] for j in range(1, 40)]
    frames = [np.fft.rfft(window * torch.hann_window(n_fft).numpy()) for window in later]
    overlap = OverlapAdd(n_fft, hop, audio[join - n_fft : join])
    made = np.concatenate([*map(overlap.push, frames), overlap.finish()])
    assert len(made) == 39 * hop + n_fft - hop
    start = join - (n_fft - hop)
    whole = 39 * hop  # afterwards the stream fades out
    np.testing.assert_allclose(made[:whole], audio[start : start + whole], atol=1e-6)
    assert np.abs(made[-8:]).max() < 1e-3


def test_encode_prompt_last_frame_ends_with_the_prompt():
    audio = melody(2)[:5003]
    piece = Piece.from_samples(audio, RATE_HZ)
    f = featurizer(256, 64)
    stream = f.encode_prompt(piece)
    last = np.fft.rfft(piece.read(5003 - 256, 5003) * torch.hann_window(256).numpy())
    np.testing.assert_allclose(from_frames(stream)[-1].numpy(), last, atol=1e-4)
    assert len(stream) == 1 + (5003 - 256) // 64
    with pytest.raises(ValueError, match="too short"):
        f.encode_prompt(Piece.from_samples(audio[:255], RATE_HZ))


def test_sample_is_seeded_and_bounded():
    f, pieces = featurizer(256, 64), [Piece.from_samples(melody(seed, 0.5), RATE_HZ) for seed in range(4)]
    for run, same in zip(f.sample(pieces, 300, seed=0), f.sample(pieces, 300, seed=0), strict=True):
        assert torch.equal(run, same)
    assert sum(len(run) for run in f.sample(pieces, 300, seed=0)) <= 300
    assert sum(len(run) for run in f.sample(pieces, 10**6, seed=0)) == sum(f.steps(p) for p in pieces)
