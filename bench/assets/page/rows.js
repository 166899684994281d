// Which rows there are, which are shown, and their rank.

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
  return shownLaunches().flatMap((launch) =>
    launch.rows.map((row) => ({
      ...row,
      launch,
      key: `${LAUNCHES.indexOf(launch)}:${row.label}`,
      style: launch.methods[row.method],
      name: `${row.label}${suffix(launch)}`,
    })),
  );
}

const wordsOf = (text) =>
  text
    .toLowerCase()
    .split(/,*(?:\s+|$)/)
    .filter(Boolean);

// A word is found anywhere in what is said of a row; but name=value is that value, and not the beginning of another.
function isShown(row) {
  const text = `${row.label} ${row.method} ${chosen(row)} ${row.launch.title}`.toLowerCase(),
    tokens = wordsOf(text);
  const fits = (word) => (/=./.test(word) ? tokens.includes(word) : text.includes(word));
  const found = (word) => fits(word) || (word.includes(",") && word.split(",").every(fits));
  return !state.hide.split(",").includes(row.method) && wordsOf(state.q).every(found);
}

// The order of texts in which numbers are ordered by their size: rank=4, rank=8, rank=16.
function natural(text, other) {
  const [parts, others] = [text, other].map((own) => own.split(/((?:(?<==)-)?\d+(?:\.\d+)?(?:e[-+]?\d+)?)/i));
  for (let index = 0; index < Math.min(parts.length, others.length); index += 1) {
    const [own, its] = [parts[index], others[index]];
    const order = index % 2 ? Number(own) - Number(its) : own.localeCompare(its);
    if (order) return order;
  }
  return parts.length - others.length || text.localeCompare(other);
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
  order.forEach((row, index) => {
    row.rank = index + 1;
  });
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
  trainable_parameters: {
    name: "Trainable",
    title: "Trainable parameters",
    of: (row) => row.trainable_parameters,
    first: "up",
  },
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
  const column = COLUMNS[state.sort],
    way = state.dir === "up" ? 1 : -1;
  return [...rows].sort((a, b) => {
    const [one_, other] = [column.of(a), column.of(b)];
    if (!known(one_) || !known(other)) return known(other) - known(one_); // what is missing comes last, either way
    return way * (typeof one_ === "string" ? natural(one_, other) : one_ - other) || a.rank - b.rank;
  });
}
