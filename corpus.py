"""Find the pieces of a corpus, decode, render or read them, keep them in a cache, and report what was skipped.

    %(prog)s DIR                 list the pieces that a model of sound would be trained on, and what is skipped
    %(prog)s DIR --notes         the same for models of notes
    %(prog)s SCORE --text        print a score or MIDI file note by note
    %(prog)s --cache             print the folder and the size of the cache
    %(prog)s --clear-cache       empty the cache

A corpus is a folder (audio files, and scores, which are rendered), one file, or `music21:bach`, the chorales that come
with music21. Models of notes use the scores alone. Pieces are sorted by name; they are split into training and
validation by piece, with a seed.
"""

import argparse
import errno
import os
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any, Generic, NotRequired, TypeVar, cast

import continuo  # noqa: F401  first, because it reports missing packages

# isort: split
import numpy as np
import regex
from rich.filesize import decimal as human_size
from typing_extensions import TypedDict

from continuo.audio.files import (
    AUDIO_ENDINGS,
    UNDECODABLE_ENDINGS,
    damage,
    decode_blocks,
    in_blocks,
    made_by_a_model,
)
from continuo.audio.loudness import audible_range, baseline, faded_from, loudness_db
from continuo.audio.piece import Piece, check_audible
from continuo.audio.samples import Baseline, StoredSamples, channels_differ
from continuo.model.metadata import EMBEDDED_CORPUS, CorpusSection
from continuo.score import synth
from continuo.score.performance import CACHE_VERSION, SCORE_ENDINGS, perform
from continuo.symbolic.song import QUARTER, Song, SongNote, pitch_number
from continuo.symbolic.transcription import read_song
from continuo.system import cache
from continuo.system.command_line import Parser, run_main
from continuo.system.files import suggest_path
from continuo.system.progress import Display
from continuo.system.text import pluralize, printable
from continuo.system.workers import WORKERS, ordered_map

MIN_SECONDS = 0.5
NOT_HERE = {
    ".icloud": "not downloaded from iCloud: open it in Finder or Files, and start again when it is there",
    ".crdownload": "its download is not complete",
    ".download": "its download is not complete",
    ".part": "its download is not complete",
    ".partial": "its download is not complete",
}
"""Endings that a file's name has while its content is still elsewhere; iCloud also sets a dot before the name."""
OWN_FOLDERS = (".runs", ".evaluation")  # folders that Continuo writes next to models
AUDIO_VERSION = 6  # part of every cache key; raise it when a file gives other samples than before
KNOWN_ENDINGS = AUDIO_ENDINGS | SCORE_ENDINGS | UNDECODABLE_ENDINGS
NOTES_PREFIX = "notes:"
MATCH_TIMEOUT_S = 1.0  # per pattern and path; stops catastrophic backtracking such as (a+)+$
ADDRESS = regex.compile(r"https?:/")
GROUP = regex.compile(r"([\d,]+) files?")  # the name under which files of one kind are reported together
FEW = 10  # pieces; of fewer, the end of each long one is held out, and no whole piece
LONG_S, END_FRACTION = 120.0, 0.1  # seconds of a piece that is long enough for that, and the fraction that is held out


@dataclass(frozen=True)
class Source:
    """A file that may become a piece."""

    id: str
    path: Path

    @property
    def is_score(self) -> bool:
        return self.path.suffix.lower() in SCORE_ENDINGS


class SoundFacts(TypedDict):
    """The description of a source's samples in the cache; after a refusal, the keys below it are missing."""

    bytes: int
    channels: NotRequired[int]  # of the stored samples; 1 if missing
    damage: str  # what is wrong with the file; empty if nothing
    score_s: NotRequired[float]  # length of a score up to its last bar line
    refused: NotRequired[str]  # the reason why the samples cannot be used
    loudness_db: float  # gated RMS, without the offset
    baseline: NotRequired[list[list[float]]]  # the points of the `Baseline` to subtract from the samples
    audible: tuple[int, int]  # the first sample, and the one after the last, that is louder than silence


