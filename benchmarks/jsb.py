"""Run the JSB chorales benchmark: the loss of held-out chorales on a quarter-note grid, in nats per frame.

    python benchmarks/jsb.py --test FILE [--train ../shared/data/jsb] [--minutes 25] [--json]

The split and grid are those of Boulanger-Lewandowski et al. (2012), as JSON: {"train": [...], "valid": [...], "test":
[...]}; a piece is a list of frames, and a frame a list of MIDI pitches. The model is the project's own piano roll and
LSTM, trained from scratch on the training pieces in several keys; the best state on "valid" is scored on "test". The
loss of a frame is that of its set of notes, and includes the first frame of a piece, but not the end of the piece.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from continuo.model import metadata, presets
from continuo.symbolic.song import QUARTER, Song, SongNote
from continuo.system.command_line import Parser, run_main
from continuo.system.device import choose
from continuo.system.progress import Display
from predictor import Predictor
from trainer import build_trainer

FILE = "jsb-chorales-quarter.json"
MODEL: dict[str, object] = {
    "corpus": {"transpose": 6},
    "representation": {"kind": "roll", "steps_per_quarter": 1, "strikes": False},
    "architecture": {
        "kind": "lstm", "hidden": 384, "layers": 2, "dropout": 0.5, "code_dropout": 0.0, "head_width": 384,
    },
    "training": {
        "minutes": 25.0, "batch_size": 32, "window": 32, "learning_rate": 2e-3, "weight_decay": 0.05,
        "average_decay": 0.998, "validate_every_steps": 200, "validation_frames": 1_000_000, "precision": "float32",
    },
    "state": "jsb.safetensors",
}  # fmt: skip


def build_parser() -> argparse.ArgumentParser:
    parser = Parser("jsb.py", __doc__)
    parser.add_argument(
        "--test", type=Path, required=True, metavar="FILE", help=f"file of pieces to score: {FILE}, or one like it"
    )
    parser.add_argument(
        "--train",
        type=Path,
        default=Path("../shared/data/jsb"),
        help=f"file of pieces to train on: {FILE}, or its folder",
    )
    parser.add_argument("--minutes", type=float, default=25.0, help="minutes of training (default: 25)")
    parser.add_argument("--split", help='split of FILE to score (default: "test", or everything if there is none)')
    parser.add_argument("--out", type=Path, help="folder for the model (default: the model is deleted)")
    parser.add_argument(
        "--device", default="cpu", help="auto (CUDA, then MPS, then CPU), cuda, mps or cpu (default: cpu)"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="value of a metadata key of the model"
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    parser.add_argument("--json", action="store_true", help="print the results as one JSON object on the last line")
    return parser


def main(argv: list[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    return run_main(lambda: _run(arguments), name="jsb.py")


def _run(arguments: argparse.Namespace) -> int:
    source = arguments.train / FILE if arguments.train.is_dir() else arguments.train
    train, valid = read(source, "train"), read(source, "valid")
    test = read(arguments.test, arguments.split)
    overrides = {"training.minutes": arguments.minutes} | presets.parse_assignments(arguments.set)
    described = metadata.validated(MODEL, overrides, source="jsb.py")
    device, _ = choose(arguments.device)
    with Display(quiet=arguments.quiet) as display, tempfile.TemporaryDirectory() as temporary:
        folder = arguments.out or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        meta = folder / "jsb.json"
        metadata.save(described, meta)
        trainer = build_trainer(
            described, folder / described.state, device, fresh=True, pieces=(train, valid), display=display
        )
        task = display.task("training", 1.0)
        trainer.run(
            lambda t: task.update(t.fraction_done(), f"{t.progress.train_nats:.2f} {t.progress.validation_nats}")
        )
        task.close()
        predictor = Predictor.load(meta, device)
        p = trainer.progress
        results = {
            "test_nats_per_frame": nats_per_frame(predictor, test),
            "valid_nats_per_frame": nats_per_frame(predictor, valid),
            "train_nats_per_frame": nats_per_frame(predictor, train),
            "train_pieces": len(train),
            "valid_pieces": len(valid),
            "test_pieces": len(test),
            "step": p.step,
            "weights_step": predictor.weights_step,
            "minutes": p.seconds / 60,
            "history": [[step, round(nats, 3), round(held, 3)] for step, _, nats, held in p.history],
        }
    print(f"{results['test_nats_per_frame']:.3f} nats per frame on {len(test)} pieces")
    if arguments.json:
        print(json.dumps(results))
    return 0


@torch.inference_mode()
def nats_per_frame(predictor: Predictor, songs: list[Song]) -> float:
    """Return the mean loss of a frame over all frames of all songs, in nats."""
    total, frames = 0.0, 0
    for song in songs:
        codes = predictor.featurizer.encode(song).to(predictor.device)[None]
        contexts, _ = predictor.model(codes[:, :-1], predictor.model.initial_state(1))
        contexts = torch.cat([predictor.model.bos_context(1)[:, None], contexts], dim=1)
        total += float(predictor.model.head.nll(contexts, codes).double().sum())
        frames += codes.shape[1]
    return total / frames


def read(path: Path, split: str | None) -> list[Song]:
    """Return the pieces of a split as songs, in which a frame is a quarter note.

    Raises:
        ValueError: the file is missing or not of this format, or has no such split.
    """
    try:
        data = json.loads(path.read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} cannot be read ({error}): give the JSON of the JSB chorales") from None
    if isinstance(data, dict):
        if split and split not in data:
            raise ValueError(f"{path} has no split {split!r}, only {', '.join(data)}")
        chosen = split or ("test" if "test" in data else None)
        data = data[chosen] if chosen else [piece for pieces in data.values() for piece in pieces]
    try:
        songs = [_song(f"{path.stem}-{split}-{number}", piece) for number, piece in enumerate(data)]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: a piece must be a list of frames of MIDI pitches ({error})") from None
    if not songs:
        raise ValueError(f"{path} holds no pieces")
    return songs


def _song(name: str, frames: list[list[float]]) -> Song:
    notes = {
        SongNote(k * QUARTER, int(pitch), QUARTER) for k, frame in enumerate(frames) for pitch in frame if pitch > 0
    }
    return Song(name, name, tuple(sorted(notes)), len(frames) * QUARTER)


if __name__ == "__main__":
    sys.exit(main())
