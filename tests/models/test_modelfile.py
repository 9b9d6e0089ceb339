"""The Modelfile's template shows conversations exactly as the chat template does, for templates of several families."""

import re

import pytest
from transformers import AutoTokenizer

from sdpo.models.modelfile import modelfile, turns_of
from sdpo.text.template import render_prompt, template_facts
from sdpo.tiny import MODEL_DIR

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEMPLATES = {
    "chatml": CHATML,
    "chatml with a system message of its own": "{% if messages[0].role != 'system' %}<|im_start|>system\nYou help."
    "<|im_end|>\n{% endif %}" + CHATML,
    "llama": "{{ bos_token }}{% for message in messages %}<|start|>{{ message.role }}<|end|>\n\n"
    "{{ message.content | trim }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant<|end|>\n\n{% endif %}",
    "without system": "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('none') }}{% endif %}"
    "{% for message in messages %}<start>{{ 'model' if message.role == 'assistant' else 'user' }}\n"
    "{{ message.content | trim }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<start>model\n{% endif %}",
    "instructions": "{{ bos_token }}{% for message in messages %}{% if message.role == 'user' %}[INST] "
    "{{ message.content }} [/INST]{% elif message.role == 'assistant' %} {{ message.content }}<|im_end|>"
    "{% else %}{{ raise_exception('no system') }}{% endif %}{% endfor %}",
}


def ollama(text: str, messages: list[dict]) -> str:
    """Render a Modelfile's template as Ollama does, as far as such templates go."""
    template = re.search(r'TEMPLATE """(.*?)"""', text, re.S)[1]
    body, after = re.fullmatch(r"\{\{ range \.Messages \}\}(.*)\{\{ end \}\}\{\{ end \}\}(.*)", template, re.S).groups()
    parts = re.split(r'\{\{ (?:else )?if eq \.Role "(\w+)" \}\}', body)
    shapes = dict(zip(parts[1::2], parts[2::2], strict=True))
    system = re.search(r'SYSTEM """(.*?)"""', text, re.S)
    if system and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": system[1]}, *messages]
    return "".join(shapes[row["role"]].replace("{{ .Content }}", row["content"]) for row in messages) + after


@pytest.mark.parametrize("name", ["tiny", *TEMPLATES])
def test_a_conversation_looks_as_in_the_chat_template(name):
    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
    tokenizer.add_special_tokens({"bos_token": "<s>", "eos_token": "<|im_end|>"} if name != "tiny" else {})
    if name != "tiny":
        tokenizer.chat_template = TEMPLATES[name]
    system, first = {"role": "system", "content": "Be kind."}, {"role": "user", "content": "Why?"}
    later = [{"role": "assistant", "content": "So."}, {"role": "user", "content": "And then?"}]
    conversations = [[first], [first, *later], [first, *later, *later]]
    if template_facts(tokenizer).takes_system:
        conversations += [[system, *rows] for rows in conversations]
    text = modelfile(tokenizer, "model.gguf")
    for messages in conversations:
        bos = tokenizer.bos_token or ""
        assert ollama(text, messages) == render_prompt(tokenizer, messages).removeprefix(bos)
    assert text.startswith("FROM ./model.gguf\n") and f'PARAMETER stop "{tokenizer.eos_token}"' in text
    assert (turns_of(tokenizer).system is None) == (name in ("without system", "instructions"))
