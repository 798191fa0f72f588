// Draws the sections of the page from the summary.

import { element, keep, say, show } from "./elements.js";
import { bytes, count, dollars, percent, seconds } from "./format.js";

const MAX_TASKS = 20;
const NEARLY_SPENT = 0.8;

const BREAKERS = {
  closed: ["good", "closed: calls go through"],
  open: ["bad", "open: no calls"],
  half_open: ["warn", "half open: probing"],
  forced_open: ["bad", "forced open by an operator"],
  disabled: ["warn", "disabled by an operator"],
};
const UNUSED = ["waiting", "not used in this run"];
const STORES = { none: "none", up: "up", read_only: "read only", down: "down" };

const place = (id) => document.getElementById(id);
const fill = (id, text) => say(place(id), text);

export function drawReasons(reasons) {
  show(place("reasons"), reasons.length > 0);
  const numbered = reasons.map((reason, index) => ({ reason, index }));
  keep(
    place("reasons-list"),
    numbered,
    ({ index }) => index,
    () => element("li"),
    (item, { reason }) => say(item, reason),
  );
}

export function drawLedger(summary) {
  const kept = summary.ledger_seconds > summary.uptime_seconds + 1;
  const since = kept ? summary.ledger_seconds : summary.uptime_seconds;
  fill("ledger-since", `in ${seconds(Math.round(since))}`);
  const calls = summary.total_requests;
  fill("hit-rate", calls ? percent(summary.cache_hit_rate) : "–");
  fill("hit-rate-of", calls ? `${count(summary.cache_hits)} of ${count(calls)} calls from the cache` : "no calls yet");
  fill("shared-rate", calls ? percent(summary.deduplication_rate) : "–");
  fill("shared-of", calls ? `${count(summary.shared_requests)} calls shared another caller's answer` : "no calls yet");
  const priced = summary.served_dollars > 0;
  fill("saved-dollars", priced ? dollars(summary.saved_dollars) : "–");
  fill("saved-dollars-of", priced ? `of ${dollars(summary.served_dollars)} served` : "no cost reported");
  const timed = summary.served_seconds > 0;
  fill("saved-seconds", timed ? seconds(summary.saved_seconds) : "–");
  fill("saved-seconds-of", timed ? `of ${seconds(summary.served_seconds)} served` : "no answers yet");
  const made = summary.upstream_calls;
  fill("upstream", count(made));
  const [rejected, failed, late] = [summary.rejected_requests, summary.failed_calls, summary.timed_out_requests];
  fill("unanswered", count(rejected + failed + late));
  fill("unanswered-of", `${count(rejected)} rejected, ${count(failed)} failed, ${count(late)} timed out`);
  fill("upstream-of", made ? `calls, ${seconds(summary.average_upstream_seconds)} on average` : "calls");
}

export function drawNow(summary) {
  fill("flights", count(summary.flights));
  fill("waiters", count(summary.waiters));
  fill("peers", count(summary.peers));
  const most = summary.cache_max_bytes;
  const share = most ? summary.cache_bytes / most : 0;
  fill("cache-fill", most ? percent(share) : "off");
  fill("cache-of", most ? `${bytes(summary.cache_bytes)} of ${bytes(most)}, ${count(summary.cache_entries)} entries` : "");
  const shown = summary.view_bytes > 0;
  fill("view-hits", shown ? count(summary.view_hits) : "none");
  fill("views-of", shown ? `hits without a round trip, ${count(summary.view_entries)} published entries` : "");
  place("cache-bar").style.width = `${Math.min(share, 1) * 100}%`;
  fill("store", STORES[summary.store]);
  fill("store-of", summary.store === "none" ? "memory only" : "behind the cache");
}

export function drawBackends(backends) {
  const named = Object.entries(backends);
  show(place("no-backends"), named.length === 0);
  keep(place("backends"), named, ([name]) => name, ([name]) => card(name), (kept, [, backend]) => fillBackend(kept, backend));
}

function card(name) {
  return element(
    "article",
    {},
    element("h3", {}, name),
    element("p", { class: "state" }, element("span", { class: "mark", "aria-hidden": "true" }), element("span")),
    element("p", { class: "cause" }),
    element("dl"),
  );
}

