import pickle

import pytest
import torch
from torchvision.io import write_png
from voc_folder import VocFolder

from detectors.data import DATASETS, build
from detectors.data.voc import VOC_CLASSES
from detectors.errors import ConfigError, DataError, sentence
from detectors.images import header_size, read_image
from detectors.settings import DataConfig

MEND = "Mend it, or set data.on_error=skip to leave it out."


def test_registered_and_described():
    assert {"voc", "synthetic"} <= set(DATASETS.names())
    assert len(VOC_CLASSES) == 20
    assert list(VOC_CLASSES) == sorted(VOC_CLASSES)


def test_boxes_become_half_open_and_count_from_0(voc_folder: VocFolder):
    data = build(voc_folder.config(), "train")
    target = data.target(0)
    assert target.boxes.tolist() == [[0, 0, 60, 40], [10, 5, 20, 15]]
    assert [data.classes[label] for label in target.labels] == ["cat", "dog"]
    assert target.difficult.tolist() == [False, True]
    assert (data.name(0), len(data), data.skipped) == ("a", 2, [])
    assert data.image(0).shape == (3, 40, 60)
    assert data.image(0).dtype == torch.uint8


def test_an_image_without_objects_is_valid(voc_folder: VocFolder):
    assert build(voc_folder.config(), "train").target(1).boxes.shape == (0, 4)


def test_both_splits_find_the_same_classes(voc_folder: VocFolder):
    found = [build(voc_folder.config(), split).classes for split in ("train", "test")]
    assert found == [("ant", "cat", "dog")] * 2


@pytest.mark.parametrize(
    ("declared", "of_checkpoint", "expected"),
    [
        (["dog", "cat"], None, ("dog", "cat")),
        (None, ("dog", "cat"), ("dog", "cat")),
        (["cat", "dog"], ("dog", "cat"), ("cat", "dog")),
    ],
)
def test_declared_classes_go_before_those_of_a_checkpoint(voc_folder, declared, of_checkpoint, expected):
    assert build(voc_folder.config(classes=declared), "train", of_checkpoint).classes == expected


def test_several_years_follow_each_other(voc_folder: VocFolder):
    for year in ("VOC2007", "VOC2012"):
        voc_folder.picture(f"{year}_1", year=year)
        voc_folder.annotation(f"{year}_1", [("cat", 1, 1, 9, 9)], year=year)
        voc_folder.split("trainval", [f"{year}_1"], year=year)
    data = build(voc_folder.config(train=["VOC2007/trainval", "VOC2012/trainval", "trainval"]), "train")
    assert [data.name(i) for i in range(len(data))] == ["VOC2007_1", "VOC2012_1", "a", "b"]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ((0, 0, 59, 39), [0, 0, 59, 39]),  # counted from 0: clipped
        ((1, 1, 61, 41), [0, 0, 60, 40]),  # one pixel out: clipped
        ((1.5, 2.25, 10, 10), [0.5, 1.25, 10, 10]),
    ],
)
def test_a_box_one_pixel_out_is_clipped(voc_folder: VocFolder, written, expected):
    voc_folder.annotation("a", [("cat", *written)])
    assert build(voc_folder.config(), "train").target(0).boxes.tolist() == [expected]


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (
            ("cat", 5, 5, 5, 9),
            "object 2 (cat): box (5, 5, 5, 9) is degenerate: xmax - xmin = 0, ymax - ymin = 4",
        ),
        (
            ("cat", 9, 5, 5, 9),
            "object 2 (cat): box (9, 5, 5, 9) is degenerate: xmax - xmin = -4, ymax - ymin = 4",
        ),
        (
            ("cat", 1, 1, 62, 40),
            "object 2 (cat): box (1, 1, 62, 40) lies outside of the image of 60 x 40 pixels",
        ),
        (
            ("cat", -1, 1, 6, 40),
            "object 2 (cat): box (-1, 1, 6, 40) lies outside of the image of 60 x 40 pixels",
        ),
        (("cat", "x", 1, 6, 4), "object 2 (cat): <xmin> 'x' is not a number"),
        (("cat", "nan", 1, 6, 4), "object 2 (cat): <xmin> 'nan' is not a number"),
        (("cat", 1, "", 6, 4), "object 2 (cat): <ymin> '' is not a number"),
        (("", 1, 1, 6, 4), "object 2 (no name) has no <name>"),
        (("dgo", 1, 1, 6, 4), "object 2 (dgo): unknown class 'dgo'; did you mean dog?"),
        (("cat", 1, 1, 6, 4, "maybe"), "object 2 (cat): <difficult> is 'maybe', not 0 or 1"),
    ],
)
def test_a_broken_object_is_named_by_line_or_left_out_alone(voc_folder: VocFolder, item, reason):
    path = voc_folder.annotation("a", [("cat", 1, 1, 60, 40), item])
    classes = {"classes": ["ant", "cat", "dog"]}
    with pytest.raises(DataError) as error:
        build(voc_folder.config(**classes), "train")
    here = f"{path}:4: {reason}"
    assert str(error.value) == f"{sentence(here)} {MEND}"
    data = build(voc_folder.config(on_error="skip", **classes), "train")
    assert data.skipped == [here]
    assert len(data) == 2
    assert data.target(0).boxes.tolist() == [[0, 0, 60, 40]]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<annotation>\n<object>\n</annotation>", ":3: broken XML: mismatched tag"),
        ("", ":1: broken XML: no element found"),
        (
            "<annotation>\n<object>\n<name>cat</name>\n</object></annotation>",
            ":2: object 1 (cat) has no <bndbox>",
        ),
        (
            "<annotation>\n<object><name>cat</name>\n<bndbox><xmin>1</xmin></bndbox></object></annotation>",
            ":3: object 1 (cat) has no <ymin>",
        ),
        (
            "<annotation>\n<size><width>w</width></size></annotation>",
            ":2: <width> 'w' of <size> is not a number",
        ),
    ],
)
def test_a_broken_file_is_named_by_line(voc_folder: VocFolder, text, reason):
    path = voc_folder.annotation("a", text=text)
    with pytest.raises(DataError) as error:
        build(voc_folder.config(classes=["cat"]), "train")
    assert str(error.value) == f"{path}{reason}. {MEND}"


