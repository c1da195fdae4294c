"""The benchmark of codecs: its measures have known values for known damage, and coded audio stays where it was."""

import codec as benchmark
import numpy as np
import pytest
import soundfile
from scipy.signal import butter, sosfilt

RATE = benchmark.RATE_HZ


def noise(seconds: float = 3.0, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(round(seconds * RATE)).astype(np.float32) * 0.1


class TestWideErrors:
    def test_equal_audio_has_no_error(self):
        stereo = np.stack([noise(), noise(seed=1)], axis=1)
        assert set(benchmark.wide_errors(stereo, stereo).values()) == {0.0}

    def test_a_quieter_channel_is_a_level_difference(self):
        audio = noise()
        louder_left = np.stack([2 * audio, audio], axis=1)  # 6.02 dB
        errors = benchmark.wide_errors(louder_left, audio)
        assert errors["stereo_level_error_db"] == pytest.approx(6.02, abs=0.01)
        assert errors["stereo_coherence_error"] == pytest.approx(0, abs=1e-6)

    def test_unlike_channels_that_become_equal_are_an_error_of_coherence(self):
        stereo = np.stack([noise(), noise(seed=1)], axis=1)
        errors = benchmark.wide_errors(stereo, stereo.mean(axis=1))
        assert 0.5 < errors["stereo_coherence_error"] < 1

    def test_half_the_amplitude_is_a_spectral_error_of_6_db(self):
        assert benchmark.wide_errors(noise(), noise() / 2)["spectral_error_db"] == pytest.approx(6.02, abs=0.1)

    def test_a_low_pass_takes_the_air(self):
        dull = sosfilt(butter(8, 6000, fs=RATE, output="sos"), noise())
        assert benchmark.wide_errors(noise(), dull)["above_12k_db"] < -30


class TestThroughCodec:
    def test_an_onset_stays_where_it_was(self):
        audio = np.zeros(2 * RATE, np.float32)
        audio[RATE:] = 0.3 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)
        coded = benchmark.through_codec(*benchmark.codec_of(benchmark.SHIPPED), audio)
        assert len(coded.audio) == len(audio)
        level = np.abs(coded.audio.mean(axis=1))  # the model makes two channels of one
        loud = level > 0.1 * level.max()
        assert abs(np.argmax(loud) - RATE) < 0.05 * RATE
        assert coded.bits == pytest.approx(2 * 1880, rel=0.02)

    @pytest.mark.parametrize("name", benchmark.OTHERS)
    def test_other_codecs_keep_length_and_place(self, name):
        seconds = np.arange(2 * RATE) / RATE
        glides = [np.sin(2 * np.pi * (start * seconds + 100 * seconds**2)) for start in (300, 400)]  # of no period
        stereo = 0.3 * np.stack(glides, axis=1).astype(np.float32)
        coded = benchmark.through_libsndfile(*benchmark.OTHERS[name], stereo)
        assert coded.audio.shape == stereo.shape
        assert np.corrcoef(coded.audio[:, 0], stereo[:, 0])[0, 1] > 0.6
        assert 0 < coded.bits < 16 * 2 * len(stereo)


@pytest.mark.slow
def test_folders_are_rows_and_excerpts_have_the_same_names_on_both_sides(tmp_path, capsys):
    for row in ("one", "two"):
        (tmp_path / "audio" / row).mkdir(parents=True)
        soundfile.write(tmp_path / "audio" / row / "tone.wav", noise(9.0), RATE)
    out = tmp_path / "out"
    options = [
        "--audio",
        str(tmp_path / "audio"),
        "--out",
        str(out),
        "--excerpts",
        "2",
        "--seconds",
        "4",
        "--no-others",
    ]
    assert benchmark.main(options) == 0
    written = [
        sorted(str(p.relative_to(out / side)) for p in (out / side).rglob("*.wav")) for side in ("original", "codec")
    ]
    assert written[0] == written[1] == [f"{row}/tone-{i}.wav" for row in ("one", "two") for i in range(2)]
    assert capsys.readouterr().out.count("| Continuo |") == 2


def test_a_folder_without_recordings_is_refused_in_one_line(tmp_path, capsys):
    assert benchmark.main(["--audio", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_row_of_one_excerpt_without_onsets_has_no_figure_for_them():
    glide = 0.1 * np.sin(np.linspace(0, 3000, 4 * RATE) ** 1.05).astype(np.float32)
    figures = benchmark.measure([glide], [benchmark.Coded(glide, 8.0, 1.0)])
    assert figures["onset_ratio"] is None
    assert figures["auc"] is None
    assert figures["flux_ratio"] == pytest.approx(1)
    assert "| - |" in benchmark.table({"row": {"codec": figures}})
