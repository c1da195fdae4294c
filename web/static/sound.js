// Sound while it is made: a player for blocks of samples, and a spectrogram that grows with them.

import { make } from "./page.js";

const COLUMNS = 900, ROWS = 96, MIN_HZ = 60, MAX_HZ = 8000, FLOOR_DB = -85, TOP_DB = -15;
const WINDOW = 1024, PERIODS = 24; // samples that a column needs; periods of a row's pitch in its window
const COLORS = [[12, 10, 18], [59, 15, 112], [140, 41, 129], [222, 73, 104], [254, 159, 109], [252, 253, 191]];

/** Plays blocks of one or two channels one after another; if one comes too late, playback pauses until it is there. */
export class Player {
  constructor(rate) {
    this.rate = rate;
    this.context = new AudioContext();
    this.end = this.context.currentTime + 0.1; // time at which all blocks have been played
    this.length = 0;
  }

  push(channels) {
    if (!channels[0].length || this.closed) return;
    const buffer = this.context.createBuffer(channels.length, channels[0].length, this.rate);
    channels.forEach((samples, channel) => buffer.copyToChannel(samples, channel));
    const source = this.context.createBufferSource();
    source.buffer = buffer;
    source.connect(this.context.destination);
    if (this.end < this.context.currentTime) this.end = this.context.currentTime + 0.2;
    source.start(this.end);
    this.end += buffer.duration;
    this.length += buffer.duration;
  }

  /** Seconds that have been played. */
  get position() {
    return Math.min(Math.max(this.context.currentTime - this.end + this.length, 0), this.length);
  }

  get closed() {
    return this.context.state === "closed";
  }

  get ended() {
    return this.closed || this.context.currentTime > this.end;
  }

  stop() {
    if (!this.closed) this.context.close();
  }
}

/**
 * A spectrogram of `seconds` that is drawn as far as samples have come, with lines at the join and at the playhead.
 * It has its own transform, because an AnalyserNode sees sound only when it is played, and this comes faster.
 */
export class Spectrogram {
  constructor(rate, seconds, join) {
    Object.assign(this, { rate, seconds, count: 0, drawn: 0, kernels: constantQ(rate) });
    this.samples = new Float32Array(Math.ceil((seconds + 1) * rate) + WINDOW);
    const ariaLabel = `Spectrogram; the continuation begins at ${join.toFixed(1)} of ${seconds.toFixed(1)} seconds`;
    this.canvas = make("canvas", { width: COLUMNS, height: ROWS, role: "img", ariaLabel });
    this.playhead = make("i", { className: "playhead", hidden: true });
    const line = make("i", { className: "join", hidden: join <= 0 });
    this.element = make("div", { className: "spectrogram" }, this.canvas, line, this.playhead);
    this.place(line, join);
  }

  place(line, seconds) {
    line.style.left = `${(100 * seconds) / this.seconds}%`;
  }

  /** Takes a block of one or two channels and draws their mean. */
  push(channels) {
    const length = Math.min(channels[0].length, this.samples.length - this.count);
    for (const samples of channels)
      for (let i = 0; i < length; i++) this.samples[this.count + i] += samples[i] / channels.length;
    this.count += length;
    for (; this.drawn < COLUMNS; this.drawn++) {
      const start = Math.round((this.drawn / COLUMNS) * this.seconds * this.rate);
      if (start + WINDOW > this.count) return;
      this.canvas.getContext("2d").putImageData(this.column(start), this.drawn, 0);
    }
  }

  /** Draws the last columns, with silence after the end. */
  end() {
    this.push([new Float32Array(WINDOW)]);
  }

  column(start) {
    const column = new ImageData(1, ROWS);
    this.kernels.forEach(({ offset, cos, sin }, row) => {
      let re = 0, im = 0;
      for (let i = 0; i < cos.length; i++) {
        re += this.samples[start + offset + i] * cos[i];
        im += this.samples[start + offset + i] * sin[i];
      }
      const level = (10 * Math.log10(re * re + im * im + 1e-12) - FLOOR_DB) / (TOP_DB - FLOOR_DB);
      column.data.set([...color(level), 255], 4 * (ROWS - 1 - row));
    });
    return column;
  }

  showPlayhead(seconds) {
    this.playhead.hidden = false;
    this.place(this.playhead, seconds);
  }
}

/** Kernels of a constant-Q transform (Brown, 1991): windowed waves at equal intervals of pitch; a full sine gives 1. */
function constantQ(rate) {
  const top = Math.min(MAX_HZ, rate / 2);
  return Array.from({ length: ROWS }, (_, row) => {
    const hz = MIN_HZ * (top / MIN_HZ) ** ((row + 0.5) / ROWS);
    const size = Math.min(WINDOW, Math.round((PERIODS * rate) / hz));
    const hann = (i) => ((1 - Math.cos((2 * Math.PI * i) / size)) * 2) / size;
    const wave = (f) => Float32Array.from({ length: size }, (_, i) => hann(i) * f((2 * Math.PI * hz * i) / rate));
    return { offset: (WINDOW - size) >> 1, cos: wave(Math.cos), sin: wave(Math.sin) };
  });
}

/** The color of a level from 0 to 1, interpolated in `COLORS`. */
function color(level) {
  const place = Math.min(Math.max(level, 0), 0.9999) * (COLORS.length - 1), low = Math.floor(place);
  return COLORS[low].map((value, k) => value + (place - low) * (COLORS[low + 1][k] - value));
}
