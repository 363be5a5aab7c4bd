"""The files of the page, read without a browser: nothing inline, nothing from elsewhere."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

import qf

PAGE = Path(qf.__file__).parent / "serve" / "page"
HTML = (PAGE / "index.html").read_text(encoding="utf-8")
SCRIPTS = {path.name: path.read_text(encoding="utf-8") for path in PAGE.glob("*.js")}


class _Elements(HTMLParser):
    """Every start tag with its attributes, and the text of scripts and styles."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.inline = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.cdata_elem:
            self.inline += data.strip()


@pytest.fixture(scope="module")
def elements() -> _Elements:
    parser = _Elements()
    parser.feed(HTML)
    return parser


def test_nothing_is_inline(elements: _Elements) -> None:
    assert elements.inline == ""
    assert not [tag for tag, _ in elements.found if tag == "style"]
    for tag, attributes in elements.found:
        assert "style" not in attributes, tag
        assert not [name for name in attributes if name.startswith("on")], tag


@pytest.mark.parametrize("name", sorted(path.name for path in PAGE.iterdir()))
def test_nothing_comes_from_another_host(name: str) -> None:
    text = (PAGE / name).read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?:|@import|url\(|//\w+\.\w", text)


def test_scripts_make_no_markup_of_text() -> None:
    makers = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|eval\(|Function\("
    for name, source in SCRIPTS.items():
        assert not re.search(makers, source), name


def test_every_element_that_scripts_ask_for_is_there_once(elements: _Elements) -> None:
    ids = [attributes["id"] for _, attributes in elements.found if "id" in attributes]
    assert len(ids) == len(set(ids))
    asked = {id for source in SCRIPTS.values() for id in re.findall(r'byId\("([\w-]+)"\)', source)}
    assert len(asked) > 20
    assert asked <= set(ids)


def test_every_file_that_is_named_is_there(elements: _Elements) -> None:
    named = {
        Path(value).name
        for _, attributes in elements.found
        for name, value in attributes.items()
        if name in ("src", "href") and value and value.startswith("/page/")
    }
    for source in SCRIPTS.values():
        named |= {Path(name).name for name in re.findall(r'from "(\./[\w.]+)"', source)}
    assert named == {path.name for path in PAGE.iterdir()} - {"index.html"}


def test_every_label_and_description_names_an_element(elements: _Elements) -> None:
    ids = {attributes.get("id") for _, attributes in elements.found}
    for _, attributes in elements.found:
        for name in ("for", "aria-labelledby", "aria-describedby", "aria-controls"):
            for id in (attributes.get(name) or "").split():
                assert id in ids, f"{name}={id}"