P = TypeVar("P", Piece, Song)
Skipped = tuple[str, str]  # name of a file, or number of files of one kind, and the reason


@dataclass(frozen=True)
class Corpus(Generic[P]):
    """Pieces in order of their names, and the files that were skipped, with the reason."""

    pieces: tuple[P, ...]
    skipped: tuple[Skipped, ...]

    @property
    def seconds(self) -> float:
        return sum(piece.seconds for piece in self.pieces)

    @property
    def left_out(self) -> int:
        """Return the number of skipped files; files of one kind are one entry of `skipped`."""
        groups = (GROUP.fullmatch(name) for name, _ in self.skipped)
        return sum(int(group[1].replace(",", "")) if group else 1 for group in groups)

    @property
    def cut_ids(self) -> set[str]:
        """Return the ids of the pieces that a split cuts: a lone one, or the long ones of a few if they are most."""
        long = [piece for piece in self.pieces if piece.seconds >= LONG_S or len(self.pieces) == 1]
        most = sum(piece.seconds for piece in long) >= self.seconds / 2
        return {piece.id for piece in long} if most and len(self.pieces) < FEW else set()

    def split(self, validation_fraction: float, seed: int) -> tuple[list[P], list[P]]:
        """Return training and validation pieces; `validation_fraction` (0..1) of the pieces are drawn with `seed`.

        If lengths differ so much that this would hold out less than half of that fraction of the music, or more than
        half of all music, pieces are chosen by length instead. Of `FEW` pieces the ends are held out.
        """
        from sklearn.model_selection import train_test_split

        if ids := self.cut_ids:
            cuts = [(piece, int(piece.extent * (1 - END_FRACTION))) for piece in self.pieces if piece.id in ids]
            train = [piece for piece in self.pieces if piece.id not in ids]
            train += [piece.excerpt(0, cut, "beginning") for piece, cut in cuts]
            return sorted(train, key=lambda p: p.id), [piece.excerpt(cut, piece.extent, "end") for piece, cut in cuts]
        held_out = min(max(1, round(validation_fraction * len(self.pieces))), len(self.pieces) - 1)
        train, validation = train_test_split(list(self.pieces), test_size=held_out, random_state=seed % 2**32)
        wanted_s, held_s = validation_fraction * self.seconds, sum(piece.seconds for piece in validation)
        if not wanted_s / 2 <= held_s <= max(wanted_s, self.seconds / 2):
            shuffled: list[P] = validation + train
            chosen = _choose_lengths(wanted_s, [piece.seconds for piece in shuffled])
            validation = [shuffled[number] for number, held in enumerate(chosen) if held]
            train = [shuffled[number] for number, held in enumerate(chosen) if not held]
        return sorted(train, key=lambda p: p.id), sorted(validation, key=lambda p: p.id)


def _choose_lengths(wanted: float, lengths: list[float]) -> list[bool]:
    """Choose some of two or more lengths, in their order, so that they add up to about `wanted`; never none or all.

    >>> _choose_lengths(1.0, [0.1, 5.0, 0.7, 0.5])
    [True, False, True, False]
    """
    taken, total = [False] * len(lengths), 0.0
    for number, length in enumerate(lengths):
        if total < wanted * 3 / 4 and total + length <= wanted * 3 / 2:
            taken[number] = True
            total += length
    if total < wanted / 2:  # all others are long
        longer = [number for number, held in enumerate(taken) if not held]
        taken[min(longer, key=lambda number: lengths[number])] = True
    if all(taken):
        taken[lengths.index(max(lengths))] = False
    return taken


# --- the whole corpus -------------------------------------------------------------------------------------------------


