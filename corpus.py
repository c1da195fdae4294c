"""The corpus: find pieces, decode or render or read them, keep them in a cache, say what was left out.

    python corpus.py DIR                 what would be heard, and what not
    python corpus.py DIR --notes         what would be read as notes, and what not
    python corpus.py SCORE --text        a score or MIDI file, note by note
    python corpus.py --cache             where the cache is and how large
    python corpus.py --clear-cache       empty it

A corpus is a folder (audio files, and scores that are rendered) or `music21:bach`, the chorales bundled with music21.
Who asks for notes gets the scores alone, as they are written.
Its order is that of the pieces' names; the split into training and validation is by piece, by a seed.
"""

import argparse
import errno
import math
import os
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Generic, TypeVar

import continuo  # noqa: F401  first of all: says so where no packages are installed

# isort: split
import numpy as np
import regex

from continuo.audio.files import (
    AUDIO_ENDINGS,
    UNDECODABLE_ENDINGS,
    decode_blocks,
    in_blocks,
    is_truncated,
    made_by_a_model,
)
from continuo.audio.loudness import audible_range, loudness_db
from continuo.audio.piece import Piece, check_audible
from continuo.audio.samples import StoredSamples
from continuo.model.metadata import EMBEDDED_CORPUS, CorpusSection
from continuo.score import synth
from continuo.score.performance import CACHE_VERSION, SCORE_ENDINGS, perform
from continuo.symbolic.song import QUARTER, Song, SongNote, pitch_number
from continuo.symbolic.transcription import read_song
from continuo.system import cache
from continuo.system.command_line import Parser, run_main
from continuo.system.files import human_size, suggest_path
from continuo.system.progress import Display
from continuo.system.text import pluralize, printable
from continuo.system.workers import WORKERS, check_cancelled, ordered_map

MIN_SECONDS = 0.5
OWN_FOLDERS = (".runs", ".evaluation")  # what Continuo writes beside models
AUDIO_VERSION = 3  # part of every cache key: raise it whenever the same file would be heard differently
NOTES_PREFIX = "notes:"
MAX_DEPTH = 64  # folders in folders
MATCH_TIMEOUT_S = 1.0  # of a pattern and a name; longer takes what goes astray in itself, as (a+)+$ does
MAX_REPEATS = 10_000  # of a pattern's counted repeats together: each is written out when it is compiled
ADDRESS = regex.compile(r"https?:/")
GROUP = regex.compile(r"([\d,]+) files?")  # how files of one kind are named together
SPLIT_SHARE = 0.1  # of a lone recording, heard only in validation


@dataclass(frozen=True)
class Source:
    """A file that may become a piece."""

    id: str
    path: Path
    expressive: bool = False  # of a score: whether words and fermatas change its beat

    @property
    def is_score(self) -> bool:
        return self.path.suffix.lower() in SCORE_ENDINGS


P = TypeVar("P", Piece, Song)


@dataclass(frozen=True)
class Corpus(Generic[P]):
    """Pieces in order of their names, and what was skipped with the reason."""

    pieces: tuple[P, ...]
    skipped: tuple[tuple[str, str], ...]

    @property
    def seconds(self) -> float:
        return sum(piece.seconds for piece in self.pieces)

    @property
    def left_out(self) -> int:
        """How many files were skipped: those of one kind are named together."""
        together = (GROUP.fullmatch(name) for name, _ in self.skipped)
        return sum(int(group[1].replace(",", "")) if group else 1 for group in together)

    def split(self, validation_share: float, seed: int) -> tuple[list[P], list[P]]:
        """Training and validation pieces. A lone piece is cut: its last tenth is kept for validation.

        Otherwise it is a share of the pieces by number, at random; by length where lengths differ so much that less
        than half of that share of the music, or more than half of all, would be held out.
        """
        from sklearn.model_selection import train_test_split

        if len(self.pieces) == 1:
            piece = self.pieces[0]
            cut = int(piece.extent * (1 - SPLIT_SHARE))
            return [piece.excerpt(0, cut, "beginning")], [piece.excerpt(cut, piece.extent, "end")]
        held_out = min(max(1, round(validation_share * len(self.pieces))), len(self.pieces) - 1)
        split = train_test_split(list(self.pieces), test_size=held_out, random_state=seed % 2**32)
        train: list[P] = split[0]
        validation: list[P] = split[1]
        wanted, held_s = validation_share * self.seconds, sum(piece.seconds for piece in validation)
        if not wanted / 2 <= held_s <= max(wanted, self.seconds / 2):
            in_turn: list[P] = validation + train
            chosen = _about(wanted, [piece.seconds for piece in in_turn])
            validation = [in_turn[number] for number, held in enumerate(chosen) if held]
            train = [in_turn[number] for number, held in enumerate(chosen) if not held]
        return sorted(train, key=lambda p: p.id), sorted(validation, key=lambda p: p.id)


