// One row: numbers, seeds, search.

function selectedKey() {
  const rows = allRows();
  if (rows.some((row) => row.key === state.row)) return state.row;
  const best = [...rows].filter((row) => known(row.mean_mean)).sort((a, b) => b.mean_mean - a.mean_mean)[0];
  return (best || rows[0] || { key: "" }).key;
}

function select(key, jump = false) {
  setState({ row: key, hp: "", score: "" });
  if (jump) {
    $("row").scrollIntoView({ block: "start" });
    $("row").focus({ preventScroll: true });
  }
}

function renderRow() {
  const row = ranked().find((own) => own.key === selectedKey());
  fill(
    $("row-of"),
    allRows().map((own) => h("option", { value: own.key, selected: own.key === selectedKey() }, own.name)),
  );
  $("row-of").value = selectedKey();
  if (!row) return fill($("row-body"));
  $("row-title").textContent = row.name;
  return fill(
    $("row-body"),
    h(
      "div",
      { class: `parts c${row.style % MARKS.length}` },
      h("div", null, facts(row)),
      h("div", null, search(row)),
      h("div", { class: "full" }, seeds(row)),
      h("div", null, perClass(row)),
      h("div", null, forgottenByClass(row)),
      h("div", { class: "full" }, confusion(row)),
    ),
  );
}

function facts(row) {
  const behind = !known(row.behind)
    ? null
    : row.behind === 0 && row.behind_p === 1
      ? "this one has the highest MEAN"
      : `${one(row.behind)}${known(row.behind_low) ? ` [${one(row.behind_low)}, ${one(row.behind_high)}]` : ""} points, p = ${fixed(row.behind_p, 3)}`;
  const said = [
    ...Object.entries(QUANTITIES).map(([name, word]) => [word, withInterval(row, name)]),
    ["Behind the best", behind],
    ["On the front", known(row.pareto_probability) ? share(row.pareto_probability) : null],
    ["Has the best MEAN", known(row.best_probability) ? share(row.best_probability) : null],
    ["Hyper-parameters", chosen(row)],
    ["Search", `${row.searches || "–"} × ${row.search_trials ? plural(row.search_trials, "trial") : "– trials"}`],
    [
      "Images",
      [
        row.target_images ? `${count(row.target_images)} test` : null,
        row.source_images ? `${count(row.source_images)} source` : null,
      ]
        .filter(Boolean)
        .join(", ") || null,
    ],
    ["Trainable", known(row.trainable_parameters) ? count(row.trainable_parameters) : null],
    [
      "Budget of a trial",
      [
        known(row.steps) ? plural(row.steps, "step") : null,
        known(row.train_images) ? plural(row.train_images, "image") : null,
        known(row.accelerator_seconds) ? `${seconds(row.accelerator_seconds)} of a worker` : null,
      ]
        .filter(Boolean)
        .join(", ") || null,
    ],
    [
      "Training",
      known(row.train_seconds)
        ? `${seconds(row.train_seconds)}${known(row.eval_seconds) ? `, and ${seconds(row.eval_seconds)} to measure` : ""}`
        : null,
    ],
    ["Peak memory", known(row.peak_memory) ? bytes(row.peak_memory) : null],
    ["Checkpoint", known(row.checkpoint_bytes) ? bytes(row.checkpoint_bytes) : null],
  ];
  return [
    h("h3", null, "In numbers"),
    h(
      "dl",
      null,
      said.filter(([, value]) => value).flatMap(([name, value]) => [h("dt", null, name), h("dd", null, value)]),
    ),
  ];
}

const path = (text) => `./${encodeURI(text).replaceAll("#", "%23").replaceAll("?", "%3F")}`;
const link = (launch, folder, trial, suffix, text) =>
  FRAMED ? text : h("a", { href: path(`${launch.link}${folder}/${trial}${suffix}`) }, text);

function seeds(row) {
  const words = ["Seed", "Target", "Source", "Forgotten", "MEAN", "Time", "Memory", "Record", "Checkpoint"];
  const number = (value, say = one) => (known(value) ? say(value) : "–");
  const { launch } = row;
  const cells = (seed) => [
    String(seed.seed),
    ...Object.keys(QUANTITIES).map((name) => (seed.status === "ok" ? number(seed[name]) : "failed")),
    number(seed.train_seconds, seconds),
    number(seed.peak_memory, bytes),
    link(launch, "records", seed.trial, ".json", FRAMED ? seed.trial : "record"),
    seed.kept
      ? link(
          launch,
          "checkpoints",
          seed.trial,
          ".safetensors",
          number(seed.checkpoint_bytes, bytes).replace("–", "file"),
        )
      : number(seed.checkpoint_bytes, bytes),
  ];
  const own = launch.seeds.filter((seed) => seed.label === row.label);
  const lost = own.filter((seed) => seed.error);
  return [
    h("h3", null, "Seeds and records"),
    own.length
      ? plainTable(
          "Seeds and records",
          words.map((name, index) => [name, index === 0]),
          own.map(cells),
        )
      : h("p", { class: "muted" }, "The records of this row are not here."),
    lost.map((seed) => h("p", { class: "muted small" }, `Seed ${seed.seed} failed: ${seed.error.split("\n")[0]}`)),
  ];
}

