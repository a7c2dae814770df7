"""A data set on which trials of the quality benchmark run: a dense detector cut, recovered and scored."""

import copy
import hashlib
import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from benchmarks.answers import Remembered
from benchmarks.main_job import machine
from benchmarks.peers import SELECTIONS, OutOfReach, plan_for, selected
from benchmarks.trials import DENSE, SCRATCH, TUNED, Split, Trial
from compress.calibration import calibration_batches, recalibrated
from compress.cost import cost_of, subject
from compress.distill import Distillation
from compress.graph import trace
from compress.probe import Keep
from compress.pruning import carry_out
from compress.recipe import Recipe
from compress.schedule import plan_round
from compress.session import loader_of, open_all, predictions_of, terms_of
from detectors.checkpoint import fingerprint, save
from detectors.config import given, load
from detectors.data import Dataset
from detectors.engine.distributed import Place
from detectors.engine.loop import fit
from detectors.evaluation import METRICS
from detectors.evaluation.bootstrap import resamples
from detectors.files import held, write_text
from detectors.models import build
from detectors.models.base import Detector

RESAMPLES = 500
# Keys that decide where things lie and how fast they come, not what comes.
NO_MATTER = ("data.root", "data.workers", "data.cache", "distill.cache")


class OutOfTime(Exception):
    """A trial that has no result yet would begin after the deadline."""


class NotOnRecord(OutOfTime):
    """A trial of an earlier run that is asked for was not part of it."""


@dataclass
class Record:
    """The trials of an earlier run, as benchmarks/results keeps them.

    Attributes:
        path: quality_SET.json.
    """

    path: Path

    @cached_property
    def _trials(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.path.read_text(encoding="utf-8"))
        return found

    def result(self, trial: Trial) -> dict[str, Any]:
        """What a trial came to; NotOnRecord if it is not there."""
        told = asdict(trial).items()
        for one in self._trials:
            if told <= one.items():
                return one
        raise NotOnRecord(f"{trial.method}, {trial.recovery} recovery, on {trial.split}")


