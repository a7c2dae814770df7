"""Typed recipes: base chains, overrides, and one clear line for each mistake."""

import dataclasses
import itertools
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from detectors.config import dump, key_lines, load
from detectors.errors import ConfigError
from detectors.settings import DataConfig, DetectorConfig, EvalConfig, TrainConfig, setting


@dataclass
class Inner:
    rate: float = setting(0.5, "a rate")
    mode: Literal["slow", "fast"] = setting("slow", "a choice")
    steps: list[int] = setting([1, 2], "a list")
    limit: int | None = setting(None, "null or a number")


@dataclass
class Outer:
    name: str = setting("x", "a name")
    flag: bool = setting(False, "a flag")
    inner: Inner = setting(Inner, "a section")
    options: dict[str, Any] = setting({}, "free")


@dataclass
class Everything:
    detector: DetectorConfig = setting(DetectorConfig, "")
    data: DataConfig = setting(DataConfig, "")
    train: TrainConfig = setting(TrainConfig, "")
    eval: EvalConfig = setting(EvalConfig, "")


@pytest.fixture
def recipe(tmp_path):
    def write(text: str, name: str = "recipe.yaml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


def test_an_empty_recipe_gives_the_defaults(recipe):
    assert load(Outer, recipe("")) == Outer()
    assert load(Outer, recipe("# only a comment\n")) == Outer()


def test_values_are_typed_instances_of_the_schema(recipe):
    config = load(Outer, recipe("name: y\ninner: {rate: 1, mode: fast, steps: [7], limit: 3}\n"))
    assert config == Outer("y", False, Inner(1.0, "fast", [7], 3), {})
    assert isinstance(config.inner.rate, float)


def test_each_recipe_changes_the_one_it_is_based_on(recipe):
    recipe("name: root\ninner: {rate: 0.1, steps: [1, 2, 3]}\noptions: {a: 1, b: 2}\n", "lib/root.yaml")
    recipe("base: lib/root.yaml\ninner: {rate: 0.2, limit: 9}\n", "middle.yaml")
    path = recipe("base: ../middle.yaml\ninner: {limit: null, steps: [5]}\noptions: {b: 3}\n", "sub/top.yaml")
    assert load(Outer, path) == Outer("root", False, Inner(0.2, "slow", [5], None), {"a": 1, "b": 3})


@pytest.mark.parametrize("chain", ["aa", "aba", "abcb", "abca"])
def test_a_circle_of_bases_is_refused(chain, recipe):
    for name, base in itertools.pairwise(chain):
        recipe(f"base: {base}.yaml\n", f"{name}.yaml")
    first = recipe(f"base: {chain[1]}.yaml\n", "a.yaml")
    with pytest.raises(ConfigError, match=rf"{chain[-1]}\.yaml: its `base` chain runs in a circle; take one"):
        load(Outer, first)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nmae: x", r"recipe.yaml: unknown key nmae; did you mean name\?"),
        ("inner: {rat: 1}", r"recipe.yaml: unknown key inner.rat; did you mean rate\?"),
        ("inner: {qqqqqq: 1}", "unknown key inner.qqqqqq; known: limit, mode, rate, steps"),
        ("1: x", "unknown key 1; known: flag"),
        ("name: [1]", "recipe.yaml: name: "),
        ("inner: {rate: fast}", "recipe.yaml: inner.rate: .*fast"),
        ("inner: {mode: medium}", "recipe.yaml: inner.mode: .*medium"),
        ("inner: {steps: [1, two]}", "recipe.yaml: inner.steps.*two"),
        ("inner: {steps: 3}", "recipe.yaml: inner.steps: "),
        ("inner: {limit: 2.5}", "recipe.yaml: inner.limit: .*2.5"),
        ("inner: 5", "recipe.yaml: inner holds keys of its own"),
        ("flag: maybe", "recipe.yaml: flag: .*maybe"),
        ("flag: null", "recipe.yaml: flag: "),
        ("- a\n- b", "recipe.yaml: a recipe is a mapping of keys to values, this is a list"),
        ("name: [1, 2", "recipe.yaml: not valid YAML: .*line 1"),
        ("a: b: c", "recipe.yaml: not valid YAML: .*line 1, column 5"),
        ("\tname: x", "recipe.yaml: not valid YAML"),
        ("base: missing.yaml", "no recipe .*missing.yaml"),
        ("name: ${nowhere}", "nowhere"),
    ],
)
def test_a_mistake_is_one_line_that_names_file_and_key(text, message, recipe):
    with pytest.raises(ConfigError, match=message) as caught:
        load(Outer, recipe(text))
    assert "\n" not in str(caught.value)


def test_an_unknown_key_is_named_with_the_file_of_the_chain_that_holds_it(recipe):
    recipe("inner: {modee: fast}\n", "root.yaml")
    with pytest.raises(ConfigError, match=r"root.yaml: unknown key inner.modee; did you mean mode\?"):
        load(Outer, recipe("base: root.yaml\n"))


def test_a_missing_recipe_is_answered_with_the_nearest(recipe):
    path = recipe("", "quickstart.yaml")
    with pytest.raises(ConfigError, match=r"no recipe .*quikstart.yaml; did you mean .*quickstart.yaml"):
        load(Outer, path.with_name("quikstart.yaml"))
    with pytest.raises(ConfigError, match=r"no recipe .*/no/folder/x.yaml$"):
        load(Outer, path.parent / "no" / "folder" / "x.yaml")


