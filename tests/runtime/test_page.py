"""HTML pages: a single file, nothing is loaded, and text stays text."""

import json
import re
from html.parser import HTMLParser

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markupsafe import Markup

from sdpo.runtime.page import data_block, write_page


class PageReader(HTMLParser):
    """Collects the elements, and the text by element name."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements, self.texts, self._open = [], {}, []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self._open.append(tag)

    def handle_endtag(self, tag):
        if tag in self._open:
            while self._open.pop() != tag:
                pass

    def handle_data(self, data):
        key = self._open[-1] if self._open else ""
        self.texts[key] = self.texts.get(key, "") + data


HOSTILE = st.text() | st.sampled_from(
    ["</script><script>alert(1)</script>", "<!--<script>", "]]>", "<img src=x onerror=alert(1)>", "\u2028", "&lt;"]
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
@given(HOSTILE)
def test_any_text_is_escaped(tmp_path, text):
    body = Markup("<p>{}</p>").format(text) + data_block("rows", {"text": text, text: [text]})
    page = write_page(tmp_path / "page.html", text, body, script="go()").read_bytes().decode("utf-8")
    elements = PageReader(page).elements
    counts = {tag: sum(other == tag for other, _ in elements) for tag, _ in elements}
    assert counts == {"html": 1, "head": 1, "meta": 3, "title": 1, "style": 1, "body": 1, "p": 1, "script": 2}
    block = re.search(r'<script type="application/json" id="rows">(.*?)</script>', page, re.S)[1]
    shown = text.encode("utf-8", "replace").decode()
    assert json.loads(block) == {"text": shown, shown: [shown]}


def test_a_page_may_load_nothing_and_run_only_its_script(tmp_path):
    page = write_page(tmp_path / "page.html", "t", Markup("<p>x</p>"), script="one()").read_text()
    policy = next(attributes["content"] for _, attributes in PageReader(page).elements if "http-equiv" in attributes)
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'" and rules["img-src"] == "data:" and rules["form-action"] == "'none'"
    # The digest of one(), by `printf 'one()' | openssl dgst -sha256 -binary | base64`.
    assert rules["script-src"] == "'sha256-HR7iaask9daLMRRskMI++QeJtjWDOjyPA6lGzYGzKW4='"
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_unescaped_content_is_rejected(tmp_path):
    with pytest.raises(TypeError):
        write_page(tmp_path / "page.html", "t", "<p>plain</p>")
    for arguments in ({"script": "'</ScRipt>'"}, {"script": "'<!--'"}, {"style": "</style>"}):
        with pytest.raises(ValueError):
            write_page(tmp_path / "page.html", "t", Markup(""), **arguments)
    assert not list(tmp_path.iterdir())
