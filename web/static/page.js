// Shared by all tabs: elements and requests to the server.

export const $ = (id) => document.getElementById(id);
export let choices = {}; // the models, presets and examples that the server offers

export async function loadChoices() {
  choices = await get("/api/choices");
}

export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/** Returns the server's response. Throws an error with its message if it refuses the request. */
export async function send(path, options) {
  const response = await fetch(path, { headers: { "x-continuo": "studio" }, ...options }).catch((error) => {
    throw error.name === "AbortError" ? error : new Error("the studio does not answer: is it still running?");
  });
  if (!response.ok) throw new Error((await response.json().catch(() => ({}))).error ?? `refused (${response.status})`);
  return response;
}

export const get = async (path) => (await send(path)).json();
export const post = async (path, body) => (await send(path, { method: "POST", body })).json();

/** Runs what a button starts, and shows its error at the top of the page. */
export async function attempt(work) {
  $("problem").hidden = true;
  try {
    await work();
  } catch (error) {
    $("problem").textContent = error.message;
    $("problem").hidden = false;
    $("problem").scrollIntoView({ block: "nearest" });
  }
}

/** Calls `work` when a form is submitted. */
export function onSubmit(id, work) {
  $(id).onsubmit = (event) => {
    event.preventDefault();
    attempt(work);
  };
}

/** Minutes and seconds, or hours and minutes. */
export function clock(seconds) {
  const whole = Math.round(seconds), minutes = Math.floor(whole / 60);
  if (whole >= 3600) return `${Math.floor(whole / 3600)} h ${minutes % 60} min`;
  return `${minutes}:${String(whole % 60).padStart(2, "0")}`;
}
