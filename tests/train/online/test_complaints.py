"""LEARN_FROM=complaints, and whether users are satisfied: as they state, in the samples, and in a replay of these."""

import json
from random import Random

import pytest
import torch
from safetensors.torch import load_file

from sdpo.method.objective import MINIMUM_TAUGHT_SHARE, Objective
from sdpo.models.policy import load_model
from sdpo.study import run as study
from sdpo.text.records import read_replays
from sdpo.tiny import MODEL_DIR, WORLD_DIR, language, oracle
from sdpo.tiny.data import SUFFIX
from sdpo.tiny.world import TinyUser
from sdpo.train.callbacks import _metrics
from sdpo.train.record import StepRecord
from sdpo.users.simulator import FollowUp
from tests.training import session_of, write_model
from tests.worlds import curve, rows_of, run_job

STYLE = {"emoji": False}


class StatingUser:
    """Replies by a list of (complains, states): what the follow-up says, and what the user states, if anything."""

    def __init__(self, *replies: tuple[bool, bool | None]) -> None:
        self.replies, self.round = replies, 0

    def react(self, prompts, completions):
        replies = [self.replies[index % len(self.replies)] for index in range(len(completions))]
        rng = Random(0)
        return [
            FollowUp(language.write_request(rng, STYLE) if complains else language.write_thanks(rng), satisfied=stated)
            for complains, stated in replies
        ]


def trainer_of(folder, user, complaints_only=True, steps=2, reads=False, **config) -> study.OnlineTrainer:
    trainer = study.build_trainer(str(folder), "frozen", 0, steps, user, **config)
    trainer.complaints_only = complaints_only
    if not reads:
        trainer.is_satisfied, trainer._reader = None, TinyReader()
    return trainer


class TinyReader:
    """Reads the messages of the tiny world; the trainer's own reader is fitted to real language."""

    def kinds(self, messages):
        return ["thanks" if oracle.is_satisfied(message) else "complaint" for message in messages]


def weights_of(trainer, count: int = 8) -> list[float]:
    rows = [trainer.train_dataset[index] for index in range(count)]
    return trainer._generate_and_score_completions(rows)["weights_B"].tolist()


# The weights of a step's rows


