// The page of studio.py: three tabs, each a form that asks and a stage that shows.

import { Player, Spectrogram } from "./sound.js";

const $ = (id) => document.getElementById(id);
const POLL_MS = 1000;
const ENDING = /\.(musicxml|xml|mxl|midi?|wave?|flac|og[ag]|opus|mp3|aif[cf]?|aiff|au|snd)\b/i;

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

async function ask(path, body, signal) {
  const options = body === undefined ? {} : { method: "POST", body, signal, headers: { "x-continuo": "studio" } };
  const response = await fetch(path, options).catch((error) => {
    throw error.name === "AbortError" ? error : new Error("the studio does not answer: is it still running?");
  });
  if (!response.ok) throw new Error((await response.json().catch(() => ({}))).error ?? `refused (${response.status})`);
  return response;
}

const told = async (path, body) => (await ask(path, body)).json();

/** Runs what a button began; what goes wrong is said above everything. */
async function doing(work) {
  $("problem").hidden = true;
  try {
    await work();
  } catch (error) {
    $("problem").textContent = error.message;
    $("problem").hidden = false;
    $("problem").scrollIntoView({ block: "nearest" });
  }
}

const clock = (seconds) => {
  const whole = Math.round(seconds), minutes = Math.floor(whole / 60);
  const rest = `${minutes % 60}:${String(whole % 60).padStart(2, "0")}`;
  return whole < 3600 ? rest : `${Math.floor(whole / 3600)} h ${minutes % 60} min`;
};

// --- tabs -----------------------------------------------------------------------------------------------------------

const tabs = [...document.querySelectorAll("[role=tab]")];

function openTab(tab) {
  for (const other of tabs) {
    other.setAttribute("aria-selected", other === tab);
    other.tabIndex = other === tab ? 0 : -1;
    $(other.getAttribute("aria-controls")).hidden = other !== tab;
  }
  doing(refresh);
}

tabs.forEach((tab, k) => {
  tab.onclick = () => openTab(tab);
  tab.onkeydown = (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = tabs[(k + step + tabs.length) % tabs.length];
    next.focus();
    openTab(next);
  };
});

function fill(select, values, wanted) {
  const chosen = [...values].includes(select.value) ? select.value : wanted;
  select.replaceChildren(...values.map((value) => new Option(value, value, false, value === chosen)));
}

let choices = {};

/** What there is to choose from may have changed: a model more, say. */
async function refresh() {
  choices = await told("/api/choices");
  fill($("model"), choices.models, choices.models[0]);
  fill($("judged"), choices.models, choices.models[0]);
  fill($("preset"), choices.presets, choices.preset);
  if (!$("report").hidden) await showReport();
  if (!$("train").hidden) await showTraining();
}

// --- what is continued ----------------------------------------------------------------------------------------------

const stages = []; // what was brought along, and every take that was kept since
let takeNumber = 0;
const width = () => Math.round($("paper").parentElement.clientWidth);

let reading = null; // the latest wish for another piece, until it is there

/** Asks for what is to be continued next; meanwhile nothing can be begun with what is there. Null: another was asked for. */
async function read(asking) {
  const mine = (reading = {}), focus = document.activeElement;
  settle();
  $("status").textContent = "reading …";
  try {
    const found = await asking();
    return reading === mine ? found : null;
  } catch (error) {
    if (reading === mine) throw error;
    return null;
  } finally {
    if (reading === mine) {
      reading = null;
      $("status").textContent = "";
      settle();
      if (document.activeElement === document.body) focus?.focus();
    }
  }
}

/** What can be pressed now. */
function settle() {
  $("go").disabled = !stages.length || Boolean(making || reading);
  $("undo").disabled = $("takes").inert = Boolean(reading);
}

async function bring(asking) {
  const found = await read(asking);
  if (!found) return;
  stages.splice(0, stages.length, { ...found, title: found.name, takes: [] });
  showPiece();
}

