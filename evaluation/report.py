"""The report of an evaluation as one HTML page that needs no network: style, pictures and sounds are inside."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from continuo.system.text import pluralize

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --good: #0e7f71; --try: #c05a2b; }
body { font: 16px/1.55 system-ui, sans-serif; max-width: 58rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
.small { opacity: .75; font-size: .9rem; }
.verdict { background: var(--soft); border-left: 4px solid var(--good); padding: .6rem 1rem; }
.verdict p { margin: .4rem 0; } .try { color: var(--try); }
.wide { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; white-space: normal; min-width: 9rem; }
img { width: 100%; height: auto; background: #fff; border-radius: 6px; margin: .6rem 0; }
.sounds { display: grid; grid-template-columns: repeat(auto-fit, minmax(14rem, 1fr)); gap: .8rem; }
audio { width: 100%; } figure { margin: 0; } figcaption { font-size: .85rem; opacity: .75; }
"""
RUN_COLUMNS = {
    "onset_ratio": "onsets",
    "pulse_ratio": "pulse",
    "flux_ratio": "flux",
    "level_diff_db": "level, dB",
    "drift_db": "drift, dB",
    "silence": "silence",
    "mmd2": "squared MMD",
    "auc": "AUC",
}
RUN_ROWS = {
    "generated": "free runs",
    "codec": "the codec alone",
    "inversion": "true magnitudes, phases found anew",
    "floor": "other real music of the same pieces",
}
NOTE_COLUMNS = {
    "pitch_class_entropy": "pitch classes, bits",
    "scale_consistency": "in one scale",
    "groove_consistency": "groove",
    "notes_per_second": "notes per second",
    "mean_pitch": "mean pitch",
    "stuck": "stuck",
}
NOTE_ROWS = {"generated": "free runs", "real": "what the pieces really do"}
MAX_LEVELS = 8  # of which a table has columns


def page(
    report: dict[str, Any], pictures: Mapping[str, bytes], sounds: Sequence[tuple[str, Mapping[str, bytes]]]
) -> str:
    """The page. `pictures` are PNG by name, `sounds` names with FLAC by side; whatever is missing is left out."""
    name = escape(report["model"]["name"])
    body = [
        f"<h1>How good is {name}?</h1>",
        _subtitle(report),
        _verdict(report["verdict"]),
        _sounds(sounds),
        _picture(pictures, "spectrograms", "What one excerpt is, through the codec, and as the model goes on"),
        _picture(pictures, "roll_real", "The notes of one excerpt"),
        _picture(pictures, "roll_generated", "The notes of its beginning, and as the model goes on"),
        "<h2>Held-out music</h2>",
        _held_out(report),
        _picture(pictures, "levels", "Nats per step by level, beside two models without time"),
        _picture(pictures, "curves", "Nats per step while training"),
        "<h2>Free runs</h2>",
        _free_runs(report),
        _picture(pictures, "pitch_classes", "Pitch classes of free runs and of what the pieces really do"),
        _long_run(report),
        _picture(pictures, "level", "Level of the long run over time"),
        _novelty(report),
        _picture(pictures, "novelty", "Distances of seconds to the nearest second of the training music"),
    ]
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    head += f"<title>How good is {name}?</title><style>{STYLE}</style>"
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n' + "\n".join(body) + "\n</body></html>\n"


def _subtitle(report: dict[str, Any]) -> str:
    m = report["model"]
    words = (
        f"{m['parameters'] / 1e6:.1f} million parameters, weights of step {m['weights_step']:,} of {m['step']:,}, "
        f"trained for {report['training']['minutes']:.1f} minutes on {pluralize(m['training_pieces'], 'piece')} "
        f"({m['training_minutes']:.0f} minutes of music) of {m['corpus']}; "
        f"{pluralize(m['held_out_pieces'], 'piece')} held out. "
        f"Measured in {report['seconds_taken']:.0f} s by Continuo {m['version']}."
    )
    notes = "".join(f'<p class="small try">{escape(note)}</p>' for note in report["notes"])
    return f'<p class="small">{escape(words)}</p>{notes}'


def _verdict(findings: Sequence[Mapping[str, str]]) -> str:
    rows = []
    for finding in findings:
        advice = f' <span class="try">{escape(finding["advice"])}</span>' if finding["advice"] else ""
        rows.append(f"<p>{escape(finding['text'])}{advice}</p>")
    return f'<div class="verdict">{"".join(rows)}</div>'


