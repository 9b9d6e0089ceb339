"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const BATCH = 50;
const OUTCOMES = { win: "win", loss: "loss", tie: "tie", same: "same answer", unreadable: "unreadable verdict" };
const REASONS = Object.keys(data.reasons); // the gravest first
const ORDERS = { worse: "worse first", better: "better first", file: "as in the file" };
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

function changes(index) {
  return data.changes[byId("judge").value][byId("checkpoint").value][index];
}

function isWorse(reason) {
  return data.reasons[reason][1];
}

// The smaller, the earlier: by the gravest change of the wanted direction, then by how many there are.
function rank(index) {
  const own = changes(index);
  const wanted = own.filter((reason) => isWorse(reason) === (byId("order").value === "worse"));
  const others = own.length - wanted.length;
  if (wanted.length === 0) return REASONS.length + (others ? 1 : 0);
  return REASONS.indexOf(wanted[0]) - wanted.length / (REASONS.length + 1);
}

function changed(index) {
  const wanted = byId("change").value;
  const own = changes(index);
  if (wanted === "all") return true;
  if (wanted === "worse" || wanted === "better") return own.some((reason) => isWorse(reason) === (wanted === "worse"));
  return own.includes(wanted);
}

function matches(index) {
  if (!changed(index)) return false;
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

// The counts of what got worse and better; each is a button that shows these pairs, and shows all when pressed again.
function summary(id, worse) {
  const total = data.prompts.length;
  const all = data.prompts.map((_, index) => changes(index));
  const chosen = byId("change").value;
  const button = (value, number, text) => {
    const node = element("button", "", `${number} ${text}`);
    node.type = "button";
    node.disabled = number === 0;
    node.dataset.change = value;
    node.setAttribute("aria-pressed", String(chosen === value));
    node.addEventListener("click", () => {
      byId("change").value = chosen === value ? "all" : value;
      if (chosen !== value) byId("outcome").value = "all"; // else the pairs counted here could be hidden
      refresh();
      const again = byId(id).querySelector(`[data-change="${value}"]`);
      if (again) again.focus();
    });
    return node;
  };
  const some = all.filter((own) => own.some((reason) => isWorse(reason) === worse)).length;
  const reasons = REASONS.filter((reason) => isWorse(reason) === worse);
  byId(id).replaceChildren(element("h2", "", worse ? "Worse than before" : "Better than before"),
    button(worse ? "worse" : "better", some, `of ${total} in any way`),
    ...reasons.map((reason) => button(reason, all.filter((own) => own.includes(reason)).length,
      data.reasons[reason][0])));
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
  for (const reason of changes(index)) {
    if (reason === "won" || reason === "lost") continue; // the outcome says so
    header.append(element("span", `change ${isWorse(reason) ? "loss" : "win"}`, data.reasons[reason][0]));
  }
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
  if (byId("order").value !== "file") indices.sort((one, other) => rank(one) - rank(other)); // stable
  summary("worse", true);
  summary("better", false);
  shown = 0;
  byId("pairs").replaceChildren();
  more();
}

const judges = Object.keys(data.verdicts);
options(byId("checkpoint"), data.checkpoints.map((name) => [name, name]));
options(byId("judge"), judges.map((name) => [name, name]));
options(byId("outcome"), [["all", "all"], ...Object.entries(OUTCOMES),
  ...(judges.length > 1 ? [["differ", "judges differ"]] : [])]);
options(byId("change"), [["all", "all"], ["worse", "worse in any way"], ["better", "better in any way"],
  ...REASONS.map((reason) => [reason, data.reasons[reason][0]])]);
options(byId("order"), Object.entries(ORDERS));
byId("checkpoint").selectedIndex = data.checkpoints.length - 1;
for (const id of ["checkpoint", "judge", "outcome", "change", "order"]) byId(id).addEventListener("change", refresh);
byId("text").addEventListener("input", refresh);
document.querySelector(".filters").addEventListener("submit", (event) => event.preventDefault());
byId("more").addEventListener("click", more);
refresh();
