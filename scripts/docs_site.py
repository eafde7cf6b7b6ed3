"""Completes the site that `make docs` builds (hooks of mkdocs.yml), and checks what it loads.

Pages outside docs/ become pages of the site, files that pages link to go beside them, and links
between files of the repository become links between pages. A page that loads anything from another
server fails the build.
"""

import posixpath
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
# From a file of the repository to its place on the site; those of docs/ keep theirs.
PLACES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/README.md": "benchmarks.md",
    "benchmarks/growth.png": "growth.png",
    **{
        path.relative_to(ROOT).as_posix(): f"configs/{path.name}" for path in ROOT.glob("configs/*")
    },
}
_LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)")
# Tags and the attribute by which a browser loads something for them at once.
_LOADS = {
    **dict.fromkeys(("script", "img", "iframe", "source", "video", "audio", "embed"), "src"),
    "link": "href",
}
_STYLE = re.compile(r"(?:@import\s+|url\()\s*[\"']?(?:https?:)?//[^)\"'\s]+")


def place(path: str) -> str:
    """Give the place on the site of a file of the repository, "" if it has none."""
    return path.removeprefix("docs/") if path.startswith("docs/") else PLACES.get(path, "")


def relink(markdown: str, source: str) -> str:
    """Turn the links of `source`, a file of the repository, into links of the site."""

    def link(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), found[1]))
        there = place(target)
        return (
            posixpath.relpath(there, posixpath.dirname(place(source)) or ".") if there else found[1]
        )

    return _LINK.sub(link, markdown)


class _Loads(HTMLParser):
    """Collects the addresses on other servers that a page loads."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Look at one tag."""
        given = dict(attrs)
        address = given.get(_LOADS.get(tag, "")) or ""
        if tag == "link" and given.get("rel") in ("canonical", "next", "prev"):
            address = ""
        if re.match(r"(https?:)?//", address):
            self.found.append(address)
        self.found += _STYLE.findall(given.get("style") or "")


def loaded_from_outside(text: str) -> list[str]:
    """List what a page, or (with no tags) a style sheet, loads from other servers."""
    parser = _Loads()
    parser.feed(text)
    styles = re.findall(r"<style[^>]*>(.*?)</style>", text, re.DOTALL)
    if "<html" not in text:
        styles = [text]
    return parser.found + [found for style in styles for found in _STYLE.findall(style)]


def on_files(files: Any, config: Any) -> Any:
    """Add the files from outside docs/ to the site."""
    from mkdocs.structure.files import File

    for path, there in PLACES.items():
        if path != "README.md":
            files.append(File.generated(config, there, content=(ROOT / path).read_bytes()))
    return files


def on_page_markdown(markdown: str, page: Any, **kwargs: Any) -> str:
    """Make the links of a page those of the site."""
    del kwargs
    homes = {there: path for path, there in PLACES.items() if path != "README.md"}
    return relink(markdown, homes.get(page.file.src_uri, f"docs/{page.file.src_uri}"))


def on_post_build(config: Any) -> None:
    """Check that no page of the site loads anything from another server."""
    from mkdocs.exceptions import PluginError

    for file in sorted(Path(config.site_dir).rglob("*")):
        if file.suffix in (".html", ".css"):
            outside = loaded_from_outside(file.read_text(encoding="utf-8"))
            if outside:
                raise PluginError(f"{file} loads from another server: {', '.join(outside)}")
