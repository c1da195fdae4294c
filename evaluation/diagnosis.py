"""Figures into words: what a model has learned, what it does wrong, and what to try. Pure: no file, no model."""

import re
from dataclasses import dataclass
from typing import Any, NamedTuple


@dataclass(frozen=True)
class Learned:
    """The figures that a verdict on learning rests on.

    Attributes:
        held_out, train: nats per step of the model on held-out and on training music.
        unigram, copy_last: nats per step of the baselines on held-out music.
        improving: whether the latest of several validations of the training was the best one.
        risen: share by which held-out nats had risen again at the end of the training, 0 where they had not.
        again: the command that trains twice as long.
        preset, hidden: of the model; the preset is None where it is of none.
    """

    held_out: float
    train: float
    unigram: float
    copy_last: float
    improving: bool = True
    risen: float = 0.0
    again: str = "the same train.py command with twice the --minutes"
    preset: str | None = None
    hidden: int = 512

    @property
    def baseline(self) -> float:
        return min(self.unigram, self.copy_last)

    @property
    def gap(self) -> float:
        """How much of what is gained on training music is lost on held-out music, 0 ... 1 and beyond."""
        gained = self.baseline - self.train
        return (self.held_out - self.train) / gained if gained > 0 else 0.0

    @property
    def more_music(self) -> str:
        """What to try against learning by heart."""
        hidden, begin = max(1, self.hidden // 2), "Add music, or train a smaller model: "
        if not self.preset:
            small = f"architecture.hidden {hidden} and architecture.dropout 0.2"
            return f"{begin}a copy of its metadata file with another name and state, {small}."
        smaller = f"--set architecture.hidden={hidden} --set architecture.dropout=0.2"
        return f"{begin}train.py --meta small.json --corpus YOURS --preset {self.preset} {smaller}."


@dataclass(frozen=True)
class Signs(Learned):
    """What a verdict on a model of sound rests on; None where it was not measured.

    Attributes:
        onset_ratio, pulse_ratio, flux_ratio: of free runs, over those of real music.
        codec_flux_ratio: the same of real music through the codec.
        mmd2, codec_mmd2: squared MMD of free runs, and of real music through the codec, from real music.
        auc: how well the free runs are told from real music, 0.5 ... 1.
        silence, real_silence: share of silent quarter seconds in all that was generated, and in real music.
        still_s, real_still_s: longest stretch without change in the long run, and in real music.
        loop_s: length of the loop that the long run fell into.
        drift_db: level at the end of the long run over that of its beginning.
        copied_s, held_out_copied_s: longest stretch that follows a training piece, in the output and in held-out music.
        near_ratio: 5th percentile of the distances of generated seconds to training music, over that of
            held-out music, through the codec as the generated seconds went.
    """

    onset_ratio: float | None = None
    pulse_ratio: float | None = None
    flux_ratio: float | None = None
    codec_flux_ratio: float | None = None
    mmd2: float | None = None
    codec_mmd2: float | None = None
    auc: float | None = None
    silence: float | None = None
    real_silence: float | None = None
    still_s: float | None = None
    real_still_s: float | None = None
    loop_s: float | None = None
    drift_db: float | None = None
    copied_s: float | None = None
    held_out_copied_s: float | None = None
    near_ratio: float | None = None


@dataclass(frozen=True)
class NoteSigns(Learned):
    """What a verdict on a model of notes rests on; None where it was not measured.

    Attributes:
        notes_ratio: notes per second of free runs, over those of what the pieces really do.
        scale, real_scale: share of notes in one scale, in free runs and in real music.
        stuck, real_stuck: share of free runs, and of real music, that are one repeated note or chord, or silence.
        long_stuck: that in words, of the long run.
        least_pace, real_pace: notes per second, in the sparsest quarter of the long run, and of real music.
        repeated, real_repeated: share of stretches in the second half of the long run, and of real music, that its
            first half has too.
        share, held_out_share: of stretches that training songs have too, in the output and in held-out music.
        longest, held_out_longest: events of the longest such stretch.
        source: the training song that has it.
    """

    notes_ratio: float | None = None
    scale: float | None = None
    real_scale: float | None = None
    stuck: float | None = None
    real_stuck: float | None = None
    long_stuck: str | None = None
    least_pace: float | None = None
    real_pace: float | None = None
    repeated: float | None = None
    real_repeated: float | None = None
    share: float | None = None
    held_out_share: float | None = None
    longest: int | None = None
    held_out_longest: int | None = None
    source: str = ""


class Finding(NamedTuple):
    """One sentence or two: a name for programs, what is the case, and what to try (empty where nothing is wrong)."""

    name: str
    text: str
    advice: str = ""


COARSE_MMD2 = 0.25  # of real music through the codec: the default on the chorales reaches 0.07
UNSTEADY = 0.65  # of the pulse of real music; music without any reads about half of music that has one
MIN_COPY = 24  # events in a row: what is shorter may be a common turn


def signs(report: dict[str, Any]) -> Signs | NoteSigns:
    """The figures of a report that a verdict rests on."""
    held_out, training, model = report["held_out"], report["training"], report["model"]
    learned: dict[str, Any] = {
        "held_out": held_out["model"]["nats_per_step"],
        "train": held_out["training"]["nats_per_step"],
        "unigram": held_out["unigram"]["nats_per_step"],
        "copy_last": held_out["copy_last"]["nats_per_step"],
        "improving": training["improving"],
        "risen": training["risen"],
        "again": training["again"],
        "preset": model["preset"],
        "hidden": model["hidden"],
    }
    runs, long_run, new = report["free_runs"], report["long_run"] or {}, report["novelty"] or {}
    if model["hears"] == "notes":
        return NoteSigns(**learned, **_note_signs(runs["generated"], runs["real"], long_run, new))
    return Signs(**learned, **_sound_signs(runs, long_run, new))


def _sound_signs(runs: dict[str, Any], long_run: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    made, codec = runs["generated"], runs["codec"]
    several = made["auc"] is not None  # a single excerpt says nothing of how alike two kinds of music are
    return {
        "onset_ratio": made["onset_ratio"],
        "pulse_ratio": made["pulse_ratio"],
        "flux_ratio": made["flux_ratio"],
        "codec_flux_ratio": codec["flux_ratio"],
        "mmd2": made["mmd2"] if several else None,
        "codec_mmd2": codec["mmd2"] if several else None,
        "auc": made["auc"],
        "silence": max(made["silence"], long_run.get("silence", 0.0)),
        "real_silence": runs["real"]["silence"],
        "still_s": long_run.get("still_s"),
        "real_still_s": long_run.get("real_still_s"),
        "loop_s": None if long_run.get("real_loop_s") else long_run.get("loop_s"),
        "drift_db": long_run.get("level_drift_db", {}).get("at_the_end"),
        "copied_s": new.get("copied_s"),
        "held_out_copied_s": new.get("held_out_copied_s"),
        "near_ratio": new.get("near_ratio"),
    }


def _note_signs(
    made: dict[str, Any], real: dict[str, Any], long_run: dict[str, Any], new: dict[str, Any]
) -> dict[str, Any]:
    here, there = new.get("generated", {}), new.get("held_out", {})
    paces = made["notes_per_second"], real["notes_per_second"]
    return {
        "notes_ratio": paces[0] / paces[1] if paces[0] is not None and paces[1] else None,
        "scale": made["scale_consistency"],
        "real_scale": real["scale_consistency"],
        "stuck": made["stuck"],
        "real_stuck": real["stuck"],
        "long_stuck": long_run.get("stuck"),
        "least_pace": min((n for n in long_run.get("notes_per_second_by_part", []) if n is not None), default=None),
        "real_pace": long_run.get("real_notes_per_second"),
        "repeated": long_run.get("repeated"),
        "real_repeated": long_run.get("real_repeated"),
        "share": here.get("share"),
        "held_out_share": there.get("share"),
        "longest": here.get("longest"),
        "held_out_longest": there.get("longest"),
        "source": here.get("of", ""),
    }


def judge(signs: Signs | NoteSigns) -> list[Finding]:
    """What the figures say, the most important first within learning, music and novelty; never empty."""
    if isinstance(signs, NoteSigns):
        found = [*_learning(signs), *_notes(signs), *_copies(signs)]
    else:
        found = [*_learning(signs), *_sound(signs), *_novelty(signs)]
    if found[0].name == "untrained":  # whatever else is wrong, training comes before it
        return [found[0], *(finding._replace(advice="") for finding in found[1:])]
    return [_no_longer(f, signs.more_music) for f in found] if found[0].name == "memorising" else found


def _no_longer(finding: Finding, instead: str) -> Finding:
    """The same without the advice to train longer: who learns by heart would only do so the better."""
    if finding.advice.startswith("Train longer"):
        return finding._replace(advice=instead)
    return finding._replace(advice=re.sub(r",? (and|or) train longer", "", finding.advice))


def _learning(s: Learned) -> list[Finding]:
    if s.held_out >= s.baseline and s.train >= 0.98 * s.baseline:
        text = "The model knows no more about this music than a table of frequencies or “the same again” does."
        advice = f"Train longer: {s.again}. Should it stay so, lower --set training.learning_rate=0.001."
        return [Finding("untrained", text, advice)]
    if s.held_out >= s.baseline or s.risen > 0.03 or s.gap > 0.5:
        how = f"{s.held_out - s.train:.2f} nats per step better on the music it was trained on than on music it was not"
        rose = f", and held-out nats had risen by {s.risen:.0%} when training ended" if s.risen > 0.03 else ""
        text = f"The model learns its training music by heart: it is {how}{rose}."
        return [Finding("memorising", text, f"{s.more_music} (predict.py uses the best weights, not the last.)")]
    saved = 1 - s.held_out / s.baseline if s.baseline > 0 else 0.0
    text = f"The model has learned: on music it never heard, a step costs {s.held_out:.2f} nats; {s.baseline:.2f}"
    text += f" without a model of time ({saved:.0%} less)." if s.baseline > 0 else " without a model of time."
    found = [Finding("learning", text)]
    if s.gap < 0.2:
        text = (
            f"What it learned carries over: only {max(s.gap, 0):.0%} of what it gained on its training music is lost "
        )
        text += "on unseen music."
        found.append(Finding("generalising", text))
    else:
        text = f"{s.gap:.0%} of what it gained on its training music is lost on unseen music."
        found.append(Finding("overfitting", text, "More music would help."))
    if s.improving:
        text = "Held-out nats were still falling when training ended."
        found.append(Finding("improving", text, f"Train longer: {s.again}."))
    return found


def _sound(s: Signs) -> list[Finding]:
    found = []
    if s.silence is not None and s.silence > 0.15 + (s.real_silence or 0):
        text = f"It falls silent: {s.silence:.0%} of what it makes is silence."
        advice = "Leave recordings with long pauses out (--set corpus.exclude=...), and train longer."
        found.append(Finding("silent", text, advice))
    elif _is_frozen(s):
        still = f"nothing changes for {s.still_s:.1f} s of the long run" if s.still_s else "the sound stands still"
        onsets = "" if s.onset_ratio is None else f", {s.onset_ratio:.2f} times as many notes begin as in real music"
        advice = (
            "Train longer; raise predict.py --coarse-temperature (1.2, say). A model that regresses frames freezes."
        )
        found.append(Finding("frozen", f"It freezes: {still}{onsets}.", advice))
    if s.loop_s is not None:
        text = f"The long run goes round in a circle of {s.loop_s:.2f} s."
        found.append(Finding("looping", text, "Raise predict.py --temperature (1.1, say), or train longer."))
    if (s.onset_ratio or 0) > 1.5 or (s.flux_ratio or 0) > 1.2 * max(1.0, s.codec_flux_ratio or 1.0):
        onsets = "" if s.onset_ratio is None else f"{s.onset_ratio:.2f} times the onsets and "
        text = f"It is too restless: {onsets}{s.flux_ratio or 0:.2f} times the movement of real music."
        advice = "Lower predict.py --temperature (0.9) or --fine-temperature (0.5), and train longer."
        found.append(Finding("noisy", text, advice))
    elif s.onset_ratio is not None and 0.2 <= s.onset_ratio < 0.65 and not any(f.name == "frozen" for f in found):
        text = f"It is sluggish: {s.onset_ratio:.2f} times as many notes begin as in real music."
        found.append(Finding("sluggish", text, "Raise predict.py --coarse-temperature (1.15), or train longer."))
    if s.pulse_ratio is not None and s.pulse_ratio < UNSTEADY and {f.name for f in found} <= {"noisy"}:
        text = f"It does not keep time: its pulse is {s.pulse_ratio:.2f} times as steady as that of real music."
        advice = f"Train longer: {s.again}; architecture.onset_memory 128 (a new --meta), if it is 0, steadies it most."
        found.append(Finding("unsteady", text, advice))
    if s.drift_db is not None and abs(s.drift_db) > 6:
        text = f"The long run {'fades' if s.drift_db < 0 else 'grows louder'}: {s.drift_db:+.1f} dB at its end."
        found.append(Finding("drifting", text, "Train longer; a longer training.window keeps the level steadier."))
    return found + _likeness(s)


def _is_frozen(s: Signs) -> bool:
    still = s.still_s is not None and s.still_s > max(3.0, 3 * (s.real_still_s or 0))
    return still or (s.onset_ratio is not None and s.onset_ratio < 0.2)


def _likeness(s: Signs) -> list[Finding]:
    if s.mmd2 is None:
        return []
    codec = s.codec_mmd2 if s.codec_mmd2 is not None else 0.0
    found = []
    if codec > COARSE_MMD2:
        text = f"The codec itself is far from real music (squared MMD {codec:.2f}), so the model cannot come nearer."
        advice = (
            "Finer codes: train.py --meta fine.json --corpus YOURS --set representation.levels=6, and more recordings."
        )
        found.append(Finding("coarse", text, advice))
    if s.mmd2 <= 1.3 * max(codec, 0.0) + 0.05:
        if found:
            return found
        text = f"Free runs are as near to real music as the codec lets them be (squared MMD {s.mmd2:.2f}, {codec:.2f})."
        return [*found, Finding("close", text)]
    told = "" if s.auc is None else f", and a classifier tells the two apart with an AUC of {s.auc:.2f}"
    text = f"Free runs are {s.mmd2:.2f} (squared MMD) from real music; the codec alone is {codec:.2f} from it{told}."
    return [*found, Finding("distant", text, "Train longer, or larger (--set architecture.hidden=1024, a new --meta).")]


def _novelty(s: Signs) -> list[Finding]:
    if s.copied_s is None and s.near_ratio is None:
        return []
    copied, chance = s.copied_s or 0.0, s.held_out_copied_s or 0.0
    near = s.near_ratio if s.near_ratio is not None else 1.0
    if copied > max(2.0, 2 * chance):
        text = f"It copies: up to {copied:.1f} s in a row follow one training piece (held-out music: {chance:.1f} s), "
        text += f"and its nearest seconds lie {near:.2f} times as far from it as unseen music's."
        return [Finding("copying", text, s.more_music)]
    if near < 0.5:
        text = f"It stays close to what it learned: its seconds lie {near:.2f} times as far from the nearest training "
        text += f"music as unseen music's, though no more than {copied:.1f} s in a row follow one piece "
        return [Finding("copying", f"{text}(held-out music: {chance:.1f} s).", s.more_music)]
    text = f"It does not copy: at most {copied:.1f} s in a row resemble one training piece (held-out music: "
    text += f"{chance:.1f} s), and its nearest seconds lie {near:.2f} times as far from it as unseen music's."
    return [Finding("novel", text)]


def _notes(s: NoteSigns) -> list[Finding]:
    found = []
    stuck, real = s.stuck or 0.0, s.real_stuck or 0.0
    if stuck > real + 0.25 or (s.long_stuck and real < 0.5):
        text = f"It gets stuck: {stuck:.0%} of what it makes is one note or chord again and again, or silence "
        text += f"(real music: {real:.0%})." + (f" Of the long run: {s.long_stuck}" if s.long_stuck else "")
        advice = f"Train longer: {s.again}; or raise predict.py --temperature (1.1, say)."
        found.append(Finding("frozen", text, advice))
    elif s.least_pace is not None and s.least_pace < 0.15 * (s.real_pace or 0):
        text = (
            f"The long run has gaps: in its sparsest quarter {s.least_pace:.2f} notes begin in a second (real music: "
        )
        found.append(Finding("fading", f"{text}{s.real_pace:.2f}).", f"Train longer: {s.again}."))
    elif (s.repeated or 0) > max(0.8, (s.real_repeated or 0) + 0.4):
        text = f"The long run goes round in a circle: {s.repeated:.0%} of its second half was in its first half too."
        found.append(Finding("looping", text, "Raise predict.py --temperature (1.1, say), or train longer."))
    if s.notes_ratio is not None and s.notes_ratio > 1.6:
        text = f"It is too restless: {s.notes_ratio:.2f} times the notes of real music."
        found.append(Finding("noisy", text, "Lower predict.py --temperature (0.9), and train longer."))
    elif s.notes_ratio is not None and s.notes_ratio < 0.6 and not any(f.name == "frozen" for f in found):
        text = f"It is sluggish: {s.notes_ratio:.2f} times the notes of real music."
        found.append(Finding("sluggish", text, f"Train longer: {s.again}."))
    if s.scale is not None and s.real_scale is not None and s.scale < s.real_scale - 0.1:
        text = f"It wanders off its key: {s.scale:.0%} of its notes are in one scale (real music: {s.real_scale:.0%})."
        advice = f"Train longer: {s.again}; or lower predict.py --temperature (0.9) and --top-p (0.95)."
        found.append(Finding("wandering", text, advice))
    if not found and None not in (s.notes_ratio, s.scale, s.real_scale):
        text = f"Its notes are much like those of real music: {s.notes_ratio:.2f} times as many, {s.scale:.0%} of them "
        found.append(Finding("close", text + f"in one scale (real music: {s.real_scale:.0%})."))
    return found


def _copies(s: NoteSigns) -> list[Finding]:
    if s.share is None or s.longest is None:
        return []
    usual, chance = s.held_out_share or 0.0, s.held_out_longest or 0
    source = f" of {s.source}" if s.source else ""
    how = f"{s.share:.0%} of its stretches are in its training songs too (held-out music: {usual:.0%}), the longest "
    how += f"one{source} with {s.longest} events (held-out music: {chance})."
    much = s.share > usual + 0.15 and s.share > 1.5 * usual
    long = s.longest > 2 * chance and s.longest >= MIN_COPY
    if much or long:
        return [Finding("copying", f"It copies: {how}", s.more_music)]
    return [Finding("novel", f"It does not copy: {how}")]