def _about(wanted: float, lengths: list[float]) -> list[bool]:
    """Which of two or more lengths to take, in turn, for a sum of about `wanted`: at least one, never all.

    >>> _about(1.0, [0.1, 5.0, 0.7, 0.5])
    [True, False, True, False]
    """
    taken, total = [False] * len(lengths), 0.0
    for number, length in enumerate(lengths):
        if total < wanted * 3 / 4 and total + length <= wanted * 3 / 2:
            taken[number], total = True, total + length
    if total < wanted / 2:  # all others are long
        longer = [number for number, held in enumerate(taken) if not held]
        taken[min(longer, key=lambda number: lengths[number])] = True
    if all(taken):
        taken[lengths.index(max(lengths))] = False
    return taken


def load(section: CorpusSection, *, seed: int = 0, display: Display | None = None) -> Corpus[Piece]:
    """Every piece that the section describes as sound, decoded or rendered (or taken from the cache).

    Raises:
        ValueError: the folder is missing, a pattern is not a regular expression, or nothing is left to hear.
    """
    display = display or Display(quiet=True)
    if section.soundfont:
        synth.find_soundfont(Path(section.soundfont).expanduser())
    sources, skipped = _chosen(section, seed)
    # decoding and synthesis run outside the interpreter lock
    outcomes = _prepared(sources, partial(prepare, section=section), display)
    corpus = _gathered(section, outcomes, skipped, display)
    for piece in corpus.pieces:
        for remark in piece.remarks:
            display.say(f"{piece.id} {remark}")
    return corpus


def load_songs(section: CorpusSection, *, seed: int = 0, display: Display | None = None) -> Corpus[Song]:
    """Every score that the section describes as notes, read (or taken from the cache).

    Raises:
        ValueError: as `load`.
    """
    display = display or Display(quiet=True)
    sources, skipped = _chosen(section, seed)
    read = partial(read_notes, programs=section.programs)
    return _gathered(section, _prepared(sources, read, display, workers=1), skipped, display)


def _chosen(section: CorpusSection, seed: int) -> tuple[list[Source], list[tuple[str, str]]]:
    """The files that the section names, `section.pieces` of them at most, and those left out."""
    sources, skipped = find(section)
    if section.pieces is not None and section.pieces < len(sources):
        chosen = np.random.default_rng(seed).choice(len(sources), section.pieces, replace=False)
        sources = [sources[i] for i in sorted(chosen)]
    return sources, skipped


def _gathered(
    section: CorpusSection,
    outcomes: Iterator[tuple[Source, P | str]],
    skipped: list[tuple[str, str]],
    display: Display,
) -> Corpus[P]:
    """The corpus of what could be used, the same content only once; says what was skipped."""
    pieces: dict[str, P] = {}
    for source, outcome in outcomes:
        if isinstance(outcome, str):
            skipped.append((source.id, outcome))
        elif outcome.key in pieces:
            skipped.append((source.id, f"the same content as {pieces[outcome.key].id}"))
        else:
            pieces[outcome.key] = outcome
    few = not pieces and len(skipped) <= 3  # then the refusal names them
    for name, reason in skipped if not few else []:
        display.say(f"skipped {name}: {reason}")
    if skipped and display.quiet and not few:
        display.say(f"skipped {len(skipped)} of {section.path}, which are named without --quiet", always=True)
    if not pieces:
        reasons = "; ".join(f"{printable(name)}: {reason}" for name, reason in skipped[:3])
        reasons += f"; and {len(skipped) - 3:,} more" if len(skipped) > 3 else ""
        raise ValueError(f"nothing to hear in {section.path}: {reasons or 'no audio file or score is in it'}")
    return Corpus(tuple(sorted(pieces.values(), key=lambda p: p.id)), tuple(skipped))