@pytest.mark.parametrize(
    ("replies", "complaints_only", "expected"),
    [
        # Two of four are satisfied: the others share the step.
        ([(True, False), (False, True), (True, False), (False, True)], True, [2, 0, 2, 0]),
        # What nobody states is read: here the reader finds complaints in the first and third message.
        ([(True, None), (False, True), (True, None), (False, None)], True, [2, 0, 2, 0]),
        # What the user states counts, not what the follow-up says.
        ([(True, True), (False, False)], True, [0, 2]),
        ([(True, True)], True, [0]),
        ([(True, False), (False, True)], False, [1, 1]),
        ([(True, True)], False, [1]),
    ],
)
def test_satisfied_users_have_no_weight_and_the_others_share_the_step(tmp_path, replies, complaints_only, expected):
    weights = weights_of(trainer_of(tmp_path, StatingUser(*replies), complaints_only))
    assert weights == pytest.approx(expected * (8 // len(expected)))


def test_few_complaints_share_a_smaller_step(tmp_path):
    # One complaint of eight is less than MINIMUM_TAUGHT_SHARE: it counts as that share.
    weights = weights_of(trainer_of(tmp_path, StatingUser((True, False), *[(False, True)] * 7)))
    assert weights == pytest.approx([8 / (MINIMUM_TAUGHT_SHARE * 8), *[0] * 7])


def test_answers_of_satisfied_users_are_drawn_to_the_teacher_without_their_follow_up(tmp_path):
    trainer = trainer_of(tmp_path, StatingUser((True, False), (False, True)), objective=Objective(kind="full"))
    trainer.content_weight = 0.1
    rows = [trainer.train_dataset[index] for index in range(8)]
    batch = trainer._generate_and_score_completions(rows)
    assert batch["weights_B"].tolist() == pytest.approx([2, 0.1] * 4)
    contexts = batch["contexts"]
    assert all(row.hindsight != row.prompt for row in contexts[::2])
    assert all(row.hindsight == row.prompt for row in contexts[1::2])
    result = trainer.hindsight.loss(
        trainer.model, contexts, batch["completion_ids"], batch["targets"], torch.tensor([0.0, 1.0] * 4)
    )
    assert result.loss.item() == pytest.approx(0.0, abs=1e-5), "the policy has not moved from the frozen teacher"
    result.loss.backward()
    assert max(weight.grad.abs().max() for weight in trainer.model.parameters() if weight.grad is not None) < 1e-3


def test_with_focus_every_token_of_a_satisfied_users_answer_counts(tmp_path):
    objective = Objective(kind="full", focus=1000.0)  # more than any follow-up moves a token
    trainer = trainer_of(tmp_path, StatingUser((True, False), (False, True)), objective=objective)
    rows = [trainer.train_dataset[index] for index in range(8)]
    batches = {}
    for weight in (0.0, 0.1):
        trainer.content_weight = weight
        batches[weight] = trainer._generate_and_score_completions(rows)
    assert not any(target.moved for target in [*batches[0.0]["targets"], *batches[0.1]["targets"][::2]])
    assert all(target.moved_T.all() for target in batches[0.1]["targets"][1::2])
    assert batches[0.1]["weights_B"].tolist() == pytest.approx([0, 0.1] * 4)


def test_the_oracle_reads_what_the_user_does_not_state(tmp_path):
    user = StatingUser((True, None), (False, None), (True, True), (False, False))
    assert weights_of(trainer_of(tmp_path, user, reads=True)) == pytest.approx([2, 0, 0, 2] * 2)


# Training


def moved(trainer) -> bool:
    start = load_model(str(MODEL_DIR))[1]
    pairs = zip(start.parameters(), trainer.model.parameters(), strict=True)
    return any(not torch.equal(before, after) for before, after in pairs)


@pytest.mark.slow
def test_with_all_users_satisfied_no_weight_moves(tmp_path):
    for complaints_only in (True, False):
        trainer = trainer_of(tmp_path, StatingUser((True, True)), complaints_only)
        trainer.train()
        assert trainer.state.global_step == 2 and moved(trainer) is not complaints_only


# The share of satisfied users in the metrics


@pytest.mark.parametrize(
    ("replies", "stated", "satisfied"),
    [([(True, True), (True, False)], 8, 4), ([(True, None)], 8, 0), ([(True, True), (False, None)], 8, 8)],
)
def test_the_record_counts_what_users_state_or_write(tmp_path, replies, stated, satisfied):
    trainer = trainer_of(tmp_path, StatingUser(*replies))
    weights_of(trainer)
    assert (trainer.record.stated, trainer.record.stated_satisfied) == (stated, satisfied)


def test_the_share_of_satisfied_users_is_that_of_those_of_whom_it_is_known():
    def record(stated: int, satisfied: int) -> StepRecord:
        return StepRecord(rows=4, usable=4, judged=4.0, satisfied=1.0, stated=stated, stated_satisfied=satisfied)

    assert _metrics([record(4, 3)], 0.0)["satisfied"] == 0.75
    assert _metrics([record(4, 3), record(4, 2)], 0.0)["satisfied"] == 0.625
    assert _metrics([record(4, 3), record(1, 1)], 0.0)["satisfied"] == 0.8
    assert _metrics([record(0, 0)], 0.0)["satisfied"] == 0.25, "logged users: read from the signal"


# Samples and their replay


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Return the run directory of an online run on complaints, every interaction of which is in its samples."""
    out = tmp_path_factory.mktemp("complaints") / "recorded"
    run_job(None, out, user_model_name_or_path="rule", **RUN)
    return out


RUN = {"learn_from": "complaints", "bs": 4, "train_n": 16, "eval_n": 0, "save_steps": 4, "guard": "off"}


def replay_of(recorded, path, **changes):
    """Write the samples in the order of the prompts that the run was given, which the trainer shuffles by the seed."""
    samples = {row["prompt"]: row for row in rows_of(recorded / "samples.jsonl")}
    prompts = [row["prompt"].removesuffix(SUFFIX) for row in rows_of(WORLD_DIR / "data" / "train.jsonl")[:16]]
    assert set(samples) == set(prompts)
    path.write_text("".join(json.dumps(samples[prompt] | changes) + "\n" for prompt in prompts), "utf-8")
    return path


def weights_in(run) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoint-4" / "model.safetensors")


@pytest.mark.slow
def test_samples_state_whether_the_user_is_satisfied(recorded):
    samples = rows_of(recorded / "samples.jsonl")
    assert len(samples) == 16 and {row["satisfied"] for row in samples} == {True, False}
    for row in samples:
        assert row["satisfied"] == (not oracle.react(row["completion"], STYLE).wanted)
        assert row["satisfied"] == oracle.is_satisfied(row["follow_up"])
    assert [row.satisfied for row in read_replays(recorded / "samples.jsonl")] == [row["satisfied"] for row in samples]
    user = TinyUser(STYLE)
    assert [reply.satisfied for reply in user.react([""], ["TL;DR: dog dropped my passport lol"])] == [True]


@pytest.mark.slow
def test_a_replay_of_the_samples_trains_the_same(recorded, tmp_path):
    replay = replay_of(recorded, tmp_path / "replay.jsonl")
    run_job(None, tmp_path / "again", replay_jsonl=replay, **RUN)
    for row, other in zip(curve(tmp_path / "again"), curve(recorded), strict=True):
        assert row == pytest.approx(other, rel=1e-4, abs=1e-6)
    before, after = load_file(MODEL_DIR / "model.safetensors"), weights_in(tmp_path / "again")
    for name, weight in weights_in(recorded).items():
        change = (weight - before[name]).abs().max() if name in before else torch.tensor(1.0)
        assert change > 0 and (weight - after[name]).abs().max() < 1e-2 * change
    # The trainer shuffles the rows within a step.
    names = ("step", "prompt", "completion", "follow_up", "satisfied", "tokens")
    first, second = (
        sorted([row[name] for name in names] for row in rows_of(run / "samples.jsonl"))
        for run in (recorded, tmp_path / "again")
    )
    assert first == second


@pytest.mark.parametrize("masked", [0, 1])
def test_a_truncated_answer_is_replayed_without_an_end(tmp_path, masked):
    row = {"prompt": "ask", "completion": "TL;DR: dog dropped", "follow_up": "shorter"}
    replay = tmp_path / "replay.jsonl"
    replay.write_text("".join(json.dumps(row | {"finished": finished}) + "\n" for finished in (True, False) * 4))
    given = {"model": write_model(tmp_path / "model"), "replay_jsonl": replay, "mask_truncated": masked, "guard": "off"}
    trainer = session_of("train_online_tldr", tmp_path / "run", **given).trainer
    batch = trainer._generate_and_score_completions([trainer.train_dataset[index] for index in range(8)])
    ends = [ids[-1] in trainer.eos_token_ids for ids in batch["completion_ids"]]
    assert ends == [row["finished"] for row in batch["text"]] and sum(ends) == 4
    assert batch["usable_B"].tolist() == [end or not masked for end in ends]


@pytest.mark.slow
def test_a_replay_is_learned_from_by_what_its_rows_state(recorded, tmp_path):
    """If every row states that the user is satisfied, no weight moves, whatever an oracle reads in the follow-ups."""
    replay = replay_of(recorded, tmp_path / "replay.jsonl", satisfied=True)
    run_job(None, tmp_path / "run", replay_jsonl=replay, **RUN)
    before = load_file(MODEL_DIR / "model.safetensors")
    assert all(
        torch.equal(before[name], after) for name, after in weights_in(tmp_path / "run").items() if name in before
    )
    assert {row["satisfied"] for row in rows_of(tmp_path / "run" / "metrics.jsonl")} == {1.0}
