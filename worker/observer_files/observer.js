// Keeps the page as the worker is: replaces what has changed, says when it cannot, and
// lets buttons act in place. Without it the page is whole, but stands still.
"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  // What works only with this script is hidden without it.
  const reveal = (root) => all("[data-script]", root).forEach((it) => { it.hidden = false; });

  // Puts new HTML into a part; what is unfolded and focused stays so.
  const replace = (part, html) => {
    const focused = part.contains(document.activeElement) && document.activeElement.id;
    const open = all("details[open]", part).map((it) => it.id);
    const places = all(".wide, pre", part).map((it) => [it.scrollLeft, it.scrollTop]);
    part.innerHTML = html;
    reveal(part);
    open.forEach((id) => byId(id)?.setAttribute("open", ""));
    all(".wide, pre", part).forEach((it, at) => {
      if (places[at]) [it.scrollLeft, it.scrollTop] = places[at];
    });
    if (focused) byId(focused)?.focus({ preventScroll: true });
  };

  // The page of a run that is under way looks again until it has ended.
  const run = byId("run");
  if (run) {
    const look = async () => {
      try {
        const text = await (await fetch(location.href)).text();
        const fresh = new DOMParser().parseFromString(text, "text/html").getElementById("run");
        if (fresh) {
          replace(run, fresh.innerHTML);
          if (!("refresh" in fresh.dataset)) return;
        }
      } catch { /* the worker is away: look again */ }
      setTimeout(look, 1000);
    };
    if ("refresh" in run.dataset) setTimeout(look, 1000);
    return;
  }
  if (!byId("tree")) return;

  // The tree: folded, filtered.
  const folded = new Map();
  const filter = byId("filter");
  const troubled = byId("troubled");
  const arrange = () => {
    const wanted = filter.value.trim().toLowerCase();
    const isSought = wanted !== "" || troubled.checked;
    const rows = all("tbody tr", byId("tree"));
    let under = Infinity;
    let found = 0;
    rows.forEach((row) => {
      const indent = Number(row.dataset.indent);
      const name = row.dataset.name;
      if (isSought) {
        row.hidden = !name.toLowerCase().includes(wanted)
          || (troubled.checked && !("trouble" in row.dataset));
      } else {
        if (indent <= under) under = Infinity;
        row.hidden = indent > under;
      }
      const fold = row.querySelector(".fold");
      if (fold) {
        const isFolded = folded.get(name) ?? "closed" in row.dataset;
        fold.setAttribute("aria-expanded", String(!isFolded));
        if (isFolded && indent < under) under = indent;
      }
      found += row.hidden ? 0 : 1;
    });
    byId("nothing").hidden = found > 0;
  };
  reveal(document);
  filter.addEventListener("input", arrange);
  troubled.addEventListener("change", arrange);
  document.addEventListener("click", (event) => {
    if (!event.target.classList.contains("fold")) return;
    const isOpen = event.target.getAttribute("aria-expanded") === "true";
    folded.set(event.target.closest("tr").dataset.name, isOpen);
    arrange();
  });
  arrange();

  // The stream. A beat comes every two seconds when nothing changes: a worker that
  // hangs, or a connection that is dead without saying so, shows as lost.
  const LOST_AFTER = 7000;
  const connection = byId("connection");
  const shown = {};
  let heard = Date.now();
  let tried = heard;
  let state = "";
  const tell = (next, text) => {
    if (state !== next) {
      state = next;
      connection.className = next;
      connection.textContent = text;
      document.body.classList.toggle("lost", next === "lost");
      byId("lost").hidden = next !== "lost";
      if (next === "lost") {
        const since = new Date(heard).toISOString().slice(11, 19);
        byId("lost").textContent = `The worker has not been heard since ${since} UTC: what you see is old. Trying again.`;
      }
    }
  };
  const lose = () => tell("lost", "connection lost");
  let events;
  const listen = () => {
    events = new EventSource("/observer/stream");
    events.onerror = lose;
    const hear = () => { heard = Date.now(); tell("live", "live"); };
    events.addEventListener("beat", hear);
    events.addEventListener("snapshot", (event) => {
      hear();
      for (const [name, html] of Object.entries(JSON.parse(event.data))) {
        const part = byId(name);
        if (part && shown[name] !== html) {
          shown[name] = html;
          replace(part, html);
          if (name === "tree") arrange();
        }
      }
    });
  };
  listen();
  setInterval(() => {
    if (Date.now() - heard > LOST_AFTER) lose();
    const isSilent = Date.now() - Math.max(heard, tried) > LOST_AFTER;
    if (isSilent || events.readyState === EventSource.CLOSED) {
      events.close();
      tried = Date.now();
      listen();
    }
  }, 2000);

  // Buttons act without leaving the page; without this script their form does.
  const acted = byId("acted");
  const act = async (action, name) => {
    try {
      const answer = await fetch(action, { method: "POST", redirect: "manual" });
      const isDone = answer.ok || answer.type === "opaqueredirect";
      acted.textContent = isDone ? `Done: ${name}.` : `Refused: ${(await answer.json()).error}`;
    } catch {
      acted.textContent = `Not done: the worker does not answer (${name}).`;
    }
  };
  const dialog = byId("confirm");
  document.addEventListener("submit", (event) => {
    const action = event.submitter && event.submitter.getAttribute("formaction");
    if (!action) return;
    event.preventDefault();
    const name = event.submitter.getAttribute("aria-label");
    if (event.submitter.formMethod !== "get") {
      act(action, name);
      return;
    }
    byId("confirm-title").textContent = `${name[0].toUpperCase()}${name.slice(1)}?`;
    dialog.returnValue = "";
    dialog.onclose = () => {
      const choice = dialog.returnValue;
      dialog.returnValue = "";  // the close of an earlier dialog may be told as late
      if (choice === "kill") act(action, name);
    };
    dialog.showModal();
  });
})();
