"""A plugin for vLLM: DoLa per request inside the engine. docs/serving.md is for users.

    LLM(model, additional_config={"dola": {"layers": "high"}})            what the engine captures, and its default
    SamplingParams(extra_args={"dola_layers": "off"})                     what a request chooses

The parts for any engine are in dola.serving, which does not import vLLM. vLLM calls plugin.py at start-up. models.py makes
the classes that vLLM loads instead of its own, and mixin.py defines their behavior: `compute_logits` returns the contrast.
requests.py maps rows to requests.
"""

TESTED_SERIES = "0.32"
"""The vLLM series that the tests run. Another starts with a warning if it has all names in contract.py."""


def is_tested(version: str) -> bool:
    """Whether a version of vLLM belongs to that series."""
    return version.startswith(f"{TESTED_SERIES}.")
