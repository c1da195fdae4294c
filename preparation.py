"""Prepare a training: load, split and transpose the corpus, fit the featurizer, encode; refuse early what can be."""

import hashlib
import itertools
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

import torch
from rich.filesize import decimal as human_size

import corpus
from continuo.audio.piece import Piece
from continuo.model import checkpoint
from continuo.model.checkpoint import Facts, SoundFont, Tensors
from continuo.model.metadata import OTHER_START, Metadata, check_same_model
from continuo.model.stream import StreamSpec
from continuo.score.performance import SCORE_ENDINGS
from continuo.score.synth import choose_soundfont, find_soundfont, identify_soundfont
from continuo.symbolic.song import Song
from continuo.system import cache
from continuo.system.distributed import ProcessGroup
from continuo.system.files import remove_leftovers
from continuo.system.paths import command
from continuo.system.progress import Display
from continuo.system.text import pluralize
from dataset import AudioDataset
from featurizer import FIT_VERSION, Featurizer, P, StftFeaturizer, build_featurizer, digest
from model_definition import model_size

SOUND_SEMITONES, NOTE_SEMITONES = 2, 5  # up and down, by which pieces are transposed, or the model memorizes them
TRANSPOSED_SOUND_S, TRANSPOSED_NOTES_S = 6000.0, 16 * 3600.0  # length of a corpus above which no copy is added to it
FIT_UNSHIFTED_ABOVE_S = 960.0  # enough sound to fit the featurizer to pieces that are not transposed
LITTLE_S = 120.0  # seconds of music that are too few to learn from without copying
WEIGHT_COPIES = 6  # weights, gradients, two moments of the optimizer, average, best average
Pieces = list[Piece] | list[Song]


@dataclass(frozen=True)
class Start:
    """A saved state: of the training to continue, or of a donor, another model that gives its weights only."""

    path: Path
    tensors: Tensors
    facts: Facts
    is_donor: bool

    def mismatch_refused(self) -> AbstractContextManager[None]:
        """Refuse the state if a block that only loads from it finds that it lacks something."""
        return checkpoint.mismatch_refused(self.path, *[OTHER_START] * self.is_donor)


@dataclass(frozen=True)
class Prepared(Generic[P]):
    """The music of a training, encoded, and the fitted featurizer; the rest is what `prepare` was given."""

    metadata: Metadata
    state_path: Path
    device: torch.device
    display: Display
    group: ProcessGroup
    featurizer: Featurizer[P]
    train_pieces: list[P]  # in all transpositions
    held_out_pieces: list[P]  # as they are
    train_set: AudioDataset[P]
    held_out_set: AudioDataset[P]
    amounts: dict[str, int | float]  # numbers of pieces and seconds of music before transposition, for the model card
    start: Start | None
    soundfont: SoundFont | None  # rendered the scores of the corpus; None if it had none
    adaptation: Iterator[None]  # adapts the featurizer part by part, in the main process, while training goes on


# Longer than 40 lines: the one list of what a training needs, in the order in which processes must agree on it.
def prepare(
    metadata: Metadata,
    state_path: Path,
    device: torch.device,
    *,
    fresh: bool = False,
    start_from: Path | None = None,
    pieces: tuple[Pieces, Pieces] | None = None,
    display: Display | None = None,
    group: ProcessGroup | None = None,
) -> Prepared[Piece] | Prepared[Song]:
    """Prepare the training that the metadata describes, the same way in all processes of a group.

    Args:
        state_path: file of the state, which the training continues unless `fresh`.
        start_from: state of another model; a new training starts from its weights, and fits its featurizer further.
        pieces: training and held-out pieces to use instead of the corpus that the metadata names.
        group: the processes that train together (default: this one alone).

    ValueError: the corpus, the model's size or a state is unsuitable, or processes were given different files.
    """
    display, group = display or Display(quiet=True), group or ProcessGroup()
    group.check_divides("training.batch_size", metadata.training.batch_size)
    if group.is_main_process:
        clear_leftovers(state_path)
    start = load_start(metadata, state_path, fresh, start_from, display)
    check_memory(metadata, device)
    featurizer = build_featurizer(metadata)
    is_sound = featurizer.modality == "sound"
    with group.local_main_first():
        (train, held_out), font = (pieces, None) if pieces else load_corpus(metadata, featurizer, start, display)
        amounts = amounts_of(train, held_out)
        transposed = in_more_keys(train, metadata.corpus.transpose, is_sound)
        if len(transposed) > len(train):
            minutes = sum(piece.seconds for piece in transposed) / 60
            display.say(f"training pieces are also learned in other keys, {minutes:.0f} minutes in all")
        to_fit = train if is_sound and amounts["seconds"] >= FIT_UNSHIFTED_ABOVE_S else transposed
    if start and not start.is_donor:
        check_same_corpus(metadata, start, corpus_fingerprint(transposed))
    group.check_same("metadata", metadata.model_dump(include={"representation", "architecture", "training"}))
    group.check_same("a corpus", corpus_fingerprint([*transposed, *held_out]))
    group.check_same("a SoundFont", font and font["sha256"])
    group.check_same("a state", start and not start.is_donor and start.facts["progress"])
    fitted = group.broadcast(lambda: fitted_state(featurizer, to_fit, start, metadata.training.seed, display))
    with start.mismatch_refused() if start else nullcontext():
        featurizer.load_state(fitted)
    check_memory(metadata, device, featurizer.spec)
    with group.local_main_first():
        train_set = encode("encoding", transposed, featurizer, metadata.training.window, display)
        held_out_set = encode("encoding held-out pieces", held_out, featurizer, metadata.training.window, display)
    given = metadata, state_path, device, display, group
    rest = adaptation(featurizer, to_fit, metadata.training.seed, display) if group.is_main_process else iter(())
    return Prepared(*given, featurizer, transposed, held_out, train_set, held_out_set, amounts, start, font, rest)


