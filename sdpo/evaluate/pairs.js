"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const BATCH = 50;
const OUTCOMES = { win: "win", loss: "loss", tie: "tie", same: "same answer", unreadable: "unreadable verdict" };
let indices = [];
let shown = 0;

function element(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text; // never innerHTML: the texts are untrusted
  return node;
}

function options(select, pairs) {
  for (const [value, label] of pairs) {
    const option = element("option", "", label);
    option.value = value;
    select.append(option);
  }
}

function verdicts() {
  return data.verdicts[byId("judge").value][byId("checkpoint").value];
}

function matches(index) {
  const outcome = byId("outcome").value;
  const own = verdicts()[index][0];
  if (outcome === "differ") {
    const name = byId("checkpoint").value;
    if (new Set(Object.values(data.verdicts).map((by) => by[name][index][0])).size < 2) return false;
  } else if (outcome !== "all" && own !== outcome) {
    return false;
  }
  const text = byId("text").value.trim().toLowerCase();
  if (!text) return true;
  const texts = [data.prompts[index][0], data.prompts[index][1], data.answers.baseline[index],
    data.answers[byId("checkpoint").value][index]];
  return texts.some((candidate) => candidate.toLowerCase().includes(text));
}

function answer(name, index, chosen) {
  const text = data.answers[name][index];
  const section = element("section", chosen ? "chosen" : "");
  section.append(element("h2", "", `${name}, ${[...text].length} characters${chosen ? ", chosen" : ""}`));
  section.append(element("p", "text", text === "" ? "(empty)" : text));
  return section;
}

function pair(index) {
  const name = byId("checkpoint").value;
  const [outcome, first, second] = verdicts()[index];
  const node = element("article");
  node.dataset.outcome = outcome;
  const header = element("header");
  header.append(element("span", `outcome ${outcome}`, OUTCOMES[outcome]), element("span", "", data.prompts[index][0]));
  const orders = `verdict with the checkpoint as A: ${first}, as B: ${second}`;
  header.append(element("span", "", outcome === "same" ? "no judge was asked" : orders));
  const answers = element("div", "answers");
  answers.append(answer("baseline", index, outcome === "loss"), answer(name, index, outcome === "win"));
  node.append(header, element("p", "text prompt", data.prompts[index][1]), answers);
  return node;
}

function more() {
  const next = indices.slice(shown, shown + BATCH);
  byId("pairs").append(...next.map(pair));
  shown += next.length;
  byId("more").hidden = shown >= indices.length;
  byId("count").textContent = `${indices.length} of ${data.prompts.length} pairs` +
    (shown < indices.length ? `, the first ${shown} shown` : "");
}

function refresh() {
  indices = data.prompts.map((_, index) => index).filter(matches);
  shown = 0;
  byId("pairs").replaceChildren();
  more();
}

const judges = Object.keys(data.verdicts);
options(byId("checkpoint"), data.checkpoints.map((name) => [name, name]));
options(byId("judge"), judges.map((name) => [name, name]));
options(byId("outcome"), [["all", "all"], ...Object.entries(OUTCOMES),
  ...(judges.length > 1 ? [["differ", "judges differ"]] : [])]);
byId("checkpoint").selectedIndex = data.checkpoints.length - 1;
for (const id of ["checkpoint", "judge", "outcome"]) byId(id).addEventListener("change", refresh);
byId("text").addEventListener("input", refresh);
document.querySelector(".filters").addEventListener("submit", (event) => event.preventDefault());
byId("more").addEventListener("click", more);
refresh();
