"""Train a foundation: a model of the default preset that knows many kinds of music, to start trainings from (`--from`).

    python benchmarks/train_foundation.py --audio DIR ... [--scores DIR ...] [--soundfont FILE ...] --out FOLDER

Recordings are learned in five keys. Every score is rendered several times, each time with the instruments, SoundFont,
room, key and tempo that chance gives it. The result is `FOLDER/foundation.safetensors`, and `FOLDER/styles.json`:
held-out nats per step of each kind of music.

What is done already in FOLDER is not done again: the codes of each recording and score (`codes/`), and the training
(`training/`), which is saved every minute and goes on with the same command, or with more `--minutes`.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import safetensors.torch
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from renderings import RENDERINGS, Rendering, render
from train_codec import find_groups, folders

from continuo.audio.files import decode_blocks, made_by_a_model
from continuo.audio.piece import Piece, check_audible
from continuo.codec.vectors import RATE_HZ
from continuo.model import checkpoint, metadata
from continuo.model.metadata import CodecSection, Metadata
from continuo.score import synth
from continuo.score.notes import Performance
from continuo.score.performance import MIDI_ENDINGS, SCORE_ENDINGS, perform
from continuo.system.command_line import Parser, run_main
from continuo.system.distributed import ProcessGroup
from continuo.system.files import atomic_write, locked
from continuo.system.int8 import quantize_int8
from continuo.system.paths import MODELS
from continuo.system.progress import Display
from continuo.system.workers import ordered_map
from dataset import AudioDataset, validation_batches
from featurizer import CodecFeaturizer, Featurizer
from model_definition import build_model
from preparation import Prepared, load_start
from trainer import LossModule, Trainer

KEYS = -2, -1, 0, 1, 2  # semitones by which recordings are transposed
VERSIONS = 3  # renderings of each score
MIN_SECONDS = 6.0  # s; shorter recordings are skipped
TEMPO = 0.8, 1.25  # of a rendering, times that of its score
ROOM_S, WET, TILT_DB = (0.3, 3.0), (0.05, 0.35), (-1.5, 1.5)  # of renderings that have a room; see `Rendering`
RECORDING_OF, SCORE_OF = 12, 20  # one recording of so many is held out, and one score of so many
STYLE_STEPS = 8192  # steps of each style to measure


@dataclass(frozen=True)
class CodedPiece:
    """A piece of which nothing but its codes is left."""

    id: str
    codes: np.ndarray  # (T, L) int16
    style: str
    key: str = ""  # codes are in memory, so no cache is needed
    has_ending: bool = True

    @property
    def extent(self) -> int:
        """Return the length in the unit that training counts: steps."""
        return len(self.codes)


class CodedMusic(CodecFeaturizer):
    """The featurizer of the default preset for pieces whose codes are there."""

    def encode(self, piece: CodedPiece, start: int = 0, stop: int | None = None) -> torch.Tensor:  # type: ignore[override]
        return torch.from_numpy(piece.codes[start:stop].astype(np.int64))


def build_parser() -> argparse.ArgumentParser:
    parser = Parser("train_foundation.py", __doc__)
    parser.add_argument("--audio", type=Path, nargs="+", required=True, metavar="DIR", help="folders of recordings")
    parser.add_argument("--scores", type=Path, nargs="+", default=[], metavar="DIR", help="folders of scores to render")
    parser.add_argument("--soundfont", type=Path, nargs="+", default=[], metavar="FILE", help="fonts that render them")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="folder for the results")
    parser.add_argument("--minutes", type=float, default=600.0, help="training time in all (default: 600)")
    parser.add_argument("--seed", type=int, default=0, help="seed of all random choices (default: 0)")
    return parser


def main(argv: list[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    return run_main(lambda: _run(arguments), name="train_foundation.py")


def _run(arguments: argparse.Namespace) -> int:
    out, seed = arguments.out, arguments.seed
    if not 0 <= arguments.minutes < math.inf or not 0 <= seed < 2**31:
        raise ValueError("--minutes must be at least 0, and --seed 0 to 2,147,483,647")
    recordings = find_groups(arguments.audio, out)
    scores = [path for files in folders(arguments.scores, "--scores", SCORE_ENDINGS).values() for path in files]
    fonts = [synth.find_soundfont(font) for font in arguments.soundfont or [None]] if scores else []
    (out / "codes").mkdir(parents=True, exist_ok=True)
    described = foundation_metadata(arguments.minutes, seed)
    with locked(out / "foundation.safetensors", f"another process trains in {out}"), Display() as display:
        train, held_out = coded_music(recordings, scores, fonts, out / "codes", seed, display)
        if arguments.minutes:
            trainer = Trainer(prepared(described, out / "training" / described.state, train, held_out, display))
            trainer.run(partial(show, display))
            styles = nats_by_style(trainer, held_out)
            (out / "styles.json").write_text(json.dumps(styles, indent=1) + "\n", encoding="utf-8")
            for style, nats in styles.items():
                print(f"{style}: {nats:.2f} nats")
            pack(out / "training" / described.state, out / "foundation.safetensors")
    return 0


def foundation_metadata(minutes: float, seed: int) -> Metadata:
    """Return the default preset with the batches of a long training, and a codec that is not adapted."""
    preset = metadata.load(MODELS / "codec-lstm.json")
    training = preset.training.model_copy(
        update={
            "minutes": minutes, "batch_size": 64, "seed": seed, "checkpoint_every_s": 60.0, "average_decay": 0.999,
            "validation_frames": 65536, "validate_every_steps": 240,
        }
    )  # fmt: skip
    section = CodecSection(kind="codec", adaptation_steps=0)
    corpus = preset.corpus.model_copy(update={"path": "foundation"})
    changes = {"training": training, "representation": section, "corpus": corpus, "state": "training.safetensors"}
    return preset.model_copy(update=changes)


# --- codes ------------------------------------------------------------------------------------------------------------


def coded_music(
    groups: dict[str, list[Path]], scores: list[Path], fonts: list[Path], out: Path, seed: int, display: Display
) -> tuple[list[CodedPiece], list[CodedPiece]]:
    """Return the pieces to train on and those that are held out; what is not in the folder `out` yet is encoded."""
    paths = [(f"{name}-{path.name}", path) for name, files in groups.items() for path in files]
    jobs = [(name, partial(recorded, path), n % RECORDING_OF == 5) for n, (name, path) in enumerate(paths)]
    for number, path in enumerate(scores):
        make = partial(rendered, path, fonts, (seed, number))
        jobs.append((f"score-{path.parent.name}-{path.name}", make, number % SCORE_OF == 5))
    task = display.task("encoding", len(jobs))
    train: list[CodedPiece] = []
    held_out: list[CodedPiece] = []
    for done, (name, pieces, is_held_out) in enumerate(ordered_map(partial(_coded, out, display), jobs), 1):
        style = f"recorded {name.removeprefix('recorded-')}"
        for piece in pieces:
            piece = piece if piece.style else replace(piece, style=style)
            (held_out if is_held_out else train).append(piece)
        task.update(done)
    task.close()
    held_out = [piece for piece in held_out if not piece.id.endswith(("-2", "-1", "+1", "+2"))]
    hours = [sum(len(piece.codes) for piece in pieces) * 704 / RATE_HZ / 3600 for pieces in (train, held_out)]
    display.say(f"{len(train)} pieces, {hours[0]:.1f} hours; held out: {len(held_out)} pieces, {hours[1]:.1f} hours")
    return train, held_out


def _coded(
    out: Path, display: Display, job: tuple[str, Callable[[], Iterable[tuple[str, str, np.ndarray]]], bool]
) -> tuple[str, list[CodedPiece], bool]:
    """Return the pieces of a recording or score from its file in `out`, which is written if it is not there."""
    name, make, is_held_out = job
    path = out / f"{name}.safetensors"
    if not path.exists():
        featurizer = CodecFeaturizer(CodecSection(kind="codec", adaptation_steps=0), RATE_HZ, 2)
        codes = {}
        try:
            for version, style, audio in make():
                stream = featurizer.encode(Piece.from_samples(audio, RATE_HZ))
                codes[f"{style}|{version}"] = stream.to(torch.int16)
        except (ValueError, RuntimeError) as error:
            display.say(f"skipped {name}: {error}")
        with atomic_write(path) as temporary:
            safetensors.torch.save_file(codes, temporary)
    streams = safetensors.torch.load_file(path).items()
    pieces = [CodedPiece(f"{name}{key.split('|')[1]}", codes.numpy(), key.split("|")[0]) for key, codes in streams]
    return name, pieces, is_held_out


def recorded(path: Path) -> Iterable[tuple[str, str, np.ndarray]]:
    """Yield key, style (none: its name) and samples of a recording in five keys; ValueError if it cannot be used."""
    if made_by_a_model(path):
        raise ValueError("a model made it")
    samples = np.concatenate(list(decode_blocks(path, RATE_HZ, 2)) or [np.zeros(0, np.float32)])
    check_audible(samples, RATE_HZ, min_samples=round(MIN_SECONDS * RATE_HZ), source="it")
    piece = Piece.from_samples(samples, RATE_HZ)
    for semitones in KEYS:
        moved = piece.transposed(semitones)
        yield f"{semitones:+d}", "", np.asarray(moved.samples[0 : len(moved.samples)])


def rendered(path: Path, fonts: list[Path], seed: tuple[int, int]) -> Iterable[tuple[str, str, np.ndarray]]:
    """Yield number, style and samples of the renderings of a score; ValueError if there is none."""
    rng, performance = np.random.default_rng(seed), perform(path)
    fitting = [plan for plan in RENDERINGS if bool(plan.programs) != (path.suffix.lower() in MIDI_ENDINGS)]
    for version, place in enumerate(rng.permutation(len(fitting))[:VERSIONS]):
        plan = varied(fitting[place], len(fonts), rng)
        yield f"v{version}", plan.name, render(at_tempo(performance, rng.uniform(*TEMPO)), plan, fonts, rng)


def varied(plan: Rendering, fonts: int, rng: np.random.Generator) -> Rendering:
    """Return a plan with any SoundFont, and another room and tilt if it has any."""
    name = plan.name.removeprefix("dry-").rstrip("-12")
    plan = replace(plan, name=f"rendered {name}", soundfont=int(rng.integers(fonts)))
    if not plan.wet:
        return plan
    room_s, wet, tilt_db = (float(rng.uniform(*span)) for span in (ROOM_S, WET, TILT_DB))
    return replace(plan, reverberation_s=room_s, wet=wet, tilt_db=tilt_db)


def at_tempo(performance: Performance, factor: float) -> Performance:
    """Return a performance that is played faster by a factor."""
    notes = tuple(
        replace(note, onset_s=note.onset_s / factor, duration_s=note.duration_s / factor) for note in performance.notes
    )
    return replace(performance, notes=notes, seconds=performance.seconds / factor)


# --- training ---------------------------------------------------------------------------------------------------------


def prepared(
    described: Metadata, state_path: Path, train: list[CodedPiece], held_out: list[CodedPiece], display: Display
) -> Prepared[Any]:
    """Return what a trainer needs to learn coded pieces, on the CPU, from the state that is there or from nothing."""
    featurizer: CodecFeaturizer = CodedMusic(CodecSection(kind="codec", adaptation_steps=0), RATE_HZ, 2)
    datasets = [dataset_of(pieces, featurizer, described) for pieces in (train, held_out)]
    start = load_start(described, state_path, False, None, display)
    seconds = [sum(len(piece.codes) for piece in pieces) / featurizer.steps_per_second for pieces in (train, held_out)]
    amounts = {"pieces": len(train), "seconds": seconds[0], "held_out_pieces": len(held_out)}
    amounts |= {"held_out_seconds": seconds[1]}
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    state_path.parent.mkdir(exist_ok=True)
    return Prepared(
        described, state_path, device, display, ProcessGroup(), featurizer, train, held_out, datasets[0], datasets[1],
        amounts, start, None, iter(()),
    )  # fmt: skip


def dataset_of(pieces: list[CodedPiece], featurizer: Featurizer[Any], described: Metadata) -> AudioDataset[Any]:
    """Return the windows of coded pieces."""
    return AudioDataset(cast("list[Piece]", pieces), featurizer, described.training.window)


def show(display: Display, trainer: Trainer) -> None:
    """Report a validation."""
    p = trainer.progress
    if p.step % trainer.metadata.training.validate_every_steps == 0:
        display.say(
            f"step {p.step}, {p.seconds / 60:.1f} min: {p.train_nats:.3f} nats, held out {p.validation_nats:.3f}"
        )


@torch.no_grad()
def nats_by_style(trainer: Trainer, held_out: list[CodedPiece]) -> dict[str, float]:
    """Return the held-out nats per step of each style, of the weights that predict."""
    model = build_model(trainer.metadata.architecture, trainer.featurizer.spec).eval()
    tensors, facts = checkpoint.load_model(trainer.state_path)
    model.load_state_dict(checkpoint.under_prefix(checkpoint.weights_prefix(facts["progress"]), tensors))
    loss, found = LossModule(model), {}
    for style in sorted({piece.style for piece in held_out}):
        pieces = [piece for piece in held_out if piece.style == style]
        dataset = dataset_of(pieces, trainer.featurizer, trainer.metadata)
        total, steps = 0.0, 0.0
        for run in validation_batches(dataset, STYLE_STEPS):
            states = model.initial_state(len(run[0].inputs))
            for batch in run:
                nll, count, states = loss(batch, model.reset(states, batch.is_start), None)
                total, steps = total + float(nll), steps + float(count)
        found[style] = round(total / steps, 3)
    return found


def pack(state: Path, path: Path) -> None:
    """Write the weights that predict, as 8-bit integers and half precision."""
    tensors, facts = checkpoint.load_model(state)
    prefix = checkpoint.weights_prefix(facts["progress"])
    geometry = "head.embedding.vectors", "change_decoder.decay"  # the codec's own
    kept = {
        name: tensor
        for name, tensor in tensors.items()
        if name.startswith((f"{prefix}.", "featurizer.")) and not name.endswith(geometry)
    }
    checkpoint.save(path, quantize_int8(kept), facts)


if __name__ == "__main__":
    sys.exit(main())
