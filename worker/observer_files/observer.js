// Replaces the sections that have changed; keeps focus and what is unfolded.
"use strict";
(() => {
  const shown = {};
  const connection = document.getElementById("connection");

  const replace = (section, html) => {
    const focused = document.activeElement && document.activeElement.id;
    const open = [...section.querySelectorAll("details[open]")].map((it) => it.id);
    section.innerHTML = html;
    open.forEach((id) => document.getElementById(id)?.setAttribute("open", ""));
    if (focused && document.activeElement.id !== focused) {
      document.getElementById(focused)?.focus({ preventScroll: true });
    }
  };

  const events = new EventSource("/observer/stream");
  events.addEventListener("open", () => { connection.textContent = "live"; });
  events.addEventListener("error", () => { connection.textContent = "not live"; });
  events.addEventListener("snapshot", (event) => {
    for (const [name, html] of Object.entries(JSON.parse(event.data))) {
      const section = document.getElementById(name);
      if (section && shown[name] !== html) {
        shown[name] = html;
        replace(section, html);
      }
    }
  });

  // A button acts without leaving the page; without this script its form does.
  document.addEventListener("submit", (event) => {
    const target = event.submitter && event.submitter.getAttribute("formaction");
    if (!target) return;
    event.preventDefault();
    fetch(target, { method: "POST", redirect: "manual" }).catch(() => {
      connection.textContent = "not live";
    });
  });
})();
