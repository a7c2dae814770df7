import pytest
import torch
from voc_folder import VocFolder

from detectors.data import Dataset, build
from detectors.data.loader import class_counts, eval_loader, train_loader
from detectors.data.samples import own_random_numbers
from detectors.errors import ConfigError, DataError
from detectors.settings import DataConfig, SyntheticConfig
from detectors.types import Batch, Target


def drawn(count: int = 11) -> Dataset:
    knobs = SyntheticConfig(train=count, test=count, size=[64, 80], classes=3, objects=[0, 3])
    return build(DataConfig(name="synthetic", train=["train"], test=["test"], synthetic=knobs), "train")


class Flagged:
    """Two images of three boxes: a plain, a difficult and a crowd one."""

    classes = ("cat", "dog")
    skipped: list[str] = []  # noqa: RUF012

    def __len__(self) -> int:
        return 2

    def image(self, index: int) -> torch.Tensor:
        return torch.zeros(3, 20, 20, dtype=torch.uint8)

    def target(self, index: int) -> Target:
        boxes = [[0, 0, 10, 10]] * 3
        return Target.of(boxes, [0, 1, 1], [False, True, False], [False, False, True])

    def name(self, index: int) -> str:
        return str(index)


def assert_equal(ours: list[Batch], theirs: list[Batch]) -> None:
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one.images, other.images)
        assert (one.sizes, one.indices) == (other.sizes, other.indices)
        for a, b in zip(one.targets, other.targets, strict=True):
            assert torch.equal(a.boxes, b.boxes)
            assert torch.equal(a.labels, b.labels)
            assert torch.equal(a.difficult, b.difficult)


def loader(workers: int = 0, seed: int = 5, augment: str = "light", **settings):
    return train_loader(
        drawn(), size=(40, 48), batch=4, augment=augment, seed=seed, workers=workers, **settings
    )


@pytest.mark.parametrize("augment", ["light", "ssd"])
def test_batches_do_not_depend_on_workers_threads_or_where_an_epoch_is_taken_up(augment):
    one = loader(augment=augment)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    epochs = [list(one.epoch(0)), list(one.epoch(1))]
    assert torch.get_num_threads() == 2
    torch.set_num_threads(threads)
    for workers in (1, 2):
        other = loader(workers, augment=augment)
        assert_equal(list(other.epoch(1)), epochs[1])
        next(other.epoch(1))  # left after one step
        assert_equal(list(other.epoch(0)), epochs[0])
        assert_equal(list(other.epoch(1, first_step=2)), epochs[1][2:])
    assert_equal(list(one.epoch(1, first_step=1)), epochs[1][1:])
    assert list(one.epoch(1, first_step=3)) == []


def test_an_epoch_sees_every_image_once_in_an_order_of_its_own():
    epochs = [[index for batch in loader().epoch(epoch) for index in batch.indices] for epoch in range(3)]
    assert all(sorted(order) == list(range(11)) for order in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    first, other_seed = next(loader().epoch(0)), next(loader(seed=6).epoch(0))
    assert first.indices != other_seed.indices


def test_a_sample_changes_from_epoch_to_epoch():
    images = {}
    for epoch in (0, 1):
        for batch in loader().epoch(epoch):
            images.update(
                {(epoch, index): image for index, image in zip(batch.indices, batch.images, strict=True)}
            )
    assert all(not torch.equal(images[0, index], images[1, index]) for index in range(11))


def test_images_are_floats_in_0_to_1_and_sizes_those_of_the_originals():
    batch = next(loader().epoch(0))
    assert batch.images.shape == (4, 3, 40, 48)
    assert batch.images.dtype == torch.float32
    assert 0 <= batch.images.min() < 0.5 < batch.images.max() <= 1
    assert batch.sizes == [(64, 80)] * 4
    for target in batch.targets:
        assert (target.boxes <= torch.tensor([48, 40, 48, 40])).all()


@pytest.mark.parametrize("workers", [0, 1])
def test_the_global_random_state_is_left_alone(workers):
    torch.manual_seed(9)
    expected = torch.rand(3)
    torch.manual_seed(9)
    train = loader(workers)
    assert len(list(train.epoch(0))) == train.steps == 3
    list(eval_loader(drawn(), size=(16, 16), batch=4, workers=workers))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(("world", "batch"), [(2, 4), (3, 6), (4, 8)])
def test_ranks_share_out_the_batches_of_one_process(world, batch):
    whole = train_loader(drawn(), size=(16, 16), batch=batch, augment="none", seed=0)
    parts = [
        train_loader(drawn(), size=(16, 16), batch=batch, augment="none", seed=0, rank=rank, world=world)
        for rank in range(world)
    ]
    assert {part.steps for part in parts} == {whole.steps}
    ranks = [[batch.indices for batch in part.epoch(0)] for part in parts]
    together = [step.indices for step in whole.epoch(0)]
    for step, expected in enumerate(together):
        seen = [index for rank in ranks for index in rank[step]]
        assert len({len(rank[step]) for rank in ranks}) == 1
        assert set(expected) <= set(seen)
        if step < len(together) - 1:
            assert sorted(seen) == sorted(expected)


@pytest.mark.parametrize(("world", "batch", "last"), [(1, 5, 2), (1, 1, 1), (2, 10, 4), (2, 2, 2)])
def test_no_image_is_left_alone_in_a_last_batch(world, batch, last):
    ranks = [
        train_loader(drawn(), size=(16, 16), batch=batch, augment="none", seed=0, rank=rank, world=world)
        for rank in range(world)
    ]
    steps = [[batch.indices for batch in rank.epoch(0)] for rank in ranks]
    assert sum(len(rank[-1]) for rank in steps) == last
    seen = {index for rank in steps for step in rank for index in step}
    assert seen == set(range(11))


@pytest.mark.parametrize(("difficult", "labels"), [(False, [0]), (True, [0, 1])])
def test_crowds_are_never_and_difficult_boxes_only_on_request_trained_on(difficult, labels):
    train = train_loader(Flagged(), size=(20, 20), batch=2, augment="none", seed=0, difficult=difficult)
    assert [target.labels.tolist() for target in next(train.epoch(0)).targets] == [labels, labels]


@pytest.mark.parametrize("workers", [0, 2])
def test_scoring_goes_in_order_with_targets_in_original_pixels(workers):
    data = drawn()
    batches = eval_loader(data, size=(32, 32), batch=4, workers=workers)
    assert len(batches) == 3
    for _ in range(2):
        seen = list(batches)
        assert [batch.indices for batch in seen] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]
        assert seen[0].images.shape == (4, 3, 32, 32)
        assert seen[2].sizes == [(64, 80)] * 3
        assert torch.equal(seen[1].targets[2].boxes, data.target(6).boxes)
    flags = next(iter(eval_loader(Flagged(), size=(8, 8), batch=2))).targets[1]
    assert flags.crowd.tolist() == [False, False, True]
    assert flags.difficult.tolist() == [False, True, False]