def find(section: CorpusSection) -> tuple[list[Source], list[tuple[str, str]]]:
    """The files that the section names, in order, and those left out, with the reason."""
    include, exclude = _pattern(section.include, "include"), _pattern(section.exclude, "exclude")
    sources, skipped, other, filtered = [], [], Counter[str](), 0
    for name, path in _files(section.path):
        ending = path.suffix.lower()
        text = unicodedata.normalize("NFC", name)
        if (include and not _matches(include, text, "include")) or (exclude and _matches(exclude, text, "exclude")):
            filtered += 1
        elif not path.is_file():
            skipped.append((name, _why_no_file(path)))
        elif path.is_symlink() and _leads_out(path, section.path):
            skipped.append((name, "a link out of the corpus is not followed: put the file itself there"))
        elif ending in AUDIO_ENDINGS or ending in SCORE_ENDINGS:
            sources.append(Source(name, path))
        elif ending in UNDECODABLE_ENDINGS:
            skipped.append((name, f"{ending} cannot be decoded here: convert it to flac, wav, ogg or mp3"))
        else:
            other[ending or "no ending"] += 1
    if filtered:
        skipped.append((pluralize(filtered, "file"), "filtered out by corpus.include or corpus.exclude"))
    skipped += [
        (pluralize(count, "file"), f"{ending}: neither audio nor a score") for ending, count in sorted(other.items())
    ]
    return sources, skipped


def _files(path: str) -> Iterator[tuple[str, Path]]:
    """Names and paths of every file, sorted by name."""
    if path == EMBEDDED_CORPUS:
        from music21 import corpus

        chorales = [Path(p) for p in corpus.getComposer("bach") if Path(p).suffix == ".mxl"]
        seen = set()
        for chorale in sorted(chorales, key=lambda p: p.stem):
            number = chorale.stem.partition("-")[
                0
            ]  # "bwv112.5-sc" is "bwv112.5" again: one of both, so that none leaks
            if number.startswith("bwv") and number not in seen:
                seen.add(number)
                yield chorale.stem, chorale
        return
    folder = Path(path).expanduser()
    if folder.is_file():
        yield folder.name, folder
        return
    if not folder.is_dir():
        missing = f"the corpus {path} is neither a folder nor {EMBEDDED_CORPUS}{suggest_path(folder)}"
        raise ValueError(f"{missing}; check --corpus, or corpus.path")
    if not os.access(folder, os.R_OK | os.X_OK):
        raise ValueError(f"the corpus {path} cannot be read: check its permissions")
    found: list[Path] = []
    unreadable = lambda error: found.append(Path(error.filename))  # noqa: E731
    for parent, folders, names in os.walk(folder, onerror=unreadable):
        folders[:] = [name for name in folders if not name.startswith(".") and Path(name).suffix not in OWN_FOLDERS]
        if folders and len(Path(parent).relative_to(folder).parts) >= MAX_DEPTH:
            found += [Path(parent) / name for name in folders]
            folders.clear()
        names += [name for name in folders if (Path(parent) / name).is_symlink()]
        found += [Path(parent) / name for name in names if not name.startswith(".")]
    yield from sorted((p.relative_to(folder).as_posix(), p) for p in found)


def _leads_out(path: Path, corpus_path: str) -> bool:
    """Whether a link in the corpus leads out of its folder; one that is named itself is meant."""
    folder = os.path.realpath(Path(corpus_path).expanduser())
    return folder != os.path.realpath(path) and os.path.commonpath([folder, os.path.realpath(path)]) != folder


