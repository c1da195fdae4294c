// The page of studio.py: its tabs. Each tab is a form and a stage that shows the result.

import { loadExample } from "./continue.js";
import { $, attempt, choices, get, loadChoices, make } from "./page.js";
import { showReport } from "./report.js";
import { showTraining } from "./train.js";

const tabs = [...document.querySelectorAll("[role=tab]")];

function openTab(tab) {
  for (const other of tabs) {
    other.ariaSelected = other === tab;
    other.tabIndex = other === tab ? 0 : -1;
    $(other.getAttribute("aria-controls")).hidden = other !== tab;
  }
  attempt(refresh);
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

function fill(select, values, preferred) {
  const chosen = values.includes(select.value) ? select.value : preferred;
  select.replaceChildren(...values.map((value) => new Option(value, value, false, value === chosen)));
}

/** Updates the choices and the open tab: a training may have made a new model. */
async function refresh() {
  await loadChoices();
  fill($("model"), choices.models, choices.models[0]);
  fill($("report-model"), choices.models, choices.models[0]);
  fill($("preset"), choices.presets, choices.preset);
  if (!$("report").hidden) await showReport();
  if (!$("train").hidden) await showTraining();
}

attempt(async () => {
  await refresh();
  $("examples").append(...choices.examples.map((name) => make("button", {
    type: "button", textContent: name, onclick: () => attempt(() => loadExample(name)),
  })));
  if (!choices.training) return;
  $("training-form").elements.name.value = (await get("/api/training")).name;
  openTab($("tab-train"));
});