def load(section: CorpusSection, *, seed: int = 0, display: Display | None = None) -> Corpus[Piece]:
    """Decode or render every file that the section names, or take it from the cache.

    Where `section.pieces` is a number, `seed` draws that many files. `display` shows progress and skipped files.
    ValueError if the folder is missing, a pattern is not a regular expression, or no piece is left.
    """
    display = display or Display(quiet=True)
    if section.soundfont:
        _soundfont(section)  # refuses a missing one before any work
    # decoding and synthesis release the interpreter lock
    corpus = _gather(section, seed, partial(prepare, section=section), display, WORKERS)
    for piece in corpus.pieces:
        for remark in piece.remarks:
            display.say(f"{piece.id} {remark}")
    return corpus


def load_songs(section: CorpusSection, *, seed: int = 0, display: Display | None = None) -> Corpus[Song]:
    """Read every score that the section names as notes; arguments and errors are those of `load`."""
    return _gather(section, seed, partial(read_notes, programs=section.programs), display or Display(quiet=True), 1)


def _gather(
    section: CorpusSection, seed: int, read: Callable[[Source], P], display: Display, workers: int
) -> Corpus[P]:
    """Read the files of a corpus, keep equal content once, and report what is skipped."""
    sources, skipped = find(section)
    if section.pieces is not None and section.pieces < len(sources):
        chosen = np.random.default_rng(seed).choice(len(sources), section.pieces, replace=False)
        sources = [sources[i] for i in sorted(chosen)]
    pieces: dict[str, P] = {}
    task = display.task("reading the corpus", len(sources))
    with closing(ordered_map(partial(_attempt, read), sources, workers)) as outcomes:
        for done, (source, outcome) in enumerate(zip(sources, outcomes, strict=True), start=1):
            task.update(done, f"{done} of {pluralize(len(sources), 'piece')}")
            if isinstance(outcome, ValueError):
                skipped.append((source.id, str(outcome)))
            elif outcome.key in pieces:
                skipped.append((source.id, f"the same content as {pieces[outcome.key].id}"))
            else:
                pieces[outcome.key] = outcome
    task.close()
    _report_skipped(section, skipped, display, none_left=not pieces)
    return Corpus(tuple(sorted(pieces.values(), key=lambda p: p.id)), tuple(skipped))


def _attempt(read: Callable[[Source], P], source: Source) -> P | ValueError:
    try:
        return read(source)
    except ValueError as error:
        return error


def _report_skipped(section: CorpusSection, skipped: list[Skipped], display: Display, *, none_left: bool) -> None:
    few = none_left and len(skipped) <= 3  # the error names them all
    for name, reason in skipped if not few else []:
        display.say(f"skipped {name}: {reason}")
    if skipped and display.quiet and not few:
        display.say(f"skipped {len(skipped)} of {section.path}; without --quiet they are named", always=True)
    if none_left:
        reasons = "; ".join(f"{printable(name)}: {reason}" for name, reason in skipped[:3])
        reasons += f"; and {len(skipped) - 3:,} more" if len(skipped) > 3 else ""
        raise ValueError(f"no music found in {section.path}: {reasons or 'it holds no audio file and no score'}")


# --- finding files ----------------------------------------------------------------------------------------------------


def find(section: CorpusSection) -> tuple[list[Source], list[Skipped]]:
    """Return the files that the section names, in order, and those that are skipped, with the reason."""
    include, exclude = _compile(section.include, "include"), _compile(section.exclude, "exclude")
    sources: list[Source] = []
    skipped: list[Skipped] = []
    counted = Counter[str]()  # by reason, for files that are not named one by one
    for name, path in _files(section.path):
        ending = path.suffix.lower()
        text = unicodedata.normalize("NFC", name)
        if (include and not _matches(include, text, "include")) or _matches(exclude, text, "exclude"):
            counted["filtered out by corpus.include or corpus.exclude"] += 1
        elif not path.is_file():
            skipped.append((name, _why_no_file(path)))
        elif ending in NOT_HERE and Path(path.stem).suffix.lower() in KNOWN_ENDINGS:
            skipped.append((name, NOT_HERE[ending]))
        elif ending in AUDIO_ENDINGS or ending in SCORE_ENDINGS:
            sources.append(Source(name, path))
        elif ending in UNDECODABLE_ENDINGS:
            skipped.append((name, f"{ending} cannot be decoded here: convert it to flac, wav, ogg or mp3"))
        else:
            counted[f"{ending or 'no ending'}: neither audio nor a score"] += 1
    return sources, skipped + [(pluralize(count, "file"), reason) for reason, count in sorted(counted.items())]


