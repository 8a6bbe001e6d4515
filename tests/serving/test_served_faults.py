"""What a server does when something dies, fills up or goes away: the rows of docs/operations.md."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from engines import Judge
from faults import WAYS, Known, come_and_go, disconnect, fuzz, many, outcome
from servers import Server
from test_lora import TARGETS, _merged_into, _saved


def _serve(folder: Path, log: Path, *more: str, **variables: str) -> Server:
    return Server(folder, log, "--capture", "all", "--default", "off", *more, **variables)


@pytest.fixture(scope="module")
def adapter(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An adapter's folder, and a judge with its weights merged."""
    import torch

    merged = Judge(tiny_folder)
    with torch.no_grad():
        path = _saved(tmp_path_factory.mktemp("faults") / "adapter", _merged_into(merged.model), TARGETS)
    return path, merged


@pytest.fixture(scope="module")
def known(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    log = tmp_path_factory.mktemp("faults_server") / "log.txt"
    more = ("--enable-lora", "--max-loras", "8", "--max-lora-rank", "8")
    server = _serve(tiny_folder, log, *more, VLLM_ALLOW_RUNTIME_LORA_UPDATING="1")
    yield Known(server, tiny_folder)
    server.stop()


def test_clients_that_close_their_streams(known: Known):
    many(known, disconnect, 16, clients=8)


def test_200_clients_that_come_and_go(known: Known):
    before = known.server.memory()
    done = many(known, come_and_go, 200, clients=200)
    assert sum(done.values()) == 200
    assert len(done) == 4
    print(done, f"{(known.server.memory() - before) / 2**20:.1f} MiB more")


def test_random_options(known: Known):
    done = many(known, fuzz, 150, clients=8)
    assert set(done) == {"200", "400"}


def test_adapters_that_come_and_go_during_requests(known: Known, adapter: Any):
    """Requests to the model keep their answers. Requests to the adapter get its own, or an error while it is not there."""
    path, merged = adapter
    expected = {way: merged.tokens("abc def", None if way == "plain" else WAYS[way]) for way in WAYS}
    assert expected["high"] != known.answers["abc def", "high"]
    ended = False

    def asks(model: str) -> list[str]:
        found = []
        while not ended:
            for way in WAYS:
                kind, answer = outcome(known.server, model=model, prompt="abc def", vllm_xargs={"dola_layers": WAYS[way]})
                right = known.answers["abc def", way] if model == "m" else expected[way]
                assert kind in ("answered", "refused"), answer
                assert kind == "refused" or answer == right, (model, way)
                found.append(kind)
        return found

    with ThreadPoolExecutor(4) as clients:
        running = [clients.submit(asks, model) for model in ("m", "adapter", "m", "adapter")]
        for _ in range(5):
            with known.server.open("/v1/load_lora_adapter", lora_name="adapter", lora_path=path) as response:
                assert response.status == 200, response.read()
            time.sleep(1.5)
            with known.server.open("/v1/unload_lora_adapter", lora_name="adapter") as response:
                assert response.status == 200, response.read()
            time.sleep(0.2)
        ended = True
        plain, adapted = running[0].result(), running[1].result()
    assert set(plain) == {"answered"}
    assert set(adapted) == {"answered", "refused"}
    known.idle()
    known.ask_all()


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["worker", "server"])
def test_kill_9(victim: str, tiny_folder: Path, tmp_path: Path):
    """The requests in it are lost with an error, and none is answered wrongly.

    Without its worker the server ends, with all its processes. Without the server vLLM's worker stays and has to be ended.
    """
    server = _serve(tiny_folder, tmp_path / "log.txt")
    root = psutil.Process(server.process.pid)
    children = root.children(recursive=True)
    try:
        known = Known(server, tiny_folder)
        known.ask_all()
        killed = [root] if victim == "server" else [each for each in children if _is_engine(each)]
        assert killed, [each.name() for each in children]
        ends = _during_requests(server, lambda: [os.kill(process.pid, signal.SIGKILL) for process in killed])
        right = {tuple(answer[:16]) for kind, answer in ends if kind == "answered"}
        assert right <= {tuple(known.answers["the end", "high"])}
        assert any(kind != "answered" for kind, _ in ends)
        server.process.wait(60)
        assert server.get("/health") == 0
        if victim == "worker":
            assert not psutil.wait_procs(children, timeout=30)[1]
    finally:
        for process in (root, *children):
            with contextlib.suppress(psutil.Error):
                process.kill()


def _during_requests(server: Server, act: Any) -> list[tuple[str, Any]]:
    """How eight long requests end if this is done while they run."""
    body = {"prompt": "the end", "vllm_xargs": {"dola_layers": "high"}, "max_tokens": 110, "ignore_eos": True}
    with ThreadPoolExecutor(8) as clients:
        running = [clients.submit(outcome, server, **body) for _ in range(8)]
        time.sleep(0.3)
        act()
        began = time.monotonic()
        ends = [each.result(timeout=60) for each in running]
    print([kind for kind, _ in ends], f"{time.monotonic() - began:.1f} s")
    return ends


def _is_engine(process: psutil.Process) -> bool:
    try:
        return "EngineCore" in process.name() or "EngineCore" in " ".join(process.cmdline())
    except psutil.Error:
        return False


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("unshare") is None or os.geteuid() != 0, reason="a full disk needs a file system of its own")
def test_a_full_disk(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The folder of temporary files is full: requests are answered, and the log says that they are not counted."""
    monkeypatch.delenv("DOLA_METRICS_DIR", raising=False)  # an engine of an earlier test in this process has set it
    full = tmp_path / "full"
    full.mkdir()
    mount = f"mount -t tmpfs -o size=64k none {full} && dd if=/dev/zero of={full}/filler bs=1k count=60 2>/dev/null; "
    import command

    wrapped = ["unshare", "-m", "sh", "-c", f'{mount} TMPDIR={full} exec "$@"', "sh", *command.COMMAND]
    monkeypatch.setattr(command, "COMMAND", wrapped)
    server = _serve(tiny_folder, tmp_path / "log.txt")
    try:
        known = Known(server, tiny_folder)
        known.ask_all()
        assert "/metrics will lack the counts" in server.log.read_text() or "will not count" in server.log.read_text()
        assert json.dumps({"ok": known.metric("vllm:num_requests_running")})
    finally:
        server.stop()
    assert subprocess.run(["pgrep", "-f", str(full)], check=False, capture_output=True).returncode == 1
