"""Named things: found by themselves, each name once, with a hint for a misspelt one."""

import sys

import pytest

from detectors.errors import ConfigError
from detectors.registry import Registry, did_you_mean


@pytest.fixture
def package(tmp_path, monkeypatch) -> str:
    """A package of two modules, each of which registers a thing with the package's registry."""
    folder = tmp_path / "zoo_of_a_test"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "from detectors.registry import Registry\nANIMALS = Registry('animal', 'zoo_of_a_test')\n"
    )
    for name in ("heron", "otter"):
        (folder / f"{name}.py").write_text(
            f"from zoo_of_a_test import ANIMALS\n@ANIMALS.register('{name}')\n"
            f"def {name}():\n    '''The {name}.\n\n    More about it.\n    '''\n    return '{name}!'\n"
        )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "zoo_of_a_test"
    for module in [m for m in sys.modules if m.split(".")[0] == "zoo_of_a_test"]:
        del sys.modules[module]


def test_a_package_is_searched_when_a_name_is_first_asked_for(package):
    registry = __import__(package).ANIMALS
    assert f"{package}.heron" not in sys.modules
    assert registry["otter"]() == "otter!"
    assert f"{package}.heron" in sys.modules
    assert registry.names() == ["heron", "otter"]
    assert registry.described() == {"heron": "The heron.", "otter": "The otter."}


def test_a_name_taken_twice_is_refused():
    registry: Registry[int] = Registry("animal", "detectors.errors")
    registry.register("heron")(1)
    with pytest.raises(ValueError, match="animal 'heron' is registered twice"):
        registry.register("heron")(2)
    assert registry["heron"] == 1


def test_the_decorator_gives_back_what_it_registers():
    registry: Registry = Registry("animal", "detectors.errors")

    @registry.register("plain")
    def plain() -> int:
        return 3

    assert plain() == 3
    assert registry["plain"] is plain
    assert registry.described() == {"plain": ""}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("heorn", "unknown animal 'heorn'; did you mean heron"),
        ("zzz", "unknown animal 'zzz'; known: heron, otter$"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest_or_all(name, message, package):
    with pytest.raises(ConfigError, match=message):
        __import__(package).ANIMALS[name]


@pytest.mark.parametrize(
    ("name", "known", "tail"),
    [
        ("epoch", ["epochs", "batch"], "; did you mean epochs?"),
        ("vgg", ["vgg16", "vgg19", "x"], "; did you mean vgg19 or vgg16?"),
        ("qqq", ["b", "a"], "; known: a, b"),
        ("qqq", [f"a{k:02}" for k in range(80)], "; known: a00, a01, a02, a03, a04, a05 and 74 more"),
    ],
)
def test_hints(name, known, tail):
    assert did_you_mean(name, known) == tail
