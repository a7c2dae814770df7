"""Finds the groups of channels that must go together in any network, and the layers that stay whole."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from compress.channels import Channels
from compress.cost import Layer, layers_of
from compress.flow import follow
from compress.groups import Graph as Graph
from compress.groups import Group as Group
from compress.groups import Member as Member
from compress.inputs import Inputs, check_inputs, tensors_in, with_shapes
from compress.narrow import Side, by_group, multiplies, narrowing
from compress.probe import unsound
from detectors.errors import PlanError

# Why the layers are whole that make what the network returns.
MAKES_OUTPUT = "makes an output"
# (layer, side) -> the set that each of its channels belongs to.
Sets = dict[tuple[str, Side], Tensor]


def trace(model: nn.Module, inputs: Inputs) -> Graph:
    """Finds the groups of a network; the network itself is left alone.

    The channels are followed on a copy without data (the meta device), which takes no longer for a large
    image. Then a random cut of all groups is tried; a group whose cut does not give the masked network is
    kept whole.

    Args:
        model: returns tensors, in any nesting of lists, tuples, dicts and dataclasses.
        inputs: what it takes, a tensor, or a tuple or dict of tensors; their shapes are all that counts.

    Raises:
        PlanError: the network returns no tensor or is TorchScript, or the inputs are of no such form.
    """
    check_inputs(inputs)
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise PlanError(
            "the network is TorchScript, through which channels cannot be followed; give the nn.Module "
            "that it was made from"
        )
    with torch.inference_mode(False):
        layers = with_shapes(layers_of, model, inputs)
        channels, outputs = with_shapes(lambda shadow, example: follow(shadow, example), model, inputs)
        groups, whole = _groups(channels, list(tensors_in(outputs)), layers)
        doubtful = unsound(model, groups, inputs)
    notes = channels.ties.noted()
    for group in doubtful:
        first = group.producers[0]
        passed = channels.ties.roots(channels.side(first, "out")).tolist()
        reason = next(
            (notes[s] for s in passed if s in notes), "a trial cut of it did not give the masked network"
        )
        whole |= dict.fromkeys(group.producers, reason)
    order = [layer.name for layer in layers]
    return Graph(
        tuple(group for group in groups if group not in doubtful),
        {layer: whole[layer] for layer in order if layer in whole},
        layers,
        channels.normed(),
    )


def _groups(
    channels: Channels, outputs: list[Tensor], layers: tuple[Layer, ...]
) -> tuple[list[Group], dict[str, str]]:
    """The groups in the order of execution, and why the other producers stay whole."""
    if not outputs:
        raise PlanError(
            "the network returns no tensor in lists, tuples, dicts or dataclasses; let it return its outputs"
        )
    makers = {layer for tensor in outputs for layer in channels.makers(tensor)}
    for tensor in outputs:
        maker = min(channels.makers(tensor), default="the input")
        channels.ties.keep(channels.numbers(tensor), f"tied to {maker}, which makes an output")
    order = {layer.name: place for place, layer in enumerate(layers)}
    sets = {key: channels.ties.roots(numbers) for key, numbers in channels.sides.items()}
    producers = [layer for layer in order if multiplies(channels.modules[layer])]
    whole = _kept(channels.ties.kept(), sets, producers)
    whole |= {layer: MAKES_OUTPUT for layer in makers if layer in whole}
    free = [layer for layer in producers if layer not in whole]
    groups = []
    for members in _alike(channels, sets, free):
        group = _group(channels, members, order)
        if group.channels > 1:
            groups.append(group)
        else:
            whole |= dict.fromkeys(group.producers, "all its channels hang together")
    return sorted(_named(groups), key=lambda group: order[group.producers[0]]), whole


def _kept(reasons: dict[int, str], sets: Sets, producers: list[str]) -> dict[str, str]:
    """The producers with a channel that cannot go, of which none goes, and so on to what is tied to these."""
    whole = {layer: "is not reached by the forward pass" for layer in producers if (layer, "out") not in sets}
    made = {layer: sets[layer, "out"].tolist() for layer in producers if layer not in whole}
    makers = defaultdict(set)
    for layer, found in made.items():
        for one in found:
            makers[one].add(layer)
    pending = list(reasons)
    while pending:
        for layer in sorted(makers.pop(pending.pop(), ())):
            if layer not in whole:
                whole[layer] = next(reasons[one] for one in made[layer] if one in reasons)
                fresh = [one for one in made[layer] if one not in reasons]
                reasons = {**reasons, **dict.fromkeys(fresh, whole[layer])}
                pending += fresh
    return whole


def _alike(
    channels: Channels, sets: Sets, free: list[str]
) -> Iterator[list[tuple[tuple[str, Side], list[list[int]]]]]:
    """Sets of channels that touch the same sides in as many places: for each side, the places of each set."""
    wanted = {one for layer in free for one in sets[layer, "out"].tolist()}
    touched: dict[int, dict[tuple[str, Side], list[int]]] = defaultdict(dict)
    for key, found in sets.items():
        if key[1] == "in" and by_group(channels.modules[key[0]]):
            continue
        for place, one in enumerate(found.tolist()):
            if one in wanted:
                touched[one].setdefault(key, []).append(place)
    alike: dict[object, list[dict[tuple[str, Side], list[int]]]] = defaultdict(list)
    for places in touched.values():
        alike[frozenset((key, len(some)) for key, some in places.items())].append(places)
    for same in alike.values():
        yield [(key, [places[key] for places in same]) for key in same[0]]


def _group(
    channels: Channels, touched: list[tuple[tuple[str, Side], list[list[int]]]], order: dict[str, int]
) -> Group:
    """The group of some sets that touch the same sides, numbered by their places in the first producer."""
    producers = [key for key, _ in touched if key[1] == "out" and multiplies(channels.modules[key[0]])]
    producers.sort(key=lambda key: order[key[0]])
    first = dict(touched)[producers[0]]
    ranks = sorted(range(len(first)), key=lambda k: first[k])
    members = []
    for (layer, side), places in sorted(touched, key=lambda item: (order[item[0][0]], item[0][1])):
        flat = [(place, number) for number, k in enumerate(ranks) for place in places[k]]
        positions, numbers = torch.tensor(flat).unbind(1)
        members.append(Member(layer, side, positions, numbers, narrowing(channels.modules[layer], side)))
    names = tuple(layer for layer, _ in producers)
    return Group(names[0], len(first), tuple(members), names, len(first[0]))


def _named(groups: list[Group]) -> Iterator[Group]:
    """The groups with a number behind the name where a layer is first in several."""
    seen: Counter[str] = Counter()
    for group in groups:
        seen[group.name] += 1
        count = seen[group.name]
        yield group if count == 1 else replace(group, name=f"{group.name}#{count}")
