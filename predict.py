"""Continue a score, MIDI file or recording, with a model that is trained or still training.

    %(prog)s --prompt song.musicxml --frames 500
    %(prog)s --prompt song.mxl --frames 1000 --seed 7 --out take7.wav
    %(prog)s --prompt riff.wav --frames 500 --continuation-only --force
    %(prog)s --prompt none --frames 300 --takes 10 --meta notes.json
    %(prog)s --prompt song.mxl --frames 1000 --out - | aplay -

A model of sound continues scores, MIDI files and recordings as sound. A model of notes continues scores and MIDI files,
and writes MIDI and MusicXML next to the WAV.
"""

from __future__ import annotations

import json
import os
import sys
from argparse import ArgumentParser, Namespace
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from continuo.system.command_line import Parser, exit_now, nonempty_path, run_main
from continuo.system.files import check_space, check_writable, is_locked
from continuo.system.paths import MODELS, command
from continuo.system.text import pluralize, printable

if TYPE_CHECKING:
    from continuo.system.progress import Display
    from predictor import Predictor, Prompt
    from takes import TakeReport, TakeRequest

MAX_FRAMES = 1_000_000  # over four hours at the default rate
MAX_TAKES = 10_000
SAMPLE_BYTES = 2  # bytes of a sample of one channel in a WAV
MAX_PICTURE_BYTES = 2e6  # bytes
NO_PROMPT = Path("none")
STANDARD_OUTPUT = Path("-")
EARLY_STEPS = 120  # of a training that started from nothing; its weights before that make noise
OWN_MODEL, DEMO_MODEL = Path("model.json"), MODELS / "demo" / "chorales.json"


def build_parser() -> ArgumentParser:
    parser = Parser("predict", __doc__)
    add = parser.add_argument
    prompt_help = "MusicXML, MIDI or audio file to continue; none: begin a new piece; "
    prompt_help += "notes:C4,E4,C4+G4: quarter notes, for models of notes"
    add("--prompt", type=nonempty_path, required=True, metavar="FILE", help=prompt_help)
    share_help = "fraction of the prompt to use, from its beginning (default: 1)"
    add("--prompt-share", type=float, default=1.0, metavar="S", help=share_help)
    add("--frames", type=int, required=True, metavar="N", help="number of model steps to add; prints the seconds")
    add("--meta", type=Path, help="metadata file of the model (default: model.json, or else the demo model)")
    out_help = "WAV to write; the other files are named after it (default: PROMPT.continued.wav, in this folder); "
    out_help += "-: write only the sound, to standard output while it is made"
    add("--out", type=nonempty_path, metavar="FILE", help=out_help)
    heat_help = "temperature of all choices: 1 is natural, lower is tamer, 0 takes the likeliest (default: 1)"
    add("--temperature", type=float, default=1.0, help=heat_help)
    coarse_help = "temperature of the first quantizer stage, which decides what is played, multiplied by "
    coarse_help += "--temperature (default: from the metadata file, or 1)"
    add("--coarse-temperature", type=float, metavar="T", help=coarse_help)
    fine_help = "temperature of the later quantizer stages, which decide how it sounds, multiplied by --temperature "
    fine_help += "(default: from the metadata file, or 1)"
    add("--fine-temperature", type=float, metavar="T", help=fine_help)
    font_help = "SoundFont (.sf2, .sf3) that renders scores (default: the one that rendered the model's corpus)"
    add("--soundfont", type=Path, metavar="FILE", help=font_help)
    top_help = "draw only from the likeliest choices that reach this probability; below 1 onsets get lost (default: 1)"
    add("--top-p", type=float, default=1.0, help=top_help)
    add("--seed", type=int, default=0, help="seed of the random numbers; each seed gives another take (default: 0)")
    takes_help = "number of continuations, with seeds SEED, SEED+1, ... (default: 1)"
    add("--takes", "--songs", type=int, default=1, metavar="K", help=takes_help)
    add("--device", default="auto", help="auto (CUDA, then MPS, then CPU), cuda, mps or cpu")
    add("--until-end", action="store_true", help="stop where the model ends the piece, after --frames at the latest")
    add("--continuation-only", action="store_true", help="leave the prompt out of the WAV")
    add("--force", action="store_true", help="overwrite existing output files")
    add("--quiet", action="store_true", help="print no progress and no messages")
    add("--json", action="store_true", help="print the results as one JSON object on the last line")
    return parser


