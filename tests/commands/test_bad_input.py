"""Bad input gets one line that begins with `error: `, exit status 2, and nothing is lost."""

import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from scripts import Done, files_in, run, same_state
from torch import nn

import detectors
from detectors.checkpoint import read
from detectors.models import build
from detectors.models.base import Detector

MODEL = "model=weights/tiny/model.pth"
FALLING = "[{macs: 50%}, {macs: 30%}]"
# For checkpoints that are of another detector than the recipe's.
AS_SAVED = ("detector.name=null", "detector.size=null", "detector.width=null", "out=new")
TWO_STAGE = "torchvision_fasterrcnn_mobilenet_v3_large_320_fpn"


@pytest.fixture(scope="module")
def misfits(
    chain: tuple[Path, dict[str, Done]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    """Checkpoints that fit no command, or not the tiny recipe, by name."""
    folder = tmp_path_factory.mktemp("misfits")
    tiny = chain[0] / "weights/tiny/model.pth"
    classes = detectors.load(tiny).spec.classes
    (folder / "cut.pth").write_bytes(tiny.read_bytes()[:2000])
    (folder / "empty.pth").write_bytes(b"")
    torch.save(nn.Linear(2, 2), folder / "module.pth")
    for name, kind, known, options in (
        ("owls", "ssd_vgg16_bn", ("owl",), {"width": 0.0625}),
        ("large", "ssd_vgg16_bn", classes, {"width": 0.0625, "size": (96, 64)}),
        ("plain", "refinedet", classes, {"width": 0.0625}),
        ("two_stage", TWO_STAGE, classes, {"proposals": 4}),
    ):
        other = build(kind, known, **{"size": (64, 64), **options})
        detectors.save(other, folder / f"{name}.pth")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("script", "arguments", "parts"),
    [
        ("prune.py", [], ["prune.py", "add model=PATH"]),
        ("finetune.py", [], ["finetune.py", "add model=PATH"]),
        ("eval_voc.py", [], ["eval_voc.py", "add model=PATH"]),
        (
            "prune.py",
            ["model=weights/tiny/modle.pth"],
            ["no checkpoint", "did you mean weights/tiny/model.pth"],
        ),
        ("eval_voc.py", ["model=nowhere/x.pth"], ["no checkpoint nowhere/x.pth"]),
        ("eval_voc.py", ["model=weights"], ["no checkpoint weights"]),
        ("eval_voc.py", ["model=cut.pth"], ["cut.pth (2,000 bytes) is truncated or not a PyTorch file"]),
        ("eval_voc.py", ["model=empty.pth"], ["empty.pth (0 bytes) is truncated"]),
        ("eval_voc.py", ["model=tiny.yaml"], ["is truncated or not a PyTorch file"]),
        ("eval_voc.py", ["model=module.pth"], ["module.pth is or holds a pickled object", "state_dict()"]),
        ("eval_voc.py", [MODEL, "detector.width=0.25"], ["built with width=0.125, not with width=0.25"]),
        ("eval_voc.py", [MODEL, "detector.size=[64, 96]"], ["built with size=[64, 64]"]),
        ("finetune.py", [MODEL, "detector.name=ssd300_vgg16"], ["holds a ssd_vgg16_bn, not a ssd300_vgg16"]),
        ("eval_voc.py", [MODEL, "data.synthetic.classes=3"], ["draws", "not among the classes"]),
        (
            "eval_voc.py",
            [MODEL, "data.classes=[solid disc, solid square, ant]"],
            ["weights/tiny/model.pth", "its 2 classes differ from the 3", "only in the data: ant"],
        ),
        (
            "eval_voc.py",
            [MODEL, "data.classes=[solid square, solid disc]"],
            ["weights/tiny/model.pth", "the classes stand in another order"],
        ),
        ("prune.py", [MODEL, "prune.rounds=1", "prune.budget.macs=0.1%"], ["out of reach", "plan keeps"]),
        ("prune.py", [MODEL, "prune.budget.macs=half"], ["prune.budget.macs='half' is not a budget"]),
        ("prune.py", [MODEL, "prune.budget.macs=null"], ["either a budget", "prune.ratio"]),
        ("prune.py", [MODEL, "prune.ratio=0.5"], ["and not both"]),
        ("prune.py", [MODEL, "prune.ratios={backbone.*: 0.5}"], ["not both a budget and prune.ratios"]),
        (
            "prune.py",
            [MODEL, "prune.budget.macs=null", "prune.ratios={backbone.feature.*: 0.5}"],
            ["prune.ratios: no layer matches", "did you mean backbone.features.*"],
        ),
        ("prune.py", [MODEL, "prune.caps={extra.*: 0.5}"], ["prune.caps: no layer", "did you mean extras.*"]),
        ("prune.py", [MODEL, "prune.budgets=[{macs: 50%}]"], ["prune.budgets and prune.budget contradict"]),
        (
            "prune.py",
            [MODEL, "prune.budget.macs=null", "prune.budgets=[{macs: 30%}, {macs: 50%}]"],
            ["prune.budgets[1].macs=", "is above the"],
        ),
        (
            "prune.py",
            [
                MODEL,
                "prune.budget.macs=null",
                "prune.rounds=1",
                f"prune.budgets={FALLING}",
                "prune.ratio=0.3",
            ],
            ["prune.budgets and prune.ratio contradict each other: give one and not both"],
        ),
        (
            "prune.py",
            [MODEL, "prune.budget.macs=null", "prune.rounds=3", f"prune.budgets={FALLING}"],
            ["prune.rounds=3", "must be 2, as prune.budgets has"],
        ),
        (
            "prune.py",
            [MODEL, "prune.budget.macs=null", "prune.ratio=0.3", "prune.ratios={backbone.*: 0.3}"],
            ["and not both prune.ratio and prune.ratios"],
        ),
        ("prune.py", [MODEL, "prune.budget=50%"], ["prune.budget holds keys of its own"]),
        ("prune.py", [MODEL, "prune.budget.mac=50%"], ["unknown key prune.budget.mac; did you mean macs"]),
        ("prune.py", [MODEL, "prune.skip=body"], ["prune.skip: takes a list"]),
        ("prune.py", [MODEL, "prune.skip=['*']"], ["out of reach", "0 of 17 groups free to shrink"]),
        (
            "prune.py",
            [MODEL, "prune.budget.macs=null", "prune.ratios={conf.0: 0.5}"],
            ["prune.ratios: 'conf.0' names only layers that are never cut", "backbone.features.0"],
        ),
        ("prune.py", [MODEL, "prune.caps={conf.0: 0.5}"], ["prune.caps: 'conf.0' names only layers"]),
        ("prune.py", [MODEL, "prune.choice=knapsack", "prune.order=sequential"], ["knapsack cannot wait"]),
        ("prune.py", [MODEL, "prune.stop_below=good"], ["prune.stop_below='good' is no score; write 0.5"]),
        ("prune.py", [MODEL, "prune.stop_below=150%"], ["prune.stop_below='150%' is no score"]),
        ("prune.py", [MODEL, "prune.stop_below=nan"], ["prune.stop_below='nan' is no score"]),
        ("prune.py", [MODEL, "prune.stop_below=95"], ["is no score; write 0.5, or 95% of the first"]),
        (
            "prune.py",
            ["model=plain.pth", *AS_SAVED, "prune.criterion=bn_scale"],
            ["prune.criterion=bn_scale: the network has no batch norm", "another criterion, such as l1"],
        ),
        (
            "prune.py",
            ["model=two_stage.pth", *AS_SAVED, "distill.predictions=1"],
            ["distill.predictions=1 compares anchor by anchor", "use distill.attention"],
        ),
        ("prune.py", [MODEL, "prune.calibration_images=0"], ["prune.calibration_images=0"]),
        ("prune.py", [MODEL, "prune.skip=[backbone.feature.0]"], ["did you mean backbone.features.0"]),
        ("prune.py", [MODEL, "prune.criterion=l3"], ["unknown criterion 'l3'"]),
        ("prune.py", [MODEL, "prune.rounds=0"], ["prune.rounds=0"]),
        ("prune.py", [MODEL, "prune.epochs=[1]"], ["prune.epochs=[1]", "2 rounds"]),
        ("train.py", ["out=tiny.yaml/run"], ["cannot write", "tiny.yaml"]),
        ("train.py", ["data.test=[tset]", "out=new"], ["no split 'tset'"]),
        ("train.py", ["data.synthetic.train=0", "out=new"], ["data.train names no image"]),
        ("train.py", ["data.name=voc", "data.root=nowhere", "out=new"], ["nowhere"]),
        ("train.py", ["data.synthetic.classes=99", "out=new"], ["data.synthetic.classes=99 must be 1 to 40"]),
        ("train.py", ["train.batch=0", "out=new"], ["batch=0"]),
        ("train.py", ["train.sparsity=-1", "out=new"], ["sparsity=-1"]),
        ("train.py", ["train.norm_and_bias_lr=0", "out=new"], ["norm_and_bias_lr=0.0", "it must be above 0"]),
        ("train.py", ["train.loss_weights.boxes=-1", "out=new"], ["loss_weights.boxes=-1"]),
        (
            "prune.py",
            [MODEL, "finetune.loss_weights.box=4", "out=new"],
            ["loss_weights.box: ssd_vgg16_bn has no such loss; did you mean boxes?"],
        ),
        (
            "train.py",
            ["train.sparsity=1e-4", "detector.name=refinedet", "out=new"],
            ["sparsity=0.0001 draws on batch norm scales", "refinedet"],
        ),
        ("prune.py", [MODEL, "distill.temperature=0"], ["distill.temperature=0"]),
        (
            "prune.py",
            [MODEL, "distill.attention=1", "distill.cache=ram", "out=new"],
            ["distill.cache=ram", "data.augment=light", "flip or none"],
        ),
        (
            "prune.py",
            [MODEL, "distill.attention=1", "distill.teacher=owls.pth", "out=new"],
            ["owls.pth does not fit as a teacher", "(1: owl)"],
        ),
        (
            "prune.py",
            [MODEL, "distill.predictions=1", "distill.teacher=plain.pth", "out=new"],
            ["plain.pth does not fit as a teacher of this ssd_vgg16_bn: it has other anchors or outputs"],
        ),
        (
            "prune.py",
            [MODEL, "distill.attention=1", "distill.teacher=large.pth", "out=new"],
            ["large.pth does not fit as a teacher: it takes images of [96, 64], the student of [64, 64]"],
        ),
        ("finetune.py", [MODEL, f"distill.teacher={MODEL[6:]}", "out=new"], ["has nothing to teach"]),
        (
            "finetune.py",
            [MODEL, "distill.teacher=no.pth", "distill.attention=1", "out=new"],
            ["no checkpoint no.pth"],
        ),
        (
            "finetune.py",
            [MODEL, "distill.teacher=large.pth", "distill.predictions=1", "out=new"],
            ["large.pth does not fit as a teacher", "[96, 64]"],
        ),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    finished: Path, misfits: dict[str, bytes], script: str, arguments: list[str], parts: list[str]
) -> None:
    for name, content in misfits.items():
        (finished / name).write_bytes(content)
    before = files_in(finished)
    error = run(finished, script, "tiny.yaml", *arguments).error
    assert all(part in error for part in parts), error
    assert files_in(finished) == before


def test_an_unreachable_budget_is_answered_with_one_that_works(finished: Path) -> None:
    arguments = ["prune.py", "tiny.yaml", MODEL, "prune.rounds=1", "dry_run=true"]
    error = run(finished, *arguments, "prune.budget.macs=0.1%").error
    smallest = re.search(r"keeps ([\d,]+) ", error)
    assert smallest is not None, error
    limit = smallest[1].replace(",", "")
    assert run(finished, *arguments, f"prune.budget.macs={limit}").code == 0
    assert run(finished, *arguments, f"prune.budget.macs={int(limit) - 1}").code == 2


def test_a_budget_that_is_met_already_is_said_to_cut_nothing(finished: Path) -> None:
    arguments = ["prune.py", "tiny.yaml", MODEL, "prune.rounds=1", "dry_run=true"]
    told = "  nothing to cut: the budget is met already"
    assert run(finished, *arguments, "prune.budget.macs=900G").out.splitlines()[-1] == told
    assert told not in run(finished, *arguments, "prune.budget.macs=60%").out


def test_a_budget_out_of_reach_of_the_last_round_is_answered_before_the_first(finished: Path) -> None:
    before = files_in(finished)
    settings = ["prune.multiple=8", "prune.budget.macs=2%", "prune.rounds=6", "out=late"]
    assert "out of reach" in run(finished, "prune.py", "tiny.yaml", MODEL, *settings).error
    assert files_in(finished) == before


@pytest.mark.parametrize("dry_run", ["true", "false"])
def test_calibration_images_without_boxes_are_one_line_and_spoil_no_file(
    finished: Path, dry_run: str
) -> None:
    before = files_in(finished)
    # One drawn image of forty, which happens to be empty with this seed.
    drawn = ("data.synthetic.objects=[0, 1]", "data.synthetic.train=40", "finetune.seed=1")
    few = ("prune.criterion=fisher", "prune.calibration_images=1", "out=new", f"dry_run={dry_run}")
    error = run(finished, "prune.py", "tiny.yaml", MODEL, *drawn, *few).error
    assert "none of the 1 calibration images has a labelled box; raise prune.calibration_images" in error
    assert before.items() <= files_in(finished).items()
    assert not (finished / "new/slim.pth").exists()
    if dry_run == "false":  # what the message says to do is done in the same folder, and scores nothing anew
        started = (finished / "new/ledger.jsonl").read_text()
        more = (*few, "prune.calibration_images=40", "prune.rounds=1", "finetune.epochs=0")
        assert run(finished, "prune.py", "tiny.yaml", MODEL, *drawn, *more).code == 0
        assert (finished / "new/ledger.jsonl").read_text().startswith(started)
        assert "calibration_images: 40" in (finished / "new/recipe.yaml").read_text()


@pytest.mark.parametrize("criterion", ["taylor", "fisher", "column_subset"])
def test_a_loss_that_is_not_finite_while_scoring_is_one_line_and_spoils_no_file(
    finished: Path, criterion: str
) -> None:
    detector = detectors.load(finished / "weights/tiny/model.pth")
    with torch.no_grad():
        detector.network.get_submodule("loc.0").bias.fill_(3e38)  # finite, but not with what is added to it
        detector.network.get_submodule("loc.1").bias.fill_(-3e38)
    detectors.save(detector, finished / "wild.pth")
    before = files_in(finished)
    settings = ("model=wild.pth", f"prune.criterion={criterion}", "out=new")
    error = run(finished, "prune.py", "tiny.yaml", *settings).error
    assert re.search(r"the loss is (inf|nan) on calibration batch 1: .*, such as l1$", error), error
    assert before.items() <= files_in(finished).items()
    assert not list((finished / "new").glob("*.pth"))


@pytest.mark.parametrize("script", ["train.py", "finetune.py"])
def test_a_loss_that_explodes_stops_the_run_and_spoils_no_file(finished: Path, script: str) -> None:
    before = files_in(finished)
    section = script.removesuffix(".py")
    done = run(finished, script, "tiny.yaml", MODEL, f"{section}.lr=1e30", f"{section}.epochs=2", "out=new")
    assert "not finite" in done.error
    assert "lower the learning rate" in done.error
    assert not (finished / "new/model.pth").exists()
    assert before.items() <= files_in(finished).items()


def test_after_a_loss_that_is_not_finite_the_last_good_epoch_is_kept(
    workplace: Path, chain: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses, steps = Detector.losses, []

    def broken(self: Detector, *args: Any) -> Any:
        steps.append(1)
        terms = losses(self, *args)
        return {key: value * float("nan") for key, value in terms.items()} if len(steps) == 4 else terms

    monkeypatch.setattr(Detector, "losses", broken)
    done = run(workplace, "train.py", "tiny.yaml")
    assert "the loss is not finite" in done.error
    assert "at epoch 2, step 2; the last good checkpoint is weights/tiny/last.pth" in done.error
    assert read(workplace / "weights/tiny/last.pth")["training"]["epoch"] == 1
    monkeypatch.undo()
    assert run(workplace, "train.py", "tiny.yaml").code == 0
    assert same_state(workplace / "weights/tiny/model.pth", chain[0] / "weights/tiny/model.pth")


@pytest.mark.parametrize("script", ["train.py", "prune.py"])
def test_a_broken_state_file_is_named(finished: Path, script: str) -> None:
    if script == "train.py":
        path = finished / "weights/tiny/last.pth"
        path.write_bytes(path.read_bytes()[:3000])
        assert "weights/tiny/last.pth (3,000 bytes) is truncated" in run(finished, script, "tiny.yaml").error
    else:
        path = finished / "prunes/tiny/ledger.jsonl"
        path.write_text(path.read_text().replace("{", "[", 1))
        assert "ledger.jsonl:1 records no phase" in run(finished, script, "tiny.yaml", MODEL).error


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_named_and_left_as_it_is(finished: Path) -> None:
    (finished / "weights/tiny").chmod(0o555)
    try:
        assert "cannot write weights/tiny" in run(finished, "train.py", "tiny.yaml").error
    finally:
        (finished / "weights/tiny").chmod(0o755)


def test_a_file_that_vanished_from_a_run_is_named(finished: Path) -> None:
    (finished / "prunes/tiny/round_02.pth").unlink()
    error = run(finished, "prune.py", "tiny.yaml", MODEL).error
    assert "no checkpoint prunes/tiny/round_02.pth" in error
