import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdpo.errors import RecordError
from sdpo.records import Prompt, prompt_lines, read_prompts


@given(st.lists(st.text(min_size=1).filter(str.strip), max_size=5))
def test_prompts_come_back_as_they_went(tmp_path_factory, texts):
    path = tmp_path_factory.mktemp("records") / "prompts.jsonl"
    prompts = [Prompt(str(number), text) for number, text in enumerate(texts)] or [Prompt("0", "x")]
    lines = list(prompt_lines(prompts))
    path.write_text("".join(lines), "utf-8", newline="\n")
    assert read_prompts(path, "make prep-tldr") == prompts


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'{"id": "a", "prompt": "x"}\n{"id": "b"}\n', "line 2.*prompt"),
        (b'{"id": "a", "prompt": 3}\n', "line 1.*prompt"),
        (b'{"id": "a", "prompt": "  "}\n', "line 1.*prompt"),
        (b'{"prompt": "x"}\n', "line 1.*id"),
        (b'{"id": "a", "prompt": "x"}\n\n{"id": "a", "prompt": "y"}\n', "line 3.*twice"),
        (b'{"id": "a", "prompt": "x"}\n["list"]\n', "line 2"),
        (b'{"id": "a", "prompt"\n', "line 1"),
        (b"", "no prompt"),
        (b"\xff\xfe", "UTF-8"),
    ],
)
def test_a_file_that_is_not_one_is_refused_with_its_place(tmp_path, content, expected):
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(content)
    with pytest.raises(RecordError, match=expected) as caught:
        read_prompts(path, "make prep-tldr")
    assert str(path) in str(caught.value)


def test_a_missing_file_names_the_command_that_makes_it(tmp_path):
    with pytest.raises(RecordError, match="make prep-tldr"):
        read_prompts(tmp_path / "none.jsonl", "make prep-tldr")
