"""A score as it will be heard: MusicXML or MIDI in, timed notes out.

    python -m continuo.performance song.mxl --out heard --midi --wav --picture

`perform` reads a file, `perform_score` a music21 score; both give a `Performance`, which is all that the synthesiser
(`continuo.synth`) and the symbolic representations need. What is performed and how is in docs/SCORES.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from continuo import cache
from continuo.audio import write_wav
from continuo.command import Parser, printable, run_main
from continuo.interpretation import interpret
from continuo.midi import read_midi
from continuo.notes import Note, Performance
from continuo.score import at_sounding_pitch, explained, parse_score, read_bytes
from continuo.sounds import Sound, check_count, check_length
from continuo.synth import check_rate, find_soundfont, render, write_midi

if TYPE_CHECKING:
    from music21.stream import Score

MIDI_ENDINGS = frozenset({".mid", ".midi"})
SCORE_ENDINGS = frozenset({".musicxml", ".xml", ".mxl"}) | MIDI_ENDINGS
SHORTEST_S = 0.01
"""No sounding note is shorter; shorter ones are clicks."""
CACHE_VERSION = 4
"""Part of every cache key: raise it whenever a score would be performed differently."""


HELP = """Perform scores: write each as it will be heard.

    python -m continuo.performance song.mxl --out heard
    python -m continuo.performance song.mxl --out heard --wav --picture
    python -m continuo.performance *.musicxml --out heard --midi --expressive --json
"""


def perform(path: Path, *, expressive: bool = False) -> Performance:
    """Any score or MIDI file as timed notes; the second reading of the same content comes from a cache.

    Args:
        expressive: also perform what only words and signs say about time: ritardando, "Andante", fermatas that stop
            the beat. Off, the beat is as exact as a notation program's.

    Raises:
        ValueError: one line saying why it cannot be performed: missing, empty, ill-formed, oversize, too nested.
    """
    path = Path(path)
    data, is_midi = score_bytes(path)
    key = cache.key_of_values("performance", CACHE_VERSION, expressive, hashlib.sha256(data).hexdigest())
    found = cache.get_json(key)
    if found is not None:
        return Performance.from_dict(found)
    with explained(path.name, "cannot be performed"):
        performance = perform_midi(data) if is_midi else perform_score(parse_score(data), expressive=expressive)
    cache.put_json(key, performance.to_dict())
    return performance


def score_bytes(path: Path) -> tuple[bytes, bool]:
    """The content of a score or MIDI file, and whether it is MIDI, whatever its name says.

    Raises:
        ValueError: it has another ending, or cannot be read.
    """
    if path.suffix.lower() not in SCORE_ENDINGS:
        raise ValueError(f"{path.name}: not a score; known endings are {' '.join(sorted(SCORE_ENDINGS))}")
    data = read_bytes(path)
    return data, data.startswith((b"MThd", b"RIFF")) or path.suffix.lower() in MIDI_ENDINGS


def perform_midi(data: bytes) -> Performance:
    """The bytes of a MIDI file as timed notes.

    Raises:
        ValueError: damaged, without notes, or too long.
    """
    performance = _finish(*read_midi(data))
    if not performance.notes:
        raise ValueError("there is no note to perform")
    return performance


def perform_score(score: Score, *, expressive: bool = False) -> Performance:
    """A parsed music21 score as timed notes, transposing parts at sounding pitch; the score stays as it was.

    Args:
        expressive: as in `perform`.

    A score of rests alone is silence, and says so in its warnings.

    Raises:
        ValueError: neither notes nor rests, repeats without end, too many notes, or too long.
    """
    sounds, seconds, warnings = interpret(at_sounding_pitch(score), expressive=expressive)
    if not sounds and not seconds:
        raise ValueError("there is neither a note nor a rest to perform")
    return _finish(sounds, seconds, warnings if sounds else [*warnings, "there is no note: silence"])


def _finish(sounds: Iterable[Sound], seconds: float, warnings: Iterable[str]) -> Performance:
    """Check, clip and sort what was read."""
    sounds = list(sounds)
    check_count(len(sounds))
    notes = []
    for s in sounds:
        if not (math.isfinite(s.onset_s) and math.isfinite(s.end_s) and math.isfinite(s.pitch)):
            raise ValueError("a note has no finite time or pitch; export the score again")
        if s.end_s > s.onset_s and 0 <= s.pitch <= 127:
            onset_s = max(s.onset_s, 0.0)
            velocity = min(127, max(1, round(s.velocity)))
            notes.append(Note(onset_s, max(s.end_s - onset_s, SHORTEST_S), s.pitch, velocity, s.program, s.is_drum))
    notes.sort(key=lambda n: (n.onset_s, n.pitch, n.program, n.duration_s))
    seconds = max([seconds, *(n.onset_s + n.duration_s for n in notes)])
    check_length(seconds)
    return Performance(tuple(notes), seconds, tuple(dict.fromkeys(warnings)))


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser("python -m continuo.performance", HELP)
    parser.add_argument("scores", nargs="+", type=Path, metavar="SCORE", help="MusicXML or MIDI file")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for NAME.mid and NAME.wav")
    parser.add_argument("--midi", action="store_true", help="write MIDI (without --midi and --wav, both are written)")
    parser.add_argument("--wav", action="store_true", help="write audio")
    parser.add_argument("--picture", action="store_true", help="also NAME.png, the notes over the spectrogram")
    parser.add_argument("--expressive", action="store_true", help="let fermatas and words such as rit. change the beat")
    parser.add_argument("--soundfont", type=Path, metavar="FILE", help="SoundFont to play with (.sf2, .sf3)")
    parser.add_argument("--rate", type=int, default=44_100, metavar="HZ", help="sample rate of the audio (44100)")
    parser.add_argument("--mono", action="store_true", help="one channel instead of two")
    parser.add_argument("--quiet", action="store_true", help="no words on what was performed")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Perform every score; one bad file does not stop the others, but makes the exit status 2."""
    args = build_parser().parse_args(argv)
    return run_main(lambda: _perform_all(args), name="performance")


