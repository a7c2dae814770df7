"""What makes a channel worth keeping: a group to one score for each channel, the higher the better."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from compress.evidence import Evidence, Need
from compress.groups import Group
from detectors.registry import Registry

Score = Callable[[nn.Module, Group, Evidence], Tensor]


class Criterion:
    """A way of scoring; made by the decorator `criterion`.

    Attributes:
        needs: what must be measured on calibration data first; empty: it looks at weights alone.
        comparable: scores of different groups have one unit, the loss: they are compared as they are. Those
            of others are divided by the mean of their group where groups compete.
    """

    def __init__(self, score: Score, needs: Sequence[Need], comparable: bool) -> None:
        self.score = score
        self.needs = tuple(needs)
        self.comparable = comparable
        self.__doc__ = score.__doc__

    def __call__(self, model: nn.Module, group: Group, evidence: Evidence | None = None) -> Tensor:
        """The scores of a group.

        Args:
            model: the network that the group was found in.
            group: what to score.
            evidence: measured on that network; None serves criteria that need none.

        Returns:
            `[group.channels]` float64, the higher the better, none below 0.

        Raises:
            PlanError: the criterion cannot serve this group.
        """
        return self.score(model, group, evidence or Evidence())


CRITERIA: Registry[Criterion] = Registry("criterion", "compress.criteria")


def criterion(
    name: str, *, needs: Sequence[Need] = (), comparable: bool = False
) -> Callable[[Score], Criterion]:
    """Decorator that registers a scoring function; see `Criterion` for what the arguments mean."""

    def add(score: Score) -> Criterion:
        return CRITERIA.register(name)(Criterion(score, needs, comparable))

    return add
