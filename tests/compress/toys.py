"""Toy networks as bare modules, one for each way in which channels can hang together."""

import torch
from torch import Tensor, nn


class ThreeConvs(nn.Module):
    """a -> b -> c."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 12, 3), nn.Conv2d(12, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(x).relu()).relu())


class Residual(nn.Module):
    """stem -> branch, added to the stem, -> head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.branch = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        return self.head((x + self.branch(x)).relu())


class Concat(nn.Module):
    """left and right side by side -> head."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(3, 10, 1)
        self.head = nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"map": self.head(torch.cat([self.left(x), self.right(x)], dim=1).relu())}


class Depthwise(nn.Module):
    """stem -> one filter for each channel -> pointwise -> head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.deep = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.point, self.head = nn.Conv2d(8, 12, 1), nn.Conv2d(12, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.point(self.deep(self.stem(x)).relu()).relu())


class ConvNorm(nn.Module):
    """conv -> batch norm, twice, -> head."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.a_norm = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.b, self.b_norm = nn.Conv2d(8, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.b_norm(self.b(self.a_norm(self.a(x)).relu())).relu())


class FrozenFirst(ConvNorm):
    """The same, its first batch norm frozen as a whole backbone is by many: by what holds it."""

    def train(self, mode: bool = True) -> "FrozenFirst":
        super().train(mode)
        self.a_norm.eval()
        return self


class Scale(nn.Module):
    """L2 normalisation over the channels with a weight for each: fits `Resizable` by its shape alone."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.weight = nn.Parameter(torch.full((channels,), 20.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight[None, :, None, None] * x / (x.pow(2).sum(dim=1, keepdim=True).sqrt() + 1e-10)

    def resize(self, channels: int) -> None:
        self.channels = channels
        self.weight = nn.Parameter(torch.empty(channels))


class Normed(nn.Module):
    """conv -> (L2Norm -> fine head, deeper conv -> coarse head), as SSD does after conv4_3."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.norm = nn.Conv2d(3, 8, 3), Scale(8)
        self.deeper = nn.Conv2d(8, 6, 3)
        self.fine, self.coarse = nn.Conv2d(8, 4, 3), nn.Conv2d(6, 4, 3)

    def forward(self, x: Tensor) -> list[tuple[Tensor]]:
        x = self.body(x).relu()
        return [(self.fine(self.norm(x)),), (self.coarse(self.deeper(x).relu()),)]


class Flattened(nn.Module):
    """conv -> flatten -> linear -> linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 8, 3, stride=4)
        self.hidden, self.head = nn.Linear(8 * 4 * 4, 10), nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.hidden(self.body(x).relu().flatten(1)).relu())


class SharedHead(nn.Module):
    """One head reads two levels, which it therefore ties together."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.fine, self.coarse = nn.Conv2d(6, 8, 3, padding=1), nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.head = nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, x: Tensor) -> list[Tensor]:
        fine = self.fine(self.stem(x).relu()).relu()
        return [self.head(fine), self.head(self.coarse(fine).relu())]


class Transposed(nn.Module):
    """down -> up by a transposed convolution, added to a side path, -> head."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(3, 8, 2, stride=2), nn.ConvTranspose2d(8, 6, 2, stride=2)
        self.side, self.head = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((self.up(self.down(x).relu()) + self.side(x)).relu())


TOYS = (
    ThreeConvs,
    Residual,
    Concat,
    Depthwise,
    ConvNorm,
    Normed,
    Flattened,
    SharedHead,
    Transposed,
)


def inputs() -> Tensor:
    """What every toy takes."""
    return torch.zeros(1, 3, 16, 16)


def made(kind: type[nn.Module], seed: int = 0) -> nn.Module:
    """A toy with random weights, also in its norms, in evaluation mode."""
    torch.manual_seed(seed)
    return shaken(kind()).eval()


def shaken(model: nn.Module) -> nn.Module:
    """Random running statistics and affine parameters for every batch norm, so that a wrong cut shows."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.weight, -1.5, 1.5),
                (module.bias, -1.0, 1.0),
                (module.running_mean, -1.0, 1.0),
                (module.running_var, 0.5, 2.0),
            ):
                nn.init.uniform_(tensor, low, high)
        if isinstance(module, Scale):
            nn.init.uniform_(module.weight, 5.0, 20.0)
    return model
