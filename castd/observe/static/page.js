"use strict";
// Exchanges the report for a newer one every two seconds, unless it is paused or nobody sees it.
// All of the page is there without this script.
(() => {
  const PERIOD = 2000;
  const pause = document.getElementById("pause");
  const alive = document.getElementById("alive");
  let paused = false;

  function say(text) {
    if (alive.textContent !== text) alive.textContent = text;
  }

  function show(html) {
    const fresh = new DOMParser().parseFromString(html, "text/html").getElementById("report");
    const old = document.getElementById("report");
    if (fresh === null) throw new Error("no report");
    const focused = old === document.activeElement;
    old.replaceWith(document.adoptNode(fresh));
    if (focused) document.getElementById("report").focus({ preventScroll: true });
  }

  async function update() {
    if (!paused && !document.hidden) {
      try {
        const answer = await fetch("./", { cache: "no-store", credentials: "omit" });
        if (!answer.ok) throw new Error(answer.statusText);
        const html = await answer.text();
        if (!paused) {
          show(html);
          say("Updated every 2 seconds.");
        }
      } catch {
        say("castd does not answer; what is shown may be out of date.");
      }
    }
    setTimeout(update, PERIOD);
  }

  pause.addEventListener("click", () => {
    paused = !paused;
    pause.setAttribute("aria-pressed", String(paused));
    say(paused ? "Paused." : "Updated every 2 seconds.");
  });
  document.getElementById("live").hidden = false;
  say("Updated every 2 seconds.");
  setTimeout(update, PERIOD);
})();
