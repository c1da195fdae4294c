"""Train the codec of sound: principal components, predictive residual codes, and the network that decodes them.

    python benchmarks/train_codec.py --audio DIR ... [--scores DIR ...] [--soundfont FILE ...] --out FOLDER

Each folder of recordings inside `--audio` is a group. Scores make further groups: MusicXML is rendered with other
instruments, MIDI with its own, both with reverberation, a tilt of the spectrum and noise. The result is
`FOLDER/codec.safetensors`, which replaces `models/codec/codec.safetensors`.

A stage is skipped where its result lies in FOLDER already, so the same command goes on after an interruption:

    rendered/              the groups made of scores
    vectors/               weighted log spectra, stereo parameters and phases of each group
    basis.safetensors      mean and principal components of all groups
    quantizer.safetensors  decays and centroids
    decoded/               components of each group after quantization
    network.safetensors    the network and its optimizer, saved every minute of training

To repeat a stage, delete its result and those below it. With `--start FILE` the codes of an earlier codec are kept, and
its network is trained further.
"""

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from sklearn.decomposition import PCA

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from codec_network import draw, load, starts, train_network
from renderings import render_groups
from residual_kmeans import fit_centroids

from continuo.audio.files import AUDIO_ENDINGS, decode_blocks, made_by_a_model
from continuo.audio.piece import Piece, check_audible
from continuo.audio.stft import spectrum
from continuo.codec.codec import SpectralCodec, Tensors
from continuo.codec.network import RestorationNetwork
from continuo.codec.quantizer import STRETCH, WARM_UP, PredictiveQuantizer
from continuo.codec.vectors import HOP, LOW_FLOOR, N_FFT, RATE_HZ, FrameVectors
from continuo.score import synth
from continuo.score.performance import SCORE_ENDINGS
from continuo.system.command_line import Parser, run_main
from continuo.system.files import atomic_write, locked
from continuo.system.int8 import dequantize_int8, quantize_int8
from continuo.system.progress import Display

COMPONENTS, LEVELS, CENTROIDS = 160, 3, 1024
MIN_SECONDS = 6.0  # s; shorter recordings are skipped
READ_FRAMES = 2048  # frames whose spectra are computed together
BASIS_FRAMES = 3000  # frames of a group from which the principal components are computed, at most
SEGMENT = WARM_UP + STRETCH  # frames of a run to which decays and centroids are fitted
SEGMENT_DENSITY = 0.22  # segments of a group, in units of the square root of its frames
MAX_DECAY, DECAY_POWER = 0.8, 1.5  # of the predictions, from the correlation of neighboring frames
CLOSED_LOOPS = 2  # fits of the centroids to what the quantizer with the earlier centroids leaves


def build_parser() -> argparse.ArgumentParser:
    parser = Parser("train_codec.py", __doc__)
    parser.add_argument("--audio", type=Path, nargs="+", required=True, metavar="DIR", help="folders of recordings")
    parser.add_argument("--scores", type=Path, nargs="+", default=[], metavar="DIR", help="folders of scores to render")
    parser.add_argument("--soundfont", type=Path, nargs="+", default=[], metavar="FILE", help="fonts that render them")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="folder for the results")
    parser.add_argument(
        "--start", type=Path, metavar="FILE", help="codec whose codes are kept, and whose network goes on"
    )
    parser.add_argument("--minutes", type=float, default=60.0, help="training time of the network (default: 60)")
    parser.add_argument("--seed", type=int, default=0, help="seed of all random choices (default: 0)")
    return parser


def main(argv: list[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    return run_main(lambda: _run(arguments), name="train_codec.py")


def _run(arguments: argparse.Namespace) -> int:
    out, seed = arguments.out, arguments.seed
    if not 0 < arguments.minutes < math.inf or not 0 <= seed < 2**31:
        raise ValueError("--minutes must be more than 0, and --seed 0 to 2,147,483,647")
    groups = find_groups(arguments.audio, out)
    scores = [path for files in folders(arguments.scores, "--scores", SCORE_ENDINGS).values() for path in files]
    fonts = [synth.find_soundfont(font) for font in arguments.soundfont or [None]] if scores else []
    out.mkdir(parents=True, exist_ok=True)
    with locked(out / "codec.safetensors", f"another process trains in {out}"), Display() as display:
        groups |= render_groups(scores, fonts, out / "rendered", seed, display) if scores else {}
        space = FrameVectors()
        files = measure_groups(space, groups, out / "vectors", display)
        if arguments.start:
            tensors = {name: tensor.float() for name, tensor in dequantize_int8(load(arguments.start)).items()}
            codec = SpectralCodec(2, 0, tensors)
        else:
            codec = new_codec(space, files, out, seed, display)
        decoded = decode_groups(codec, files, out / "decoded", display)
        train_network(codec, files, decoded, out / "network.safetensors", 60 * arguments.minutes, seed, display)
        export(codec, out / "codec.safetensors")
    print(f"{out / 'codec.safetensors'} is ready")
    return 0


def _result(path: Path, make: Callable[[], Tensors], display: Display) -> Tensors:
    """Return the result of a stage from its file, or make it and write the file, whole or not at all."""
    if not path.exists():
        started = time.monotonic()
        result = make()
        with atomic_write(path) as temporary:
            safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in result.items()}, temporary)
        display.say(f"{path.parent.name}/{path.name} was made in {time.monotonic() - started:.0f} s")
    return load(path)


