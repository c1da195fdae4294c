"""Stereo parameters have known values for known signals, and two channels come out as they went in."""

import math

import numpy as np
import pytest
import torch
from stereo import both

from continuo.audio.codec import HIGH_BANDS, HighBands
from continuo.audio.piece import Piece
from continuo.audio.stereo import BANDS, StereoImage, Upmix
from continuo.audio.stft import spectrum
from continuo.model.metadata import CodebookSection
from featurizer import CodebookFeaturizer

N_FFT, HOP, RATE_HZ = 2816, 704, 44_100
BINS_HZ = np.arange(N_FFT // 2 + 1) * RATE_HZ / N_FFT
IMAGE = StereoImage(BINS_HZ)


def noise(seed: int, seconds: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(round(seconds * RATE_HZ)).astype(np.float32) * 0.1


def frames_of(left: np.ndarray, right: np.ndarray) -> torch.Tensor:
    return spectrum(np.stack([left, right], axis=1), N_FFT, HOP)


class TestMeasure:
    @pytest.mark.parametrize(
        ("left", "right", "level", "difference"),
        [
            (noise(0), noise(0), 0, 0),
            (2 * noise(0), noise(0), math.log(2), 0),
            (noise(0), -noise(0), 0, 2),
            (noise(0), noise(1), 0, 1),
        ],
        ids=["equal", "left twice as loud", "opposite phases", "unrelated"],
    )
    def test_measure_known_signals_give_known_parameters(self, left, right, level, difference):
        levels, differences = IMAGE.measure(frames_of(left, right)).mean(0).split(BANDS)
        assert levels.numpy() == pytest.approx(np.full(BANDS, level), abs=0.25)
        assert differences.numpy() == pytest.approx(np.full(BANDS, difference), abs=0.25)

    def test_measure_silence_lies_in_the_middle(self):
        assert not IMAGE.measure(frames_of(0 * noise(0), 0 * noise(0))).any()

    def test_measure_one_silent_channel_is_limited(self):
        levels = IMAGE.measure(frames_of(noise(0), 0 * noise(0)))[:, :BANDS]
        assert levels.numpy() == pytest.approx(np.full(levels.shape, 3.5))


class TestUpmix:
    def test_push_without_parameters_gives_equal_channels(self):
        frames = spectrum(noise(0), N_FFT, HOP).numpy()
        left, right = Upmix(IMAGE).push(frames, np.zeros((len(frames), 2 * BANDS), np.float32))
        assert np.allclose(left, frames, atol=1e-6)
        assert np.array_equal(left, right)

    @pytest.mark.parametrize(("level", "difference"), [(0.7, 0.0), (-0.7, 0.0), (0.0, 1.0), (0.4, 0.6), (0.0, 2.0)])
    def test_push_constant_parameters_are_measured_again(self, level, difference):
        frames = spectrum(noise(0, 4.0), N_FFT, HOP).numpy()
        parameters = np.repeat(np.float32([[level] * BANDS + [difference] * BANDS]), len(frames), 0)
        both = torch.from_numpy(Upmix(IMAGE).push(frames, parameters)).movedim(0, 1)
        levels, differences = IMAGE.measure(both).mean(0).split(BANDS)
        assert levels.numpy() == pytest.approx(np.full(BANDS, level), abs=1e-3)
        assert differences.numpy() == pytest.approx(np.full(BANDS, difference), abs=0.25)

    def test_push_in_parts_equals_the_whole(self):
        frames = spectrum(noise(0), N_FFT, HOP).numpy()
        parameters = np.random.default_rng(2).random((len(frames), 2 * BANDS)).astype(np.float32)
        whole, parts = Upmix(IMAGE), Upmix(IMAGE)
        made = [parts.push(frames[i : i + 7], parameters[i : i + 7]) for i in range(0, len(frames), 7)]
        assert np.array_equal(whole.push(frames, parameters), np.concatenate(made, axis=1))


class TestHighBands:
    def test_fold_of_unfold_keeps_low_bins_and_energies(self):
        high = HighBands(BINS_HZ)
        folded = torch.rand(5, high.start + HIGH_BANDS) + 0.1
        magnitude = high.unfold(folded, len(BINS_HZ))
        assert torch.equal(magnitude[:, : high.start], folded[:, : high.start])
        assert torch.allclose(high.fold(magnitude), folded, rtol=1e-5)
        assert not magnitude[:, BINS_HZ > 20_050].any()

    def test_unfold_of_silent_low_bins_is_finite(self):
        high = HighBands(BINS_HZ)
        folded = torch.zeros(1, high.start + HIGH_BANDS)
        folded[:, high.start :] = 0.5
        assert high.unfold(folded, len(BINS_HZ)).isfinite().all()

    @pytest.mark.parametrize("rate_hz", [8000, 24_000])
    def test_low_rates_have_no_bands(self, rate_hz):
        bins_hz = np.arange(769) * rate_hz / 1536
        magnitude = torch.rand(3, 769)
        assert HighBands(bins_hz).fold(magnitude) is magnitude
        assert HighBands(bins_hz).unfold(magnitude, 769) is magnitude


SECTION = CodebookSection(
    kind="codebook", n_fft=512, hop=128, components=24, levels=2, centroids=64, fit_frames=1500, postfilter_steps=8
)


def stereo_piece(channels: int = 2) -> Piece:
    """Return 6 s of a melody that lies on the left, and another one on the right, or their mix."""
    samples = both(0)[: 6 * 8000]
    return Piece.from_samples(samples if channels == 2 else samples.mean(1), 8000)


def fitted(piece: Piece, channels: int = 2) -> CodebookFeaturizer:
    featurizer = CodebookFeaturizer(SECTION, 8000, channels)
    featurizer.fit([piece], seed=0, advance=lambda words: None)
    return featurizer


def decoded(featurizer: CodebookFeaturizer, piece: Piece, prompt: Piece | None = None) -> np.ndarray:
    decoder = featurizer.decoder(prompt)
    return np.concatenate([*map(decoder.push, featurizer.encode(piece)), decoder.finish()])


class TestFeaturizer:
    def test_A15_stereo_corpus_is_decoded_in_stereo_with_its_levels(self):
        piece = stereo_piece()
        featurizer = fitted(piece)
        made = decoded(featurizer, piece)
        assert made.shape == (512 - 128 + len(featurizer.encode(piece)) * 128, 2)
        made = made[256:][: len(piece.samples)]
        image = StereoImage(np.arange(257) * 8000 / 512)
        levels = [
            image.measure(spectrum(np.ascontiguousarray(x, np.float32), 512, 128))[:, :BANDS]
            for x in (piece.read_channels(0, len(made)), made)
        ]
        loud = spectrum(piece.read(0, len(made)), 512, 128).abs().square() @ image.sums
        heavy = loud / loud.sum()
        error = ((levels[0] - levels[1]).abs() * heavy).sum().item()
        flat = (levels[0].abs() * heavy).sum().item()
        assert error < 0.5 * flat

    def test_mono_corpus_stays_mono(self):
        piece = stereo_piece(channels=1)
        featurizer = fitted(piece)
        assert (featurizer.channels, decoded(featurizer, piece).ndim) == (1, 1)
        again = CodebookFeaturizer(SECTION, 8000, 2)
        again.load_state(featurizer.state())
        assert (again.channels, again.fingerprint()) == (1, featurizer.fingerprint())

    def test_state_of_stereo_is_loaded_as_stereo(self):
        featurizer = fitted(stereo_piece())
        again = CodebookFeaturizer(SECTION, 8000, 2)
        again.load_state(featurizer.state())
        assert torch.equal(again.encode(stereo_piece()), featurizer.encode(stereo_piece()))

    def test_channels_out_of_phase_are_not_lost(self):
        samples = both(0)[: 6 * 8000, :1] * np.float32([1, -1])
        piece = Piece.from_samples(samples, 8000)
        made = decoded(fitted(piece), piece, piece)
        powers = np.square(made[1000:]).mean(0)
        assert powers == pytest.approx(np.square(piece.read_channels(0, len(samples))).mean(0), rel=0.5)
        assert np.corrcoef(made[1000:].T)[0, 1] < -0.5
