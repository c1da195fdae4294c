"""Put the figures of a report into words: what a model has learned, what it does wrong, and what to try.

Each function holds one table of rules. A figure that was not measured is NaN, and no comparison with it is true.
"""

import math
from functools import partial
from typing import NamedTuple

from continuo.model.advice import MORE_MUSIC
from continuo.model.metadata import Json

MAX_CODEC_MMD2 = 0.25  # squared MMD of real music through the codec; the default reaches 0.07 on chorales
MIN_PULSE_RATIO = 0.65  # music without any pulse reaches about half of that of real music
MIN_COPY = 24  # events in a row; shorter copies may be common turns of music
MORE = f"{MORE_MUSIC.capitalize()}."
PER_REAL = "times as many notes begin as in real music"
Rule = tuple[str, bool, str, str, bool]
"""Name of a finding, its condition, its text, advice other than to train longer, and whether that helps too."""


class Finding(NamedTuple):
    """One finding: a name for programs, a sentence or two, and advice (empty if nothing is wrong)."""

    name: str
    text: str
    advice: str = ""


def diagnose(report: Json) -> list[Finding]:
    """Return the findings: what a listener notices, then copies, then what was learned; never empty.

    A model that learned nothing is said so first, and only advised to train; one that memorizes its training music is
    not advised to train longer. An advice is given once.
    """
    of_notes = report["model"]["hears"] == "notes"
    music, copies = (_notes, _note_copies) if of_notes else (_sound, _copies)
    learning = _learning(report)
    state = next(name for name, condition, *_ in learning if condition)
    findings: list[Finding] = []
    for name, condition, text, advice, longer in [*learning[:1], *music(report), *copies(report), *learning[1:]]:
        if longer and state == "memorising":
            advice = advice or MORE
        elif longer:
            advice = f"{advice} Or train longer." if advice else f"Train longer: {report['training']['again']}."
        if condition:
            given = any(advice == finding.advice for finding in findings) or (state == "untrained" != name)
            findings.append(Finding(name, text, "" if given else advice))
    return findings


def _learning(report: Json) -> list[Rule]:
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
        ("untrained", untrained,
         "The model predicts this music no better than a table of frequencies, or a copy of the last step, does.",
         f"Train longer: {report['training']['again']}. If that changes nothing, lower the learning rate: "
         "--set training.learning_rate=0.001.", False),
        ("memorising", memorizes,
         f"The model memorizes its training music: its loss there is {held_out - train:.2f} nats per step lower than "
         f"on held-out music{rose}.",
         f"{MORE} (predict.py uses the best weights, not the last.)", False),
        ("learning", learned,
         f"The model has learned: on held-out music its loss is {held_out:.2f} nats per step, and that of the better "
         f"simple guess {baseline:.2f}{saved}.", "", False),
        ("generalising", learned and lost < 0.2,
         f"What it learned carries over: only {max(lost, 0):.0%} of what it gained on its training music is lost on "
         "held-out music.", "", False),
        ("overfitting", learned and lost >= 0.2,
         f"{lost:.0%} of what it gained on its training music is lost on held-out music.", MORE,
         False),
        ("improving", learned and report["training"]["improving"],
         "The held-out loss was still falling when training ended.", "", True),
    ]  # fmt: skip