def _perform_all(args: argparse.Namespace) -> int:
    soundfont = find_soundfont(args.soundfont)
    check_rate(args.rate)
    args.out.mkdir(parents=True, exist_ok=True)
    reports: dict[str, dict[str, Any]] = {}
    taken: set[str] = set()
    inputs = {os.path.realpath(path) for path in args.scores}
    for path in args.scores:
        try:
            reports[str(path)] = _write_one(path, _free_stem(path, taken), args, soundfont, inputs)
        except ValueError as error:
            reports[str(path)] = {"error": str(error)}
            print(f"performance: {printable(str(error))}", file=sys.stderr)
    if args.json:
        print(json.dumps({"files": reports, "failed": sum("error" in r for r in reports.values())}))
    return 2 if any("error" in report for report in reports.values()) else 0


def _free_stem(path: Path, taken: set[str]) -> str:
    """A file name no other score of this run uses: a/song.xml and b/song.mxl become song and song-2."""
    stem, number = path.stem, 1
    while stem in taken:
        number += 1
        stem = f"{path.stem}-{number}"
    taken.add(stem)
    return stem


def _write_one(
    path: Path, stem: str, args: argparse.Namespace, soundfont: Path | None, inputs: set[str]
) -> dict[str, Any]:
    """Perform one score and write what was asked for, never over one of the inputs; returns its report."""
    performance = perform(path, expressive=args.expressive)
    report: dict[str, Any] = {"notes": len(performance.notes), "seconds": round(performance.seconds, 3)}
    if args.midi or not args.wav:
        target = args.out / f"{stem}.mid"
        if os.path.realpath(target) in inputs:
            raise ValueError(f"{path.name}: {target} would overwrite a score of this run; choose another --out")
        write_midi(performance, target)
        report["midi"] = str(target)
    if args.wav or args.picture or not args.midi:
        target = args.out / f"{stem}.wav"
        sound = render(performance, args.rate, soundfont=soundfont, stereo=not args.mono)
        write_wav(target, [sound.T], args.rate, channels=1 if args.mono else 2)
        report["wav"] = str(target)
        if args.picture:
            from continuo.report import draw_performance  # brings torch

            picture = target.with_suffix(".png")
            draw_performance(performance, target, picture, printable(path.name))
            report["picture"] = str(picture)
    report["warnings"] = list(performance.warnings)
    if not (args.json or args.quiet):
        print(f"{printable(path.name)}: {report['notes']} notes, {report['seconds']:.1f} s")
        for warning in performance.warnings:
            print(f"  {printable(warning)}")
    return report


if __name__ == "__main__":
    sys.exit(main())