def test_names_and_boxes_of_parts_are_not_the_objects(voc_folder: VocFolder):
    box = "<bndbox><xmin>2</xmin><ymin>3</ymin><xmax>9</xmax><ymax>8</ymax></bndbox>"
    part = "<part><name>head</name><bndbox><xmin>4</xmin></bndbox></part>"
    voc_folder.annotation("a", text=f"<annotation><object><name>cat</name>{box}{part}</object></annotation>")
    data = build(voc_folder.config(), "train")
    assert data.classes == ("ant", "cat")
    assert data.target(0).boxes.tolist() == [[1, 2, 9, 8]]


@pytest.mark.parametrize("size", [None, (0, 0)])
def test_without_an_annotated_size_the_header_of_the_image_counts(voc_folder: VocFolder, size):
    voc_folder.annotation("a", [("cat", 1, 1, 61, 41), ("cat", 1, 1, 70, 40)], size=size)
    with pytest.raises(DataError, match=r"object 2 \(cat\).* outside of the image of 60 x 40 pixels"):
        build(voc_folder.config(), "train")


def test_header_size_is_the_decoded_size(voc_folder: VocFolder, tmp_path):
    png = tmp_path / "x.png"
    write_png(torch.zeros(3, 7, 9, dtype=torch.uint8), str(png))
    assert header_size(png) == (7, 9)
    jpeg = voc_folder.picture("x", (33, 21))
    assert header_size(jpeg) == tuple(read_image(jpeg).shape[1:]) == (33, 21)
    jpeg.write_bytes(jpeg.read_bytes()[:30])
    with pytest.raises(DataError, match="image without a size; it is cut off"):
        header_size(jpeg)
    jpeg.write_text("no image")
    with pytest.raises(DataError, match="neither a JPEG nor a PNG"):
        header_size(jpeg)


def test_missing_files_are_named_or_left_out(voc_folder: VocFolder):
    image = voc_folder.root / "JPEGImages" / "a.jpg"
    annotation = voc_folder.root / "Annotations" / "b.xml"
    image.unlink()
    missing_image = f"{image}: image is missing, and so is .jpeg or .png"
    with pytest.raises(DataError) as error:
        build(voc_folder.config(), "train")
    assert str(error.value) == f"{missing_image}. {MEND}"
    annotation.unlink()
    missing_annotation = f"{annotation}: annotation is missing"
    with pytest.raises(DataError) as error:
        build(voc_folder.config(), "train")
    assert str(error.value) == f"{missing_annotation}. {MEND}"
    with pytest.raises(DataError) as error:
        build(voc_folder.config(on_error="skip"), "train")
    assert str(error.value) == f"{voc_folder.root}: none of the 2 images is sound, the first: {missing_image}"
    voc_folder.picture("a")
    data = build(voc_folder.config(on_error="skip"), "train")
    assert (data.skipped, len(data)) == ([missing_annotation], 1)


