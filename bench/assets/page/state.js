"use strict";
// Draws the page of a leaderboard from the JSON beside it. Texts from data become text nodes, never markup.

const LAUNCHES = JSON.parse(document.getElementById("data").textContent).launches;
const SVG = "http://www.w3.org/2000/svg";
const $ = (id) => document.getElementById(id);
const FRAMED = window.parent !== window; // as in MLflow, which has no launch folder beside the page

const QUANTITIES = { target_accuracy: "Target", source_accuracy: "Source", forgetting: "Forgotten", mean: "MEAN" };
const AXES = {
  target_accuracy: "target accuracy (%)",
  source_accuracy: "source accuracy (%)",
  forgetting: "points forgotten",
  mean: "MEAN (%)",
};
const COSTS = {
  trainable_parameters: "trainable parameters",
  train_seconds: "training time (s)",
  peak_memory: "peak memory (MB)",
  checkpoint_bytes: "checkpoint file (MB)",
};
const MEGA = new Set(["peak_memory", "checkpoint_bytes"]);
const MANY = 16; // regions of more rows would cover each other, and are paler
const FRONT = 0.95,
  MAYBE = 0.05;
const EQUAL = 1e-6; // percentages that differ by no more are the same
const MARKS = [
  "M-5-7 0-2 5-7 7-5 2 0 7 5 5 7 0 2-5 7-7 5-2 0-7-5Z",
  "M-5.5-5.5H5.5V5.5H-5.5Z",
  "M0-7.5 6.5 0 0 7.5-6.5 0Z",
  "M0-7 6.8 5.5H-6.8Z",
  "M6.2 0A6.2 6.2 0 1 1-6.2 0 6.2 6.2 0 1 1 6.2 0Z",
  "M0 7-6.8-5.5H6.8Z",
  "M-2.3-6.5H2.3V-2.3H6.5V2.3H2.3V6.5H-2.3V2.3H-6.5V-2.3H-2.3Z",
];

const PLAIN = {
  launch: "0",
  sort: "rank",
  dir: "up",
  q: "",
  hide: "",
  limit: "",
  row: "",
  x: "trainable_parameters",
  y: "mean",
  curve: "forgetting",
  hp: "",
  score: "",
  whole: "",
  regions: "on",
  theme: "",
};
let state = { ...PLAIN };

function readState() {
  state = { ...PLAIN };
  for (const [name, value] of new URLSearchParams(location.hash.slice(1)))
    if (Object.hasOwn(PLAIN, name)) state[name] = value;
  if (state.launch !== "all" && !LAUNCHES[Number(state.launch)]) state.launch = PLAIN.launch;
  for (const [name, known_] of [
    ["sort", COLUMNS],
    ["x", COSTS],
    ["y", QUANTITIES],
    ["curve", QUANTITIES],
  ]) {
    if (!Object.hasOwn(known_, state[name])) state[name] = PLAIN[name];
  }
  if (!["", "light", "dark"].includes(state.theme)) state.theme = PLAIN.theme;
  if (!Number.isFinite(Number(state.limit)) || Number(state.limit) < 0) state.limit = "";
}

let writing = 0;
function setState(changes) {
  Object.assign(state, changes);
  clearTimeout(writing);
  writing = setTimeout(writeAddress, 150); // a slider that moves would write more often than browsers allow
  render();
}

function writeAddress() {
  const held = new URLSearchParams(Object.entries(state).filter(([name, value]) => value !== PLAIN[name]));
  if (location.protocol !== "about:") history.replaceState(null, "", `#${held}`); // a srcdoc frame has no address
}
