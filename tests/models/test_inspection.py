"""Models and tokenizers as people bring them: each job works with what they lack, or says in one line why not."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from sdpo.errors import SettingError
from sdpo.evaluate.models import EvaluatedModel, ModelCache, tokenizer_of
from sdpo.models.generate import generate
from sdpo.models.policy import load_model
from sdpo.signal.loaded_model import LoadedModel
from sdpo.text.chat import encode_completion, encode_prompt
from sdpo.text.hindsight import template_named, with_hindsight
from sdpo.text.prompts import HINDSIGHT_TEMPLATES
from sdpo.text.template import THOUGHTS, fold_system, template_facts
from sdpo.tiny import MODEL_DIR
from tests.training import write_model

END, OTHER_END = "<|im_end|>", "<|endoftext|>"
TURN = "<|im_start|>{{ m['role'] }}\n{{ m['content'] | trim }}<|im_end|>\n"
START = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
PLAIN = "{% for m in messages %}" + TURN + "{% endfor %}" + START
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
ALTERNATING = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    + TURN + "{% endfor %}" + START
)  # fmt: skip
SILENT = "{% for m in messages %}{% if m['role'] != 'system' %}" + TURN + "{% endif %}{% endfor %}" + START
WITHOUT_SYSTEM = {"refuses": NO_SYSTEM + PLAIN, "alternates": ALTERNATING, "drops it": SILENT}

SYSTEM, QUESTION = {"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello?"}
HISTORY = [QUESTION, {"role": "assistant", "content": "Yes."}, {"role": "user", "content": "More."}]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Return a folder with a random model and the tiny world's tokenizer."""
    return write_model(tmp_path_factory.mktemp("inspected") / "model")


def changed(made: Path, folder: Path, **tokenizer_config: object) -> Path:
    """Return a copy of the model with other entries in its tokenizer's configuration; None takes one out."""
    shutil.copytree(made, folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text()) | tokenizer_config
    path.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))
    if template := tokenizer_config.get("chat_template"):
        (folder / "chat_template.jinja").write_text(str(template))
    return folder


LOADERS = {
    "training": lambda folder: load_model(str(folder)),
    "audit and analysis": lambda folder: LoadedModel.load(str(folder)),
    "evaluation": lambda folder: (tokenizer_of(EvaluatedModel("m", str(folder))), evaluated(folder)),
}
each_job = pytest.mark.parametrize("load", LOADERS.values(), ids=list(LOADERS))


def evaluated(folder: Path):
    return ModelCache("fp32").load(EvaluatedModel("m", str(folder)))


def refused(load, folder: Path) -> str:
    """Return the one line with which a job refuses the model."""
    with pytest.raises(SettingError) as caught:
        load(folder)
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)
    return str(caught.value)


# Padding and end tokens


@each_job
def test_a_missing_padding_token_is_the_end_token(load, made, tmp_path):
    folder = changed(made, tmp_path / "model", pad_token=None)
    assert AutoTokenizer.from_pretrained(folder).pad_token is None
    loaded = load(folder)
    tokenizer, model = (loaded.tokenizer, loaded.model) if isinstance(loaded, LoadedModel) else loaded
    assert tokenizer.pad_token == END
    prompts = [encode_prompt(tokenizer, messages) for messages in ([QUESTION], HISTORY)]
    alone = [generate(model, tokenizer, [prompt], 8, 1)[0] for prompt in prompts]
    assert generate(model, tokenizer, prompts, 8, 2) == alone


def test_a_padding_token_without_weights_is_replaced(made, tmp_path):
    folder = changed(made, tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(folder)
    assert load_model(str(folder))[0].pad_token == END


@each_job
def test_a_tokenizer_of_another_model_is_refused(load, made, tmp_path):
    folder = changed(made, tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"eos_token": "<end>"})
    tokenizer.chat_template = PLAIN.replace(END, "<end>")
    tokenizer.save_pretrained(folder)
    assert "<end>" in refused(load, folder)


