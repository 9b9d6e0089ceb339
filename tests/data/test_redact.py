"""Private values become typed marks, the same value the same mark; ordinary text stays."""

import sys
import time
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from jobs import prep_logs
from sdpo.data.conversation import Conversation, SourceMessage
from sdpo.data.patterns import is_iban, is_luhn
from sdpo.data.private_values import private_spans
from sdpo.data.redact import Redactor
from sdpo.runtime import launch
from tests.conversations import openai
from tests.preparation import report_of, rows_of, run, write

VALUES = {
    "EMAIL": ["ann.lee+x@mail.example.co.uk", "bob@example.com", "jürgen@müller.example"],
    "PHONE": [
        "+49 171 2345678", "(555) 223-4567", "555-223-4567", "020 7946 0958", "+1-202-555-0143", "0171/2345678",
        "13812345678", "138 1234 5678",
    ],
    "ID": ["11010519491231002X", "123-45-6789", "123 45 6789"],
    "CARD": ["4111 1111 1111 1111", "5500-0055-5555-5559", "378282246310005"],
    "IBAN": ["DE89 3704 0044 0532 0130 00", "GB82WEST12345698765432", "nl91 abna 0417 1643 00"],
    "IP": ["192.168.1.20", "8.8.8.8", "2001:db8::ff00:42:8329", "fe80::1ff:fe23:4567:890a"],
    "MAC": ["00:1A:2b:3c:4D:5e", "00-1a-2b-3c-4d-5e"],
    "KEY": [
        "AKIAIOSFODNN7EXAMPLE", "ghp_aBcDeFgHiJkLmNoPqRsTuVwXyZ0123456789", "sk-ant-api03-abcdefABCDEF0123456789-abc",
        "hf_aBcDeFgHiJkLmNoPqRsTuVwXyZ01234567", "hf_aBcDeFgHiJkLmNoPqRsTuVwXyZabcdefgh",
        "key-0123456789abcdef0123456789abcdef", "xoxb-123456789012-abcdefghijkl",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N", "q9X2vB7nL4kZ8mT1wR5yC3",
    ],
}  # fmt: skip


def redacted(*texts):
    redactor = Redactor(True)
    messages = [SourceMessage("user", text) for text in texts]
    return [one.text for one in redactor.conversation(Conversation("c", messages)).messages], redactor.counts


@pytest.mark.parametrize(("kind", "value"), [(kind, value) for kind, values in VALUES.items() for value in values])
def test_each_kind_becomes_its_mark(kind, value):
    texts, counts = redacted(f"It is {value}, I said.", value)
    assert texts == [f"It is [{kind}_1], I said.", f"[{kind}_1]"]
    assert counts == {kind: 2}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("제 번호는 010-1234-5678입니다", "제 번호는 [PHONE_1]입니다"),
        ("電話番号は090-1234-5678です。", "電話番号は[PHONE_1]です。"),
        ("我的电话是+8613812345678谢谢", "我的电话是[PHONE_1]谢谢"),
        ("手机13812345678，身份证11010519491231002x。", "手机[PHONE_1]，身份证[ID_1]。"),
        ("卡号4111111111111111过期", "卡号[CARD_1]过期"),
        ("服务器192.168.1.5的密码", "服务器[IP_1]的密码"),
        ("地址是2001:db8::ff00:42:8329和00:1A:2b:3c:4D:5e。", "地址是[IP_1]和[MAC_1]。"),
        ("密钥是sk-proj-abcdefghijklmnopqrstuvwxyz123456谢谢", "密钥是[KEY_1]谢谢"),
        ("密钥q9X2vB7nL4kZ8mT1wR5yC3和token abc123def456ghi789", "密钥[KEY_1]和token [KEY_2]"),
        ("Write to _alice@example.com_ today", "Write to _[EMAIL_1]_ today"),
        ("alice@example.com_1714550000", "[EMAIL_1]_1714550000"),
        ("203.0.113.7_20240501", "[IP_1]_20240501"),
        ("我的邮箱是alice@example.com", "我的邮箱是[EMAIL_1]"),
        ("我的邮箱是alice@example.com请尽快把发票都发送给我谢谢", "我的邮箱是[EMAIL_1]请尽快把发票都发送给我谢谢"),
        ("почта иван@пример.рф и 用户@例子.公司", "почта [EMAIL_1] и [EMAIL_2]"),
    ],
)  # fmt: skip
def test_values_are_found_beside_letters_of_other_scripts_and_underscores(text, shown):
    assert redacted(text)[0] == [shown]