def clear_leftovers(state_path: Path) -> None:
    """Remove the temporary files that killed trainings left next to the state at `state_path`."""
    for suffix in (".safetensors", ".card.md", ".curves.png"):
        remove_leftovers(state_path.with_suffix(suffix))
    remove_leftovers(state_path.with_suffix(".runs") / "training.csv")


def load_start(
    metadata: Metadata, state_path: Path, fresh: bool, start_from: Path | None, display: Display
) -> Start | None:
    """Load the state to continue, unless `fresh`, or else the donor's, if any; ValueError: it cannot be used."""
    if state_path.exists() and not fresh:
        start = Start(state_path, *checkpoint.load_model(state_path), is_donor=False)
        if start_from:
            display.say(f"{state_path} exists: continuing from it, not from {start_from} (--fresh starts from that)")
        if not checkpoint.under_prefix("weights", start.tensors):
            raise ValueError(f"{state_path} holds a model for prediction, without a training to continue: "
                             f"start one from it with another --meta and --from {state_path}")  # fmt: skip
    elif start_from:
        tensors, facts = checkpoint.load_model(start_from, "featurizer.", "best.", "average.")
        start = Start(start_from, tensors, facts, is_donor=True)
    else:
        return None
    check_same_model(metadata, start.facts["metadata"], start.path, is_donor=start.is_donor)
    return start


def check_memory(metadata: Metadata, device: torch.device, spec: StreamSpec | None = None) -> None:
    """Check that training can fit in this machine's memory, or raise ValueError; a GPU reports by itself.

    The estimate is a lower bound; without the streams' `spec`, only the backbone's weights count.
    """
    if device.type == "cuda":
        return
    t, a = metadata.training, metadata.architecture
    weights, row_state = model_size(a, spec)
    needed = 4 * (WEIGHT_COPIES * weights + t.batch_size * (row_state + t.window * (a.hidden + a.head_width)))
    if needed > (memory := checkpoint.machine_memory_bytes()):
        what = f"training this model takes {human_size(needed)} or more, and this machine has {human_size(memory)}"
        keys = "architecture.hidden, architecture.layers, training.batch_size or training.window"
        raise ValueError(f"{what}: lower {keys}")


def load_corpus(
    metadata: Metadata, featurizer: Featurizer[Any], start: Start | None, display: Display
) -> tuple[tuple[list[Any], list[Any]], SoundFont | None]:
    """Load the corpus that the metadata names, as the featurizer reads it, and split it for training.

    The second value is the SoundFont that rendered its scores; that of the state to start from is used if possible.
    """
    section, seed, remark = metadata.corpus, metadata.training.seed, ""
    if is_sound := isinstance(featurizer, StftFeaturizer):
        section = section.model_copy(update={"channels": featurizer.channels})
    named = Path(section.soundfont).expanduser() if section.soundfont else None
    if is_sound and start and (earlier := start.facts.get("soundfont")):
        place = start.facts["metadata"]["corpus"].get("soundfont")
        named, remark = choose_soundfont(named, earlier, Path(str(place)) if place else None)
        section = section.model_copy(update={"soundfont": str(named)})
    load = corpus.load if is_sound else corpus.load_songs
    loaded: corpus.Corpus[Any] = load(section, seed=seed, display=display)
    font = None
    if is_sound and any(Path(piece.source).suffix.lower() in SCORE_ENDINGS for piece in loaded.pieces):
        path = find_soundfont(named)
        font = identify_soundfont(path)
        display.say(f"the corpus {remark or f'is rendered with {path.name}'} ({path})")
    count, minutes = pluralize(len(loaded.pieces), "piece"), loaded.seconds / 60
    display.say(f"corpus: {count}, {minutes:.1f} minutes, {loaded.left_out} skipped")
    size = human_size(cache.size_bytes())
    display.say(f"cache of decoded audio: {size} ({command('corpus')} --clear-cache empties it)")
    train, held_out = loaded.split(section.validation_share, seed)
    seconds = sum(piece.seconds for piece in held_out)
    which = f"the ends of {pluralize(len(held_out), 'piece')}" if loaded.cut_ids else pluralize(len(held_out), "piece")
    display.say(f"held out to tell learning from copying: {which}, {seconds / 60:.1f} minutes")
    if loaded.seconds < LITTLE_S:
        display.say(f"{loaded.seconds:.0f} s of music are little: the model will mostly repeat them, so add recordings")
    return (train, held_out), font