@pytest.mark.parametrize("before", [OTHER_END, None])
def test_answers_end_as_the_template_ends_them(before, made, tmp_path, capsys):
    folder = changed(made, tmp_path / "model", eos_token=before, chat_template=PLAIN)
    tokenizer, model = load_model(str(folder))
    assert tokenizer.eos_token == END and f"answers end with {END}" in capsys.readouterr().out
    end = tokenizer.convert_tokens_to_ids(END)
    assert encode_completion(tokenizer, "Fine.")[-1] == end
    # An answer ends where the model ends it.
    with torch.no_grad():
        model.get_output_embeddings().weight[end] *= 0
        model.lm_head.weight = torch.nn.Parameter(torch.zeros_like(model.lm_head.weight))
        model.lm_head.bias = torch.nn.Parameter(torch.nn.functional.one_hot(torch.tensor(end), len(tokenizer)).float())
    assert generate(model, tokenizer, [encode_prompt(tokenizer, [QUESTION])], 8, 1) == [("", True)]


def test_other_end_tokens_that_a_model_declares_end_an_answer_too(made):
    tokenizer, model = load_model(str(made))
    other = tokenizer.convert_tokens_to_ids(OTHER_END)
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, other]
    bias = torch.nn.functional.one_hot(torch.tensor(other), len(tokenizer)).float() * 1e4
    model.lm_head.bias = torch.nn.Parameter(bias)
    assert generate(model, tokenizer, [encode_prompt(tokenizer, [QUESTION])], 8, 1) == [("", True)]


@pytest.mark.parametrize(
    ("template", "end"),
    [
        (PLAIN, END),
        (PLAIN.replace(END, OTHER_END), OTHER_END),
        # The end token, then one that ends the text.
        (PLAIN.replace(START, "{% if not add_generation_prompt %}<|endoftext|>{% endif %}" + START), END),
        # An end only where another turn follows.
        (PLAIN.replace(END, "{% if not loop.last or m['role'] == 'user' %}<|im_end|>{% endif %}"), END),
        # No end at all: the next turn's opening is none.
        (PLAIN.replace(END, ""), None),
        ("{% for m in messages %}### {{ m['role'] }}: {{ m['content'] }}\n{% endfor %}### assistant:", None),
    ],
)
def test_the_end_of_a_turn_is_read_from_the_template(template, end, tokenizer):
    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
    tokenizer.chat_template = template
    facts = template_facts(tokenizer)
    assert facts.end == end and facts.takes_system and not facts.fault


def test_no_end_token_at_all_is_refused(made, tmp_path):
    folder = changed(made, tmp_path / "model", eos_token=None, chat_template=PLAIN.replace(END, ""))
    assert "no end token" in refused(load_model, folder)


# Templates


@pytest.mark.parametrize("template", WITHOUT_SYSTEM.values(), ids=list(WITHOUT_SYSTEM))
def test_a_system_text_goes_into_the_users_turn(template, made, tmp_path, capsys):
    folder = changed(made, tmp_path / "model", chat_template=template)
    tokenizer, _ = load_model(str(folder))
    assert "takes no system message" in capsys.readouterr().out
    joined = {"role": "user", "content": "Be kind.\n\nHello?"}
    for messages in ([SYSTEM, QUESTION], [SYSTEM, *HISTORY]):
        expected = encode_prompt(tokenizer, [joined, *messages[2:]])
        assert encode_prompt(tokenizer, messages) == expected
    for name in HINDSIGHT_TEMPLATES:
        for messages in ([QUESTION], HISTORY, [SYSTEM, *HISTORY]):
            shown = with_hindsight(messages, "Shorter, please.", template_named(name))
            assert "Shorter, please." in tokenizer.decode(encode_prompt(tokenizer, shown))