def main(argv: list[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    return run_main(lambda: _run(arguments), name="predict")


# Longer than 40 lines with its imports, which wait until the arguments are checked.
def _run(arguments: Namespace) -> int:
    _check(arguments)
    outs = _outs(arguments)
    _check_outs(arguments, outs, ".wav", ".png")

    from continuo.model.metadata import Sampling
    from continuo.score.synth import find_soundfont
    from continuo.system.device import choose
    from continuo.system.progress import Display
    from continuo.system.workers import use_one_thread
    from predictor import Predictor
    from takes import TakeRequest

    use_one_thread()  # a step is too small to share, and a training may want the other cores
    device, _ = choose(arguments.device)
    with Display(quiet=arguments.quiet) as display:
        flags = {name: getattr(arguments, name) for name in Sampling.model_fields}
        try:
            Sampling().but(**flags)  # refuses values out of range before anything is loaded
        except ValueError as error:
            raise ValueError("--" + str(error).replace("_", "-")) from None
        font = find_soundfont(arguments.soundfont) if arguments.soundfont else None
        meta = _model(arguments.meta)
        predictor = Predictor.load(meta, device)
        predictor.soundfont = font
        if predictor.modality == "notes":
            _check_outs(arguments, outs, ".mid", ".musicxml")
            if font:
                display.say(f"the music is rendered with {font.name}")
        prompt = _prompt(arguments, predictor, display)
        _check_room(arguments, predictor, prompt, outs)
        if meta != arguments.meta and meta == DEMO_MODEL:
            display.say(_why_demo())
        name = "from nothing:" if prompt is None else printable(arguments.prompt.name)
        options = {"with_prompt": not arguments.continuation_only, "until_end": arguments.until_end}
        first = TakeRequest(outs[0], arguments.frames, arguments.seed, predictor.sampling.but(**flags), name, **options)
        requests = [replace(first, out=out, seed=arguments.seed + number) for number, out in enumerate(outs)]
        facts = [report.facts() for report in _write(arguments, predictor, prompt, requests, display)]
        trend = "" if meta.resolve() == DEMO_MODEL.resolve() else _validation_trend(predictor)  # no training goes on
        display.say(f"weights of step {predictor.weights_step:,}{trend}")
    if arguments.json:
        print(json.dumps(facts[0] | ({"songs": facts} if len(facts) > 1 else {})))
    return 0


def _check(arguments: Namespace) -> None:
    """Refuse values and combinations that make no sense, before anything is loaded."""
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


def _outs(arguments: Namespace) -> list[Path]:
    """Return the WAVs to write: one, or several that are numbered from 1."""
    name = "notes" if arguments.prompt.name.startswith("notes:") else printable(arguments.prompt.stem)
    out: Path = arguments.out or Path("new.wav" if arguments.prompt == NO_PROMPT else f"{name}.continued.wav")
    if out == STANDARD_OUTPUT:
        if sys.stdout.isatty():
            raise ValueError("--out - writes sound to a terminal: send it on, as with | aplay -, or name a file")
        if arguments.takes > 1 or arguments.json:
            other = "--json" if arguments.json else f"--takes {arguments.takes}"
            raise ValueError(f"--out - leaves no room for {other} on standard output: drop one of them")
        return [out]
    if out.suffix.lower() != ".wav":
        raise ValueError(f"--out {out}: name the WAV, so give a name that ends in .wav; all else is named after it")
    if arguments.takes == 1:
        return [out]
    return [out.with_name(f"{out.stem}-{number}{out.suffix}") for number in range(1, arguments.takes + 1)]


def _check_outs(arguments: Namespace, outs: list[Path], *suffixes: str) -> None:
    """Refuse files that would overwrite the prompt, or, without --force, any existing file."""
    paths = [out.with_suffix(suffix) for out in outs if out != STANDARD_OUTPUT for suffix in suffixes]
    prompt = os.path.realpath(arguments.prompt)
    for path in paths:
        if path.exists() and os.path.realpath(path) == prompt:
            raise ValueError(f"{path} is the prompt itself: choose another --out")
    check_writable(*paths, force=arguments.force)


def _model(meta: Path | None) -> Path:
    """Return the metadata file to load: the given one, model.json in this folder, or that of the demo model."""
    return meta or (OWN_MODEL if OWN_MODEL.exists() or not DEMO_MODEL.exists() else DEMO_MODEL)


def _why_demo() -> str:
    """Return a sentence that says why the demo model is used."""
    prepares = is_locked(OWN_MODEL.with_suffix(".safetensors"))
    reason = "a training still prepares model.json" if prepares else "there is no model.json in this folder"
    return f"{reason}: the demo model (Bach chorales) is used; {command('train')} trains your own"


def _prompt(arguments: Namespace, predictor: Predictor, display: Display) -> Prompt | None:
    """Read the part of the prompt to continue, and print what is unusual about it."""
    if arguments.prompt == NO_PROMPT:
        if predictor.soundfont and predictor.modality == "sound":
            display.say(f"there is no score to render: the SoundFont {predictor.soundfont.name} is not used")
        return None
    prompt = predictor.prompt(arguments.prompt, ring_out=arguments.frames == 0)
    if arguments.prompt_share < 1:
        prompt = prompt.excerpt(0, round(prompt.extent * arguments.prompt_share), "beginning")
        if prompt.empty:
            share = f"--prompt-share {arguments.prompt_share}"
            raise ValueError(f"{share} leaves nothing of {arguments.prompt} to continue: give more of it")
    for remark in getattr(prompt, "remarks", []):
        display.say(f"the prompt {arguments.prompt} {remark}")
    if moved := predictor.featurizer.out_of_range(prompt):
        notes = f"{pluralize(moved, 'note')} of the prompt {'is' if moved == 1 else 'are'}"
        display.say(f"{notes} beyond the corpus's range: moved to the nearest octave")
    return prompt


def _check_room(arguments: Namespace, predictor: Predictor, prompt: Prompt | None, outs: list[Path]) -> None:
    """Refuse more sound than the disk has room for, where the length is known."""
    if predictor.modality == "notes" or arguments.until_end or outs == [STANDARD_OUTPUT]:
        return
    prompt_s = 0.0 if arguments.continuation_only or prompt is None else prompt.seconds
    seconds = prompt_s + arguments.frames / predictor.steps_per_second
    bytes_per_s = SAMPLE_BYTES * predictor.channels * predictor.sample_rate_hz
    needed = len(outs) * (bytes_per_s * seconds + MAX_PICTURE_BYTES)
    check_space(outs[0], needed, "ask for fewer --frames or --takes")


def _write(
    arguments: Namespace, predictor: Predictor, prompt: Prompt | None, requests: list[TakeRequest], display: Display
) -> list[TakeReport]:
    """Write all takes and print what each report says; return the reports in the order of the requests."""
    from takes import write_take, write_takes

    if len(requests) == 1:
        task = display.task("continuing", 1.0)
        report = write_take(predictor, prompt, requests[0], watch=lambda block, fraction: task.update(fraction))
        task.close()
        _say(arguments, report, display, "")
        return [report]
    task, found = display.task("takes", len(requests)), {}
    for report in write_takes(predictor, prompt, requests):
        found[report.out] = report
        _say(arguments, report, display, f"{report.out}: ")
        task.update(len(found))
    task.close()
    return [found[str(request.out)] for request in requests]


def _say(arguments: Namespace, report: TakeReport, display: Display, prefix: str) -> None:
    """Print the lines about one take; with several takes each line begins with the file's name."""
    if report.warning:
        display.say(f"{prefix}{report.warning}", always=True)
    summary = f"{report.prompt_seconds:.2f} s of prompt, {report.continuation_seconds:.2f} s of continuation"
    if arguments.continuation_only:
        summary = f"{report.continuation_seconds:.2f} s of continuation, without the prompt"
    files = [f"{report.picture} shows it", *filter(None, [report.midi, report.musicxml])]
    sent = arguments.out == STANDARD_OUTPUT
    lines = [*report.remarks, f"sent: {summary}" if sent else f"{report.out}: {summary}; {'; '.join(files)}"]
    if arguments.until_end and not report.endings_s:
        lines.append(f"the piece has not ended yet after {report.continuation_seconds:.2f} s: more --frames?")
    elif report.endings_s:
        next_one = "" if arguments.until_end else ", and another one begins (--until-end stops there)"
        lines.append(f"the piece ends after {report.endings_s[0]:.2f} s{next_one}")
    for line in lines:
        display.say(prefix + line.removeprefix(prefix))


def _validation_trend(predictor: Predictor) -> str:
    """Say what would help the model, or, of the first weights, what to expect of them."""
    early = predictor.modality == "sound" and predictor.weights_step < EARLY_STEPS
    from continuo.model.advice import lever

    if early and not predictor.facts.get("begun_with"):
        return f": expect noise, and wait for step {EARLY_STEPS} or so"
    latest = predictor.weights_step == predictor.step
    better = "" if latest else f", better than step {predictor.step:,} on held-out music"
    return f"{better}{': ' * bool(advice := lever(predictor.facts['progress']))}{advice}"


if __name__ == "__main__":
    exit_now(main())