# --- recordings and rendered scores -----------------------------------------------------------------------------------


def find_groups(roots: list[Path], out: Path) -> dict[str, list[Path]]:
    """Return the recordings of each group by its name; ValueError if there are none."""
    if any(out.resolve().is_relative_to(root.resolve()) for root in roots):
        raise ValueError("--out must not lie inside --audio: its rendered scores would become recordings")
    return folders(roots, "--audio", AUDIO_ENDINGS)


def folders(roots: list[Path], flag: str, endings: Iterable[str]) -> dict[str, list[Path]]:
    """Return the files with certain endings below `roots`, by folder; ValueError if a root is no folder, or empty."""
    found: dict[str, list[Path]] = {}
    for root in roots:
        if not root.is_dir():
            raise ValueError(f"{flag} {root} is not a folder")
        paths = sorted(path for path in root.rglob("*") if path.suffix.lower() in endings and path.is_file())
        for path in paths:
            parts = path.parent.relative_to(root).parts
            found.setdefault("-".join(["recorded", root.resolve().name, *parts]), []).append(path)
        if not paths:
            raise ValueError(f"{flag} {root} holds no file of a known kind ({', '.join(sorted(endings))})")
    return found


# --- vectors, components and codes ------------------------------------------------------------------------------------


def measure_groups(space: FrameVectors, groups: dict[str, list[Path]], out: Path, display: Display) -> list[Path]:
    """Write vectors, phases and lengths of each group that has none yet, and return the files of all groups."""
    out.mkdir(exist_ok=True)
    for name, paths in groups.items():
        if (out / f"{name}.safetensors").exists():
            continue
        measured = []
        for path in paths:
            try:
                measured.append(measure(space, path))
            except ValueError as error:
                display.say(f"skipped {path}: {error}")
        if measured:
            vectors, phases = map(torch.cat, zip(*measured, strict=True))
            lengths = torch.tensor([len(rows) for rows, _ in measured])
            result = {"vectors": vectors, "phases": phases, "lengths": lengths}
            _result(out / f"{name}.safetensors", partial(dict, result), display)
    files = [path for name in groups if (path := out / f"{name}.safetensors").exists()]
    if not files:
        raise ValueError(f"no recording can be used: each must last {MIN_SECONDS:g} s and sound")
    return files


