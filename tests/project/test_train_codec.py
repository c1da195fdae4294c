"""Test the training of the codec: a small one has the right shapes and is loaded, and bad input is refused."""

import numpy as np
import pytest
import renderings
import safetensors.torch
import soundfile
import torch
import train_codec
from codec_network import starts
from conftest import melody
from tunes import tune

from continuo.codec import codec as module
from continuo.codec.vectors import RATE_HZ
from continuo.symbolic.writing import write_musicxml

SECONDS = 8.0


@pytest.fixture
def recordings(tmp_path):
    """Return a folder of two groups: two mono recordings, and two in stereo."""
    for name, channels in (("mono", 1), ("stereo", 2)):
        (tmp_path / "audio" / name).mkdir(parents=True)
        for seed in (0, 1):
            audio = np.stack([melody(2 * seed + channel, SECONDS, RATE_HZ) for channel in range(channels)], axis=1)
            noise = np.random.default_rng(seed).standard_normal(audio.shape) * 0.003
            soundfile.write(tmp_path / "audio" / name / f"tune{seed}.wav", audio + noise, RATE_HZ)
    return tmp_path / "audio"


@pytest.mark.slow
def test_train_codec_makes_a_codec_that_is_loaded_and_goes_on(recordings, tmp_path, monkeypatch, capsys):
    (tmp_path / "scores").mkdir()
    write_musicxml(tune(3), tmp_path / "scores" / "tune.musicxml", title="tune")
    monkeypatch.setattr("renderings.RENDERINGS", renderings.RENDERINGS[6:7])
    out = tmp_path / "out"
    flags = ["--audio", str(recordings), "--scores", str(tmp_path / "scores"), "--out", str(out), "--minutes", "0.05"]
    assert train_codec.main(flags) == 0, capsys.readouterr().err
    assert {path.stem for path in (out / "vectors").iterdir()} >= {"recorded-audio-mono", "recorded-audio-stereo"}
    tensors = safetensors.torch.load_file(out / "codec.safetensors")
    assert tensors["components"].shape == (160, 819)
    assert tensors["centroids"].shape == (3, 1024, 160)
    assert 0 <= tensors["decay"].min() <= tensors["decay"].max() <= 0.8
    assert tensors["network.out.weight"].dtype == torch.int8
    scales = {name for name, tensor in tensors.items() if tensor.dtype == torch.float32}
    assert scales == {f"{name}:scale" for name, tensor in tensors.items() if tensor.dtype == torch.int8}
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16, torch.int8, torch.float32}
    assert all(tensor.isfinite().all() for tensor in tensors.values())
    monkeypatch.setattr(module, "SHIPPED", out / "codec.safetensors")
    module.shipped.cache_clear()
    try:
        codec = module.SpectralCodec(2, 0)
    finally:
        module.shipped.cache_clear()
    magnitudes = codec.decode(torch.randint(1024, (30, 3)))
    assert magnitudes.shape == (30, 1409)
    assert magnitudes.isfinite().all()

    before = {
        path: path.stat().st_mtime_ns
        for path in out.rglob("*.safetensors")
        if path.name not in ("network.safetensors", "codec.safetensors")
    }
    steps = safetensors.torch.load_file(out / "network.safetensors")["step"]
    assert train_codec.main([*flags[:-1], "0.1"]) == 0
    assert safetensors.torch.load_file(out / "network.safetensors")["step"] > steps
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_starts_of_runs_lie_in_one_recording():
    assert starts(torch.tensor([3, 1, 2]), 2).tolist() == [0, 1, 4]


@pytest.mark.parametrize("bad", ["missing", "empty", "out inside", "no minutes"])
def test_train_codec_bad_input_is_refused_in_one_line(bad, tmp_path, capsys):
    audio, out = tmp_path / "audio", tmp_path / "out"
    if bad != "missing":
        audio.mkdir()
    flags = ["--audio", str(audio), "--out", str(audio / "out" if bad == "out inside" else out)]
    assert train_codec.main([*flags, "--minutes", "0" if bad == "no minutes" else "1"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not out.exists()


def test_train_codec_damaged_recordings_are_named_and_refused(tmp_path, capsys):
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio" / "tune.wav").write_bytes(b"RIFF")
    assert train_codec.main(["--audio", str(tmp_path / "audio"), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "skipped" in error
    assert "Traceback" not in error
