"""A simulated user by rule: no server, any model, exact adherence, and the same follow-ups in a resumed run."""

import shutil

import pytest
import torch
from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

from jobs.train_online_tldr import JOB
from sdpo.english.checkers import CHECKERS
from sdpo.english.oracle import EnglishOracle
from sdpo.english.styles import complaints, praise
from sdpo.text.prompts import PERSONAS
from sdpo.tiny import MODEL_DIR, oracle
from sdpo.tiny.world import TinyOracle
from tests.worlds import curve, rows_of, run_job

pytestmark = pytest.mark.slow

STYLE = "no_emojis"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Return a folder with a model of a few thousand random weights, whose answers no tiny oracle reads."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, tie_word_embeddings=True, initializer_range=0.2,
        max_position_embeddings=512, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


RULE = {"user_model_name_or_path": "rule", "train_n": 64, "bs": 16, "eval_n": 8, "eval_batch_size": 8}


def test_any_model_with_a_checkable_style_is_read_exactly(model, tmp_path):
    out = tmp_path / "run"
    done = run_job(None, out, model=model, style=STYLE, max_completion_tokens=16, **RULE)
    assert "server" not in done.stdout
    rows, samples = rows_of(out / "metrics.jsonl"), rows_of(out / "samples.jsonl")
    checker = CHECKERS[STYLE]
    for sample in samples:
        expected = praise() if checker.fits(sample["completion"], sample["prompt"]) else complaints(STYLE)
        assert sample["follow_up"] in expected
    for row in rows:
        assert row["adherence"] == row["satisfied"] and set(row["axes"]) == set(CHECKERS) - {STYLE}
    assert not list(out.glob("replies-*")) and not (out / "meter.json").exists()

    # Killed after step 2, it goes on with the same follow-ups.
    again = tmp_path / "bis"  # as long as the first name: a checkpoint records the sizes of its files
    shutil.copytree(out, again, ignore=shutil.ignore_patterns("checkpoint-4", "wandb", ".lock"))
    for name in ("summary.json", "README.md", "training.png"):
        (again / name).unlink()
    for path in again.rglob("*.json"):
        path.write_text(path.read_text("utf-8").replace(str(out), str(again)), "utf-8")
    run_job(None, again, model=model, style=STYLE, max_completion_tokens=16, **RULE)
    assert curve(again) == curve(out)
    assert [row["follow_up"] for row in rows_of(again / "samples.jsonl")] == [row["follow_up"] for row in samples]


def test_the_tiny_world_has_a_user_by_rule_too(tmp_path):
    out = tmp_path / "run"
    run_job(None, out, style=STYLE, **RULE)
    for sample in rows_of(out / "samples.jsonl"):
        meant = oracle.read_follow_up(sample["follow_up"])
        assert meant == oracle.react(sample["completion"], {"emoji": False})


def test_a_style_that_no_rule_checks_is_refused(model, tmp_path):
    done = run_job(None, tmp_path / "run", 2, model=model, style="poetic", **RULE)
    assert "no rule checks STYLE=poetic" in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_which_oracle_reads_what(tmp_path):
    tiny, other = str(MODEL_DIR), "Qwen/Qwen3-4B"
    assert isinstance(JOB.find_oracle(tiny, STYLE), TinyOracle)
    assert isinstance(JOB.find_oracle(other, STYLE), EnglishOracle)
    assert JOB.find_oracle(other, "poetic") is None and JOB.find_oracle(other, None) is None
    # Somebody else's style of the same name is another style.
    styles = tmp_path / "styles.json"
    styles.write_text('{"no_emojis": "I want many emojis."}')
    assert JOB.find_oracle(other, STYLE, styles) is None
    assert all(JOB.find_oracle(other, style) for style in CHECKERS if style in PERSONAS)


def test_a_rule_of_ones_own_asks_the_tiny_model_nothing_in_a_language_that_it_does_not_speak(tmp_path):
    styles = tmp_path / "styles.json"
    styles.write_text('{"short": {"persona": "P.", "complaints": "C.", "rule": {"most_words": 9}}}')
    there, elsewhere = (JOB.find_oracle(model, "short", styles) for model in (str(MODEL_DIR), "Qwen/Qwen3-4B"))
    assert type(there) is type(elsewhere) is EnglishOracle and there.fits("One, two.", "")
    assert elsewhere.general_prompts and elsewhere.rehearsal_prompts and elsewhere.open_prompts
    assert not (there.general_prompts or there.rehearsal_prompts or there.open_prompts)
