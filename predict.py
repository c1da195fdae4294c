"""Continue a score, MIDI file or recording, with a model that is trained or still training.

python predict.py --prompt song.musicxml --frames 500
python predict.py --prompt song.mxl --frames 1000 --seed 7 --out take7.wav
python predict.py --prompt riff.wav --frames 500 --continuation-only --force
python predict.py --prompt none --frames 300 --takes 10 --meta notes.json
python predict.py --prompt song.mxl --frames 1000 --out - | aplay -

A model of sound continues scores, MIDI files and recordings as sound. A model of notes continues scores and MIDI files,
and writes MIDI and MusicXML beside the WAV.
"""

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from continuo.system.command_line import Parser, exit_now, nonempty_path, run_main
from continuo.system.files import check_space, check_writable
from continuo.system.paths import MODELS
from continuo.system.text import pluralize, printable

MAX_FRAMES = 1_000_000  # over four hours at the default rate
MAX_TAKES = 10_000
NO_PROMPT = Path("none")
STANDARD_OUTPUT = Path("-")
SAMPLE_BYTES, PICTURE_BYTES = 2, 2e6  # of a WAV, and of a picture at most
DEMO_MODEL = MODELS / "demo" / "chorales.json"
TOGETHER = 16  # takes that are drawn side by side
PICTURE_FRAMES = 1000  # which take as long as a picture
ENOUGH_FRAMES = 10_000  # for a process to be worth its start
Job = tuple[Any, Path, int]  # a take, the WAV to write and the seed
AND_THEN = ", and another one begins (--until-end stops there)"


def build_parser() -> argparse.ArgumentParser:
    parser = Parser("predict", __doc__)
    parser.add_argument(
        "--prompt",
        type=nonempty_path,
        required=True,
        metavar="FILE",
        help="MusicXML, MIDI or audio; none: from nothing; notes:C4,E4,C4+G4: quarter notes, for models of notes",
    )
    parser.add_argument("--prompt-share", type=float, default=1.0, metavar="S", help="of it that is continued (1)")
    parser.add_argument(
        "--frames", type=int, required=True, metavar="N", help="model steps to add; the seconds are printed"
    )
    parser.add_argument(
        "--meta", type=Path, help="metadata file (default: model.json, or else the demo model that comes along)"
    )
    parser.add_argument(
        "--out",
        type=nonempty_path,
        metavar="FILE",
        help="the WAV to write; the rest goes beside it (default: PROMPT.continued.wav, here); -: the sound alone, "
        "to standard output while it is made",
    )
    parser.add_argument(
        "--temperature",
        type=float,
        default=1.0,
        help="1 is natural, lower is tamer, 0 takes the likeliest (default: 1)",
    )
    parser.add_argument(
        "--coarse-temperature",
        type=float,
        metavar="T",
        help="of what is played, times that (default: as the metadata file says, or 1.08)",
    )
    parser.add_argument(
        "--fine-temperature",
        type=float,
        metavar="T",
        help="of how it sounds, times that (default: as the metadata file says, or 0.7)",
    )
    parser.add_argument(
        "--top-p", type=float, default=1.0, help="keep only the likeliest choices; below 1 onsets get lost (default: 1)"
    )
    parser.add_argument("--seed", type=int, default=0, help="another seed, another take (default: 0)")
    parser.add_argument(
        "--takes", "--songs", type=int, default=1, metavar="K", help="so many of them, of K seeds from --seed on"
    )
    parser.add_argument("--device", default="auto", help="auto (CUDA, then MPS, then CPU), cuda, mps or cpu")
    parser.add_argument(
        "--expressive", action="store_true", help="let rit., accel. and fermatas of a score change the beat"
    )
    parser.add_argument(
        "--until-end", action="store_true", help="stop where the model ends the piece; --frames is then the most"
    )
    parser.add_argument("--continuation-only", action="store_true", help="leave the prompt out of the WAV")
    parser.add_argument("--force", action="store_true", help="overwrite outputs that exist")
    parser.add_argument("--quiet", action="store_true", help="no progress and no words")
    parser.add_argument("--json", action="store_true", help="print the results as one JSON object on the last line")
    return parser


