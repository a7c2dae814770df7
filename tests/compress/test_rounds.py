"""Rounds meet their budgets, and a run that was killed anywhere ends as an unbroken one, to the bit."""

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import PHASES, same_files, tiny_detector, tiny_recipe, tiny_run, without_seconds

import detectors
from compress.cost import Cost, cost_of
from compress.ledger import Entry, Ledger, kept_round
from compress.recipe import BudgetConfig, PruneConfig
from compress.schedule import budget_of_round, least_score
from detectors.checkpoint import fingerprint, read
from detectors.errors import ConfigError, Interrupted, PlanError, RunError
from detectors.files import append_line
from detectors.models.base import Detector


class Killed(BaseException):
    """What stands for a process that ends at once."""


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken")
    tiny_run(folder).finish()
    return folder


def assert_same_run(folder: Path, unbroken: Path) -> None:
    assert same_files(folder, unbroken)
    entries, expected = (Ledger(path / "ledger.jsonl").entries for path in (folder, unbroken))
    assert without_seconds(entries) == without_seconds(expected)


def finish_however_often_it_is_killed(folder: Path, kill: type[BaseException] = Killed) -> int:
    """Starts the run again until it is done; how often it had to be."""
    for deaths in range(30):
        try:
            tiny_run(folder).finish()
        except kill:
            continue
        return deaths
    raise AssertionError("the run never ends")


def test_every_phase_is_recorded_in_order_and_the_files_are_left(unbroken: Path) -> None:
    entries = Ledger(unbroken / "ledger.jsonl").entries
    assert [(entry["round"], entry["phase"]) for entry in entries] == PHASES
    files = sorted(path.name for path in unbroken.iterdir())
    assert files == [
        "ledger.jsonl",
        "round_01.plan.json",
        "round_01.pth",
        "round_02.plan.json",
        "round_02.pth",
        "slim.pth",
    ]


def test_every_round_meets_its_budget_and_the_ledger_tells_the_built_cost(unbroken: Path) -> None:
    ledger, recipe = Ledger(unbroken / "ledger.jsonl"), tiny_recipe()
    whole = cost_of(tiny_detector(recipe))
    assert Cost(**ledger.find(0, "start")["cost"]) == whole
    for number, share in ((1, 0.4**0.5), (2, 0.4)):
        built = cost_of(detectors.load(unbroken / f"round_{number:02d}.pth"))
        assert Cost(**ledger.find(number, "cut")["cost"]) == built
        assert Cost(**ledger.find(number, "evaluate")["cost"]) == built
        assert 0.9 * share < built.macs / whole.macs <= share
        assert budget_of_round(recipe.prune, whole, number).macs >= built.macs


def test_the_slim_file_is_the_last_round_and_names_its_parent(unbroken: Path) -> None:
    slim, last = detectors.load(unbroken / "slim.pth"), detectors.load(unbroken / "round_02.pth")
    assert fingerprint(slim) == fingerprint(last)
    parent = fingerprint(tiny_detector(tiny_recipe()))
    assert read(unbroken / "slim.pth")["meta"] == {"parent": parent, "round": 2}
    assert read(unbroken / "round_01.pth")["meta"] == {"parent": parent, "round": 1}
    assert Ledger(unbroken / "ledger.jsonl").find(0, "start")["model"] == parent


def test_the_ledger_holds_the_score_its_difference_and_the_batch_norms_measured(unbroken: Path) -> None:
    ledger = Ledger(unbroken / "ledger.jsonl")
    norms = sum(isinstance(m, torch.nn.BatchNorm2d) for m in tiny_detector(tiny_recipe()).modules())
    assert ledger.find(0, "start")["difference"] is None
    for number in (1, 2):
        evaluated, recalibrated = (ledger.find(number, phase) for phase in ("evaluate", "recalibrate"))
        difference = evaluated["difference"]
        expected = evaluated["score"]["value"] - ledger.find(0, "start")["score"]["value"]
        assert difference["value"] == pytest.approx(expected)
        assert difference["low"] <= difference["high"]
        assert recalibrated["batch_norms"] == norms
        assert recalibrated["score"]["images"] == evaluated["score"]["images"] == 4
        assert ledger.find(number, "finetune")["loss"]["epoch"] == 1
        assert evaluated["latency"] is None


