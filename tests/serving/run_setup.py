"""One engine in a process of its own: `python run_setup.py FOLDER SETTINGS REQUESTS`, both JSON; prints the tokens as JSON.

With VLLM_USE_V2_MODEL_RUNNER=1 and TRITON_INTERPRET=1 it lets vLLM take Triton's interpreter for a CPU backend, so that runner
V2, whose kernels are Triton's, runs here: slowly, and the same code as on a GPU.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).parents[1]))


def main() -> None:
    """Decode the requests: prompts, DoLa options, sampling parameters and adapters."""
    if os.environ.get("TRITON_INTERPRET"):
        from triton.backends import backends

        backends["cpu"] = SimpleNamespace(driver=SimpleNamespace(is_active=lambda: True))
    from engines import Engine
    from vllm.lora.request import LoRARequest

    folder, settings, requests = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
    with Engine(Path(folder), {"layers": "high", "capture": "all", "default": "off"}, **settings) as engine:
        found = [
            engine.tokens(
                request["prompts"],
                request["options"],
                [path and LoRARequest("adapter", 1, path) for path in request.get("adapters", [])] or None,
                **{k: {int(t): b for t, b in v.items()} if k == "logit_bias" else v for k, v in request["sampling"].items()},
            )
            for request in requests
        ]
    print("TOKENS", json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