async function upload(file) {
  if (file.size > choices.max_upload_bytes) {
    throw new Error(`${file.name} is too large: ${choices.max_upload_bytes >> 20} MB at most`);
  }
  await bring(() => told(`/api/upload?name=${encodeURIComponent(file.name)}&width=${width()}`, file));
}

$("file").onchange = () => doing(async () => {
  const file = $("file").files[0];
  if (file) await upload(file).finally(() => ($("file").value = ""));
});
addEventListener("dragover", (event) => { event.preventDefault(); $("drop").classList.add("over"); });
addEventListener("dragleave", () => $("drop").classList.remove("over"));
addEventListener("drop", (event) => {
  event.preventDefault();
  $("drop").classList.remove("over");
  const file = event.dataTransfer.files[0];
  if (file) doing(() => upload(file));
});

function showPiece() {
  const stage = stages.at(-1);
  quit();
  $("piece-title").textContent = stage.title;
  const notes = stage.notes.length ? `, ${stage.notes.length} notes` : "";
  $("piece-facts").textContent = [`${clock(stage.seconds)} min${notes}`, ...stage.warnings].join("; ");
  $("piece-sound").hidden = !stage.sound;
  if (stage.sound) $("piece-sound").src = stage.sound;
  $("paper").hidden = !stage.pages;
  $("paper").replaceChildren(...Array.from({ length: stage.pages }, (_, k) => make("img", {
    src: `/api/files/${stage.id}/page-${k + 1}.svg`, alt: `The score, page ${k + 1} of ${stage.pages}`,
  })));
  $("roll").hidden = Boolean(stage.pages) || !stage.notes.length;
  if (!$("roll").hidden) drawRoll($("roll"), stage);
  $("undo").hidden = stages.length < 2;
  $("takes").replaceChildren(...stage.takes);
  $("takes-title").hidden = $("takes-help").hidden = !stage.takes.length;
}

/** A canvas as sharp as the screen: its context, width and height. */
function pen(canvas) {
  canvas.width = canvas.clientWidth * devicePixelRatio;
  canvas.height = canvas.clientHeight * devicePixelRatio;
  return [canvas.getContext("2d"), canvas.width, canvas.height];
}

/** A colour of the page as a canvas takes it: light or dark is decided on an element. */
function ink(name) {
  const probe = make("i");
  document.body.append(probe);
  probe.style.color = `var(--${name})`;
  const colour = getComputedStyle(probe).color;
  probe.remove();
  return colour;
}

function drawRoll(canvas, { notes, seconds }) {
  const [context, w, h] = pen(canvas);
  const pitches = notes.map((note) => note[2]), low = Math.min(...pitches) - 2, high = Math.max(...pitches) + 2;
  context.fillStyle = ink("note");
  for (const [onset, length, pitch] of notes) {
    const thick = Math.max(h / (high - low), 2);
    context.fillRect((onset / seconds) * w, h - ((pitch - low) / (high - low)) * h, Math.max((length / seconds) * w - 1, 1), thick);
  }
}

$("undo").onclick = () => {
  stages.pop();
  $("status").textContent = "";
  showPiece();
};

// --- takes ----------------------------------------------------------------------------------------------------------

let player = null, making = null;

function hush(except) {
  if (player && except !== player) player.stop();
  for (const sound of document.querySelectorAll("audio")) if (sound !== except) sound.pause();
}

addEventListener("play", (event) => hush(event.target), true);
addEventListener("keydown", (event) => { if (event.key === "Escape") $("stop").click(); });

/** Ends the take that is being made, and all sound. */
function quit() {
  making?.abort();
  making = null;
  hush();
  settle();
  $("stop").disabled = true;
}

$("stop").onclick = quit;

$("ask").onsubmit = (event) => {
  event.preventDefault();
  doing(continueIt);
};

