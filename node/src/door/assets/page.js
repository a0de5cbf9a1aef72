// Keeps the overview up to date, draws the chart, and copies recipes. The page is whole without it.
"use strict";

(() => {
  const byId = (id) => document.getElementById(id);
  const RETRY_MS = 15_000;

  // ---- live ----

  const live = byId("live");
  const shown = new Map();
  const listeners = [];
  let source = null;
  let retry = 0;

  // Only on a change: a screen reader says it each time.
  const tellState = (text, state) => {
    if (live.textContent !== text) {
      live.textContent = text;
      live.className = state;
    }
  };

  // The markup is the node's own, as in the page itself; what came from outside is escaped there.
  const replace = (id, markup) => {
    const part = byId(id);
    const body = part?.querySelector(".body");
    if (!body || shown.get(id) === markup) return;
    const selection = getSelection();
    if (!selection.isCollapsed && body.contains(selection.anchorNode)) return;
    const focused = body.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
    shown.set(id, markup);
    body.innerHTML = markup;
    part.hidden = markup === "";
    if (focused) body.querySelector(`[href="${CSS.escape(focused)}"]`)?.focus();
  };

  const listen = () => {
    clearTimeout(retry);
    source = new EventSource("/-/api/events");
    source.onmessage = (message) => {
      const event = JSON.parse(message.data);
      for (const [id, markup] of Object.entries(event.sections)) replace(id, markup);
      byId("up").textContent = event.up;
      for (const told of listeners) told(event);
      tellState("Live", "on");
    };
    source.onerror = () => {
      tellState("Not connected, trying again", "off");
      // A browser does not try again by itself when it was told to come later.
      if (source.readyState === EventSource.CLOSED) retry = setTimeout(listen, RETRY_MS);
    };
  };

  if (live) {
    listen();
    // A page that nobody sees takes no seat.
    document.addEventListener("visibilitychange", () => {
      source.close();
      clearTimeout(retry);
      if (!document.hidden) listen();
    });
    addEventListener("pagehide", () => source.close());
  }

  // ---- chart ----

  // From the bottom up: what the uplink had to bring, then what it was spared.
  const SOURCES = [
    ["upstream", "Upstream"],
    ["peers", "Peers"],
    ["disk", "Disk"],
    ["memory", "Memory"],
  ];
  const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];
  const POWERS = Array.from({ length: 50 }, (_, i) => 2 ** i);

  const rate = (bytes) => {
    if (bytes == null) return "–";
    let unit = 0;
    while (bytes >= 1000 && unit + 1 < UNITS.length) {
      bytes /= 1024;
      unit += 1;
    }
    return `${bytes.toFixed(unit && bytes < 100 ? 1 : 0)} ${UNITS[unit]}/s`;
  };

  // The axis has room for round numbers only.
  const tick = (bytes) => rate(bytes).replace(".0 ", " ");

  // Midnight is told by its date.
  const clock = (seconds) => {
    const at = new Date(seconds * 1000);
    const time = at.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });
    return time === "00:00" ? at.toLocaleDateString("en-GB", { day: "numeric", month: "short" }) : time;
  };

  const chart = (section) => {
    const plot = byId("plot");
    let span = "hour";
    let series = null;
    let fetched = 0;
    let drawn = null;

    // Each band goes up to the sum of itself and those below; the highest is drawn first.
    const data = () => {
      const times = series.upstream.map((_, i) => series.start + i * series.step);
      let below = times.map(() => 0);
      const bands = SOURCES.map(([name]) => {
        below = below.map((sum, i) => (series[name][i] == null ? null : sum + series[name][i]));
        return below;
      });
      return [times, ...bands.reverse()];
    };

    const draw = () => {
      const colours = getComputedStyle(document.documentElement);
      const colour = (name) => colours.getPropertyValue(`--${name}`).trim();
      const axis = { stroke: colour("quiet"), grid: { stroke: colour("line"), width: 1 }, ticks: { show: false }, font: "13px system-ui, sans-serif" };
      const bands = [...SOURCES].reverse().map(([name, label]) => ({
        label,
        fill: colour(name),
        stroke: colour(name),
        width: 0,
        // An interval is as wide as it is long: there is nothing between two of them.
        paths: uPlot.paths.bars({ size: [1, 1000], gap: 0, align: 1 }),
        points: { show: false },
        value: (_, __, ___, at) => rate(series[name][at]),
      }));
      drawn?.destroy();
      drawn = new uPlot(
        {
          width: plot.clientWidth,
          height: 240,
          padding: [8, 0, 0, 0],
          cursor: { drag: { x: false, y: false }, points: { show: false } },
          legend: { isolate: false, markers: { width: 0, fill: (u, i) => u.series[i].fill?.() ?? "" } },
          scales: { x: { range: (_, min, max) => [min, max + series.step] }, y: { range: (_, __, max) => [0, Math.max(max * 1.1, 1024)] } },
          axes: [
            { ...axis, grid: { show: false }, space: 80, values: (_, ticks) => ticks.map(clock) },
            { ...axis, size: 84, incrs: POWERS, space: 44, values: (_, ticks) => ticks.map(tick) },
          ],
          series: [{ label: "Time", value: "{YYYY}-{MM}-{DD} {HH}:{mm}" }, ...bands],
        },
        data(),
        plot,
      );
      tellLatest();
    };

    // While nobody points at a time, the legend tells the latest.
    const tellLatest = () => {
      if (drawn.cursor.left == null || drawn.cursor.left < 0) drawn.setLegend({ idx: series.upstream.length - 1 });
    };

    const load = async () => {
      fetched = Date.now();
      const wanted = span;
      const answer = await fetch(`/-/api/history?span=${wanted}`).catch(() => null);
      if (!answer?.ok) return;
      const loaded = await answer.json();
      if (wanted !== span) return;
      series = loaded;
      section.hidden = false;
      draw();
    };

    const take = (recent) => {
      recent.upstream.forEach((_, i) => {
        const at = (recent.start - series.start) / series.step + i;
        if (at < 0 || !Number.isInteger(at)) return;
        for (const [name] of SOURCES) series[name][at] = recent[name][i];
      });
      const excess = series.upstream.length - 360;
      if (excess > 0) {
        for (const [name] of SOURCES) series[name].splice(0, excess);
        series.start += excess * series.step;
      }
    };

    listeners.push(({ recent }) => {
      const gap = series && recent.start - (series.start + series.upstream.length * series.step);
      if (span === "hour" && series && gap <= 0) {
        take(recent);
        drawn.setData(data());
        tellLatest();
      } else if (Date.now() - fetched > 60_000) {
        load();
      }
    });

    for (const button of section.querySelectorAll("button[data-span]")) {
      button.addEventListener("click", () => {
        span = button.dataset.span;
        for (const other of section.querySelectorAll("button[data-span]")) other.setAttribute("aria-pressed", String(other === button));
        load();
      });
    }
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawn && draw());
    new ResizeObserver(() => drawn && drawn.width !== plot.clientWidth && drawn.setSize({ width: plot.clientWidth, height: 240 })).observe(plot);
    load();
  };

  if (byId("chart")) chart(byId("chart"));

  // ---- copy ----

  // The clipboard's own interface is for https alone; this one is for all.
  const copy = (code) => {
    const selection = getSelection();
    selection.selectAllChildren(code);
    const done = document.execCommand("copy");
    selection.removeAllRanges();
    return done;
  };

  if (!live) {
    for (const code of document.querySelectorAll("pre > code")) {
      const frame = document.createElement("div");
      const button = document.createElement("button");
      const heading = code.closest("section").querySelector("h2");
      frame.className = "copied";
      button.type = "button";
      button.textContent = "Copy";
      button.setAttribute("aria-label", `Copy: ${heading.textContent}`);
      code.parentNode.replaceWith(frame);
      frame.append(button, Object.assign(document.createElement("pre"), { tabIndex: 0 }));
      frame.lastChild.append(code);
      button.addEventListener("click", () => {
        button.textContent = copy(code) ? "Copied" : "Select and copy by hand";
        setTimeout(() => (button.textContent = "Copy"), 2000);
      });
    }
  }
})();
