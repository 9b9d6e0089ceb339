"""The README is short, links lead somewhere, the reference has every setting, and the site builds without warnings."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from docs import python_api
from docs import settings as reference
from sdpo import errors, settings
from tests.commands import ROOT, clean_environment
from tests.docs.pages import PYTHON_API, anchors, blocks, links, pages
from tests.test_layers import RETIRED

WORDS = 1200
OF_THE_LOOP = ("gateway", "learn", "chat", "report")  # one of the retired names means something else there
WRITTEN = sorted((reference.FOLDER / path for path in reference.pages()), key=str)


def test_the_readme_is_one_screen():
    assert len((ROOT / "README.md").read_text("utf-8").split()) <= WORDS


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading(page):
    for link in links(page):
        if re.match(r"[a-z]+:", link):
            assert link.startswith("https://"), link
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target == PYTHON_API or target.exists(), f"{page}: {link}"
        assert not anchor or anchor in anchors(target), f"{page}: {link} has no such heading"


def test_the_reference_is_what_the_declarations_say():
    """After a change of a setting: python -m docs.settings (make docs does it too)."""
    expected = {reference.FOLDER / path: text for path, text in reference.pages().items()}
    found = {*(reference.FOLDER / "settings").glob("*.md"), reference.FOLDER / "settings.md"}
    assert found == set(expected)
    stale = [str(path.relative_to(ROOT)) for path, text in expected.items() if path.read_text("utf-8") != text]
    assert not stale, f"run python -m docs.settings: {', '.join(stale)}"


def test_no_setting_is_undocumented_and_none_documented_that_does_not_exist():
    rows = re.findall(r"^\| (`[A-Z][^|]*`) \|", "\n".join(path.read_text("utf-8") for path in WRITTEN), re.M)
    documented = {name.lower() for row in rows for name in re.findall(r"`(\w+)`", row)}
    kinds = [kind for name in settings.__all__ if isinstance(kind := getattr(settings, name), type)]
    kinds = [kind for kind in kinds if issubclass(kind, settings.CommonSettings)]
    assert documented == {name for kind in kinds for name in settings.by_any_name(settings.settings_of(kind))}


def test_settings_named_in_the_pages_exist():
    """A name in capitals with a value, such as `LR=1e-4`, is a setting, or of another program or the Makefile."""
    others = {
        "DOCKER",
        "PYTHON",
        "JOB",
        "ONLY",
        "CHECK",
        "CUDA_VISIBLE_DEVICES",
        "HF_HUB_OFFLINE",
        "OPENAI_API_BASE_URL",
        "WANDB_MODE",
        "NAME",
    }
    others |= {"ENABLE_FORWARD_USER_INFO_HEADERS", "VLLM_ALLOW_RUNTIME_LORA_UPDATING", "SDPO_TEST_KILLS"}
    others |= {"DOCKER_VARIANT", "WEBUI_IMAGE", "LEARN_HOUR"}
    known = {name.upper() for name in settings.known_names()} | others
    for page in set(pages()) - set(WRITTEN):
        named = set(re.findall(r"(?<![\w$])([A-Z][A-Z_0-9]+)=", page.read_text("utf-8")))
        assert named <= known, f"{page.name}: {sorted(named - known)}"


def test_the_table_of_exit_codes_has_the_codes_of_the_errors():
    page = (ROOT / "docs" / "reference" / "exit-codes.md").read_text("utf-8")
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", page, re.M)}
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.SdpoError)]
    used = {kind.exit_code for kind in kinds} | {errors.EXIT_STOP, errors.KEEP_EXIT_CODE}
    assert used <= listed


def test_retired_names_are_gone_from_the_pages():
    pattern = re.compile(rf"\b({'|'.join(RETIRED)})\b")
    own = [page for page in pages() if page.stem not in OF_THE_LOOP]
    found = [(page.name, match[0]) for page in own for match in pattern.finditer(page.read_text("utf-8"))]
    assert not found


def test_the_python_reference_has_the_equations_with_their_signatures():
    page = python_api.page()
    assert "## sdpo.method.objective" in page and "### `token_loss`" in page
    assert "    logps_BT: Tensor,\n" in page and "s_t = log T(y_t | x, o, y_<t) − log π(y_t | x, y_<t)" in page
    for pattern in python_api.MODULES:
        assert list(ROOT.glob(pattern)), pattern


def test_a_block_that_is_not_marked_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("<!-- run by: tests/a.py -->\n```bash\nmake a\n```\n\n```sh\nmake b\n```\n\n    make c\n")
    assert [(block.mark, block.text.strip()) for block in blocks(page)] == [
        ("run by", "make a"), ("", "make b"), ("", "make c"),
    ]  # fmt: skip


@pytest.mark.slow
def test_the_site_builds_offline_without_a_warning(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", "docs", str(tmp_path / "site")],
        cwd=ROOT, env=clean_environment(), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    built = {path.relative_to(tmp_path / "site").with_suffix("") for path in (tmp_path / "site").rglob("*.html")}
    assert {page.relative_to(ROOT / "docs").with_suffix("") for page in pages()[1:]} <= built
    assert "https://" not in re.sub(r'href="[^"]*"', "", (tmp_path / "site" / "index.html").read_text("utf-8"))
    assert Path("reference/api") in built


def messages_of_the_code() -> list[str]:
    """Return every text in the code, with … for the values in it, and the Makefile."""
    texts = [(ROOT / "Makefile").read_text("utf-8")]
    for path in (ROOT / "sdpo").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                texts.append("…".join(part.value for part in node.values if isinstance(part, ast.Constant)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return texts


def test_the_messages_of_troubleshooting_are_those_of_the_code():
    page = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
    listed = re.findall(r"^\| `([^`]+)` \|", page, re.M)
    texts = messages_of_the_code()
    assert len(listed) > 40
    for message in listed:
        parts = [part.strip() for part in message.split("…") if part.strip()]
        assert any(all(part in text for part in parts) for text in texts), message
