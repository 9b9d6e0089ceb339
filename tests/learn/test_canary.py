"""The comparison of a canary with what is live."""

import json
import time
from random import Random

import pytest
from sqlalchemy import insert, select, update

from sdpo.gateway.schema import EXCHANGES
from sdpo.gateway.store import Store
from sdpo.learn import canary
from sdpo.registry import moves
from sdpo.registry.live import Canary, Live, read_live
from sdpo.runtime.launch import main
from sdpo.runtime.statistics import difference_interval
from sdpo.tiny import language
from tests.commands import JOBS
from tests.registries import add, settings, write_adapter


def rows(share, count=200, persons=40, seed=0):
    random = Random(seed)
    return [(f"p{number % persons}", random.random() < share) for number in range(count)]


def arm(ratings=0.0, follow_ups=0.0, count=200, seed=0):
    return canary.Arm(rows(ratings, count, seed=seed), rows(follow_ups, count, seed=seed + 1))


@pytest.mark.parametrize(
    ("own", "other", "decision"),
    [
        (arm(0.9, 0.9), arm(0.5, 0.5, seed=5), canary.PROMOTE),
        (arm(0.5, 0.5), arm(0.9, 0.9, seed=5), canary.ROLL_BACK),
        (arm(0.9, 0.4), arm(0.5, 0.8, seed=5), canary.ROLL_BACK),  # one clearly worse is enough
        (arm(0.7, 0.7), arm(0.7, 0.7), canary.KEEP_ON),
        (arm(1.0, 1.0, 1000), arm(1.0, 1.0, 1000, seed=5), canary.PROMOTE),  # not worse
        (arm(1.0, 1.0, 20), arm(0.0, 0.0, seed=5), canary.KEEP_ON),  # too few
        (canary.Arm(), canary.Arm(), canary.KEEP_ON),
    ],
)
def test_decisions(own, other, decision):
    compared = canary.compare(own, other, fewest=50, margin=0.05)
    assert compared.decision == decision, compared
    assert "%" in canary.table(compared.measures)


