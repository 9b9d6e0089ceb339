"""signal.html: every case with both follow-ups side by side; every token is a cell that shows details when selected."""

import math
from pathlib import Path
from typing import Any

from markupsafe import Markup

from sdpo.runtime.page import data_block, write_page
from sdpo.signal.cells import CELL_STYLE, cell, legend

KINDS = {"unrelated": "unrelated follow-up", "followup": "relevant follow-up"}

_STYLE = (
    CELL_STYLE
    + """
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 1rem; }
@media (max-width: 700px) { .pair { grid-template-columns: 1fr; } }
.pair > * { min-width: 0; }
.t { cursor: pointer; }
.t:hover, .t:focus { outline: 2px solid var(--ink); outline-offset: 1px; }
#card { position: fixed; z-index: 2; background: var(--panel); color: var(--ink); border: 1px solid var(--line);
  padding: .6rem .8rem; font-size: .85rem; width: 22rem; max-width: 100vw; box-shadow: 0 2px 10px #0006; }
#card[hidden] { display: none; }
#card table { display: table; font-size: .8rem; width: 100%; }
#card td { white-space: pre-wrap; } #card td:nth-child(2n) { white-space: nowrap; text-align: right; }
@media (max-width: 700px) { #card { left: 0 !important; right: 0; top: auto !important; bottom: 0; width: 100vw;
  max-height: 45vh; overflow-y: auto; } body { padding-bottom: 46vh; } }
@media print { #card { display: none; } }
"""
)

# The details card of a token: filled from the data block, through textContent only, so that text stays text.
_SCRIPT = r"""
const data = JSON.parse(document.getElementById("signals").textContent);
const card = document.getElementById("card");
let current;
const shown = text => text === "" ? "… (part of the next character)" :
  text.replace(/\n/g, "⏎").replace(/\t/g, "⇥").replace(/^ | $/g, "␣");
const percent = p => p >= 0.0995 ? (100 * p).toFixed(1) + "\u00a0%" : p >= 1e-4 ? (100 * p).toPrecision(2) + "\u00a0%" :
  p.toExponential(1);
function element(tag, text) {
  const created = document.createElement(tag);
  if (text !== undefined) created.textContent = text;
  return created;
}
function open(cell) {
  const [row, kind, index] = cell.dataset.at.split(" ");
  const facts = data[row], at = Number(index);
  card.replaceChildren();
  card.append(element("strong", shown(facts.tokens[at])), element("div", "signal " + cell.dataset.v +
    " nats · π(y | x) " + percent(facts.p.bare[at]) + " → π(y | x, o) " + percent(facts.p[kind][at])));
  const before = facts.top.bare[at], after = facts.top[kind][at];
  if (before.length) {
    const table = element("table"), head = table.insertRow();
    for (const words of ["most likely given x", "given x, o"]) {
      const title = element("th", words);
      title.colSpan = 2;
      head.append(title);
    }
    before.forEach((token, line) => {
      const cells = table.insertRow();
      for (const [text, p] of [token, after[line]])
        for (const words of [shown(text), percent(p)]) cells.insertCell().textContent = words;
    });
    card.append(table);
  }
  card.hidden = false;
  current = cell;
  dock();
}
function dock() {
  const box = current.getClientRects()[0], size = card.getBoundingClientRect();
  const left = Math.max(4, Math.min(box.left, innerWidth - size.width - 20));
  const below = box.bottom + 8 + size.height < innerHeight;
  card.style.left = left + "px";
  card.style.top = Math.max(4, below ? box.bottom + 8 : box.top - size.height - 8) + "px";
}
const cellOf = event => event.target.closest ? event.target.closest(".t") : null;
for (const kind of ["mouseover", "focusin", "click"])
  document.addEventListener(kind, event => {
    const cell = cellOf(event);
    if (cell) open(cell); else if (kind !== "focusin" && !card.contains(event.target)) card.hidden = true;
  });
document.addEventListener("keydown", event => { if (event.key === "Escape") card.hidden = true; });
addEventListener("scroll", () => { if (!card.hidden) dock(); }, { passive: true });
document.getElementById("values").addEventListener("change", event =>
  document.body.classList.toggle("values", event.target.checked));
addEventListener("beforeprint", () => document.body.classList.add("values"));
addEventListener("afterprint", () =>
  document.body.classList.toggle("values", document.getElementById("values").checked));
"""