def main(argv: list[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    return run_main(lambda: _run(arguments), name="predict")


def _run(arguments: argparse.Namespace) -> int:
    _check(arguments)
    outs = _outs(arguments)
    if arguments.out != STANDARD_OUTPUT:
        check_all(arguments, outs, (".wav", ".png"))

    import torch

    from continuo.model.sampling import Sampling
    from continuo.system.device import choose
    from continuo.system.progress import Display
    from predictor import Predictor

    torch.set_num_threads(1)  # one step is too small to share, and a training may want the other cores
    device, _ = choose(arguments.device)
    with Display(quiet=arguments.quiet) as display:
        asked = {name: getattr(arguments, name) for name in Sampling.__dataclass_fields__}
        Sampling().but(**asked)  # refuses what cannot be meant before anything is loaded
        predictor = Predictor.load(_model(arguments.meta), device)
        how = predictor.sampling.but(**asked)
        sound = predictor.modality == "sound"
        if not sound and arguments.out != STANDARD_OUTPUT:
            check_all(arguments, outs, (".mid", ".musicxml"))
        prompt = None
        if arguments.prompt != NO_PROMPT:
            prompt = predictor.prompt(arguments.prompt, expressive=arguments.expressive, ring_out=arguments.frames == 0)
            if arguments.prompt_share < 1:
                prompt = prompt.excerpt(0, round(prompt.extent * arguments.prompt_share), "beginning")
                if prompt.empty:
                    share = f"--prompt-share {arguments.prompt_share}"
                    raise ValueError(f"{share} leaves nothing of {arguments.prompt} to continue: give more of it")
            for remark in prompt.remarks if sound else ():
                display.say(f"the prompt {arguments.prompt} {remark}")
            if moved := predictor.out_of_range(prompt):
                notes = f"{pluralize(moved, 'note')} of the prompt {'is' if moved == 1 else 'are'}"
                display.say(f"{notes} beyond the corpus's range: moved to the nearest octave")
        if sound and not arguments.until_end and arguments.out != STANDARD_OUTPUT:
            heard_s = 0.0 if arguments.continuation_only or prompt is None else prompt.seconds
            bytes_each = (
                SAMPLE_BYTES * predictor.sample_rate_hz * (heard_s + arguments.frames / predictor.steps_per_second)
            )
            needed = len(outs) * (bytes_each + PICTURE_BYTES)
            check_space(outs[0], needed, "ask for fewer --frames or --takes")
        made = _made(arguments, predictor, prompt, how, outs, display)
        display.say(f"{_weights(predictor)}{_judged(predictor)}")
        if _model(arguments.meta) == DEMO_MODEL:
            display.say("made by the demo model (Bach chorales): python train.py trains your own, as model.json")
    if arguments.json:
        print(json.dumps(made[0] | ({"songs": made} if len(made) > 1 else {})))
    return 0


def _check(arguments: argparse.Namespace) -> None:
    """Refuse what cannot be meant, before anything is loaded."""
    if arguments.frames < 0:
        raise ValueError(f"--frames {arguments.frames} must be 0 or more (0 renders the prompt alone)")
    if arguments.frames > MAX_FRAMES:
        raise ValueError(f"--frames {arguments.frames} is more than a WAV holds: {MAX_FRAMES:,} at most")
    if arguments.frames == 0 and (arguments.continuation_only or arguments.prompt == NO_PROMPT):
        other = "--continuation-only" if arguments.continuation_only else "--prompt none"
        raise ValueError(f"--frames 0 with {other} leaves nothing to write: drop one of them")
    if not 0 < arguments.prompt_share <= 1:
        raise ValueError(f"--prompt-share {arguments.prompt_share} must be above 0 and at most 1 (the whole prompt)")
    if not 0 <= arguments.seed < 2**63 - MAX_TAKES:
        raise ValueError(f"--seed {arguments.seed} must be 0 to {2**63 - MAX_TAKES - 1:,}")
    if not 1 <= arguments.takes <= MAX_TAKES:
        raise ValueError(f"--takes {arguments.takes} must be 1 to {MAX_TAKES}")
    if arguments.prompt == NO_PROMPT and arguments.prompt_share != 1:
        raise ValueError("--prompt none has no share to continue: leave out --prompt-share, or name a prompt")
    if arguments.prompt == NO_PROMPT and arguments.prompt.exists():
        raise ValueError("--prompt none means no prompt, and there is a file of that name: call it ./none.mid, say")


def _check_pipe(arguments: argparse.Namespace) -> None:
    """Refuse what cannot be meant with --out -."""
    if sys.stdout.isatty():
        raise ValueError("--out - writes sound to a terminal: send it on, as with | aplay -, or name a file")
    if arguments.takes > 1 or arguments.json:
        other = "--json" if arguments.json else f"--takes {arguments.takes}"
        raise ValueError(f"--out - leaves no room for {other} on standard output: drop one of them")


def _outs(arguments: argparse.Namespace) -> list[Path]:
    """The WAVs to write: one, or several that are numbered from 1."""
    name = "notes" if arguments.prompt.name.startswith("notes:") else printable(arguments.prompt.stem)
    stem = "new" if arguments.prompt == NO_PROMPT else f"{name}.continued"
    out: Path = arguments.out or Path(f"{stem}.wav")
    if out == STANDARD_OUTPUT:
        _check_pipe(arguments)
        return [out]
    if out.suffix.lower() != ".wav":
        raise ValueError(f"--out {out}: name the WAV, so give a name that ends in .wav; all else is named after it")
    if arguments.takes == 1:
        return [out]
    return [out.with_name(f"{out.stem}-{number}{out.suffix}") for number in range(1, arguments.takes + 1)]


def check_all(arguments: argparse.Namespace, outs: list[Path], endings: tuple[str, ...]) -> None:
    """Refuse outputs that would overwrite the prompt, or, without --force, anything."""
    for path in (out.with_suffix(ending) for out in outs for ending in endings):
        if os.path.realpath(path) == os.path.realpath(arguments.prompt):
            raise ValueError(f"{path} is the prompt itself: choose another --out")
        check_writable(path, force=arguments.force)


def _made(
    arguments: argparse.Namespace, predictor: Any, prompt: Any, how: Any, outs: list[Path], display: Any
) -> list[dict[str, Any]]:
    """All takes, written; the facts about each. Where they are much work, several processes share them."""
    from continuo.system.process_pool import process_map
    from continuo.system.workers import WORKERS

    numbered, many = list(enumerate(outs)), len(outs) > 1
    worth = len(outs) * (arguments.frames + PICTURE_FRAMES) // ENOUGH_FRAMES
    processes = min(WORKERS, len(outs), max(1, worth)) if predictor.device.type == "cpu" else 1
    size = min(TOGETHER, math.ceil(len(outs) / processes))
    groups = [numbered[first : first + size] for first in range(0, len(outs), size)]
    make = partial(make_takes, arguments, predictor, prompt, how, None if many else display)
    task, made = display.task("takes", len(outs)) if many else None, {}
    with closing(process_map(make, groups, processes)) as coming:
        for number, facts, lines in coming:
            made[number] = facts
            for line in lines:
                display.say(line, always=True)
            if task:
                task.update(len(made))
    if task:
        task.close()
    return [made[number] for number, _ in numbered]


def make_takes(
    arguments: argparse.Namespace, predictor: Any, prompt: Any, how: Any, shown: Any, group: list[tuple[int, Path]]
) -> Iterator[tuple[int, dict[str, Any], list[str]]]:
    """Takes that are drawn side by side, each as its number, the facts about it and what is to be said of it.

    `shown`: a display that says it at once.
    """
    from continuo.audio.pictures import draw_continuation
    from continuo.system.progress import Kept

    sound = predictor.modality == "sound"
    seeds = [arguments.seed + number for number, _ in group]
    takes = predictor.takes(prompt, seeds, how=how, until_end=arguments.until_end)
    for (number, out), seed, take in zip(group, seeds, takes, strict=True):
        display = shown or Kept(quiet=arguments.quiet)
        facts = (write_sound if sound else write_song)(arguments, predictor, display, (take, out, seed))
        if sound and out != STANDARD_OUTPUT:
            heard_s = facts["seconds"] - facts["continuation_seconds"]
            draw_continuation(out, out.with_suffix(".png"), heard_s, _title(arguments, predictor, take, seed))
        facts = _facts(predictor, take, out, prompt) | facts
        _say(display, arguments, take, facts)
        which = f"{out}: "
        yield number, facts, [] if shown else [which + line.removeprefix(which) for line in display.lines]


def write_sound(arguments: argparse.Namespace, predictor: Any, display: Any, job: Job) -> dict[str, Any]:
    """Continue as sound: a WAV that is written while it is made."""
    from continuo.audio.files import stream_wav, write_wav
    from predictor import joined

    take, out, _ = job
    prompt = take.prompt
    heard = 0 if arguments.continuation_only or prompt is None else len(prompt.samples)
    clock = Clock(display, arguments.frames, predictor)
    blocks = clock.watch(joined(take, prompt, arguments.frames, with_prompt=heard > 0), heard)
    if out == STANDARD_OUTPUT:
        written = stream_wav(sys.stdout.buffer, blocks, predictor.sample_rate_hz, comment=_comment(arguments))
    else:
        written = write_wav(out, blocks, predictor.sample_rate_hz, comment=_comment(arguments))
    made_s = take.made / predictor.steps_per_second
    return {
        "seconds": written / predictor.sample_rate_hz,
        "continuation_seconds": made_s,
        "realtime_factor": made_s / clock.seconds,
        "first_audio_s": clock.first_audio_s,
    }


def write_song(arguments: argparse.Namespace, predictor: Any, display: Any, job: Job) -> dict[str, Any]:
    """Continue as notes: MIDI, MusicXML, what they sound like, and a piano roll."""
    from continuo.audio.files import in_blocks, stream_wav, write_wav
    from continuo.score.synth import render
    from continuo.symbolic.engraving import TooLong
    from continuo.symbolic.note_metrics import stuck
    from continuo.symbolic.writing import draw_song, write_musicxml, write_song_midi

    started = time.perf_counter()
    take, out, seed = job
    soundfont = predictor.metadata.corpus.soundfont
    task = display.task("continuing", max(arguments.frames, 1))
    song = take.song(arguments.frames, task.update)
    task.close()
    seam = 0 if take.prompt is None else take.prompt.ticks
    made_s = song.seconds - song.second(seam)
    if not song.notes:
        display.say("no note came: try another --seed, more --frames, or --temperature 1")
    elif arguments.frames and (words := stuck(song.excerpt(seam, song.ticks, "continuation"))):
        display.say(f"the continuation is stuck. {words} A higher --temperature, or more training, would help")
    if arguments.continuation_only:
        song, seam = song.excerpt(seam, song.ticks, "continuation"), 0
    title = _title(arguments, predictor, take, seed)
    sound = render(song.performance(), predictor.sample_rate_hz, soundfont=soundfont and Path(soundfont).expanduser())
    beside = {}
    if out == STANDARD_OUTPUT:
        blocks = in_blocks(sound)
        stream_wav(sys.stdout.buffer, blocks, predictor.sample_rate_hz, comment=_comment(arguments))
    else:
        midi, notation = out.with_suffix(".mid"), out.with_suffix(".musicxml")
        write_song_midi(song, midi)
        beside["midi"] = str(midi)
        try:
            write_musicxml(song, notation, title=title)
            beside["musicxml"] = str(notation)
        except TooLong as error:
            notation.unlink(missing_ok=True)  # of another take
            display.say(f"no MusicXML, the MIDI file has it all: {error}", always=True)
        write_wav(out, in_blocks(sound), predictor.sample_rate_hz, comment=_comment(arguments))
        draw_song(song, out.with_suffix(".png"), seam or None, title)
    taken = time.perf_counter() - started
    return beside | {
        "seconds": len(sound) / predictor.sample_rate_hz,
        "continuation_seconds": made_s,
        "realtime_factor": made_s / taken,
        "first_audio_s": taken,
        "notes": len(song.notes),
    }


def _comment(arguments: argparse.Namespace) -> str:
    """What the WAV says of itself; with --frames 0 it holds the prompt alone."""
    from continuo.audio.files import MADE_BY_A_MODEL

    return MADE_BY_A_MODEL if arguments.frames else ""


def _title(arguments: argparse.Namespace, predictor: Any, take: Any, seed: int) -> str:
    """What was made, once it is made: a piece may have ended before all frames were drawn."""
    name = "from nothing:" if take.prompt is None else printable(arguments.prompt.name)
    return f"{name} + {pluralize(take.made, 'frame')}, {_weights(predictor)}, seed {seed}"


def _weights(predictor: Any) -> str:
    return f"weights of step {predictor.weights_step:,}"


def _judged(predictor: Any) -> str:
    """How held-out music finds the weights, once it has heard them twice."""
    if len(predictor.facts["progress"].history) < 2:
        return ""
    now = predictor.weights_step == predictor.step
    return f", {'still improving' if now else f'better than step {predictor.step:,}'} on held-out music"


def _facts(predictor: Any, take: Any, out: Path, prompt: Any) -> dict[str, Any]:
    return {
        "frames": take.made,
        "prompt_seconds": 0.0 if prompt is None else prompt.seconds,
        "endings_s": take.endings,
        "state_step": predictor.step,
        "weights_step": predictor.weights_step,
        "device": predictor.device.type,
        "out": str(out),
        "picture": str(out.with_suffix(".png")),
    }


def _say(display: Any, arguments: argparse.Namespace, take: Any, made: dict[str, Any]) -> None:
    summary = f"{made['prompt_seconds']:.2f} s of prompt, {made['continuation_seconds']:.2f} s of continuation"
    if arguments.continuation_only:
        summary = f"{made['continuation_seconds']:.2f} s of continuation, without the prompt"
    beside = "; ".join([f"{made['picture']} shows it", *(made[name] for name in ("midi", "musicxml") if name in made)])
    display.say(f"sent: {summary}" if arguments.out == STANDARD_OUTPUT else f"{made['out']}: {summary}; {beside}")
    if arguments.until_end and not take.endings:
        display.say(f"the piece has not ended yet after {made['continuation_seconds']:.2f} s: more --frames?")
    elif take.endings:
        display.say(f"the piece ends after {take.endings[0]:.2f} s" + ("" if arguments.until_end else AND_THEN))


def _model(meta: Path | None) -> Path:
    """The metadata file that was named, else the one here, else that of the demo model."""
    here = Path("model.json")
    return meta or (here if here.exists() or not DEMO_MODEL.exists() else DEMO_MODEL)


class Clock:
    """Counts what comes out, and how fast, from the moment that the model and the prompt are loaded."""

    def __init__(self, display: Any, frames: int, predictor: Any) -> None:
        self.predictor = predictor
        self.continuation_seconds = frames / predictor.steps_per_second
        self.task = display.task("continuing", max(self.continuation_seconds, 1e-9))
        self.started = time.perf_counter()
        self.first_audio_s: float | None = None

    def watch(self, blocks: Iterator[Any], prompt_samples: int) -> Iterator[Any]:
        """Hands blocks on; the continuation begins after `prompt_samples`."""
        made = -prompt_samples
        for block in blocks:
            made += len(block)
            if made > 0 and self.first_audio_s is None:
                self.first_audio_s = time.perf_counter() - self.started
            self.task.update(min(max(made, 0) / self.predictor.sample_rate_hz, self.continuation_seconds))
            yield block
        self.seconds = time.perf_counter() - self.started
        self.task.close()


if __name__ == "__main__":
    exit_now(main())
