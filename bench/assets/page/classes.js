// Accuracy by class, what was forgotten by class, and what was taken for what.

const FEW = 12;
const isWhole = (id) => state.whole.split(",").includes(id); // whether a list of more classes is shown as a whole

function classesOf(row) {
  const found = row.launch.classes[row.label];
  return found && { ...found, ...row.launch.class_images[found.images] };
}

function perClass(row) {
  const found = classesOf(row);
  const title = h("h3", null, "Accuracy by class");
  const why = "These records do not say what each test image was taken for (they are from an earlier version).";
  if (!found) return [title, h("p", { class: "muted" }, why)];
  const order = worstFirst(found, row.launch.class_names[found.names]);
  const about = "Test images of all seeds, the worst class first, in percent.";
  return [title, h("p", { class: "muted small" }, about), classList("classes", order, classBar)];
}

// The first of some classes in their order, or all of them, each drawn as a bar.
function classList(id, order, bar) {
  const shown = isWhole(id) ? order : order.slice(0, FEW);
  const list = h("ul", { class: `bars ${id}` }, shown.map(bar));
  list.style.setProperty("--what", `${Math.min(22, Math.max(...shown.map((own) => own.name.length)))}ch`);
  return [list, order.length > FEW ? moreClasses(id, order.length) : null];
}

function worstFirst(found, names) {
  return names
    .map((name, index) => ({ name, n: found.n[index], percent: (100 * found.right[index]) / found.n[index] }))
    .filter((own) => own.n)
    .sort((a, b) => a.percent - b.percent || natural(a.name, b.name));
}

function classBar({ name, n, percent }) {
  const bar = h("span", null);
  bar.style.width = `${percent}%`;
  return h(
    "li",
    null,
    h("span", { class: "what", title: name }, name),
    h("span", { class: "track", "aria-hidden": "true" }, bar),
    h("span", { class: "value" }, h("b", null, one(percent)), ` of ${count(n)}`),
  );
}

function moreClasses(id, all) {
  const others = state.whole.split(",").filter((own) => own && own !== id);
  const toggle = () => setState({ whole: (isWhole(id) ? others : [...others, id]).join(",") });
  const about = { type: "button", class: "more", id: `all-${id}`, "aria-expanded": String(isWhole(id)) };
  return h("button", { ...about, onclick: toggle }, isWhole(id) ? "Show the first only" : `Show all ${all} classes`);
}

function forgottenByClass(row) {
  const found = row.launch.source_classes[row.label];
  const title = h("h3", null, "Forgotten by class");
  const why = "These records do not say which class each image of the source has (they are from an earlier version).";
  if (!found) return [title, h("p", { class: "muted" }, why)];
  const { names, n, before } = row.launch.source_queries[found.queries];
  const order = row.launch.class_names[names]
    .map((name, index) => ({ name, n: n[index], before: before[index], after: found.after[index] }))
    .filter((own) => own.n)
    .map((own) => ({ ...own, lost: (100 * (own.before - own.after)) / own.n }))
    .sort((a, b) => b.lost - a.lost || natural(a.name, b.name));
  const about =
    "Source accuracy over all seeds in percent, before and after training; what is most forgotten first, and in bold by how many points. Pale: what was lost.";
  return [title, h("p", { class: "muted small" }, about), classList("forgotten", order, forgottenBar)];
}

function forgottenBar({ name, n, before, after, lost }) {
  const kept = h("span", null),
    gone = h("span", { class: "gone" });
  kept.style.width = `${(100 * after) / n}%`;
  gone.style.width = `${Math.max(0, lost)}%`;
  return h(
    "li",
    null,
    h("span", { class: "what", title: `${name}, ${plural(n, "image")}` }, name),
    h("span", { class: "track", "aria-hidden": "true" }, kept, gone),
    h(
      "span",
      { class: "value" },
      h("b", null, one(lost)),
      ` (${one((100 * before) / n)} to ${one((100 * after) / n)})`,
    ),
  );
}

function confusion(row) {
  const found = classesOf(row);
  if (!found) return null;
  const title = h("h3", null, "What was taken for what");
  const names = row.launch.class_names[found.names];
  const wrong = found.cells.filter(([i, j]) => i !== j).sort((a, b) => b[2] - a[2]);
  const heads = [
    ["True class", true],
    ["Taken for", true],
    ["Images", false],
    ["Of the class", false],
  ];
  const rows = wrong.slice(0, 8).map(([i, j, own]) => [names[i], names[j], count(own), share(own / found.n[i])]);
  const summary = h("summary", null, "Most frequent confusions");
  const list = rows.length
    ? h("details", { open: !found.whole }, summary, plainTable("Most frequent confusions", heads, rows))
    : h("p", { class: "muted" }, "Nothing was confused.");
  const many = h("p", { class: "muted small" }, `${names.length} classes are too many for a matrix.`);
  return [title, found.whole ? matrix(found, names) : many, list];
}

function matrix(found, names) {
  const size = names.length,
    cell = Math.max(9, Math.min(38, 400 / size)),
    room = 8 + 6.4 * Math.min(12, Math.max(...names.map((name) => name.length)));
  const side = size * cell,
    named = cell >= 12,
    left = (named ? room : 6) + 18,
    svg = s("svg", {
      viewBox: `0 0 ${left + side + 4} ${side + (named ? room : 6) + 22}`,
      role: "img",
      "aria-label":
        "Confusion matrix: true classes in rows, predicted ones in columns; the list below names the most frequent confusions",
    });
  svg.style.maxWidth = `${left + side + 4}px`;
  for (const [i, j, own] of found.cells) {
    const part = own / found.n[i];
    const rect = s(
      "rect",
      { class: "cell", x: left + j * cell, y: i * cell, width: cell, height: cell },
      s("title", null, `${names[i]} taken for ${names[j]}: ${own} of ${found.n[i]} (${share(part)})`),
    );
    rect.style.fill = `rgb(var(--heat) / ${Math.max(0.06, Math.sqrt(part)).toFixed(3)})`;
    svg.append(rect);
    if (cell >= 22) {
      const label = s(
        "text",
        { x: left + (j + 0.5) * cell, y: (i + 0.5) * cell + 4, "text-anchor": "middle", "aria-hidden": "true" },
        fixed(100 * part, 0),
      );
      label.style.fill = Math.sqrt(part) > 0.62 ? "var(--card)" : "var(--ink)";
      label.style.fontSize = "11px";
      label.style.pointerEvents = "none";
      svg.append(label);
    }
  }
  if (named)
    names.forEach((name, index) => {
      svg.append(
        s("text", { x: left - 6, y: (index + 0.5) * cell + 4, "text-anchor": "end" }, cut(name, 12)),
        s(
          "text",
          { transform: `translate(${left + (index + 0.5) * cell + 4} ${side + 8}) rotate(-90)`, "text-anchor": "end" },
          cut(name, 12),
        ),
      );
    });
  svg.append(
    s("text", { transform: `translate(11 ${side / 2}) rotate(-90)`, "text-anchor": "middle" }, "true class"),
    s(
      "text",
      { x: left + side / 2, y: side + (named ? room : 6) + 16, "text-anchor": "middle" },
      "taken for (% of the true class)",
    ),
  );
  return h("div", { class: "chart" }, svg);
}