def _files(path: str) -> Iterator[tuple[str, Path]]:
    """Yield name and path of every file of a corpus, sorted by name."""
    folder = Path(path).expanduser()
    if path == EMBEDDED_CORPUS:
        yield from _chorales()
    elif folder.is_file():
        yield folder.name, folder
    elif not folder.is_dir():
        missing = f"the corpus {path} is neither a folder nor {EMBEDDED_CORPUS}{suggest_path(folder)}"
        raise ValueError(f"{missing}; check --corpus, or corpus.path")
    elif not os.access(folder, os.R_OK | os.X_OK):
        raise ValueError(f"the corpus {path} cannot be read: check its permissions")
    else:
        found: list[Path] = []
        unreadable = lambda error: found.append(Path(error.filename))  # noqa: E731
        for parent, folders, names in os.walk(folder, onerror=unreadable):
            folders[:] = [name for name in folders if not name.startswith(".") and Path(name).suffix not in OWN_FOLDERS]
            names += [name for name in folders if (Path(parent) / name).is_symlink()]
            found += [Path(parent) / name for name in names if not name.startswith(".") or name.endswith(".icloud")]
        yield from sorted((p.relative_to(folder).as_posix(), p) for p in found)


def _chorales() -> Iterator[tuple[str, Path]]:
    """Yield the chorales of music21, each number once, so that no variant of a held-out piece is trained on."""
    from music21 import corpus

    seen = set()
    for path in sorted((Path(p) for p in corpus.getComposer("bach")), key=lambda p: p.stem):
        number = path.stem.partition("-")[0]  # "bwv112.5-sc" is another arrangement of "bwv112.5"
        if path.suffix == ".mxl" and number.startswith("bwv") and number not in seen:
            seen.add(number)
            yield path.stem, path


def _why_no_file(path: Path) -> str:
    if path.is_dir():
        return "a link to a folder is not followed" if path.is_symlink() else "cannot be read: check its permissions"
    return "neither a file nor a folder" if path.exists() else "a link that leads nowhere"


def _compile(patterns: Sequence[str], key: str) -> list["regex.Pattern[str]"]:
    """Compile patterns with the package `regex`, which knows Unicode properties such as \\p{Greek}."""
    compiled = []
    for pattern in patterns:
        try:
            compiled.append(regex.compile(unicodedata.normalize("NFC", pattern), regex.V1))
        except (regex.error, RecursionError, OverflowError, MemoryError) as error:
            raise ValueError(f"corpus.{key}: {pattern!r} is not a regular expression ({error})") from None
    return compiled


def _matches(patterns: list["regex.Pattern[str]"], text: str, key: str) -> bool:
    try:
        return any(pattern.search(text, timeout=MATCH_TIMEOUT_S) for pattern in patterns)
    except TimeoutError:
        slow = f"corpus.{key} takes more than {MATCH_TIMEOUT_S:g} s on the name {text!r}"
        raise ValueError(f"{slow}: write it without repeats inside repeats") from None


# --- one piece --------------------------------------------------------------------------------------------------------


def prepare(source: Source, section: CorpusSection) -> Piece:
    """Decode or render a source into the cache and return its audible part; ValueError with the reason alone."""
    if not source.is_score and made_by_a_model(source.path):
        raise ValueError("a model made it, and models learn from people's music")
    piece, facts = _read_sound(source, section)
    return replace(piece, samples=piece.samples[slice(*facts["audible"])])


