"""A picture of a performance: piano roll and spectrogram on one time axis."""

from pathlib import Path

import numpy as np
import soundfile

from continuo.audio.pictures import analyze, draw_spectrogram, new_figure, save_figure
from continuo.score.notes import Performance

SHOWN_S = 40.0  # seconds of a performance in its picture, from the beginning


def draw_performance(performance: Performance, wav: Path, picture: Path, title: str) -> None:
    """Draw the piano roll of a performance, by instrument, over the spectrogram of its rendering `wav`, as a PNG.

    The fundamentals of the notes are drawn into the spectrogram too.
    """
    from pretty_midi import program_to_instrument_name

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
