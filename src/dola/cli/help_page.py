"""The layout of help: the same groups of options for every verb, at most 100 columns, and a short page for `dola` alone."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from typer.core import TyperCommand, TyperGroup

WIDTH = 100
SETTINGS = {"max_content_width": WIDTH}
"""Settings of the app: verbs inherit the width."""

START = ("compare", "generate", "trace", "eval", "doctor")
"""The verbs that people start with, in the order in which `dola` alone shows them."""

INPUT, HOW, CHOICE, RUNNING, OUTPUT = "Input", "Decoding", "Choice", "Running", "Output"
GROUPS = {
    INPUT: "model random_weights prompts prompt_lengths file prompt_field trace.open_ chat data limit check column "
    "include_path prompt_template shots judge info_judge judge_url",
    HOW: "",  # everything else, so that a method's settings need no line here
    CHOICE: "metric folds train static",
    RUNNING: "config backend dtype device trust_remote_code threads batch_size batch_sizes cache compile repeats old "
    "memory host port help",
    OUTPUT: "output results answers markdown chart html png greedy top_k ui.open_ json",
}
"""The groups in their order, and the parameters that belong to each: `name`, or `verb.name` where verbs differ."""

_GROUP_OF = {name: group for group, names in GROUPS.items() for name in names.split()}
_FEW = 6
"""With fewer options than this a verb has one group."""
_IN_BRACKETS = re.compile(r"default: \((.*)\)\]")
"""Matches a default that is a description, whose second pair of brackets is dropped."""


def group_of(verb: str | None, name: str) -> str:
    """The group of a verb's option."""
    return _GROUP_OF.get(f"{verb}.{name}") or _GROUP_OF.get(name, HOW)


class Verb(TyperCommand):
    """A verb whose help shows its options in groups."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments, then each group that has options."""
        parameters = self.get_params(ctx)
        few = sum(each.param_type_name == "option" for each in parameters) < _FEW
        sections: dict[str, list[tuple[str, str]]] = {title: [] for title in ("Arguments", "Options", *GROUPS)}
        for each in parameters:
            is_argument = each.param_type_name == "argument"
            title = "Arguments" if is_argument else "Options" if few else group_of(self.name, str(each.name))
            if (record := each.get_help_record(ctx)) is not None:
                sections[title].append((record[0], _IN_BRACKETS.sub(r"default: \1]", record[1])))
        for title, records in sections.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


class Verbs(TyperGroup):
    """The verbs of `dola`: those to start with come first."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the verbs to start with, then the others."""
        self.write_verbs(formatter, "Start here", START)
        self.write_verbs(formatter, "More", [name for name in self.list_commands(ctx) if name not in START])

    def write_verbs(self, formatter: Any, title: str, names: Iterable[str]) -> None:
        """Write a section of verbs with what each gives."""
        verbs = {name: self.commands[name] for name in names}
        limit = formatter.width - 6 - max(map(len, self.commands))
        with formatter.section(title):
            formatter.write_dl([(name, verb.get_short_help_str(limit)) for name, verb in verbs.items()])


def first_page(context: Any) -> str:
    """The page for `dola` alone: what to type first, and where the rest is."""
    verbs, formatter = context.command, context.make_formatter()
    formatter.write_usage("dola", "COMMAND [OPTIONS]")
    formatter.write_paragraph()
    formatter.write_text(verbs.help.partition("\n")[0])
    verbs.write_verbs(formatter, "Start here", START)
    with formatter.section("Then"):
        formatter.write_dl([("dola COMMAND --help", "options and examples of a command"), ("dola --help", "all commands")])
    return str(formatter.getvalue()).rstrip("\n")
