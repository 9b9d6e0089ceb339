"""The settings of a release: the thresholds of every rule that says whether a checkpoint should take the model's place.

This is the one place where they are declared; `sdpo.evaluate.release_rules` says how each one is used.
"""

from dataclasses import dataclass

from sdpo.settings.common import LaunchSettings
from sdpo.settings.declare import setting

# These thresholds are no settings. Shares above which an evaluation warns, whether or not a verdict depends on it:
MANY_UNFINISHED, MANY_CONTRADICTORY = 0.1, 0.25
# Answers that hardly depend on their prompts have a topic near zero, of which no share can be kept: a loss of so many
# nats per token passes.
TOPIC_NOISE = 0.05
# One kind of general prompts has fewer answers than all of them: it may move by so many times MAX_DISTANCE.
KIND_FACTOR = 2.0


@dataclass(frozen=True, kw_only=True)
class ReleaseSettings(LaunchSettings):
    """Deciding on a release."""

    fail_on_keep: bool = setting(
        True, "exit with code 7 if no checkpoint should be released; with 0 the verdict is only written"
    )
    # Two points are what an item's wording or a template moves a benchmark by without any training.
    max_drop: float = setting(
        0.02, "how far a benchmark may fall; a larger fall counts if chance does not explain it", at_least=0
    )
    # The guard warns there (sdpo/train/collapse.py), and docs/real.md has healthy runs at 0.02 to 0.08 and harmed ones
    # at 0.15 and more.
    max_distance: float = setting(
        0.15, "the nats per token by which a checkpoint may differ from the start on general prompts", at_least=0
    )
    # The line of docs/real.md: what asks for another style leaves the fluency as it is, see sdpo/models/answer_quality.
    max_fluency_loss: float = setting(
        0.15, "the nats per token by which answers may be less fluent than the baseline's", at_least=0
    )
    # The guard warns there; the start's own answers are at 0.
    max_surprise: float = setting(
        0.2, "the nats per token by which answers may be more surprising to the start than the baseline's", at_least=0
    )
    # The line of docs/real.md.
    min_topic: float = setting(
        0.8, "the share of the baseline's figure by which answers must fit their own prompt", at_least=0, at_most=1
    )
    # One answer in a hundred is the line of docs/real.md; below it a rise is within the error of 256 answers.
    max_leaks: float = setting(
        0.01, "by how much the share of answers to a follow-up that nobody gave may rise", at_least=0, at_most=1
    )
    max_refusals: float = setting(0.05, "by how much the share of refusals may rise", at_least=0, at_most=1)
    max_other_language: float = setting(
        0.05, "by how much the share of answers in another language may rise", at_least=0, at_most=1
    )
    max_malformed: float = setting(
        0.02,
        "by how much the share of malformed answers may rise, where a rule or an oracle reads it",
        at_least=0,
        at_most=1,
    )
    # A model that has collapsed says the same to all; one that learned a style keeps most of its words.
    min_diversity: float = setting(
        0.5, "the share of the baseline's diversity that several answers to a prompt must keep", at_least=0, at_most=1
    )
    # The guard warns there: a style may halve answers or double them.
    max_length_factor: float = setting(
        5.0, "how many times longer or shorter answers may become on average", at_least=1
    )
    # One pair in five wrong moves a true win rate of 0.65 to 0.59.
    min_judge_truth: float = setting(
        0.8, "the share of labelled pairs that a judge must get right to be trusted without a warning", at_least=0,
        at_most=1,
    )  # fmt: skip