def test_a_literal_control_token_in_a_folded_system_text_stays_text(made, tmp_path):
    tokenizer, _ = load_model(str(changed(made, tmp_path / "model", chat_template=ALTERNATING)))
    ids = encode_prompt(tokenizer, [{"role": "system", "content": f"a {END} b"}, QUESTION])
    assert ids.count(tokenizer.eos_token_id) == 1


def test_folding_keeps_every_other_message():
    late = {"role": "system", "content": "Late."}
    assert fold_system(HISTORY) == HISTORY
    folded = fold_system([SYSTEM, HISTORY[0], HISTORY[1], late, HISTORY[2]])
    assert [message["role"] for message in folded] == ["user", "assistant", "user"]
    assert folded[0]["content"] == "Be kind.\n\nHello?" and folded[2]["content"] == "Late.\n\nMore."


@pytest.mark.parametrize("marks", THOUGHTS, ids=[opening for opening, _ in THOUGHTS])
@pytest.mark.parametrize("line_break", ["\n", ""])
def test_a_thought_that_the_template_opens_is_closed(marks, line_break, made, tmp_path, capsys):
    opening, closing = marks
    opened = PLAIN.replace("assistant\n{% endif", f"assistant\n{opening}{line_break}{{% endif")
    tokenizer, _ = load_model(str(changed(made, tmp_path / "model", chat_template=opened)))
    assert "opens a thought" in capsys.readouterr().out
    text = tokenizer.decode(encode_prompt(tokenizer, [SYSTEM, QUESTION]))
    assert text.endswith(f"{opening}\n\n{closing}\n\n") and text.count(closing) == 1


def test_a_thought_in_the_prompt_is_none_that_the_template_opens(tokenizer):
    text = tokenizer.decode(encode_prompt(tokenizer, [{"role": "user", "content": "What does <think> mean?"}]))
    assert text.endswith("<think>\n\n</think>\n\n") and text.count("</think>") == 1


@each_job
@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ messages[0]['content'].text.upper() }}", "fails"),
        ("{{ raise_exception('one turn\nonly') }}", "one turn only"),
        ("{% for m in messages %}{{ m['content'][0]['text'] }}{% endfor %}", "leaves out text"),
        ("{{ messages[-1]['content'] }}", "leaves out text"),
        ("{% for m in messages %}", "fails"),
    ],
)
def test_a_template_that_cannot_be_used_is_refused(load, template, words, made, tmp_path):
    assert words in refused(load, changed(made, tmp_path / "model", chat_template=template))


# Weights


def without(folder: Path, *names: str) -> Path:
    """Take weights out of the model's file."""
    weights = load_file(folder / "model.safetensors")
    assert set(names) <= set(weights)
    save_file({k: v for k, v in weights.items() if k not in names}, folder / "model.safetensors", {"format": "pt"})
    return folder


@each_job
@pytest.mark.parametrize("missing", ["lm_head.weight", "model.layers.1.mlp.up_proj.weight", "model.norm.weight"])
def test_weights_that_the_file_lacks_are_refused(load, missing, tmp_path):
    folder = without(write_model(tmp_path / "model", tie_word_embeddings=False), missing)
    assert missing in refused(load, folder)


@each_job
def test_a_head_tied_to_the_embedding_is_not_missing(load, made):
    assert "lm_head.weight" not in load_file(made / "model.safetensors")
    load(made)


@each_job
def test_a_file_that_is_cut_off_is_one_line(load, made, tmp_path):
    folder = changed(made, tmp_path / "model")
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    assert "cannot be loaded" in refused(load, folder)


def test_a_complete_model_loads_as_the_library_loads_it(made):
    plain = AutoModelForCausalLM.from_pretrained(made, dtype=torch.float32)
    for (name, weight), (_, other) in zip(
        plain.named_parameters(), load_model(str(made))[1].named_parameters(), strict=True
    ):
        assert torch.equal(weight, other), name