def _why_no_file(path: Path) -> str:
    if path.is_dir() and path.is_symlink():
        return "a link to a folder is not followed"
    if path.is_dir():
        reason = "the folder cannot be read: check its permissions"
        return reason if not os.access(path, os.R_OK | os.X_OK) else f"more than {MAX_DEPTH} folders in folders"
    return "neither a file nor a folder" if path.exists() else "a link that leads nowhere"


def _pattern(patterns: Sequence[str], key: str) -> "regex.Pattern[str] | None":
    """The patterns as one; the package `regex` knows Unicode properties such as \\p{Greek}."""
    if not patterns:
        return None
    for pattern in patterns:
        if math.prod(int(count) or 1 for count in regex.findall(r"(?<=[{,])\d{1,20}", pattern)) > MAX_REPEATS:
            raise ValueError(f"corpus.{key}: {pattern!r} repeats more than {MAX_REPEATS} times: lower its counts")
        try:
            regex.compile(pattern, regex.V1)
        except (regex.error, RecursionError, OverflowError, MemoryError) as error:
            raise ValueError(f"corpus.{key}: {pattern!r} is not a regular expression ({error})") from None
    return regex.compile("|".join(f"(?:{unicodedata.normalize('NFC', p)})" for p in patterns), regex.V1)


def _matches(pattern: "regex.Pattern[str]", text: str, key: str) -> bool:
    try:
        return pattern.search(text, timeout=MATCH_TIMEOUT_S) is not None
    except TimeoutError:
        raise ValueError(
            f"corpus.{key} takes more than {MATCH_TIMEOUT_S:g} s on the name {text!r}: "
            "write it without repeats in repeats"
        ) from None


def _prepared(
    sources: list[Source], read: Callable[[Source], P | str], display: Display, workers: int = WORKERS
) -> Iterator[tuple[Source, P | str]]:
    """Each source with its piece, or the reason why it has none."""
    task = display.task("reading the corpus", len(sources))
    with closing(ordered_map(read, sources, workers)) as outcomes:
        for done, (source, outcome) in enumerate(zip(sources, outcomes, strict=True), start=1):
            task.update(done, f"{done} of {pluralize(len(sources), 'piece')}")
            yield source, outcome
    task.close()


