// Elements, and numbers in words.

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

// A table of plain rows, which scrolls sideways: `heads` as [name, is it text], each row's first cell is its head.
function plainTable(label, heads, rows) {
  const side = (index) => ({ class: heads[index][1] ? "text" : null });
  const head = heads.map(([name], index) => h("th", { scope: "col", ...side(index) }, name));
  const cell = (value, index) => h(index ? "td" : "th", { scope: index ? null : "row", ...side(index) }, value);
  const body = rows.map((cells) => h("tr", null, cells.map(cell)));
  const table = h("table", null, h("thead", null, h("tr", null, head)), h("tbody", null, body));
  return h("div", { class: "tight", role: "region", tabindex: "0", "aria-label": label }, table);
}

function mark(style, size = 16) {
  return s(
    "svg",
    { viewBox: "-9 -9 18 18", width: size, height: size, "aria-hidden": "true" },
    s("path", { d: MARKS[style % MARKS.length], class: `fill c${style % MARKS.length}` }),
  );
}

const one = (value) => (Math.abs(value) < 0.05 ? 0 : value).toFixed(1);
const count = (value) => Math.round(value).toLocaleString("en-US");
const share = (value) => `${Math.round(100 * value)} %`;
const short = (value) => {
  if (Array.isArray(value)) return value.map(short).join(",");
  return typeof value === "number" ? String(Number(value.toPrecision(3))) : JSON.stringify(value).replace(/^"|"$/g, "");
};
const known = (value) => value !== null && value !== undefined;

function big(value) {
  if (value >= 1e9) return `${Number((value / 1e9).toPrecision(3))} G`;
  if (value >= 1e6) return `${Number((value / 1e6).toPrecision(3))} M`;
  if (value >= 1e4) return `${Number((value / 1e3).toPrecision(3))} k`;
  return String(Number(value.toPrecision(3)));
}

function bytes(value) {
  const units = [
    ["GB", 1e9],
    ["MB", 1e6],
    ["kB", 1e3],
  ];
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
  if (row.mean_n < 2) return `☆ ${share(chance)}`; // over images alone: no star for that
  if (chance >= FRONT) return `★ ${share(chance)}`;
  return `☆ ${share(Math.min(chance, FRONT - 0.01))}`; // what falls short of the limit is not rounded up to it
}

const chosen = (row) =>
  Object.entries(JSON.parse(row.hyperparameters))
    .map(([name, value]) => `${name}=${short(value)}`)
    .join(", ");