def test_a_finished_run_is_not_done_again(unbroken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path.name: path.read_bytes() for path in unbroken.iterdir() if path.name != "slim.pth"}
    monkeypatch.setattr("compress.rounds.fit", None)
    ledger = tiny_run(unbroken).finish()
    assert [(entry["round"], entry["phase"]) for entry in ledger.entries] == PHASES
    assert before == {path.name: path.read_bytes() for path in unbroken.iterdir() if path.name in before}


def at_the_beginning(monkeypatch: pytest.MonkeyPatch, die: Callable[[int, str], None]) -> None:
    """Dies when a phase is looked up in the ledger and is not there, which is when it begins."""
    find = Ledger.find

    def dying(self: Ledger, round_: int, phase: str) -> Entry | None:
        entry = find(self, round_, phase)
        if entry is None:
            die(round_, phase)
        return entry

    monkeypatch.setattr(Ledger, "find", dying)


def before_its_line(monkeypatch: pytest.MonkeyPatch, die: Callable[[int, str], None]) -> None:
    """Dies when all the work of a phase is done, but not recorded."""
    add = Ledger.add

    def dying(self: Ledger, entry: Entry) -> None:
        die(entry["round"], entry["phase"])
        add(self, entry)

    monkeypatch.setattr(Ledger, "add", dying)


def within_its_line(monkeypatch: pytest.MonkeyPatch, die: Callable[[int, str], None]) -> None:
    """Dies when half the line of a phase is on disk."""

    def dying(path: Path, line: str) -> None:
        half = len(line) // 2
        try:
            die(-1, line[:half])
        except Killed:
            with path.open("a") as file:
                file.write(line[:half])
            raise
        append_line(path, line)

    monkeypatch.setattr("compress.ledger.append_line", dying)