def prepare(source: Source, section: CorpusSection) -> Piece | str:
    """Decode or render a source into the cache; the piece, or the reason why it cannot be heard."""
    if not source.is_score and made_by_a_model(source.path):
        return "a model made it: models learn from people's music"
    try:
        key = audio_key(source, section)
        found = cache.get_audio(key)
        facts = _store(source, section, key) if found is None else found[1]
    except (ValueError, OSError) as error:
        return _reason(source, error)
    if "refused" in facts:
        return str(facts["refused"])
    restore = partial(_restore, source, section, key)
    samples = StoredSamples(cache.entry(key, ".f32"), 0, facts["bytes"] // 4, restore)
    heard = samples[slice(*facts["heard"])]
    piece = Piece(source.id, str(source.path), section.sample_rate_hz, heard, facts["loudness_db"], key)
    return replace(piece, truncated=facts["cut_short"], has_ending=not facts["cut_short"])


def _store(source: Source, section: CorpusSection, key: str) -> dict[str, Any]:
    """Decode or render a source into the cache; what is known of it."""
    rate = section.sample_rate_hz

    def describe(path: Path) -> dict[str, Any]:
        if audio_key(source, section) != key:
            raise ValueError("it changed while it was read: start again when it is complete")
        facts = _facts(path, rate)
        return facts | {"cut_short": not source.is_score and is_truncated(source.path, path.stat().st_size / 4 / rate)}

    blocks = in_blocks(render_score(source, section)) if source.is_score else decode_blocks(source.path, rate)
    return cache.put_audio(key, map(_wanted, blocks), describe)


def _restore(source: Source, section: CorpusSection, key: str) -> None:
    """Put into the cache again what was cleared or damaged there while it was in use.

    Raises:
        ValueError: the source is not what it was any more.
    """
    try:
        _store(source, section, key)
    except (ValueError, OSError) as error:
        why = _reason(source, error)
        raise ValueError(
            f"{source.path} is gone from the cache and cannot be read again ({why}): start again"
        ) from None


def read_notes(source: Source, programs: Sequence[int] = ()) -> Song | str:
    """The notes of a source, of some programs only where they are given, or the reason why it has none to use."""
    if not source.is_score:
        return "a recording; notes are read from MusicXML and MIDI"
    try:
        song = read_song(source.path, name=source.id)
    except (ValueError, OSError) as error:
        return _reason(source, error)
    if all(note.is_drum for note in song.notes):
        return "there are only drums in it"
    if programs:
        notes = tuple(note for note in song.notes if not note.is_drum and note.program in programs)
        song = replace(song, notes=notes, key=f"{song.key}{sorted(programs)}")
    return song if song.notes else f"no note of the programs {', '.join(map(str, programs))} is in it"


def _reason(source: Source, error: ValueError | OSError) -> str:
    """Why a file is skipped; an error of the cache, which no other file would escape, is raised again."""
    if isinstance(error, ValueError):
        return " ".join(str(error).removeprefix(f"{source.path}: ").removeprefix(f"{source.path.name}: ").split())
    of_the_cache = error.filename is not None and Path(error.filename) != source.path
    if of_the_cache or error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        raise error
    return error.strerror or str(error)


def _wanted(block: np.ndarray) -> np.ndarray:
    check_cancelled()
    return block


def _facts(path: Path, rate: int) -> dict[str, Any]:
    samples = StoredSamples(path)
    try:
        check_audible(samples, rate, min_samples=int(MIN_SECONDS * rate), source="it")
    except ValueError as error:
        return {"refused": str(error)}
    loudness = loudness_db(samples, rate)
    return {"loudness_db": loudness, "heard": audible_range(samples, rate, loudness)}


def audio_key(source: Source, section: CorpusSection) -> str:
    """The cache key of a source's audio: its content, the rate and, for a score, how it is rendered."""
    if not source.is_score:
        return cache.key_of(source.path, "audio", section.sample_rate_hz, AUDIO_VERSION)
    font = synth.find_soundfont(Path(section.soundfont).expanduser() if section.soundfont else None)
    sound = (font.name, font.stat().st_size) if font else None  # wherever it is installed
    expression = ("expressive",) if source.expressive else ()
    versions = (AUDIO_VERSION, CACHE_VERSION, synth.VERSION, version("music21"), version("symusic"))
    return cache.key_of(source.path, "render", section.sample_rate_hz, section.program, sound, *versions, *expression)


def render_score(source: Source, section: CorpusSection) -> np.ndarray:
    """A score as mono audio, played by the section's program (or as written) and SoundFont."""
    performance = perform(source.path, expressive=source.expressive)
    if section.program is not None:
        performance = performance.with_program(section.program)
    font = Path(section.soundfont).expanduser() if section.soundfont else None
    return synth.render(performance, section.sample_rate_hz, soundfont=font)


def load_prompt(path: Path, section: CorpusSection, *, expressive: bool = False, ring_out: bool = False) -> Piece:
    """A prompt (score, MIDI or audio) as sound at the model's rate.

    A score ends where its last bar ends, so that a continuation begins there and not after the last notes have died
    away; with `ring_out` they are heard to their end. `expressive` is of `continuo.score.performance.perform`.

    Raises:
        ValueError: the file is missing, of another kind, unreadable, silent or too short.
    """
    if path.name.startswith(NOTES_PREFIX):
        raise ValueError(f"{path} prompts models of notes, and this one is of sound: give a score or a recording")
    source = _prompt_source(path, SCORE_ENDINGS | AUDIO_ENDINGS, expressive=expressive)
    piece = prepare(source, section)
    if isinstance(piece, str):
        raise ValueError(f"the prompt {path} cannot be used: {piece}")
    samples = StoredSamples(cache.entry(piece.key, ".f32"), restore=partial(_restore, source, section, piece.key))
    if source.is_score and not ring_out:
        samples = samples[: round(perform(path, expressive=expressive).seconds * section.sample_rate_hz)]
    return replace(piece, samples=samples, key="")


def load_prompt_song(path: Path) -> Song:
    """A prompt (score or MIDI) as notes; `notes:` and names or MIDI numbers are quarter notes, as `notes:C4,E4,C4+G4`.

    Raises:
        ValueError: the file is missing, of another kind, unreadable, or without a pitched note.
    """
    if path.name.startswith(NOTES_PREFIX):
        return written_out(path.name.removeprefix(NOTES_PREFIX))
    song = read_notes(_prompt_source(path, SCORE_ENDINGS))
    if isinstance(song, str):
        raise ValueError(f"the prompt {path} cannot be used: {song}")
    return song


def written_out(text: str) -> Song:
    """Quarter notes after one another, separated by commas; what sounds together is joined by +, a rest is r.

    >>> [(note.onset, note.pitch) for note in written_out("C4,r,64+G4").notes]
    [(0, 60), (960, 64), (960, 67)]

    Raises:
        ValueError: a name is no note.
    """
    notes = []
    words = text.split(",")
    for place, word in enumerate(words):
        for name in word.split("+"):
            if name.strip().lower() != "r":
                notes.append(SongNote(place * QUARTER, pitch_number(name.strip()), QUARTER))
    if not notes:
        raise ValueError(f"the prompt {NOTES_PREFIX}{text} holds no note: write {NOTES_PREFIX}C4,E4,G4, say")
    return Song(text, text, tuple(sorted(set(notes))), len(words) * QUARTER)


def _prompt_source(path: Path, endings: frozenset[str], *, expressive: bool = False) -> Source:
    if ADDRESS.match(str(path)):
        raise ValueError("--prompt takes a file, not an address of the web: download it first")
    if not path.exists():
        raise ValueError(f"--prompt {path} does not exist{suggest_path(path) or '; check the spelling'}")
    if not path.is_file() and not path.is_dir():
        raise ValueError(f"the prompt {path} is neither a file nor a folder: write what comes from it to a file first")
    if path.is_dir() or path.suffix.lower() not in endings:
        known = f"({', '.join(sorted(endings))})"
        if path.is_dir():
            raise ValueError(f"the prompt {path} is a folder: name a file in it {known}")
        what = "cannot be read as notes" if path.suffix.lower() in AUDIO_ENDINGS else "is not a file of a known kind"
        raise ValueError(f"the prompt {path} {what} {known}")
    return Source(path.name, path, expressive)


def build_parser() -> argparse.ArgumentParser:
    parser = Parser("corpus", __doc__)
    parser.add_argument("folder", nargs="?", metavar="DIR", help=f"a folder or a file, or {EMBEDDED_CORPUS}")
    parser.add_argument("--notes", action="store_true", help="read scores as notes, for models of notes")
    parser.add_argument("--text", action="store_true", help="print what is written, bar by bar")
    parser.add_argument("--cache", action="store_true", help="say where the cache of decoded audio is, and its size")
    parser.add_argument("--clear-cache", action="store_true", help="remove the cache; it fills again when it is needed")
    parser.add_argument("--quiet", action="store_true", help="no progress, and what is skipped is counted, not named")
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
        section = CorpusSection.model_construct(path=arguments.folder)  # unchecked: any name that the file system has
        with Display(quiet=arguments.quiet) as display:
            if arguments.notes or arguments.text:
                _print_songs(load_songs(section, display=display), text=arguments.text)
            else:
                corpus = load(section, display=display)
                for piece in corpus.pieces:
                    print(f"{piece.seconds:8.1f} s  {piece.loudness_db:6.1f} dB  {printable(piece.id)}")
                _print_total(corpus)
    return 0


def _print_songs(corpus: Corpus[Song], *, text: bool) -> None:
    for song in corpus.pieces:
        print(f"{song.seconds:8.1f} s  {len(song.notes):6} notes  {printable(song.id)}")
        if text:
            print(song.text())
    _print_total(corpus)


def _print_total(corpus: Corpus[Any]) -> None:
    print(f"{pluralize(len(corpus.pieces), 'piece')}, {corpus.seconds / 60:.1f} minutes; {corpus.left_out} skipped")


if __name__ == "__main__":
    sys.exit(main())
