"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const BATCH = 50;
const OUTCOMES = { win: "win", loss: "loss", tie: "tie", same: "same answer", unreadable: "unreadable verdict" };
let places = [];
let shown = 0;

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text; // the only way that a text gets into the page
  return made;
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

function wanted(place) {
  const outcome = byId("outcome").value;
  const own = verdicts()[place][0];
  if (outcome === "differ") {
    const name = byId("checkpoint").value;
    if (new Set(Object.values(data.verdicts).map((by) => by[name][place][0])).size < 2) return false;
  } else if (outcome !== "all" && own !== outcome) {
    return false;
  }
  const text = byId("text").value.trim().toLowerCase();
  if (!text) return true;
  const texts = [data.prompts[place][0], data.prompts[place][1], data.answers.baseline[place],
    data.answers[byId("checkpoint").value][place]];
  return texts.some((found) => found.toLowerCase().includes(text));
}

function answer(name, place, chosen) {
  const text = data.answers[name][place];
  const section = element("section", chosen ? "chosen" : "");
  section.append(element("h2", "", `${name}, ${[...text].length} characters${chosen ? ", chosen" : ""}`));
  section.append(element("p", "text", text === "" ? "(empty)" : text));
  return section;
}

function pair(place) {
  const name = byId("checkpoint").value;
  const [outcome, first, second] = verdicts()[place];
  const made = element("article");
  made.dataset.outcome = outcome;
  const header = element("header");
  header.append(element("span", `outcome ${outcome}`, OUTCOMES[outcome]), element("span", "", data.prompts[place][0]));
  const orders = `verdict with the checkpoint as A: ${first}, as B: ${second}`;
  header.append(element("span", "", outcome === "same" ? "no judge was asked" : orders));
  const answers = element("div", "answers");
  answers.append(answer("baseline", place, outcome === "loss"), answer(name, place, outcome === "win"));
  made.append(header, element("p", "text prompt", data.prompts[place][1]), answers);
  return made;
}

function more() {
  const next = places.slice(shown, shown + BATCH);
  byId("pairs").append(...next.map(pair));
  shown += next.length;
  byId("more").hidden = shown >= places.length;
  byId("count").textContent = `${places.length} of ${data.prompts.length} pairs` +
    (shown < places.length ? `, the first ${shown} shown` : "");
}

function refresh() {
  places = data.prompts.map((_, place) => place).filter(wanted);
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