def _sound(report: Json) -> list[Rule]:
    made, codec = partial(_figure, report, "free_runs", "generated"), partial(_figure, report, "free_runs", "codec")
    run = partial(_figure, report, "long_run")
    onsets, flux, pulse = (made(f"{name}_ratio") for name in ("onset", "flux", "pulse"))
    silence = max(made("silence", default=0.0), run("silence", default=0.0))
    silent = silence > 0.15 + _figure(report, "free_runs", "real", "silence", default=0.0)
    longest_s = run("still_s", default=0.0)
    still_s = longest_s if longest_s > max(3.0, 3 * run("real_still_s", default=0.0)) else 0.0
    loop_s = 0.0 if run("real_loop_s", default=0.0) else run("loop_s", default=0.0)
    drift_db = run("level_drift_db", "at_the_end", default=0.0)
    frozen = not silent and still_s > 0
    noisy = onsets > 1.5 or flux > 1.2 * max(1.0, codec("flux_ratio", default=1.0))
    sluggish = onsets < 0.65 and not noisy and not frozen
    unsteady = pulse < MIN_PULSE_RATIO and not (silent or frozen or sluggish or loop_s)
    begun = "" if math.isnan(onsets) else f", and {onsets:.2f} {PER_REAL}"
    return [
        ("silent", silent, f"It falls silent: {silence:.0%} of the generated music is silence.",
         "Leave out recordings with long pauses (--set corpus.exclude=...).", True),
        ("frozen", frozen,
         f"It freezes: the sound does not change for {still_s:.1f} s of the long run{begun}.",
         "Raise predict.py --coarse-temperature (try 1.2).", True),
        ("looping", loop_s > 0, f"The long run repeats itself every {loop_s:.2f} s.",
         "Raise predict.py --temperature (try 1.1).", True),
        ("noisy", noisy,
         f"It is too restless: its sound changes {made('flux_ratio', default=0.0):.2f} times as much as real "
         f"music{begun}.",
         "Lower predict.py --temperature (try 0.9) or --fine-temperature (try 0.5).", True),
        ("sluggish", sluggish, f"It is sluggish: {onsets:.2f} {PER_REAL}.",
         "Raise predict.py --coarse-temperature (try 1.15).", True),
        ("unsteady", unsteady,
         f"It does not keep time: its pulse is {pulse:.2f} times as steady as that of real music.",
         "A new model with architecture.onset_memory 128 keeps time better, if this one has 0.", True),
        ("drifting", abs(drift_db) > 6,
         f"The long run {'fades' if drift_db < 0 else 'grows louder'}: {drift_db:+.1f} dB at its end.",
         "A longer training.window keeps the level steadier.", True),
        *_similarity(made("mmd2"), codec("mmd2", default=0.0), made("auc")),
    ]  # fmt: skip


def _similarity(mmd2: float, codec: float, auc: float) -> list[Rule]:
    if math.isnan(mmd2) or math.isnan(auc):  # a single excerpt says nothing about the similarity of kinds of music
        return []
    coarse, near = codec > MAX_CODEC_MMD2, mmd2 <= 1.3 * max(codec, 0.0) + 0.05
    return [
        ("coarse", coarse,
         f"The codec alone makes music differ from the original (squared MMD {codec:.2f}), and the model cannot be "
         "better.",
         "Use more recordings, and adapt the codec for longer (a new --meta with "
         "--set representation.adaptation_steps=1000).", False),
        ("close", near and not coarse,
         f"Continuations are as similar to real music as the codec allows (squared MMD {mmd2:.2f}; codec alone: "
         f"{codec:.2f}).", "", False),
        ("distant", not near,
         f"Continuations differ from real music (squared MMD {mmd2:.2f}; codec alone: {codec:.2f}), and a classifier "
         f"tells the two apart with an AUC of {auc:.2f}.",
         "Use a larger model (--set architecture.hidden=1024 with a new --meta).", True),
    ]  # fmt: skip


def _copies(report: Json) -> list[Rule]:
    new = partial(_figure, report, "novelty")
    copied, chance, near = new("copied_s"), new("held_out_copied_s"), new("near_ratio", default=1.0)
    if math.isnan(copied):
        return []
    copies, close = copied > max(2.0, 2 * chance), near < 0.5
    text = (f"It {'copies' if copies else 'stays close to' if close else 'does not copy'} its training music: at most "
            f"{copied:.1f} s in a row follow one piece (held-out music: {chance:.1f} s), and its most familiar seconds "
            f"differ from it {near:.2f} times as much as those of held-out music.")  # fmt: skip
    return [_copying(text) if copies or close else ("novel", True, text, "", False)]


