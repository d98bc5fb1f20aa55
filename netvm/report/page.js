"use strict";
// Draws the page from the JSON beside it. No library, no network; every figure comes out of the profile as it is.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const profile = data.profile;
  const SVG = "http://www.w3.org/2000/svg";
  const colour = (index) => `var(--c${index % 7})`;

  const el = (tag, attributes = {}, ...children) => {
    const node = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  };
  const svg = (tag, attributes = {}, text) => {
    const node = document.createElementNS(SVG, tag);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text !== undefined) node.textContent = text;
    return node;
  };
  const title = (kind) => data.titles[kind] || kind.replaceAll("_", " ");
  const count = (value) => value.toLocaleString("en");
  const duration = (us) =>
    us === null || us === undefined ? "–"
      : us >= 1e9 ? `${(us / 1e6).toFixed(0)} s` : us >= 1e6 ? `${(us / 1e6).toPrecision(3)} s` : us >= 1e3 ? `${(us / 1e3).toPrecision(3)} ms` : `${us.toPrecision(3)} µs`;
  const seconds = (s) => `${s.toFixed(s < 10 ? 3 : 2)} s`;

  // -- hints ------------------------------------------------------------------------------------------------------
  const tip = document.getElementById("tip");
  const hint = (node, text) => {
    const show = (x, y) => {
      tip.textContent = text;
      tip.style.display = "block";
      tip.style.left = `${Math.max(8, Math.min(x + 14, innerWidth - tip.offsetWidth - 8))}px`;
      tip.style.top = `${Math.min(y + 16, innerHeight - tip.offsetHeight - 8)}px`;
    };
    const hide = () => { tip.style.display = "none"; };
    node.append(svg("title", {}, text));
    node.addEventListener("pointermove", (event) => show(event.clientX, event.clientY));
    node.addEventListener("pointerleave", hide);
    // a listener for focus alone makes a shape a stop of the Tab key
    if (!node.hasAttribute("tabindex")) return;
    node.addEventListener("focus", () => { const at = node.getBoundingClientRect(); show(at.left, at.bottom - 12); });
    node.addEventListener("blur", hide);
  };

  // -- sections ---------------------------------------------------------------------------------------------------
  const main = document.querySelector("main");
  const nav = document.querySelector("nav");
  const section = (id, heading, words) => {
    const node = el("section", { id, "aria-label": heading }, el("h2", {}, heading));
    if (words) node.append(el("p", { class: "dim" }, words));
    main.append(node);
    nav.append(el("a", { href: `#${id}` }, heading));
    return node;
  };
  const legend = (entries) => {
    const list = el("ul", { class: "legend" });
    entries.forEach(([name, paint, mark]) => {
      const line = mark instanceof Node ? mark : mark === "area" ? el("i", { class: "area", style: `background:${paint}` })
        : el("i", { style: `border-color:${paint};border-top-style:${mark || "solid"}` });
      const item = el("li", {}, line, name);
      list.append(item);
    });
    return list;
  };

  // -- axes -------------------------------------------------------------------------------------------------------
  // a picture is drawn as wide as it is shown, so that its letters have the size of the page's
  const room = (parent) => Math.max(parent.clientWidth || 1100, 280);
  const pen = document.createElement("canvas").getContext("2d");
  pen.font = '11px system-ui, "Liberation Sans", sans-serif';
  const fits = (text, width) => pen.measureText(text).width <= width;
  const cut = (text, width) => {
    if (fits(text, width)) return text;
    let letters = Math.min(text.length, Math.max(0, Math.ceil(width / 3)));
    while (letters > 0 && !fits(`${text.slice(0, letters)}…`, width)) letters--;
    return letters > 2 ? `${text.slice(0, letters)}…` : "";
  };
  const frame = (parent, label, { height = 240, left = 64, right = 12, top = 10, bottom = 26, role = "img" } = {}) => {
    const width = room(parent);
    const node = svg("svg", { viewBox: `0 0 ${width} ${height}`, role, "aria-label": label });
    return { node, x0: left, x1: width - right, y0: height - bottom, y1: top, width, height };
  };
  const ticks = (low, high, nr) => {
    const raw = (high - low) / nr || 1;
    const power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw);
    const found = [];
    for (let value = Math.ceil(low / step) * step; value <= high + step / 1e6; value += step) found.push(value);
    return found;
  };
  const timeAxis = (box, begin, end) => {
    const scale = (s) => box.x0 + ((s - begin) / (end - begin || 1)) * (box.x1 - box.x0);
    const nr = Math.max(2, Math.min(8, Math.floor((box.x1 - box.x0) / 80)));
    for (const value of ticks(begin, end, nr)) {
      const x = scale(value);
      box.node.append(svg("line", { class: "grid", x1: x, x2: x, y1: box.y0, y2: box.y1 }));
      const text = `${+value.toPrecision(9)} s`;
      box.node.append(svg("text", { x, y: box.y0 + 16, "text-anchor": x > box.x1 - 20 ? "end" : "middle" }, text));
    }
    return scale;
  };
  const linearAxis = (box, low, high, format = count) => {
    const scale = (v) => box.y0 - ((v - low) / (high - low || 1)) * (box.y0 - box.y1);
    for (const value of ticks(low, high, 4)) {
      const y = scale(value);
      box.node.append(svg("line", { class: "grid", x1: box.x0, x2: box.x1, y1: y, y2: y }));
      box.node.append(svg("text", { x: box.x0 - 6, y: y + 4, "text-anchor": "end" }, format(value)));
    }
    return scale;
  };
  const logAxis = (box, low, high) => {
    const from = Math.floor(Math.log10(low)), to = Math.max(Math.ceil(Math.log10(high)), from + 1);
    const scale = (v) => box.y0 - ((Math.log10(Math.max(v, 10 ** from)) - from) / (to - from)) * (box.y0 - box.y1);
    for (let power = from; power <= to; power++) {
      const y = scale(10 ** power);
      box.node.append(svg("line", { class: "grid", x1: box.x0, x2: box.x1, y1: y, y2: y }));
      box.node.append(svg("text", { x: box.x0 - 6, y: y + 4, "text-anchor": "end" }, duration(10 ** power)));
    }
    return scale;
  };
  const begin = profile.begin_s, end = Math.max(profile.end_s, profile.begin_s + 1e-6);

  // where the stalls are: the pictures of single stalls show that part only
  const busy = (() => {
    const from = Math.min(...data.stalls.map((s) => s.begin_s)), to = Math.max(...data.stalls.map((s) => s.begin_s + s.duration_us / 1e6));
    const pad = Math.max((to - from) * .04, 1e-4);
    return data.stalls.length && to - from < .8 * (end - begin) ? [Math.max(begin, from - pad), Math.min(end, to + pad)] : [begin, end];
  })();
  const busyWords = busy[1] - busy[0] < end - begin ? ` Shown from ${seconds(busy[0])} to ${seconds(busy[1])}, where all of them are.` : "";

  const figure = (parent, node, caption) => {
    const holder = el("figure", {}, node);
    if (caption) holder.append(el("figcaption", {}, caption));
    parent.append(holder);
    return holder;
  };
  const step = (points, x, y) => {
    let path = "";
    let before = null;
    for (const [t, v] of points) {
      path += before === null ? `M${x(t).toFixed(1)},${y(v).toFixed(1)}` : `H${x(t).toFixed(1)}V${y(v).toFixed(1)}`;
      before = v;
    }
    return before === null ? "" : `${path}H${x(end).toFixed(1)}`;
  };

  // -- head -------------------------------------------------------------------------------------------------------
  const head = () => {
    const about = profile.about;
    const place = document.getElementById("verdict");
    if (about.verdict) {
      const good = about.verdict === "COMPLETED";
      place.append(el("span", { class: `verdict ${good ? "good" : "bad"}` }, `${good ? "✓" : "✗"} ${about.verdict}`));
    }
    const list = el("ul");
    for (const line of about.explanation || []) list.append(el("li", {}, line));
    if (list.children.length) place.append(list);
    for (const sentence of data.sentences) place.append(el("p", {}, sentence));
    const direct = profile.direct_reclaim_latency_us, lru = profile.lru;
    const share = (r) => (r.efficiency === null ? "–" : `${(100 * r.efficiency).toFixed(1)} %`);
    const tiles = [
      [count(profile.events), "events"], [seconds(profile.span_s), "recorded"],
      [count(direct.count), `direct reclaims${direct.unfinished ? `, ${direct.unfinished} unfinished` : ""}`],
      [duration(direct.p50), "median direct reclaim"], [duration(direct.p99), "p99"], [duration(direct.max), "longest"],
      [share(lru.direct), "direct efficiency"], [share(lru.kswapd), "kswapd efficiency"],
      [duration(profile.kswapd.working_us), `kswapd at work, ${profile.kswapd.wakes} wakes`],
      [duration(profile.pressure.some.total_us), "pressure some, in all"],
      [profile.pressure.full ? duration(profile.pressure.full.total_us) : "unknown", "pressure full, in all"],
    ];
    const grid = document.getElementById("tiles");
    for (const [value, name] of tiles) grid.append(el("div", { class: "tile" }, el("b", {}, value), el("span", {}, name)));
  };

  // -- free pages -------------------------------------------------------------------------------------------------
  const memory = () => {
    const levels = data.levels;
    if (!levels.free) return;
    const node = section("memory", "Free pages and watermarks",
      "Free memory of all zones against the marks that decide who reclaims. Below low kswapd is woken; below min only reserves are left.");
    const box = frame(node, "free pages and watermarks over time", { height: 280 });
    const top = Math.max(...levels.free.map((p) => p[1]), ...levels.high.map((p) => p[1]));
    const zoom = Math.min(top, 3 * Math.max(...levels.high.map((p) => p[1])));
    const x = timeAxis(box, begin, end), y = linearAxis(box, 0, zoom);
    const clip = (points) => points.map(([t, v]) => [t, Math.min(v, zoom)]);
    const marks = [["high", 2, "dotted", "1 4"], ["low", 4, "dashed", "6 4"], ["min", 1, "solid", ""]];
    const floor = step(clip(levels.min), x, y);
    box.node.append(svg("path", { d: `${floor}V${box.y0}H${x(levels.min[0][0])}Z`, fill: "var(--c1)", opacity: .12 }));
    for (const [name, paint, , dash] of marks) {
      box.node.append(svg("path", { d: step(levels[name], x, y), fill: "none", stroke: colour(paint), "stroke-width": 1.6,
        "stroke-dasharray": dash }));
    }
    const low = data.lows.free || [];
    if (low.length) box.node.append(svg("path", { d: step(clip(low), x, y), fill: "none", stroke: colour(0), opacity: .45 }));
    box.node.append(svg("path", { d: step(clip(levels.free), x, y), fill: "none", stroke: colour(0), "stroke-width": 1.8 }));
    for (const event of data.events) {
      const at = x(event.time_s);
      const mark = svg("path", { d: `M${at},${box.y1}l-5,-9h10z`, fill: "var(--bad)" });
      hint(mark, `${event.name} ${event.told} at ${seconds(event.time_s)}`);
      box.node.append(mark);
    }
    figure(node, box.node, zoom < top ? "The axis ends at three times the high mark; more free memory is drawn at its top." : "");
    node.append(legend([["free (faint: lowest in each interval)", colour(0)],
      ...marks.map(([n, c, d]) => [n, colour(c), d]), ...(data.events.length ? [["▼ drop or kill", "var(--bad)"]] : [])]));
  };

  // -- reclaim over time for any trace ------------------------------------------------------------------------------
  const rates = () => {
    const columns = profile.series.columns, width = profile.series.interval_s, start = profile.series.begin_s;
    const names = ["reclaimed_kswapd", "reclaimed_direct"].filter((n) => columns[n] && columns[n].some((v) => v));
    if (!names.length) return;
    const node = section("rates", "Who reclaimed when", "Pages reclaimed in each interval, by kswapd and by tasks for themselves.");
    const box = frame(node, "pages reclaimed over time", { height: 190 });
    const top = Math.max(...names.flatMap((n) => columns[n]));
    const x = timeAxis(box, begin, end), y = linearAxis(box, 0, top);
    names.forEach((name) => {
      const paint = name.endsWith("kswapd") ? 0 : 1;
      columns[name].forEach((value, index) => {
        if (!value) return;
        const from = x(start + index * width), to = x(start + (index + 1) * width);
        const half = Math.max((to - from) / 2, .8);
        const bar = svg("rect", { x: from + (paint ? half : 0), width: half, y: y(value), height: box.y0 - y(value), fill: colour(paint) });
        hint(bar, `${title(name)}: ${count(value)} pages at ${seconds(start + index * width)}`);
        box.node.append(bar);
      });
    });
    figure(node, box.node, `Intervals of ${duration(width * 1e6)}.`);
    node.append(legend(names.map((n) => [n.endsWith("kswapd") ? "by kswapd" : "by tasks for themselves", colour(n.endsWith("kswapd") ? 0 : 1), "area"])));
  };

  // -- latency ------------------------------------------------------------------------------------------------------
  const bounds = (index, bits) => {
    if (index < 2 ** (bits + 1)) return [index, index + 1];
    const shift = Math.floor(index / 2 ** bits) - 1, low = (index - shift * 2 ** bits) * 2 ** shift;
    return [low, low + 2 ** shift];
  };
  const curve = (histogram) => {
    let seen = 0;
    const total = histogram.count.reduce((a, b) => a + b, 0), points = [];
    histogram.index.forEach((index, i) => {
      const [low, high] = bounds(index, histogram.sub_bits);
      const middle = Math.min(Math.max((low + high - 1) / 2, histogram.min_ns), histogram.max_ns) / 1000;
      points.push([seen / total, middle], [(seen += histogram.count[i]) / total, middle]);
    });
    return points;
  };
  const latency = () => {
    const kinds = Object.entries(profile.histograms).filter(([, h]) => h.index.length);
    if (!kinds.length) return;
    const node = section("latency", "How long, and when",
      "Waits by length over time, darker where there were more, and the share of waits that were no longer than that, its tail stretched.");
    const split = el("div", { class: "split" });
    node.append(split);
    const columns = profile.series.columns, width = profile.series.interval_s;
    const mapped = ["direct_reclaim", "alloc_stall", "dirty_throttle", "nfs", "request", "swapin", "socket"].filter((kind) =>
      Object.keys(columns).some((name) => name.startsWith(`latency_${kind}_`)));
    const holder = el("div");
    split.append(holder);
    const classesOf = (kind) => Object.keys(columns).filter((name) => name.startsWith(`latency_${kind}_`)).map((name) => +name.slice(-2)).sort((a, b) => a - b);
    const column = (kind, c) => columns[`latency_${kind}_${String(c).padStart(2, "0")}`];
    const lowest = (c) => (c ? 2 ** (c - 1) * 1.024 : 0);
    const drawHeat = (kind) => {
      const heat = frame(holder, `heat map of ${title(kind)} over time`, { height: 300, left: 60 });
      const classes = classesOf(kind), low = classes[0], high = classes[classes.length - 1] + 1;
      const range = kind === data.stall_kind ? busy : [begin, end];
      const x = timeAxis(heat, ...range);
      const y = (c) => heat.y0 - ((c - low) / (high - low)) * (heat.y0 - heat.y1);
      const group = Math.max(1, Math.ceil((range[1] - range[0]) / width / 110));
      const cells = [], every = Math.ceil((high - low) / 14);
      for (const c of classes) {
        const values = column(kind, c);
        for (let i = 0; i < values.length; i += group) {
          const sum = values.slice(i, i + group).reduce((a, b) => a + b, 0);
          if (sum && profile.series.begin_s + i * width <= range[1]) cells.push([c, i, sum]);
        }
      }
      for (let c = low; c < high; c += every) heat.node.append(svg("text", { x: heat.x0 - 6, y: y(c) + 4, "text-anchor": "end" }, duration(lowest(c))));
      const most = Math.max(1, ...cells.map((cell) => cell[2]));
      for (const [c, i, sum] of cells) {
        const at = profile.series.begin_s + i * width;
        const rect = svg("rect", { x: x(at), width: Math.max(x(at + group * width) - x(at) - .5, 2), y: y(c + 1) + .5,
          height: y(c) - y(c + 1) - 1, fill: `rgba(var(--heat), ${(.25 + .75 * Math.log1p(sum) / Math.log1p(most)).toFixed(2)})` });
        hint(rect, `${sum} × ${title(kind)} of ${duration(lowest(c))} and more at ${seconds(at)}`);
        heat.node.append(rect);
      }
      const chosen = mapped.length > 1 ? [el("div", { class: "choice", role: "group", "aria-label": "which wait" },
        ...mapped.map((other) => {
          const button = el("button", { type: "button", "aria-pressed": other === kind }, title(other));
          button.addEventListener("click", () => { drawHeat(other); holder.querySelector(`[aria-pressed=true]`).focus(); });
          return button;
        }))] : [el("div", {}, title(kind))];
      holder.replaceChildren(...chosen);
      figure(holder, heat.node, `Darkest: ${most} in one cell.${kind === data.stall_kind ? busyWords : ""}`);
    };
    if (mapped.length) drawHeat(mapped[0]); else figure(holder, el("p", {}, "Nothing of the kind was recorded."));
    const curves = el("div");
    split.append(curves);
    const box = frame(curves, "percentile curves", { height: 300, left: 62 });
    const all = kinds.map(([kind, histogram]) => [kind, curve(histogram)]);
    for (const [kind, points] of data.other ? Object.entries(data.other.histograms).filter(([, h]) => h.index.length)
      .map(([kind, h]) => [`${kind} of b`, curve(h)]) : []) all.push([kind, points]);
    const first = ["direct_reclaim", "alloc_stall", "dirty_throttle", "throttle", "swapin", "nfs", "request", "page_dirty", "mempool", "socket", "kswapd"];
    const rank = (kind) => { const at = first.indexOf(kind.replace(/ of b$/, "")); return at < 0 ? first.length : at; };
    const shown = all.filter(([kind]) => rank(kind) < first.length).sort((a, b) => rank(a[0]) - rank(b[0])).slice(0, 7);
    if (!shown.length) return;
    const values = shown.flatMap(([, p]) => p.map((q) => q[1]));
    const y = logAxis(box, Math.max(Math.min(...values), .1), Math.max(...values));
    const stretch = (q) => -Math.log10(Math.max(1 - q, 1e-4)) / 4;
    const x = (q) => box.x0 + stretch(q) * (box.x1 - box.x0);
    for (const [q, name] of [[0, "0"], [.5, "p50"], [.9, "p90"], [.99, "p99"], [.999, "p99.9"], [.9999, "max"]]) {
      box.node.append(svg("line", { class: "grid", x1: x(q), x2: x(q), y1: box.y0, y2: box.y1 }));
      box.node.append(svg("text", { x: x(q), y: box.y0 + 16, "text-anchor": q === .9999 ? "end" : "middle" }, name));
    }
    const dashes = ["", "7 3", "2 3", "9 3 2 3", "1 2", "12 4", "4 4"];
    shown.forEach(([, points], index) => {
      const path = points.map(([q, v], i) => `${i ? "L" : "M"}${x(q).toFixed(1)},${y(v).toFixed(1)}`).join("");
      box.node.append(svg("path", { d: path, fill: "none", stroke: colour(index), "stroke-width": 2, "stroke-dasharray": dashes[index] }));
    });
    const right = figure(curves, box.node);
    right.append(legend(shown.map(([kind], index) => [title(kind), colour(index), ["solid", "dashed", "dotted"][Math.min(index, 2)]])));
  };

  // -- stalls -------------------------------------------------------------------------------------------------------
  const stalls = () => {
    if (!data.stalls.length) return;
    const node = section("stalls", "Every stall, and its critical path",
      `Each point is ${data.stall_kind === "dirty_throttle" ? "a pause of a writer" : "an allocation that had to wait"}. Click one, or go from one to the next with the arrow keys (← → by time, ↑ ↓ by length), to see where its time went.`);
    const split = el("div", { class: "split" }), picture = el("div"), panel = el("div", { class: "panel", "aria-live": "polite" });
    split.append(picture, panel);
    node.append(split);
    const box = frame(picture, "stalls by time and length", { height: 320, left: 60, role: "group" });
    const list = data.stalls.slice().sort((a, b) => a.begin_s - b.begin_s);
    const lengths = list.map((stall) => stall.duration_us);
    const x = timeAxis(box, ...busy), y = logAxis(box, Math.max(Math.min(...lengths), 1), Math.max(...lengths));
    const tasks = [...new Set(list.map((stall) => stall.task))];
    const shapes = [(cx, cy) => svg("circle", { cx, cy, r: 4.5 }), (cx, cy) => svg("rect", { x: cx - 4, y: cy - 4, width: 8, height: 8 }),
      (cx, cy) => svg("path", { d: `M${cx},${cy - 5.5}l5.5,9.5h-11z` }), (cx, cy) => svg("path", { d: `M${cx},${cy - 6}l6,6l-6,6l-6,-6z` })];
    let chosen = null;
    const points = list.map((stall, index) => {
      const paint = Math.min(tasks.indexOf(stall.task), 6);
      const point = shapes[Math.min(paint, 3)](x(stall.begin_s), y(stall.duration_us));
      for (const [key, value] of Object.entries({ class: "point", fill: stall.unfinished ? "none" : colour(paint), stroke: stall.unfinished ? "var(--bad)" : "none", "stroke-width": stall.unfinished ? 2.5 : 0, "fill-opacity": .75, tabindex: -1, role: "button",
        "aria-label": `${stall.task}, ${duration(stall.duration_us)} at ${seconds(stall.begin_s)}` })) point.setAttribute(key, value);
      hint(point, `${stall.task}: ${duration(stall.duration_us)} at ${seconds(stall.begin_s)}`);
      point.addEventListener("click", () => choose(index));
      box.node.append(point);
      return point;
    });
    const choose = (index, focus = false) => {
      if (chosen !== null) { points[chosen].classList.remove("on"); points[chosen].setAttribute("tabindex", -1); points[chosen].setAttribute("aria-pressed", "false"); }
      chosen = index;
      points[index].classList.add("on");
      points[index].setAttribute("tabindex", 0);
      points[index].setAttribute("aria-pressed", "true");
      if (focus) points[index].focus();
      const stall = list[index];
      panel.replaceChildren(el("b", {}, `${duration(stall.duration_us)}${stall.unfinished ? " and not over" : ""}, ${title(stall.kind)} of ${stall.task}`),
        el("div", { class: "dim" }, `at ${stall.begin_s.toFixed(6)} s, ${stall.kind === "dirty_throttle" ? "" : `order=${stall.order} `}${stall.cause}`));
      if (stall.kind !== "dirty_throttle") panel.append(el("div", { class: "dim" }, `scanned ${count(stall.scanned)} pages, reclaimed ${count(stall.pages)}`));
      const path = el("ol", { class: "path" });
      for (const link of stall.path) {
        const share = stall.duration_us ? Math.min(100, 100 * link.us / stall.duration_us) : 0;
        path.append(el("li", {}, `${link.link}: ${duration(link.us)} (${share.toFixed(1)} %)${link.detail ? `, ${link.detail}` : ""}`,
          el("div", { class: "bar", style: `width:${share}%` })));
      }
      panel.append(path);
      if (stall.chain.length) {
        const chain = el("ol", { class: "chain" });
        for (const one of stall.chain) chain.append(el("li", {}, `${one.step}${one.who ? `, ${one.who}` : ""}: ${duration(one.us)}`,
          el("span", { class: "dim" }, ` from ${one.at_us < 0 ? "−" : "+"}${duration(Math.abs(one.at_us))}`)));
        panel.append(el("b", {}, "Critical path"), chain);
      }
    };
    const byLength = list.map((_, index) => index).sort((a, b) => lengths[a] - lengths[b] || a - b);
    const beside = (order, by) => order[(order.indexOf(chosen) + by + order.length) % order.length];
    const byTime = list.map((_, index) => index);
    const moves = { ArrowRight: () => beside(byTime, 1), ArrowLeft: () => beside(byTime, -1), ArrowUp: () => beside(byLength, 1),
      ArrowDown: () => beside(byLength, -1), Home: () => 0, End: () => list.length - 1, Enter: (at) => at, " ": (at) => at };
    box.node.addEventListener("keydown", (event) => {
      const move = moves[event.key], at = points.indexOf(event.target);
      if (move === undefined || at < 0) return;
      event.preventDefault();
      choose(move(at), true);
    });
    choose(lengths.indexOf(Math.max(...lengths)));
    const left = figure(picture, box.node, (data.stalls.length < data.nr_stalls ? `The ${data.stalls.length} longest of ${count(data.nr_stalls)} stalls.` : "") + busyWords);
    const mark = (index, attributes) => {
      const small = svg("svg", { viewBox: "-7 -7 14 14", "aria-hidden": "true" }), shape = shapes[Math.min(index, 3)](0, 0);
      for (const [key, value] of Object.entries(attributes)) shape.setAttribute(key, value);
      small.append(shape);
      return small;
    };
    const entries = tasks.slice(0, 7).map((task, index) => [task, "", mark(index, { fill: colour(index) })]);
    if (list.some((stall) => stall.unfinished)) entries.push(["hollow: not over", "", mark(0, { fill: "none", stroke: "var(--bad)", "stroke-width": 2.5 })]);
    left.append(legend(entries));
  };

  // -- flame graph --------------------------------------------------------------------------------------------------
  const flame = () => {
    if (!data.stacks.length) return;
    const node = section("flame", "Waiting, by cause", "Width is time waited. From the top: all, task, kind of wait, cause, what the time went to.");
    const root = { name: "all waits", value: 0, children: new Map() };
    for (const [stack, us] of data.stacks) {
      let here = root;
      root.value += us;
      for (const part of stack) {
        if (!here.children.has(part)) here.children.set(part, { name: part, value: 0, children: new Map() });
        here = here.children.get(part);
        here.value += us;
      }
    }
    const depth = (n) => 1 + Math.max(0, ...[...n.children.values()].map(depth));
    const rows = depth(root), width = room(node), box = svg("svg", { viewBox: `0 0 ${width} ${rows * 24}`, class: "flame", role: "group", "aria-label": "flame graph of waiting" });
    const around = new Map();
    const hues = ["#9ccbe8", "#f5b98a", "#93d9c1", "#e3b5d2", "#eed98c", "#c3c9cf"];
    const draw = (item, x, width, row, hue, above) => {
      if (width < 1) return;
      const told = `${data.titles[item.name] || item.name}: ${duration(item.value)}, ${(100 * item.value / root.value).toFixed(1)} %`;
      const group = svg("g", { tabindex: above ? -1 : 0, role: "img", "aria-label": told });
      around.set(group, { above, below: [] });
      if (above) around.get(above).below.push(group);
      group.append(svg("rect", { x, y: row * 24, width, height: 23, fill: hues[hue % 6] }));
      const name = cut(data.titles[item.name] || item.name, width - 8);
      if (name) group.append(svg("text", { x: x + 5, y: row * 24 + 16 }, name));
      hint(group, told);
      box.append(group);
      let at = x, next = hue;
      for (const child of [...item.children.values()].sort((a, b) => b.value - a.value)) {
        const part = width * child.value / item.value;
        draw(child, at, part, row + 1, row === 0 ? next++ : hue + row, group);
        at += part;
      }
    };
    draw(root, 0, width, 0, 5, null);
    box.addEventListener("keydown", (event) => {
      const here = around.get(event.target);
      if (!here) return;
      const row = here.above ? around.get(here.above).below : [event.target], at = row.indexOf(event.target);
      const next = { ArrowUp: here.above, ArrowDown: here.below[0], ArrowLeft: row[at - 1], ArrowRight: row[at + 1] }[event.key];
      if (!next) return;
      event.preventDefault();
      event.target.setAttribute("tabindex", -1);
      next.setAttribute("tabindex", 0);
      next.focus();
    });
    figure(node, box);
  };

  // -- writeback ------------------------------------------------------------------------------------------------------
  const writeback = () => {
    const levels = data.dirty;
    if (!levels.limit) return;
    const node = section("writeback", "Dirty pages and their limits",
      "Above the background threshold the flusher writes; between there and the limit writers are slowed down, at the limit they stand.");
    const box = frame(node, "dirty pages, pages under writeback and the thresholds over time", { height: 240 });
    const words = { limit: "hard limit", thresh: "threshold of writers", bg_thresh: "background threshold", writeback: "under writeback", dirty: "dirty",
      setpoint: "setpoint", dirty_or_writeback: "dirty or under writeback" };
    const lines = [["limit", 3, "12 3"], ["thresh", 1, "6 4"], ["bg_thresh", 4, "1 4"], ["writeback", 2, ""], ["dirty", 0, ""], ["setpoint", 4, "1 4"], ["dirty_or_writeback", 0, ""]].filter(([name]) => levels[name]);
    const x = timeAxis(box, begin, end), y = linearAxis(box, 0, Math.max(1, ...lines.flatMap(([name]) => levels[name].map((p) => p[1]))));
    for (const [name, paint, dash] of lines) {
      box.node.append(svg("path", { d: step(levels[name], x, y), fill: "none", stroke: colour(paint), "stroke-width": 1.6, "stroke-dasharray": dash }));
    }
    figure(node, box.node, `As the last look at the limits had them (${levels.dirty ? "global_dirty_state" : "balance_dirty_pages"}).`);
    node.append(legend(lines.map(([name, paint, dash]) => [words[name], colour(paint), dash ? (dash === "1 4" ? "dotted" : "dashed") : "solid"])));
    const pauses = profile.series.columns.dirty_throttle_ns;
    if (pauses && pauses.some((v) => v)) {
      const strip = frame(node, "share of time that writers were paused", { height: 110 });
      const sx = timeAxis(strip, begin, end), width = profile.series.interval_s;
      const sy = linearAxis(strip, 0, Math.max(...pauses) / width / 1e9, (v) => `${(100 * v).toFixed(0)} %`);
      pauses.forEach((value, index) => {
        if (!value) return;
        const from = sx(profile.series.begin_s + index * width), share = value / width / 1e9;
        const bar = svg("rect", { x: from, width: Math.max(sx(profile.series.begin_s + (index + 1) * width) - from, .8), y: sy(share), height: strip.y0 - sy(share), fill: colour(1) });
        hint(bar, `paused ${(100 * share).toFixed(0)} % of ${duration(width * 1e6)}`);
        strip.node.append(bar);
      });
      figure(node, strip.node, "Time in balance_dirty_pages, all writers together.");
    }
  };

  // -- levels -------------------------------------------------------------------------------------------------------
  const small = (cell, name, series) => {
    const box = frame(cell, `${name} over time`, { height: 130, left: 50, bottom: 24 });
    const top = Math.max(1, ...series.flatMap((line) => line.points.map((p) => p[1])));
    const x = timeAxis(box, begin, end), y = linearAxis(box, 0, top);
    series.forEach((line, index) => box.node.append(svg("path", { d: step(line.points, x, y), fill: "none", stroke: colour(index), "stroke-width": 1.6 })));
    const holder = figure(cell, box.node);
    holder.prepend(el("div", {}, name));
  };
  const levels = () => {
    const names = Object.keys(data.levels).filter((name) => !["free", "min", "low", "high"].includes(name) && data.levels[name].some((p) => p[1]));
    if (!names.length) return;
    const node = section("levels", "Pools, ring, writeback", "Levels of what the cleaning path lives on, sampled when they change.");
    const grid = el("div", { class: "small" });
    const unit = (name) => data.units[name] || (name.endsWith("mempool") ? "elements" : "pages");
    node.append(grid);
    // how wide one is depends on how many there are
    const cells = names.map(() => el("div"));
    grid.append(...cells);
    names.forEach((name, index) => small(cells[index], `${title(name)} (${unit(name)})`, [{ points: data.levels[name] }]));
  };
  const reserve = () => {
    const owners = Object.entries(data.owners).filter(([, points]) => points.some((p) => p[1]));
    if (!owners.length) return;
    const node = section("reserve", "Who held the reserve", "Pages below the min mark by owner, one on the other.");
    const box = frame(node, "reserve by owner over time", { height: 220 });
    const times = [...new Set(owners.flatMap(([, points]) => points.map((p) => p[0])))].sort((a, b) => a - b);
    const level = (points) => { let i = 0, v = 0; return times.map((t) => { while (i < points.length && points[i][0] <= t) v = points[i++][1]; return v; }); };
    const stacked = times.map(() => 0), layers = [];
    owners.sort((a, b) => Math.max(...b[1].map((p) => p[1])) - Math.max(...a[1].map((p) => p[1])));
    for (const [name, points] of owners.slice(0, 7)) {
      const lower = stacked.slice();
      level(points).forEach((v, i) => { stacked[i] += v; });
      layers.push([name, lower, stacked.slice()]);
    }
    const x = timeAxis(box, begin, end), y = linearAxis(box, 0, Math.max(1, ...stacked));
    layers.forEach(([, lower, upper], index) => {
      let path = "";
      times.forEach((t, i) => { path += `${i ? `H${x(t).toFixed(1)}V` : `M${x(t).toFixed(1)},`}${y(upper[i]).toFixed(1)}`; });
      path += `H${x(end).toFixed(1)}V${y(lower[times.length - 1]).toFixed(1)}`;
      for (let i = times.length - 1; i >= 0; i--) path += `H${x(times[i]).toFixed(1)}V${y(lower[Math.max(i - 1, 0)]).toFixed(1)}`;
      box.node.append(svg("path", { d: `${path}Z`, fill: colour(index), opacity: .8 }));
    });
    figure(node, box.node);
    node.append(legend(layers.map(([name], index) => [name, colour(index), "area"])));
  };

  // -- the knot -----------------------------------------------------------------------------------------------------
  const knot = () => {
    if (!data.chain.length) return;
    const node = section("knot", "Who waits for whom", "The shortest chain of the knot: every arrow is a wait that only what it points to could end.");
    const width = Math.min(room(node), 900), narrow = width < 880, loop = data.chain_loops;
    const left = narrow ? 2 : 120, right = narrow ? width - 70 : 680, middle = (left + right) / 2;
    const wrapped = (name) => {
      const lines = [""];
      for (const word of name.split(" ")) {
        const longer = lines[lines.length - 1] ? `${lines[lines.length - 1]} ${word}` : word;
        if (fits(longer, right - left - 24) || longer === word) lines[lines.length - 1] = longer; else lines.push(word);
      }
      return lines.map((line) => cut(line, right - left - 24));
    };
    let below = 10;
    const boxes = data.chain.map((name) => {
      const lines = wrapped(name), y = below, high = 22 + 16 * lines.length;
      below += high + 24;
      return { name, lines, y, high, centre: y + high / 2 };
    });
    const box = svg("svg", { viewBox: `0 0 ${width} ${below - 20}`, style: `max-width:${width}px`, role: "img", "aria-label": `wait-for chain: ${data.chain.join(", which waits for ")}` });
    const marker = svg("marker", { id: "arrow", viewBox: "0 0 10 10", refX: 9, refY: 5, markerWidth: 8, markerHeight: 8, orient: "auto" });
    marker.append(svg("path", { d: "M0,0L10,5L0,10z", fill: "var(--dim)" }));
    const defs = svg("defs");
    defs.append(marker);
    box.append(defs);
    boxes.forEach(({ name, lines, y, high }, index) => {
      const resource = name.startsWith("[");
      box.append(svg("rect", { x: left, y, width: right - left, height: high, rx: resource ? 4 : 19, fill: "var(--card)", stroke: resource ? colour(1) : colour(0),
        "stroke-width": 2, "stroke-dasharray": resource ? "6 3" : "" }));
      lines.forEach((line, nr) => box.append(svg("text", { x: middle, y: y + 23 + 16 * nr, "text-anchor": "middle", class: "fg" }, line)));
      if (index + 1 < boxes.length) box.append(svg("path", { d: `M${middle},${y + high}v22`, stroke: "var(--dim)", "stroke-width": 1.8, "marker-end": "url(#arrow)" }));
    });
    if (loop >= 0) {
      const from = boxes[boxes.length - 1].centre, to = boxes[loop].centre, out = narrow ? width - 12 : 800;
      box.append(svg("path", { d: `M${right},${from}C${out},${from} ${out},${to} ${right + 2},${to}`, fill: "none", stroke: "var(--bad)", "stroke-width": 2, "marker-end": "url(#arrow)" }));
      const at = { x: narrow ? width - 10 : 786, y: (from + to) / 2, class: "fg" };
      if (narrow) Object.assign(at, { "text-anchor": "middle", transform: `rotate(-90 ${at.x} ${at.y})` });
      box.append(svg("text", at, "and round again"));
    }
    figure(node, box, "Round boxes are tasks, square dashed ones what they wait for.");
  };

  // -- tables -------------------------------------------------------------------------------------------------------
  const table = (parent, first, rows) => {
    const body = el("tbody");
    const fields = ["count", "unfinished", "p50", "p90", "p99", "p99_9", "max", "total"];
    for (const [name, row] of rows) {
      const line = el("tr", { "data-row": name }, el("td", {}, first === "wait" ? title(name) : name));
      for (const field of fields) {
        const value = row[field];
        line.append(el("td", { "data-field": field, "data-value": value === null ? "" : value },
          field === "count" || field === "unfinished" ? count(value) : duration(value)));
      }
      body.append(line);
    }
    const header = el("tr", {}, el("th", { scope: "col" }, first), ...fields.map((f) => el("th", { scope: "col" }, f.replace("_", "."))));
    parent.append(el("div", { class: "scroll" }, el("table", {}, el("thead", {}, header), body)));
  };
  const tables = () => {
    const node = section("figures", "All figures", "The same figures as netvm profile --json.");
    table(node, "wait", Object.entries(profile.latency_us));
    for (const kind of ["direct_reclaim", "throttle", "mempool", "dirty_throttle", "page_dirty", "page_writeback", "nfs", "rpc", "socket"]) {
      for (const [group, name] of [["by_task_us", "task"], ["by_cause_us", "cause"]]) {
        const rows = Object.entries(profile[group][kind] || {}).slice(0, 12);
        if (rows.length > (group === "by_task_us" ? 1 : 0)) {
          node.append(el("h3", {}, `${title(kind)} by ${name}`));
          table(node, name, rows);
        }
      }
    }
  };
  const comparison = () => {
    if (!data.difference) return;
    const node = section("difference", "Compared", `a: ${data.difference.a}. b: ${data.difference.b}.`);
    const list = el("ul");
    for (const sentence of data.difference.sentences) list.append(el("li", {}, sentence));
    node.append(list);
    const ratios = data.difference.ratios.filter((r) => r.ratio && r.low && r.high);
    if (!ratios.length) return;
    const box = frame(node, "ratios of quantiles with their intervals", { height: 40 + ratios.length * 22, left: 180, right: 24 });
    const low = Math.min(.5, ...ratios.map((r) => r.low)), high = Math.max(2, ...ratios.map((r) => r.high));
    const x = (v) => box.x0 + (Math.log(v / low) / Math.log(high / low)) * (box.x1 - box.x0);
    let named = -Infinity;
    for (const value of [.01, .1, .25, .5, 1, 2, 4, 10, 100, 1000].filter((v) => v >= low && v <= high)) {
      box.node.append(svg("line", { class: value === 1 ? "axis" : "grid", "stroke-width": value === 1 ? 2 : 1, x1: x(value), x2: x(value), y1: box.y1, y2: box.y0 }));
      if (x(value) - named < 40) continue;
      named = x(value);
      box.node.append(svg("text", { x: named, y: box.y0 + 16, "text-anchor": "middle" }, `${value} ×`));
    }
    ratios.forEach((ratio, index) => {
      const y = box.y1 + 14 + index * 22, sure = ratio.low > 1 || ratio.high < 1, paint = sure ? colour(ratio.ratio > 1 ? 1 : 2) : "var(--dim)";
      box.node.append(svg("text", { x: box.x0 - 8, y: y + 4, "text-anchor": "end", class: "fg" }, `${title(ratio.kind)} ${ratio.quantile}`));
      box.node.append(svg("line", { x1: x(ratio.low), x2: x(ratio.high), y1: y, y2: y, stroke: paint, "stroke-width": 3 }));
      const dot = svg("circle", { cx: x(ratio.ratio), cy: y, r: 5, fill: paint });
      hint(dot, `${duration(ratio.a)} → ${duration(ratio.b)}: ${ratio.ratio.toFixed(2)} × (${ratio.low.toFixed(2)} to ${ratio.high.toFixed(2)})`);
      box.node.append(dot);
    });
    figure(node, box.node, "b / a of each quantile; the bar is the 95 % interval. Grey: no change that the recordings can show.");
  };

  const draw = () => {
    for (const place of [main, nav, ...["verdict", "tiles"].map((id) => document.getElementById(id))]) place.replaceChildren();
    head(); comparison(); memory(); rates(); latency(); stalls(); flame(); knot(); reserve(); writeback(); levels(); tables();
  };
  let drawn = 0, waiting = 0;
  addEventListener("resize", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      if (main.clientWidth === drawn || matchMedia("print").matches) return;
      drawn = main.clientWidth;
      draw();
    }, 150);
  });
  draw();
  drawn = main.clientWidth;
  document.documentElement.dataset.drawn = "yes";
})();
