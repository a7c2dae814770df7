"""The README's table of detectors: what is timed, what is shown, where it goes."""

import itertools

import pytest

from benchmarks import zoo


@pytest.fixture
def small():
    options = {"size": [64, 96], "width": 0.0625}
    return zoo.Entry("ssd_vgg16_bn", 20, options, 71.5, "a paper")


def measured(found):
    return {"latency": found, "measured": "2026-01-02", "machine": "a machine"}


def test_times_missing_are_a_dash_and_there_is_no_line_about_them(small):
    counts = {small.label: zoo.count(small)}
    text = zoo.table([small], counts, {})
    row = text.splitlines()[-1]
    assert row.startswith("| `ssd_vgg16_bn` `size=[64, 96]` `width=0.0625` | 64 x 96 | 20 | ")
    assert row.endswith(" | 71.5 VOC07 | a paper | - |")
    assert "machine" not in text


def test_a_time_is_that_of_the_clock_and_of_the_network_that_was_timed(small):
    size, cost = zoo.count(small)
    ticks = itertools.count()
    found = zoo.clocked(small, cost.macs, clock=lambda: next(ticks) / 1000)
    assert (found["median_ms"], found["runs"], found["batch"]) == (pytest.approx(1.0), 20, 1)
    shown = zoo.table([small], {small.label: (size, cost)}, measured({small.label: found}))
    assert "| 1.0 |" in shown
    assert shown.splitlines()[-1].startswith(
        "ms: median of 20 passes of the dense network at batch 1 on cpu, "
    )
    assert shown.splitlines()[-1].endswith("; 2026-01-02, a machine.")
    other = {**found, "macs": cost.macs + 1}
    assert zoo.table([small], {small.label: (size, cost)}, measured({small.label: other})).endswith(" | - |")


def test_what_torchvision_says_of_a_file_is_asked_of_torchvision():
    (entry,) = (entry for entry in zoo.entries() if entry.detector == "torchvision_ssd300_vgg16")
    assert entry.map == 25.1
    assert entry.address == "https://download.pytorch.org/models/ssd300_vgg16_coco-b556d3b4.pth"


def test_no_two_rows_are_the_same_configuration():
    labels = [entry.label for entry in zoo.entries()]
    assert len(set(labels)) == len(labels)


def test_the_table_goes_between_its_markers_and_nothing_else_changes():
    assert zoo.placed("a\n<!-- zoo -->\nold\n<!-- /zoo -->\nb", "new") == (
        "a\n<!-- zoo -->\nnew\n<!-- /zoo -->\nb"
    )
    with pytest.raises(ValueError, match=r"README\.md has no <!-- zoo --> \.\.\. <!-- /zoo -->"):
        zoo.placed("a", "new")
