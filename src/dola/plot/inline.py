"""Puts style, script and data into a page's template, so that the page is one file that fetches nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from dola.files.json_text import dumps


def inlined(template: str, parts: Mapping[str, str]) -> str:
    """The template with each `<!-- name -->` replaced by its part. What is put in is not searched again."""
    return re.sub(r"<!-- (\w+) -->", lambda found: parts.get(found[1], found[0]), template)


def script_data(value: Any) -> str:
    """JSON for an element of a page, which no text inside it can close."""
    return dumps(value).replace("<", "\\u003c")