def test_truncated_and_wrong_images_are_named_when_read_or_left_out(voc_folder: VocFolder):
    image = voc_folder.picture("a")
    image.write_bytes(image.read_bytes()[:-60])
    data = build(voc_folder.config(), "train")
    with pytest.raises(DataError) as error:
        data.image(0)
    fault = f"{image}: image cannot be decoded: Image is incomplete or truncated"
    assert str(error.value) == f"{fault}. {MEND}"
    assert build(voc_folder.config(on_error="skip"), "train").skipped == [fault]
    with pytest.raises(DataError, match="incomplete or truncated"):
        build(voc_folder.config(cache="ram"), "train")
    voc_folder.picture("a", (50, 60))
    with pytest.raises(DataError, match=r"a\.jpg: image has 60 x 50 pixels, but .*a\.xml says 60 x 40"):
        data.image(0)
    image.write_text("no image at all")
    with pytest.raises(DataError, match=r"a\.jpg: image cannot be decoded: Unsupported image file") as error:
        data.image(0)
    assert "\n" not in str(error.value)


def test_missing_folders_and_splits_say_what_there_is(voc_folder: VocFolder):
    for root in ("/nowhere", ""):
        with pytest.raises(DataError, match=f"data.root='{root}' is not a folder"):
            build(DataConfig(root=root), "train")
    main = voc_folder.root / "ImageSets" / "Main"
    with pytest.raises(DataError) as error:
        build(voc_folder.config(train=["trainvla"]), "train")
    there = "splits there: test, trainval. Set data.train and data.test"
    assert str(error.value) == f"{main}/trainvla.txt: split 'trainvla' is missing; {there}"
    with pytest.raises(
        DataError, match=r"VOC2012/ImageSets/Main/val\.txt: split 'VOC2012/val' is missing; no splits"
    ):
        build(voc_folder.config(train=["VOC2012/val"]), "train")
    voc_folder.split("empty", ["", " "])
    with pytest.raises(DataError, match=r"empty\.txt: split 'empty' is empty"):
        build(voc_folder.config(train=["empty"]), "train")
    with pytest.raises(DataError, match="no split is named"):
        build(voc_folder.config(train=[]), "train")
    with pytest.raises(DataError, match="image c is listed twice in test, test"):
        build(voc_folder.config(test=["test", "test"], classes=["ant"]), "test")
    with pytest.raises(ConfigError, match=r"data\.max_side=0"):
        build(voc_folder.config(max_side=0), "train")


@pytest.mark.parametrize("cache", ["none", "ram"])
def test_shrinking_scales_the_boxes_by_the_exact_ratio(voc_folder: VocFolder, cache):
    data = build(voc_folder.config(max_side=25, cache=cache), "train")
    assert data.image(0).shape == (3, 17, 25)  # 40 * 25 / 60 = 16.67
    expected = torch.tensor([[0, 0, 25, 17], [10 * 25 / 60, 5 * 17 / 40, 20 * 25 / 60, 15 * 17 / 40]])
    torch.testing.assert_close(data.target(0).boxes, expected)


def test_kept_images_are_those_that_would_be_read(voc_folder: VocFolder):
    read, kept = (build(voc_folder.config(cache=cache, max_side=30), "train") for cache in ("none", "ram"))
    for path in (voc_folder.root / "JPEGImages").iterdir():
        if path.stem == "a":
            assert torch.equal(read.image(0), kept.image(0))
            path.unlink()
    assert kept.image(0).shape == (3, 20, 30)


def test_targets_need_no_image(voc_folder: VocFolder):
    for path in (voc_folder.root / "JPEGImages").iterdir():
        path.write_bytes(b"broken")
    assert build(voc_folder.config(), "train").target(0).boxes.shape == (2, 4)


def test_a_data_set_can_be_sent_to_another_process(voc_folder: VocFolder):
    data = pickle.loads(pickle.dumps(build(voc_folder.config(), "train")))
    assert torch.equal(data.image(0), build(voc_folder.config(), "train").image(0))
