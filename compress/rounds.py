"""Rounds of cutting, recalibrating, fine-tuning and scoring, each phase recorded: a run can stop anywhere."""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from torch import Tensor

from compress.cost import Cost, cost_of, subject
from compress.graph import trace
from compress.latency import Latency, measure
from compress.ledger import Entry, Ledger
from compress.pruning import carry_out
from compress.recalibrate import batch_norm_statistics
from compress.recipe import Recipe
from compress.report import widths_table
from compress.schedule import plan_round
from compress.session import loader_of, predictions_of, scored, terms_of
from detectors.checkpoint import fingerprint, save
from detectors.data import Dataset
from detectors.data.loader import train_loader
from detectors.engine.distributed import Place, wait
from detectors.engine.loop import fit
from detectors.errors import RunError
from detectors.evaluation.run import Predictions, paired_difference
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
    """

    recipe: Recipe
    first: Detector
    training: Dataset
    test: Dataset
    folder: Path
    place: Place

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.folder / "ledger.jsonl", write=self.place.leads)
        self._first_predictions: Predictions | None = None

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
        if self.place.leads:
            slim = load(self._file(rounds, "finetune"))
            save(slim, self.folder / "slim.pth", **self._meta(rounds))
        return self.ledger

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
        graph = trace(*subject(self.first))
        self.ledger.add(
            {
                "round": 0,
                "phase": "start",
                "model": mark,
                "file": self.recipe.model,
                "widths": {group.name: group.channels for group in graph.groups},
                **self._state_of(self.first),
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
        graph, plan = plan_round(self.recipe.prune, number, detector, Cost(**start["cost"]), start["widths"])
        slim = carry_out(detector, graph, plan)
        if number > 1:  # those of the first round were shown before it began
            self._say(f"\n{widths_table(graph, plan, number)}\n")
        self._say(f"round {number}: cut and proven: {plan.before} -> {plan.after}")
        return slim, {
            "cost": asdict(plan.after),
            "widths": {name: after for name, (_, after) in plan.widths.items()},
        }

    def _recalibrate(self, number: int, detector: Detector) -> tuple[Detector, Entry]:
        settings = self.recipe.prune
        measured = 0
        if settings.recalibrate == "bn":
            measured = batch_norm_statistics(detector, self._calibration_images(detector))
        score = scored(self.recipe, detector, predictions_of(self.recipe, detector, self.test, self.place))
        self._say(f"round {number}: before fine-tuning {score.line()}")
        return detector, {"batch_norms": measured, "score": score.to_dict()}

    def _calibration_images(self, detector: Detector) -> Iterator[Tensor]:
        """Batches of plain training images, the same in every process, which so gets the same statistics."""
        wanted = self.recipe.prune.recalibration_images
        batch = min(wanted, self.recipe.finetune.batch)
        loader = train_loader(
            self.training,
            size=detector.size,
            batch=batch,
            augment="none",
            seed=self.recipe.finetune.seed,
            workers=self.recipe.data.workers,
        )
        for found in islice(loader.epoch(0), max(1, wanted // batch)):
            yield found.images.to(self.place.device)

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
        """How a round is fine-tuned."""
        epochs = self.recipe.prune.epochs
        return (
            self.recipe.finetune
            if epochs is None
            else replace(self.recipe.finetune, epochs=epochs[number - 1])
        )

    def _evaluate(self, number: int, detector: Detector) -> tuple[Detector, Entry]:
        entry = self._state_of(detector)
        self._say(
            f"round {number}: {Cost(**entry['cost'])}; {entry['score']['label']} "
            f"{entry['score']['value']:.3f}"
        )
        return detector, entry

    def _state_of(self, detector: Detector) -> Entry:
        """Score, costs and latency of a detector, the latter two beside the first model's."""
        found = predictions_of(self.recipe, detector, self.test, self.place)
        score = scored(self.recipe, detector, found)
        is_first = detector is self.first
        difference = None
        if not is_first and self.recipe.eval.bootstrap:
            if self._first_predictions is None:
                self._first_predictions = predictions_of(self.recipe, self.first, self.test, self.place)
            difference = paired_difference(
                self._first_predictions.detections,
                found.detections,
                found.targets,
                detector.spec.classes,
                metric=self.recipe.eval.metric,
                bootstrap=self.recipe.eval.bootstrap,
            )
        elif is_first:
            self._first_predictions = found
        latency, first_latency = self._latencies(detector)
        return {
            "cost": asdict(cost_of(detector)),
            "score": score.to_dict(),
            "difference": asdict(difference) if difference else None,
            "latency": asdict(latency) if latency else None,
            "first_latency": asdict(first_latency) if first_latency else None,
        }

    def _latencies(self, detector: Detector) -> tuple[Latency | None, Latency | None]:
        runs = self.recipe.prune.latency_runs
        if runs == 0 or not self.place.leads:
            return None, None  # the others wait: timed at once, the processes would slow each other
        networks = [self.first.network] if detector is self.first else [detector.network, self.first.network]
        measured = measure(networks, subject(detector)[1], runs=runs)
        return measured[0], measured[-1]

    def _before(self, number: int, phase: str) -> Path | None:
        """The file that a phase starts from; None for the first model itself."""
        if phase == "cut":
            return self._file(number - 1, "finetune") if number > 1 else None
        return self._file(number, _BEFORE[phase])

    def _file(self, number: int, phase: str) -> Path:
        return self.folder / (
            f"round_{number:02d}.pth" if phase == "finetune" else f"round_{number:02d}.{phase}.pth"
        )

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
