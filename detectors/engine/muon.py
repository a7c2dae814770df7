"""Muon: momentum made orthogonal for the weights that are matrices, AdamW for everything else."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

# Jordan 2024 (kellerjordan.github.io/posts/muon): the quintic whose iteration is steepest at 0. It takes
# singular values to about 0.7 to 1.2 and not to 1, which training does not notice.
_QUINTIC = (3.4445, -4.7750, 2.0315)
_STEPS = 5
# Liu et al. 2025 (arXiv 2502.16982, equation 4): an orthogonal A x B matrix times 0.2 sqrt(max(A, B)) has
# entries as large as AdamW's steps are on average, so that both take the same learning rate.
_AS_ADAMW = 0.2
Moving = list[tuple[Tensor, Tensor]]  # parameters and their gradients


def orthogonal(matrices: Tensor) -> Tensor:
    """The nearest semi-orthogonal matrices, roughly: `[..., A, B]` -> the same shape and dtype.

    U V^T of the singular value decomposition U S V^T, by five Newton-Schulz steps, in the dtype of the input:
    torch's own Muon takes bfloat16, which is slow on CPUs that do not have it.
    """
    a, b, c = _QUINTIC
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)  # no singular value above 1
    for _ in range(_STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Jordan et al. 2024, with the scale and the decoupled decay of Liu et al. 2025.

    Args:
        groups: of parameters; where `matrices` is true each is one matrix `[outputs, everything else]`,
            whose momentum (Nesterov) is made orthogonal; the others take AdamW's steps.
        lr: of both.
        weight_decay: of both, decoupled; a group may have its own.
        momentum: of matrices, 0..1.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        lr: float,
        *,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "matrices": False,
            "betas": (0.9, 0.999),
            "eps": 1e-8,
        }
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step of every parameter that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            moving = [(p, p.grad) for p in group["params"] if p.grad is not None]
            if group["matrices"]:
                self._orthogonal_steps(moving, group)
            elif moving:
                self._adamw_steps(moving, group)

    def _orthogonal_steps(self, moving: Moving, group: dict[str, Any]) -> None:
        alike: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = {}
        for parameter, gradient in moving:
            state = self.state[parameter]
            if not state:
                state["momentum"] = torch.zeros_like(parameter)
            state["momentum"].mul_(group["momentum"]).add_(gradient)
            ahead = gradient.add(state["momentum"], alpha=group["momentum"]).flatten(1)
            alike.setdefault((ahead.shape[0], ahead.shape[1]), []).append((parameter, ahead))
        for shape, pairs in alike.items():  # those of one shape at once: small matrices are many calls
            found = orthogonal(torch.stack([ahead for _, ahead in pairs]))
            scale = _AS_ADAMW * math.sqrt(max(shape))
            for (parameter, _), direction in zip(pairs, found, strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(direction.view(parameter.shape), alpha=-group["lr"] * scale)

    def _adamw_steps(self, moving: Moving, group: dict[str, Any]) -> None:
        for parameter, _ in moving:
            if not self.state[parameter]:
                self.state[parameter] = {
                    "step": torch.zeros(()),
                    "mean": torch.zeros_like(parameter),
                    "square": torch.zeros_like(parameter),
                }
        states = [self.state[parameter] for parameter, _ in moving]
        adamw(
            [parameter for parameter, _ in moving],
            [gradient for _, gradient in moving],
            [state["mean"] for state in states],
            [state["square"] for state in states],
            [],
            [state["step"] for state in states],
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )
