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

// Numbers are rounded as Python rounds them: a value exactly between two decimals goes to the one whose last digit is
// even, where JavaScript takes the larger one. Up to 60 digits are exact: a double in the middle has far fewer.
const EXACT = 60;
const isEvenAndHalf = (digits) => /^[02468]50*$/.test(digits); // the last digit that stays, and all that follow it

// Python's f"{value:.{digits}f}", and no -0.0
function fixed(value, digits) {
  const size = Math.abs(value),
    exact = size.toFixed(EXACT),
    down = isEvenAndHalf(exact.replace(".", "").slice(digits - EXACT - 1));
  const text = down ? exact.slice(0, digits - EXACT).replace(/\.$/, "") : size.toFixed(digits);
  return value < 0 && Number(text) ? `-${text}` : text;
}

// The number with three significant digits
function rounded(value) {
  const [digits, power] = Math.abs(value).toExponential(EXACT).split("e");
  return isEvenAndHalf(digits.slice(3))
    ? Math.sign(value) * Number(`${digits.slice(0, 4)}e${power}`)
    : Number(value.toPrecision(3));
}

const one = (value) => fixed(value, 1);
const count = (value) => Number(fixed(value, 0)).toLocaleString("en-US");
const share = (value) => `${fixed(100 * value, 0)} %`;
const known = (value) => value !== null && value !== undefined;
const cut = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);
const plural = (number, word) => `${count(number)} ${word}${number === 1 ? "" : "s"}`;

// The value of a hyper-parameter as leaderboard.md has it: texts as they are, and numbers as Python's f"{value:.3g}",
// but for whole ones, of which no digit is left out
function short(value) {
  if (Array.isArray(value)) return value.map(short).join(",");
  if (!known(value)) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value !== "number" || Number.isInteger(value)) return String(value);
  const near = rounded(value),
    size = Math.abs(near);
  return size >= 1e-4 && size < 1000 ? String(near) : near.toExponential().replace(/(?<=e[-+])(?=\d$)/, "0");
}

function big(value) {
  if (value >= 1e9) return `${rounded(value / 1e9)} G`;
  if (value >= 1e6) return `${rounded(value / 1e6)} M`;
  if (value >= 1e4) return `${rounded(value / 1e3)} k`;
  return String(rounded(value));
}

function bytes(value) {
  const units = [
    ["GB", 1e9],
    ["MB", 1e6],
    ["kB", 1e3],
  ];
  const [unit, size] = units.find(([, least]) => value >= least) || ["B", 1];
  return `${rounded(value / size)} ${unit}`;
}

function seconds(value) {
  if (value < 120) return `${rounded(value)} s`;
  return value < 7200 ? `${rounded(value / 60)} min` : `${rounded(value / 3600)} h`;
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