async function continueIt() {
  const form = new FormData($("ask")), stage = stages.at(-1), body = { source: stage.id };
  for (const [name, value] of form) body[name] = name === "model" ? value : Number(value);
  if (form.get("seed") === "") body.seed = Math.floor(Math.random() * 1e6);
  quit();
  performance.mark("asked");
  const mine = making = new AbortController();
  settle();
  $("stop").disabled = false;
  const card = new TakeCard(stage, body);
  try {
    const response = await ask("/api/takes", JSON.stringify(body), mine.signal);
    for await (const answer of lines(response.body)) card.hear(answer);
  } catch (error) {
    card.drop();
    if (error.name !== "AbortError") throw error;
    if (!making) $("status").textContent = "stopped";
  } finally {
    if (making === mine) {
      making = null;
      settle();
      $("stop").disabled = !player || player.ended;
    }
  }
}

async function* lines(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (text + value).split("\n");
    text = parts.pop();
    for (const part of parts) if (part) yield JSON.parse(part);
  }
}

function unpacked(pcm) {
  const bytes = Uint8Array.from(atob(pcm), (letter) => letter.charCodeAt(0));
  return Float32Array.from(new Int16Array(bytes.buffer), (value) => value / 32768);
}

/** One take: its picture grows while it is made, then it can be heard again, kept and downloaded. */
class TakeCard {
  constructor(stage, body) {
    Object.assign(this, { stage, body, number: ++takeNumber });
    this.canvas = make("canvas");
    this.words = make("strong", { textContent: `Take ${this.number}` });
    this.facts = make("span", { className: "small", textContent: `${body.model}, seed ${body.seed}` });
    this.line = make("div", { className: "doings" }, this.words, this.facts);
    this.element = make("li", {}, this.line);
    this.element.tabIndex = -1;
    stage.takes.unshift(this.element);
    $("takes").prepend(this.element);
    $("takes-title").hidden = $("takes-help").hidden = false;
    $("status").textContent = `take ${this.number}: loading the model and reading the prompt …`;
  }

  hear(answer) {
    this[answer.kind](answer);
  }

  queued() {
    $("status").textContent = "waiting for another take to be made …";
  }

  begins({ sample_rate_hz, seam_s, from_s, seconds }) {
    this.from = from_s;
    this.picture = new Spectrogram(this.canvas, sample_rate_hz, seam_s - from_s + seconds, seam_s - from_s);
    this.element.append(this.canvas);
    player = this.player = new Player(sample_rate_hz);
    $("status").textContent = `take ${this.number}: being made …`;
    this.follow();
  }

  /** Shows where one listens until everything was heard, or nobody listens any more. */
  follow() {
    if (this.player.closed || (this.made && this.player.ended)) {
      this.player.stop();
      $("stop").disabled = !making;
      return;
    }
    this.picture.listenAt(this.player.position);
    requestAnimationFrame(() => this.follow());
  }

  audio({ pcm }) {
    const samples = unpacked(pcm);
    this.player.push(samples);
    this.picture.push(samples);
    if (!performance.getEntriesByName("heard").some((mark) => mark.detail === this.number)) {
      performance.mark("heard", { detail: this.number });
    }
  }

  done({ id, files, seconds, seam_s }) {
    Object.assign(this, { id, made: seconds - seam_s });
    this.picture.end();
    $("status").textContent = `take ${this.number} is made: ${this.made.toFixed(1)} s`;
    this.facts.textContent += `, ${this.made.toFixed(1)} s`;
    this.sound = `/api/files/${id}/take.wav`;
    const audio = make("audio", { controls: true, preload: "metadata", src: `${this.sound}#t=${this.from}` });
    audio.setAttribute("aria-label", `Take ${this.number}`);
    audio.ontimeupdate = () => this.picture.listenAt(Math.max(audio.currentTime - this.from, 0));
    this.canvas.onclick = (event) => {
      audio.currentTime = this.from + (event.offsetX / this.canvas.clientWidth) * this.picture.seconds;
      audio.play();
    };
    const name = `${this.stage.title.replace(ENDING, "")} - take ${this.number}`;
    const kinds = { wav: "WAV", mid: "MIDI", musicxml: "MusicXML" };
    const links = Object.entries(kinds).filter(([kind]) => files.includes(`take.${kind}`)).map(([kind, words]) => {
      const link = make("a", { href: `/api/files/${id}/take.${kind}?as=${encodeURIComponent(`${name}.${kind}`)}`, textContent: words });
      link.setAttribute("aria-label", `Download take ${this.number} as ${words}`);
      return link;
    });
    const keep = make("button", { textContent: "Keep" });
    keep.onclick = () => doing(() => this.keep());
    keep.setAttribute("aria-label", `Keep take ${this.number}`);
    this.element.append(audio, make("div", { className: "doings" }, keep, ...links));
  }