def load_prompt(path: Path, section: CorpusSection, *, ring_out: bool = False) -> Piece:
    """Return a prompt (score, MIDI or audio) as sound at the model's rate, from its first sample on.

    With `ring_out` the whole of it is returned. Otherwise a score ends with its last bar, and a recording before it
    fades or falls silent, so that the continuation starts there. ValueError if the file is missing, of another kind,
    unreadable, silent or too short.
    """
    if path.name.startswith(NOTES_PREFIX):
        mismatch = f"{path} is a prompt for models of notes, and this is a model of sound"
        raise ValueError(f"{mismatch}: give a score or a recording")
    source = _prompt_source(path, SCORE_ENDINGS | AUDIO_ENDINGS)
    with _prompt_refused(path):
        piece, facts = _read_sound(source, section)
    if ring_out:
        return replace(piece, key="")
    if "score_s" in facts:
        return replace(piece, samples=piece.samples[: round(facts["score_s"] * section.sample_rate_hz)], key="")
    end = faded_from(piece.samples, section.sample_rate_hz, piece.loudness_db)
    return replace(piece, samples=piece.samples[:end], faded_s=piece.seconds - end / section.sample_rate_hz, key="")


def _read_sound(source: Source, section: CorpusSection) -> tuple[Piece, SoundFacts]:
    """Return all samples of a source, from the cache or put there now, and what is known about them."""
    key, facts = _cached(source, section)
    if "refused" in facts:
        raise ValueError(facts["refused"])
    channels, restore = facts.get("channels", 1), partial(_restore, source, section, key)
    length = facts["bytes"] // (4 * channels)
    offset = Baseline(np.array(facts["baseline"])) if "baseline" in facts else None
    samples = StoredSamples(cache.entry(key, ".f32"), 0, length, restore, channels=channels, baseline=offset)
    piece = Piece(source.id, str(source.path), section.sample_rate_hz, samples, facts["loudness_db"], key)
    largest = 0.0 if offset is None else float(max(offset.points[:, 1:].flat, key=abs))
    return replace(piece, damage=facts["damage"], offset=largest, has_ending=not facts["damage"]), facts


def _cached(source: Source, section: CorpusSection, *, lost_key: str = "") -> tuple[str, SoundFacts]:
    """Return key and facts of a source's samples, which are made if not in the cache, or if `lost_key` is theirs."""
    rate = section.sample_rate_hz
    with _reason_alone(source):
        key = lost_key or audio_key(source, section)
        if not lost_key and (found := cache.get_audio(key)):
            return key, cast("SoundFacts", found[1])
        known: dict[str, Any] = {}

        def describe(path: Path) -> dict[str, object]:
            if audio_key(source, section) != key:
                what = "it, or the SoundFont that plays it," if source.is_score else "it"
                raise ValueError(f"{what} changed while it was read: start again when it is complete")
            samples = StoredSamples(path, channels=known["channels"])
            damaged = "" if source.is_score else damage(source.path, len(samples) / rate)
            return known | _measure(samples, rate) | {"damage": damaged}

        blocks = _decode(source, section, known)
        first = next(blocks, np.zeros(0, np.float32))
        known["channels"] = first.ndim
        return key, cast("SoundFacts", cache.put_audio(key, chain([first], blocks), describe))


def _decode(source: Source, section: CorpusSection, known: dict[str, Any]) -> Iterator[np.ndarray]:
    """Return the blocks of a recording or of a rendered score, and add what is known about it to `known`.

    Blocks are `(n, 2)` if the section wants two channels and they differ, otherwise `(n,)`.
    """
    if not source.is_score:
        return decode_blocks(source.path, section.sample_rate_hz, section.channels)
    performance = perform(source.path)
    known["score_s"] = performance.seconds
    if section.program is not None:
        performance = performance.with_program(section.program)
    stereo, font = section.channels == 2, _soundfont(section)
    sound = synth.render(performance, section.sample_rate_hz, soundfont=font, stereo=stereo).T
    return in_blocks(sound[:, 0] if stereo and not channels_differ(sound) else sound)


