// Sound that is heard and seen while it comes: a player for blocks of samples, and a spectrogram that grows with them.

const WINDOW = 1024, LOWEST_HZ = 60, HIGHEST_HZ = 8000, ROWS = 96, FLOOR_DB = -85, TOP_DB = -15;
const STOPS = [[12, 10, 18], [59, 15, 112], [140, 41, 129], [222, 73, 104], [254, 159, 109], [252, 253, 191]];
const SEAM = "#38d6c0", HEAD = "#fff";

/** Plays blocks one after the other; after a gap in what comes it goes on as soon as it can. */
export class Player {
  constructor(rate) {
    this.rate = rate;
    this.context = new AudioContext();
    this.due = this.context.currentTime + 0.1;
    this.blocks = [];
    this.length = 0;
  }

  push(samples) {
    if (!samples.length || this.closed) return;
    const buffer = this.context.createBuffer(1, samples.length, this.rate);
    buffer.copyToChannel(samples, 0);
    const source = this.context.createBufferSource();
    source.buffer = buffer;
    source.connect(this.context.destination);
    if (this.due < this.context.currentTime) this.due = this.context.currentTime + 0.2;
    source.start(this.due);
    this.blocks.push([this.due, this.length]);
    this.due += buffer.duration;
    this.length += buffer.duration;
  }

  /** Seconds of what came that have been heard. */
  get position() {
    const now = this.context.currentTime;
    const block = this.blocks.findLast(([at]) => at <= now);
    return block ? Math.min(block[1] + now - block[0], this.length) : 0;
  }

  get closed() {
    return this.context.state === "closed";
  }

  get ended() {
    return this.closed || this.context.currentTime > this.due;
  }

  stop() {
    if (!this.closed) this.context.close();
  }
}

/** A spectrogram of `seconds` on a canvas, drawn as far as samples have come, with the seam and where one listens. */
export class Spectrogram {
  constructor(canvas, rate, seconds, seam) {
    Object.assign(this, { canvas, rate, seconds, seam, head: null, count: 0, drawn: 0 });
    canvas.width = 900;
    canvas.height = ROWS;
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `Spectrogram; the continuation begins at ${seam.toFixed(1)} of ${seconds.toFixed(1)} seconds`);
    this.image = new OffscreenCanvas(canvas.width, ROWS);
    this.samples = new Float32Array(Math.ceil((seconds + 1) * rate) + WINDOW);
    const top = Math.min(HIGHEST_HZ, rate / 2);
    this.bins = Array.from({ length: ROWS + 1 }, (_, k) => (LOWEST_HZ * (top / LOWEST_HZ) ** (k / ROWS) * WINDOW) / rate);
    this.draw();
  }

  push(samples) {
    samples = samples.subarray(0, this.samples.length - this.count);
    this.samples.set(samples, this.count);
    this.count += samples.length;
    const pen = this.image.getContext("2d"), width = this.canvas.width;
    for (; this.drawn < width; this.drawn++) {
      const start = Math.round((this.drawn / width) * this.seconds * this.rate);
      if (start + WINDOW > this.count) break;
      pen.putImageData(this.column(start), this.drawn, 0);
    }
    this.draw();
  }

  /** Nothing more comes: the last columns see silence after it. */
  end() {
    this.push(new Float32Array(WINDOW));
  }

  /** One column of the picture: the levels of a window in bands that are evenly spaced for the ear. */
  column(start) {
    const power = spectrum(this.samples.subarray(start, start + WINDOW)), column = new ImageData(1, ROWS);
    for (let row = 0; row < ROWS; row++) {
      const first = Math.min(Math.floor(this.bins[row]), power.length - 1);
      const last = Math.min(Math.max(first, Math.ceil(this.bins[row + 1]) - 1), power.length - 1);
      let most = 0;
      for (let bin = first; bin <= last; bin++) most = Math.max(most, power[bin]);
      const share = (10 * Math.log10(most + 1e-12) - FLOOR_DB) / (TOP_DB - FLOOR_DB);
      column.data.set([...colour(share), 255], 4 * (ROWS - 1 - row));
    }
    return column;
  }

  draw() {
    const pen = this.canvas.getContext("2d"), { width, height } = this.canvas;
    const thick = Math.max(2, Math.round((2 * width) / (this.canvas.clientWidth || width))); // on narrow screens too
    const line = (seconds, colour) => {
      pen.fillStyle = colour;
      pen.fillRect(Math.round((seconds / this.seconds) * width - thick / 2), 0, thick, height);
    };
    pen.clearRect(0, 0, width, height);
    pen.drawImage(this.image, 0, 0);
    if (this.seam > 0) line(this.seam, SEAM);
    if (this.head !== null) line(this.head, HEAD);
  }

  listenAt(seconds) {
    this.head = seconds;
    this.draw();
  }
}

function colour(share) {
  const place = Math.min(Math.max(share, 0), 0.9999) * (STOPS.length - 1), low = Math.floor(place);
  return STOPS[low].map((value, k) => value + (place - low) * (STOPS[low + 1][k] - value));
}

/** Power of a Hann window of samples, 1 for a full-scale sine, by a radix-2 transform. */
function spectrum(samples) {
  const n = samples.length, re = new Float32Array(n), im = new Float32Array(n);
  for (let i = 0, j = 0; i < n; i++) {
    re[j] = (samples[i] * (1 - Math.cos((2 * Math.PI * i) / n)) * 2) / n;
    let bit = n >> 1;
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
  }
  for (let half = 1; half < n; half *= 2) {
    for (let k = 0; k < half; k++) {
      const c = Math.cos((Math.PI * k) / half), s = -Math.sin((Math.PI * k) / half);
      for (let a = k; a < n; a += 2 * half) {
        const b = a + half, x = re[b] * c - im[b] * s, y = re[b] * s + im[b] * c;
        re[b] = re[a] - x; im[b] = im[a] - y; re[a] += x; im[a] += y;
      }
    }
  }
  return re.subarray(0, n / 2).map((x, k) => x * x + im[k] * im[k]);
}
