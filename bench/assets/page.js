"use strict";
// Draws the page of a leaderboard from the JSON beside it. Texts from data become text nodes, never markup.

const LAUNCHES = JSON.parse(document.getElementById("data").textContent).launches;
const SVG = "http://www.w3.org/2000/svg";
const $ = (id) => document.getElementById(id);

const QUANTITIES = { target_accuracy: "Target", source_accuracy: "Source", forgetting: "Forgotten", mean: "MEAN" };
const AXES = {
  target_accuracy: "target accuracy (%)", source_accuracy: "source accuracy (%)",
  forgetting: "points forgotten", mean: "MEAN (%)",
};
const COSTS = {
  trainable_parameters: "trainable parameters", train_seconds: "training time (s)",
  peak_memory: "peak memory (MB)", checkpoint_bytes: "checkpoint file (MB)",
};
const MEGA = new Set(["peak_memory", "checkpoint_bytes"]);
const MANY = 16; // regions of more rows would cover each other, and are paler
const FRONT = 0.95, MAYBE = 0.05;
const EQUAL = 1e-6; // percentages that differ by no more are the same
const MARKS = [
  "M-5-7 0-2 5-7 7-5 2 0 7 5 5 7 0 2-5 7-7 5-2 0-7-5Z", "M-5.5-5.5H5.5V5.5H-5.5Z", "M0-7.5 6.5 0 0 7.5-6.5 0Z",
  "M0-7 6.8 5.5H-6.8Z", "M6.2 0A6.2 6.2 0 1 1-6.2 0 6.2 6.2 0 1 1 6.2 0Z", "M0 7-6.8-5.5H6.8Z",
  "M-2.3-6.5H2.3V-2.3H6.5V2.3H2.3V6.5H-2.3V2.3H-6.5V-2.3H-2.3Z",
];

// ---- the page's state, which stands in its address

const PLAIN = {
  launch: "0", sort: "rank", dir: "up", q: "", hide: "", limit: "", row: "", x: "trainable_parameters", y: "mean",
  curve: "forgetting", hp: "", score: "", regions: "on", theme: "",
};
let state = { ...PLAIN };

function readState() {
  state = { ...PLAIN };
  for (const [name, value] of new URLSearchParams(location.hash.slice(1))) if (Object.hasOwn(PLAIN, name)) state[name] = value;
  if (state.launch !== "all" && !LAUNCHES[Number(state.launch)]) state.launch = PLAIN.launch;
  for (const [name, known_] of [["sort", COLUMNS], ["x", COSTS], ["y", QUANTITIES], ["curve", QUANTITIES]]) {
    if (!Object.hasOwn(known_, state[name])) state[name] = PLAIN[name];
  }
  if (!["", "light", "dark"].includes(state.theme)) state.theme = PLAIN.theme;
  if (!Number.isFinite(Number(state.limit)) || Number(state.limit) < 0) state.limit = "";
}

let writing = 0;
function setState(changes) {
  Object.assign(state, changes);
  clearTimeout(writing);
  writing = setTimeout(writeAddress, 150); // a slider that moves would write more often than browsers allow
  render();
}

function writeAddress() {
  const held = new URLSearchParams(Object.entries(state).filter(([name, value]) => value !== PLAIN[name]));
  if (location.protocol !== "about:") history.replaceState(null, "", `#${held}`); // a srcdoc frame has no address
}

// ---- elements

