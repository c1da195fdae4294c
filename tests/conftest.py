"""Define shared fixtures: a separate cache, small corpora made on the spot, and the real data where it exists."""

import gc
import hashlib
import json
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before NumPy is loaded: its threads would wait for each other

# isort: split
import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, settings
from sandbox import Sandbox

from continuo.score.notes import Performance
from continuo.score.performance import perform

# A slow example on a busy machine is no failure. Mutation tests run the same test several times in one process.
UNIMPORTANT = [HealthCheck.too_slow, HealthCheck.differing_executors]
settings.register_profile("any machine", deadline=None, suppress_health_check=UNIMPORTANT)
settings.load_profile("any machine")

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"
RATE_HZ, HOP = 44_100, 704  # those of the codec

SMALL = {
    "corpus.sample_rate_hz": RATE_HZ,
    "corpus.validation_share": 0.25,
    "corpus.transpose": 0,
    "training.batch_size": 4,
    "training.window": 16,
    "training.warmup_steps": 2,
    "training.validate_every_steps": 4,
    "training.validation_frames": 200,
    "training.precision": "float32",
    "architecture.hidden": 24,
    "architecture.head_width": 24,
}
SMALL_CODEC = SMALL | {"representation.adaptation_steps": 0}
SMALL_SPECTRUM = SMALL | {"representation.n_fft": 2 * HOP, "representation.hop": HOP}
SMALL_OF = {"codec-lstm": SMALL_CODEC, "spectral-lstm": SMALL_SPECTRUM}


@pytest.hookimpl(optionalhook=True)  # xdist may be off
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Run one process more than there are cores where slow tests run: they often wait for programs and for sound."""
    return None if "not slow" in config.option.markexpr else (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run slow tests first, so that no process is busy with a long one after the others have finished."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_collection_finish() -> None:
    """Keep the garbage collector from searching half a million objects of imported modules again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory) -> Iterator[None]:
    """Give the tests a cache other than the user's, and one thread: small models gain nothing from a second.

    Files are not synced to the disk: no test cuts the power, and thousands of syncs are a long wait.
    """
    import torch  # slow, and the process that hands out tests does without it

    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONTINUO_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(os, "fsync", os.fstat)  # fails for the same descriptors
        yield


ENCODED: dict[bytes, Any] = {}


@pytest.fixture(scope="module", autouse=True)
def encoded_once(request) -> Iterator[None]:
    """Encode equal vectors once in each process, since most tests continue the same prompts.

    Codes depend on the vectors, the centroids and the decay alone. The modules that test this encode every time.
    """
    if request.path.stem in ("test_codec", "test_dataset"):
        yield
        return
    from continuo.codec.quantizer import PredictiveQuantizer  # it imports torch, see `own_cache`

    plain = PredictiveQuantizer._encode

    def encode(self, vectors):
        digest = hashlib.blake2b()
        for tensor in (vectors, self.centroids, self.decay):
            digest.update(repr(tensor.shape).encode() + tensor.numpy().tobytes())
        key = digest.digest()
        if key not in ENCODED:
            ENCODED[key] = plain(self, vectors)
        return ENCODED[key].clone()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PredictiveQuantizer, "_encode", encode)
        yield


@pytest.fixture
def stub_pictures(monkeypatch) -> None:
    """Write blank pictures of takes, for tests that look at sound and notes alone."""
    from continuo.audio.pictures import new_figure, save_figure

    def blank(*_: object) -> Any:
        return new_figure(1, 1, layout=None)

    monkeypatch.setattr("takes.draw_continuation", lambda wav, picture, *_: save_figure(blank(), picture))
    monkeypatch.setattr("takes.draw_song", blank)


def melody(seed: int, seconds: float = 3.0, rate_hz: int = RATE_HZ) -> np.ndarray:
    """Return decaying tones of a pentatonic scale, four a second."""
    return _melody(seed, seconds, rate_hz).copy()


@cache
def _melody(seed: int, seconds: float, rate_hz: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * rate_hz)) / rate_hz
    audio = np.zeros_like(time)
    for onset in np.arange(0, seconds, 0.25):
        hz = 220 * 2 ** (rng.choice([0, 2, 4, 7, 9, 12]) / 12)
        first = np.searchsorted(time, onset)
        sounding = slice(first, first + 3 * rate_hz)  # 3 s later a tone has decayed to 2e-8
        local = time[sounding] - onset
        for harmonic in (1, 2, 3):
            audio[sounding] += np.exp(-6 * local) * np.sin(2 * np.pi * hz * harmonic * local) / harmonic**2
    return (0.25 * audio).astype(np.float32)


@pytest.fixture(scope="session")
def music_folder(tmp_path_factory) -> Path:
    """Return a folder with four short recordings."""
    folder = tmp_path_factory.mktemp("music")
    for seed in range(4):
        soundfile.write(folder / f"tune{seed}.wav", melody(seed), RATE_HZ)
    return folder


def set_flags(values: dict) -> list[str]:
    """Return the flags `--set KEY=VALUE` for every entry."""
    return [word for key, value in values.items() for word in ("--set", f"{key}={json.dumps(value)}")]


def train_small(
    folder: Path, music: Path, preset: str = "codec-lstm", steps: int = 12, extra: tuple = (), curves: bool = False
) -> Path:
    """Train a tiny model in `folder`, and return its metadata file; without `curves` their picture is blank.

    Drawing the curves takes as long as the training.
    """
    from continuo.audio.pictures import new_figure
    from continuo.model import training_log
    from train import main

    meta = folder / "model.json"
    make = [] if meta.exists() else ["--preset", preset]
    flags = ["--meta", str(meta), "--corpus", str(music), "--steps", str(steps), "--device", "cpu", "--quiet", *extra]
    with pytest.MonkeyPatch.context() as patch:
        if not curves:
            patch.setattr(training_log, "draw_curves", lambda *_: new_figure(1, 1, layout=None))
        assert main([*flags, *make, *([] if meta.exists() else set_flags(SMALL_OF[preset]))]) == 0
    return meta


@pytest.fixture(scope="session")
def trained(tmp_path_factory, music_folder) -> Path:
    """Return the metadata file of a tiny trained model of codes."""
    return train_small(tmp_path_factory.mktemp("trained"), music_folder)


@pytest.fixture(scope="session")
def box(tmp_path_factory) -> Iterator[Sandbox]:
    """Return the sandbox in which commands read hostile files."""
    box = Sandbox(tmp_path_factory.mktemp("sandbox"))
    yield box
    box.close()


@pytest.fixture
def shared_data() -> Path:
    """Return the folder of real music by others; tests that use it are skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("the shared real data is not on this machine")
    return SHARED


@pytest.fixture
def performed(tmp_path):
    """Return a function that performs MusicXML text."""

    def perform_text(xml: str | bytes, name: str = "song.musicxml") -> Performance:
        path = tmp_path / name
        path.write_bytes(xml.encode() if isinstance(xml, str) else xml)
        return perform(path)

    return perform_text
