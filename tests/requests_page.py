"""docs/requests.md: each kind of request to a server with DoLa, and what happens to it.

    python tests/requests_page.py > docs/requests.md

`unit/test_requests_page.py` fails when the page is stale. `serving/test_every_request.py` sends the requests.
"""

from every_request import CASES, WRONG_TYPES

HEAD = """# Requests to a server

Each row was sent to a running server by `tests/serving/test_every_request.py`, with the `openai` and `anthropic` packages. The
server decodes with DoLa by default. "All four options" are: no options, `"dola_layers": "off"`, `"low"`, and a list of layers.
[Serve with vLLM](serving.md) says where options go.

Tokens are compared one by one in float32 with those of `dola.generate`, or of plain `generate` for `"off"`.

| endpoint | asked | what happens |
|---|---|---|
"""

TAIL = """
## Values that are refused

Each of these `vllm_xargs` returns HTTP 400 with the reason:

{values}

vLLM reads JSON's `true` and `false` as 1 and 0 before dola sees them, so `"dola_relative_top": true` means 1.

## Structured outputs

Choices and regular expressions are compared with `dola.generate` under the same texts, JSON schemas and grammars by what they
allow. Where a grammar leaves no plausible token, the mature scores decide, as everywhere
([compatibility](serving.md#compatibility)).

| backend | choice | regular expression | JSON schema | grammar |
|---|---|---|---|---|
| xgrammar | tested | tested | tested | tested |
| guidance | tested | tested | tested | tested |
| outlines | tested | tested | tested | 400: vLLM does not support it |
| lm-format-enforcer | 500 | 500 | 500 | 400: vLLM does not support it |

Version 0.11.3 of lm-format-enforcer imports a module that vLLM 0.32 no longer has. The request fails, DoLa or not, and the
server keeps running.

Two things are vLLM's own, DoLa or not. It holds a function's arguments to their schema only if the function says
`"strict": true`. And `echo` together with `return_token_ids` leaves the prompt out of the text.

`/generative_scoring` and beams read the scores of the model that the server runs, and have no place for options. With DoLa on
by default they would silently return DoLa's scores for all requests, so they are refused there. With `--default off` they
return the model's own.
"""


def page() -> str:
    """The page."""
    rows = "".join(f"| `{each.door}` | {_cell(each.asked)} | {_cell(each.outcome)} |\n" for each in CASES)
    values = "\n".join(["```text", *map(repr, WRONG_TYPES), "```"])
    return HEAD + rows + TAIL.format(values=values)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    print(page(), end="")