def write_signal_page(path: Path, result: dict[str, Any]) -> Path:
    """Write the page of an analysis and return its path. The write is atomic: no incomplete page is left behind."""
    cases, limit = result["cases"], result["scale"]["limit"]
    sizes = result["summary"]["mean_size"]
    body = [
        Markup("<h1>The signal per token</h1><p>Model {}, {} cases. Mean |signal| per token: {:.4f} nats with the "
               "unrelated follow-ups, {:.4f} nats with the relevant ones.</p>").format(
            result["model"], len(cases), sizes["unrelated"], sizes["followup"]
        ),
        _verdict(result["relevance"]),
        legend(limit, "Point at a token or tap it for details."),
        *(_case(number, case, limit) for number, case in enumerate(cases)),
        Markup("<h2>The hindsight template</h2><p>Shown in this place: {place}.</p><p class='quote'>{text}</p>").format(
            **result["template"]
        ),
        Markup("<div id='card' role='status' hidden></div>"),
        data_block("signals", [_facts(case) for case in cases]),
    ]  # fmt: skip
    return write_page(path, "The signal per token", Markup("").join(body), _STYLE, _SCRIPT)


def _verdict(relevance: dict[str, Any]) -> Markup:
    advice = Markup("<p>{}</p>").format(relevance["advice"]) if relevance["advice"] else Markup("")
    return Markup("<p><strong>{}</strong></p>{}").format(relevance["sentence"], advice)


def _case(number: int, case: dict[str, Any], limit: float) -> Markup:
    panels = Markup("").join(_panel(number, case, kind, limit) for kind in KINDS)
    ended = "" if case["finished"] else " The answer was truncated at MAX_COMPLETION_TOKENS."
    return Markup(
        "<section><h2>{}. {} <span class='quiet'>{}</span></h2>{}<p class='quote'>{}</p>"
        "<p class='quiet'>{} tokens.{}</p><div class='pair'>{}</div></section>"
    ).format(
        number + 1,
        case["id"],
        case["tag"],
        Markup("<p class='quote quiet'>{}</p>").format(case["system"]) if case["system"] else "",
        case["raw_prompt"],
        len(case["tokens"]),
        ended,
        panels,
    )


def _panel(number: int, case: dict[str, Any], kind: str, limit: float) -> Markup:
    signal = case["signal"][kind]
    follow_up = case["unrelated_followup" if kind == "unrelated" else "feedback_followup"]
    tokens = Markup("").join(
        cell(piece, value, limit, Markup(" tabindex='0' data-at='{} {} {}'").format(number, kind, index))
        for index, (piece, value) in enumerate(zip(case["tokens"], signal, strict=True))
    )
    return Markup(
        "<div><p class='quote'><span class='quiet'>{}, mean |signal| {:.4f}</span><br>{}</p>"
        "<div class='answer'>{}</div></div>"
    ).format(KINDS[kind], sum(map(abs, signal)) / len(signal), follow_up, tokens)


def _facts(case: dict[str, Any]) -> dict[str, Any]:
    """Return the data that the details card shows of a case's tokens."""
    return {
        "tokens": case["tokens"],
        "p": {name: [_rounded(math.exp(value)) for value in values] for name, values in case["logps"].items()},
        "top": {
            name: [[(text, _rounded(p)) for text, p in position] for position in positions]
            for name, positions in case["alternatives"].items()
        },
    }


def _rounded(p: float) -> float:
    return float(f"{p:.4g}")