def _sounds(sounds: Sequence[tuple[str, Mapping[str, bytes]]]) -> str:
    parts = ["<h2>Listen</h2>"] if sounds else []
    for name, sides in sounds:
        players = "".join(
            f'<figure><figcaption>{escape(side)}</figcaption><audio controls preload="none" '
            f'src="data:audio/flac;base64,{b64encode(sound).decode()}"></audio></figure>'
            for side, sound in sides.items()
        )
        parts.append(f'<p>{escape(name)}</p><div class="sounds">{players}</div>')
    return "\n".join(parts)


def _picture(pictures: Mapping[str, bytes], name: str, words: str) -> str:
    if name not in pictures:
        return ""
    return f'<img alt="{escape(words)}" src="data:image/png;base64,{b64encode(pictures[name]).decode()}">'


def _held_out(report: dict[str, Any]) -> str:
    h = report["held_out"]
    names = {"model": "the model", "training": "the model, on music it was trained on"}
    names |= {"copy_last": "the last step again, or a frequent one", "unigram": "frequencies alone"}
    rows = [(words, h[key]) for key, words in names.items()]
    rows += [(f"{other['model']['name']} (beside)", other["held_out"]["model"]) for other in report.get("beside", [])]
    levels = min(MAX_LEVELS, max(len(costs["levels"]) for _, costs in rows))
    header = ["", "nats per step", "bits per second", "bits per beat", *(f"level {n + 1}" for n in range(levels))]
    cells = [
        [
            words,
            _number(costs["nats_per_step"]),
            _number(costs["bits_per_second"], 0 if costs["bits_per_beat"] is None else 1),
            _number(costs["bits_per_beat"]),
            *(_number(costs["levels"][n] if n < len(costs["levels"]) else None) for n in range(levels)),
        ]
        for words, costs in rows
    ]
    unit = "Densities of continuous values: they compare with nothing but each other. " if _dense(report) else ""
    text = (
        f"{unit}Over {h['frames']:,} steps of held-out and {h['training_frames']:,} of training music; less is better. "
        "A beat is a quarter note; sound has none that is known."
    )
    return f'{_table(header, cells)}<p class="small">{text}</p>'


def _dense(report: dict[str, Any]) -> bool:
    return bool(report["model"]["continuous"] or any(o["model"]["continuous"] for o in report.get("beside", [])))


def _free_runs(report: dict[str, Any]) -> str:
    runs, beside = report["free_runs"], report.get("beside", [])
    kinds = {report["model"]["hears"], *(other["model"]["hears"] for other in beside)}
    columns = (RUN_COLUMNS if "sound" in kinds else {}) | (NOTE_COLUMNS if "notes" in kinds else {})
    of_notes = report["model"]["hears"] == "notes"
    rows = [(words, runs[key]) for key, words in (NOTE_ROWS if of_notes else RUN_ROWS).items() if runs.get(key)]
    for other in beside:
        rows.append((f"{other['model']['name']} (beside)", other["free_runs"]["generated"]))
        if other["model"]["hears"] == "notes" and not of_notes:
            rows.append((f"{other['model']['name']} (beside), {NOTE_ROWS['real']}", other["free_runs"]["real"]))
    cells = [[words, *(_number(figures.get(column)) for column in columns)] for words, figures in rows]
    text = _about_notes(report) if of_notes else _about_sound(report)
    return f'{_table(["", *columns.values()], cells)}<p class="small">{text}</p>'


def _runs(report: dict[str, Any]) -> str:
    plan = report["plan"]
    count = report["free_runs"]["excerpts"]
    return f"{pluralize(count, 'run')} of {plan['seconds']:g} s from {plan['prompt_seconds']:g} s of held-out music"


def _about_sound(report: dict[str, Any]) -> str:
    runs = report["free_runs"]
    text = (
        f"{_runs(report)}, beside what the pieces really do: onsets, pulse (how steady the beat is) and flux as shares "
        "of theirs. A squared MMD of 0 and an AUC of 0.5: the two cannot be told apart."
    )
    if runs["generated"]["onset_ratio"] is None:
        text += " Onsets are not compared: this music has too few that the measure hears."
    if runs.get("inversion"):
        text += f" Spectral convergence of the phases: {runs['inversion']['spectral_convergence']:.3f}."
    return text


