"use strict";
// Everything that a model or a person wrote goes into the page through textContent, so that it stays text.
const data = JSON.parse(document.getElementById("chat-data").textContent);
const at = id => document.getElementById(id);
const log = at("log"), field = at("message"), send = at("send"), stop = at("stop");
let turns = [], conversation = newId(), last = null, running = null;

function newId() {
  return "chat-" + Array.from(crypto.getRandomValues(new Uint8Array(16)), b => b.toString(16).padStart(2, "0")).join("");
}
function element(tag, text, name) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (name) made.className = name;
  return made;
}
function show(node) {
  log.append(node);
  node.scrollIntoView({ block: "nearest" });
  return node;
}
function note(text, problem) { return show(element("p", text, problem ? "note problem" : "note")); }
function turn(role, name, text, parent) {
  const box = element("div", undefined, "turn " + role), words = element("span", text || "");
  box.append(element("b", name), words);
  if (parent) parent.append(box); else show(box);
  return words;
}
function messages(list) {
  const system = at("system").value.trim();
  return (system ? [{ role: "system", content: system }] : []).concat(list);
}
async function post(path, body, signal) {
  const response = await fetch(path, { method: "POST", signal, body: JSON.stringify(body),
    headers: { "content-type": "application/json", "x-chat-token": data.token } });
  if (!response.ok) {
    const failed = await response.json().catch(() => ({}));
    throw new Error(failed.error || "the chat's server answered " + response.status);
  }
  return response;
}
// An answer comes as lines of JSON: {"text"}, then {"done"} or {"error"}.
async function answer(model, list, id, words, signal, beside = false) {
  const result = { text: "", finished: false, exchange: "", version: "", conversation: id };
  try {
    const response = await post("answer", { model, messages: list, conversation: id, beside }, signal);
    const reader = response.body.getReader(), decoder = new TextDecoder();
    let rest = "";
    for (;;) {
      const { done, value } = await reader.read();
      rest += done ? decoder.decode() : decoder.decode(value, { stream: true });
      const lines = rest.split("\n");
      rest = lines.pop();
      for (const line of lines.filter(Boolean)) {
        const event = JSON.parse(line);
        if (event.error) result.error = event.error;
        if (event.done) Object.assign(result, event.done);
        if (event.text) {
          result.text += event.text;
          words.textContent = result.text;
          words.parentNode.scrollIntoView({ block: "nearest" });
        }
      }
      if (done) break;
    }
  } catch (error) {
    if (error.name === "AbortError") words.parentNode.append(element("i", " (stopped)"));
    else result.error = error.message;
  }
  return result;
}
function busy(is) {
  send.disabled = is;
  stop.disabled = !is;
  log.setAttribute("aria-busy", String(is));
}
async function say(text) {
  const asked = turns.concat([{ role: "user", content: text }]), begun = conversation;
  const mine = turn("user", "you", text);
  running = new AbortController();
  busy(true);
  const list = messages(asked), compare = at("compare").checked;
  const parent = compare ? show(element("div", undefined, "pair")) : undefined;
  const waiting = [];
  if (compare) {
    const words = turn("assistant", data.base || "the model before", "", parent);
    waiting.push(answer(null, list, conversation, words, running.signal, true));
  }
  const words = turn("assistant", data.live, "", parent);
  waiting.push(answer(data.live, list, conversation, words, running.signal));
  const answers = await Promise.all(waiting), live = answers[answers.length - 1];
  running = null;
  busy(false);
  if (conversation !== begun) return;  // "New" meanwhile: what was said there is not part of this one
  for (const problem of new Set(answers.map(each => each.error).filter(Boolean))) note(problem, true);
  if (live.cut_off) note(live.cut_off);
  if (!live.text.trim()) {
    if (!live.error) note("the model gave no answer: the message is not part of the conversation");
    mine.parentNode.classList.add("problem");
    field.value = field.value || text;
    return;
  }
  turns = asked.concat([{ role: "assistant", content: live.text }]);
  live.index = messages(turns).length - 1;
  words.previousSibling.textContent = data.live + (live.version ? " (" + live.version + ")" : "");
  last = live;
  live.before = turns.length - 1;
  rate(true);
  finishedAt.set(turns.length - 1, live.finished);
  if (at("colour").checked) await colour();
}
const finishedAt = new Map();
async function colour() {
  const index = turns.length - 3;
  if (index < 1) return note("there is no follow-up yet: answer the model, then see what your message says about its words");
  const waiting = note("scoring the answer before your last message"), begun = conversation;
  try {
    const response = await post("signal", { prompt: messages(turns.slice(0, index)), answer: turns[index].content,
      follow_up: turns[index + 1].content, finished: finishedAt.get(index) !== false });
    const signal = await response.json();
    if (conversation !== begun) return;
    const words = turn("signal", "what “" + turns[index + 1].content.slice(0, 80) + "” says about the answer before it", "");
    words.className = "answer";
    for (const token of signal.tokens) {
      const cell = element("span", token.text, "t " + token.mark);
      cell.style.background = token.background;
      cell.style.color = token.ink;
      cell.title = token.value + " nats";
      words.append(cell);
      if (token.breaks) words.append(document.createElement("br"));
    }
    const scale = element("div", undefined, "scale");
    for (const stop of signal.scale) {
      const cell = element("span", stop.text);
      cell.style.background = stop.background;
      cell.style.color = stop.ink;
      scale.append(cell);
    }
    scale.append(element("span", "nats, mean |signal| " + signal.size + "; line above: more likely after your message, below: less"));
    words.parentNode.append(scale);
    scale.scrollIntoView({ block: "nearest" });
  } catch (error) { note(error.message, true); }
  waiting.remove();
}
function rate(may) { at("up").disabled = at("down").disabled = !may; }
async function rated(rating) {
  try {
    await post("rate", { conversation: last.conversation, exchange: last.exchange, message: last.index, rating });
    note("rated: thank you");
    rate(false);
    field.focus();
  } catch (error) { note(error.message, true); }
}
at("form").addEventListener("submit", event => {
  event.preventDefault();
  const text = field.value.trim();
  if (!text || running) return;
  field.value = "";
  say(text);
});
field.addEventListener("keydown", event => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); at("form").requestSubmit(); }
});
document.addEventListener("keydown", event => { if (event.key === "Escape" && running) running.abort(); });
stop.addEventListener("click", () => { if (running) running.abort(); field.focus(); });
at("signal").addEventListener("click", colour);
at("up").addEventListener("click", () => rated(1));
at("down").addEventListener("click", () => rated(-1));
function restart() {
  if (running) running.abort();
  turns = []; last = null; conversation = newId(); finishedAt.clear();
  log.replaceChildren();
  rate(false);
  field.focus();
}
at("new").addEventListener("click", restart);
at("system").addEventListener("change", restart);
if (!data.signal) { at("signal").disabled = at("colour").disabled = true; at("signal").title = data.no_signal; }
rate(false);
busy(false);