@pytest.mark.parametrize("where", [at_the_beginning, before_its_line, within_its_line])
def test_killed_in_every_phase_ends_as_unbroken(
    where: Any, tmp_path: Path, unbroken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    died: set[Any] = set()

    def die(round_: int, phase: str) -> None:
        # Half a line holds wall times late, so that its first characters tell the phase.
        key = (round_, phase[:40])
        if key not in died:
            died.add(key)
            raise Killed

    where(monkeypatch, die)
    assert finish_however_often_it_is_killed(tmp_path / "run") == len(PHASES)
    monkeypatch.undo()
    assert_same_run(tmp_path / "run", unbroken)


def test_killed_while_files_are_written_ends_as_unbroken(
    tmp_path: Path, unbroken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, died = os.replace, set()

    def dying(source: Any, target: Any) -> None:
        if Path(target).name not in died:
            died.add(Path(target).name)
            Path(source).write_bytes(b"half")
            raise Killed
        replace(source, target)

    monkeypatch.setattr("os.replace", dying)
    deaths = finish_however_often_it_is_killed(tmp_path / "run")
    monkeypatch.undo()
    assert deaths == len(died) == 5 + 5 + 1  # of each round plan, cut, recalibrate, state, result; slim
    assert_same_run(tmp_path / "run", unbroken)


def test_stopped_within_fine_tuning_ends_as_unbroken(
    tmp_path: Path, unbroken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses, steps, signals = Detector.losses, [], {1, 4}

    def interrupted(self: Detector, *args: Any) -> Any:
        steps.extend([1] * self.training)  # scoring asks for losses too
        if self.training and len(steps) in signals:
            os.kill(os.getpid(), signal.SIGINT)
        return losses(self, *args)

    monkeypatch.setattr(Detector, "losses", interrupted)
    deaths = finish_however_often_it_is_killed(tmp_path / "run", Interrupted)
    assert (deaths, len(steps)) == (2, 4)  # no step is done twice
    monkeypatch.undo()
    assert_same_run(tmp_path / "run", unbroken)


def test_a_crash_within_fine_tuning_ends_as_unbroken(
    tmp_path: Path, unbroken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses, steps = Detector.losses, []

    def crashing(self: Detector, *args: Any) -> Any:
        steps.extend([1] * self.training)
        if self.training and len(steps) == 2:
            raise RuntimeError("out of memory")
        return losses(self, *args)

    monkeypatch.setattr(Detector, "losses", crashing)
    assert finish_however_often_it_is_killed(tmp_path / "run", RuntimeError) == 1
    monkeypatch.undo()
    assert_same_run(tmp_path / "run", unbroken)


def test_each_round_trains_on_batches_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    losses, shown = Detector.losses, []

    def watched(self: Detector, images: torch.Tensor, *args: Any) -> Any:
        if self.training:
            shown.append(images.clone())
        return losses(self, images, *args)

    monkeypatch.setattr(Detector, "losses", watched)
    tiny_run(tmp_path / "run").finish()
    assert len(shown) == 4  # two rounds of two steps
    assert not any(torch.equal(one, other) for one in shown[:2] for other in shown[2:])


def test_another_model_in_the_same_folder_is_refused_and_changes_nothing(unbroken: Path) -> None:
    before = {path.name: path.read_bytes() for path in unbroken.iterdir()}
    other = tiny_detector(tiny_recipe(), seed=1)
    with pytest.raises(RunError, match=r"started from another model .* out=PATH"):
        tiny_run(unbroken, first=other).finish()
    assert before == {path.name: path.read_bytes() for path in unbroken.iterdir()}


def test_the_first_model_is_never_changed(tmp_path: Path) -> None:
    recipe = tiny_recipe(rounds=1, epochs=[0])
    first = tiny_detector(recipe)
    mark = fingerprint(first)
    tiny_run(tmp_path / "run", recipe, first).finish()
    assert fingerprint(first) == mark
    assert Ledger(tmp_path / "run" / "ledger.jsonl").find(1, "finetune")["loss"] is None


@pytest.mark.parametrize(
    ("settings", "rounds", "limits"),
    [
        ({"macs": "25%"}, 2, [(500, None), (250, None)]),
        ({"macs": "125"}, 3, [(500, None), (250, None), (125, None)]),
        ({"params": "50%"}, 1, [(None, 4000)]),
        ({"macs": "10%", "params": "1%"}, 2, [(316, 800), (100, 80)]),
    ],
)
def test_every_round_keeps_the_same_share_of_what_the_one_before_was_allowed(
    settings: dict[str, str], rounds: int, limits: list[tuple[int | None, int | None]]
) -> None:
    prune = PruneConfig(budget=BudgetConfig(**settings), rounds=rounds)
    budgets = [budget_of_round(prune, Cost(1000, 8000, 32000), n + 1) for n in range(rounds)]
    assert [(budget.macs, budget.params) for budget in budgets] == limits


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"rounds": 0}, "prune.rounds=0"),
        ({"rounds": 2, "epochs": [1]}, "prune.epochs=[1]"),
        ({"rounds": 2, "epochs": [1, -1]}, "prune.epochs=[1, -1]"),
    ],
)
def test_rounds_that_cannot_be_are_refused_with_their_key(settings: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(key)):
        PruneConfig(**settings)


@pytest.mark.parametrize(
    ("limit", "kept", "phases"),
    [("0.0", 2, 9), ("1.0", 0, 6)],
)
def test_a_round_below_the_limit_ends_the_run_and_the_one_before_is_kept(
    limit: str, kept: int, phases: int, tmp_path: Path
) -> None:
    recipe = tiny_recipe(stop_below=limit)
    ledger = tiny_run(tmp_path, recipe).finish()
    assert kept_round(ledger) == kept
    assert len(ledger.entries) == phases
    assert (tmp_path / "slim.pth").exists() == bool(kept)
    again = tiny_run(tmp_path, recipe).finish()
    assert again.entries == ledger.entries