def _about_notes(report: dict[str, Any]) -> str:
    return (
        f"{_runs(report)}; figures near those of the pieces are good. Pitch classes: their entropy, 0 for one pitch, "
        "3.58 for all twelve alike. In one scale: the largest share of notes in any major or minor scale. Groove: how "
        "much neighbouring bars begin their notes at the same places, 1 for always. Stuck: the share of runs that are "
        "one note or chord again and again, or silence."
    )


def _long_run(report: dict[str, Any]) -> str:
    run = report["long_run"]
    if not run:
        return ""
    rows = _long_notes(run) if report["model"]["hears"] == "notes" else _long_sound(run)
    return f"<h2>A long run of {run['seconds']:.0f} s</h2>{_table(['', ''], rows)}"


def _long_notes(run: Mapping[str, Any]) -> list[list[str]]:
    by_part, endings = run["notes_per_second_by_part"], run["endings_s"]
    ends = ", ".join(f"{second:.0f} s" for second in endings) or "none"
    return [
        ["stuck", run["stuck"] or "no"],
        ["notes per second, by quarters (in real music)",
         f"{', '.join(map(_number, by_part))} ({_number(run['real_notes_per_second'])})"],
        ["of its second half, heard in its first (in real music)",
         f"{_number(run['repeated'])} ({_number(run['real_repeated'])})"],
        ["pieces end after about", ends],
    ]  # fmt: skip


def _long_sound(run: Mapping[str, Any]) -> list[list[str]]:
    drift = ", ".join(f"{value:+.1f} dB {name.replace('_', ' ')}" for name, value in run["level_drift_db"].items())
    loop = "none" if run["loop_s"] is None else f"{run['loop_s']:.2f} s"
    real_loop = "none" if run["real_loop_s"] is None else f"{run['real_loop_s']:.2f} s"
    return [
        ["level over that of the first 10 s", drift],
        ["silence", f"{run['silence']:.0%}"],
        ["onsets, of the real, by 30 s", ", ".join(_number(value) for value in run["onset_ratio_by_30_s"])],
        ["loop (in real music)", f"{loop} ({real_loop})"],
        ["longest stretch without change (in real music)", f"{run['still_s']:.1f} s ({run['real_still_s']:.1f} s)"],
    ]


def _novelty(report: dict[str, Any]) -> str:
    new = report["novelty"]
    if not new:
        return ""
    return f"<h2>Novelty</h2>{_new_notes(new) if report['model']['hears'] == 'notes' else _new_sound(new)}"


def _new_notes(new: Mapping[str, Any]) -> str:
    names = {"generated": "what the model makes", "held_out": "held-out music"}
    rows = [
        [words, _number(new[side]["share"]), f"{new[side]['longest']}", new[side]["of"] or "–"]
        for side, words in names.items()
    ]
    text = (
        f"An event is a step from one onset to the next, in whatever key. Compared with {new['training_minutes']:.0f} "
        f"of {new['of_minutes']:.0f} minutes of training music."
    )
    header = ["", f"share of its {new['stretch']} events in a row that training songs have", "longest, events", "of"]
    return f'{_table(header, rows)}<p class="small">{text}</p>'


def _new_sound(new: Mapping[str, Any]) -> str:
    rows = []
    for kind, words in (("spectrum", "spectrum"), ("harmony", "harmony, in any key")):
        for side, figures in new[kind].items():
            values = [figures[key] for key in ("median", "p5", "median_ratio", "p5_ratio")]
            rows.append([f"{words}: {side.replace('_', ' ')}", *map(_number, values)])
    control = new["control_copied_s"]
    known = "" if control is None else f" Training music through the codec, which is a copy, shows {control:.1f} of "
    known += "" if control is None else f"{new['control_of_s']:g} s."
    text = (
        f"Longest stretch that follows one training piece: {new['copied_s']:.1f} s; in held-out music, by which the "
        f"threshold was set, {new['held_out_copied_s']:.1f} s.{known} Compared with {new['training_minutes']:.0f} of "
        f"{new['of_minutes']:.0f} minutes of training music."
    )
    header = ["distance of seconds to training music", "median", "5th percentile", "of held-out's", "of held-out's 5th"]
    return f'{_table(header, rows)}<p class="small">{text}</p>'


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    top = f"<thead><tr>{head}</tr></thead>" if any(header) else ""
    return f'<div class="wide"><table>{top}<tbody>{body}</tbody></table></div>'


def _number(value: float | None, digits: int = 2) -> str:
    """A figure for people; a dash where there is none."""
    return "–" if value is None else f"{value:,.{digits}f}"