def amounts_of(train: Sequence[P], held_out: Sequence[P]) -> dict[str, int | float]:
    """Return the numbers of training and held-out pieces, and how many seconds they last."""
    amounts: dict[str, int | float] = {"pieces": len(train), "seconds": sum(piece.seconds for piece in train)}
    return amounts | {"held_out_pieces": len(held_out), "held_out_seconds": sum(piece.seconds for piece in held_out)}


def in_more_keys(pieces: Sequence[P], semitones: int | None, is_sound: bool) -> list[P]:
    """Return pieces with copies in other keys, up to `semitones` up and down; None: until there is enough music."""
    seconds, enough_s = sum(piece.seconds for piece in pieces), math.inf
    if semitones is None:
        semitones, enough_s = (
            (SOUND_SEMITONES, TRANSPOSED_SOUND_S) if is_sound else (NOTE_SEMITONES, TRANSPOSED_NOTES_S)
        )
    shifts = [sign * k for k in range(1, semitones + 1) for sign in (1, -1)]
    keys: list[list[int]] = [[0] for _ in pieces]
    for turn, place in itertools.product(range(len(shifts)), range(len(pieces))):
        if seconds < enough_s:
            keys[place].append(shifts[(turn + place) % len(shifts)])
            seconds += pieces[place].seconds
    return [piece.transposed(k) for piece, own in zip(pieces, keys, strict=True) for k in sorted(own)]


def check_same_corpus(metadata: Metadata, start: Start, fingerprint: str) -> None:
    """Refuse other music from another place than a state learned, for its card and its losses are of that music."""
    learned, given = start.facts["metadata"]["corpus"]["path"], metadata.corpus.path
    if learned != given and start.facts["pieces"] != fingerprint:
        other = f"name another --meta, with --from {start.path} to start from its weights"
        raise ValueError(f"{start.path} learned {learned}, and {given} holds other music: {other}")


def corpus_fingerprint(pieces: Sequence[Piece] | Sequence[Song]) -> str:
    """Return a digest that changes when a piece is added, removed or changes its length."""
    return hashlib.blake2b(repr([(piece.id, piece.extent) for piece in pieces]).encode(), digest_size=8).hexdigest()


def fitted_state(
    featurizer: Featurizer[P], pieces: Sequence[P], start: Start | None, seed: int, display: Display
) -> Tensors:
    """Return the state of a fitted featurizer: that of the training to continue, one from the cache, or a new one."""
    earlier = checkpoint.under_prefix("featurizer", start.tensors) if start else {}
    if start and not start.is_donor:
        return earlier
    keys = sorted(piece.key for piece in pieces)
    key = cache.key_of_values("featurizer", FIT_VERSION, featurizer.layout(), seed, keys, digest("", earlier))
    if from_cache(featurizer, key, keys):
        return featurizer.state()
    started = time.monotonic()
    with start.mismatch_refused() if start else nullcontext():
        featurizer.fit(pieces, seed=seed, start=earlier)
    if all(keys):
        checkpoint.save(cache.entry(key, ".safetensors"), featurizer.state(), {})
    if featurizer.fitting:
        display.say(f"{featurizer.fitting} took {time.monotonic() - started:.1f} s")
    return featurizer.state()


def from_cache(featurizer: Featurizer[Any], key: str, pieces: list[str]) -> bool:
    """Load the state of a featurizer from the cache, and return whether it was there; `pieces`: keys, or empty."""
    with suppress(ValueError):  # the entry is missing or damaged
        if all(pieces):
            featurizer.load_state(checkpoint.load(cache.entry(key, ".safetensors"))[0])
            return True
    return False


def adaptation(featurizer: Featurizer[P], pieces: Sequence[P], seed: int, display: Display) -> Iterator[None]:
    """Adapt a featurizer, unless it is settled, to pieces: at once if the cache knows the result, or part by part."""
    if featurizer.settled:
        return
    keys, origin = sorted(piece.key for piece in pieces), digest(featurizer.layout(), featurizer.state())
    key = cache.key_of_values("adapted", FIT_VERSION, seed, keys, origin)
    if from_cache(featurizer, key, keys):
        return
    display.say("the codec is adapted to the corpus while the training begins")
    yield from featurizer.adapt(pieces, seed=seed)
    if all(keys):
        checkpoint.save(cache.entry(key, ".safetensors"), featurizer.state(), {})
    display.say("the codec is adapted to the corpus")


def encode(name: str, pieces: Sequence[P], featurizer: Featurizer[P], window: int, display: Display) -> AudioDataset[P]:
    """Encode pieces, and report progress and the pieces that are too short."""
    task = display.task(name, len(pieces))
    dataset = AudioDataset(pieces, featurizer, window, task.update)
    task.close()
    for piece, reason in dataset.skipped:
        display.say(f"skipped {piece}: {reason}")
    return dataset
