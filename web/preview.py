"""Preview a file for the page: its length, its notes, and a score engraved as SVG pages by verovio.

Uploads may be damaged or hostile, so the studio runs `python -m web.preview FILE FOLDER WIDTH` as a child process with
limits on time and memory. The last line of standard output is a JSON object, `Preview`.
"""

import json
import resource
import sys
from pathlib import Path
from typing import TypedDict

import numpy as np
import soundfile

from continuo.audio.files import AUDIO_ENDINGS, damage, decode_blocks
from continuo.audio.piece import check_peak
from continuo.score.performance import MIDI_ENDINGS, SCORE_ENDINGS, perform
from continuo.system.command_line import run_main

MAX_MEMORY_BYTES = 4 << 30
MAX_PAGES, MAX_NOTES = 12, 4000
MIN_WIDTH, MAX_WIDTH = 200, 2000  # of an engraved page in pixels
SCALE_PERCENT = 40  # size of the engraving; verovio's page width is in pixels at 100 percent
SUFFIXES = SCORE_ENDINGS | AUDIO_ENDINGS


class Preview(TypedDict):
    """The facts about a file that the page shows."""

    seconds: float
    notes: list[tuple[float, float, float]]  # onset (s), duration (s), MIDI pitch; empty for a recording
    warnings: list[str]
    pages: int  # number of engraved pages


def read_preview(path: Path, folder: Path, width: int) -> Preview:
    """Read a file; engrave a score as `page-1.svg`, `page-2.svg`, ... in `folder`, `width` pixels wide (200 to 2000).

    ValueError: the file cannot be read, with the reason.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{path.name} is not a file of a known kind ({', '.join(sorted(SUFFIXES))})")
    if suffix in AUDIO_ENDINGS:
        try:
            seconds, peak = _length_and_peak(path)
        except ValueError as error:
            raise ValueError(f"{path.name} {error}") from None
        if seconds == 0:
            raise ValueError(f"{path.name} contains no sound: is it complete?")
        check_peak(peak, path.name)
        warning = damage(path, seconds)
        return {"seconds": seconds, "notes": [], "warnings": [warning] * bool(warning), "pages": 0}
    performance = perform(path)
    notes = [(round(n.onset_s, 3), round(n.duration_s, 3), n.pitch) for n in performance.notes[:MAX_NOTES]]
    pages = 0 if suffix in MIDI_ENDINGS else engrave(path, folder, min(max(width, MIN_WIDTH), MAX_WIDTH))
    return {"seconds": performance.seconds, "notes": notes, "warnings": list(performance.warnings), "pages": pages}


def engrave(path: Path, folder: Path, width: int) -> int:
    """Engrave a MusicXML file as SVG pages and return their number: 0 if verovio cannot read it."""
    import verovio

    verovio.enableLog(verovio.LOG_OFF)
    toolkit = verovio.toolkit()
    page = {"pageWidth": width * 100 // SCALE_PERCENT, "pageHeight": 2200, "adjustPageHeight": True}
    toolkit.setOptions(page | {"scale": SCALE_PERCENT, "svgViewBox": True, "header": "none", "footer": "none"})
    if not toolkit.loadFile(str(path)):
        return 0
    pages = min(int(toolkit.getPageCount()), MAX_PAGES)
    for number in range(1, pages + 1):
        (folder / f"page-{number}.svg").write_text(toolkit.renderToSVG(number), encoding="utf-8")
    return pages


def _length_and_peak(path: Path) -> tuple[float, float]:
    """Return the seconds of a recording and its largest absolute sample, NaN if any sample is NaN."""
    try:
        rate_hz = soundfile.info(path).samplerate
    except soundfile.SoundFileError:
        rate_hz = 1  # decoding raises the error that names the reason
    length, peak = 0, 0.0
    for block in decode_blocks(path, rate_hz):
        length += len(block)
        peak = float(np.maximum(peak, np.abs(block).max(initial=0.0)))
    return length / rate_hz, peak


def main() -> int:
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    return run_main(_run, name="preview")


def _run() -> int:
    path, folder, width = sys.argv[1:]
    print(json.dumps(read_preview(Path(path), Path(folder), int(width))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
