// The Train tab: starts and pauses a training, and shows its progress.

import { $, attempt, choices, clock, get, loadChoices, make, onSubmit, post } from "./page.js";

const POLL_MS = 1000;
const STATES = { running: "Training", stopping: "Saving", paused: "Paused:", done: "Trained:", failed: "Not trained:" };
const form = $("training-form"), { name, corpus, preset } = form.elements;
let timer = null, latest = 0;

onSubmit("training-form", async () => {
  const values = Object.fromEntries(new FormData(form));
  const body = { ...values, minutes: Number(values.minutes), samples: "samples" in values };
  await post("/api/training", JSON.stringify(body));
  await showTraining();
});

name.oninput = disableFixed;
name.onchange = () => attempt(showTraining);

/** Disables what a model that exists keeps: its corpus and its preset. */
function disableFixed() {
  corpus.disabled = preset.disabled = Boolean(choices.models?.includes(name.value));
}

$("pause").onclick = () => attempt(async () => {
  await post("/api/training/pause");
  await showTraining();
});

export async function showTraining() {
  clearTimeout(timer);
  const request = ++latest, training = await get("/api/training"), { state } = training;
  if (request !== latest) return; // a later request has newer information
  const busy = state === "running" || state === "stopping";
  disableFixed();
  const resumes = choices.models?.includes(name.value) || (training.name === name.value && state === "paused");
  $("start").textContent = resumes ? "Resume" : "Start";
  $("start").disabled = busy;
  $("pause").disabled = state !== "running";
  if (state === "idle") return;
  draw(training, busy);
  if (busy) timer = setTimeout(() => attempt(showTraining), POLL_MS);
  else await loadChoices();
}

function draw({ name, state, now, log, training, held_out, samples }, busy) {
  $("training-title").textContent = `${STATES[state]} ${name}`;
  $("training-progress").hidden = !busy;
  $("training-progress").value = now.share ?? 0;
  const facts = now.task ? [`${now.task}: ${Math.round(100 * now.share)} %`] : [];
  if (training.length) facts.push(`step ${training.at(-1)[0]}`, `loss ${training.at(-1)[1].toFixed(2)}`);
  if (now.remaining_s != null) facts.push(`${clock(now.remaining_s)} remaining`);
  $("training-facts").textContent = facts.join(", ");
  $("training-log").hidden = !log.length;
  $("training-log").textContent = log.join("\n");
  $("curves").hidden = $("legend").hidden = training.length < 2;
  if (training.length > 1) drawCurves(training, held_out);
  if ($("samples").dataset.name !== name) $("samples").replaceChildren();
  $("samples").dataset.name = name;
  for (const { id, step, from_s } of samples.filter((sample) => !$(`sample-${sample.id}`))) {
    const words = `Sample of step ${step}`, src = `/api/files/${id}/take.wav#t=${from_s}`;
    const audio = make("audio", { controls: true, preload: "metadata", src, ariaLabel: words });
    $("samples").prepend(make("li", { id: `sample-${id}` }, make("span", { textContent: words }), audio));
  }
}

function drawCurves(training, heldOut) {
  const losses = [...training, ...heldOut].map(([, loss]) => loss);
  const low = Math.min(...losses), high = Math.max(...losses), last = training.at(-1)[0];
  const places = (curve) => curve.map(([step, loss]) => `${(100 * step) / last},${(100 * (high - loss)) / (high - low || 1)}`);
  $("training-curve").setAttribute("points", places(training).join(" "));
  $("held-out-curve").setAttribute("points", places(heldOut).join(" "));
  $("held-out-dots").setAttribute("d", places(heldOut).map((place) => `M${place}h0`).join(""));
  $("highest-loss").textContent = high.toFixed(1);
  $("lowest-loss").textContent = low.toFixed(1);
  $("last-step").textContent = `step ${last}`;
}
