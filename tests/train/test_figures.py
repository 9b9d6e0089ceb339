"""The figure that a training run ends with: a complaint first, and emojis that can be read."""

import matplotlib

from sdpo.runtime.glyphs import PROPORTIONAL, figure_text
from sdpo.train import figures

matplotlib.use("Agg")


def sample(follow_up: str, largest: float, **more) -> dict:
    return {"step": 1, "follow_up": follow_up, "tokens": ["a", " 😀"], "signal": [0.1, largest], **more}


def test_the_first_interaction_of_the_figure_is_a_complaint():
    thanks, topic = sample("Thanks!", -9.0, kind="thanks"), sample("And you?", 0.2, kind="new topic")
    weak, strong = (sample(f"No emojis, {size}.", size, kind="complaint") for size in (-2.0, -5.0))
    shown = figures._informative_samples([thanks, topic, weak, strong])
    assert [row["follow_up"] for row in shown] == ["No emojis, -5.0.", "No emojis, -2.0.", "And you?"]
    # Without a kind the statement of the user decides; without both, the size of the signal.
    content, unhappy = sample("Fine.", -9.0, satisfied=True), sample("Bad.", -1.0, satisfied=False)
    assert figures._informative_samples([content, unhappy])[0] is unhappy
    assert figures._informative_samples([sample("a", 1.0), sample("b", 3.0)])[0]["follow_up"] == "b"


def test_emojis_are_drawn_or_named():
    assert figure_text("😀 ok", font=PROPORTIONAL) == "😀 ok"
    assert figure_text("🎉❤\ufe0f", font=PROPORTIONAL) == ":party popper:❤"
    assert figure_text("😀") == ":grinning face:"  # the monospaced font lacks it
    assert figure_text("漢", font=PROPORTIONAL) == "U+6F22"


def test_the_figure_has_a_glyph_for_every_character(tmp_path, recwarn):
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2)
    figures._draw_signals(axes[0], [sample("Leave out 🎉 and 😂, $5", -3.0, kind="complaint")])
    figures._draw_answers(figure.subfigures(1, 1), [("a 🐾 post", "before 😀🙈", "after $x$ 漢")])
    figure.savefig(tmp_path / "figure.png")
    pyplot.close(figure)
    assert not [str(warning.message) for warning in recwarn if "Glyph" in str(warning.message)]
    texts = [text.get_text() for text in axes[0].texts]
    assert "😀" in texts and "step 1, the user: Leave out :party popper: and 😂, \\$5" in texts
