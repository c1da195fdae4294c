"""What a file looks like before anything is made of it: a score engraved (verovio), the notes of it, its length.

    python -m web.preview song.mxl --out pages --width 900

Files come from strangers and much that reads them is C++, so the studio runs this as a child process with a time
limit; memory is limited here. The engraved pages are `page-1.svg`, `page-2.svg`, ... in the folder; the rest is one
JSON object on the last line of standard output.
"""

import argparse
import json
import resource
import sys
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from continuo.audio.files import AUDIO_ENDINGS, decode_blocks, is_truncated
from continuo.audio.piece import TRUNCATED, check_peak
from continuo.score.performance import MIDI_ENDINGS, SCORE_ENDINGS, perform
from continuo.system.command_line import Parser, run_main

MAX_BYTES = 4 << 30
"""Memory that reading a file may take."""
MAX_PAGES, MAX_NOTES = 12, 4000
ENDINGS = SCORE_ENDINGS | AUDIO_ENDINGS
SCALE = (
    40  # percent; verovio's unit is then a fortieth of a pixel of 100 percent, so a line of `width` pixels fits a page
)


def look(path: Path, folder: Path, width: int) -> dict[str, Any]:
    """Read a file, and engrave it where it is a score.

    Args:
        width: of an engraved page, pixels, 200 to 2000.

    Returns:
        `seconds`; of scores and MIDI `notes`, rows of onset and length in seconds and pitch, the first `MAX_NOTES` of
        them, and `warnings`; `pages`, how many were engraved into `folder`.

    Raises:
        ValueError: the file cannot be read, with the reason.
    """
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise ValueError(f"{path.name} is not a file of a known kind ({', '.join(sorted(ENDINGS))})")
    if ending in AUDIO_ENDINGS:
        try:
            seconds, peak = _length_and_peak(path)
        except ValueError as error:
            raise ValueError(f"{path.name} {error}") from None
        if seconds == 0:
            raise ValueError(f"{path.name} holds no sound: is it whole?")
        check_peak(peak, path.name)
        warnings = [TRUNCATED] if is_truncated(path, seconds) else []
        return {"seconds": seconds, "notes": [], "warnings": warnings, "pages": 0}
    performance = perform(path)
    notes = [[round(n.onset_s, 3), round(n.duration_s, 3), n.pitch] for n in performance.notes[:MAX_NOTES]]
    pages = 0 if ending in MIDI_ENDINGS else engrave(path, folder, width)
    return {"seconds": performance.seconds, "notes": notes, "warnings": performance.warnings, "pages": pages}


def engrave(path: Path, folder: Path, width: int) -> int:
    """Engrave a MusicXML file as SVG pages of `width` pixels; returns how many, 0 where verovio cannot read it."""
    import verovio

    verovio.enableLog(verovio.LOG_OFF)
    toolkit = verovio.toolkit()
    page = {"pageWidth": width * 100 // SCALE, "pageHeight": 2200, "adjustPageHeight": True}
    toolkit.setOptions(page | {"scale": SCALE, "svgViewBox": True, "header": "none", "footer": "none"})
    if not toolkit.loadFile(str(path)):
        return 0
    pages = min(int(toolkit.getPageCount()), MAX_PAGES)
    for number in range(1, pages + 1):
        (folder / f"page-{number}.svg").write_text(toolkit.renderToSVG(number), encoding="utf-8")
    return pages


def _length_and_peak(path: Path) -> tuple[float, float]:
    """Seconds, and the largest absolute sample; NaN where one is."""
    try:
        rate_hz = soundfile.info(path).samplerate
    except soundfile.SoundFileError:
        rate_hz = 1  # whatever it is: decoding finds the words
    length, peak = 0, 0.0
    for block in decode_blocks(path, rate_hz):
        length, peak = length + len(block), float(np.maximum(peak, np.abs(block).max(initial=0.0)))
    return length / rate_hz, peak


def build_parser() -> argparse.ArgumentParser:
    parser = Parser("python -m web.preview", __doc__)
    parser.add_argument("file", type=Path, help="MusicXML, MIDI or audio")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the engraved pages")
    parser.add_argument("--width", type=int, default=1000, help="of a page, pixels (default: 1000)")
    return parser


def main(argv: list[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    resource.setrlimit(resource.RLIMIT_AS, (MAX_BYTES, MAX_BYTES))
    return run_main(lambda: _run(arguments), name="sheet")


def _run(arguments: argparse.Namespace) -> int:
    if not 200 <= arguments.width <= 2000:
        raise ValueError(f"--width {arguments.width} must be 200 to 2000 pixels")
    print(json.dumps(look(arguments.file, arguments.out, arguments.width)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