@pytest.mark.parametrize(
    "text",
    [
        "版本1.2.3.4和バージョン 1.2.3.4",
        "on 2024-01-02 at 10:20:30, or 02.01.2024", "1735725605000 and 3.14159265358979", "ISBN 978-3-16-148410-0",
        "order 12345678", "4111 1111 1111 1112", "GB82WEST12345698765433", "version 1.2.3.4 of it", "std::vector",
        "127.0.0.1 and 0.0.0.0", "the password is required", "password 12345 times",
        "a monkey_key in my_token", "the token limit is 4096 tokens", "user @home said",
        "SomeClassNameThatIsLong2Also3 and snake_case_name_that_is_long_2", "1990-2000, 2019 2020 2021",
        "123e4567-e89b-12d3-a456-426614174000", "a::b", "x = [EMAIL_1]", "12:34:56:78", "1,234,567,890",
        "110105194912310021", "000-12-3456 and 666-12-3456 and 123-00-4567", "12345678901 and 15000000000",
        "138-1234-567",
    ],
)  # fmt: skip
def test_ordinary_text_stays(text):
    assert redacted(text)[0] == [text]


def test_passwords_and_keys_by_what_stands_beside_them():
    texts, counts = redacted(
        "My password is hunter2.", "password = 'hunter2'", "https://user:s3cret@example.org/x",
        "Authorization: Bearer abc123def456ghi789",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIabc\n-----END RSA PRIVATE KEY-----",
    )  # fmt: skip
    assert texts[:3] == [
        "My password is [PASSWORD_1].",
        "password = '[PASSWORD_1]'",
        "https://user:[PASSWORD_2]@example.org/x",
    ]
    assert texts[3:] == ["Authorization: Bearer [KEY_1]", "[KEY_2]"]
    assert counts == {"PASSWORD": 3, "KEY": 2}
    others, _ = redacted(
        "AZURE_OPENAI_KEY=0123456789abcdef0123456789abcdef", "AWS secret: wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        "das Kennwort lautet Katze99", "mdp : chocolat2024", "use password hunter2Secret for it",
    )  # fmt: skip
    assert others == [
        "AZURE_OPENAI_KEY=[KEY_1]", "AWS secret: [KEY_2]", "das Kennwort lautet [PASSWORD_1]", "mdp : [PASSWORD_2]",
        "use password [PASSWORD_3] for it",
    ]  # fmt: skip


def test_equal_values_have_one_mark_and_marks_of_the_text_are_not_taken():
    (text,), _ = redacted("A@x.example, a@X.example, [EMAIL_1], b@x.example; +49 171 2345678 or 0049-171-2345678")
    assert text == "[EMAIL_2], [EMAIL_2], [EMAIL_1], [EMAIL_3]; [PHONE_1] or [PHONE_1]"


def test_a_secret_is_found_again_where_nothing_says_what_it_is():
    said = [
        "Is hunter2x! any good?",
        'password = "hunter2x!" and again hunter2x! ok',
        "your hunter2x! is set, hunter2x!a",
    ]
    texts, counts = redacted(*said)
    assert texts == [
        "Is [PASSWORD_1] any good?",
        'password = "[PASSWORD_1]" and again [PASSWORD_1] ok',
        "your [PASSWORD_1] is set, hunter2x!a",
    ]
    assert counts == {"PASSWORD": 4}
    # Texts that are stored one after another stay as they were.
    redact = Redactor(True).for_conversation(said)
    assert [redact(text) for text in said] == [said[0], *texts[1:]]


ALL = list(chain(*VALUES.values()))


@hypothesis_settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(ALL), st.text("ab .\n😀", min_size=1, max_size=6)), max_size=5))
def test_no_value_is_left_wherever_it_stands(parts):
    text = "".join(f" {value} {words}" for value, words in parts)
    (shown,), counts = redacted(text)
    assert not [value for value, _ in parts if value in shown]
    assert counts.total() == len(parts)
    assert redacted(shown)[0] == [shown]