function make(space, tag, attributes, children) {
  const element = space ? document.createElementNS(space, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return element;
}
const h = (tag, attributes, ...children) => make(null, tag, attributes, children);
const s = (tag, attributes, ...children) => make(SVG, tag, attributes, children);
const fill = (element, ...children) => element.replaceChildren(...children.flat().filter((child) => child !== null));

function mark(style, size = 16) {
  return s("svg", { viewBox: "-9 -9 18 18", width: size, height: size, "aria-hidden": "true" },
    s("path", { d: MARKS[style % MARKS.length], class: `fill c${style % MARKS.length}` }));
}

// ---- numbers in words

const one = (value) => (Math.abs(value) < 0.05 ? 0 : value).toFixed(1);
const count = (value) => Math.round(value).toLocaleString("en-US");
const share = (value) => `${Math.round(100 * value)} %`;
const short = (value) => typeof value === "number" ? String(Number(value.toPrecision(3))) : JSON.stringify(value).replace(/^"|"$/g, "");
const known = (value) => value !== null && value !== undefined;

function big(value) {
  if (value >= 1e9) return `${Number((value / 1e9).toPrecision(3))} G`;
  if (value >= 1e6) return `${Number((value / 1e6).toPrecision(3))} M`;
  if (value >= 1e4) return `${Number((value / 1e3).toPrecision(3))} k`;
  return String(Number(value.toPrecision(3)));
}

function bytes(value) {
  const units = [["GB", 1e9], ["MB", 1e6], ["kB", 1e3]];
  const [unit, size] = units.find(([, least]) => value >= least) || ["B", 1];
  return `${Number((value / size).toPrecision(3))} ${unit}`;
}

function seconds(value) {
  if (value < 120) return `${Number(value.toPrecision(3))} s`;
  return value < 7200 ? `${Number((value / 60).toPrecision(3))} min` : `${Number((value / 3600).toPrecision(3))} h`;
}

function interval(row, name) {
  const [low, high] = [row[`${name}_low`], row[`${name}_high`]];
  return known(low) && known(high) ? `${one(low)}, ${one(high)}` : "";
}

function withInterval(row, name) {
  const value = row[`${name}_mean`];
  if (!known(value)) return "failed";
  return interval(row, name) ? `${one(value)} [${interval(row, name)}]` : one(value);
}

function front(row) {
  const chance = row.pareto_probability;
  if (!known(chance) || chance < MAYBE) return "";
  return `${chance >= FRONT ? "★" : "☆"} ${share(chance)}`;
}

const chosen = (row) => Object.entries(JSON.parse(row.hyperparameters)).map(([name, value]) => `${name}=${short(value)}`).join(", ");

// ---- which rows there are, which are shown, and their rank

function shownLaunches() {
  return state.launch === "all" ? LAUNCHES : [LAUNCHES[Number(state.launch)]];
}

// What tells launches apart: the title, and where they lie if others have the same one.
function nameOf(launch) {
  const alike = LAUNCHES.filter((own) => own.title === launch.title).length > 1;
  return `${LAUNCHES.indexOf(launch) + 1}. ${launch.title}${alike ? ` (${launch.link.replace(/\/$/, "") || "this folder"})` : ""}`;
}

const suffix = (launch) => (shownLaunches().length > 1 ? ` (${LAUNCHES.indexOf(launch) + 1})` : "");

function allRows() {
  return shownLaunches().flatMap((launch) => launch.rows.map((row) => ({
    ...row, launch, key: `${LAUNCHES.indexOf(launch)}:${row.label}`, style: launch.methods[row.method],
    name: `${row.label}${suffix(launch)}`,
  })));
}

function isShown(row) {
  const words = state.q.toLowerCase().split(/[\s,]+/).filter(Boolean);
  const text = `${row.label} ${row.method} ${chosen(row)} ${row.launch.title}`.toLowerCase();
  return !state.hide.split(",").includes(row.method) && words.every((word) => text.includes(word));
}

// 0: keeps to the limit by its mean, 1: its interval reaches below it, 2: forgets more, 3: failed
function standing(row) {
  if (!known(row.mean_mean)) return 3;
  if (state.limit === "") return 0;
  const limit = Number(state.limit) + EQUAL;
  if (row.forgetting_mean <= limit) return 0;
  return known(row.forgetting_low) && row.forgetting_low <= limit ? 1 : 2;
}

function ranked() {
  const rows = allRows().map((row) => ({ ...row, standing: standing(row) }));
  const by = state.limit === "" ? "mean_mean" : "target_accuracy_mean";
  const order = [...rows].sort((a, b) => a.standing - b.standing || b[by] - a[by]);
  order.forEach((row, index) => { row.rank = index + 1; });
  return rows;
}

const COLUMNS = {
  rank: { name: "#", title: "Rank", of: (row) => row.rank, first: "up" },
  label: { name: "Row", of: (row) => row.label.toLowerCase(), first: "up" },
  target_accuracy: { name: "Target", of: (row) => row.target_accuracy_mean },
  source_accuracy: { name: "Source", of: (row) => row.source_accuracy_mean },
  forgetting: { name: "Forgotten", of: (row) => row.forgetting_mean, first: "up" },
  mean: { name: "MEAN", of: (row) => row.mean_mean },
  pareto: { name: "Front", title: "Probability of lying on the Pareto front", of: (row) => row.pareto_probability },
  best: { name: "Best", title: "Probability of the highest MEAN", of: (row) => row.best_probability },
  trainable_parameters: { name: "Trainable", title: "Trainable parameters", of: (row) => row.trainable_parameters, first: "up" },
  train_seconds: { name: "Time", title: "Training time", of: (row) => row.train_seconds, first: "up" },
  peak_memory: { name: "Memory", title: "Peak memory", of: (row) => row.peak_memory, first: "up" },
  checkpoint_bytes: { name: "File", title: "Checkpoint file", of: (row) => row.checkpoint_bytes, first: "up" },
};

// Costs that no record says have no column.
function columns() {
  const rows = allRows();
  return Object.entries(COLUMNS).filter(([id]) => !(id in COSTS) || rows.some((row) => known(row[id])));
}

function sorted(rows) {
  const column = COLUMNS[state.sort], way = state.dir === "up" ? 1 : -1;
  return [...rows].sort((a, b) => {
    const [one_, other] = [column.of(a), column.of(b)];
    if (!known(one_) || !known(other)) return known(other) - known(one_); // what is missing comes last, either way
    return way * (typeof one_ === "string" ? one_.localeCompare(other) : one_ - other) || a.rank - b.rank;
  });
}

// ---- the table

function headCell(id, column) {
  const isSorted = state.sort === id;
  const next = isSorted ? (state.dir === "up" ? "down" : "up") : column.first || "down";
  const arrow = isSorted ? (state.dir === "up" ? " ↑" : " ↓") : "";
  const said = isSorted ? (state.dir === "up" ? "ascending" : "descending") : null;
  return h("th", { scope: "col", class: id === "label" ? "text name-cell" : id === "rank" ? "rank" : null, "aria-sort": said },
    h("button", { type: "button", class: "sort", id: `sort-${id}`, title: column.title, "aria-label": column.title ? `${column.name}: ${column.title}` : null,
      onclick: () => setState({ sort: id, dir: next }) }, column.name, h("span", { "aria-hidden": "true" }, arrow)));
}

function quantityCell(row, name) {
  const best = row.groups.split(" ").includes(name);
  const value = row[`${name}_mean`];
  if (!known(value)) return h("td", { class: "num muted" }, "failed");
  const ends = interval(row, name);
  return h("td", { class: `num${best ? " best" : ""}` }, one(value),
    ends ? h("span", { class: "interval" }, `[${ends}]`) : null);
}

function bodyRow(row) {
  const ids = columns().map(([id]) => id), cell = (value, say) => h("td", { class: "num" }, known(value) ? say(value) : "–");
  const cost = (id, say) => (ids.includes(id) ? cell(row[id], say) : null);
  return h("tr", { class: [row.key === selectedKey() ? "selected" : "", row.standing >= 2 ? "over" : ""].join(" ").trim() || null },
    h("td", { class: "rank num muted" }, row.standing === 0 ? row.rank : row.standing === 1 ? `(${row.rank})` : "–"),
    h("th", { scope: "row", class: "text name-cell" },
      h("button", { type: "button", class: "name", onclick: () => select(row.key, true) }, mark(row.style), row.name),
      h("span", { class: "chosen" }, chosen(row))),
    Object.keys(QUANTITIES).map((name) => quantityCell(row, name)),
    h("td", { class: "num" }, front(row) || "–"),
    cell(row.best_probability, share), cost("trainable_parameters", count), cost("train_seconds", seconds),
    cost("peak_memory", bytes), cost("checkpoint_bytes", bytes));
}

function renderTable(rows) {
  const focused = document.activeElement && document.activeElement.id;
  fill($("board"),
    h("caption", { class: "hidden" }, "Rows with 95 % intervals in brackets; a button in a column's head sorts by it."),
    h("thead", null, h("tr", null, columns().map(([id, column]) => headCell(id, column)))),
    h("tbody", null, sorted(rows).map(bodyRow)));
  if (focused && focused.startsWith("sort-")) $(focused).focus();
  const all = allRows().length;
  const missing = Object.keys(COSTS).filter((id) => !columns().some(([own]) => own === id)).map((id) => COLUMNS[id].title.toLowerCase());
  const unsaid = missing.length ? ` Not recorded: ${missing.join(", ")}.` : "";
  $("board-note").textContent = `${rows.length} of ${all} rows. Bold: cannot be told from the best of its column.${unsaid}`;
  if ($("ranking").textContent !== rankingSaid(rows)) $("ranking").textContent = rankingSaid(rows); // or it is read out again
}

function rankingSaid(rows) {
  const several = shownLaunches().length > 1 ? " Bold and chances: within each launch." : "";
  const mixed = new Set(shownLaunches().map((launch) => launch.benchmark)).size > 1 ? " Rows of different benchmarks do not compare." : "";
  if (state.limit === "") return `Ranked by MEAN = (target + source) / 2.${mixed}${several}`;
  const number = (wanted) => rows.filter((row) => row.standing === wanted).length;
  const maybe = number(1) ? `; ${number(1)} may, by their intervals (rank in brackets)` : "";
  return `Ranked by target accuracy. ${number(0)} forget at most ${one(Number(state.limit))} points${maybe}; ${number(2)} forget more.${mixed}${several}`;
}

// ---- copying

const HEADS = ["Row", "Hyper-parameters", "Trainable", "Seeds", ...Object.values(QUANTITIES), "Front"];

function textCells(row) {
  return [row.name, chosen(row), known(row.trainable_parameters) ? count(row.trainable_parameters) : "–",
    String(row.mean_n || 0), ...Object.keys(QUANTITIES).map((name) => withInterval(row, name)), front(row)];
}

function asMarkdown(rows) {
  const line = (cells) => `| ${cells.map((cell) => cell.replaceAll("|", "\\|")).join(" | ")} |`;
  const dashes = HEADS.map((_, index) => (index < 2 ? "---" : index === HEADS.length - 1 ? ":-:" : "---:"));
  return [line(HEADS), `| ${dashes.join(" | ")} |`, ...rows.map((row) => line(textCells(row)))].join("\n") + "\n";
}

function asCsv(rows) {
  const numbers = Object.keys(QUANTITIES).flatMap((name) => ["mean", "low", "high"].map((part) => `${name}_${part}`));
  const columns = ["label", "method", "hyperparameters", "trainable_parameters", "mean_n", ...numbers, "pareto_probability", ...Object.keys(COSTS).slice(1)];
  const cell = (value) => {
    const text = known(value) ? String(value) : "";
    return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const launch = LAUNCHES.length > 1 ? ["launch"] : [];
  const line = (row) => [...launch.map(() => row.launch.title), ...columns.map((name) => row[name])].map(cell).join(",");
  return [[...launch, ...columns].map((name) => (name === "label" ? "row" : name === "mean_n" ? "seeds" : name)).join(","), ...rows.map(line)].join("\n") + "\n";
}

const TEX = { "\\": "\\textbackslash{}", "{": "\\{", "}": "\\}", "&": "\\&", "%": "\\%", "$": "\\$", "#": "\\#", "_": "\\_", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "★": "$\\bigstar$", "☆": "$\\circ$", "†": "\\dag{}", "–": "--" };
const tex = (text) => text.replace(/[\\{}&%$#_~^★☆†–]/g, (found) => TEX[found]);

function asLatex(rows) {
  const line = (cells) => `  ${cells.join(" & ")} \\\\`;
  const cells = (row) => textCells(row).map((cell, index) => {
    const name = Object.keys(QUANTITIES)[index - 4];
    return name && row.groups.split(" ").includes(name) ? `\\textbf{${tex(cell)}}` : tex(cell);
  });
  const top = ["% needs \\usepackage{booktabs,amssymb}; bold: cannot be told from the best of its column", `\\begin{tabular}{ll${"r".repeat(HEADS.length - 3)}c}`, "  \\toprule", line(HEADS), "  \\midrule"];
  return [...top, ...rows.map((row) => line(cells(row))), "  \\bottomrule", "\\end{tabular}"].join("\n") + "\n";
}

const WRITERS = { csv: ["CSV", asCsv], markdown: ["Markdown", asMarkdown], latex: ["LaTeX", asLatex] };

function copy(kind) {
  const [name, write] = WRITERS[kind], rows = sorted(ranked().filter(isShown)), text = write(rows);
  const shown = () => { $("copied-text").value = text; $("copied").showModal(); $("copied-text").select(); };
  if (!navigator.clipboard) return shown();
  return navigator.clipboard.writeText(text).then(() => say(`${rows.length} rows copied as ${name}`), shown);
}

let saying = 0;
function say(text) {
  $("status").textContent = text;
  clearTimeout(saying);
  saying = setTimeout(() => { $("status").textContent = ""; }, 3000);
}

// ---- axes

function niceTicks(low, high, wanted) {
  const rough = (high - low) / Math.max(1, wanted), power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((times) => times * power).find((size) => size >= rough);
  const ticks = [];
  for (let tick = Math.ceil(low / step) * step; tick <= high + step * 1e-9; tick += step) ticks.push(Number(tick.toPrecision(12)));
  return ticks;
}

function logTicks(low, high, wanted) {
  const ticks = [], from = Math.floor(Math.log10(low)), to = Math.ceil(Math.log10(high));
  const times = to - from <= 2 ? [1, 2, 5] : [1];
  for (let power = from; power <= to; power += 1) for (const own of times) ticks.push(own * 10 ** power);
  const inside = ticks.filter((tick) => tick >= low * 0.999 && tick <= high * 1.001), every = Math.ceil(inside.length / Math.max(2, wanted));
  return inside.filter((_, index) => index % every === 0);
}

function axis(values, { log = false, pad = 0.07, most = Infinity, least = -Infinity } = {}) {
  const into = log ? Math.log : (value) => value, back = log ? Math.exp : (value) => value;
  let [low, high] = [Math.min(...values), Math.max(...values)].map(into);
  const least_ = log ? 0.5 : Math.max(1, 0.05 * Math.abs(high)); // of values that are all the same
  if (high - low < 1e-9) [low, high] = [low - least_, high + least_];
  const room = pad * (high - low), ends = [back(low - room), back(high + room)];
  const [from, to] = [Math.max(least, ends[0]), Math.min(most, ends[1])].map(into);
  return { log, from: back(from), to: back(to), at: (value) => (into(value) - from) / (to - from) };
}

function frame(place, x, y, { xName, yName, height, xSay = short, ySay = short, label }) {
  const width = Math.max(280, Math.floor(place.clientWidth || 640)), left = 52, right = 14, top = 12, bottom = 44;
  const px = (value) => left + x.at(value) * (width - left - right);
  const py = (value) => height - bottom - y.at(value) * (height - top - bottom);
  const ticksOf = (own, wanted) => (own.log ? logTicks : niceTicks)(own.from, own.to, wanted);
  const svg = s("svg", { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": label });
  for (const tick of ticksOf(x, width / 90)) {
    svg.append(s("line", { class: "grid", x1: px(tick), x2: px(tick), y1: top, y2: height - bottom }),
      s("text", { x: px(tick), y: height - bottom + 17, "text-anchor": "middle" }, xSay(tick)));
  }
  for (const tick of ticksOf(y, height / 60)) {
    svg.append(s("line", { class: "grid", x1: left, x2: width - right, y1: py(tick), y2: py(tick) }),
      s("text", { x: left - 8, y: py(tick) + 4, "text-anchor": "end" }, ySay(tick)));
  }
  svg.append(s("text", { x: (left + width - right) / 2, y: height - 6, "text-anchor": "middle" }, xName),
    s("text", { x: 0, y: 0, "text-anchor": "middle", transform: `translate(13 ${(height - bottom + top) / 2}) rotate(-90)` }, yName));
  fill(place, svg);
  return { svg, px, py, width, height, left, right, top, bottom };
}

// ---- points that can be hovered, focused and chosen

function tip(lines, at) {
  const box = $("tip");
  fill(box, h("b", null, lines[0]), lines.slice(1).map((line) => h("div", null, line)));
  box.hidden = false;
  const anchor = at.getBoundingClientRect(), own = box.getBoundingClientRect();
  const left = Math.min(Math.max(8, anchor.left + anchor.width / 2 - own.width / 2), document.documentElement.clientWidth - own.width - 8);
  const above = anchor.top - own.height - 8, top = above > 4 ? above : anchor.bottom + 8;
  box.style.left = `${left + scrollX}px`;
  box.style.top = `${top + scrollY}px`;
}
const untip = () => { $("tip").hidden = true; };

function point(place, { key, lines, choose, style, kind = "mark", dim = false, chosen: isChosen = false }, ...drawn) {
  const hover = (event) => { tip(lines, event.currentTarget.querySelector(".halo")); light(key, true); };
  const leave = () => { untip(); light(key, false); };
  return s("g", { class: `point c${style % MARKS.length}${dim ? " dim" : ""}${isChosen ? " selected" : ""}`, "data-key": key,
    role: choose ? "button" : "img", tabindex: "-1", "aria-label": lines.join("; "), transform: `translate(${place[0]} ${place[1]})`,
    onpointerenter: hover, onpointerleave: leave, onfocus: hover, onblur: leave,
    onclick: choose, onkeydown: (event) => { if (choose && (event.key === "Enter" || event.key === " ")) { event.preventDefault(); choose(); } } },
    drawn, s("circle", { class: "halo", r: 13 }),
    kind === "cross" ? s("path", { class: "cross", d: "M-4.5-4.5 4.5 4.5M-4.5 4.5 4.5-4.5" })
      : s("path", { class: "fill mark", d: MARKS[style % MARKS.length] }));
}

// One stop of the Tab key a picture; arrows go from point to point, from left to right.
function rove(svg) {
  const left = (own) => Number(own.getAttribute("transform").match(/translate\(([-\d.]+)/)[1]);
  const points = [...svg.querySelectorAll(".point")].sort((a, b) => left(a) - left(b));
  if (points.length) (points.find((own) => own.classList.contains("selected")) || points[0]).setAttribute("tabindex", "0");
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key], here = points.indexOf(document.activeElement);
    if (event.key === "Escape") untip();
    if (!step || here < 0) return;
    event.preventDefault();
    const next = points[(here + step + points.length) % points.length];
    points.forEach((own) => own.setAttribute("tabindex", own === next ? "0" : "-1"));
    next.focus();
  });
}

function tipOf(row) {
  const lines = Object.entries(QUANTITIES).map(([name, said]) => `${said} ${withInterval(row, name)}`);
  const more = known(row.pareto_probability) ? [`On the Pareto front: ${share(row.pareto_probability)}`] : [];
  return [row.name, ...lines, ...more, chosen(row)];
}

function bars(row, frame_, xName, yName) {
  const drawn = [], [x, y] = [row[`${xName}_mean`], row[`${yName}_mean`]];
  for (const [name, at, along] of [[xName, frame_.px, "x"], [yName, frame_.py, "y"]]) {
    const [low, high] = [row[`${name}_low`], row[`${name}_high`]];
    if (!known(low) || !known(high)) continue;
    const origin = at(along === "x" ? x : y), ends = { [`${along}1`]: at(low) - origin, [`${along}2`]: at(high) - origin };
    drawn.push(s("line", { class: "bar stroke", ...ends }));
  }
  return drawn;
}

const ruler = document.createElement("canvas").getContext("2d");
function textWidth(text) {
  ruler.font = `12.5px ${getComputedStyle(document.body).fontFamily}`;
  return ruler.measureText(text).width;
}

function placeLabels(frame_, wanted) {
  const taken = wanted.map(({ x, y }) => [x - 7, y - 7, x + 7, y + 7]);
  const free = (box) => taken.every((own) => box[2] < own[0] || box[0] > own[2] || box[3] < own[1] || box[1] > own[3]);
  for (const { x, y, text } of wanted) {
    const width = textWidth(text), spots = [[9, -9], [9, 18], [-9 - width, -9], [-9 - width, 18], [12, 4], [-12 - width, 4], [-width / 2, -14], [-width / 2, 22]];
    const fits = spots.map(([dx, dy]) => [x + dx, y + dy - 11, x + dx + width, y + dy + 2])
      .find((box) => free(box) && box[0] > frame_.left && box[2] < frame_.width && box[1] > 0 && box[3] < frame_.height - frame_.bottom);
    if (!fits) continue; // hovering tells
    taken.push(fits);
    frame_.svg.append(s("text", { class: "label", x: fits[0], y: fits[3] - 2, "aria-hidden": "true" }, text));
  }
}

// ---- the trade-off

function region(row, frame_) {
  if (state.regions !== "on" || !known(row.region_target)) return null;
  const r = row.region_correlation, steps = [...Array(48).keys()].map((step) => (step * Math.PI) / 24);
  const [x0, y0] = [frame_.px(row.target_accuracy_mean), frame_.py(row.source_accuracy_mean)];
  const at = (angle) => [row.target_accuracy_mean + row.region_target * Math.cos(angle),
    row.source_accuracy_mean + row.region_source * (r * Math.cos(angle) + Math.sqrt(1 - r * r) * Math.sin(angle))];
  const path = steps.map(at).map(([x, y]) => `${(frame_.px(Math.min(100, Math.max(0, x))) - x0).toFixed(1)} ${(frame_.py(Math.min(100, Math.max(0, y))) - y0).toFixed(1)}`);
  return s("path", { class: `region fill stroke c${row.style % MARKS.length}${row.key === selectedKey() ? " selected" : ""}${row.standing >= 2 ? " dim" : ""}`,
    "data-key": row.key, transform: `translate(${x0} ${y0})`, d: `M${path.join("L")}Z` });
}

// The region of the point that is looked at stands out.
function light(key, on) {
  for (const own of document.querySelectorAll(".region")) own.classList.toggle("lit", on && own.dataset.key === key);
}

function drawFront(rows, frame_) {
  const points = rows.filter((row) => row.pareto).map((row) => [row.target_accuracy_mean, row.source_accuracy_mean]).sort((a, b) => a[0] - b[0]);
  if (points.length < 2) return;
  let path = `M${frame_.px(points[0][0])} ${frame_.py(points[0][1])}`;
  for (const [x, y] of points.slice(1)) path += `V${frame_.py(y)}H${frame_.px(x)}`;
  frame_.svg.append(s("path", { class: "front", d: path, "aria-hidden": "true" }));
}

function drawUntouched(launch, frame_) {
  if (!launch.before.length) return;
  const [low] = launch.before, y = frame_.py(low);
  frame_.svg.append(s("line", { class: "untouched", x1: frame_.left, x2: frame_.width - frame_.right, y1: y, y2: y }),
    s("text", { x: frame_.width - frame_.right, y: y - 6, "text-anchor": "end" }, `untouched backbone ${launch.before.map(one).join(" to ")}`));
  if (state.limit === "") return;
  const least = Math.max(0, low - Number(state.limit)), edge = Math.min(frame_.height - frame_.bottom, Math.max(frame_.top, frame_.py(least)));
  frame_.svg.append(s("rect", { class: "beyond", x: frame_.left, y: edge, width: frame_.width - frame_.left - frame_.right, height: frame_.height - frame_.bottom - edge }),
    s("text", { x: frame_.left + 8, y: Math.min(edge + 16, frame_.height - frame_.bottom - 6) }, `forgets more than ${one(Number(state.limit))} points`));
}

function spreadOf(rows, name) {
  return rows.flatMap((row) => [row[`${name}_mean`], row[`${name}_low`], row[`${name}_high`]]).filter(known);
}

function renderTrade(rows) {
  const good = rows.filter((row) => known(row.mean_mean)), place = $("trade");
  if (!good.length) return nothing(place, "No row to draw.");
  const single = shownLaunches().length === 1;
  const source = [...spreadOf(good, "source_accuracy"), ...(single ? shownLaunches()[0].before : [])];
  const f = frame(place, axis(spreadOf(good, "target_accuracy"), { least: 0, most: 101 }), axis(source, { least: 0, most: 101, pad: 0.1 }), {
    xName: "target accuracy (%)  →  learned more", yName: "source accuracy (%)  →  forgot less",
    height: place.clientWidth < 560 ? 360 : 470, label: "Source accuracy over target accuracy of the rows; arrow keys go from row to row" });
  if (single) drawUntouched(shownLaunches()[0], f);
  if (single) drawFront(good, f);
  const at = (row) => [f.px(row.target_accuracy_mean), f.py(row.source_accuracy_mean)];
  f.svg.append(s("clipPath", { id: "inside" }, s("rect", { x: f.left, y: f.top, width: f.width - f.left - f.right, height: f.height - f.top - f.bottom })),
    s("g", { class: good.length > MANY ? "many" : null, "clip-path": "url(#inside)" }, good.map((row) => region(row, f))));
  for (const row of good) {
    f.svg.append(point(at(row), { key: row.key, lines: tipOf(row), choose: () => select(row.key), style: row.style, dim: row.standing >= 2,
      chosen: row.key === selectedKey() }, bars(row, f, "target_accuracy", "source_accuracy")));
  }
  placeLabels(f, good.map((row) => ({ x: at(row)[0], y: at(row)[1], text: pictureLabel(row, f.width < 560) })));
  rove(f.svg);
  $("trade-note").textContent = `Bars: 95 % intervals. Regions hold both true accuracies at 95 %. Dashed: Pareto front of the means; ★ on the front at 95 % or more, ☆ with its probability.`;
}

function pictureLabel(row, brief = false) {
  const own = row.label.startsWith(`${row.method} `) ? row.label.slice(row.method.length + 1) : row.label, name = `${own}${suffix(row.launch)}`;
  const chance = row.pareto_probability;
  return !brief && known(chance) && chance >= MAYBE ? `${name} ${front(row).replace(/^★ .*/, "★")}` : name;
}

function nothing(place, text) { fill(place, h("p", { class: "muted" }, text)); }

// ---- cost, and curves

function renderCost(rows) {
  const place = $("cost"), unit = MEGA.has(state.x) ? 1e6 : 1, value = (row) => row[state.x] / unit;
  const good = rows.filter((row) => known(row.mean_mean) && known(row[state.x]));
  if (!good.length) return nothing(place, `The records of these rows do not say their ${COSTS[state.x].replace(/ \(.*/, "")}.`);
  const all = good.map(value), log = Math.min(...all) > 0 && Math.max(...all) / Math.min(...all) > 15;
  const f = frame(place, axis(all, { log }), axis(spreadOf(good, state.y), { most: 101 }), {
    xName: COSTS[state.x], yName: AXES[state.y], height: 320, xSay: big, label: `${AXES[state.y]} over ${COSTS[state.x]}` });
  for (const row of good) {
    const place_ = [f.px(value(row)), f.py(row[`${state.y}_mean`])];
    const said = `${COSTS[state.x].replace(/ \((.*)\)/, "")}: ${count(value(row))}${unit > 1 ? " MB" : ""}`;
    f.svg.append(point(place_, { key: row.key, lines: [row.name, `${QUANTITIES[state.y]} ${withInterval(row, state.y)}`, said],
      choose: () => select(row.key), style: row.style, dim: row.standing >= 2, chosen: row.key === selectedKey() },
      bars(row, f, "none", state.y)));
  }
  placeLabels(f, good.map((row) => ({ x: f.px(value(row)), y: f.py(row[`${state.y}_mean`]), text: pictureLabel(row, true) })));
  return rove(f.svg);
}

function curveOf(row) {
  const column = ["target_accuracy", "source_accuracy", "forgetting", "mean"].indexOf(state.curve) + 1;
  return (row.launch.curves[row.label] || []).filter((own) => known(own[column])).map((own) => [own[0], own[column]]);
}

function renderCurves(rows) {
  const place = $("curves"), drawn = rows.map((row) => ({ row, points: curveOf(row) })).filter(({ points }) => points.length);
  $("curve-note").textContent = "";
  if (!drawn.length) return nothing(place, "No record of these rows' search trials is here, so there are no curves.");
  const points = drawn.flatMap((own) => own.points);
  const f = frame(place, axis(points.map((own) => own[0]), { pad: 0.02 }), axis([...points.map((own) => own[1])], { most: 101 }), {
    xName: "optimizer steps", yName: `${AXES[state.curve]}, validation`, height: 320, label: `${AXES[state.curve]} over optimizer steps` });
  for (const { row, points: own } of drawn) {
    const style = row.style % MARKS.length, path = own.map(([x, y]) => `${f.px(x).toFixed(1)} ${f.py(y).toFixed(1)}`).join("L");
    f.svg.append(s("path", { class: `line stroke c${style}${row.key === selectedKey() ? " selected" : ""}`, d: `M${path}` }));
  }
  for (const { row, points: own } of drawn) {
    const [x, y] = own.at(-1), lines = [row.name, ...(own.length > 8 ? own.filter((_, index) => index % Math.ceil(own.length / 8) === 0 || index === own.length - 1) : own).map(([step, value]) => `step ${step}: ${one(value)}`)];
    f.svg.append(point([f.px(x), f.py(y)], { key: row.key, lines, choose: () => select(row.key), style: row.style, chosen: row.key === selectedKey() }));
  }
  if (drawn.every((own) => own.points.length <= 2)) $("curve-note").textContent = "Read at the end only: --set train.val_every=N reads every N steps.";
  else $("curve-note").textContent = "Each row's chosen search trial, on validation data.";
  return rove(f.svg);
}

// ---- one row

function selectedKey() {
  const rows = allRows();
  if (rows.some((row) => row.key === state.row)) return state.row;
  const best = [...rows].filter((row) => known(row.mean_mean)).sort((a, b) => b.mean_mean - a.mean_mean)[0];
  return (best || rows[0] || { key: "" }).key;
}

function select(key, jump = false) {
  setState({ row: key, hp: "", score: "" });
  if (jump) { $("row").scrollIntoView({ block: "start" }); $("row").focus({ preventScroll: true }); }
}

function renderRow() {
  const row = ranked().find((own) => own.key === selectedKey());
  fill($("row-of"), allRows().map((own) => h("option", { value: own.key, selected: own.key === selectedKey() }, own.name)));
  $("row-of").value = selectedKey();
  if (!row) return fill($("row-body"));
  $("row-title").textContent = row.name;
  return fill($("row-body"), h("div", { class: `parts c${row.style % MARKS.length}` },
    h("div", null, facts(row)), h("div", null, search(row)), h("div", { class: "full" }, seeds(row)),
    h("div", null, perClass(row)), h("div", null, confusion(row))));
}

function facts(row) {
  const behind = !known(row.behind) ? null : row.behind === 0 && row.behind_p === 1 ? "this one has the highest MEAN"
    : `${one(row.behind)}${known(row.behind_low) ? ` [${one(row.behind_low)}, ${one(row.behind_high)}]` : ""} points, p = ${row.behind_p.toFixed(3)}`;
  const said = [
    ...Object.entries(QUANTITIES).map(([name, word]) => [word, withInterval(row, name)]),
    ["Behind the best", behind],
    ["On the front", known(row.pareto_probability) ? share(row.pareto_probability) : null],
    ["Has the best MEAN", known(row.best_probability) ? share(row.best_probability) : null],
    ["Hyper-parameters", chosen(row)],
    ["Search", `${row.searches || "–"} × ${row.search_trials || "–"} trials`],
    ["Images", [row.target_images ? `${count(row.target_images)} test` : null, row.source_images ? `${count(row.source_images)} source` : null].filter(Boolean).join(", ") || null],
    ["Trainable", known(row.trainable_parameters) ? count(row.trainable_parameters) : null],
    ["Training", known(row.train_seconds) ? `${seconds(row.train_seconds)}${known(row.eval_seconds) ? `, and ${seconds(row.eval_seconds)} to measure` : ""}` : null],
    ["Peak memory", known(row.peak_memory) ? bytes(row.peak_memory) : null],
    ["Checkpoint", known(row.checkpoint_bytes) ? bytes(row.checkpoint_bytes) : null],
  ];
  return [h("h3", null, "In numbers"), h("dl", null, said.filter(([, value]) => value).flatMap(([name, value]) => [h("dt", null, name), h("dd", null, value)]))];
}

const path = (text) => `./${encodeURI(text).replaceAll("#", "%23").replaceAll("?", "%3F")}`;
const link = (launch, folder, trial, suffix, text) => h("a", { href: path(`${launch.link}${folder}/${trial}${suffix}`) }, text);

function seeds(row) {
  const own = row.launch.seeds.filter((seed) => seed.label === row.label);
  const number = (value, say = one) => h("td", null, known(value) ? say(value) : "–");
  return [h("h3", null, "Seeds and records"), h("div", { class: "tight", tabindex: "0", role: "region", "aria-label": "Seeds and records" }, h("table", null,
    h("thead", null, h("tr", null, ["Seed", "Target", "Source", "Forgotten", "MEAN", "Time", "Memory", "Record", "Checkpoint"].map((name, index) => h("th", { scope: "col", class: index ? null : "text" }, name)))),
    h("tbody", null, own.map((seed) => h("tr", null, h("th", { scope: "row", class: "text" }, String(seed.seed)),
      seed.status === "ok" ? Object.keys(QUANTITIES).map((name) => number(seed[name])) : h("td", { colspan: 4, class: "text" }, `failed: ${(seed.error || "").split("\n")[0]}`),
      number(seed.train_seconds, seconds), number(seed.peak_memory, bytes),
      h("td", null, link(row.launch, "records", seed.trial, ".json", "record")),
      h("td", null, seed.status === "ok" ? link(row.launch, "checkpoints", seed.trial, ".safetensors", known(seed.checkpoint_bytes) ? bytes(seed.checkpoint_bytes) : "file") : "–"))))))];
}

// ---- the search of a row

function search(row) {
  const found = row.launch.searched[row.launch.keys[row.label]];
  const title = h("h3", null, "Its search");
  if (!found || !found.trials.length) return [title, h("p", { class: "muted" }, "No record of a search trial of this row is here.")];
  const names = found.names.filter((name, index) => new Set(found.trials.map((trial) => trial.values[index])).size > 1 && found.trials.every((trial) => typeof trial.values[index] === "number"));
  if (!names.length) return [title, h("p", { class: "muted" }, "No number was searched."), trialList(row, found)];
  const hp = names.includes(state.hp) ? state.hp : names.includes("lr") ? "lr" : names[0];
  const score = [state.score, row.objective].find((name) => Object.hasOwn(QUANTITIES, name || "")) || "mean";
  const place = h("div", { class: "chart" });
  const pick = (id, label, options, value, change) => h("label", null, h("span", { class: "hidden" }, label), h("select", { id, onchange: (event) => change(event.target.value) },
    options.map(([own, text]) => h("option", { value: own, selected: own === value }, text))));
  requestAnimationFrame(() => drawSearch(place, row, found, hp, score));
  return [h("div", { class: "head" }, title, h("div", { class: "selects" },
    pick("search-y", "Score of the search", Object.entries(QUANTITIES), score, (value) => setState({ score: value })),
    h("span", { class: "muted" }, "over"), pick("search-x", "Searched hyper-parameter", names.map((name) => [name, name]), hp, (value) => setState({ hp: value })))),
  place, trialList(row, found)];
}

function drawSearch(place, row, found, hp, score) {
  const index = found.names.indexOf(hp), x = (trial) => trial.values[index], range = (row.launch.ranges[row.method] || {})[hp] || {};
  const ok = found.trials.filter((trial) => known(trial[score])), failed = found.trials.filter((trial) => !known(trial[score]));
  const ends = [range.low, range.high].filter(known), values = [...found.trials.map(x), ...ends];
  const log = Math.min(...values) > 0 && (range.log || Math.max(...values) / Math.min(...values) > 30);
  const y = ok.length ? axis(ok.map((trial) => trial[score]), { most: 101, pad: 0.12 }) : axis([0, 100]);
  const f = frame(place, axis(values, { log, pad: 0.04 }), y, { xName: hp, yName: `${AXES[score]}, validation`, height: 300,
    xSay: (tick) => String(Number(tick.toPrecision(3))), label: `${AXES[score]} of each search trial over ${hp}` });
  for (const end of ends) f.svg.append(s("line", { class: "edge", x1: f.px(end), x2: f.px(end), y1: f.top, y2: f.height - f.bottom }));
  const best = JSON.parse(row.hyperparameters), isChosen = (trial) => found.names.every((name, place_) => trial.values[place_] === best[name]);
  const about = (trial) => [trial.trial, ...found.names.map((name, place_) => `${name} = ${short(trial.values[place_])}`)];
  for (const trial of failed) f.svg.append(point([f.px(x(trial)), f.height - f.bottom - 10], { style: row.style, kind: "cross", lines: [...about(trial), trial.status] }));
  for (const trial of ok) f.svg.append(point([f.px(x(trial)), f.py(trial[score])], { style: row.style, chosen: isChosen(trial), dim: false,
    lines: [...about(trial), ...Object.entries(QUANTITIES).map(([name, word]) => `${word} ${known(trial[name]) ? one(trial[name]) : "–"}`), ...(trial.status === "ok" ? [] : [trial.status]), ...(isChosen(trial) ? ["confirmed"] : [])] }));
  const said = [`${ok.length} trials`, failed.length ? `${failed.length} without a result (crosses)` : "", ok.some(isChosen) ? "ringed: confirmed" : "", ends.length ? "dashed: ends of the range" : ""];
  place.append(h("p", { class: "muted small" }, `${said.filter(Boolean).join("; ")}.`));
  rove(f.svg);
}

function trialList(row, found) {
  return h("details", null, h("summary", null, `Records of the ${found.trials.length} search trials`), h("div", { class: "tight" }, h("table", null,
    h("thead", null, h("tr", null, ["Trial", ...found.names, ...Object.values(QUANTITIES)].map((name) => h("th", { scope: "col", class: "text" }, name)))),
    h("tbody", null, found.trials.map((trial) => h("tr", null, h("th", { scope: "row", class: "text" }, link(row.launch, "records", trial.trial, ".json", trial.trial)),
      trial.values.map((value) => h("td", { class: "text" }, known(value) ? short(value) : "–")),
      Object.keys(QUANTITIES).map((name) => h("td", { class: "text" }, known(trial[name]) ? one(trial[name]) : trial.status))))))));
}

// ---- classes

const FEW = 12;
let showAllClasses = false;

function classesOf(row) { return row.launch.classes[row.label]; }

function perClass(row) {
  const found = classesOf(row), title = h("h3", null, "Accuracy by class");
  if (!found) return [title, h("p", { class: "muted" }, "These records do not say what each test image was taken for (they are from an earlier version).")];
  const names = row.launch.class_names[found.names];
  const order = names.map((name, index) => ({ name, share: found.n[index] ? found.right[index] / found.n[index] : null, n: found.n[index], right: found.right[index] }))
    .filter((own) => own.share !== null).sort((a, b) => a.share - b.share || a.name.localeCompare(b.name));
  const shown = showAllClasses ? order : order.slice(0, FEW);
  const item = (own) => {
    const bar = h("span", null);
    bar.style.width = `${100 * own.share}%`;
    return h("li", null, h("span", { class: "what", title: own.name }, own.name), h("span", { class: "track", "aria-hidden": "true" }, bar),
      h("span", { class: "value" }, h("b", null, one(100 * own.share)), ` of ${count(own.n)}`));
  };
  const more = order.length > FEW ? h("button", { type: "button", class: "more", id: "all-classes", "aria-expanded": String(showAllClasses), onclick: () => { showAllClasses = !showAllClasses; renderRow(); $("all-classes").focus(); } },
    showAllClasses ? "Show the worst only" : `Show all ${order.length} classes`) : null;
  const list = h("ul", { class: "bars" }, shown.map(item));
  list.style.setProperty("--what", `${Math.min(22, Math.max(...shown.map((own) => own.name.length)))}ch`);
  return [title, h("p", { class: "muted small" }, "Test images of all seeds, the worst class first, in percent."), list, more];
}

function confusion(row) {
  const found = classesOf(row), title = h("h3", null, "What was taken for what");
  if (!found) return null;
  const names = row.launch.class_names[found.names];
  const worst = found.cells.filter(([i, j]) => i !== j).sort((a, b) => b[2] - a[2]).slice(0, 8);
  const list = worst.length ? h("details", { open: !found.whole }, h("summary", null, "Most frequent confusions"), h("div", { class: "tight" }, h("table", null,
    h("thead", null, h("tr", null, ["True class", "Taken for", "Images", "Of the class"].map((name, index) => h("th", { scope: "col", class: index < 2 ? "text" : null }, name)))),
    h("tbody", null, worst.map(([i, j, own]) => h("tr", null, h("th", { scope: "row", class: "text" }, names[i]), h("td", { class: "text" }, names[j]), h("td", null, count(own)), h("td", null, share(own / found.n[i])))))))) : h("p", { class: "muted" }, "Nothing was confused.");
  return found.whole ? [title, matrix(found, names), list] : [title, h("p", { class: "muted small" }, `${names.length} classes are too many for a matrix.`), list];
}

function matrix(found, names) {
  const size = names.length, cell = Math.max(9, Math.min(38, 400 / size)), room = 8 + 6.4 * Math.min(12, Math.max(...names.map((name) => name.length)));
  const side = size * cell, named = cell >= 12, left = (named ? room : 6) + 18, svg = s("svg", { viewBox: `0 0 ${left + side + 4} ${side + (named ? room : 6) + 22}`, role: "img",
    "aria-label": "Confusion matrix: true classes in rows, predicted ones in columns; the list below names the most frequent confusions" });
  svg.style.maxWidth = `${left + side + 4}px`;
  const short_ = (name) => (name.length > 12 ? `${name.slice(0, 11)}…` : name);
  for (const [i, j, own] of found.cells) {
    const part = own / found.n[i];
    const rect = s("rect", { class: "cell", x: left + j * cell, y: i * cell, width: cell, height: cell }, s("title", null, `${names[i]} taken for ${names[j]}: ${own} of ${found.n[i]} (${share(part)})`));
    rect.style.fill = `rgb(var(--heat) / ${Math.max(0.06, Math.sqrt(part)).toFixed(3)})`;
    svg.append(rect);
    if (cell >= 22) {
      const label = s("text", { x: left + (j + 0.5) * cell, y: (i + 0.5) * cell + 4, "text-anchor": "middle", "aria-hidden": "true" }, String(Math.round(100 * part)));
      label.style.fill = Math.sqrt(part) > 0.62 ? "var(--card)" : "var(--ink)";
      label.style.fontSize = "11px";
      label.style.pointerEvents = "none";
      svg.append(label);
    }
  }
  if (named) names.forEach((name, index) => {
    svg.append(s("text", { x: left - 6, y: (index + 0.5) * cell + 4, "text-anchor": "end" }, short_(name)),
      s("text", { transform: `translate(${left + (index + 0.5) * cell + 4} ${side + 8}) rotate(-90)`, "text-anchor": "end" }, short_(name)));
  });
  svg.append(s("text", { transform: `translate(11 ${side / 2}) rotate(-90)`, "text-anchor": "middle" }, "true class"),
    s("text", { x: left + side / 2, y: side + (named ? room : 6) + 16, "text-anchor": "middle" }, "taken for (% of the true class)"));
  return h("div", { class: "chart" }, svg);
}

// ---- where it comes from

function renderProvenance() {
  fill($("provenance"), shownLaunches().map((launch) => {
    const fields = new Map();
    for (const [field, value, records] of launch.provenance) fields.set(field, [...(fields.get(field) || []), [value, records]]);
    const said = [...fields].map(([field, values]) => [field, values.length === 1 ? values[0][0] : values.map(([value, records]) => `${value} (${records} records)`).join("; ")]);
    return h("div", null, h("p", null, h("b", null, launch.title), ` — ${launch.trials} records in `, h("a", { href: path(`${launch.link}records/`) }, `${launch.link}records/`)),
      h("details", null, h("summary", null, "Code, versions, machine"), h("dl", null, said.flatMap(([field, value]) => [h("dt", null, field), h("dd", null, value)]))));
  }));
  const lines = shownLaunches().flatMap((launch) => [launch.interval, launch.legend, ...launch.caveats]);
  fill($("legend"), [...new Set(lines)].map((line) => h("p", null, line)));
}

// ---- controls

function renderControls() {
  const launches = shownLaunches(), styles = new Map(launches.flatMap((launch) => launch.rows.map((row) => [row.method, launch.methods[row.method]])));
  const hidden = state.hide.split(",").filter(Boolean), focused = document.activeElement && document.activeElement.id;
  const toggle = (method) => setState({ hide: (hidden.includes(method) ? hidden.filter((own) => own !== method) : [...hidden, method]).join(",") });
  fill($("methods"), [...styles].map(([method, style]) => h("button", { type: "button", class: "chip", id: `method-${method}`, "aria-pressed": String(!hidden.includes(method)), onclick: () => toggle(method) }, mark(style), method.replaceAll("_", " "))));
  if (focused && focused.startsWith("method-") && $(focused)) $(focused).focus();
  if ($("filter").value !== state.q) $("filter").value = state.q;
  const most = Math.max(1, Math.ceil(Math.max(0, ...allRows().map((row) => row.forgetting_mean).filter(known))));
  $("limit").max = most + 0.5;
  $("limit").value = state.limit === "" ? most + 0.5 : state.limit;
  $("limit-said").textContent = state.limit === "" ? "any amount" : `${one(Number(state.limit))} points`;
  $("limit").setAttribute("aria-valuetext", $("limit-said").textContent);
  const pick = (select_, options, value) => { fill(select_, options.map(([own, text]) => h("option", { value: own }, text))); select_.value = value; };
  pick($("x"), Object.entries(COSTS), state.x);
  pick($("y"), Object.entries(QUANTITIES), state.y);
  pick($("curve-y"), [["forgetting", "Forgotten"], ["source_accuracy", "Source"], ["target_accuracy", "Target"], ["mean", "MEAN"]], state.curve);
  pick($("launch"), [...LAUNCHES.map((launch, index) => [String(index), nameOf(launch)]), ["all", "all launches"]], state.launch);
  $("launch-box").hidden = LAUNCHES.length < 2;
  $("regions").checked = state.regions === "on";
  $("theme").value = state.theme;
  document.documentElement.toggleAttribute("data-theme", state.theme !== "");
  if (state.theme) document.documentElement.setAttribute("data-theme", state.theme);
}

function renderHead() {
  const launches = shownLaunches(), single = launches.length === 1;
  $("title").textContent = single ? launches[0].title : `${launches.length} launches`;
  $("basis").textContent = single ? launches[0].basis : launches.map(nameOf).join(" · ");
  fill($("findings"), launches.flatMap((launch) => launch.findings.map((text) => h("li", null, single ? text : `${nameOf(launch)}: ${text}`))));
}

function render() {
  untip();
  const rows = ranked().filter(isShown);
  for (const draw of [renderControls, renderHead, () => renderTable(rows)]) draw();
  keepingFocus(() => { for (const draw of [renderTrade, renderCost, renderCurves]) draw(rows); renderRow(); });
  renderProvenance();
}

// Pictures are drawn anew: the point or the select that had the focus gets it again.
function keepingFocus(draw) {
  const had = document.activeElement, chart = had && had.closest(".chart"), place = chart && chart.id, key = had && had.dataset ? had.dataset.key : null, id = had && had.id;
  draw();
  if (place && key) { const again = [...$(place).querySelectorAll(".point")].find((own) => own.dataset.key === key); if (again) again.focus(); }
  else if (id && document.activeElement !== had && $(id)) $(id).focus();
}

function listen() {
  const most = () => Number($("limit").max);
  $("filter").addEventListener("input", (event) => setState({ q: event.target.value.trim() === "" ? "" : event.target.value }));
  $("limit").addEventListener("input", (event) => setState({ limit: Number(event.target.value) >= most() ? "" : event.target.value }));
  for (const [id, name] of [["x", "x"], ["y", "y"], ["curve-y", "curve"], ["theme", "theme"]]) $(id).addEventListener("change", (event) => setState({ [name]: event.target.value }));
  $("launch").addEventListener("change", (event) => setState({ launch: event.target.value, row: "", limit: "", hide: "" }));
  $("row-of").addEventListener("change", (event) => select(event.target.value));
  $("regions").addEventListener("change", (event) => setState({ regions: event.target.checked ? "on" : "off" }));
  for (const button of document.querySelectorAll("[data-copy]")) button.addEventListener("click", () => copy(button.dataset.copy));
  addEventListener("hashchange", () => { readState(); render(); });
  let width = document.documentElement.clientWidth;
  addEventListener("resize", () => { if (document.documentElement.clientWidth !== width) { width = document.documentElement.clientWidth; render(); } });
}

readState();
listen();
render();
