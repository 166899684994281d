// Where it comes from, controls, and the beginning of it all.

function renderProvenance() {
  fill(
    $("provenance"),
    shownLaunches().map((launch) => {
      const fields = new Map();
      for (const [field, value, records] of launch.provenance)
        fields.set(field, [...(fields.get(field) || []), [value, records]]);
      const said = [...fields].map(([field, values]) => [
        field,
        values.length === 1
          ? values[0][0]
          : values.map(([value, records]) => `${value} (${plural(records, "record")})`).join("; "),
      ]);
      return h(
        "div",
        null,
        h(
          "p",
          null,
          h("b", null, launch.title),
          ` — ${plural(launch.trials, "record")} in `,
          FRAMED
            ? "records/ of the launch's folder"
            : h("a", { href: path(`${launch.link}records/`) }, `${launch.link}records/`),
        ),
        h(
          "details",
          null,
          h("summary", null, "Code, versions, machine"),
          h(
            "dl",
            null,
            said.flatMap(([field, value]) => [h("dt", null, field), h("dd", null, value)]),
          ),
        ),
      );
    }),
  );
  const lines = shownLaunches().flatMap((launch) => [launch.interval, launch.legend, ...launch.caveats]);
  fill(
    $("legend"),
    [...new Set(lines)].map((line) => h("p", null, line)),
  );
}

function renderMethods() {
  const rows = shownLaunches().flatMap((launch) => launch.rows.map((row) => [row.method, launch.methods[row.method]]));
  const hidden = state.hide.split(",").filter(Boolean);
  const focused = document.activeElement && document.activeElement.id;
  const without = (method) => hidden.filter((own) => own !== method);
  const toggle = (method) => (hidden.includes(method) ? without(method) : [...hidden, method]);
  const chip = ([method, style]) =>
    h(
      "button",
      {
        type: "button",
        class: "chip",
        id: `method-${method}`,
        "aria-pressed": String(!hidden.includes(method)),
        onclick: () => setState({ hide: toggle(method).join(",") }),
      },
      mark(style),
      method.replaceAll("_", " "),
    );
  fill($("methods"), [...new Map(rows)].map(chip));
  if (focused && focused.startsWith("method-") && $(focused)) $(focused).focus();
}

function renderLimit() {
  const forgotten = allRows().map((row) => row.forgetting_mean);
  const most = Math.max(1, Math.ceil(Math.max(0, ...forgotten.filter(known))));
  const said = state.limit === "" ? "any amount" : `${one(Number(state.limit))} points`;
  $("limit").max = most + 0.5; // the last place: no limit
  $("limit").value = state.limit === "" ? most + 0.5 : state.limit;
  $("limit-said").textContent = said;
  $("limit").setAttribute("aria-valuetext", said);
}

function renderControls() {
  renderMethods();
  renderLimit();
  if ($("filter").value !== state.q) $("filter").value = state.q;
  const pick = (id, options, value) => {
    fill(
      $(id),
      options.map(([own, text]) => h("option", { value: own }, text)),
    );
    $(id).value = value;
  };
  const curves = ["forgetting", "source_accuracy", "target_accuracy", "mean"];
  const launches = LAUNCHES.map((launch, index) => [String(index), nameOf(launch)]);
  pick("x", Object.entries(COSTS), state.x);
  pick("y", Object.entries(QUANTITIES), state.y);
  pick(
    "curve-y",
    curves.map((name) => [name, QUANTITIES[name]]),
    state.curve,
  );
  pick("launch", [...launches, ["all", "all launches"]], state.launch);
  $("launch-box").hidden = LAUNCHES.length < 2;
  $("regions").checked = state.regions === "on";
  $("theme").value = state.theme;
  if (state.theme) document.documentElement.dataset.theme = state.theme;
  else delete document.documentElement.dataset.theme;
}

function renderHead() {
  const launches = shownLaunches(),
    single = launches.length === 1;
  $("title").textContent = single ? launches[0].title : `${launches.length} launches`;
  $("basis").textContent = single ? launches[0].basis : launches.map(nameOf).join(" · ");
  fill(
    $("findings"),
    launches.flatMap((launch) =>
      launch.findings.map((text) => h("li", null, single ? text : `${nameOf(launch)}: ${text}`)),
    ),
  );
}

function render() {
  untip();
  const rows = ranked().filter(isShown);
  for (const draw of [renderControls, renderHead, () => renderTable(rows)]) draw();
  keepingFocus(() => {
    for (const draw of [renderTrade, renderCost, renderCurves]) draw(rows);
    renderRow();
  });
  renderProvenance();
}

// Pictures are drawn anew: the point or the select that had the focus gets it again.
function keepingFocus(draw) {
  const had = document.activeElement,
    chart = had && had.closest(".chart"),
    place = chart && chart.id,
    key = had && had.dataset ? had.dataset.key : null,
    id = had && had.id;
  draw();
  if (place && key) {
    const again = [...$(place).querySelectorAll(".point")].find((own) => own.dataset.key === key);
    if (again) again.focus();
  } else if (id && document.activeElement !== had && $(id)) $(id).focus();
}

function listen() {
  const most = () => Number($("limit").max);
  $("filter").addEventListener("input", (event) =>
    setState({ q: event.target.value.trim() === "" ? "" : event.target.value }),
  );
  $("limit").addEventListener("input", (event) =>
    setState({ limit: Number(event.target.value) >= most() ? "" : event.target.value }),
  );
  for (const [id, name] of [
    ["x", "x"],
    ["y", "y"],
    ["curve-y", "curve"],
    ["theme", "theme"],
  ])
    $(id).addEventListener("change", (event) => setState({ [name]: event.target.value }));
  $("launch").addEventListener("change", (event) =>
    setState({ launch: event.target.value, row: "", limit: "", hide: "" }),
  );
  $("row-of").addEventListener("change", (event) => select(event.target.value));
  $("regions").addEventListener("change", (event) => setState({ regions: event.target.checked ? "on" : "off" }));
  $("skip").addEventListener("click", (event) => {
    event.preventDefault(); // the address is the page's state
    $("main").scrollIntoView({ block: "start" });
    $("main").focus({ preventScroll: true });
  });
  $("close").addEventListener("click", () => $("copied").close());
  for (const button of document.querySelectorAll("[data-copy]"))
    button.addEventListener("click", () => copy(button.dataset.copy));
  addEventListener("hashchange", () => {
    readState();
    render();
  });
  let width = document.documentElement.clientWidth;
  addEventListener("resize", () => {
    if (document.documentElement.clientWidth !== width) {
      width = document.documentElement.clientWidth;
      render();
    }
  });
}

readState();
listen();
render();
