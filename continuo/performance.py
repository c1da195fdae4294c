"""Perform scores: write each as MIDI and audio.

%(prog)s song.mxl --out performed
%(prog)s song.mxl --out performed --wav --picture
%(prog)s *.musicxml --out performed --midi --json
%(prog)s *.musicxml --out performed --notes
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
from pathlib import Path

import numpy as np

from continuo.audio.files import write_wav
from continuo.score.notes import Performance
from continuo.score.performance import perform
from continuo.score.synth import check_rate, find_soundfont, render, write_midi
from continuo.system.command_line import Parser, run_main
from continuo.system.files import write_text
from continuo.system.text import printable

SHOWN_S = 40.0  # seconds of a performance in its picture, from the beginning


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser("python -m continuo.performance", __doc__)
    parser.add_argument("scores", nargs="+", type=Path, metavar="SCORE", help="MusicXML or MIDI file")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for NAME.mid and NAME.wav")
    parser.add_argument("--midi", action="store_true", help="write MIDI (default: MIDI and audio)")
    parser.add_argument("--notes", action="store_true", help="write NAME.notes.json, a list of the notes")
    parser.add_argument("--wav", action="store_true", help="write audio (default: MIDI and audio)")
    parser.add_argument("--picture", action="store_true", help="also write NAME.png, the notes over the spectrogram")
    parser.add_argument("--soundfont", type=Path, metavar="FILE", help="SoundFont to play with (.sf2, .sf3)")
    parser.add_argument("--rate", type=int, default=44_100, metavar="HZ", help="sample rate (default: 44100)")
    parser.add_argument("--mono", action="store_true", help="write one channel instead of two")
    parser.add_argument("--quiet", action="store_true", help="print no report")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Perform all scores; a bad file does not stop the others, but makes the exit status 2."""
    arguments = build_parser().parse_args(argv)
    return run_main(lambda: _perform_all(arguments), name="performance")


def _perform_all(arguments: argparse.Namespace) -> int:
    """Check the options, perform all scores, and return the exit status."""
    soundfont = find_soundfont(arguments.soundfont)
    check_rate(arguments.rate)
    arguments.out.mkdir(parents=True, exist_ok=True)
    reports: dict[str, dict[str, object]] = {}
    stems: set[str] = set()
    for path in arguments.scores:
        try:
            reports[str(path)] = _perform_one(path, _free_stem(path, stems), arguments, soundfont)
        except ValueError as error:
            reports[str(path)] = {"error": str(error)}
            print(f"performance: {printable(str(error))}", file=sys.stderr)
    failed = sum("error" in report for report in reports.values())
    if arguments.json:
        print(json.dumps({"files": reports, "failed": failed}))
    return 2 if failed else 0


def _free_stem(path: Path, taken: set[str]) -> str:
    """Return a file name that is new in this run: a/song.xml and b/song.mxl become song and song-2."""
    names = itertools.chain([path.stem], (f"{path.stem}-{number}" for number in itertools.count(2)))
    stem = next(name for name in names if name not in taken)
    taken.add(stem)
    return stem


def _perform_one(path: Path, stem: str, arguments: argparse.Namespace, soundfont: Path | None) -> dict[str, object]:
    """Perform one score, write its files, and return its report; raise ValueError if a file would replace a score."""
    performance = perform(path)
    report: dict[str, object] = {"notes": len(performance.notes), "seconds": round(performance.seconds, 3)}
    midi, wav, picture = (arguments.out / f"{stem}{ending}" for ending in (".mid", ".wav", ".png"))
    if arguments.midi or not (arguments.wav or arguments.notes):
        if os.path.realpath(midi) in map(os.path.realpath, arguments.scores):
            raise ValueError(f"{path.name}: {midi} would overwrite a score of this run; choose another --out")
        write_midi(performance, midi)
        report["midi"] = str(midi)
    if arguments.notes:
        listed = arguments.out / f"{stem}.notes.json"
        write_text(listed, json.dumps(sorted(listed_notes(performance))) + "\n")
        report["notes_file"] = str(listed)
    if arguments.wav or arguments.picture or not (arguments.midi or arguments.notes):
        sound = render(performance, arguments.rate, soundfont=soundfont, stereo=not arguments.mono)
        write_wav(wav, [sound.T], arguments.rate, channels=1 if arguments.mono else 2)
        report["wav"] = str(wav)
    if arguments.picture:
        _draw(performance, wav, picture, printable(path.name))
        report["picture"] = str(picture)
    report["warnings"] = list(performance.warnings)
    if not (arguments.json or arguments.quiet):
        print(f"{printable(path.name)}: {report['notes']} notes, {performance.seconds:.1f} s")
        for warning in performance.warnings:
            print(f"  {printable(warning)}")
    return report


def listed_notes(performance: Performance) -> list[tuple[float, float, float, int, int, bool]]:
    """Return the notes as `(onset_s, midi_pitch, duration_s, program, velocity, is_drum)`."""
    return [(n.onset_s, n.pitch, n.duration_s, n.program, n.velocity, n.is_drum) for n in performance.notes]


def _draw(performance: Performance, wav: Path, picture: Path, title: str) -> None:
    """Draw the piano roll of a performance, by instrument, over the spectrogram of its rendering `wav`, as a PNG.

    The fundamentals of the notes are drawn into the spectrogram too.
    """
    import soundfile
    from pretty_midi import program_to_instrument_name

    from continuo.audio.pictures import analyze, draw_spectrogram, new_figure, save_figure  # slow: imports torch

    shown_s = min(SHOWN_S, soundfile.info(wav).duration)
    sound = analyze(wav, 0.0, shown_s)
    figure = new_figure(12, 8)
    roll, image = figure.subplots(2, 1, sharex=True)
    notes = [note for note in performance.notes if note.onset_s < shown_s]
    for number, (is_drum, program) in enumerate(sorted({(note.is_drum, note.program) for note in notes})):
        part = [note for note in notes if (note.is_drum, note.program) == (is_drum, program)]
        pitch, onset_s, end_s = np.array([(n.pitch, n.onset_s, n.onset_s + n.duration_s) for n in part]).T
        name = "percussion" if is_drum else program_to_instrument_name(program)
        roll.hlines(pitch, onset_s, end_s, linewidth=4, color=f"C{number % 10}", label=name)
        roll.plot(onset_s, pitch, "|", color="black", markersize=7)
        if not is_drum:
            image.hlines(440 * 2 ** ((pitch - 69) / 12), onset_s, end_s, linewidth=1, color="#38d6c0")
    roll.set(ylabel="pitch (60 is middle C)")
    roll.set_title(title, parse_math=False)
    roll.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=6)
    draw_spectrogram(figure, image, sound, lowest_hz=50)
    save_figure(figure, picture)


if __name__ == "__main__":
    sys.exit(main())
