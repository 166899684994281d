// Axes, and points that can be hovered, focused and chosen.

function niceTicks(low, high, wanted) {
  const rough = (high - low) / Math.max(1, wanted),
    power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((times) => times * power).find((size) => size >= rough);
  const ticks = [];
  for (let tick = Math.ceil(low / step) * step; tick <= high + step * 1e-9; tick += step)
    ticks.push(Number(tick.toPrecision(12)));
  return ticks;
}

function logTicks(low, high, wanted) {
  const ticks = [],
    from = Math.floor(Math.log10(low)),
    to = Math.ceil(Math.log10(high));
  const times = to - from <= 2 ? [1, 2, 5] : [1];
  for (let power = from; power <= to; power += 1) for (const own of times) ticks.push(own * 10 ** power);
  const inside = ticks.filter((tick) => tick >= low * 0.999 && tick <= high * 1.001),
    every = Math.ceil(inside.length / Math.max(2, wanted));
  return inside.filter((_, index) => index % every === 0);
}

function axis(values, { log = false, pad = 0.07, most = Infinity, least = -Infinity } = {}) {
  const into = log ? Math.log : (value) => value,
    back = log ? Math.exp : (value) => value;
  let [low, high] = [Math.min(...values), Math.max(...values)].map(into);
  const least_ = log ? 0.5 : Math.max(1, 0.05 * Math.abs(high)); // of values that are all the same
  if (high - low < 1e-9) [low, high] = [low - least_, high + least_];
  const room = pad * (high - low),
    ends = [back(low - room), back(high + room)];
  const [from, to] = [Math.max(least, ends[0]), Math.min(most, ends[1])].map(into);
  return { log, from: back(from), to: back(to), at: (value) => (into(value) - from) / (to - from) };
}

function frame(place, x, y, { xName, yName, height, xSay = short, ySay = short, label }) {
  const width = Math.max(280, Math.floor(place.clientWidth || 640)),
    left = 52,
    right = 14,
    top = 12,
    bottom = 44;
  const px = (value) => left + x.at(value) * (width - left - right);
  const py = (value) => height - bottom - y.at(value) * (height - top - bottom);
  const ticksOf = (own, wanted) => (own.log ? logTicks : niceTicks)(own.from, own.to, wanted);
  const svg = s("svg", { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": label });
  for (const tick of ticksOf(x, width / 90)) {
    svg.append(
      s("line", { class: "grid", x1: px(tick), x2: px(tick), y1: top, y2: height - bottom }),
      s("text", { x: px(tick), y: height - bottom + 17, "text-anchor": "middle" }, xSay(tick)),
    );
  }
  for (const tick of ticksOf(y, height / 60)) {
    svg.append(
      s("line", { class: "grid", x1: left, x2: width - right, y1: py(tick), y2: py(tick) }),
      s("text", { x: left - 8, y: py(tick) + 4, "text-anchor": "end" }, ySay(tick)),
    );
  }
  svg.append(
    s("text", { x: (left + width - right) / 2, y: height - 6, "text-anchor": "middle" }, xName),
    s(
      "text",
      { x: 0, y: 0, "text-anchor": "middle", transform: `translate(13 ${(height - bottom + top) / 2}) rotate(-90)` },
      yName,
    ),
  );
  fill(place, svg);
  return { svg, px, py, width, height, left, right, top, bottom };
}

function tip(lines, at) {
  const box = $("tip");
  fill(
    box,
    h("b", null, lines[0]),
    lines.slice(1).map((line) => h("div", null, line)),
  );
  box.hidden = false;
  const anchor = at.getBoundingClientRect(),
    own = box.getBoundingClientRect();
  const left = Math.min(
    Math.max(8, anchor.left + anchor.width / 2 - own.width / 2),
    document.documentElement.clientWidth - own.width - 8,
  );
  const above = anchor.top - own.height - 8,
    top = above > 4 ? above : anchor.bottom + 8;
  box.style.left = `${left + scrollX}px`;
  box.style.top = `${top + scrollY}px`;
}
const untip = () => {
  $("tip").hidden = true;
};

function point(place, { key, lines, choose, style, kind = "mark", dim = false, chosen: isChosen = false }, ...drawn) {
  const hover = (event) => {
    tip(lines, event.currentTarget.querySelector(".halo"));
    light(key, true);
  };
  const leave = () => {
    untip();
    light(key, false);
  };
  return s(
    "g",
    {
      class: `point c${style % MARKS.length}${dim ? " dim" : ""}${isChosen ? " selected" : ""}`,
      "data-key": key,
      role: choose ? "button" : "img",
      tabindex: "-1",
      "aria-label": lines.join("; "),
      transform: `translate(${place[0]} ${place[1]})`,
      onpointerenter: hover,
      onpointerleave: leave,
      onfocus: hover,
      onblur: leave,
      onclick: choose,
      onkeydown: (event) => {
        if (choose && (event.key === "Enter" || event.key === " ")) {
          event.preventDefault();
          choose();
        }
      },
    },
    drawn,
    s("circle", { class: "halo", r: 13 }),
    kind === "cross"
      ? s("path", { class: "cross", d: "M-4.5-4.5 4.5 4.5M-4.5 4.5 4.5-4.5" })
      : s("path", { class: "fill mark", d: MARKS[style % MARKS.length] }),
  );
}

// One stop of the Tab key a picture; arrows go from point to point, from left to right.
function rove(svg) {
  const left = (own) => Number(own.getAttribute("transform").match(/translate\(([-\d.]+)/)[1]);
  const points = [...svg.querySelectorAll(".point")].sort((a, b) => left(a) - left(b));
  if (points.length)
    (points.find((own) => own.classList.contains("selected")) || points[0]).setAttribute("tabindex", "0");
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key],
      here = points.indexOf(document.activeElement);
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
  const drawn = [],
    [x, y] = [row[`${xName}_mean`], row[`${yName}_mean`]];
  for (const [name, at, along] of [
    [xName, frame_.px, "x"],
    [yName, frame_.py, "y"],
  ]) {
    const [low, high] = [row[`${name}_low`], row[`${name}_high`]];
    if (!known(low) || !known(high)) continue;
    const origin = at(along === "x" ? x : y),
      ends = { [`${along}1`]: at(low) - origin, [`${along}2`]: at(high) - origin };
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
    const width = textWidth(text),
      spots = [
        [9, -9],
        [9, 18],
        [-9 - width, -9],
        [-9 - width, 18],
        [12, 4],
        [-12 - width, 4],
        [-width / 2, -14],
        [-width / 2, 22],
      ];
    const fits = spots
      .map(([dx, dy]) => [x + dx, y + dy - 11, x + dx + width, y + dy + 2])
      .find(
        (box) =>
          free(box) &&
          box[0] > frame_.left &&
          box[2] < frame_.width &&
          box[1] > 0 &&
          box[3] < frame_.height - frame_.bottom,
      );
    if (!fits) continue; // hovering tells
    taken.push(fits);
    frame_.svg.append(s("text", { class: "label", x: fits[0], y: fits[3] - 2, "aria-hidden": "true" }, text));
  }
}
