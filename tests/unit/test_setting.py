"""A field of a configuration is an option of the command, a widget of the page, and checks its values."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, Literal

import pytest
import typer
from cli_page import verbs
from toy_method import ToyConfig
from typer.testing import CliRunner

import dola
from dola.cli.field_options import method_options
from dola.cli.method_options import DEFAULTS, MethodOptions, documented
from dola.errors import ConfigError
from dola.methods import MethodConfig
from dola.methods.facts import setting
from dola.ui.form import asked, offered, widget

VERBS = dict(verbs())


@dataclass(frozen=True)
class MoreConfig(dola.DoLaConfig):
    """DoLa with further fields, as they may come."""

    method: ClassVar[str] = "more"
    weight: float = setting(1.0, help="How much the contrast counts.", label="Weight", low=0, high=2)
    target: str = setting("paper", help="What is scored.", choices=("paper", "distribution"))
    steps: int = setting(3, help="How often.", low=1)
    careful: bool = setting(False, help="Whether to look twice.")


FIELDS = {each.name: each for each in MoreConfig.options()}
OLD = ("relative_top", "divergence", "strength", "scores", "final_norm", "lens")
NEW = ("weight", "target", "steps", "careful")


@pytest.mark.parametrize("annotation", ["Unknown", "KW_ONLY"])
def test_an_annotation_that_is_no_type_does_not_change_other_fields(annotation):
    """One for type checking alone, and the marker that Python 3.10 takes for no type: layers may still be numbers."""
    names = {"__annotations__": {"other": annotation, "rate": "float"}, "method": "other", "other": None, "rate": setting(0.5)}
    fields_of = dataclass(frozen=True)(type("OtherConfig", (dola.DoLaConfig,), names)).settings()
    kinds = {each.name: each.kind for each in fields_of}
    assert (kinds["layers"], kinds["final_norm"], kinds["rate"]) == (object, bool, float)


@pytest.fixture
def run():
    """Run a verb with the options of MoreConfig; what it was given, or what it said."""
    seen: list[MethodOptions] = []
    app = typer.Typer(rich_markup_mode=None)

    @app.command()
    @method_options(fields=MoreConfig.options())
    def verb(prompt: str = "", dola: MethodOptions = DEFAULTS) -> None:
        seen.append(dola)

    def invoke(*arguments: str):
        result = CliRunner().invoke(app, arguments)
        return seen.pop() if result.exit_code == 0 and seen else (result.output or str(result.exception))

    return invoke


def test_a_new_field_is_an_option(run):
    given = run("--weight", "1.5", "--target", "distribution", "--lens", "x.safetensors", "--steps", "2", "--careful").given
    assert given == {"weight": 1.5, "target": "distribution", "lens": "x.safetensors", "steps": 2, "careful": True}
    assert type(given["target"]) is str
    assert run().given == {}
    assert run("--no-careful").given == {"careful": False}
    said = run("--help")
    for words in ("--weight", "How much the contrast", "paper|distribution", "--no-careful", "--relative-top"):
        assert words in said
    assert "--lazy" not in said
    assert "allowed is 0 to 2" in run("--weight", "3")
    assert "'x' is not one of" in run("--target", "x")


@pytest.mark.parametrize("verb", ["generate", "compare", "trace", "eval", "serve"])
def test_verbs_have_an_option_for_each_field_of_dola(verb):
    names = {parameter.name for parameter in VERBS[verb,].params}
    assert names >= {each.name for each in dola.DoLaConfig.options()} | {"layers", "method", "set_"}
    assert "lazy" not in names


def test_an_option_goes_to_another_method_that_has_the_field(monkeypatch):
    monkeypatch.setattr("dola.methods.registry.BUILT_IN", {"dola": dola.DoLaConfig, "more": MoreConfig, "toy": ToyConfig})
    given = {"relative_top": 0.3, "final_norm": False}
    assert MethodOptions(method="more", given=given).config() == MoreConfig(**given)
    assert MethodOptions(layers="low", method="more", named=["weight=2"]).config() == MoreConfig("low", weight=2)
    with pytest.raises(dola.errors.UsageError, match="--relative-top and --no-final-norm cannot be used with --method toy"):
        MethodOptions(method="toy", given=given).config()


def test_a_new_field_is_a_widget_of_the_page():
    assert [each.name for each in offered(MoreConfig)] == [*OLD, *NEW]
    kinds = {name: widget(each) for name, each in FIELDS.items()}
    assert {name: kind for name, (kind, _) in kinds.items()} == {
        "relative_top": "Slider", "divergence": "Radio", "strength": "Number", "scores": "Radio",
        "final_norm": "Checkbox", "weight": "Slider", "target": "Radio",
        "lens": "Textbox", "steps": "Number", "careful": "Checkbox",
    }  # fmt: skip
    assert kinds["weight"][1] == {
        "minimum": 0, "maximum": 2, "step": 0.01, "value": 1.0, "label": "Weight", "info": "How much the contrast counts."
    }  # fmt: skip
    assert kinds["target"][1]["choices"] == ["paper", "distribution"]
    assert asked(FIELDS["lens"], "") is None
    assert (asked(FIELDS["weight"], None), asked(FIELDS["weight"], 2)) == (1.0, 2.0)


def test_a_new_field_is_a_row_of_the_schema():
    assert documented("settings", "of DoLa") == {f"settings.{name}": "of DoLa" for name in OLD}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"weight": 3}, "weight=3 is out of range; allowed is [0, 2]."),
        ({"weight": float("nan")}, "weight=nan is out of range"),
        ({"weight": True}, "weight=True is not a number"),
        ({"steps": 0}, "steps=0 is out of range; allowed is 1 or more."),
        ({"steps": 1.5}, "steps=1.5 is not an integer"),
        ({"target": "x"}, "target='x' is unknown; allowed are 'paper', 'distribution'."),
        ({"lens": 3}, "lens=3 is not text."),
        ({"careful": 1}, "careful=1 is not a bool; allowed are True and False."),
    ],
)
def test_values_are_checked_by_what_a_field_says(value, message):
    with pytest.raises(ConfigError) as refused:
        MoreConfig(**value)
    assert message in refused.value.message
    assert refused.value.hint


def test_a_field_that_says_nothing_is_known_by_its_annotation():
    @dataclass(frozen=True)
    class Plain(MethodConfig):
        method: ClassVar[str] = "plain"
        layers: str | Sequence[int] = "high"
        _: KW_ONLY
        rate: float = 0.5
        way: Literal["up", "down"] = "up"
        where: tuple[int, ...] = ()
        unknown: "Nowhere" = 3  # noqa: F821
        final_norm: bool = True

    found = {each.name: each for each in Plain.options()}
    assert [*found] == ["rate", "way", "where", "unknown", "final_norm"]
    assert found["final_norm"].label == "Final norm"
    assert found["rate"].kind is float  # its default's, as an annotation of this class cannot be read
    assert Plain(rate="x").rate == "x", "what is not described is the class's own to check"
    (rate,) = ToyConfig.options()
    assert (rate.name, rate.kind, rate.default, rate.described) == ("rate", float, 0.5, False)


def test_an_annotation_may_list_the_choices():
    @dataclass(frozen=True)
    class Listed(MethodConfig):
        method: ClassVar[str] = "listed"
        layers: str = "high"
        way: Literal["up", "down"] = "up"
        often: int | None = None

    way, often = Listed.options()
    assert (way.kind, way.choices) == (str, ("up", "down"))
    assert (often.kind, often.optional) == (int, True)


WITH_FIELDS = [path for path, verb in VERBS.items() if any("--strength" in option.opts for option in verb.params)]


@pytest.mark.parametrize("path", WITH_FIELDS, ids=" ".join)
@pytest.mark.parametrize(
    ("name", "text", "value"),
    [("strength", "0.5", 0.5), ("scores", "distribution", "distribution"), ("lens", "x.safetensors", "x.safetensors")],
)
def test_each_verb_takes_each_field(path, name, text, value):
    verb = VERBS[path]
    arguments = ["x" for option in verb.params if option.param_type_name == "argument" and option.required]
    given = verb.make_context(" ".join(path), [*arguments, f"--{name}", text]).params[name]
    assert getattr(given, "value", given) == value
