"""Weight files are fetched once, checked, and never left half written."""

import hashlib
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from detectors.download import address_of, download
from detectors.errors import CheckpointError

CONTENT = bytes(range(256)) * 9000  # more than one block
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Files(BaseHTTPRequestHandler):
    """Any address gives CONTENT; `/short...` breaks off, `/none...` is not there."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path.startswith("/none"):
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[: 1000 if self.path.startswith("/short") else None])

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    listening = ThreadingHTTPServer(("127.0.0.1", 0), Files)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{listening.server_port}"
    listening.shutdown()
    listening.server_close()


def test_a_file_is_fetched_once(server, tmp_path):
    path = download(f"{server}/vgg.pth", tmp_path / "new" / "vgg.pth", SHA256)
    assert path.read_bytes() == CONTENT
    Files.asked.clear()
    assert download(f"{server}/vgg.pth", path.parent, SHA256[:12].upper()) == path
    assert Files.asked == []


def test_the_name_may_hold_the_checksum(server, tmp_path):
    path = download(f"{server}/vgg-{SHA256[:8]}.pth", tmp_path)
    assert path == tmp_path / f"vgg-{SHA256[:8]}.pth"
    with pytest.raises(
        CheckpointError, match=r"gave a file with sha256 .* not 0000abcd\.\.\.; it was not kept"
    ):
        download(f"{server}/vgg-0000abcd.pth", tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("tail", ["?dl=1", "?path=/a/b", "#top"])
def test_a_query_is_no_part_of_the_name(tail, server, tmp_path):
    path = download(f"{server}/x/vgg-{SHA256[:8]}.pth{tail}", tmp_path)
    assert path == tmp_path / f"vgg-{SHA256[:8]}.pth"


def test_an_address_without_a_name_needs_the_path_of_a_file(server, tmp_path):
    with pytest.raises(CheckpointError, match=r"/\?id=7 ends in no file's name; give the path of a file"):
        download(f"{server}/?id=7", tmp_path, SHA256)
    assert download(f"{server}/?id=7", tmp_path / "a.pth", SHA256).exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("short", r"broke off after 1,000 of 2,304,000 bytes"),
        ("none", r"cannot download .*/none.pth to .*: Not Found"),
    ],
)
def test_what_breaks_off_leaves_nothing(name, message, server, tmp_path):
    with pytest.raises(CheckpointError, match=message):
        download(f"{server}/{name}.pth", tmp_path / "a.pth", SHA256)
    assert list(tmp_path.iterdir()) == []


def test_another_file_on_disk_is_left_alone(server, tmp_path):
    file = tmp_path / "a.pth"
    file.write_bytes(b"mine")
    with pytest.raises(CheckpointError, match=r"a.pth is another file than .*; move it away"):
        download(f"{server}/a.pth", file, SHA256)
    assert file.read_bytes() == b"mine"


def test_a_folder_that_is_not_there_yet_is_made(server, tmp_path):
    path = download(f"{server}/a.pth", f"{tmp_path}/weights/", SHA256)
    assert path == tmp_path / "weights" / "a.pth"
    assert path.read_bytes() == CONTENT


def test_a_place_that_no_folder_can_be_is_one_line(server, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"cannot download .* to .*file/a.pth: File exists"):
        download(f"{server}/a.pth", tmp_path / "file" / "a.pth", SHA256)


def test_without_a_checksum_nothing_is_fetched(server, tmp_path):
    Files.asked.clear()
    with pytest.raises(CheckpointError, match=r"no checksum is known for .*; give its sha256"):
        download(f"{server}/a.pth", tmp_path / "a.pth")
    assert Files.asked == []


def test_an_address_that_nobody_answers_is_one_line(tmp_path):
    with pytest.raises(CheckpointError, match=r"cannot download http://127.0.0.1:9/a.pth"):
        download("http://127.0.0.1:9/a.pth", tmp_path / "a.pth", SHA256)


def test_torchvisions_files_have_names_whose_addresses_hold_the_checksum():
    address = address_of("SSD300_VGG16_Weights.COCO_V1")
    assert address.startswith("https://")
    assert re.search(r"-[0-9a-f]{8}\.pth$", address)
    with pytest.raises(CheckpointError, match=r"SSD300_Weights.COCO is neither an address nor a file"):
        download("SSD300_Weights.COCO", "weights")
