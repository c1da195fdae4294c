"""Stereo parameters have known values for known signals, and two channels come out as they went in."""

import math

import numpy as np
import pytest
import torch

from continuo.audio.stereo import BANDS, StereoImage, Upmix
from continuo.audio.stft import spectrum

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
