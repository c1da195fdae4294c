"""Perform scores: write each as it will be heard.

python -m continuo.performance song.mxl --out heard
python -m continuo.performance song.mxl --out heard --wav --picture
python -m continuo.performance *.musicxml --out heard --midi --expressive --json
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from continuo.audio.files import write_wav
from continuo.score.performance import perform
from continuo.score.synth import check_rate, find_soundfont, render, write_midi
from continuo.system.command_line import Parser, run_main
from continuo.system.text import printable


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser("python -m continuo.performance", __doc__)
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
            from continuo.score.pictures import draw_performance  # brings torch

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
