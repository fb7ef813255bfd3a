// Keeps the page up to date. Everything here is an addition: without it the page reads and acts the same.
"use strict";
(() => {
  const root = document.documentElement;
  const main = document.getElementById("main");
  const LINES_KEPT = 2000;
  // The server's clock is the one that counts; ours may be off.
  let clockOffset = Number(root.dataset.now) - Date.now();
  const now = () => Date.now() + clockOffset;

  // The same rules as web/times.rs.
  function duration(ms) {
    const l = Math.max(0, Math.floor(ms));
    if (l < 1000) return `${l} ms`;
    if (l < 10000) return `${Math.floor(l / 1000)}.${Math.floor((l % 1000) / 100)} s`;
    if (l < 60000) return `${Math.floor(l / 1000)} s`;
    if (l < 3600000) return `${Math.floor(l / 60000)} min ${Math.floor((l % 60000) / 1000)} s`;
    if (l < 86400000) return `${Math.floor(l / 3600000)} h ${Math.floor((l % 3600000) / 60000)} min`;
    return `${Math.floor(l / 86400000)} d ${Math.floor((l % 86400000) / 3600000)} h`;
  }
  function relative(at) {
    const distance = now() - at;
    if (distance >= -2000 && distance < 5000) return "just now";
    const s = Math.abs(distance);
    const text = s < 60000 ? `${Math.floor(s / 1000)} s` : s < 3600000 ? `${Math.floor(s / 60000)} min`
      : s < 86400000 ? `${Math.floor(s / 3600000)} h` : `${Math.floor(s / 86400000)} d`;
    return distance < 0 ? `in ${text}` : `${text} ago`;
  }
  function write(element, text) {
    if (element.textContent !== text) element.textContent = text;
  }
  function tick() {
    for (const e of document.querySelectorAll("[data-relative]")) write(e, relative(Number(e.dataset.relative)));
    for (const e of document.querySelectorAll("[data-since]")) write(e, duration(Math.floor((now() - Number(e.dataset.since)) / 1000) * 1000));
    for (const e of document.querySelectorAll("[data-until]")) {
      const left = Number(e.dataset.until) - now();
      const note = e.closest(".note");
      if (left <= 0 && note) note.hidden = true;
      write(e, duration(Math.ceil(left / 1000) * 1000));
    }
  }

  // A part without what the script itself changes in it: the first send after loading is mostly no news.
  function essence(part) {
    const bare = part.cloneNode(true);
    for (const e of bare.querySelectorAll("[data-relative],[data-since],[data-until]")) e.textContent = "";
    for (const e of bare.querySelectorAll("[hidden]")) e.hidden = false;
    for (const e of bare.querySelectorAll("details")) e.open = false;
    return bare.outerHTML;
  }

  // Replaces one part of the page; what is open and focused in it stays so.
  function replace(id, html) {
    const old = document.getElementById(id);
    if (!old) return;
    const template = document.createElement("template");
    template.innerHTML = html;
    const fresh = template.content.firstElementChild;
    if (!fresh || essence(fresh) === essence(old)) return;
    const opened = [...old.querySelectorAll("details")].map((d) => d.open);
    fresh.querySelectorAll("details").forEach((d, n) => { if (opened[n]) d.open = true; });
    const focusable = "a[href],button,summary,[tabindex]";
    const focused = old.contains(document.activeElement) ? [...old.querySelectorAll(focusable)].indexOf(document.activeElement) : -1;
    const scrolled = [...old.querySelectorAll("[data-keep-scroll]")].map((e) => [e.scrollLeft, e.scrollTop]);
    old.replaceWith(fresh);
    fresh.querySelectorAll("[data-keep-scroll]").forEach((e, n) => { if (scrolled[n]) e.scrollTo(...scrolled[n]); });
    if (focused >= 0) fresh.querySelectorAll(focusable)[focused]?.focus({ preventScroll: true });
    reveal(fresh);
    tick();
  }

  // Log lines.
  const lines = document.getElementById("log-lines");
  const filter = document.getElementById("log-filter");
  const follow = document.getElementById("log-follow");
  const empty = document.getElementById("log-empty");
  const shows = (line) => !filter.value || line.querySelector(".text").textContent.toLowerCase().includes(filter.value.toLowerCase());
  function showEmpty() {
    const any = [...lines.children].some((line) => !line.hidden);
    empty.hidden = any;
    lines.hidden = !any;
    if (!any && filter.value) empty.textContent = `No line holds “${filter.value}”.`;
  }
  function toEnd() {
    if (follow?.checked) lines.scrollTop = lines.scrollHeight;
  }
  function append(html) {
    if (!lines) return;
    const template = document.createElement("template");
    template.innerHTML = html;
    const last = Number(lines.lastElementChild?.dataset.seq ?? -1);
    for (const line of [...template.content.children]) {
      if (Number(line.dataset.seq) <= last) continue;
      line.hidden = !shows(line);
      lines.append(line);
    }
    while (lines.childElementCount > LINES_KEPT) lines.firstElementChild.remove();
    showEmpty();
    toEnd();
  }
  if (lines) {
    filter.addEventListener("input", () => {
      for (const line of lines.children) line.hidden = !shows(line);
      showEmpty();
      toEnd();
    });
    filter.form.addEventListener("submit", (event) => event.preventDefault());
    // Scrolling up to read ends following; scrolling back to the end begins it again.
    lines.addEventListener("scroll", () => {
      const atEnd = lines.scrollHeight - lines.scrollTop - lines.clientHeight < 24;
      if (follow && follow.checked !== atEnd) follow.checked = atEnd;
    }, { passive: true });
    follow?.addEventListener("change", toEnd);
    toEnd();
  }

  // Things that only work with a script are hidden until there is one.
  function reveal(part) {
    for (const e of part.querySelectorAll("[data-copy],.script-only")) e.hidden = false;
  }
  async function copy(button) {
    const code = button.parentElement.querySelector("code");
    try {
      await navigator.clipboard.writeText(code.textContent);
    } catch {
      // Pages over plain http have no clipboard; selecting and the old command work there.
      getSelection().selectAllChildren(code);
      document.execCommand("copy");
    }
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  }
  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("[data-copy]");
    if (button) copy(button);
  });
  // One click is one request: a second one while the first is on its way is dropped.
  document.addEventListener("submit", (event) => {
    if (event.target.method !== "post") return;
    if (event.target.dataset.sent) event.preventDefault();
    event.target.dataset.sent = "1";
    setTimeout(() => { delete event.target.dataset.sent; }, 5000);
  });

  // The stream. A hidden tab gives its connection back: a browser has few per server.
  const state = document.getElementById("live-state");
  const address = main?.dataset.live;
  let source = null;
  let retryMs = 1000;
  function say(kind, text) {
    if (!state) return;
    state.hidden = false;
    state.className = `live-state ${kind}`;
    write(state, text);
  }
  function connect() {
    if (source || document.hidden) return;
    const url = new URL(address, location.href);
    const last = lines?.lastElementChild?.dataset.seq;
    if (last) url.searchParams.set("after", last);
    source = new EventSource(url);
    source.addEventListener("open", () => { retryMs = 1000; say("on", "Live"); });
    source.addEventListener("clock", (e) => { clockOffset = Number(e.data) - Date.now(); tick(); });
    source.addEventListener("part", (e) => { const part = JSON.parse(e.data); replace(part.id, part.html); });
    source.addEventListener("lines", (e) => append(JSON.parse(e.data).html));
    source.addEventListener("end", () => { disconnect(); location.reload(); });
    source.addEventListener("error", () => {
      disconnect();
      say("off", "Not connected");
      checkSession();
      setTimeout(connect, retryMs * (0.5 + Math.random()));
      retryMs = Math.min(retryMs * 2, 30000);
    });
  }
  // The browser does not tell why a stream failed. A page that leads elsewhere means: no longer signed in.
  async function checkSession() {
    try {
      const answer = await fetch(location.href, { method: "HEAD", redirect: "manual" });
      if (answer.type === "opaqueredirect") location.reload();
    } catch {
      // The control plane is away; connect() keeps trying.
    }
  }
  function disconnect() {
    source?.close();
    source = null;
  }

  // The palette: find anything from anywhere. The link beside it leads to the same as a page.
  const find = document.getElementById("find");
  const PLACES = { o: "/", s: "/services", v: "/servers", e: "/events", b: "/builds", t: "/tokens" };
  let palette = null;
  function dialog(name, label, html) {
    const made = document.createElement("dialog");
    made.className = name;
    made.setAttribute("aria-label", label);
    made.innerHTML = html;
    made.addEventListener("click", (e) => { if (e.target === made) made.close(); });
    document.body.append(made);
    return made;
  }
  function openPalette() {
    palette ??= makePalette();
    if (!palette.open) palette.showModal();
    const input = palette.querySelector("input");
    input.select();
    input.dispatchEvent(new Event("input"));
  }
  function makePalette() {
    const made = dialog("palette", "Find anything, or do something", `<input type="search" aria-label="Find" maxlength="100" autocomplete="off" spellcheck="false" placeholder="web, harbour, restart web, logs api …"><div class="found"></div><p class="soft" role="status"></p>`);
    const [input, found, status] = made.children;
    let asked = 0;
    let waiting = null;
    async function ask() {
      const number = ++asked;
      try {
        const answer = await fetch(`/search/hits?q=${encodeURIComponent(input.value)}`);
        if (number !== asked) return;
        if (!answer.ok || answer.redirected) { write(status, "Not signed in any more: load the page again."); return; }
        found.innerHTML = await answer.text();
        const hits = found.querySelectorAll("a").length;
        write(status, hits ? `${hits} found. Arrows choose, Enter opens, Escape closes.` : `Nothing has “${input.value}” in its name.`);
      } catch {
        write(status, "The control plane does not answer.");
      }
    }
    input.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(ask, 90); });
    made.addEventListener("keydown", (e) => {
      const stops = [input, ...found.querySelectorAll("a")];
      const at = stops.indexOf(document.activeElement);
      const step = { ArrowDown: 1, ArrowUp: -1 }[e.key];
      if (step) {
        e.preventDefault();
        stops[(at + step + stops.length) % stops.length].focus();
      } else if (e.key === "Enter" && at === 0 && stops[1]) {
        e.preventDefault();
        stops[1].click();
      } else if (at > 0 && e.key.length === 1 && !e.ctrlKey && !e.metaKey) {
        input.focus();
      }
    });
    return made;
  }

  // Letters lead somewhere. They can be turned off: who dictates types them without meaning to.
  const lettersOff = () => { try { return localStorage.getItem("mainstay-letters") === "off"; } catch { return true; } };
  let help = null;
  function openHelp() {
    help ??= makeHelp();
    if (!help.open) help.showModal();
  }
  function makeHelp() {
    const keys = [["Ctrl K", "find anything, or do something"], ["/", "the same"], ["?", "these shortcuts"], ["g o", "overview"], ["g s", "services"], ["g v", "servers"], ["g e", "events"], ["g b", "builds"], ["g t", "tokens"]];
    const rows = keys.map(([key, what]) => `<dt>${key.split(" ").map((k) => `<kbd>${k}</kbd>`).join(" ")}</dt><dd>${what}</dd>`).join("");
    const made = dialog("palette help", "Keyboard shortcuts", `<h2>Keyboard shortcuts</h2><dl class="facts">${rows}</dl><label class="check"><input type="checkbox"> Single letters are shortcuts</label><form method="dialog"><button class="quiet">Close</button></form>`);
    const letters = made.querySelector("input");
    letters.checked = !lettersOff();
    letters.addEventListener("change", () => { try { localStorage.setItem("mainstay-letters", letters.checked ? "on" : "off"); } catch { letters.checked = false; } });
    return made;
  }
  if (find) {
    let wentAt = 0;
    find.addEventListener("click", (e) => { if (e.ctrlKey || e.metaKey || e.shiftKey) return; e.preventDefault(); openPalette(); });
    document.getElementById("shortcuts")?.addEventListener("click", openHelp);
    document.addEventListener("keydown", (e) => {
      if ((e.ctrlKey || e.metaKey) && !e.shiftKey && !e.altKey && e.key.toLowerCase() === "k") {
        e.preventDefault();
        openPalette();
        return;
      }
      const typing = e.target.closest?.("input,textarea,select,dialog,[contenteditable]");
      if (typing || e.ctrlKey || e.metaKey || e.altKey || lettersOff()) return;
      const place = Date.now() - wentAt < 1500 ? PLACES[e.key] : null;
      wentAt = e.key === "g" ? Date.now() : 0;
      if (place) location.assign(place);
      else if (e.key === "?") openHelp();
      else if (e.key === "/") { e.preventDefault(); openPalette(); }
    });
  }
  reveal(document);
  // The first time not before a second is over: what the server wrote is right until then.
  setInterval(tick, 1000);
  if (address) {
    document.addEventListener("visibilitychange", () => (document.hidden ? disconnect() : connect()));
    addEventListener("pagehide", disconnect);
    addEventListener("pageshow", (e) => { if (e.persisted) connect(); });
    // First it is seen, then it is kept up to date.
    requestAnimationFrame(() => setTimeout(connect));
  }
})();
