// The trade-off, costs, and curves.

function region(row, frame_) {
  if (state.regions !== "on" || !known(row.region_target_below)) return null;
  const r = row.region_correlation,
    steps = [...Array(48).keys()].map((step) => (step * Math.PI) / 24);
  const [x0, y0] = [frame_.px(row.target_accuracy_mean), frame_.py(row.source_accuracy_mean)];
  const reach = (name, off) => off * row[`region_${name}_${off < 0 ? "below" : "above"}`];
  const at = (angle) => [
    row.target_accuracy_mean + reach("target", Math.cos(angle)),
    row.source_accuracy_mean + reach("source", r * Math.cos(angle) + Math.sqrt(1 - r * r) * Math.sin(angle)),
  ];
  const path = steps
    .map(at)
    .map(
      ([x, y]) =>
        `${(frame_.px(Math.min(100, Math.max(0, x))) - x0).toFixed(1)} ${(frame_.py(Math.min(100, Math.max(0, y))) - y0).toFixed(1)}`,
    );
  return s("path", {
    class: `region fill stroke c${row.style % MARKS.length}${row.key === selectedKey() ? " selected" : ""}${row.standing >= 2 ? " dim" : ""}`,
    "data-key": row.key,
    transform: `translate(${x0} ${y0})`,
    d: `M${path.join("L")}Z`,
  });
}

// The region of the point that is looked at stands out.
function light(key, on) {
  for (const own of document.querySelectorAll(".region")) own.classList.toggle("lit", on && own.dataset.key === key);
}

function drawFront(rows, frame_) {
  const points = rows
    .filter((row) => row.pareto)
    .map((row) => [row.target_accuracy_mean, row.source_accuracy_mean])
    .sort((a, b) => a[0] - b[0]);
  if (points.length < 2) return;
  let path = `M${frame_.px(points[0][0])} ${frame_.py(points[0][1])}`;
  for (const [x, y] of points.slice(1)) path += `V${frame_.py(y)}H${frame_.px(x)}`;
  frame_.svg.append(s("path", { class: "front", d: path, "aria-hidden": "true" }));
}

function drawUntouched(launch, frame_) {
  if (!launch.before.length) return;
  const [low] = launch.before,
    y = frame_.py(low);
  frame_.svg.append(
    s("line", { class: "untouched", x1: frame_.left, x2: frame_.width - frame_.right, y1: y, y2: y }),
    s(
      "text",
      { x: frame_.width - frame_.right, y: y - 6, "text-anchor": "end" },
      `untouched backbone ${launch.before.map(one).join(" to ")}`,
    ),
  );
  if (state.limit === "") return;
  const least = Math.max(0, low - Number(state.limit)),
    edge = Math.min(frame_.height - frame_.bottom, Math.max(frame_.top, frame_.py(least)));
  frame_.svg.append(
    s("rect", {
      class: "beyond",
      x: frame_.left,
      y: edge,
      width: frame_.width - frame_.left - frame_.right,
      height: frame_.height - frame_.bottom - edge,
    }),
    s(
      "text",
      { x: frame_.left + 8, y: Math.min(edge + 16, frame_.height - frame_.bottom - 6) },
      `forgets more than ${one(Number(state.limit))} points`,
    ),
  );
}

function spreadOf(rows, name) {
  return rows.flatMap((row) => [row[`${name}_mean`], row[`${name}_low`], row[`${name}_high`]]).filter(known);
}

function renderTrade(rows) {
  const good = rows.filter((row) => known(row.mean_mean)),
    place = $("trade");
  if (!good.length) return nothing(place, "No row to draw.");
  const single = shownLaunches().length === 1;
  const source = [...spreadOf(good, "source_accuracy"), ...(single ? shownLaunches()[0].before : [])];
  const f = frame(
    place,
    axis(spreadOf(good, "target_accuracy"), { least: 0, most: 101 }),
    axis(source, { least: 0, most: 101, pad: 0.1 }),
    {
      xName: "target accuracy (%)  →  learned more",
      yName: "source accuracy (%)  →  forgot less",
      height: place.clientWidth < 560 ? 360 : 470,
      label: "Source accuracy over target accuracy of the rows; arrow keys go from row to row",
    },
  );
  if (single) drawUntouched(shownLaunches()[0], f);
  if (single) drawFront(good, f);
  const at = (row) => [f.px(row.target_accuracy_mean), f.py(row.source_accuracy_mean)];
  f.svg.append(
    s(
      "clipPath",
      { id: "inside" },
      s("rect", { x: f.left, y: f.top, width: f.width - f.left - f.right, height: f.height - f.top - f.bottom }),
    ),
    s(
      "g",
      { class: good.length > MANY ? "many" : null, "clip-path": "url(#inside)" },
      good.map((row) => region(row, f)),
    ),
  );
  for (const row of good) {
    f.svg.append(
      point(
        at(row),
        {
          key: row.key,
          lines: tipOf(row),
          choose: () => select(row.key),
          style: row.style,
          dim: row.standing >= 2,
          chosen: row.key === selectedKey(),
        },
        bars(row, f, "target_accuracy", "source_accuracy"),
      ),
    );
  }
  placeLabels(
    f,
    good.map((row) => ({ x: at(row)[0], y: at(row)[1], text: pictureLabel(row, f.width < 560) })),
  );
  rove(f.svg);
  $("trade-note").textContent =
    `Bars: 95 % intervals, each for itself. Regions hold both true accuracies at 95 %. Dashed: Pareto front of the means; ★ on the front at 95 % or more, ☆ with its probability.`;
}