def _copying(text: str) -> Rule:
    return "copying", True, text, MORE, False


def _notes(report: Json) -> list[Rule]:
    made, real = partial(_figure, report, "free_runs", "generated"), partial(_figure, report, "free_runs", "real")
    run, known = partial(_figure, report, "long_run"), report["long_run"] or {}
    stuck, real_stuck, long_stuck = made("stuck", default=0.0), real("stuck", default=0.0), known.get("stuck") or ""
    scale, real_scale = made("scale_consistency"), real("scale_consistency")
    ratio = made("notes_per_second") / (real("notes_per_second") or math.nan)
    paces = [pace for pace in known.get("notes_per_second_by_part", []) if pace is not None]
    pace, real_pace = min(paces, default=math.nan), run("real_notes_per_second", default=0.0)
    repeated, real_repeated = run("repeated", default=0.0), run("real_repeated", default=0.0)
    frozen = stuck > real_stuck + 0.25 or (bool(long_stuck) and real_stuck < 0.5)
    fading = not frozen and pace < 0.15 * real_pace
    looping = not (frozen or fading) and repeated > max(0.8, real_repeated + 0.4)
    noisy, sluggish, wandering = ratio > 1.6, ratio < 0.6 and not frozen, scale < real_scale - 0.1
    wrong = frozen or fading or looping or noisy or sluggish or wandering
    return [
        ("frozen", frozen,
         f"It gets stuck: {stuck:.0%} of the continuations are one repeated note or chord, or silence (real music: "
         f"{real_stuck:.0%}).{long_stuck and f' The long run: {long_stuck}'}",
         "Raise predict.py --temperature (try 1.1).", True),
        ("fading", fading,
         f"The long run has gaps: in its sparsest quarter {pace:.2f} notes begin in a second (real music: "
         f"{real_pace:.2f}).", "", True),
        ("looping", looping, f"The long run repeats itself: {repeated:.0%} of its second half was in its first half.",
         "Raise predict.py --temperature (try 1.1).", True),
        ("noisy", noisy, f"It is too restless: it has {ratio:.2f} times as many notes as real music.",
         "Lower predict.py --temperature (try 0.9).", True),
        ("sluggish", sluggish, f"It is sluggish: it has {ratio:.2f} times as many notes as real music.", "", True),
        ("wandering", wandering,
         f"It leaves its key: {scale:.0%} of its notes are in one scale (real music: {real_scale:.0%}).",
         "Lower predict.py --temperature (try 0.9) and --top-p (try 0.95).", True),
        ("close", not (wrong or math.isnan(ratio + scale + real_scale)),
         f"Its notes are similar to those of real music: {ratio:.2f} times as many, and {scale:.0%} of them in one "
         f"scale (real music: {real_scale:.0%}).", "", False),
    ]  # fmt: skip


def _note_copies(report: Json) -> list[Rule]:
    new, fraction = report["novelty"], _figure(report, "novelty", "generated", "share")
    if math.isnan(fraction):
        return []
    usual = _figure(report, "novelty", "held_out", "share", default=0.0)
    made, chance = new["generated"], new["held_out"]["longest"]
    longest, source = made["longest"], made["of"] and f", of {made['of']},"
    copies = fraction > max(usual + 0.15, 1.5 * usual) or (longest > 2 * chance and longest >= MIN_COPY)
    text = (f"It {'copies' if copies else 'does not copy'}: {fraction:.0%} of its stretches of {new['stretch']} events "
            f"are in its training songs too (held-out music: {usual:.0%}), the longest{source} with {longest} events "
            f"(held-out music: {chance}).")  # fmt: skip
    return [_copying(text) if copies else ("novel", True, text, "", False)]


def _figure(report: Json, *keys: str, default: float = math.nan) -> float:
    """Return the figure at a path of keys, or `default` if it was not measured."""
    found: object = report
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return float(found) if isinstance(found, int | float) else default
