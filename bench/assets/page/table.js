// The table.

function headCell(id, column) {
  const isSorted = state.sort === id;
  const next = isSorted ? (state.dir === "up" ? "down" : "up") : column.first || "down";
  const arrow = isSorted ? (state.dir === "up" ? " ↑" : " ↓") : "";
  const said = isSorted ? (state.dir === "up" ? "ascending" : "descending") : null;
  return h(
    "th",
    { scope: "col", class: id === "label" ? "text name-cell" : id === "rank" ? "rank" : null, "aria-sort": said },
    h(
      "button",
      {
        type: "button",
        class: "sort",
        id: `sort-${id}`,
        title: column.title,
        "aria-label": column.title ? `${column.name}: ${column.title}` : null,
        onclick: () => setState({ sort: id, dir: next }),
      },
      column.name,
      h("span", { "aria-hidden": "true" }, arrow),
    ),
  );
}

function quantityCell(row, name) {
  const best = row.groups.split(" ").includes(name);
  const value = row[`${name}_mean`];
  if (!known(value)) return h("td", { class: "num muted" }, "failed");
  const ends = interval(row, name);
  return h(
    "td",
    { class: `num${best ? " best" : ""}` },
    one(value),
    ends ? h("span", { class: "interval" }, `[${ends}]`) : null,
  );
}

function bodyRow(row) {
  const ids = columns().map(([id]) => id),
    cell = (value, say) => h("td", { class: "num" }, known(value) ? say(value) : "–");
  const cost = (id, say) => (ids.includes(id) ? cell(row[id], say) : null);
  return h(
    "tr",
    { class: [row.key === selectedKey() ? "selected" : "", row.standing >= 2 ? "over" : ""].join(" ").trim() || null },
    h("td", { class: "rank num muted" }, row.standing === 0 ? row.rank : row.standing === 1 ? `(${row.rank})` : "–"),
    h(
      "th",
      { scope: "row", class: "text name-cell" },
      h(
        "button",
        {
          type: "button",
          class: "name",
          "aria-current": String(row.key === selectedKey()),
          onclick: () => select(row.key, true),
        },
        mark(row.style),
        h("span", null, row.name),
      ),
      h("span", { class: "chosen" }, chosen(row)),
    ),
    Object.keys(QUANTITIES).map((name) => quantityCell(row, name)),
    h("td", { class: "num" }, front(row) || "–"),
    cell(row.best_probability, share),
    cost("trainable_parameters", count),
    cost("train_seconds", seconds),
    cost("peak_memory", bytes),
    cost("checkpoint_bytes", bytes),
  );
}

function renderTable(rows) {
  const focused = document.activeElement && document.activeElement.id;
  fill(
    $("board"),
    h("caption", { class: "hidden" }, "Rows with 95 % intervals in brackets; a button in a column's head sorts by it."),
    h(
      "thead",
      null,
      h(
        "tr",
        null,
        columns().map(([id, column]) => headCell(id, column)),
      ),
    ),
    h("tbody", null, sorted(rows).map(bodyRow)),
  );
  if (focused && focused.startsWith("sort-")) $(focused).focus();
  const all = allRows().length;
  const missing = Object.keys(COSTS)
    .filter((id) => !columns().some(([own]) => own === id))
    .map((id) => COLUMNS[id].title.toLowerCase());
  const unsaid = missing.length ? ` Not recorded: ${missing.join(", ")}.` : "";
  $("board-note").textContent =
    `${rows.length} of ${plural(all, "row")}. Bold: cannot be told from the best of its column.${unsaid}`;
  if ($("ranking").textContent !== rankingSaid(rows)) $("ranking").textContent = rankingSaid(rows); // or it is read out again
}

function rankingSaid(rows) {
  const several = shownLaunches().length > 1 ? " Bold and chances: within each launch." : "";
  const mixed =
    new Set(shownLaunches().map((launch) => launch.benchmark)).size > 1
      ? " Rows of different benchmarks do not compare."
      : "";
  if (state.limit === "") return `Ranked by MEAN = (target + source) / 2.${mixed}${several}`;
  const number = (wanted) => rows.filter((row) => row.standing === wanted).length;
  const maybe = number(1) ? `; ${number(1)} may, by their intervals (rank in brackets)` : "";
  const forget = (count_) => `${count_} forget${count_ === 1 ? "s" : ""}`;
  return `Ranked by target accuracy. ${forget(number(0))} at most ${one(Number(state.limit))} points${maybe}; ${forget(number(2))} more.${mixed}${several}`;
}