function pictureLabel(row, brief = false) {
  const own = row.label.startsWith(`${row.method} `) ? row.label.slice(row.method.length + 1) : row.label,
    name = `${own}${suffix(row.launch)}`;
  const chance = row.pareto_probability;
  return !brief && known(chance) && chance >= MAYBE ? `${name} ${front(row).replace(/^★ .*/, "★")}` : name;
}

function nothing(place, text) {
  fill(place, h("p", { class: "muted" }, text));
}

function renderCost(rows) {
  const place = $("cost"),
    unit = MEGA.has(state.x) ? 1e6 : 1,
    value = (row) => row[state.x] / unit;
  const good = rows.filter((row) => known(row.mean_mean) && known(row[state.x]));
  if (!good.length)
    return nothing(place, `The records of these rows do not say their ${COSTS[state.x].replace(/ \(.*/, "")}.`);
  const all = good.map(value),
    log = Math.min(...all) > 0 && Math.max(...all) / Math.min(...all) > 15;
  const f = frame(place, axis(all, { log }), axis(spreadOf(good, state.y), { most: 101 }), {
    xName: COSTS[state.x],
    yName: AXES[state.y],
    height: 320,
    xSay: big,
    label: `${AXES[state.y]} over ${COSTS[state.x]}`,
  });
  for (const row of good) {
    const place_ = [f.px(value(row)), f.py(row[`${state.y}_mean`])];
    const said = `${COSTS[state.x].replace(/ \((.*)\)/, "")}: ${count(value(row))}${unit > 1 ? " MB" : ""}`;
    f.svg.append(
      point(
        place_,
        {
          key: row.key,
          lines: [row.name, `${QUANTITIES[state.y]} ${withInterval(row, state.y)}`, said],
          choose: () => select(row.key),
          style: row.style,
          dim: row.standing >= 2,
          chosen: row.key === selectedKey(),
        },
        bars(row, f, "none", state.y),
      ),
    );
  }
  placeLabels(
    f,
    good.map((row) => ({ x: f.px(value(row)), y: f.py(row[`${state.y}_mean`]), text: pictureLabel(row, true) })),
  );
  return rove(f.svg);
}

function curveOf(row) {
  const column = ["target_accuracy", "source_accuracy", "forgetting", "mean"].indexOf(state.curve) + 1;
  return (row.launch.curves[row.label] || []).filter((own) => known(own[column])).map((own) => [own[0], own[column]]);
}

function renderCurves(rows) {
  const place = $("curves"),
    drawn = rows.map((row) => ({ row, points: curveOf(row) })).filter(({ points }) => points.length);
  $("curve-note").textContent = "";
  if (!drawn.length) return nothing(place, "No record of these rows' search trials is here, so there are no curves.");
  const points = drawn.flatMap((own) => own.points);
  const f = frame(
    place,
    axis(
      points.map((own) => own[0]),
      { pad: 0.02 },
    ),
    axis([...points.map((own) => own[1])], { most: 101 }),
    {
      xName: "optimizer steps",
      yName: `${AXES[state.curve]}, validation`,
      height: 320,
      label: `${AXES[state.curve]} over optimizer steps`,
    },
  );
  for (const { row, points: own } of drawn) {
    const style = row.style % MARKS.length,
      path = own.map(([x, y]) => `${f.px(x).toFixed(1)} ${f.py(y).toFixed(1)}`).join("L");
    f.svg.append(
      s("path", { class: `line stroke c${style}${row.key === selectedKey() ? " selected" : ""}`, d: `M${path}` }),
    );
  }
  for (const { row, points: own } of drawn) {
    const [x, y] = own.at(-1),
      lines = [
        row.name,
        ...(own.length > 8
          ? own.filter((_, index) => index % Math.ceil(own.length / 8) === 0 || index === own.length - 1)
          : own
        ).map(([step, value]) => `step ${step}: ${one(value)}`),
      ];
    f.svg.append(
      point([f.px(x), f.py(y)], {
        key: row.key,
        lines,
        choose: () => select(row.key),
        style: row.style,
        chosen: row.key === selectedKey(),
      }),
    );
  }
  if (drawn.every((own) => own.points.length <= 2))
    $("curve-note").textContent = "Read at the end only: --set train.val_every=N reads every N steps.";
  else $("curve-note").textContent = "On validation data: the mean of a row's seeds, or its chosen search trial where these were not read on the way.";
  return rove(f.svg);
}
