"""Networks that do what few do: other layers in training, tensors kept, methods of another meaning."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from toys import inputs

import compress
from compress.graph import trace
from compress.probe import zeroed


class Supervised(nn.Module):
    """In training an auxiliary head reads the body, behind a norm of single values; it may need targets."""

    def __init__(self, targets: bool = False) -> None:
        super().__init__()
        self.body, self.deep = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.norm, self.auxiliary = nn.BatchNorm2d(16), nn.Conv2d(16, 4, 1)
        self.head, self.targets = nn.Conv2d(16, 4, 1), targets

    def forward(self, x: Tensor, target: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        x = self.body(x).relu()
        made = self.head(self.deep(x).relu())
        if not self.training:
            return made
        early = self.auxiliary(self.norm(F.adaptive_avg_pool2d(x, 1)))
        if self.targets:
            assert target is not None
            early = early - target
        return made, early


def test_what_only_training_reaches_stays_whole_and_fits_what_it_reads() -> None:
    torch.manual_seed(0)
    model = Supervised().train()
    slim = compress.prune_module(model, inputs(), ratio=0.5, multiple=1)
    assert (slim.body.out_channels, slim.deep.out_channels) == (8, 8)
    assert (slim.norm.num_features, slim.auxiliary.in_channels, slim.auxiliary.out_channels) == (8, 8, 4)
    assert trace(model, inputs()).whole["auxiliary"] == "is not reached by the forward pass"
    assert [tuple(made.shape) for made in slim(torch.rand(2, 3, 16, 16))] == [(2, 4, 16, 16), (2, 4, 1, 1)]


def test_masked_is_slim_in_training_too() -> None:
    torch.manual_seed(0)
    model = Supervised().eval()
    graph = trace(model, inputs())
    slim = compress.prune_module(model, inputs(), ratio=0.5, multiple=1)
    kept = model.body.weight.flatten(1).abs().sum(1).sort(descending=True, stable=True).indices[:8]
    hidden = zeroed(model, graph.groups[:1], {"body": tuple(sorted(kept.tolist()))})
    body = torch.rand(2, 3, 16, 16)
    early = [m.train()(body)[1] for m in (hidden, slim)]
    torch.testing.assert_close(*early)


def test_where_training_needs_more_than_the_example_its_layers_stay_as_they_are() -> None:
    slim = compress.prune_module(Supervised(targets=True), inputs(), ratio=0.5, multiple=1)
    assert (slim.body.out_channels, slim.deep.out_channels) == (16, 8)
    assert slim.train()(torch.rand(2, 3, 16, 16), torch.zeros(()))[1].shape == (2, 4, 1, 1)