def test_a_folder_or_bytes_in_place_of_a_recipe_are_config_errors(recipe):
    path = recipe("")
    with pytest.raises(ConfigError, match="cannot read the recipe"):
        load(Outer, path.parent)
    path.write_bytes(b"\xff\xfe\x00name")
    with pytest.raises(ConfigError, match="cannot read the recipe"):
        load(Outer, path)


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("inner.rate=1e-3", "rate", 0.001),
        ("inner.rate=-2E+1", "rate", -20.0),
        ("inner.rate=2.5e-4", "rate", 0.00025),
        ("inner.rate=3", "rate", 3.0),
        ("inner.limit=7", "limit", 7),
        ("inner.limit=null", "limit", None),
        ("inner.limit=", "limit", None),
        ("inner.steps=[4, 5]", "steps", [4, 5]),
        ("inner.steps=[]", "steps", []),
        ("inner.mode=fast", "mode", "fast"),
    ],
)
def test_overrides(override, key, value, recipe):
    config = load(Outer, recipe("inner: {rate: 9.0, limit: 4, steps: [9]}\n"), [override])
    found = getattr(config.inner, key)
    assert found == value
    assert type(found) is type(value)


def test_overrides_of_free_options_and_whole_sections(recipe):
    overrides = ["options.a=[0.1, 1]", "options.b.c=word", "options={d: 2}", "inner={rate: 7}", "name=a=b"]
    config = load(Outer, recipe("options: {a: 0}\n"), overrides)
    assert config.options == {"a": [0.1, 1], "b": {"c": "word"}, "d": 2}
    assert (config.inner, config.name) == (Inner(7.0), "a=b")


def test_a_later_override_wins(recipe):
    assert load(Outer, recipe("name: a\n"), ["name=b", "name=c"]).name == "c"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("name", "'name' is not key=value; write for example train.epochs=10"),
        ("=3", "'=3' is not key=value"),
        ("inner..rate=3", "'inner..rate=3' is not key=value"),
        ("inner.rate=[1", r"'inner.rate=\[1': the value is not valid YAML"),
        ("inner.raet=1", r"override 'inner.raet=1': unknown key inner.raet; did you mean rate\?"),
        ("inner.mode=quick", "override 'inner.mode=quick': inner.mode: "),
        ("inner=5", "override 'inner=5': inner holds keys of its own"),
        ("name.x=5", "override 'name.x=5': name"),
    ],
)
def test_a_mistaken_override_is_one_line_that_names_it(override, message, recipe):
    with pytest.raises(ConfigError, match=message) as caught:
        load(Outer, recipe(""), [override])
    assert "\n" not in str(caught.value)


def test_what_is_dumped_reads_back_equal(recipe):
    config = Everything()
    config.train.lr, config.train.milestones, config.train.clip_norm = 1e-5, [0.25], 10.0
    config.data.classes, config.data.root = ["no", "1e-3", "null", "a: b"], "~/x y/#1"
    config.detector.options = {"scales": [0.1, 0.8], "deep": {"flag": True, "none": None, "text": "5"}}
    assert load(Everything, recipe(dump(config))) == config
    assert load(Everything, recipe(dump(Everything()))) == Everything()


def test_every_setting_has_a_line_of_help():
    def leaves(config: Any, prefix: str = "") -> list[str]:
        values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
        nested = [
            leaves(value, f"{prefix}{name}.") if dataclasses.is_dataclass(value) else [prefix + name]
            for name, value in values.items()
        ]
        return list(itertools.chain.from_iterable(nested))

    lines = key_lines(Everything)
    assert [key for key, _, _ in lines] == leaves(Everything())
    assert all(text for _, _, text in lines)
    defaults = {key: default for key, default, _ in lines}
    assert defaults["train.lr"] == "0.001"
    assert defaults["detector.size"] == "null"
    assert defaults["data.train"] == "[trainval]"
    assert defaults["data.synthetic.object_size"] == "[0.2, 0.5]"
    assert defaults["train.decay_norm_and_bias"] == "true"


def test_the_defaults_that_help_prints_are_overrides_that_change_nothing(recipe):
    overrides = [f"{key}={default}" for key, default, _ in key_lines(Everything)]
    assert load(Everything, recipe(""), overrides) == Everything()


@dataclass
class Step:
    rate: float = setting(0.5, "a rate")


@dataclass
class Listed:
    steps: list[Step] = setting([], "sections in a list")
    shares: dict[str, float] = setting({}, "numbers by names with dots")
    names: list[str] = setting([], "words")


def test_a_list_of_sections_is_read_as_such_and_replaced_as_a_whole(recipe):
    path = recipe("steps: [{rate: 0.1}, {}]")
    assert load(Listed, path).steps == [Step(0.1), Step(0.5)]
    assert load(Listed, path, ["steps=[{rate: 2}]"]).steps == [Step(2.0)]
    assert load(Listed, recipe(dump(Listed([Step(3.0)])))).steps == [Step(3.0)]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("steps=[{rate: 1}, {rat: 2}]", "unknown key steps[1].rat; did you mean rate?"),
        ("steps=[0.1]", "steps[0] holds keys of its own; write steps=[{KEY: value}]"),
        ("steps={rate: 0.1}", "steps: takes a list"),
        ("steps=[{rate: fast}]", "'fast'"),
        ("names={a: b}", "names: takes a list"),
        ("shares={a.b: much}", "'much'"),
    ],
)
def test_a_mistake_in_a_list_or_mapping_is_one_line_that_names_the_place(override, message, recipe):
    with pytest.raises(ConfigError) as caught:
        load(Listed, recipe(""), [override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_names_of_numbers_may_have_dots_and_keep_their_order(recipe):
    path = recipe('shares: {"b.*": 0.3}')
    found = load(Listed, path, ["shares.a.conv=0.1", 'shares={"a.*": 1}'])
    assert list(found.shares.items()) == [("b.*", 0.3), ("a.conv", 0.1), ("a.*", 1.0)]
