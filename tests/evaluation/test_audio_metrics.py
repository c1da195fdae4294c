"""Metrics of sound find what was put into the sound, and ignore loudness and sample rate."""

import numpy as np
import pytest
from conftest import melody

from evaluation import audio_metrics

RATE_HZ = 16_000


def clicks(per_second: float, seconds: float = 8.0) -> np.ndarray:
    """Return bursts of decaying noise at a steady rate."""
    rng = np.random.default_rng(0)
    audio = rng.standard_normal(int(seconds * RATE_HZ)) * 1e-3
    for start in np.arange(0.1, seconds - 0.2, 1 / per_second):
        at, burst = int(start * RATE_HZ), rng.standard_normal(1600) * np.exp(-np.arange(1600) / 400)
        audio[at : at + 1600] += burst
    return audio


@pytest.mark.parametrize("rate", [1.0, 2.0, 4.0])
def test_statistics_of_clicks_counts_onsets(rate):
    assert audio_metrics.statistics(clicks(rate), RATE_HZ)["onsets_per_s"] == pytest.approx(rate, rel=0.1)


@pytest.mark.parametrize("beat_s", [0.25, 0.31, 0.52])
def test_pulse_of_a_wandering_beat_is_lower(beat_s):
    def pulse(wander_s):
        rng = np.random.default_rng(0)
        audio = rng.standard_normal(30 * RATE_HZ) * 1e-3
        for start in np.cumsum(rng.normal(beat_s, wander_s, int(28 / beat_s))):
            at = int(start * RATE_HZ)
            audio[at : at + 1600] += rng.standard_normal(1600) * np.exp(-np.arange(1600) / 400)
        return audio_metrics.statistics(audio, RATE_HZ)["pulse"]

    steady, loose, free = pulse(0.0), pulse(0.08 * beat_s), pulse(0.3 * beat_s)
    assert steady > 0.85
    assert steady > loose + 0.05 > free + 0.1
    assert free < 0.6


def test_pulse_of_silence_is_zero():
    assert audio_metrics.statistics(np.zeros(RATE_HZ), RATE_HZ)["pulse"] == 0


def test_statistics_of_fading_and_silent_audio_measure_drift_and_silence():
    audio = np.random.default_rng(0).standard_normal(10 * RATE_HZ) * 0.1
    fading = audio * 10 ** (np.linspace(0, -20, len(audio)) / 20)
    assert audio_metrics.statistics(audio, RATE_HZ)["drift_db"] == pytest.approx(0, abs=0.5)
    assert audio_metrics.statistics(fading, RATE_HZ)["drift_db"] == pytest.approx(-16, abs=0.5)
    half = audio.copy()
    half[len(half) // 2 :] = 0
    assert audio_metrics.statistics(half, RATE_HZ)["silence"] == pytest.approx(0.5, abs=0.05)
    assert audio_metrics.statistics(audio, RATE_HZ)["silence"] == 0


def test_statistics_at_other_loudness_and_rate_are_the_same():
    audio = melody(1, seconds=6, rate_hz=48_000)
    loud, quiet = audio_metrics.statistics(audio, 48_000), audio_metrics.statistics(audio * 0.05, 48_000)
    for name in ("onsets_per_s", "flux", "flatness", "level_db"):
        assert loud[name] == pytest.approx(quiet[name], rel=1e-3)
    other = audio_metrics.statistics(melody(1, seconds=6, rate_hz=RATE_HZ), RATE_HZ)
    assert other["onsets_per_s"] == pytest.approx(loud["onsets_per_s"], rel=0.15)


@pytest.mark.slow
def test_compare_separates_noise_but_not_other_music_of_the_same_kind():
    bach = [melody(seed, seconds=8, rate_hz=RATE_HZ) for seed in range(12)]
    more = [melody(seed, seconds=8, rate_hz=RATE_HZ) for seed in range(20, 32)]
    noise = [clicks(3) + melody(seed, seconds=8, rate_hz=RATE_HZ) for seed in range(12)]
    near, far = audio_metrics.compare(bach, more, RATE_HZ), audio_metrics.compare(bach, noise, RATE_HZ)
    assert abs(near["mmd2"]) < 0.05
    assert far["mmd2"] > 0.3
    assert near["onset_ratio"] == pytest.approx(1, abs=0.2)
    assert audio_metrics.separability(bach, noise, RATE_HZ) > 0.95
    assert audio_metrics.separability(bach, more, RATE_HZ) < 0.75


def test_squared_mmd_of_one_distribution_is_unbiased():
    rng = np.random.default_rng(1)
    draws = [audio_metrics.squared_mmd(rng.standard_normal((40, 5)), rng.standard_normal((40, 5))) for _ in range(60)]
    assert abs(np.mean(draws)) < 0.005
    assert min(draws) < 0
