"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { about, kinds, steps, turns, frames, pieces } = data;
  const SVG = "http://www.w3.org/2000/svg";
  const number = (value) => value.toLocaleString("en-US");
  const seconds = (value) => (value === null ? "–" : value < 10 ? `${value.toFixed(2)} s` : `${value.toFixed(1)} s`);
  const byId = (id) => document.getElementById(id);

  // What changes the direction of text is shown as what it is: else a line could seem to say something else.
  const turning = /[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;
  const seen = (child) =>
    typeof child === "string" ? child.replace(turning, (one) => `\\u${one.codePointAt(0).toString(16).padStart(4, "0")}`) : child;

  // Everything that is shown is set as text: nothing of a log is ever read as markup.
  function make(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name === "class") made.className = value;
      else if (value !== null && value !== false) made.setAttribute(name, value === true ? "" : value);
    }
    made.append(...children.filter((child) => child !== null && child !== undefined).map(seen));
    return made;
  }

  function draw(parent, tag, attributes, text) {
    const made = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name === "fill") made.style.fill = value;
      else made.setAttribute(name, value);
    }
    if (text !== undefined) made.textContent = text;
    parent.append(made);
    return made;
  }

  // -- the request of a step, as it was sent

  // Each names with how many of the items before it on its line it begins, and the others.
  function indexes(step) {
    const parts = [];
    let wanted = Infinity;
    for (let one = step; one && wanted > 0; one = one.before === null ? null : steps[one.before]) {
      const [same, ranges] = one.pieces;
      const own = ranges.flatMap(([first, count]) => Array.from({ length: count }, (_, at) => first + at));
      parts.push(own.slice(0, Math.max(0, wanted - same)));
      wanted = Math.min(wanted, same);
    }
    return parts.reverse().flat();
  }

  // The bytes that were sent, as text: nothing is parsed, so no number is rounded and no key goes elsewhere.
  function body(step) {
    if (step.missing) return null;
    const whole = { ...frames[step.frame] };
    if (step.field) whole[step.field] = `[${indexes(step).map((at) => pieces[at]).join(",")}]`;
    const keys = Object.keys(whole).sort((one, other) => (one < other ? -1 : 1));
    return `{${keys.map((key) => `${JSON.stringify(key)}:${whole[key]}`).join(",")}}`;
  }

  // Canonical JSON on lines; only white space is added.
  function pretty(text) {
    let made = "";
    let depth = 0;
    const line = () => `\n${"  ".repeat(depth)}`;
    for (const [token] of text.matchAll(/"(?:[^"\\]|\\.)*"?|[[{]\s*[\]}]|[[{\]},:]|[^"[{\]},:]+/gs)) {
      if (token === "{" || token === "[") {
        depth += 1;
        made += token + line();
      } else if (token === "}" || token === "]") {
        depth = Math.max(0, depth - 1);
        made += line() + token;
      } else made += token === "," ? `,${line()}` : token === ":" ? ": " : token;
    }
    return made;
  }

  // -- the page

  function tiles() {
    byId("title").textContent = seen(about.id);
    const meta = about.metadata === "{}" ? "" : ` · ${about.metadata}`;
    const left = about.left_out ? ` · the first ${number(about.left_out)} requests are left out: the page would be too large` : "";
    byId("about").textContent = seen(`${number(about.version)} events, ${about.first} to ${about.last}${meta}${left} · turnlog ${about.turnlog}`);
    const failed = steps.filter((step) => step.status === "failed" || step.status === "interrupted").length;
    const damaged = steps.filter((step) => step.status === "damaged").length;
    const sent = steps.reduce((sum, step) => sum + step.tokens, 0);
    const shared = steps.reduce((sum, step) => sum + step.shared, 0);
    const used = steps.reduce((sum, step) => (step.usage ? sum.map((one, at) => one + step.usage[at]) : sum), [0, 0, 0, 0]);
    const rows = [
      ["turns", number(turns.length)],
      ["requests", number(steps.length)],
      ["failed or interrupted", number(failed)],
      ...(damaged ? [["damaged", number(damaged)]] : []),
      ["tokens sent", number(sent)],
      ["shared prefix", sent ? `${((100 * shared) / sent).toFixed(0)} %` : "–"],
      ["reported in (cached)", `${number(used[0])} (${number(used[1])})`],
      ["reported out", number(used[2])],
      ["cuts", number(steps.filter((step) => step.cut).length)],
    ];
    byId("tiles").append(...rows.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));
  }

  function frame(host, height, most, unit) {
    const svg = draw(byId(host), "svg", { viewBox: `0 0 1000 ${height}`, preserveAspectRatio: "none", role: "img" });
    svg.setAttribute("aria-label", unit);
    for (const part of [0.25, 0.5, 0.75, 1]) {
      draw(svg, "line", { class: "grid", x1: 0, x2: 1000, y1: height * (1 - part), y2: height * (1 - part) });
    }
    const scale = make("div", { class: "hint" }, `${unit}: the top is ${most}`);
    byId(host).append(scale);
    svg.addEventListener("click", (event) => {
      const box = svg.getBoundingClientRect();
      const at = Math.floor(((event.clientX - box.left) / box.width) * steps.length);
      open(Math.max(0, Math.min(steps.length - 1, at)));
    });
    return svg;
  }

  // One path a kind: a thousand requests are as quick to draw as ten.
  function stacked(svg, height, most, rows) {
    const width = 1000 / Math.max(steps.length, 1);
    const below = new Array(steps.length).fill(0);
    rows.forEach(([color, values]) => {
      let path = "";
      values.forEach((value, at) => {
        if (!value) return;
        const low = height - (below[at] / most) * height;
        const high = height - ((below[at] + value) / most) * height;
        const left = at * width;
        const right = left + width * (steps.length > 300 ? 1 : 0.86);
        path += `M${left.toFixed(2)} ${low.toFixed(2)}V${high.toFixed(2)}H${right.toFixed(2)}V${low.toFixed(2)}Z`;
        below[at] += value;
      });
      draw(svg, "path", { d: path, fill: color });
    });
    return width;
  }

  function line(svg, cls, height, most, width, values) {
    let path = "";
    let gap = true;
    values.forEach((value, at) => {
      if (!value) {
        gap = true;
        return;
      }
      const y = (height - (value / most) * height).toFixed(2);
      path += `${gap ? "M" : "L"}${(at * width).toFixed(2)} ${y}H${((at + 1) * width).toFixed(2)}`;
      gap = false;
    });
    if (path) draw(svg, "path", { class: cls, d: path });
  }

  // How far a chart reaches: what a few have many times more of than nearly all others goes beyond it.
  function reach(values) {
    const ordered = [...values].sort((one, other) => one - other);
    const usual = ordered[Math.floor(0.95 * (ordered.length - 1))] || 1;
    const top = ordered[ordered.length - 1] || 1;
    return top > 4 * usual ? 2 * usual : top;
  }

  let heres = [];
  function charts() {
    const highs = steps.map((step) => Math.max(step.tokens, step.context ? step.context - step.reserve : 0));
    const most = reach(highs);
    const svg = frame("tokens", 240, `${number(most)} tokens`, "tokens");
    const part = (step) => Math.min(1, most / Math.max(1, step.tokens));
    const rows = kinds.map((_, kind) => [`var(--k${kind})`, steps.map((step) => step.kinds[kind] * part(step))]);
    const width = stacked(svg, 240, most, rows);
    line(svg, "budget", 240, most, width, steps.map((step) => (step.context ? Math.min(most, step.context - step.reserve) : 0)));
    line(svg, "shared", 240, most, width, steps.map((step) => Math.min(most, step.shared)));
    steps.forEach((step, at) => {
      if (step.tokens > most) draw(svg, "path", { class: "over", d: `M${at * width} 0H${(at + 1) * width}` });
    });
    for (const [cls, is] of [["cut", (step) => step.cut], ["compaction", (step) => step.compacted]]) {
      steps.forEach((step, at) => {
        if (is(step)) draw(svg, "line", { class: cls, x1: at * width, x2: at * width, y1: 0, y2: 240 });
      });
    }
    const longest = Math.max(0.001, ...steps.map((step) => step.seconds || 0));
    const low = frame("latency", 88, seconds(longest), "seconds");
    const bad = (step) => step.status !== "completed";
    stacked(low, 88, longest, [
      ["var(--k2)", steps.map((step) => (bad(step) || step.seconds === null ? 0 : Math.max(0, step.seconds - (step.first || 0))))],
      ["var(--k0)", steps.map((step) => (bad(step) ? 0 : step.first || 0))],
      ["var(--bad)", steps.map((step) => (bad(step) ? Math.max(step.seconds || 0, longest / 40) : 0))],
    ]);
    heres = [svg, low].map((one) => draw(one, "rect", { class: "here", y: 0, height: one === svg ? 240 : 88, width: 0, x: 0 }));
    const used = kinds.map((name, kind) => [name, kind, steps.reduce((sum, step) => sum + step.kinds[kind], 0)]);
    byId("legend").append(
      ...used.filter((row) => row[2]).map(([name, kind, sum]) => {
        const swatch = make("i");
        swatch.style.background = `var(--k${kind})`;
        return make("li", {}, swatch, `${name} ${number(sum)}`);
      }),
      ...[["cut", "warn"], ["compaction", "k7"], ["over", "bad"]].filter(([name]) => svg.querySelector(`.${name}`)).map(([name, color]) => {
        const swatch = make("i", { class: "tick" });
        swatch.style.background = `var(--${color})`;
        return make("li", {}, swatch, name === "over" ? "more than the chart shows" : name);
      }),
    );
  }

  function bar(step) {
    const most = Math.max(step.context ? step.context - step.reserve : 0, step.tokens, 1);
    const made = make("span", { class: "bar", "aria-hidden": "true" });
    step.kinds.forEach((tokens, kind) => {
      if (!tokens) return;
      const part = make("i");
      part.style.width = `${(100 * tokens) / most}%`;
      part.style.background = `var(--k${kind})`;
      made.append(part);
    });
    return made;
  }

  const style = (step) => (step.status === "completed" ? "good" : step.status === "incomplete" ? "warn" : "bad");
  function note(step) {
    const moved = step.moved.map((one) => `${one.items} ${one.fate}`);
    return [step.error, step.compacted ? `compaction ${step.compacted}` : "", step.cut ? "cut" : "", ...moved].filter(Boolean).join(", ");
  }

  function row(step, at) {
    const room = step.context ? ` / ${number(step.context - step.reserve)}` : "";
    const made = make(
      "button",
      { type: "button", class: "row", id: `row-${at}`, "aria-label": `response ${step.seq}, ${step.status}, ${number(step.tokens)} tokens` },
      make("span", { class: style(step) }, `#${step.seq}`),
      bar(step),
      make("span", {}, `${number(step.tokens)}${room}`),
      make("span", { class: "took faint" }, seconds(step.seconds)),
      make("span", { class: `note ${step.error ? "bad" : "faint"}` }, note(step) || step.model),
    );
    made.addEventListener("click", () => open(at));
    return made;
  }

  function list(wanted) {
    const of = new Map();
    steps.forEach((step, at) => {
      const shown =
        !wanted ||
        (wanted === "error" && ["failed", "interrupted", "damaged"].includes(step.status)) ||
        (wanted === "cut" && (step.cut || step.compacted || step.moved.length || step.fates.excerpted));
      if (shown) of.set(step.turn, [...(of.get(step.turn) || []), row(step, at)]);
    });
    const before = of.get(0) ? [make("li", {}, make("div", { class: "question" }, make("b", {}, "before the first turn")), ...of.get(0))] : [];
    const rows = turns
      .filter((turn) => !wanted || of.has(turn.seq))
      .map((turn) =>
        make(
          "li",
          { class: turn.alive ? "" : "left" },
          make("div", { class: "question" }, make("b", {}, `${turn.number}. `), turn.text, turn.alive ? "" : make("span", { class: "warn" }, " (left by a rewind)")),
          ...(of.get(turn.seq) || []),
        ),
      );
    byId("turns").replaceChildren(...before, ...rows);
  }

  // -- one request

  let current = -1;
  let showing = 0;
  function open(at) {
    current = at;
    const step = steps[at];
    for (const one of document.querySelectorAll(".row[aria-current]")) one.removeAttribute("aria-current");
    const there = byId(`row-${at}`);
    if (there) there.setAttribute("aria-current", "true");
    for (const here of heres) {
      here.setAttribute("x", (at * 1000) / steps.length);
      here.setAttribute("width", Math.max(2, 1000 / steps.length));
    }
    const close = make("button", { type: "button", class: "close" }, "close ✕");
    close.addEventListener("click", shut);
    const tabs = [["Summary", summary], ["Diff", changes], ["Request", request]];
    const panel = make("div", { role: "tabpanel" });
    const bar_ = make("div", { role: "tablist" });
    const choose = (index) => {
      showing = index;
      [...bar_.children].forEach((tab, place) => tab.setAttribute("aria-selected", place === index));
      panel.replaceChildren(...tabs[index][1](step));
    };
    tabs.forEach(([name], index) => {
      const tab = make("button", { type: "button", role: "tab" }, name);
      tab.addEventListener("click", () => choose(index));
      bar_.append(tab);
    });
    choose(showing);
    const title = make("h2", {}, `Response ${step.seq} `, make("span", { class: style(step) }, step.status));
    byId("detail").replaceChildren(close, title, bar_, panel);
    byId("detail").hidden = false;
    byId("detail").scrollTop = 0;
    history.replaceState(null, "", `#${step.seq}`);
  }

  function shut() {
    byId("detail").hidden = true;
    const there = byId(`row-${current}`);
    if (there) there.focus();
    history.replaceState(null, "", location.pathname + location.search);
  }

  function table(rows) {
    const made = rows.map(([name, value]) => make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, value)));
    return make("div", { class: "scroll" }, make("table", {}, make("tbody", {}, ...made)));
  }

  function summary(step) {
    const rows = [
      ["model", step.model ? `${step.model} at ${step.backend} over ${step.api}` : "unknown"],
      ["policy", step.policy],
      ["asked", step.time],
      ["took", `${seconds(step.seconds)}${step.first === null ? "" : `, first item after ${seconds(step.first)}`}`],
      ["tokens", `${number(step.tokens)}${step.context ? ` of ${number(step.context - step.reserve)} (${number(step.context)} less ${number(step.reserve)})` : ""}, ${step.measured ? "counted" : `estimated, ± ${number(step.bound)}`}`],
      ["shared prefix", step.shared ? `${number(step.shared)} tokens` : "none"],
      ["by kind", kinds.map((name, kind) => (step.kinds[kind] ? `${name} ${number(step.kinds[kind])}` : "")).filter(Boolean).join(", ")],
      ["items", Object.entries(step.fates).map(([fate, count]) => `${count} ${fate}`).join(", ")],
    ];
    if (step.purpose !== "answer") rows.unshift(["purpose", step.purpose]);
    if (step.usage) {
      const [given, cached, out, thought] = step.usage.map(number);
      rows.push(["reported", `${given} in (${cached} cached), ${out} out (${thought} reasoning)`]);
    }
    if (step.error) rows.push(["error", step.error]);
    if (step.cut) rows.push(["cut", step.cut]);
    if (step.compacted) rows.push(["compaction", `windows start from the one at ${step.compacted} from here on`]);
    const parts = [table(rows.filter(([, said]) => said))];
    if (step.moved.length) {
      parts.push(make("h3", {}, "What the request before had, and this one has not"));
      parts.push(table(step.moved.map((one) => [`${one.first}–${one.last}`, `${one.items} ${one.fate}: ${one.rule}`])));
    }
    if (step.runs.length) {
      parts.push(make("h3", {}, "The fate of every event"));
      parts.push(table(step.runs.map(([first, last, fate, rule]) => [first === last ? `${first}` : `${first}–${last}`, `${fate}: ${step.rules[rule]}`])));
    }
    return parts;
  }

  // Pairs of places at which two lists have the same in the same order, as many as possible; of very long lists those
  // of what stands in each only once.
  function common(old, now) {
    let head = 0;
    while (head < old.length && head < now.length && old[head] === now[head]) head += 1;
    let tail = 0;
    while (tail < Math.min(old.length, now.length) - head && old[old.length - 1 - tail] === now[now.length - 1 - tail]) tail += 1;
    const [one, other] = [old.slice(head, old.length - tail), now.slice(head, now.length - tail)];
    const middle = one.length * other.length <= 4_000_000 ? longest(one, other) : anchors(one, other);
    return [
      ...Array.from({ length: head }, (_, at) => [at, at]),
      ...middle.map(([at, to]) => [head + at, head + to]),
      ...Array.from({ length: tail }, (_, at) => [old.length - tail + at, now.length - tail + at]),
    ];
  }

  function longest(one, other) {
    const wide = other.length + 1;
    const table = new Uint16Array((one.length + 1) * wide);
    for (let at = one.length - 1; at >= 0; at -= 1) {
      for (let to = other.length - 1; to >= 0; to -= 1) {
        const here = at * wide + to;
        table[here] = one[at] === other[to] ? table[here + wide + 1] + 1 : Math.max(table[here + wide], table[here + 1]);
      }
    }
    const made = [];
    for (let at = 0, to = 0; at < one.length && to < other.length; ) {
      if (one[at] === other[to]) made.push([at++, to++]);
      else if (table[(at + 1) * wide + to] >= table[at * wide + to + 1]) at += 1;
      else to += 1;
    }
    return made;
  }

  function anchors(one, other) {
    const single = (list) => {
      const found = new Map();
      list.forEach((item, at) => found.set(item, found.has(item) ? -1 : at));
      return found;
    };
    const [here, there] = [single(one), single(other)];
    const pairs = [...here].filter(([item, at]) => at >= 0 && (there.get(item) ?? -1) >= 0).map(([item, at]) => [at, there.get(item)]);
    const ends = [];
    for (const pair of pairs) {
      let [low, high] = [0, ends.length];
      while (low < high) {
        const half = (low + high) >> 1;
        if (ends[half].to < pair[1]) low = half + 1;
        else high = half;
      }
      ends[low] = { at: pair[0], to: pair[1], before: low ? ends[low - 1] : null };
    }
    const made = [];
    for (let end = ends[ends.length - 1]; end; end = end.before) made.push([end.at, end.to]);
    return made.reverse();
  }

  const SHOWN = 100;
  function items(sign, cls, list) {
    const made = list.slice(0, SHOWN).map((at) => make("pre", { class: cls }, `${sign} ${pretty(pieces[at])}`));
    return list.length > SHOWN ? [...made, make("p", { class: "hint" }, `and ${number(list.length - SHOWN)} more items`)] : made;
  }

  function changes(step) {
    if (step.missing) return [lacking(step)];
    const before = step.before === null ? null : steps[step.before];
    if (!before || before.missing) return [make("p", { class: "hint" }, "There is no request before it to compare with."), ...request(step)];
    const [old, now] = [indexes(before), indexes(step)];
    const same = common(old, now);
    const counts = `${same.length} items are the same, ${old.length - same.length} went, ${now.length - same.length} came`;
    const parts = [make("p", { class: "hint" }, `Against response ${before.seq}: ${counts}.`)];
    let [from, to, run] = [0, 0, 0];
    const told = () => {
      if (run) parts.push(make("p", { class: "hint" }, `${run} the same`));
      run = 0;
    };
    for (const [at, into] of [...same, [old.length, now.length]]) {
      if (from < at || to < into) told();
      parts.push(...items("−", "removed", old.slice(from, at)), ...items("+", "added", now.slice(to, into)));
      [from, to] = [at + 1, into + 1];
      if (at < old.length) run += 1;
    }
    told();
    if (before.frame !== step.frame) {
      parts.push(make("h3", {}, "Beside the items"));
      const [was, is] = [frames[before.frame], frames[step.frame]];
      for (const key of new Set([...Object.keys(was), ...Object.keys(is)])) {
        if (was[key] === is[key]) continue;
        if (key in was) parts.push(make("pre", { class: "removed" }, `− ${key}: ${pretty(was[key])}`));
        if (key in is) parts.push(make("pre", { class: "added" }, `+ ${key}: ${pretty(is[key])}`));
      }
    }
    return parts;
  }

  const lacking = (step) => make("p", { class: "bad" }, `${step.missing}: turnlog request ${about.id} --response ${step.seq}`);

  function request(step) {
    const whole = body(step);
    if (whole === null) return [lacking(step)];
    const told = about.cutoff ? make("p", { class: "warn" }, `Texts of more than ${number(about.cutoff)} characters are cut short on this page, and items of four times as many: turnlog request ${about.id} --response ${step.seq} shows all.`) : null;
    return [told, make("pre", {}, pretty(whole))].filter(Boolean);
  }

  function move(by) {
    const rows = [...document.querySelectorAll(".row")].map((one) => Number(one.id.slice(4)));
    const place = rows.indexOf(current);
    const next = place < 0 ? rows[0] : rows[place + by];
    if (next === undefined) return;
    open(next);
    byId(`row-${next}`).scrollIntoView({ block: "nearest" });
  }

  tiles();
  charts();
  list("");
  byId("filter").addEventListener("change", (event) => list(event.target.value));
  byId("previous").addEventListener("click", () => move(-1));
  byId("next").addEventListener("click", () => move(1));
  document.addEventListener("keydown", (event) => {
    if (event.target.matches("select, input") || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape") shut();
    else if (event.key === "ArrowRight" || event.key === "n") move(1);
    else if (event.key === "ArrowLeft" || event.key === "p") move(-1);
  });
  const wanted = steps.findIndex((step) => `#${step.seq}` === location.hash);
  if (wanted >= 0) open(wanted);
  document.documentElement.dataset.ready = "yes";
})();
