// Rows as text: CSV, Markdown, LaTeX.

const HEADS = ["Row", "Hyper-parameters", "Trainable", "Seeds", ...Object.values(QUANTITIES), "Front"];

function textCells(row) {
  return [
    row.name,
    chosen(row),
    known(row.trainable_parameters) ? count(row.trainable_parameters) : "–",
    String(row.seeds),
    ...Object.keys(QUANTITIES).map((name) => withInterval(row, name)),
    front(row),
  ];
}

// Names and values as Markdown shows them unchanged; an underscore within a word is a letter.
const md = (text) => text.replace(/[\\`*<>&|~$[\]]|(?<=\s)#|(?<![\p{L}\p{N}_])_|_(?![\p{L}\p{N}_])/gu, "\\$&");

// The cells of a row as some language writes plain text and what is bold in the table.
function cellsIn(row, plain, bold) {
  const groups = row.groups.split(" ");
  return textCells(row).map((cell, index) => {
    const name = Object.keys(QUANTITIES)[index - 4];
    const text = plain(cell, index);
    return name && groups.includes(name) ? bold(text) : text;
  });
}

// Which launches the rows are of, and what stands in the cells.
function notes() {
  const shown = shownLaunches(),
    each = (said) => [...new Set(shown.flatMap(said))];
  return {
    launches: LAUNCHES.length > 1 ? shown.map(nameOf) : [`Launch: ${shown[0].title}`],
    cells: [
      ...each((launch) => launch.interval),
      `Bold: cannot be told from the best of its column. Front: how probably the row lies on the Pareto front; ★ from 95 %, ☆ from 5 %.`,
      ...(shown.length > 1 ? ["Bold and chances: within each launch."] : []),
      ...each((launch) => launch.caveats),
    ],
  };
}

function asMarkdown(rows) {
  const line = (cells) => `| ${cells.join(" | ")} |`;
  const dashes = HEADS.map((_, index) => (index < 2 ? "---" : index === HEADS.length - 1 ? ":-:" : "---:"));
  const plain = (cell, index) => (index < 2 ? md(cell) : cell); // the others are numbers
  const table = [HEADS, dashes, ...rows.map((row) => cellsIn(row, plain, (cell) => `**${cell}**`))].map(line);
  const { launches, cells } = notes();
  return [...table, "", ...launches.map(md), ...cells.flatMap((said) => ["", md(said)])].join("\n") + "\n";
}

function asCsv(rows) {
  const numbers = Object.keys(QUANTITIES).flatMap((name) => ["mean", "low", "high"].map((part) => `${name}_${part}`));
  const columns = [
    "label",
    "method",
    "hyperparameters",
    "trainable_parameters",
    "seeds",
    ...numbers,
    "best_probability",
    "pareto_probability",
    ...Object.keys(COSTS).slice(1),
  ];
  const cell = (value) => {
    const text = known(value) ? String(value) : "";
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const launch = LAUNCHES.length > 1 ? ["launch"] : [];
  const line = (row) =>
    [...launch.map(() => nameOf(row.launch)), ...columns.map((name) => row[name])].map(cell).join(",");
  return (
    [
      [...launch, ...columns].map((name) => (name === "label" ? "row" : name)).join(","),
      ...rows.map(line),
    ].join("\n") + "\n"
  );
}

const TEX = {
  "\\": "\\textbackslash{}",
  "{": "\\{",
  "}": "\\}",
  "&": "\\&",
  "%": "\\%",
  $: "\\$",
  "#": "\\#",
  _: "\\_",
  "~": "\\textasciitilde{}",
  "^": "\\textasciicircum{}",
  "★": "$\\bigstar$",
  "☆": "$\\circ$",
  "†": "\\dag{}",
  "–": "--",
};
const tex = (text) => text.replace(/[\\{}&%$#_~^★☆†–]/g, (found) => TEX[found]);

function asLatex(rows) {
  const line = (cells) => `  ${cells.join(" & ")} \\\\`;
  const cells = (row) => cellsIn(row, tex, (cell) => `\\textbf{${cell}}`);
  const { launches, cells: said } = notes();
  const top = [
    "% needs \\usepackage{booktabs,amssymb}",
    ...[...launches, ...said].map((text) => `% ${text.replace(/\s+/g, " ")}`),
    `\\begin{tabular}{ll${"r".repeat(HEADS.length - 3)}c}`,
    "  \\toprule",
    line(HEADS),
    "  \\midrule",
  ];
  return [...top, ...rows.map((row) => line(cells(row))), "  \\bottomrule", "\\end{tabular}"].join("\n") + "\n";
}

const WRITERS = { csv: ["CSV", asCsv], markdown: ["Markdown", asMarkdown], latex: ["LaTeX", asLatex] };

function copy(kind) {
  const [name, write] = WRITERS[kind],
    rows = sorted(ranked().filter(isShown)),
    text = write(rows);
  const shown = () => {
    $("copied-text").value = text;
    $("copied").showModal();
    $("copied-text").select();
  };
  if (!navigator.clipboard) return shown();
  return navigator.clipboard.writeText(text).then(() => say(`${plural(rows.length, "row")} copied as ${name}`), shown);
}

let saying = 0;
function say(text) {
  $("status").textContent = text;
  clearTimeout(saying);
  saying = setTimeout(() => {
    $("status").textContent = "";
  }, 3000);
}