function fillBackend(kept, backend) {
  const [kind, words] = BREAKERS[backend.state] ?? UNUSED;
  const [, state, cause, list] = kept.children;
  state.dataset.kind = kind;
  say(state.lastChild, `Breaker ${words}`);
  say(cause, backend.cause);
  show(cause, backend.cause !== "");
  const facts = [
    ["In progress", backend.limit === null ? `${count(backend.permits)}, no limit` : `${count(backend.permits)} of ${count(backend.limit)}`],
    ["Queue", backend.limit === null && !backend.queued ? "none" : `${count(backend.queued)} of ${count(backend.max_queue)}`],
    ["Latency", backend.latency_seconds === null ? "no answer yet" : seconds(backend.latency_seconds)],
    ["Recent failures", `${count(backend.recent_failures)} of ${count(backend.recent_calls)} calls`],
    ["Calls", count(backend.calls)],
  ];
  if (backend.recent_slow) facts.push(["Recent slow calls", `${count(backend.recent_slow)} of ${count(backend.recent_calls)} calls`]);
  if (backend.retry_after_seconds !== null) facts.push(["Next try", `in ${seconds(backend.retry_after_seconds)}`]);
  if (backend.dollars || backend.saved_dollars) facts.push(["Billed", dollars(backend.dollars)], ["Saved", dollars(backend.saved_dollars)]);
  if (backend.cached_prompt_share || backend.prefix_affinity !== "off") {
    const share = backend.cached_prompt_share;
    facts.push(["Prompt tokens cached", share === null ? "none reported" : percent(share)]);
  }
  if (backend.prefix_affinity !== "off") facts.push(["Warm prefixes", count(backend.warm_prefixes)], ["Held callers", count(backend.held)]);
  if (backend.locality) facts.push(["Locality", backend.locality]);
  fillFacts(list, facts);
}

function fillFacts(list, facts) {
  const cells = facts.flatMap(([head, value]) => [
    { key: `dt ${head}`, name: "dt", text: head },
    { key: `dd ${head}`, name: "dd", text: value },
  ]);
  keep(list, cells, ({ key }) => key, ({ name }) => element(name), (cell, { text }) => say(cell, text));
}

export function drawBudgets(budgets) {
  const named = Object.entries(budgets);
  show(place("budgets-section"), named.length > 0);
  keep(place("budgets"), named, ([name]) => name, ([name]) => budgetCard(name), (kept, [, budget]) => fillBudget(kept, budget));
}

function budgetCard(name) {
  const made = card(name);
  made.insertBefore(element("span", { class: "bar", "aria-hidden": "true" }, element("span")), made.lastChild);
  return made;
}

function fillBudget(kept, budget) {
  const [, state, cause, bar, facts] = kept.children;
  const share = budget.dollars ? budget.spent_dollars / budget.dollars : 1;
  const kind = share >= 1 || budget.rejecting ? "bad" : share >= NEARLY_SPENT ? "warn" : "good";
  state.dataset.kind = kind;
  say(state.lastChild, (share >= 1 ? "Spent" : `${percent(share)} spent`) + (budget.rejecting ? ", rejects calls" : ""));
  say(cause, budget.hard ? "Hard: paid calls are rejected once it is spent." : "Soft: calls continue once it is spent.");
  bar.className = `bar ${kind}`;
  bar.firstChild.style.width = `${Math.min(share, 1) * 100}%`;
  fillFacts(facts, [
    ["Spent", `${dollars(budget.spent_dollars)} of ${dollars(budget.dollars)}`],
    ["In progress", dollars(budget.reserved_dollars)],
    ["Rejected", `${count(budget.rejected)} calls`],
    ["Resets", `in ${seconds(budget.resets_in_seconds)}`],
  ]);
}

const COLUMNS = [
  ["Calls", (task) => count(task.calls)],
  ["Hit rate", (task) => percent(task.hit_rate)],
  ["Shared", (task) => percent(task.deduplication_rate)],
  ["Upstream", (task) => count(task.upstream_calls)],
  ["Failed", (task) => count(task.failed)],
  ["Rejected", (task) => count(task.rejected)],
  ["Saved time", (task) => seconds(task.saved_by_cache_seconds + task.saved_by_sharing_seconds)],
  ["Billed", (task) => costs(task, task.billed_dollars)],
  ["Saved money", (task) => costs(task, task.saved_by_cache_dollars + task.saved_by_sharing_dollars)],
];

// Without reported costs, $0 would look like a measurement.
const costs = (task, amount) => (task.served_dollars > 0 ? dollars(amount) : "–");

export function drawTasks(tasks) {
  const named = Object.entries(tasks).sort(([a, x], [b, y]) => y.calls - x.calls || (a < b ? -1 : 1));
  show(place("tasks-section"), named.length > 0);
  fill("tasks-caption", named.length > MAX_TASKS ? `The ${MAX_TASKS} of ${count(named.length)} tasks with the most calls` : "By calls");
  keep(place("tasks"), named.slice(0, MAX_TASKS), ([name]) => name, ([name]) => taskRow(name), (row, [, task]) => {
    COLUMNS.forEach(([, write], index) => say(row.children[index + 1], write(task)));
  });
}

function taskRow(name) {
  return element(
    "tr",
    { role: "row" },
    element("th", { role: "rowheader", scope: "row" }, name),
    ...COLUMNS.map(([head]) => element("td", { role: "cell", "data-head": head })),
  );
}
