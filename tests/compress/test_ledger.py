"""The ledger survives what a crash leaves, and says where it is broken."""

from pathlib import Path

import pytest

from compress.ledger import Ledger
from detectors.errors import RunError

START = {"round": 0, "phase": "start", "cost": {"macs": 10}, "latency": None, "name": "Ä ∑"}
CUT = {"round": 1, "phase": "cut", "share": 0.1 + 0.2, "widths": {"a.b": 3}}


def test_what_was_added_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger(path)
    assert ledger.entries == []
    assert not path.exists()
    ledger.add(START)
    ledger.add(CUT)
    assert Ledger(path).entries == ledger.entries == [START, CUT]
    assert len(path.read_text().splitlines()) == 2


def test_a_follower_records_without_writing(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl", write=False)
    ledger.add(START)
    assert ledger.entries == [START]
    assert not (tmp_path / "ledger.jsonl").exists()


@pytest.mark.parametrize(
    ("round_", "phase", "entry"),
    [(0, "start", START), (1, "cut", CUT), (1, "start", None), (0, "cut", None), (2, "cut", None)],
)
def test_a_phase_is_found_by_round_and_name(tmp_path: Path, round_: int, phase: str, entry: dict) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.add(START)
    ledger.add(CUT)
    assert ledger.find(round_, phase) == entry


@pytest.mark.parametrize("torn", ['{"round": 1, "phase"', "{", '{"round": 1, "phase": "cut"}'])
def test_a_torn_last_line_is_dropped_and_the_next_one_is_whole(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "ledger.jsonl"
    Ledger(path).add(START)
    with path.open("a") as file:
        file.write(torn)  # no newline: the machine stopped
    ledger = Ledger(path)
    assert ledger.entries == [START]
    ledger.add(CUT)
    assert Ledger(path).entries == [START, CUT]


@pytest.mark.parametrize("broken", ["not json", "", '{"round": 1,'])
def test_a_broken_line_in_the_middle_is_an_error_with_its_place(tmp_path: Path, broken: str) -> None:
    path = tmp_path / "ledger.jsonl"
    Ledger(path).add(START)
    with path.open("a") as file:
        file.write(broken + "\n")
    before = path.read_bytes()
    with pytest.raises(RunError, match=r"ledger\.jsonl:2 records no phase; .* out=PATH"):
        Ledger(path)
    assert path.read_bytes() == before


def test_a_number_that_json_does_not_know_is_never_written(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    with pytest.raises(ValueError, match="not JSON compliant"):
        ledger.add({"round": 0, "phase": "start", "loss": float("nan")})
    assert Ledger(tmp_path / "ledger.jsonl").entries == []
