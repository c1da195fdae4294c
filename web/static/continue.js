// The Continue tab: the piece to continue, and its takes.

import { $, attempt, choices, clock, make, onSubmit, post, send } from "./page.js";
import { Player, Spectrogram } from "./sound.js";

const SUFFIX = /\.(musicxml|xml|mxl|midi?|wave?|flac|og[ag]|opus|mp3|aif[cf]?|aiff|au|snd)\b/i;
const DOWNLOADS = { wav: "WAV", mid: "MIDI", musicxml: "MusicXML" };
const pieces = []; // the piece that the user chose, then each take that was kept
let loading = null; // the latest request for a piece, until it is answered
let making = null; // the AbortController of the take that is being made
let player = null, takeCount = 0;

// --- pieces ---------------------------------------------------------------------------------------------------------

/**
 * Requests the next piece; meanwhile the buttons that use the present one are disabled.
 * Returns null if another piece was requested meanwhile.
 */
async function load(path, body) {
  const mine = (loading = {}), focus = document.activeElement;
  updateButtons();
  $("status").textContent = "reading …";
  try {
    const piece = await post(`${path}width=${Math.round($("score").parentElement.clientWidth)}`, body);
    return loading === mine ? piece : null;
  } catch (error) {
    if (loading === mine) throw error;
    return null;
  } finally {
    if (loading === mine) {
      loading = null;
      $("status").textContent = "";
      updateButtons();
      if (document.activeElement === document.body) focus?.focus();
    }
  }
}

function updateButtons() {
  $("go").disabled = !pieces.length || Boolean(making || loading);
  $("undo").disabled = $("takes").inert = Boolean(loading);
}

async function open(path, body) {
  const piece = await load(path, body);
  if (!piece) return;
  pieces.splice(0, pieces.length, { ...piece, title: piece.name, takes: [] });
  showPiece();
}

export const loadExample = (name) => open(`/api/examples/${name}?`);

async function upload(file) {
  const limit = choices.max_upload_bytes;
  if (file.size > limit) throw new Error(`${file.name} is too large: ${limit >> 20} MB at most`);
  await open(`/api/upload?name=${encodeURIComponent(file.name)}&`, file);
}

$("file").onchange = () => attempt(async () => {
  const file = $("file").files[0];
  if (file) await upload(file).finally(() => ($("file").value = ""));
});
addEventListener("dragover", (event) => { event.preventDefault(); $("drop").classList.add("over"); });
addEventListener("dragleave", () => $("drop").classList.remove("over"));
addEventListener("drop", (event) => {
  event.preventDefault();
  $("drop").classList.remove("over");
  const file = event.dataTransfer.files[0];
  if (file) attempt(() => upload(file));
});

function showPiece() {
  const piece = pieces.at(-1), notes = piece.notes.length ? `, ${piece.notes.length} notes` : "";
  stop();
  $("piece-title").textContent = piece.title;
  $("piece-facts").textContent = [`${clock(piece.seconds)} min${notes}`, ...piece.warnings].join("; ");
  $("piece-sound").hidden = !piece.sound;
  if (piece.sound) $("piece-sound").src = piece.sound;
  $("score").hidden = !piece.pages;
  $("score").replaceChildren(...Array.from({ length: piece.pages }, (_, k) => make("img", {
    src: `/api/files/${piece.id}/page-${k + 1}.svg`, alt: `The score, page ${k + 1} of ${piece.pages}`,
  })));
  $("roll").hidden = Boolean(piece.pages) || !piece.notes.length;
  if (!$("roll").hidden) drawRoll(piece);
  $("undo").hidden = pieces.length < 2;
  $("takes").replaceChildren(...piece.takes);
}

/** Draws each note as a bar: rows are onset and duration in seconds, and pitch. */
function drawRoll({ notes, seconds }) {
  const pitches = notes.map((note) => note[2]), low = Math.min(...pitches) - 2;
  const row = 100 / (Math.max(...pitches) + 2 - low), x = (time) => `${(100 * time) / seconds}%`;
  $("roll").replaceChildren(...notes.map(([onset, duration, pitch]) => make("i", {
    style: `left: ${x(onset)}; width: ${x(duration)}; bottom: ${(pitch - low) * row}%; height: ${row}%`,
  })));
}

$("undo").onclick = () => {
  pieces.pop();
  $("status").textContent = "";
  showPiece();
};

// --- takes ----------------------------------------------------------------------------------------------------------

/** Stops all sound but that of one player or audio element. */
function silence(except) {
  if (player !== except) player?.stop();
  for (const audio of document.querySelectorAll("audio")) if (audio !== except) audio.pause();
}

addEventListener("play", (event) => silence(event.target), true);
addEventListener("keydown", (event) => { if (event.key === "Escape") $("stop").click(); });

/** Cancels the take that is being made, and stops all sound. */
function stop() {
  making?.abort();
  making = null;
  silence();
  updateButtons();
  $("stop").disabled = true;
}

$("stop").onclick = stop;

