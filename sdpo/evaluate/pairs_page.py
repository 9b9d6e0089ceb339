"""pairs.html: a page with the answers side by side, filtered by checkpoint, judge and outcome, the worse ones first."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from markupsafe import Markup

from sdpo.evaluate import judge_truth, release
from sdpo.evaluate.benchmark_table import benchmark_section
from sdpo.evaluate.changes import REASONS, Change, changes, counts
from sdpo.evaluate.comparison import Comparison
from sdpo.evaluate.condition_report import condition_section
from sdpo.evaluate.evidence import JudgeTruth
from sdpo.evaluate.prompts import EvaluationPrompt
from sdpo.evaluate.win_rates import BASELINE
from sdpo.runtime.page import data_block, write_page
from sdpo.users.judge import VerdictPair, outcome

_HERE = Path(__file__).parent

_BODY = Markup("""<h1>{title}</h1>
{release}<p class="persona"><b>Persona:</b> {persona}</p>
{judges}<div class="changes"><section id="worse" aria-label="Worse than before"></section>
<section id="better" aria-label="Better than before"></section></div>
{condition}
<form class="filters" aria-label="Which pairs to show">
<label>Checkpoint <select id="checkpoint"></select></label>
<label>Judge <select id="judge"></select></label>
<label>Outcome <select id="outcome"></select></label>
<label>Change <select id="change"></select></label>
<label>Order <select id="order"></select></label>
<label>Text <input id="text" type="search" placeholder="in prompt or answers"></label>
</form>
<p id="count" role="status"></p>
<main id="pairs"></main>
<p><button id="more" type="button" hidden>Show more</button></p>
<noscript><p>This page needs JavaScript to show the pairs; the table is in eval.csv.</p>{counts}</noscript>
""")


def write_pairs(path: Path, title: str, comparison: Comparison) -> Path:
    """Write the page and return its path. Each text is in it once, however many judges read it."""
    names = [name for name in comparison.answers if name != BASELINE]
    changed = changes(comparison)
    data = {
        "prompts": [[prompt.id, _shown(prompt, comparison.persona)] for prompt in comparison.prompts],
        "answers": {name: [answer.text for answer in answers] for name, answers in comparison.answers.items()},
        "checkpoints": sorted(names, key=lambda name: int(name.rsplit("-", 1)[1])),
        "verdicts": {
            judge: {
                name: [_verdict(verdict_pair) for verdict_pair in verdict_pairs]
                for name, verdict_pairs in by_name.items()
            }
            for judge, by_name in comparison.verdict_pairs.items()
        },
        "reasons": dict(REASONS),
        "changes": changed,
    }
    body = _BODY.format(
        title=title,
        persona=comparison.persona,
        judges=_judges(comparison.judge_truth, comparison.judge_warnings),
        counts=_counts(changed),
        release=release.page(comparison.release),
        condition=condition_section(comparison.condition, comparison.condition_notes),
    )
    body += benchmark_section(comparison.benchmarks) + data_block("data", data)
    style, script = ((_HERE / f"pairs.{kind}").read_text("utf-8") for kind in ("css", "js"))
    return write_page(path, title, body, style, script)


def _judges(truths: Sequence[JudgeTruth], warnings: Sequence[str]) -> Markup:
    """Return how far each judge can be trusted; a weak one's warning is marked."""
    lines = [Markup("<p>{}</p>\n").format(judge_truth.line(truth)) for truth in truths]
    weak = [Markup('<p class="weak"><b>Warning:</b> {}</p>\n').format(text) for text in warnings]
    return Markup('<div class="judges">\n{}</div>\n').format(Markup("").join(weak + lines)) if lines else Markup("")


def _counts(changed: Mapping[str, Mapping[str, Sequence[Sequence[Change]]]]) -> Markup:
    """Return a table of how many answers of each checkpoint got worse and better, and why."""
    head = Markup("").join(Markup("<th>{}</th>").format(text) for text, _ in REASONS.values())
    rows = [
        Markup("<tr><td>{}</td><td>{}</td>{}</tr>").format(
            name, judge, Markup("").join(Markup("<td>{}</td>").format(number) for number in counts(own).values())
        )
        for judge, by_name in changed.items()
        for name, own in by_name.items()
    ]
    return Markup("<table><tr><th>checkpoint</th><th>judge</th>{}</tr>{}</table>").format(head, Markup("").join(rows))


def _shown(prompt: EvaluationPrompt, persona: str) -> str:
    """Return the prompt's text, with its own persona if that is not the one of all prompts."""
    return prompt.text if prompt.persona in ("", persona) else f"{prompt.text}\n\n[{prompt.persona}]"


def _verdict(verdict_pair: VerdictPair | None) -> list[str]:
    """Return the outcome and the verdicts in both orders ("?" if unreadable); the checkpoint is A first, then B."""
    if verdict_pair is None:
        return ["same", "", ""]
    result = (
        "unreadable"
        if None in verdict_pair
        else {"first": "win", "second": "loss", "tie": "tie"}[outcome(verdict_pair)]
    )
    return [result, verdict_pair[0] or "?", verdict_pair[1] or "?"]