def test_checksums():
    assert is_luhn("4111111111111111") and not is_luhn("4111111111111112")
    assert is_iban("DE89370400440532013000") and not is_iban("DE89370400440532013001")


SAID = [
    ("user", "I am ann@x.example."),
    ("assistant", "Hello ann@x.example!"),
    ("user", "My card: 4111 1111 1111 1111"),
]


@pytest.mark.usefixtures("empty_folder")
def test_the_job_redacts_unless_told_not_to_and_says_so(capsys):
    write(Path("logs.jsonl"), [openai(SAID, id="ann@x.example"), openai(SAID, id="b")])
    folder = run(prep_logs, "--input", "logs.jsonl")
    row = rows_of(folder / "logs_interactions.jsonl")[0]
    assert (row["id"], row["completion"]) == ("[EMAIL_1]_1", "Hello [EMAIL_1]!")
    assert row["user_response"] == "My card: [CARD_1]" and row["user_response_length"] == 17
    assert report_of(folder)["redacted"] == {"EMAIL": 5, "CARD": 2}
    assert "redacted: EMAIL 5, CARD 2" in capsys.readouterr().out
    assert not [path for path in folder.iterdir() if b"ann@x" in path.read_bytes() or b"4111" in path.read_bytes()]
    run(prep_logs, "--input", "logs.jsonl", "--force", "--redact", "0")
    assert rows_of(folder / "logs_interactions.jsonl")[0]["completion"] == "Hello ann@x.example!"
    assert "redacted: nothing (REDACT=0)" in capsys.readouterr().out


@pytest.mark.usefixtures("empty_folder")
def test_what_cannot_be_read_is_shown_without_private_values(capsys):
    Path("in.csv").write_text("conversation_id,sender,content\n1,ann@x.example,hello\n")
    assert launch.main(prep_logs.JOB, ["--out-dir", "out", "--input", "in.csv"]) == 1
    error = capsys.readouterr().err
    assert "in.csv, row 1: sender '[EMAIL]'" in error and "ann@" not in error
    assert launch.main(prep_logs.JOB, ["--out-dir", "out", "--input", "in.csv", "--dry-run"]) == 1
    error = capsys.readouterr().err
    assert "in.csv, row 1: sender '[EMAIL]'" in error and "ann@" not in error
    Path("in.csv").write_text("conversation_id,author,content\n1,Maria Gonzalez,hello\n")
    assert launch.main(prep_logs.JOB, ["--out-dir", "out", "--input", "in.csv"]) == 1
    error = capsys.readouterr().err
    assert "in.csv, row 1: author" in error and "Maria" not in error
    Path("in.csv").write_text("1,ann@x.example,hello\n2,bob@x.example,hello\n")
    assert launch.main(prep_logs.JOB, ["--out-dir", "out", "--input", "in.csv"]) == 1
    error = capsys.readouterr().err
    assert "has the columns 1, [EMAIL], hello" in error and "ann@" not in error


@pytest.mark.usefixtures("empty_folder")
def test_names_need_presidio_which_is_said_in_one_line(capsys, monkeypatch):
    write(Path("logs.jsonl"), [openai(SAID)])
    monkeypatch.setitem(sys.modules, "presidio_analyzer", None)
    arguments = ["--out-dir", "out", "--input", "logs.jsonl", "--redact-names"]
    assert launch.main(prep_logs.JOB, arguments) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and "presidio" in error and "sdpo[names]" in error
    assert launch.main(prep_logs.JOB, [*arguments, "--redact", "0"]) == 2
    assert "REDACT=1" in capsys.readouterr().err


def test_many_values_in_one_text_are_found_in_little_time():
    text = " ".join(f"a{number}@x.example" for number in range(15000))
    began = time.process_time()
    assert len(private_spans(text)) == 15000
    assert time.process_time() - began < 4


def test_a_row_of_dashes_is_read_in_little_time():
    assert redacted("x-api-key: abc123def456ghi7", "--api-key=abc123def456ghi8")[1] == {"KEY": 2}
    began = time.process_time()
    assert private_spans("-" * 60_000) == []
    assert time.process_time() - began < 4