def test_ranks_score_every_image_once():
    seen = [
        i
        for rank in range(3)
        for b in eval_loader(drawn(), size=(8, 8), batch=2, rank=rank, world=3)
        for i in b.indices
    ]
    assert sorted(seen) == list(range(11))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_arrives_as_one_line(voc_folder: VocFolder, workers):
    image = voc_folder.root / "JPEGImages" / "a.jpg"
    image.write_bytes(image.read_bytes()[:-60])
    data = build(voc_folder.config(), "train")
    message = (
        f"{image}: image cannot be decoded: Image is incomplete or truncated. "
        "Mend it, or set data.on_error=skip to leave it out."
    )
    train = train_loader(data, size=(20, 20), batch=2, augment="flip", seed=0, workers=workers)
    for batches in (train.epoch(0), iter(eval_loader(data, size=(20, 20), batch=2, workers=workers))):
        with pytest.raises(DataError) as error:
            list(batches)
        assert str(error.value) == message


def test_what_cannot_be_trained_is_said(voc_folder: VocFolder):
    data = drawn()
    with pytest.raises(ConfigError, match=r"train\.batch=5 must be a positive multiple of the 2 processes"):
        train_loader(data, size=(8, 8), batch=5, augment="none", seed=0, world=2)
    with pytest.raises(ConfigError, match=r"data\.workers=-1"):
        train_loader(data, size=(8, 8), batch=5, augment="none", seed=0, workers=-1)
    with pytest.raises(ConfigError, match="unknown augmentation 'lihgt'; did you mean light"):
        train_loader(data, size=(8, 8), batch=5, augment="lihgt", seed=0)
    with pytest.raises(ConfigError, match=r"eval\.batch=0"):
        eval_loader(data, size=(8, 8), batch=0)
    voc_folder.split("bare", ["b"])
    bare = build(voc_folder.config(train=["bare"], classes=["cat"]), "train")
    with pytest.raises(DataError, match="none of the 1 training images has a box to train on"):
        train_loader(bare, size=(8, 8), batch=1, augment="none", seed=0)


def test_boxes_are_counted_by_class(voc_folder: VocFolder):
    assert class_counts(build(voc_folder.config(), "train")) == {"ant": 0, "cat": 1, "dog": 1}


def test_a_sample_is_made_on_one_thread_and_what_was_before_comes_back():
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    torch.set_num_threads(2)
    drawn_numbers = []
    for _ in range(2):
        with own_random_numbers(7):
            assert torch.get_num_threads() == 1
            drawn_numbers.append(torch.rand(2))
        assert torch.get_num_threads() == 2
    torch.set_num_threads(threads)
    assert torch.equal(*drawn_numbers)
    assert torch.equal(torch.get_rng_state(), state)
