"""Put the figures of a report into words: what a model has learned, what it does wrong, and what to try.

Each function holds one table of rules. A figure that was not measured is NaN here, and no comparison with it is true.
"""

import math
from typing import NamedTuple

from evaluation.schema import ModelFacts, NotesReport, SoundReport, is_of_notes

MAX_CODEC_MMD2 = 0.25  # squared MMD of real music through the codec; the default reaches 0.07 on chorales
MIN_PULSE_RATIO = 0.65  # music without any pulse reaches about half of that of real music
MIN_COPY = 24  # events in a row; shorter copies may be common turns of music


class Finding(NamedTuple):
    """One finding: a name for programs, a sentence or two, and advice (empty if nothing is wrong)."""

    name: str
    text: str
    advice: str = ""


class Rule(NamedTuple):
    """A finding that is made if `met`. `longer` says that longer training helps; `advice` is what else helps."""

    name: str
    met: bool
    text: str
    advice: str = ""
    longer: bool = False


def diagnose(report: SoundReport | NotesReport) -> list[Finding]:
    """Return the findings on learning, then on the music, then on copies, the most important first; never empty.

    A model that has learned nothing gets no other advice than to train. A model that memorizes its training music gets
    no advice to train longer.
    """
    rules = _learning(report)
    rules += [*_notes(report), *_note_copies(report)] if is_of_notes(report) else [*_sound(report), *_copies(report)]
    first, *others = (rule for rule in rules if rule.met)
    findings = [Finding(first.name, first.text, first.advice)]
    for name, _, text, advice, longer in others:
        if longer and first.name != "memorising":
            advice = f"{advice} Or train longer." if advice else f"Train longer: {report['training']['again']}."
        elif longer and not advice:
            advice = _smaller_model(report["model"])
        findings.append(Finding(name, text, "" if first.name == "untrained" else advice))
    return findings


