"""Every kind of request to a server that decodes with DoLa by default, and what happens to it.

    python tests/requests_page.py > docs/requests.md

Each case is sent by the client that people use (the `openai` and `anthropic` packages), or as raw JSON where these have no
method for it. `serving/test_every_request.py` runs all of them. It imports neither client nor vLLM before a case runs.
"""

from __future__ import annotations

import request_completions  # noqa: F401
import request_others
from request_cases import CASES, Case

WRONG_TYPES = request_others.WRONG_TYPES

__all__ = ["CASES", "WRONG_TYPES", "Case"]
