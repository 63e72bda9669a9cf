// Fills the page with the books' figures. It computes none of them. Whatever a customer or the chain
// chose goes into text nodes alone.
"use strict";

const REFRESH_MS = 10_000;
const SVG = "http://www.w3.org/2000/svg";
const find = (id) => document.getElementById(id);

const view = { range: "7d", stage: "", requester: "", after: [""], told: "" };
// The answer to an earlier question must not replace that to a later one.
let turn = 0;

function made(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

function drawn(name, attributes, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

const text = (value) => (value === null || value === undefined || value === "" ? "–" : String(value));

function time(seconds) {
  if (!seconds) return "–";
  const moment = new Date(seconds * 1000);
  if (Number.isNaN(moment.getTime())) return String(seconds);
  const shown = moment.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
  return made("time", { datetime: moment.toISOString(), title: moment.toISOString() }, shown);
}

const at = (data, path) => path.split(".").reduce((found, key) => found?.[key], data);

async function read(path) {
  let response;
  try {
    response = await fetch(path, { cache: "no-store", redirect: "error" });
  } catch {
    throw new Error("the service does not answer");
  }
  const body = await response.json().catch(() => null);
  if (response.ok && body !== null) return body;
  const words = [body?.error, body?.hint].filter(Boolean).join("; ");
  throw new Error(words || `the service answered ${response.status}`);
}

function say(words) {
  find("status").textContent = words;
}

// A column: its title, what stands in a cell, and how.
const word = (title, cell) => ({ title, cell, kind: "" });
const words = (title, cell) => ({ title, cell, kind: "words" });
const figure = (title, cell) => ({ title, cell, kind: "figure" });

function fill(table, columns, rows, empty) {
  const head = made("tr");
  for (const { title, kind } of columns) head.append(made("th", { scope: "col", class: kind }, title));
  const body = made("tbody");
  for (const row of rows) {
    const line = made("tr");
    columns.forEach(({ cell, kind }, index) => {
      const name = index === 0 ? "th" : "td";
      line.append(made(name, index === 0 ? { scope: "row" } : { class: kind }, cell(row)));
    });
    body.append(line);
  }
  if (rows.length === 0) body.append(made("tr", {}, made("td", { colspan: columns.length }, empty)));
  table.replaceChildren(made("thead", {}, head), body);
}

function bar(share) {
  const picture = drawn("svg", { class: "bar", viewBox: "0 0 1000 10", preserveAspectRatio: "none", "aria-hidden": "true" });
  picture.append(drawn("rect", { class: "net", x: 0, y: 0, width: share, height: 10 }));
  return picture;
}

function chart(days) {
  const label = "What arrived and what was earned on each day. The table below has the figures.";
  const picture = drawn("svg", { viewBox: `0 0 ${days.length * 10} 1000`, preserveAspectRatio: "none", role: "img", "aria-label": label });
  days.forEach((day, index) => {
    const column = (kind, height, x) => drawn("rect", { class: kind, x, y: 1000 - height, width: 4, height });
    const title = drawn("title", {}, `${day.key}: ${day.net} USDC arrived, ${day.gross} USDC earned`);
    picture.append(drawn("g", {}, title, column("net", day.netBar, index * 10 + 1), column("gross", day.grossBar, index * 10 + 5)));
  });
  find("chart").replaceChildren(picture);
}

// What is replaced while somebody is in it must not take the focus away.
function keepingFocus(change) {
  const focused = document.activeElement?.dataset?.key;
  change();
  if (!focused) return;
  for (const element of document.querySelectorAll("[data-key]")) {
    if (element.dataset.key === focused) return element.focus();
  }
}

function link(key, shown, name, act) {
  const button = made("button", { type: "button", class: "link", "aria-label": name }, shown);
  button.dataset.key = key;
  button.addEventListener("click", act);
  return button;
}

const short = (hex) => `${hex.slice(0, 8)}…${hex.slice(-4)}`;
const customer = (address) =>
  link(`customer ${address}`, short(address), `Payments of ${address}`, () => only(address));

function showOverview(data) {
  for (const element of document.querySelectorAll("[data-value]")) {
    const value = at(data, element.dataset.value);
    element.textContent = element.classList.contains("problem") ? value ?? "" : text(value);
  }
  for (const element of document.querySelectorAll("[data-time]")) {
    const value = at(data, element.dataset.time);
    element.replaceChildren(...(value ? [element.dataset.before ?? "", time(value)] : []));
  }
  for (const element of document.querySelectorAll("[data-alarm]")) {
    element.classList.toggle("alarm", at(data, element.dataset.alarm) > 0);
  }
  document.title = `${data.totals.net} USDC arrived · Paywall`;
  find("span").textContent = `${data.range.since} to ${data.range.until}`;
  find("others").hidden = data.backlog.settlesItself || data.backlog.due === 0;
  find("more-routes").hidden = !data.hasMoreRoutes;
  find("more-customers").hidden = !data.hasMoreCustomers;
  chart(data.days);
  const money = [
    figure("Earned", (row) => row.gross),
    figure("Arrived", (row) => row.net),
  ];
  const moves = [
    figure("Refunded", (row) => text(row.refunded)),
    figure("Disputed", (row) => text(row.disputed)),
  ];
  fill(
    find("days"),
    [word("Day", (row) => row.key), figure("Calls", (row) => text(row.calls)), ...money,
      figure("Fee", (row) => row.fee), figure("Settled", (row) => text(row.settled)), ...moves],
    [...data.days].reverse(),
    "nothing in the books",
  );
  fill(
    find("routes"),
    [word("Route", (row) => row.key || "(nothing was served)"), word("", (row) => bar(row.bar)), ...money,
      figure("Calls", (row) => text(row.calls)), figure("Failures", (row) => text(row.failures)),
      figure("p50", (row) => text(row.p50)), figure("p95", (row) => text(row.p95)), figure("p99", (row) => text(row.p99))],
    data.routes,
    "no calls",
  );
  fill(
    find("customers"),
    [word("Customer", (row) => customer(row.key)), word("", (row) => bar(row.bar)), ...money,
      figure("Calls", (row) => text(row.calls)), ...moves],
    data.customers,
    "no customers",
  );
}

function showPayments(data) {
  fill(
    find("payments"),
    [
      word("Transaction", (row) => link(`payment ${row.transactionId}`, short(row.transactionId), `The story of ${row.transactionId}`, () => tell(row.transactionId))),
      word("Stage", (row) => row.stage),
      word("Opened", (row) => time(row.openedAt)),
      word("Customer", (row) => customer(row.requester)),
      figure("Amount", (row) => row.amount),
      figure("Taken", (row) => row.spent),
      figure("Calls", (row) => text(row.calls)),
      figure("Arrived", (row) => text(row.net)),
      figure("Expected", (row) => row.expectedNet),
      words("Trouble", (row) => text(row.trouble)),
    ],
    data.payments,
    "no payments",
  );
  find("newer").disabled = view.after.length === 1;
  find("older").disabled = !data.hasMore;
  find("older").dataset.after = data.payments.at(-1)?.transactionId ?? "";
  find("everybody").hidden = view.requester === "";
}

async function tell(id) {
  let data;
  try {
    data = await read(`data/payments/${encodeURIComponent(id)}`);
  } catch (error) {
    return say(`The payment cannot be read: ${error.message}`);
  }
  const { payment, calls, keptCalls } = data;
  const facts = [
    ["Transaction", payment.transactionId], ["Customer", payment.requester], ["Stage", payment.stage],
    ["Trouble", payment.trouble], ["In escrow", `${payment.amount} USDC`],
    ["Taken by calls", `${payment.spent} USDC`], ["Expected", `${payment.expectedNet} USDC`],
    ["Fee", payment.fee && `${payment.fee} USDC`], ["Arrived", payment.net && `${payment.net} USDC`],
    ["Gas", `${payment.gas} ETH`], ["First call", time(payment.openedAt)], ["Deadline", time(payment.deadline)],
    ["Delivered", time(payment.deliveredAt)], ["Can be settled from", time(payment.settleAt)],
    ["Settled", time(payment.settledAt)], ["Proof", payment.contentHash],
  ];
  const shown = facts.filter(([, value]) => value && value !== "–");
  find("facts").replaceChildren(...shown.flatMap(([name, value]) => [made("dt", {}, name), made("dd", {}, value)]));
  find("calls-note").textContent =
    keptCalls > calls.length ? `The first ${calls.length} of ${keptCalls}; the evidence has all that is kept.` : "";
  fill(
    find("calls"),
    [word("Call", (row) => text(row.number)), word("Answered", (row) => time(row.answeredAt)),
      words("Key", (row) => text(row.key)), words("Content hash", (row) => text(row.contentHash))],
    calls,
    "no call was answered",
  );
  const evidence = find("evidence");
  evidence.hidden = calls.length === 0;
  evidence.setAttribute("href", `data/payments/${encodeURIComponent(id)}/evidence`);
  if (!find("story").open) find("story").showModal();
}

async function refresh(words) {
  const own = ++turn;
  try {
    const page = new URLSearchParams({ stage: view.stage, requester: view.requester, after: view.after.at(-1) });
    const [overview, payments] = await Promise.all([
      read(`data/overview?range=${view.range}`), read(`data/payments?${page}`),
    ]);
    if (own !== turn) return;
    keepingFocus(() => {
      showOverview(overview);
      showPayments(payments);
    });
    const told = JSON.stringify([{ ...overview, now: 0 }, payments]);
    // Who listens is told what is new, not every ten seconds that nothing is.
    if (words) say(words);
    else if (view.told !== "" && told !== view.told) say("The figures have changed.");
    view.told = told;
    document.body.dataset.ready = "true";
  } catch (error) {
    if (own === turn) say(`The figures cannot be read: ${error.message}`);
  }
}

function choose(range) {
  view.range = range;
  for (const button of document.querySelectorAll("[data-range]")) {
    button.setAttribute("aria-pressed", String(button.dataset.range === range));
  }
}

function only(requester) {
  Object.assign(view, { requester, after: [""] });
  refresh(requester ? `Payments of ${requester}` : "Payments of everybody");
  find("payments-title").scrollIntoView();
}

function paint(theme) {
  const isDark = theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  if (theme) document.documentElement.dataset.theme = theme;
  find("theme").setAttribute("aria-pressed", String(isDark));
}

// A browser may forbid it to remember anything.
function remembered() {
  try {
    return localStorage.getItem("agirails-theme");
  } catch {
    return null;
  }
}

function remember(theme) {
  try {
    localStorage.setItem("agirails-theme", theme);
  } catch {
    // Then it lasts as long as the page.
  }
}

find("ranges").addEventListener("click", (event) => {
  const { range } = event.target.dataset;
  if (!range) return;
  choose(range);
  refresh(`Figures of ${event.target.textContent}`);
});
find("theme").addEventListener("click", () => {
  const theme = find("theme").getAttribute("aria-pressed") === "true" ? "light" : "dark";
  paint(theme);
  remember(theme);
});
find("stage").addEventListener("change", (event) => {
  Object.assign(view, { stage: event.target.value, after: [""] });
  refresh(`Payments at the stage ${event.target.selectedOptions[0].textContent}`);
});
find("everybody").addEventListener("click", () => only(""));
find("older").addEventListener("click", () => {
  view.after.push(find("older").dataset.after);
  refresh("Older payments");
});
find("newer").addEventListener("click", () => {
  view.after.pop();
  refresh("Newer payments");
});
find("close").addEventListener("click", () => find("story").close());

choose(view.range);
paint(remembered());
refresh("");
setInterval(() => {
  if (find("live").checked && !document.hidden) refresh("");
}, REFRESH_MS);