onSubmit("settings", async () => {
  const form = new FormData($("settings")), piece = pieces.at(-1), body = { source: piece.id };
  for (const [name, value] of form) body[name] = name === "model" ? value : Number(value);
  if (form.get("seed") === "") body.seed = Math.floor(Math.random() * 1e6);
  stop();
  performance.mark("requested");
  const mine = (making = new AbortController());
  updateButtons();
  $("stop").disabled = false;
  const card = new TakeCard(piece, body);
  try {
    const options = { method: "POST", body: JSON.stringify(body), signal: mine.signal };
    for await (const answer of lines((await send("/api/takes", options)).body)) card[answer.kind](answer);
  } catch (error) {
    card.remove();
    if (error.name !== "AbortError") throw error;
    if (!making) $("status").textContent = "stopped";
  } finally {
    if (making === mine) {
      making = null;
      updateButtons();
      $("stop").disabled = !player || player.ended;
    }
  }
});

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

/** Decodes 16-bit samples in base64, in which `count` channels take turns: an array of samples for each channel. */
function decode(pcm, count) {
  const values = new Int16Array(Uint8Array.from(atob(pcm), (letter) => letter.charCodeAt(0)).buffer);
  const length = values.length / count;
  const channel = (_, k) => Float32Array.from({ length }, (_, i) => values[count * i + k] / 32768);
  return Array.from({ length: count }, channel);
}

/** One take on the page. The methods named like kinds of answers show these answers. */
class TakeCard {
  constructor(piece, { model, seed }) {
    Object.assign(this, { piece, number: ++takeCount });
    this.facts = make("span", { className: "small", textContent: `${model}, seed ${seed}` });
    const title = make("strong", { textContent: `Take ${this.number}` });
    this.element = make("li", { tabIndex: -1 }, make("div", { className: "actions" }, title, this.facts));
    piece.takes.unshift(this.element);
    $("takes").prepend(this.element);
    this.say("loading the model and reading the prompt …");
  }

  say(text) {
    $("status").textContent = `take ${this.number}: ${text}`;
  }

  queued() {
    this.say("waiting until another take is ready …");
  }

  begins({ sample_rate_hz, channels, seam_s, from_s, seconds, remark }) {
    Object.assign(this, { from: from_s, channels });
    this.picture = new Spectrogram(sample_rate_hz, seam_s - from_s + seconds, seam_s - from_s);
    this.element.append(this.picture.element);
    player = this.player = new Player(sample_rate_hz);
    if (remark) this.facts.textContent += `; the prompt ${remark}`;
    this.say("being made …");
    this.follow();
  }

  /** Moves the playhead until the player has ended. */
  follow() {
    if (this.player.closed || (this.made && this.player.ended)) {
      this.player.stop();
      $("stop").disabled = !making;
      return;
    }
    this.picture.showPlayhead(this.player.position);
    requestAnimationFrame(() => this.follow());
  }

  audio({ pcm }) {
    const channels = decode(pcm, this.channels);
    if (!this.player.length) performance.mark("playing");
    this.player.push(channels);
    this.picture.push(channels);
  }

  done({ id, files, seconds, seam_s }) {
    Object.assign(this, { id, made: seconds - seam_s, sound: `/api/files/${id}/take.wav` });
    this.picture.end();
    this.say(`ready, ${this.made.toFixed(1)} s`);
    this.facts.textContent += `, ${this.made.toFixed(1)} s`;
    const src = `${this.sound}#t=${this.from}`, ariaLabel = `Take ${this.number}`;
    const audio = make("audio", { controls: true, preload: "metadata", src, ariaLabel });
    audio.ontimeupdate = () => this.picture.showPlayhead(Math.max(audio.currentTime - this.from, 0));
    this.picture.canvas.onclick = ({ offsetX, target }) => {
      audio.currentTime = this.from + (offsetX / target.clientWidth) * this.picture.seconds;
      audio.play();
    };
    const keep = make("button", { textContent: "Keep", ariaLabel: `Keep take ${this.number}` });
    keep.onclick = () => attempt(() => this.keep());
    this.element.append(audio, make("div", { className: "actions" }, keep, ...this.links(files)));
  }

  links(files) {
    const name = `${this.piece.title.replace(SUFFIX, "")} - take ${this.number}`;
    const kinds = Object.keys(DOWNLOADS).filter((kind) => files.includes(`take.${kind}`));
    return kinds.map((kind) => make("a", {
      href: `/api/files/${this.id}/take.${kind}?as=${encodeURIComponent(`${name}.${kind}`)}`,
      textContent: DOWNLOADS[kind],
      ariaLabel: `Download take ${this.number} as ${DOWNLOADS[kind]}`,
    }));
  }

  failed({ text }) {
    $("status").textContent = "";
    throw new Error(text);
  }

  cancelled() {
    this.remove();
  }

  remove() {
    this.player?.stop();
    this.element.remove();
    this.piece.takes = this.piece.takes.filter((element) => element !== this.element);
  }

  async keep() {
    silence();
    const piece = await load(`/api/preview/${this.id}?`);
    if (!piece) return;
    const title = `${this.piece.title} + ${this.made.toFixed(1)} s`;
    pieces.push({ ...piece, title, takes: [], sound: this.sound });
    showPiece();
    this.say("kept; the next take continues it");
    $("go").focus();
  }
}