function search(row) {
  const found = row.launch.searched[row.launch.keys[row.label]];
  const title = h("h3", null, "Its search");
  if (!found || !found.trials.length)
    return [title, h("p", { class: "muted" }, "No record of a search trial of this row is here.")];
  const ranges = row.launch.ranges[row.method],
    names = searchedNumbers(found, ranges || {});
  const none = ranges || found.trials.length > 1 ? "No number was searched." : "What was searched is not known here.";
  if (!names.length) return [title, h("p", { class: "muted" }, none), trialList(row, found)];
  const hp = names.includes(state.hp) ? state.hp : names.includes("lr") ? "lr" : names[0];
  const score = [state.score, row.objective].find((name) => Object.hasOwn(QUANTITIES, name || "")) || "mean";
  const place = h("div", { class: "chart" });
  const pick = (id, label, options, value, change) =>
    h(
      "label",
      null,
      h("span", { class: "hidden" }, label),
      h(
        "select",
        { id, onchange: (event) => change(event.target.value) },
        options.map(([own, text]) => h("option", { value: own, selected: own === value }, text)),
      ),
    );
  requestAnimationFrame(() => drawSearch(place, row, found, hp, score));
  return [
    h(
      "div",
      { class: "head" },
      title,
      h(
        "div",
        { class: "selects" },
        pick("search-y", "Score of the search", Object.entries(QUANTITIES), score, (value) =>
          setState({ score: value }),
        ),
        h("span", { class: "muted" }, "over"),
        pick(
          "search-x",
          "Searched hyper-parameter",
          names.map((name) => [name, name]),
          hp,
          (value) => setState({ hp: value }),
        ),
      ),
    ),
    place,
    trialList(row, found),
  ];
}

// Numbers that have a range, or that differ between trials; a trial may have none of the name.
function searchedNumbers(found, ranges) {
  return found.names.filter((name, index) => {
    const values = found.trials.map((trial) => trial.values[index]).filter(known);
    const searched = Object.hasOwn(ranges, name) || new Set(values).size > 1;
    return searched && values.length > 0 && values.every((value) => typeof value === "number");
  });
}

function drawSearch(place, row, found, hp, score) {
  const x = (trial) => trial.values[found.names.indexOf(hp)];
  const drawn = found.trials.filter((trial) => known(x(trial)));
  const range = (row.launch.ranges[row.method] || {})[hp] || {};
  const scored = drawn.filter((trial) => known(trial[score])).map((trial) => trial[score]);
  const ends = [range.low, range.high].filter(known);
  const values = [...drawn.map(x), ...ends];
  const log = Math.min(...values) > 0 && (range.log || Math.max(...values) / Math.min(...values) > 30);
  const y = axis(scored.length ? scored : [0, 100], { most: 101, pad: 0.12 });
  const f = frame(place, axis(values, { log, pad: 0.04 }), y, {
    xName: cut(hp, 40),
    yName: `${AXES[score]}, validation`,
    height: 300,
    label: `${AXES[score]} of each search trial over ${hp}`,
  });
  for (const end of ends)
    f.svg.append(s("line", { class: "edge", x1: f.px(end), x2: f.px(end), y1: f.top, y2: f.height - f.bottom }));
  f.svg.append(...drawn.map((trial) => trialPoint(row, found, trial, f, { x, score })));
  const failed = drawn.length - scored.length,
    without = found.trials.length - drawn.length;
  const said = [
    plural(scored.length, "trial"),
    failed ? `${failed} without a result (crosses)` : "",
    without ? `${without} without ${hp} (not drawn)` : "",
    drawn.some((trial) => isConfirmed(row, found, trial)) ? "ringed: confirmed" : "",
    ends.length ? "dashed: ends of the range" : "",
  ];
  place.append(h("p", { class: "muted small" }, `${said.filter(Boolean).join("; ")}.`));
  rove(f.svg);
}

function isConfirmed(row, found, trial) {
  // Of several searches a value is a list, each search's choice at the same place in every list.
  const confirmed = JSON.parse(row.hyperparameters);
  const same = (value, other) => JSON.stringify(value) === JSON.stringify(other);
  const fits = (place) =>
    found.names.every((name, index) => {
      const [value, chosen] = [trial.values[index], confirmed[name] ?? null]; // null: it has none of the name
      return same(value, chosen) || (Array.isArray(chosen) && same(value, chosen[place]));
    });
  const searches = Math.max(1, ...Object.values(confirmed).map((chosen) => (Array.isArray(chosen) ? chosen.length : 1)));
  return known(trial.mean) && Array.from({ length: searches }, (_, place) => place).some(fits);
}

function trialPoint(row, found, trial, f, { x, score }) {
  const named = found.names.map((name, index) => [name, trial.values[index]]).filter(([, value]) => known(value));
  const values = named.map(([name, value]) => `${name} = ${short(value)}`);
  const { style } = row;
  if (!known(trial[score])) {
    const lines = [trial.trial, ...values, trial.status];
    return point([f.px(x(trial)), f.height - f.bottom - 10], { style, kind: "cross", lines });
  }
  const scores = Object.entries(QUANTITIES).map(
    ([name, word]) => `${word} ${known(trial[name]) ? one(trial[name]) : "–"}`,
  );
  const chosen_ = isConfirmed(row, found, trial);
  const more = [trial.status === "ok" ? "" : trial.status, chosen_ ? "confirmed" : ""].filter(Boolean);
  const lines = [trial.trial, ...values, ...scores, ...more];
  return point([f.px(x(trial)), f.py(trial[score])], { style, chosen: chosen_, lines });
}

function trialList(row, found) {
  const heads = ["Trial", ...found.names, ...Object.values(QUANTITIES)].map((name) => [name, true]);
  const cells = (trial) => [
    link(row.launch, "records", trial.trial, ".json", trial.trial),
    ...trial.values.map((value) => (known(value) ? short(value) : "–")),
    ...Object.keys(QUANTITIES).map((name) => (known(trial[name]) ? one(trial[name]) : trial.status)),
  ];
  const summary = h("summary", null, `Records of ${plural(found.trials.length, "search trial")}`);
  return h("details", null, summary, plainTable("Search trials", heads, found.trials.map(cells)));
}
