"""Tables of the quality benchmark are read as they were written, and data sets pooled by their means."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.pool import main, mean_difference, pool
from benchmarks.study import TABLES, difference
from benchmarks.tables import Cell, Difference, rows_of, titled

ROOT = Path(__file__).parents[2]
POOLED = sorted(ROOT.glob("benchmarks/results/quality_*+*.md"))
ROWS = [
    ["method", "lr", "10 %", "5 %"],
    ["ours", "0.016", "0.600", "0.500"],
    ["uniform L1", "0.008", "0.580 (-0.020 [-0.030, +0.004])", "-"],
    ["global", "0.004", "out of reach", "0.400 (-0.100 [-0.150, -0.080])"],
    ["dense", "", "0.700", "0.700"],
]


@pytest.mark.parametrize("cell", [Cell(0.5), Cell(0.5, Difference(-0.02, -0.03, 0.004)), Cell(0.0)])
def test_a_cell_is_read_as_it_was_written(cell: Cell) -> None:
    assert Cell.read(str(cell)) == cell


def test_a_table_is_found_by_its_title() -> None:
    text = "\n\n".join([titled("First", ROWS[:2]), titled("Second", ROWS)]) + "\n"
    assert rows_of(text, "First") == ROWS[:2]
    assert rows_of(text, "Second") == ROWS
    assert rows_of(text, "Third") == []


def test_the_pooled_interval_is_that_of_resampling_both_sets_at_once() -> None:
    """To 0.004, some 15 % of its half: 4,000 resamples leave each end to 0.002, and the ends of a mean of two
    are quantiles of a sum, which MOVER has exactly for normal ones alone."""
    generator = np.random.default_rng(0)
    facts = []
    for count, gain in ((72, 0.02), (67, -0.03)):
        ours, gains = generator.uniform(0.2, 1, count), generator.normal(gain, 0.12, count)
        drawn = generator.integers(0, count, (4000, count))
        facts.append([{"score": one.mean(), "resampled": one[drawn].mean(1)} for one in (ours, ours + gains)])
    separate = [difference([ours], [other]) for ours, other in facts]
    ours, other = (
        {key: np.mean([one[key] for one in two], axis=0) for key in ("score", "resampled")}
        for two in zip(*facts, strict=True)
    )
    together, mean = difference([ours], [other]), mean_difference(separate)
    assert mean.value == pytest.approx(together.value, abs=1e-12)
    assert mean.low == pytest.approx(together.low, abs=4e-3)
    assert mean.high == pytest.approx(together.high, abs=4e-3)
    assert mean.high - mean.low < 0.8 * max(one.high - one.low for one in separate)


def test_a_pool_has_what_all_sets_have() -> None:
    other = [
        ["method", "lr", "5 %", "10 %", "1 %"],
        ["ours", "0.016", "0.700", "0.800", "0.1"],
        ["uniform L1", "0.016", "0.600 (-0.100 [-0.110, -0.090])", "0.800 (+0.000 [-0.030, +0.032])", "-"],
        ["global", "0.004", "0.500 (-0.200 [-0.270, -0.186])", "0.700 (-0.100 [-0.130, -0.050])", "-"],
        ["random", "0.004", "0.1", "0.1", "0.1"],
        ["dense", "", "0.800", "0.800", "0.800"],
    ]
    assert pool([ROWS, other]) == [
        ["method", "lr", "10 %", "5 %"],
        ["ours", "0.016", "0.700", "0.600"],
        ["uniform L1", "0.008 and 0.016", "0.690 (-0.010 [-0.026, +0.010])", "-"],
        ["global", "0.004", "out of reach", "0.450 (-0.150 [-0.193, -0.138])"],
        ["dense", "", "0.750", "0.750"],
    ]


@pytest.mark.parametrize("path", POOLED, ids=lambda path: path.name)
def test_the_pools_that_are_kept_are_those_of_the_tables_that_are(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = path.read_text(encoding="utf-8")
    words = kept.splitlines()[0].removeprefix("`").removesuffix("`.").split()
    assert words[:3] == ["python", "-m", "benchmarks.pool"]
    monkeypatch.chdir(ROOT)
    written: list[str] = []
    monkeypatch.setattr(Path, "write_text", lambda _, text, encoding: written.append(text))
    main(words[3:])
    assert written == [kept]


@pytest.mark.parametrize(
    ("texts", "why"),
    [
        (["x"], "a data set by itself is no pool: name tables of others as well"),
        (["x", None], "there is no such file: python -m benchmarks.quality writes it"),
        (["x", "x"], "no table of the same title in all of them: take those of one --recovery"),
        ([titled(TABLES["ours"], [ROWS[0], ["dense", "", "0.8 and 0.9", "1"]])] * 2, "is not one score"),
    ],
)
def test_what_cannot_be_pooled_is_refused_in_a_line(
    texts: list[str | None], why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [tmp_path / f"{place}.md" for place in range(len(texts))]
    for file, text in zip(files, texts, strict=True):
        if text is not None:
            file.write_text(text, encoding="utf-8")
    assert_refused(files, why, capsys)


def test_a_set_is_not_pooled_with_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert_refused(
        [tmp_path / "0.md"] * 2, "a data set by itself is no pool: name tables of others as well", capsys
    )


def assert_refused(files: list[Path], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(list(map(str, files)))
    assert stopped.value.code == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.endswith(why)
    assert str(files[-1]) in told
