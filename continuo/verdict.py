"""Figures into words: what a model has learned, what it does wrong, and what to try. Pure: no file, no model."""

from dataclasses import dataclass
from typing import Any, NamedTuple


@dataclass(frozen=True)
class Signs:
    """The figures that a verdict rests on; None where one was not measured.

    Attributes:
        held_out, train: nats per step of the model on held-out and on training music.
        unigram, copy_last: nats per step of the baselines on held-out music.
        improving: whether the latest validation of the training was the best one.
        risen: share by which held-out nats had risen again at the end of the training, 0 where they had not.
        onset_ratio, flux_ratio: of free runs, over those of real music.
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

    held_out: float
    train: float
    unigram: float
    copy_last: float
    improving: bool = True
    risen: float = 0.0
    onset_ratio: float | None = None
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

    @property
    def baseline(self) -> float:
        return min(self.unigram, self.copy_last)

    @property
    def gap(self) -> float:
        """How much of what is gained on training music is lost on held-out music, 0 ... 1 and beyond."""
        gained = self.baseline - self.train
        return (self.held_out - self.train) / gained if gained > 0 else 0.0


class Finding(NamedTuple):
    """One sentence or two: a name for programs, what is the case, and what to try (empty where nothing is wrong)."""

    name: str
    text: str
    advice: str = ""


COARSE_MMD2 = 0.25  # of real music through the codec: the default on the chorales reaches 0.07
MORE_MUSIC = (
    "Add recordings, or train a smaller model: "
    "train.py --meta small.json --corpus YOURS --set architecture.hidden=256 --set architecture.dropout=0.2."
)


def signs(report: dict[str, Any]) -> Signs:
    """The figures of a report that a verdict rests on."""
    held_out, training, runs = report["held_out"], report["training"], report["free_runs"]
    made, codec, long_run, new = runs["generated"], runs["codec"], report["long_run"] or {}, report["novelty"] or {}
    return Signs(
        held_out=held_out["model"]["nats_per_step"],
        train=held_out["training"]["nats_per_step"],
        unigram=held_out["unigram"]["nats_per_step"],
        copy_last=held_out["copy_last"]["nats_per_step"],
        improving=training["improving"],
        risen=training["risen"],
        onset_ratio=made["onset_ratio"],
        flux_ratio=made["flux_ratio"],
        codec_flux_ratio=codec["flux_ratio"],
        mmd2=made["mmd2"],
        codec_mmd2=codec["mmd2"],
        auc=made["auc"],
        silence=max(made["silence"], long_run.get("silence", 0.0)),
        real_silence=runs["real"]["silence"],
        still_s=long_run.get("still_s"),
        real_still_s=long_run.get("real_still_s"),
        loop_s=None if long_run.get("real_loop_s") else long_run.get("loop_s"),
        drift_db=long_run.get("level_drift_db", {}).get("at_the_end"),
        copied_s=new.get("copied_s"),
        held_out_copied_s=new.get("held_out_copied_s"),
        near_ratio=new.get("near_ratio"),
    )


def judge(signs: Signs) -> list[Finding]:
    """What the figures say, the most important first within learning, sound and novelty; never empty."""
    found = [*_learning(signs), *_sound(signs), *_novelty(signs)]
    return [finding for finding in found if finding]


def _learning(s: Signs) -> list[Finding]:
    if s.held_out >= s.baseline and s.train >= 0.98 * s.baseline:
        text = "The model knows no more about this music than a table of frequencies or “the same again” does."
        advice = "Train longer: the same train.py command, more --minutes. Should it stay so, lower "
        return [Finding("untrained", text, advice + "--set training.learning_rate=0.001.")]
    if s.held_out >= s.baseline or s.risen > 0.03 or s.gap > 0.5:
        how = f"{s.held_out - s.train:.2f} nats per step better on the music it was trained on than on music it was not"
        rose = f", and held-out nats had risen by {s.risen:.0%} when training ended" if s.risen > 0.03 else ""
        text = f"The model learns its training music by heart: it is {how}{rose}."
        return [Finding("memorising", text, f"{MORE_MUSIC} (predict.py uses the best weights, not the last.)")]
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
        found.append(Finding("overfitting", text, "More recordings would help."))
    if s.improving:
        text = "Held-out nats were still falling when training ended."
        found.append(Finding("improving", text, "Train longer: the same train.py command with twice the --minutes."))
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
    if copied > max(2.0, 2 * chance) or near < 0.5:
        text = f"It copies: up to {copied:.1f} s in a row follow one training piece (held-out music: {chance:.1f} s), "
        text += f"and its nearest seconds lie {near:.2f} times as far from it as unseen music's."
        return [Finding("copying", text, MORE_MUSIC)]
    text = f"It does not copy: at most {copied:.1f} s in a row resemble one training piece (held-out music: "
    text += f"{chance:.1f} s), and its nearest seconds lie {near:.2f} times as far from it as unseen music's."
    return [Finding("novel", text)]