  failed({ text }) {
    this.drop();
    $("status").textContent = "";
    throw new Error(text);
  }

  cancelled() {
    this.drop();
  }

  drop() {
    this.player?.stop();
    this.element.remove();
    this.stage.takes = this.stage.takes.filter((element) => element !== this.element);
    $("takes-title").hidden = $("takes-help").hidden = !$("takes").children.length;
  }

  async keep() {
    hush();
    const found = await read(() => told(`/api/preview/${this.id}?width=${width()}`, ""));
    if (!found) return;
    const title = `${this.stage.title} + ${this.made.toFixed(1)} s`;
    stages.push({ ...found, title, takes: [], sound: this.sound });
    showPiece();
    $("status").textContent = `take ${this.number} is kept: the next one continues it`;
    $("go").focus();
  }
}

// --- training -------------------------------------------------------------------------------------------------------

let watching = null, watches = 0, drawn = () => {};

addEventListener("resize", () => drawn());

$("training").onsubmit = (event) => {
  event.preventDefault();
  doing(async () => {
    const form = Object.fromEntries(new FormData($("training")));
    await told("/api/training", JSON.stringify({ ...form, minutes: Number(form.minutes), samples: "samples" in form }));
    await showTraining();
  });
};

$("training").elements.name.oninput = keepWhatIsKept;
$("training").elements.name.onchange = () => doing(showTraining);

/** A model that exists keeps its corpus and its preset. */
function keepWhatIsKept() {
  const { name, corpus, preset } = $("training").elements;
  corpus.disabled = preset.disabled = Boolean(choices.models?.includes(name.value));
}

$("pause").onclick = () => doing(async () => {
  await told("/api/training/pause", "");
  await showTraining();
});

const STATES = { running: "Training", stopping: "Saving", paused: "Paused:", done: "Trained:", failed: "Not trained:" };

async function showTraining() {
  clearTimeout(watching);
  const mine = ++watches, now = await told("/api/training");
  if (mine !== watches) return; // asked again meanwhile: an older answer is no news
  const name = $("training").elements.name.value, busy = now.state === "running" || now.state === "stopping";
  $("start").disabled = busy;
  keepWhatIsKept();
  $("start").textContent = choices.models?.includes(name) || (now.name === name && now.state === "paused") ? "Go on" : "Start";
  $("pause").disabled = now.state !== "running";
  if (now.state !== "idle") drawTraining(now, busy);
  if (busy) watching = setTimeout(() => doing(showTraining), POLL_MS);
  else if (now.state !== "idle") choices = await told("/api/choices");
}