def measure(space: FrameVectors, path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Return vectors `(T, F)` with the low floor and phases `(T, K)` of the low bins of a recording, as halves."""
    if made_by_a_model(path):
        raise ValueError("a model made it")
    samples = np.concatenate(list(decode_blocks(path, RATE_HZ, 2)) or [np.zeros(0, np.float32)])
    check_audible(samples, RATE_HZ, min_samples=round(MIN_SECONDS * RATE_HZ), source="it")
    piece, vectors, phases = Piece.from_samples(samples, RATE_HZ), [], []
    frames = 1 + math.ceil(len(samples) / HOP)
    for start in range(0, frames, READ_FRAMES):
        stop = min(start + READ_FRAMES, frames)
        audio = piece.read_channels(start * HOP - N_FFT // 2, (stop - 1) * HOP + N_FFT // 2)
        run = spectrum(audio, N_FFT, HOP)
        vectors.append(space.measure(run, LOW_FLOOR).half())
        phases.append(space.low_phases(run).half())
    return torch.cat(vectors), torch.cat(phases)


def new_codec(space: FrameVectors, files: list[Path], out: Path, seed: int, display: Display) -> SpectralCodec:
    """Return a codec whose components and centroids are fitted to all groups, and whose network changes nothing yet."""
    basis = _result(out / "basis.safetensors", lambda: fit_basis(space, files, seed), display)
    quantizer = _result(out / "quantizer.safetensors", lambda: fit_quantizer(space, basis, files, seed), display)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = RestorationNetwork(COMPONENTS, len(space.weight))
    weights = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    return SpectralCodec(2, 0, basis | quantizer | weights)


def fit_basis(space: FrameVectors, files: list[Path], seed: int) -> Tensors:
    """Return mean and principal components of frames of all groups, rounded to half precision as in the result."""
    generator, rows = torch.Generator().manual_seed(seed), []
    for group in map(load, files):
        order = torch.randperm(len(group["vectors"]), generator=generator)[:BASIS_FRAMES]
        rows.append(space.with_floor(group["vectors"][order.sort().values].float()))
    pca = PCA(COMPONENTS, svd_solver="covariance_eigh").fit(torch.cat(rows).numpy())
    return {name: _rounded(array) for name, array in (("mean", pca.mean_), ("components", pca.components_))}


def fit_quantizer(space: FrameVectors, basis: Tensors, files: list[Path], seed: int) -> Tensors:
    """Return decays and centroids, fitted to what the prediction leaves of segments of all groups.

    The first centroids are fitted with the prediction from the frame before as it is; the others with that from the
    frame before as the quantizer decodes it (closed loop).
    """
    generator, segments = torch.Generator().manual_seed(seed), []
    for group in map(load, files):
        frames = len(group["vectors"])
        count = min(frames // SEGMENT, max(2, int(SEGMENT_DENSITY * frames**0.5)))
        places = draw(starts(group["lengths"], SEGMENT), count, generator)[:, None] + torch.arange(SEGMENT)
        segments.append(projected(space, basis, group["vectors"][places]))
    x = torch.cat(segments)
    centered = x - x.mean((0, 1))
    correlation = (centered[:, 1:] * centered[:, :-1]).mean((0, 1)) / centered.square().mean((0, 1))
    decay = _rounded(correlation.nan_to_num().clamp(min=0).pow(DECAY_POWER).clamp(max=MAX_DECAY))
    before, earlier = x[:, WARM_UP - 1 : -1], None
    for _ in range(1 + CLOSED_LOOPS):
        changes = (x[:, WARM_UP:] - decay * before).flatten(0, 1).numpy()
        if len(changes) < CENTROIDS:
            raise ValueError(f"the recordings are too short for {CENTROIDS} centroids: add some")
        centroids = earlier = _rounded(fit_centroids(changes, LEVELS, CENTROIDS, seed, earlier))
        quantizer = PredictiveQuantizer(centroids, decay)
        before = quantizer.decode(quantizer.encode(x))[:, WARM_UP - 1 : -1]
    return {"decay": decay, "centroids": centroids}


def projected(space: FrameVectors, basis: Tensors, vectors: torch.Tensor) -> torch.Tensor:
    """Return the components `(..., P)` of vectors `(..., F)` with the low floor."""
    return (space.with_floor(vectors.float()) - basis["mean"]) @ basis["components"].T


def _rounded(values: np.ndarray | torch.Tensor) -> torch.Tensor:
    """Return float32 values that half precision holds exactly."""
    return torch.as_tensor(values).half().float()


def decode_groups(codec: SpectralCodec, files: list[Path], out: Path, display: Display) -> list[Path]:
    """Write the components `(T, P)` of each group after quantization, and return the files."""
    out.mkdir(exist_ok=True)
    silence = codec.project(torch.zeros(STRETCH, N_FFT // 2 + 1, dtype=torch.complex64))

    def decoded(path: Path) -> Tensors:
        group, parts = load(path), []
        for vectors in group["vectors"].split(group["lengths"].tolist()):
            components = torch.cat(
                [projected(codec.vectors, codec.origin, rows) for rows in vectors.split(READ_FRAMES)]
            )
            filled = torch.cat([silence, components, components[-1:].expand(-len(components) % STRETCH, -1)])
            codes = codec.quantizer.encode_stretches(filled.unflatten(0, (-1, STRETCH)))
            parts.append(codec.components(codes[: len(components)]).half())
        return {"components": torch.cat(parts)}

    for path in files:
        _result(out / path.name, partial(decoded, path), display)
    return [out / path.name for path in files]


def export(codec: SpectralCodec, path: Path) -> None:
    """Write a codec with its network as it is now: matrices of that as 8-bit integers, other tensors as halves."""
    network = {f"network.{name}": tensor for name, tensor in codec.network.state_dict().items()}
    matrices = {name: tensor for name, tensor in network.items() if tensor.dim() == 2}
    halves = {name: tensor.half() for name, tensor in (codec.origin | network).items() if name not in matrices}
    tensors = {name: tensor.contiguous() for name, tensor in (halves | quantize_int8(matrices)).items()}
    with atomic_write(path) as temporary:
        safetensors.torch.save_file(tensors, temporary)


if __name__ == "__main__":
    sys.exit(main())
