// The status, every two seconds, and the stream as it comes. No library; what events bring is only
// ever set as text.
"use strict";

const EVENTS_SHOWN_MAX = 200;
const STATUS_EVERY_MS = 2000;
const RETRY_MS = 1000;

const byId = (id) => document.getElementById(id);
let token = sessionStorage.getItem("relay-token") || "";
let paused = false;
let subscription = new AbortController();

function headers(more = {}) {
  return token ? { ...more, authorization: `Bearer ${token}` } : more;
}

function element(name, text = "", className = "") {
  const made = document.createElement(name);
  made.textContent = text;
  made.className = className;
  return made;
}

// Status

async function refresh() {
  try {
    const answer = await fetch("api/v1/status", { headers: headers() });
    byId("login").hidden = answer.status !== 401;
    if (answer.ok) show(await answer.json());
  } catch {
    say("summary", "does not answer", "bad");
  }
}

function say(id, text, className = "") {
  byId(id).textContent = text;
  byId(id).className = className;
}

function show(status) {
  const state = status.ready ? "ready" : `not ready: ${status.reason}`;
  say("summary", `${status.version}, up ${age(status.uptime_seconds)}, ${state}`, status.ready ? "good" : "bad");
  byId("sinks").replaceChildren(...status.sinks.flatMap(sinkRows));
  const { receiver, journal } = status;
  facts({
    Receiver: `${receiver.listen}, ${receiver.connections} connections`,
    Received: `${receiver.received} events, ${receiver.duplicates} duplicates, ${receiver.quarantined} quarantined`,
    Offsets: `${journal.first} to ${journal.next}`,
    Disk: `${bytes(journal.bytes)} of ${bytes(journal.bytes_max)} in ${journal.segments} segments`,
    Damaged: `${journal.damaged} records`,
    Streams: `${status.streams}`,
  });
}

function facts(pairs) {
  const rows = Object.entries(pairs).flatMap(([name, text]) => [element("dt", name), element("dd", text)]);
  byId("facts").replaceChildren(...rows);
}

function sinkRows(sink) {
  const row = element("tr");
  const bad = !sink.disabled && (sink.breaker !== "closed" || !sink.connected);
  row.append(
    element("td", sink.name),
    element("td", sink.kind),
    element("td", sink.target),
    element("td", sinkState(sink), sink.disabled ? "" : bad ? "bad" : "good"),
    element("td", sink.position, "n"),
    element("td", sink.lag_events, "n"),
    element("td", sink.lag_events ? age(sink.lag_seconds) : "", "n"),
    element("td", sink.delivered, "n"),
    element("td", sink.dead_letters, sink.dead_letters ? "n bad" : "n"),
  );
  if (!bad || !sink.last_error) return [row];
  const since = new Date(sink.last_error.since / 1000).toLocaleString();
  const cell = element("td", `since ${since}: ${sink.last_error.text}`);
  cell.colSpan = 9;
  const error = element("tr", "", "error");
  error.append(cell);
  return [row, error];
}

function sinkState(sink) {
  if (sink.disabled) return "disabled";
  if (sink.breaker === "closed") return sink.connected ? "ok" : "connecting";
  return `${sink.breaker}, ${sink.failures} failures`;
}

function age(seconds) {
  const units = [["d", 86400], ["h", 3600], ["m", 60]];
  const [unit, size] = units.find(([, size]) => seconds >= size) || ["s", 1];
  return `${Math.floor(seconds / size)}${unit}`;
}

function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const power = count ? Math.min(Math.floor(Math.log2(count) / 10), units.length - 1) : 0;
  return `${(count / 1024 ** power).toFixed(power ? 1 : 0)} ${units[power]}`;
}

// Stream. Not by `EventSource`: it cannot send a token, nor listen to topics it does not know.

async function subscribe() {
  subscription.abort();
  subscription = new AbortController();
  const { signal } = subscription;
  const topics = byId("topics").value.split(/\s+/).filter(Boolean);
  const query = new URLSearchParams(topics.map((topic) => ["topic", topic]));
  const place = { id: "" };
  while (!signal.aborted) {
    try {
      const more = place.id ? { "last-event-id": place.id } : {};
      const answer = await fetch(`stream?${query}`, { headers: headers(more), signal });
      if (!answer.ok) {
        say("stream", (await answer.json()).detail, "bad");
        if (answer.status < 500) return;
      } else {
        say("stream", topics.length ? `subscribed to ${topics.join(", ")}` : "subscribed to everything");
        await read(answer.body, place);
      }
    } catch {
      if (signal.aborted) return;
    }
    say("stream", "connection lost; trying again", "bad");
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
  }
}

async function read(body, place) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    blocks.forEach((block) => dispatch(block, place));
  }
}

function dispatch(block, place) {
  let topic = "";
  const data = [];
  for (const line of block.split("\n")) {
    const [field, value] = [line.split(":", 1)[0], line.slice(line.indexOf(":") + 1).replace(/^ /, "")];
    if (field === "id") place.id = value;
    if (field === "event") topic = value;
    if (field === "data") data.push(value);
  }
  if (data.length && !paused) add(topic, data.join("\n"));
}

function add(topic, json) {
  const entry = element("li");
  const details = element("details");
  const summary = element("summary");
  const event = parse(json);
  const target = event.target || {};
  const name = target.tag ? `${target.repository}:${target.tag}` : `${target.repository || ""} ${target.digest || ""}`;
  summary.append(element("span", event.timestamp || ""), element("span", topic, "topic"), name);
  details.append(summary, element("pre", json));
  entry.append(details);
  const list = byId("events");
  list.prepend(entry);
  while (list.children.length > EVENTS_SHOWN_MAX) list.lastChild.remove();
}

function parse(json) {
  try {
    return JSON.parse(json);
  } catch {
    return {};
  }
}

// Controls

byId("login").addEventListener("submit", (submitted) => {
  submitted.preventDefault();
  token = byId("token").value;
  sessionStorage.setItem("relay-token", token);
  refresh();
  subscribe();
});
byId("filter").addEventListener("submit", (submitted) => {
  submitted.preventDefault();
  byId("events").replaceChildren();
  subscribe();
});
byId("pause").addEventListener("click", () => {
  paused = !paused;
  byId("pause").setAttribute("aria-pressed", paused);
  byId("pause").textContent = paused ? "Go on" : "Pause";
});

refresh();
setInterval(refresh, STATUS_EVERY_MS);
subscribe();