@dataclass
class Bench:
    """A data set to compare methods on, and where its results lie.

    Attributes:
        recipe: file of the recipe.
        overrides: `key=value` for every trial and the dense training.
        tuning: the same beside them where val is scored: what is trained on must then not hold val.
        folder: results, a JSON file for each trial.
        models: dense detectors, trained where there is none yet.
        deadline: of `time.monotonic`, after which no trial is begun.
    """

    recipe: str
    overrides: tuple[str, ...]
    tuning: tuple[str, ...]
    folder: Path
    models: Path
    deadline: float = math.inf
    _opened: dict[tuple[str, int], tuple[Detector, list[Dataset]]] = field(default_factory=dict)

    @cached_property
    def place(self) -> Place:
        """This process."""
        return Place(0, 1, torch.device("cuda" if torch.cuda.is_available() else "cpu"))

    def load(self, split: Split, *overrides: str) -> Recipe:
        """The recipe with the overrides of a split and others."""
        return load(Recipe, self.recipe, [*self._overrides(split), *overrides])

    def _overrides(self, split: Split) -> tuple[str, ...]:
        return (*self.overrides, *(self.tuning if split == "val" else ()))

    def dense(self, split: Split, seed: int = 0) -> Path:
        """The dense detector that trials on a split start from; trained if it is not there.

        Two splits share it where their recipes train on the same images.

        Raises:
            RunError: another process is at it.
        """
        recipe = self.load(split, f"train.seed={seed}")
        trained_on = "+".join(recipe.data.train)
        path = self.models / f"{self.folder.name}_{trained_on}_seed{seed}.pth"
        if not path.exists():
            if time.monotonic() > self.deadline:
                raise OutOfTime
            with held(self.folder / path.stem) as training_folder:
                detector, (training, _) = open_all(recipe, ["train", "test"], self.place)
                state = training_folder / "state.pth"
                self._train(detector, recipe, training, state, recipe.train.epochs)
                # Half the bytes to keep; every trial starts from the rounded weights.
                save(detector.half(), path)
                state.unlink()
        return path

    def result(self, trial: Trial) -> dict[str, Any]:
        """What a trial came to, from its file or by running it.

        Of a method that cannot cut that far, `macs` is None and the score 0.
        """
        recipe = self.load(trial.split, *trial.overrides)
        detector, (training, test) = self._open(trial.split, trial.seed if trial.method == DENSE else 0)
        texts = [*self._overrides(trial.split), *trial.overrides]
        settings = {k: v for k, v in given(self.recipe, texts).items() if k not in NO_MATTER}
        facts = {"trial": asdict(trial), "dense": fingerprint(detector)[:16], "settings": settings}
        digest = hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=8).hexdigest()
        path = self.folder / f"{digest}.json"
        if path.exists():
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return found
        started = time.monotonic()
        if started > self.deadline:
            raise OutOfTime
        with _seeded(trial.seed):
            try:
                found = self._run(trial, recipe, detector, training, test)
            except OutOfReach:
                found = {"macs": None, "score": 0.0, "resampled": [0.0] * RESAMPLES}
        facts |= {**found, "seconds": round(time.monotonic() - started), "date": date.today().isoformat()}
        facts["machine"] = machine(self.place.device)
        write_text(path, json.dumps(facts) + "\n")
        print(f"{facts['score']:.4f} {facts['seconds']:4d} s  {trial}", flush=True)
        return facts

    def _open(self, split: Split, seed: int) -> tuple[Detector, list[Dataset]]:
        if (split, seed) not in self._opened:
            recipe = self.load(split, f"model={self.dense(split, seed)}")
            self._opened[split, seed] = open_all(recipe, ["train", "test"], self.place)
        return self._opened[split, seed]

    def _run(
        self, trial: Trial, recipe: Recipe, dense: Detector, training: Dataset, test: Dataset
    ) -> dict[str, Any]:
        if trial.method == DENSE:
            return {"macs": 1.0, **_scored(recipe, dense, test, self.place)}
        slim, epochs = copy.deepcopy(dense), recipe.finetune.epochs
        if trial.method != TUNED:
            keep = self._keep(trial, recipe, dense, training)
            scratch = trial.method == SCRATCH
            whole = build(dense.spec.name, dense.spec.classes, **dense.spec.options) if scratch else dense
            whole.postprocess = dense.postprocess
            whole.to(self.place.device)
            graph = trace(*subject(whole))
            slim = carry_out(whole, graph, plan_for(graph, keep))
            if scratch:
                epochs += recipe.train.epochs
            else:
                recalibrated(recipe, dense, slim, keep, training, self.place)
        self._train(slim, recipe, training, None, epochs, dense)
        macs = cost_of(slim).macs / cost_of(dense).macs
        return {"macs": macs, **_scored(recipe, slim, test, self.place)}

    def _keep(self, trial: Trial, recipe: Recipe, dense: Detector, training: Dataset) -> Keep:
        if trial.method not in SELECTIONS:
            at_once = replace(recipe, prune=replace(recipe.prune, rounds=1, epochs=None))
            return plan_round(at_once, 1, dense, training, self.place)[1].keep
        network, image = subject(dense)
        batch = next(calibration_batches(recipe, dense, training, self.place, batch=64))

        def loss(model: torch.nn.Module) -> torch.Tensor:
            maps: Any = model(dense.normalise(batch.images))
            return torch.stack(list(dense.loss(dense.outputs(maps), batch.targets).values())).sum()

        limit = int(trial.share * cost_of(dense).macs)
        return selected(trial.method, network, trace(network, image), image, limit, loss)

    def _train(
        self,
        detector: Detector,
        recipe: Recipe,
        training: Dataset,
        state: Path | None,
        epochs: int,
        teacher: Detector | None = None,
    ) -> None:
        settings = replace(recipe.finetune if state is None else recipe.train, epochs=epochs)
        loader = loader_of(recipe, settings, training, detector, self.place)
        terms = terms_of(recipe, settings, detector, teacher=teacher)
        answers = self.folder / "answers"
        terms = tuple(
            Remembered(term, recipe.distill, settings.precision, answers)
            if isinstance(term, Distillation)
            else term
            for term in terms
        )
        fit(detector, loader, settings, place=self.place, terms=terms, state_file=state)


def _scored(recipe: Recipe, detector: Detector, test: Dataset, place: Place) -> dict[str, Any]:
    """Score, and the scores of resampled images: the same ones for every trial, so that they pair."""
    found = predictions_of(recipe, detector, test, place)
    measured = METRICS[recipe.eval.metric](found.detections, found.targets, detector.spec.classes)
    values = measured.values(resamples(len(found.targets), RESAMPLES, 0))
    return {"score": measured.value, "resampled": [round(float(value), 5) for value in values]}


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
