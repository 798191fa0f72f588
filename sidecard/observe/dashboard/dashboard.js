// Polls the daemon every two seconds and draws its state.

import { Chart, minutes } from "./charts.js";
import { say, show } from "./elements.js";
import { count, dollars, seconds } from "./format.js";
import { drawBackends, drawBudgets, drawLedger, drawNow, drawReasons, drawTasks } from "./parts.js";

const POLL_MILLISECONDS = 2000;
const HIDDEN_POLL_MILLISECONDS = 30000;
const HISTORY_POLL_MILLISECONDS = 10000; // The length of a step.
const TIMEOUT_MILLISECONDS = 4000;
const SPAN_SECONDS = 3600;

const OUTCOMES = [
  { name: "hits", label: "from the cache" },
  { name: "shared", label: "shared" },
  { name: "upstream", label: "upstream" },
  { name: "unanswered", label: "unanswered" },
];
const SAVED = [{ name: "hits", label: "saved" }];

const place = (id) => document.getElementById(id);
const callsChart = new Chart(place("calls-chart"), OUTCOMES);
const savedChart = new Chart(place("saved-chart"), SAVED);

let latest = null; // The latest summary.
let steps = null; // The known history.
let historyDue = 0;
let seenAt = null; // Time of the last response, on this page's clock.
let silent = false;
let timer = 0;
let polling = false;

async function get(path) {
  const answer = await fetch(path, { signal: AbortSignal.timeout(TIMEOUT_MILLISECONDS) });
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
}

async function poll() {
  if (polling) return;
  polling = true;
  clearTimeout(timer);
  try {
    await refresh();
  } finally {
    polling = false;
    timer = setTimeout(poll, document.hidden ? HIDDEN_POLL_MILLISECONDS : POLL_MILLISECONDS);
  }
}

async function refresh() {
  let summary;
  try {
    summary = await get("/v1/summary");
    if (performance.now() >= historyDue || steps?.boot_id !== summary.boot_id) {
      steps = await historyAfter(steps, summary.boot_id);
      historyDue = performance.now() + HISTORY_POLL_MILLISECONDS;
    }
  } catch {
    if (!silent) say(place("announcement"), "The daemon does not respond.");
    silent = true;
    drawState();
    return;
  }

  seenAt = performance.now();
  announce(summary);
  silent = false;
  latest = summary;
  draw();
}

// Requests new steps only, or all of them after a restart of the daemon.
async function historyAfter(known, bootId) {
  if (known?.boot_id !== bootId) return get("/v1/history");
  const added = await get(`/v1/history?after=${known.last}`);
  // The daemon restarted between the two requests: the steps that it left out are not the known ones.
  if (added.boot_id !== bootId) return get("/v1/history");
  const columns = Object.keys(added).filter((name) => Array.isArray(added[name]));
  const most = SPAN_SECONDS / added.step_seconds;
  return { ...added, ...Object.fromEntries(columns.map((name) => [name, [...known[name], ...added[name]].slice(-most)])) };
}

// Announces changes of state to screen readers, but not every changed number.
function announce(summary) {
  const sentences = [];
  if (silent) sentences.push("The daemon responds again.");
  if (latest && summary.status !== latest.status) sentences.push(`The daemon is ${stateOf(summary)}.`);
  for (const reason of latest ? summary.reasons : []) {
    if (!latest.reasons.some((known) => subject(known) === subject(reason))) sentences.push(reason);
  }

  if (sentences.length) say(place("announcement"), sentences.join(" "));
}

// Reasons contain counting seconds and dollars, so only their subjects are compared.
const subject = (reason) => reason.split(/[.:]/, 1)[0];

const stateOf = (summary) => (summary.status === "draining" ? "draining: it grants no new leases" : "serving");

function draw() {
  drawState();
  drawReasons(latest.reasons);
  show(place("empty"), latest.total_requests === 0);
  drawLedger(latest);
  drawNow(latest);
  drawHistory();
  drawBackends(latest.backends);
  drawBudgets(latest.budgets);
  drawTasks(latest.tasks);
}

function drawState() {
  const kind = silent ? "bad" : !latest ? "waiting" : latest.status === "draining" ? "warn" : "good";
  place("state").dataset.kind = kind;
  say(place("state-words"), silent ? "not responding" : latest ? stateOf(latest) : "connecting …");
  show(place("silence"), silent);
  if (silent) {
    const seen = seenAt === null ? "Not seen yet" : `Last seen ${seconds(Math.round((performance.now() - seenAt) / 1000))} ago`;
    say(place("silence-words"), `${seen}; retrying every ${POLL_MILLISECONDS / 1000} s.`);
  }

  if (latest) {
    say(place("run"), `version ${latest.version}, up for ${seconds(Math.round(latest.uptime_seconds))}`);
    document.title = silent ? "sidecard: not responding" : latest.status === "draining" ? "sidecard: draining" : "sidecard";
  }
}

function drawHistory() {
  const calls = minutes(steps, latest.uptime_seconds, OUTCOMES.map(({ name }) => name));
  const total = (name) => calls.reduce((sum, minute) => sum + minute[name], 0);
  const totals = OUTCOMES.map(({ name, label }) => `${count(total(name))} ${label}`).join(", ");
  const any = OUTCOMES.some(({ name }) => total(name) > 0);
  callsChart.draw("Calls per minute", any ? `In total ${totals}.` : "No calls.", calls, count);

  // Without priced models, show time instead of money.
  const money = latest.served_dollars > 0;
  const [column, write] = money ? ["saved_dollars", dollars] : ["saved_seconds", seconds];
  const saved = minutes(steps, latest.uptime_seconds, [column]).map((minute) => ({ hits: minute[column] }));
  const all = saved.reduce((sum, minute) => sum + minute.hits, 0);
  const title = money ? "Money saved per minute" : "Time saved per minute";
  savedChart.draw(title, all > 0 ? `In total ${write(all)}, by the cache and by sharing.` : "Nothing yet.", saved, write);
}

document.addEventListener("visibilitychange", () => {
  if (!document.hidden) poll();
});
setInterval(() => {
  if (silent) drawState();
}, 1000);
poll();
