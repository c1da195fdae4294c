"""Continue a score, MIDI file or recording as sound, with a model that is trained or still training.

python predict.py --prompt song.musicxml --frames 500
python predict.py --prompt song.mxl --frames 1000 --seed 7 --out take7.wav
python predict.py --prompt riff.wav --frames 500 --continuation-only --force
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from continuo.command import Parser, printable, run_main
from continuo.files import check_writable

MOST_FRAMES = 1_000_000  # over four hours at the default rate
DEMO_MODEL = Path(__file__).resolve().parent / "models" / "demo" / "chorales.json"
AND_THEN = ", and another one begins (--until-end stops there)"


def build_parser() -> argparse.ArgumentParser:
    parser = Parser("predict.py", __doc__)
    parser.add_argument("--prompt", type=Path, required=True, metavar="FILE", help="MusicXML, MIDI or audio")
    parser.add_argument(
        "--frames", type=int, required=True, metavar="N", help="model steps to add; the seconds are printed"
    )
    parser.add_argument(
        "--meta", type=Path, help="metadata file (default: model.json, or else the demo model that comes along)"
    )
    parser.add_argument(
        "--out", type=Path, help="the WAV to write; a PNG goes beside it (default: PROMPT.continued.wav, here)"
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
        default=1.05,
        metavar="T",
        help="of what is played, times that (1.05)",
    )
    parser.add_argument(
        "--fine-temperature", type=float, default=0.7, metavar="T", help="of how it sounds, times that (0.7)"
    )
    parser.add_argument(
        "--top-p", type=float, default=1.0, help="keep only the likeliest choices; below 1 onsets get lost (default: 1)"
    )
    parser.add_argument("--seed", type=int, default=0, help="another seed, another take (default: 0)")
    parser.add_argument("--device", default="auto", help="auto (CUDA, then MPS, then CPU), cuda, mps or cpu")
    parser.add_argument(
        "--expressive", action="store_true", help="let rit., accel. and fermatas of a score change the beat"
    )
    parser.add_argument(
        "--until-end", action="store_true", help="stop where the model ends the piece; --frames is then the most"
    )
    parser.add_argument("--continuation-only", action="store_true", help="leave the prompt out of the WAV")
    parser.add_argument("--force", action="store_true", help="overwrite outputs that exist")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    parser.add_argument("--json", action="store_true", help="print the results as one JSON object on the last line")
    return parser


def main(argv: list[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    return run_main(lambda: _run(arguments), name="predict.py")


def _run(arguments: argparse.Namespace) -> int:
    if arguments.frames < 0:
        raise ValueError(f"--frames {arguments.frames} must be 0 or more (0 renders the prompt alone)")
    if arguments.frames > MOST_FRAMES:
        raise ValueError(f"--frames {arguments.frames} is more than a WAV holds: {MOST_FRAMES:,} at most")
    if arguments.frames == 0 and arguments.continuation_only:
        raise ValueError("--frames 0 with --continuation-only leaves nothing to write: drop one of them")
    if not 0 <= arguments.seed < 2**63:
        raise ValueError(f"--seed {arguments.seed} must be 0 or more, and below 2 to the power of 63")
    out: Path = arguments.out or Path(f"{printable(arguments.prompt.stem)}.continued.wav")
    if out.suffix.lower() != ".wav":
        raise ValueError(f"--out {out}: only WAV is written, so give a name that ends in .wav")
    if out.resolve() == arguments.prompt.resolve():
        raise ValueError(f"--out {out} is the prompt itself: choose another name")
    picture = out.with_suffix(".png")
    for path in (out, picture):
        check_writable(path, force=arguments.force)

    import torch

    from continuo import report
    from continuo.audio import write_wav
    from continuo.device import choose
    from continuo.progress import Display
    from continuo.sampling import Sampling
    from predictor import Predictor, joined

    torch.set_num_threads(1)  # one step is too small to share, and a training may want the other cores
    device, _ = choose(arguments.device)
    with Display(quiet=arguments.quiet) as display:
        temperatures = (arguments.temperature, arguments.coarse_temperature, arguments.fine_temperature)
        how = Sampling(*temperatures, arguments.top_p)
        predictor = Predictor.load(_model(arguments.meta), device)
        prompt = predictor.prompt(arguments.prompt, expressive=arguments.expressive, ring_out=arguments.frames == 0)
        clock = Clock(display, arguments.frames, predictor)
        take = predictor.take(prompt, seed=arguments.seed, how=how, until_end=arguments.until_end)
        heard = 0 if arguments.continuation_only else len(prompt.samples)
        blocks = clock.watch(joined(take, prompt, arguments.frames, with_prompt=heard > 0), heard)
        written = write_wav(out, blocks, predictor.sample_rate_hz)
        seam_s = 0.0 if arguments.continuation_only else prompt.seconds
        weights = f"weights of step {predictor.weights_step:,}"
        title = f"{printable(arguments.prompt.name)} + {take.made} frames, {weights}, seed {arguments.seed}"
        report.draw_continuation(out, picture, seam_s, title)
        results = clock.results(take) | {"prompt_seconds": prompt.seconds, "out": str(out), "picture": str(picture)}
        results["seconds"] = written / predictor.sample_rate_hz
        summary = f"{prompt.seconds:.2f} s of prompt, {results['continuation_seconds']:.2f} s of continuation"
        display.say(f"{out}: {summary}; {picture} shows it")
        if arguments.until_end and not take.endings:
            display.say(f"the piece has not ended yet after {results['continuation_seconds']:.2f} s: more --frames?")
        elif take.endings:
            display.say(f"the piece ends after {take.endings[0]:.2f} s" + ("" if arguments.until_end else AND_THEN))
        judged = (
            "still improving" if predictor.weights_step == predictor.step else f"better than step {predictor.step:,}"
        )
        display.say(f"{weights}, {judged} on held-out music")
        if _model(arguments.meta) == DEMO_MODEL:
            display.say("made by the demo model (Bach chorales): python train.py trains your own, as model.json")
    if arguments.json:
        print(json.dumps(results))
    return 0


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

    def results(self, take: Any) -> dict[str, Any]:
        made_s = take.made / self.predictor.steps_per_second
        return {
            "frames": take.made,
            "continuation_seconds": made_s,
            "endings_s": take.endings,
            "state_step": self.predictor.step,
            "weights_step": self.predictor.weights_step,
            "realtime_factor": made_s / self.seconds,
            "first_audio_s": self.first_audio_s,
            "device": self.predictor.device.type,
        }


if __name__ == "__main__":
    sys.exit(main())