def _measure(samples: StoredSamples, rate: int) -> dict[str, object]:
    facts: dict[str, object] = {}
    try:
        check_audible(samples, rate, min_samples=int(MIN_SECONDS * rate), source="it")
        loudness = loudness_db(samples, rate)
        if offset := baseline(samples, rate, loudness):
            facts["baseline"] = offset.points.tolist()
            samples = StoredSamples(samples.path, channels=samples.channels, baseline=offset)
            check_audible(samples, rate, min_samples=0, source="without its DC offset it")
            loudness = loudness_db(samples, rate)
    except ValueError as error:
        return {"refused": str(error)}
    return facts | {"loudness_db": loudness, "audible": audible_range(samples, rate, loudness)}


def _restore(source: Source, section: CorpusSection, key: str) -> None:
    """Put samples into the cache again that were cleared or damaged there while they were in use."""
    try:
        _cached(source, section, lost_key=key)
    except ValueError as error:
        gone = f"{source.path} is gone from the cache and cannot be read again"
        raise ValueError(f"{gone} ({error}): start again") from None


def _soundfont(section: CorpusSection) -> Path:
    return synth.find_soundfont(Path(section.soundfont).expanduser() if section.soundfont else None)


def audio_key(source: Source, section: CorpusSection) -> str:
    """Return the cache key of a source's samples: its content, rate, channels and, for a score, the synthesis."""
    stereo = ("stereo",) if section.channels == 2 else ()
    if not source.is_score:
        return cache.key_of(source.path, "audio", section.sample_rate_hz, AUDIO_VERSION, *stereo)
    sound = synth.identify_soundfont(_soundfont(section))["sha256"]
    versions = (AUDIO_VERSION, CACHE_VERSION, synth.VERSION, version("music21"), version("symusic"))
    return cache.key_of(source.path, "render", section.sample_rate_hz, section.program, sound, *versions, *stereo)


@contextmanager
def _reason_alone(source: Source) -> Iterator[None]:
    """Turn the errors of a source into ValueError with the reason alone; those of the cache, common to all, pass."""
    try:
        yield
    except ValueError as error:
        reason = str(error).removeprefix(f"{source.path}: ").removeprefix(f"{source.path.name}: ")
        raise ValueError(" ".join(reason.split())) from None
    except OSError as error:
        of_the_cache = error.filename is not None and Path(error.filename) != source.path
        if of_the_cache or error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        raise ValueError(error.strerror or str(error)) from None


def read_notes(source: Source, programs: Sequence[int] = ()) -> Song:
    """Read the notes of a score, of the General MIDI `programs` only if any are given; ValueError if none is usable."""
    if not source.is_score:
        raise ValueError("a recording; notes are read from MusicXML and MIDI")
    with _reason_alone(source):
        song = read_song(source.path, name=source.id)
    if all(note.is_drum for note in song.notes):
        raise ValueError("there are only drums in it")
    if programs:
        notes = tuple(note for note in song.notes if not note.is_drum and note.program in programs)
        song = replace(song, notes=notes, key=f"{song.key}{sorted(programs)}")
    if not song.notes:
        raise ValueError(f"no note of the programs {', '.join(map(str, programs))} is in it")
    return song


def load_prompt_song(path: Path) -> Song:
    """Return a prompt (score, MIDI, or `notes:C4,E4,C4+G4`, see `parse_notes`) as notes; ValueError if it has none."""
    if path.name.startswith(NOTES_PREFIX):
        return parse_notes(path.name.removeprefix(NOTES_PREFIX))
    source = _prompt_source(path, SCORE_ENDINGS)
    with _prompt_refused(path):
        return read_notes(source)


def parse_notes(text: str) -> Song:
    """Return quarter notes of words such as C4, 64, C4+G4 (a chord) and r (a rest); ValueError: it holds no note.

    >>> [(note.onset, note.pitch) for note in parse_notes("C4,r,64+G4").notes]
    [(0, 60), (960, 64), (960, 67)]
    """
    words = text.split(",")
    names = [(place, name.strip()) for place, word in enumerate(words) for name in word.split("+")]
    notes = {SongNote(place * QUARTER, pitch_number(name), QUARTER) for place, name in names if name.lower() != "r"}
    if not notes:
        raise ValueError(f"the prompt {NOTES_PREFIX}{text} holds no note: write {NOTES_PREFIX}C4,E4,G4, say")
    return Song(text, text, tuple(sorted(notes)), len(words) * QUARTER)