def test_the_interval_covers_the_difference_and_is_wider_where_persons_differ():
    covered = 0
    for seed in range(100):
        _, (low, high) = difference_interval(rows(0.7, 80, seed=seed), rows(0.5, 80, seed=1000 + seed), resamples=300)
        covered += low <= 0.2 <= high
    assert covered >= 92
    alone = [(f"{number}", number % 2 == 0) for number in range(100)]
    alike = [(f"{number // 10}", number // 10 % 2 == 0) for number in range(100)]
    widths = [high - low for _, (low, high) in (difference_interval(side, side) for side in (alone, alike))]
    assert widths[1] > 1.5 * widths[0]
    assert difference_interval([], alone) is None
    _, (low, high) = difference_interval([("a", True)] * 5, [("b", True)] * 5)
    assert low < -0.3 and high > 0.3  # five of five on both arms show nothing


class Talk:
    """A store of conversations with a canary, in which users like one side."""

    def __init__(self, folder):
        self.url = f"sqlite:///{folder / 'store.sqlite'}"
        self.store, self.random = Store(self.url), Random(4)

    def add(self, version, likes, count=120, started=None):
        for number in range(count):
            good = self.random.random() < likes
            write = language.write_thanks if good else lambda random: language.write_request(random, {"long": False})
            texts = ["a post", "an answer", write(self.random), "fine"]
            messages = [
                {"role": role, "content": text} for role, text in zip(("user", "assistant") * 2, texts, strict=True)
            ]
            ratings = [{"message": 1, "rating": 1 if good else -1, "comment": None}]
            self.store.add_conversation(
                messages, user=f"{number % 30}", versions=[version] * 2, ratings=ratings,
                started_at=time.time() + 1 if started is None else started,
            )  # fmt: skip


@pytest.fixture
def registry(tmp_path):
    for seed in (1, 2):
        add(tmp_path / "registry", write_adapter(tmp_path / str(seed), seed))
    given = settings(tmp_path / "registry")
    moves.promote(given, "v0001")
    moves.promote(settings(tmp_path / "registry", canary=0.3), "v0002")
    return tmp_path / "registry"


def run(registry, said, *flags):
    arguments = ["--tiny", "--registry", str(registry), "--store-url", said.url, *flags]
    return main(JOBS["jobs.canary"], arguments)


@pytest.mark.parametrize(("likes", "live", "state"), [(0.9, "v0002", "live"), (0.3, "v0001", "rejected")])
def test_a_canary_is_decided_by_what_was_said(registry, tmp_path, capsys, likes, live, state):
    said = Talk(tmp_path)
    said.add("v0001", 0.6)
    said.add("v0002", 0.0, started=1.0)  # before the canary began
    assert run(registry, said) == 0 and "too few" in capsys.readouterr().out
    said.add("v0002", likes)
    assert run(registry, said) == 0
    shown = capsys.readouterr().out
    assert ("promote: clearly better" if likes > 0.6 else "roll back: clearly worse") in shown
    assert read_live(registry).canary is not None  # nothing is done without FINISH=1
    assert run(registry, said, "--finish", "--canary", "0.2") == 0
    assert read_live(registry).version == live and read_live(registry).canary is None
    assert moves_states(registry)["v0002"] == state
    assert run(registry, said) == 2 and "no canary" in capsys.readouterr().err


def moves_states(registry):
    from sdpo.registry.versions import versions

    return {version.name: version.state for version in versions(registry)}


def test_follow_ups_are_read_in_the_languages_that_can_be_read():
    english = canary.complaint_reader(tiny=False)
    assert english("Please write it much shorter next time, this is too long for me to read.") is True
    assert english("Thank you, that is exactly what I was looking for, it is perfect.") is False
    assert english("Bitte schreib das viel kürzer, das ist mir zu lang und ich mag es nicht.") is None
    short = {"Too long.": True, "Shorter, please": True, "Thanks!": False, "Danke!": None, "Okay": None}
    assert {text: english(text) for text in short} == short
    tiny = canary.complaint_reader(tiny=True)
    assert tiny("That is too long. Shorter, please.") is True


def test_an_answer_counts_for_the_version_that_gave_it():
    from sdpo.gateway.conversations import StoredConversation

    found = "### Task:\nRespond to the user query using the provided context.\n<context>\nx\n</context>\n\n"
    roles, read = ("user", "assistant", "user", "assistant"), []
    messages = [{"role": role, "content": text} for role, text in zip(roles, ("a", "b", f"{found}c", "d"), strict=True)]
    rated = [{"message": 3, "rating": 1, "comment": None}]
    one = StoredConversation("x", "", 5.0, 6.0, messages, rated, ["", "v0002"], [])
    live = Live(None, None, Canary("v0002", "m", 0.5), changed_at=4.0)
    own, other = canary.arms([one], live, lambda text: read.append(text) or True)
    assert read == ["c"]  # not what a client had found for the question
    assert own.ratings == [("x", True)] and own.follow_ups == []
    assert other.ratings == [] and other.follow_ups == [("x", False)]


def test_an_answer_that_only_the_client_sent_counts_for_no_version(tmp_path):
    """A greeting that a client begins with was given by no model, so not by the base model either."""
    store = Store(f"sqlite:///{tmp_path}/store.sqlite")
    store.add_conversation(
        [{"role": "user", "content": "tea?"}, {"role": "assistant", "content": "Sencha."}], versions=["v0002"]
    )
    greeted = [{"role": "assistant", "content": "How can I help?"}, {"role": "user", "content": "Which tea is green?"}]
    with store.writing.begin() as connection:
        connection.execute(update(EXCHANGES).values(messages=json.dumps(greeted)))
    [one] = store.conversations()
    assert one.versions == [None, "v0002"] and len(one.messages) == 3
    live = Live(None, None, Canary("v0002", "m", 0.5), changed_at=0.0)
    own, other = canary.arms([one], live, lambda text: False)
    assert (own.follow_ups, other.follow_ups) == ([], [])


def branches_of(store: Store, name: str) -> None:
    """Add a rated answer, a follow-up that complains, and nine more answers to that follow-up."""
    said = [{"role": "user", "content": "a post"}, {"role": "assistant", "content": "an answer"}]
    said += [{"role": "user", "content": "Shorter, please."}, {"role": "assistant", "content": "fine"}]
    ratings = [{"message": 1, "rating": -1, "comment": None}]
    store.add_conversation(said, id=name, versions=["v0002"] * 2, ratings=ratings, started_at=time.time() + 1)
    with store.writing.begin() as connection:
        query = select(EXCHANGES).where(EXCHANGES.c.conversation == name, EXCHANGES.c.parent.is_not(None))
        last = dict(connection.execute(query).mappings().one())
        for number in range(9):
            answers = json.dumps([{"role": "assistant", "content": f"fine {number}"}])
            more = {"id": f"{name}-{number}", "started_at": last["started_at"] + number + 1, "answers": answers}
            connection.execute(insert(EXCHANGES), last | more)


def test_what_branches_of_a_conversation_share_counts_once(tmp_path):
    store = Store(f"sqlite:///{tmp_path / 'store.sqlite'}")
    branches_of(store, "c-1")
    assert len(list(store.conversations())) == 10
    live = Live(None, None, Canary("v0002", "m", 0.5), changed_at=4.0)
    own, other = canary.arms(store.conversations(), live, lambda text: True)
    assert (own.ratings, own.follow_ups) == ([("c-1", False)], [("c-1", False)])  # all of one group, too
    assert other == canary.Arm()