def _smaller_model(model: ModelFacts) -> str:
    """Return the advice against memorization."""
    hidden, begin = max(1, model["hidden"] // 2), "Add music, or train a smaller model:"
    if not model["preset"]:
        return (f"{begin} a copy of its metadata file with another name and state, architecture.hidden {hidden} and "
                "architecture.dropout 0.2.")  # fmt: skip
    return (f"{begin} train.py --meta small.json --corpus YOURS --preset {model['preset']} "
            f"--set architecture.hidden={hidden} --set architecture.dropout=0.2.")  # fmt: skip


def _learning(report: SoundReport | NotesReport) -> list[Rule]:
    losses, risen = report["held_out"], report["training"]["risen"]
    held_out, train = losses["model"]["nats_per_step"], losses["training"]["nats_per_step"]
    baseline = min(losses["unigram"]["nats_per_step"], losses["copy_last"]["nats_per_step"])
    lost = (held_out - train) / (baseline - train) if baseline > train else 0.0  # fraction of what was gained
    untrained = held_out >= baseline and train >= 0.98 * baseline
    memorizes = not untrained and (held_out >= baseline or risen > 0.03 or lost > 0.5)
    learned = not (untrained or memorizes)
    saved = f" ({1 - held_out / baseline:.0%} less)" if baseline > 0 else ""
    rose = f", and the held-out loss had risen by {risen:.0%} when training ended" if risen > 0.03 else ""
    return [
        Rule("untrained", untrained,
             "The model predicts this music no better than a table of frequencies, or a copy of the last step, does.",
             f"Train longer: {report['training']['again']}. If that changes nothing, lower the learning rate: "
             "--set training.learning_rate=0.001."),
        Rule("memorising", memorizes,
             f"The model memorizes its training music: its loss there is {held_out - train:.2f} nats per step lower "
             f"than on held-out music{rose}.",
             f"{_smaller_model(report['model'])} (predict.py uses the best weights, not the last.)"),
        Rule("learning", learned,
             f"The model has learned: on held-out music its loss is {held_out:.2f} nats per step, and that of the "
             f"better simple guess {baseline:.2f}{saved}."),
        Rule("generalising", learned and lost < 0.2,
             f"What it learned carries over: only {max(lost, 0):.0%} of what it gained on its training music is lost "
             "on held-out music."),
        Rule("overfitting", learned and lost >= 0.2,
             f"{lost:.0%} of what it gained on its training music is lost on held-out music.",
             "More music would help."),
        Rule("improving", learned and report["training"]["improving"],
             "The held-out loss was still falling when training ended.", longer=True),
    ]  # fmt: skip


def _sound(report: SoundReport) -> list[Rule]:
    runs, run = report["free_runs"], report["long_run"]
    made, codec = runs["generated"], runs["codec"]
    onsets, flux, pulse = (_figure(made[f"{name}_ratio"]) for name in ("onset", "flux", "pulse"))
    silence = max(_figure(made["silence"], 0.0), run["silence"] if run else 0.0)
    still_s = run["still_s"] if run else 0.0
    still = run is not None and still_s > max(3.0, 3 * run["real_still_s"])
    loop_s = _figure(run["loop_s"] if run and not run["real_loop_s"] else None)
    drift_db = run["level_drift_db"]["at_the_end"] if run else 0.0
    silent = silence > 0.15 + _figure(runs["real"]["silence"], 0.0)
    frozen = not silent and (still or onsets < 0.2)
    noisy = onsets > 1.5 or flux > 1.2 * max(1.0, _figure(codec["flux_ratio"], 1.0))
    sluggish = 0.2 <= onsets < 0.65 and not noisy and not frozen
    unsteady = pulse < MIN_PULSE_RATIO and not (silent or frozen or sluggish or loop_s > 0)
    per_real = "times as many notes begin as in real music"
    begun = "" if math.isnan(onsets) else f"{onsets:.2f} {per_real}"
    return [
        Rule("silent", silent, f"It falls silent: {silence:.0%} of the generated music is silence.",
             "Leave out recordings with long pauses (--set corpus.exclude=...).", longer=True),
        Rule("frozen", frozen,
             f"It freezes: {f'nothing changes for {still_s:.1f} s of the long run' if still_s else 'it stands still'}"
             f"{begun and f', and {begun}'}.", "Raise predict.py --coarse-temperature (try 1.2).", longer=True),
        Rule("looping", loop_s > 0, f"The long run repeats itself every {loop_s:.2f} s.",
             "Raise predict.py --temperature (try 1.1).", longer=True),
        Rule("noisy", noisy,
             f"It is too restless: {begun and f'{begun}, and '}its sound changes {_figure(flux, 0.0):.2f} times as "
             "much.", "Lower predict.py --temperature (try 0.9) or --fine-temperature (try 0.5).", longer=True),
        Rule("sluggish", sluggish, f"It is sluggish: {onsets:.2f} {per_real}.",
             "Raise predict.py --coarse-temperature (try 1.15).", longer=True),
        Rule("unsteady", unsteady,
             f"It does not keep time: its pulse is {pulse:.2f} times as steady as that of real music.",
             "A new model with architecture.onset_memory 128 keeps time better, if this one has 0.", longer=True),
        Rule("drifting", abs(drift_db) > 6,
             f"The long run {'fades' if drift_db < 0 else 'grows louder'}: {drift_db:+.1f} dB at its end.",
             "A longer training.window keeps the level steadier.", longer=True),
        *_similarity(_figure(made["mmd2"]), _figure(codec["mmd2"], 0.0), _figure(made["auc"])),
    ]  # fmt: skip


def _similarity(mmd2: float, codec: float, auc: float) -> list[Rule]:
    if math.isnan(auc):  # there is a single excerpt, which says nothing about the similarity of two kinds of music
        mmd2 = math.nan
    coarse = codec > MAX_CODEC_MMD2 and not math.isnan(mmd2)
    near = mmd2 <= 1.3 * max(codec, 0.0) + 0.05
    return [
        Rule("coarse", coarse,
             f"The codec alone makes music differ from the original (squared MMD {codec:.2f}), and the model cannot be "
             "better.",
             "Use a finer codec (train.py --meta fine.json --corpus YOURS --set representation.levels=6) and more "
             "recordings."),
        Rule("close", near and not coarse,
             f"Continuations are as similar to real music as the codec allows (squared MMD {mmd2:.2f}; codec alone: "
             f"{codec:.2f})."),
        Rule("distant", mmd2 > 1.3 * max(codec, 0.0) + 0.05,
             f"Continuations differ from real music (squared MMD {mmd2:.2f}; codec alone: {codec:.2f}), and a "
             f"classifier tells the two apart with an AUC of {auc:.2f}.",
             "Use a larger model (--set architecture.hidden=1024 with a new --meta).", longer=True),
    ]  # fmt: skip


def _copies(report: SoundReport) -> list[Rule]:
    new = report["novelty"]
    if new is None:
        return []
    copied, chance, near = new["copied_s"], new["held_out_copied_s"], _figure(new["near_ratio"], 1.0)
    copies = copied > max(2.0, 2 * chance)
    how = "copies" if copies else "stays close to" if near < 0.5 else "does not copy"
    text = (
        f"It {how} its training music: at most {copied:.1f} s in a row follow one piece (held-out music: {chance:.1f} "
        f"s), and its most familiar seconds differ from it {near:.2f} times as much as those of held-out music."
    )
    if copies or near < 0.5:
        return [Rule("copying", True, text, _smaller_model(report["model"]))]
    return [Rule("novel", True, text)]


def _notes(report: NotesReport) -> list[Rule]:
    made, real, run = report["free_runs"]["generated"], report["free_runs"]["real"], report["long_run"]
    stuck, real_stuck = _figure(made["stuck"], 0.0), _figure(real["stuck"], 0.0)
    scale, real_scale = _figure(made["scale_consistency"]), _figure(real["scale_consistency"])
    notes, real_notes = _figure(made["notes_per_second"]), _figure(real["notes_per_second"], 0.0)
    ratio = notes / real_notes if real_notes else math.nan
    paces = [pace for pace in run["notes_per_second_by_part"] if pace is not None] if run else []
    pace, real_pace = min(paces, default=math.nan), _figure(run["real_notes_per_second"] if run else None, 0.0)
    repeated, real_repeated = (_figure(run[name] if run else None, 0.0) for name in ("repeated", "real_repeated"))
    long_stuck = (run["stuck"] if run else None) or ""
    frozen = stuck > real_stuck + 0.25 or (bool(long_stuck) and real_stuck < 0.5)
    fading = not frozen and pace < 0.15 * real_pace
    looping = not (frozen or fading) and repeated > max(0.8, real_repeated + 0.4)
    noisy, sluggish, wandering = ratio > 1.6, ratio < 0.6 and not frozen, scale < real_scale - 0.1
    wrong = frozen or fading or looping or noisy or sluggish or wandering
    return [
        Rule("frozen", frozen,
             f"It gets stuck: {stuck:.0%} of the continuations are one repeated note or chord, or silence (real music: "
             f"{real_stuck:.0%}).{long_stuck and f' The long run: {long_stuck}'}",
             "Raise predict.py --temperature (try 1.1).", longer=True),
        Rule("fading", fading,
             f"The long run has gaps: in its sparsest quarter {pace:.2f} notes begin in a second (real music: "
             f"{real_pace:.2f}).", longer=True),
        Rule("looping", looping,
             f"The long run repeats itself: {repeated:.0%} of its second half was in its first half too.",
             "Raise predict.py --temperature (try 1.1).", longer=True),
        Rule("noisy", noisy, f"It is too restless: it has {ratio:.2f} times as many notes as real music.",
             "Lower predict.py --temperature (try 0.9).", longer=True),
        Rule("sluggish", sluggish, f"It is sluggish: it has {ratio:.2f} times as many notes as real music.",
             longer=True),
        Rule("wandering", wandering,
             f"It leaves its key: {scale:.0%} of its notes are in one scale (real music: {real_scale:.0%}).",
             "Lower predict.py --temperature (try 0.9) and --top-p (try 0.95).", longer=True),
        Rule("close", not (wrong or math.isnan(ratio + scale + real_scale)),
             f"Its notes are similar to those of real music: {ratio:.2f} times as many, and {scale:.0%} of them in one "
             f"scale (real music: {real_scale:.0%})."),
    ]  # fmt: skip


def _note_copies(report: NotesReport) -> list[Rule]:
    new = report["novelty"]
    made = new["generated"] if new else None
    if new is None or made is None or made["share"] is None:
        return []
    fraction, usual = made["share"], _figure(new["held_out"]["share"], 0.0)
    longest, chance, source = made["longest"], new["held_out"]["longest"], made["of"]
    copies = fraction > max(usual + 0.15, 1.5 * usual) or (longest > 2 * chance and longest >= MIN_COPY)
    text = (
        f"It {'copies' if copies else 'does not copy'}: {fraction:.0%} of its stretches of {new['stretch']} events are "
        f"in its training songs too (held-out music: {usual:.0%}), the longest{source and f', of {source},'} "
        f"with {longest} events (held-out music: {chance})."
    )
    return [Rule("copying", True, text, _smaller_model(report["model"])) if copies else Rule("novel", True, text)]


def _figure(value: float | None, default: float = math.nan) -> float:
    return default if value is None else value
