"""Rounds of cutting, recalibrating, fine-tuning and scoring, each phase recorded: a run can stop anywhere."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from compress.calibration import recalibrated
from compress.cost import Cost, subject
from compress.latency.engines import Stopwatch
from compress.ledger import Entry, Ledger, kept_round
from compress.masking import unfolded
from compress.pruning import carry_out
from compress.recipe import Recipe
from compress.report import widths_table
from compress.schedule import least_score, plan_round, stopwatch_of
from compress.session import loader_of, terms_of
from compress.states import States
from detectors.checkpoint import fingerprint, save
from detectors.data import Dataset
from detectors.data.samples import stable_seed
from detectors.engine.distributed import Place, wait
from detectors.engine.loop import fit
from detectors.errors import RunError
from detectors.files import write_text
from detectors.loading import load
from detectors.models.base import Detector
from detectors.settings import TrainConfig

# The phase whose file each phase of a round starts from.
_BEFORE = {"recalibrate": "cut", "finetune": "recalibrate", "evaluate": "finetune"}


@dataclass
class Run:
    """A compression run in its folder.

    Every phase starts from the file that the phase before wrote, also in an unbroken run: so a run that was
    killed ends as if it had not been.

    Attributes:
        recipe: all settings.
        first: the detector that the run starts from; never changed.
        training: images to recalibrate and fine-tune on.
        test: images to score on.
        folder: of the run, held by the caller.
        place: this process among those that work together.
        stopwatch: takes all times; None: as the recipe says.
    """

    recipe: Recipe
    first: Detector
    training: Dataset
    test: Dataset
    folder: Path
    place: Place
    stopwatch: Stopwatch | None = None

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.folder / "ledger.jsonl", write=self.place.leads)
        self._watch = self.stopwatch or stopwatch_of(self.recipe, self.folder / "latency.json")
        self._states = States(self.recipe, self.first, self.test, self.place, self._watch)

    def finish(self) -> Ledger:
        """Runs whatever phases are not done yet, and leaves `slim.pth`.

        Raises:
            PlanError: the budget cannot be met.
            RunError: the folder holds a run of another model.
            Interrupted: a signal came; the same call goes on from there.
        """
        self._start()
        rounds = self.recipe.prune.rounds
        phases = (
            ("cut", self._cut),
            ("recalibrate", self._recalibrate),
            ("finetune", self._finetune),
            ("evaluate", self._evaluate),
        )
        for number in range(1, rounds + 1):
            for phase, work in phases:
                self._phase(number, phase, work)
            if self.place.leads:
                self._tidy(number)
            if self._stops(number):
                break
        kept = kept_round(self.ledger)
        if self.place.leads and kept:
            slim = load(self._file(kept, "finetune"))
            if self.recipe.prune.mode == "mask":
                network, inputs = subject(self.first)
                keeps = [self._kept(number) for number in range(1, kept + 1)]
                slim.network = unfolded(network, slim.network.to(self.place.device), keeps, inputs)
            name = "masked.pth" if self.recipe.prune.mode == "mask" else "slim.pth"
            save(slim, self.folder / name, **self._meta(kept))
        return self.ledger

    def _stops(self, number: int) -> bool:
        """Whether a round scored below what the recipe accepts; recorded, so that all later calls agree."""
        limit = self.recipe.prune.stop_below
        if limit is None:
            return False
        scores = [self.ledger.find(0, "start"), self.ledger.find(number, "evaluate")]
        first, value = (float(entry["score"]["value"]) for entry in scores if entry is not None)
        least = least_score(limit, first)
        if value >= least:
            return False
        if self.ledger.find(number, "stop") is None:
            self.ledger.add({"round": number, "phase": "stop", "score": value, "below": least})
        self._say(f"round {number}: {value:.3f} is below prune.stop_below={limit} ({least:.3f}); stopping")
        return True

    def _start(self) -> None:
        mark = fingerprint(self.first)
        entry = self.ledger.find(0, "start")
        if entry is not None:
            if entry["model"] != mark:
                raise RunError(
                    f"{self.folder} holds a run that started from another model (or other weights of it); "
                    "give this run its own folder with out=PATH, or delete the folder to start over"
                )
            return
        self._say("scoring the model as it is")
        self.ledger.add(
            {
                "round": 0,
                "phase": "start",
                "model": mark,
                "file": self.recipe.model,
                **self._states.of_first(),
            }
        )
        wait(self.place)

    def _phase(
        self, number: int, phase: str, work: Callable[[int, Detector], tuple[Detector, Entry]]
    ) -> None:
        if self.ledger.find(number, phase) is not None:
            return
        started = time.monotonic()
        before = self._before(number, phase)
        detector = load(before) if before else self.first
        detector.postprocess = self.first.postprocess
        detector, facts = work(number, detector.to(self.place.device))
        if phase != "evaluate" and self.place.leads:
            save(detector, self._file(number, phase), **self._meta(number))
        wait(self.place)
        self.ledger.add(
            {"round": number, "phase": phase, "seconds": round(time.monotonic() - started, 3), **facts}
        )

    def _cut(self, number: int, detector: Detector) -> tuple[Detector, Entry]:
        start = self._start_entry()
        graph, plan = plan_round(
            self.recipe,
            number,
            detector,
            self.training,
            self.place,
            first=(Cost(**start["cost"]), start["widths"]),
            clocked=(self.first.network, self._watch),
        )
        slim = carry_out(detector, graph, plan)
        if self.place.leads:
            write_text(self._plan_file(number), json.dumps({"keep": plan.keep}))
        self._say(f"\n{widths_table(graph, plan, number)}\n")
        done = "cut and proven" if plan.keep else "nothing to cut"
        self._say(f"round {number}: {done}: {plan.before} -> {plan.after}")
        score = None
        if self.recipe.report.after_cut:
            score = self._states.score(slim)
            self._say(f"round {number}: after the cut {score.line()}")
        facts: Entry = {
            "cost": asdict(plan.after),
            "score": score.to_dict() if score else None,
            "widths": {name: after for name, (_, after) in plan.widths.items()},
        }
        if plan.timed is not None:
            self._say(f"round {number}: {plan.timed}")
            facts["timed"] = asdict(plan.timed)
        return slim, facts

    def _recalibrate(self, number: int, detector: Detector) -> tuple[Detector, Entry]:
        path = self._before(number, "cut")
        before = load(path).to(self.place.device) if path else self.first
        facts = recalibrated(self.recipe, before, detector, self._kept(number), self.training, self.place)
        score = self._states.score(detector)
        self._say(f"round {number}: before fine-tuning {score.line()}")
        return detector, {**facts, "score": score.to_dict()}

    def _finetune(self, number: int, detector: Detector) -> tuple[Detector, Entry]:
        settings = self._finetuning(number)
        loader = loader_of(self.recipe, settings, self.training, detector, self.place)
        state = self.folder / f"round_{number:02d}.state.pth"
        title = f"round {number}/{self.recipe.prune.rounds}, epoch"
        teacher = self.recipe.distill.teacher or self.first
        terms = terms_of(self.recipe, settings, detector, teacher=teacher)
        history = fit(
            detector, loader, settings, place=self.place, terms=terms, state_file=state, title=title
        )
        return detector, {"epochs": settings.epochs, "loss": history[-1] if history else None}

    def _finetuning(self, number: int) -> TrainConfig:
        """How a round is fine-tuned: each sees the images in an order, and augmented in ways, of its own."""
        settings, epochs = self.recipe.finetune, self.recipe.prune.epochs
        if number > 1:
            settings = replace(settings, seed=stable_seed(settings.seed, number))
        return settings if epochs is None else replace(settings, epochs=epochs[number - 1])

    def _evaluate(self, number: int, detector: Detector) -> tuple[Detector, Entry]:
        entry = self._states.of(detector)
        self._say(
            f"round {number}: {Cost(**entry['cost'])}; {entry['score']['label']} "
            f"{entry['score']['value']:.3f}"
        )
        return detector, entry

    def _before(self, number: int, phase: str) -> Path | None:
        """The file that a phase starts from; None for the first model itself."""
        if phase == "cut":
            return self._file(number - 1, "finetune") if number > 1 else None
        return self._file(number, _BEFORE[phase])

    def _file(self, number: int, phase: str) -> Path:
        return self.folder / (
            f"round_{number:02d}.pth" if phase == "finetune" else f"round_{number:02d}.{phase}.pth"
        )

    def _kept(self, number: int) -> dict[str, tuple[int, ...]]:
        """The channels that stayed in each group that a round cut."""
        keep = json.loads(self._plan_file(number).read_text(encoding="utf-8"))["keep"]
        return {group: tuple(channels) for group, channels in keep.items()}

    def _plan_file(self, number: int) -> Path:
        return self.folder / f"round_{number:02d}.plan.json"

    def _tidy(self, number: int) -> None:
        for leftover in ("cut", "recalibrate", "state"):
            (self.folder / f"round_{number:02d}.{leftover}.pth").unlink(missing_ok=True)

    def _meta(self, number: int) -> dict[str, Any]:
        return {"parent": self._start_entry()["model"], "round": number}

    def _start_entry(self) -> Entry:
        start = self.ledger.find(0, "start")
        assert start is not None, "the phase `start` comes before all others"
        return start

    def _say(self, text: str) -> None:
        if self.place.leads:
            print(text, flush=True)
