"""Prepare the site's pages: `make site` runs this, then Zensical on what it made.

Pages are written for the repository, where a link may lead to any file. On the site such a link must lead somewhere
too, so this copies docs/ to build/site/pages, with the pages that other folders hold, and follows every relative link:
- to a page of the site: it leads there;
- to any other file of the repository: the file is copied beside the pages;
- to a folder: the site has no folders to show, so the link becomes its text;
- to nothing: the build fails, and so does a page that has no line in the navigation of zensical.toml.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "build" / "site"
PAGES = SITE / "pages"
ELSEWHERE = {
    "CHANGELOG.md": "changelog.md",
    "CODE_OF_CONDUCT.md": "conduct.md",
    "CONTRIBUTING.md": "contributing.md",
    "RELEASING.md": "releasing.md",
    "SECURITY.md": "reporting.md",
    "benchmarks/README.md": "measuring.md",
    "tests/README.md": "tests.md",
}
"""Pages that are kept outside docs/, by the name that they have on the site."""
HOME = {"README.md": "index.md"}
"""Files that the site has another page for."""
LINK = re.compile(
    r"(!?\[(?P<text>(?:[^\[\]]|!\[[^\]]*\]\([^)]*\))*)\]\()(?P<target>[^)\s]+)(\))|(?P<attr>(?:src|srcset|href)=\")(?P<other>[^\"]+)\""
)
FENCE = re.compile(r"^(```.*?^```[^\n]*$)", re.MULTILINE | re.DOTALL)


class Stage:
    """The pages of the site, made from those of the repository."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.places = {
            ROOT / "docs" / path.relative_to(ROOT / "docs"): path.relative_to(ROOT / "docs").as_posix()
            for path in sorted((ROOT / "docs").rglob("*.md"))
        }
        self.places |= {ROOT / path: place for path, place in ELSEWHERE.items() if (ROOT / path).is_file()}

    def run(self) -> None:
        """Write all pages and the configuration, or end with what is wrong."""
        shutil.rmtree(PAGES, ignore_errors=True)
        for source, place in self.places.items():
            self._write(PAGES / place, self._page(source, place))
        for name in ("site.css", "site.js"):
            shutil.copy(ROOT / "docs" / name, PAGES)
        (SITE / "zensical.toml").write_text(self._configuration(), "utf-8")
        if self.problems:
            sys.exit("\n".join(self.problems))
        print(f"{len(self.places)} pages in {PAGES}")

    @staticmethod
    def _write(path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")

    def _page(self, source: Path, place: str) -> str:
        """A page with its links as the site needs them; code stays as it is."""
        parts = FENCE.split(source.read_text("utf-8"))
        return "".join(part if part.startswith("```") else self._links(part, source, place) for part in parts)

    def _links(self, text: str, source: Path, place: str) -> str:
        def replaced(match: re.Match[str]) -> str:
            if match["attr"]:
                return f'{match["attr"]}{self._target(match["other"], source, place) or ""}"'
            inner = self._links(match["text"], source, place)  # a picture may be a link's text
            target = self._target(match["target"], source, place)
            return inner if target is None else f"{match[1][0] if match[1][0] == '!' else ''}[{inner}]({target})"

        return LINK.sub(replaced, text)

    def _target(self, target: str, source: Path, place: str) -> str | None:
        """Where a link of a page leads on the site; None for a folder."""
        if re.match(r"[a-z]+:|#", target):
            return target
        name, mark, anchor = target.partition("#")
        path = Path(os.path.normpath(source.parent / name))
        known = HOME.get(path.relative_to(ROOT).as_posix()) if path.is_relative_to(ROOT) else None
        where = known or self.places.get(path)
        if where is None and path.is_dir():
            return None
        if where is None and not path.is_file():
            self.problems.append(f"{source.relative_to(ROOT)}: no such file: {target}")
            return target
        if where is None:
            where = self._copied(path)
        return os.path.relpath(where, Path(place).parent).replace(os.sep, "/") + mark + anchor

    @staticmethod
    def _copied(path: Path) -> str:
        """Where a file lies on the site that is no page."""
        inside = path.is_relative_to(ROOT / "docs")
        where = path.relative_to(ROOT / "docs") if inside else "files" / path.relative_to(ROOT)
        (PAGES / where).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, PAGES / where)
        return where.as_posix()

    def _configuration(self) -> str:
        """zensical.toml without the lines of pages that do not exist."""
        lines, named = [], set()
        for line in (ROOT / "zensical.toml").read_text("utf-8").splitlines():
            page = re.search(r'= "([\w/-]+\.md)"', line)
            if page:
                named.add(page[1])
            if not page or page[1] in self.places.values():
                lines.append(line)
        self.problems += [
            f"{place} has no line in the navigation of zensical.toml" for place in self.places.values() if place not in named
        ]
        text = "\n".join(lines) + "\n"
        return re.sub(r'  \{ "[^"]+" = \[\n  \] \},\n', "", text)  # a section without pages


if __name__ == "__main__":
    Stage().run()
