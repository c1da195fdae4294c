// The Report tab: measures a model and shows the report.

import { $, attempt, get, onSubmit, post } from "./page.js";

const POLL_MS = 1000;
let timer = null, latest = 0;

$("report-model").onchange = () => attempt(showReport);
onSubmit("report-form", async () => {
  const form = new FormData($("report-form"));
  await post("/api/report", JSON.stringify({ model: form.get("model"), thorough: form.has("thorough") }));
  await showReport();
});

export async function showReport() {
  clearTimeout(timer);
  const request = ++latest, model = $("report-model").value;
  const { state, log, page } = await get(`/api/report?model=${encodeURIComponent(model)}`);
  if (request !== latest) return; // the user chose another model meanwhile
  const running = state === "running", failed = state === "failed";
  $("measure").disabled = running;
  $("report-state").textContent =
    running ? `measuring ${model} …` : failed ? `${model} could not be measured` : page ? "" : `${model} has no report yet`;
  $("report-log").hidden = !running && !failed;
  $("report-log").textContent = log.join("\n");
  $("page").hidden = !page || running;
  if (page && !running) $("page").src = `/report/${encodeURIComponent(model)}?${state}`;
  if (running) timer = setTimeout(() => attempt(showReport), POLL_MS);
}
