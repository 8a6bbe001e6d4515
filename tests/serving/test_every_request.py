"""Every kind of request to a running server, by the clients that people use: the rows of docs/requests.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from asked import EBNF, LARK, World
from engines import Judge
from every_request import CASES, Case
from servers import Server

TOOLS = ("--enable-auto-tool-choice", "--tool-call-parser", "hermes", "--enable-scale-out")


def _serve(folder: Path, log: Path, backend: str, **settings: Any) -> Server:
    given = json.dumps({"backend": backend, **settings})
    options = ("--capture", "all", *TOOLS, "--structured-outputs-config", given, "--max-model-len", "256")
    return Server(folder, log, *options, VLLM_LOGGING_LEVEL="INFO")


@pytest.fixture(scope="module")
def world(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    log = tmp_path_factory.mktemp("every_request") / "log.txt"
    server = _serve(tiny_folder, log, "xgrammar", disable_any_whitespace=True)
    yield World(server, Judge(tiny_folder), grammar=EBNF)
    server.stop()


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.door} {case.asked}")
def test_request(case: Case, world: World):
    case.run(world)


def test_metrics_count_requests_and_rows_by_method(world: World):
    """Each request once, each token's row once, and settled rows among them."""
    names = [f"dola_{each}_total" for each in ("requests", "rows", "settled_rows")]

    def counts(method: str) -> list[float]:
        return [sum(world.metric(f'{name}{{method="{method}"}}')) for name in names]

    world.idle()
    for method, options in (("plain", {"dola_layers": "off"}), ("dola", {}), ("sled", {"dola_method": "sled"})):
        before = counts(method)
        tokens = [world.completion("abc def", options, max_tokens=6)[0] for _ in range(2)]
        requests, rows, settled = (after - earlier for after, earlier in zip(counts(method), before, strict=True))
        assert (requests, rows) == (2, sum(map(len, tokens))), method
        assert 0 <= settled <= rows


def test_the_log_says_in_one_line_what_is_in_force(world: World):
    lines = [line for line in world.server.log.read_text().splitlines() if "DoLa is on for requests without options" in line]
    assert len(lines) == 1
    assert "Method dola, layers 3, 5; captured 0, 1, 2, 3, 4, 5 of 6; lens none; relative_top=0.1" in lines[0]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["guidance", "outlines"])
def test_structured_outputs_of_other_backends(backend: str, tiny_folder: Path, tmp_path: Path):
    """All kinds that the backend has: vLLM's outlines reads no grammars. lm-format-enforcer 0.11 cannot run in vLLM 0.32."""
    settings = {"disable_any_whitespace": True} if backend == "guidance" else {}
    server = _serve(tiny_folder, tmp_path / "log.txt", backend, **settings)
    try:
        world = World(server, Judge(tiny_folder), grammar=LARK)
        for case in CASES:
            if "structured outputs" in case.asked and not (backend == "outlines" and "grammar" in case.asked):
                case.run(world)
    finally:
        server.stop()