@contextmanager
def _prompt_refused(path: Path) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(f"the prompt {path} cannot be used: {error}") from None


def _prompt_source(path: Path, endings: frozenset[str]) -> Source:
    """Return the file of a prompt; ValueError if it is not a file with one of `endings`."""
    known = f"({', '.join(sorted(endings))})"
    if ADDRESS.match(str(path)):
        raise ValueError("--prompt takes a file, not a web address: download it first")
    if path.suffix.lower() == ".icloud" or (path.parent / f".{path.name}.icloud").exists():
        raise ValueError(f"the prompt {path} is {NOT_HERE['.icloud']}")
    if not path.exists():
        raise ValueError(f"--prompt {path} does not exist{suggest_path(path) or '; check the spelling'}")
    if path.is_dir():
        raise ValueError(f"the prompt {path} is a folder: name a file in it {known}")
    if not path.is_file():
        raise ValueError(f"the prompt {path} is neither a file nor a folder: write its content to a file first")
    if path.suffix.lower() not in endings:
        what = "cannot be read as notes" if path.suffix.lower() in AUDIO_ENDINGS else "is not a file of a known kind"
        raise ValueError(f"the prompt {path} {what} {known}")
    return Source(path.name, path)


# --- the command ------------------------------------------------------------------------------------------------------


def build_parser() -> argparse.ArgumentParser:
    parser = Parser("corpus", __doc__)
    parser.add_argument("folder", nargs="?", metavar="DIR", help=f"corpus: a folder, a file, or {EMBEDDED_CORPUS}")
    parser.add_argument("--notes", action="store_true", help="read scores as notes, for models of notes")
    parser.add_argument("--text", action="store_true", help="print the notes of each score, bar by bar")
    parser.add_argument("--cache", action="store_true", help="print the folder and the size of the cache")
    parser.add_argument("--clear-cache", action="store_true", help="empty the cache; it fills again when it is needed")
    parser.add_argument("--quiet", action="store_true", help="show no progress, and count skipped files without names")
    return parser


def main(argv: list[str] | None = None) -> int:
    parser = build_parser()
    arguments = parser.parse_args(argv)
    if not (arguments.folder or arguments.cache or arguments.clear_cache):
        parser.error("name a folder (DIR), or give --cache or --clear-cache")
    return run_main(lambda: _run(arguments), name="corpus")


def _run(arguments: argparse.Namespace) -> int:
    if arguments.clear_cache:
        print(f"freed {human_size(cache.clear())} in {cache.folder()}")
    if arguments.cache:
        print(f"{cache.folder()}: {human_size(cache.size_bytes())}")
    if arguments.folder:
        section = CorpusSection.model_construct(path=arguments.folder)  # unchecked: a file may have any name
        with Display(quiet=arguments.quiet) as display:
            as_notes = arguments.notes or arguments.text
            _print(load_songs(section, display=display) if as_notes else load(section, display=display), arguments.text)
    return 0


def _print(corpus: Corpus[Piece] | Corpus[Song], text: bool) -> None:
    for piece in corpus.pieces:
        amount = f"{len(piece.notes):6} notes" if isinstance(piece, Song) else f"{piece.loudness_db:6.1f} dB"
        print(f"{piece.seconds:8.1f} s  {amount}  {printable(piece.id)}")
        if text and isinstance(piece, Song):
            print(piece.text())
    print(f"{pluralize(len(corpus.pieces), 'piece')}, {corpus.seconds / 60:.1f} minutes; {corpus.left_out} skipped")


if __name__ == "__main__":
    sys.exit(main())