def test_a_masked_run_that_stops_early_ends_the_same_however_it_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_recipe(mode="mask", stop_below="95%", rounds=3, criterion="fisher", compensate="refit")
    add, replace, died = Ledger.add, os.replace, set()
    killed_at = {(2, "cut"), (2, "evaluate"), (2, "stop"), "masked.pth"}

    def die(where: Any) -> None:
        if where in killed_at - died and (tmp_path / "killed").exists():
            died.add(where)
            raise Killed

    def scoring(self: Ledger, entry: Entry) -> None:
        die((entry["round"], entry["phase"]))
        if entry["phase"] in ("start", "evaluate"):  # as if the second round cost too much
            entry["score"]["value"] = (0.8, 0.79, 0.5)[entry["round"]]
        add(self, entry)

    def replacing(source: Any, target: Any) -> None:
        die(Path(target).name)
        replace(source, target)

    monkeypatch.setattr(Ledger, "add", scoring)
    monkeypatch.setattr("os.replace", replacing)
    ledger = tiny_run(tmp_path / "unbroken", recipe).finish()
    for _ in killed_at:
        with pytest.raises(Killed):
            tiny_run(tmp_path / "killed", recipe).finish()
    tiny_run(tmp_path / "killed", recipe).finish()
    assert died == killed_at
    assert_same_run(tmp_path / "killed", tmp_path / "unbroken")
    assert [(entry["round"], entry["phase"]) for entry in ledger.entries] == [*PHASES, (2, "stop")]
    assert kept_round(ledger) == 1
    assert not (tmp_path / "killed" / "slim.pth").exists()
    masked, kept = (detectors.load(tmp_path / "killed" / name) for name in ("masked.pth", "round_01.pth"))
    assert read(tmp_path / "killed" / "masked.pth")["meta"]["round"] == 1
    assert cost_of(masked) == cost_of(tiny_detector(recipe))
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        for got, wanted in zip(masked(images), kept(images), strict=True):
            # Sums of the same float32 products and of zeros, in another order.
            torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("text", "least"), [("0.5", 0.5), ("95%", 0.38), (" 50 %", 0.2)])
def test_a_least_score_is_a_number_or_a_share_of_the_first(text: str, least: float) -> None:
    assert least_score(text, 0.4) == pytest.approx(least)


@pytest.mark.parametrize("text", ["half", "-0.1", "1.5", "150%", ""])
def test_a_least_score_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(PlanError, match=r"prune.stop_below=.* is no score; write 0.5, or 95%"):
        least_score(text, 0.4)


@pytest.mark.parametrize("criterion", ["column_subset", "random"])
def test_criteria_of_data_killed_before_the_second_cut_is_recorded_end_as_unbroken(
    criterion: str, tmp_path: Path
) -> None:
    recipe = tiny_recipe(criterion=criterion, compensate="refit", choice="global")
    tiny_run(tmp_path / "unbroken", recipe).finish()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ledger, "add", _dying_after(5))  # before the line of the second cut
        with pytest.raises(Killed):
            tiny_run(tmp_path / "killed", recipe).finish()
    tiny_run(tmp_path / "killed", recipe).finish()
    assert_same_run(tmp_path / "killed", tmp_path / "unbroken")
    plans = [(tmp_path / name / "round_02.plan.json").read_text() for name in ("killed", "unbroken")]
    assert plans[0] == plans[1]


def _dying_after(lines: int) -> Callable[[Ledger, Entry], None]:
    """`Ledger.add` that does so many lines and then ends the process instead."""
    add, done = Ledger.add, []

    def dying(self: Ledger, entry: Entry) -> None:
        if len(done) == lines:
            raise Killed
        done.append(entry)
        add(self, entry)

    return dying


def test_a_budget_that_is_met_already_is_said_to_cut_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_run(tmp_path, tiny_recipe(budget=BudgetConfig(macs="100%"), rounds=1)).finish()
    told = capsys.readouterr().out
    assert "  nothing to cut: the budget is met already\n" in told
    assert "round 1: nothing to cut: " in told