function drawTraining({ name, state, now, log: said, training, held_out, samples }, busy) {
  $("training-title").textContent = `${STATES[state]} ${name}`;
  $("share").hidden = !busy;
  $("share").value = now.share ?? 0;
  const remaining = now.remaining_s == null ? "" : `, ${clock(now.remaining_s)} remaining`;
  const loss = training.length ? `, step ${training.at(-1)[0]}, ${training.at(-1)[1].toFixed(2)} nats` : "";
  $("training-facts").textContent = now.task ? `${now.task}: ${Math.round(100 * now.share)} %${loss}${remaining}` : loss.slice(2);
  $("said").hidden = !said.length;
  $("said").textContent = said.join("\n");
  $("curves").hidden = $("legend").hidden = training.length < 2;
  drawn = () => $("curves").hidden || drawCurves($("curves"), training, held_out);
  drawn();
  if ($("samples").dataset.name !== name) $("samples").replaceChildren();
  $("samples").dataset.name = name;
  for (const { id, step, from_s } of samples.filter((sample) => !$(`sample-${sample.id}`))) {
    const audio = make("audio", { controls: true, preload: "metadata", src: `/api/files/${id}/take.wav#t=${from_s}` });
    audio.setAttribute("aria-label", `Sample of step ${step}`);
    $("samples").prepend(make("li", { id: `sample-${id}` }, make("span", { textContent: `Sample of step ${step}` }), audio));
  }
}

function drawCurves(canvas, training, held_out) {
  const [context, w, h] = pen(canvas), edge = 46 * devicePixelRatio, foot = 24 * devicePixelRatio;
  const values = [...training, ...held_out].map((point) => point[1]);
  const low = Math.min(...values), span = Math.max(...values) - low || 1, last = Math.max(training.at(-1)[0], 1);
  const x = (step) => edge + (step / last) * (w - edge - 8), y = (nats) => 8 + (1 - (nats - low) / span) * (h - foot - 16);
  context.font = `${12 * devicePixelRatio}px system-ui, sans-serif`;
  context.fillStyle = ink("soft");
  context.strokeStyle = ink("line");
  for (const nats of [low, low + span / 2, low + span]) {
    context.fillText(nats.toFixed(1), 4, y(nats) + 4);
    context.strokeRect(edge, y(nats), w - edge - 8, 0);
  }
  context.textAlign = "right";
  context.fillText(`step ${last}`, w - 8, h - 6);
  for (const [points, colour] of [[training, "learned"], [held_out, "held"]]) {
    context.beginPath();
    for (const [step, nats] of points) context.lineTo(x(step), y(nats));
    context.strokeStyle = context.fillStyle = ink(colour);
    context.lineWidth = 2 * devicePixelRatio;
    context.stroke();
    if (colour === "held") for (const [step, nats] of points) context.fillRect(x(step) - 4, y(nats) - 4, 8, 8);
  }
}

// --- reports --------------------------------------------------------------------------------------------------------

let reporting = null, reports = 0;

$("judged").onchange = () => doing(showReport);
$("measuring").onsubmit = (event) => {
  event.preventDefault();
  doing(async () => {
    const form = new FormData($("measuring"));
    await told("/api/report", JSON.stringify({ model: form.get("model"), thorough: form.has("thorough") }));
    await showReport();
  });
};

async function showReport() {
  clearTimeout(reporting);
  const mine = ++reports, model = $("judged").value, now = await told(`/api/report?model=${encodeURIComponent(model)}`);
  if (mine !== reports) return; // another one was chosen meanwhile
  const running = now.state === "running", failed = now.state === "failed";
  $("measure").disabled = running;
  $("report-state").textContent = running ? `measuring ${model} …` : failed ? `${model} could not be measured` : now.page ? "" : `${model} has no report yet`;
  $("report-said").hidden = !running && !failed;
  $("report-said").textContent = now.log.join("\n");
  $("page").hidden = !now.page || running;
  if (now.page && !running) $("page").src = `/report/${encodeURIComponent(model)}?${now.state}`;
  if (running) reporting = setTimeout(() => doing(showReport), POLL_MS);
}

doing(async () => {
  await refresh();
  $("examples").append(...choices.examples.map((name) => make("button", {
    type: "button", textContent: name, onclick: () => doing(() => bring(() => told(`/api/examples/${name}?width=${width()}`, ""))),
  })));
  if (!choices.training) return;
  $("training").elements.name.value = (await told("/api/training")).name;
  openTab($("tab-train"));
});
