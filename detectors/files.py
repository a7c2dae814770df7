"""Files that are written whole or not at all, and run folders that one process holds at a time."""

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from detectors.errors import RunError

_PARTIAL = ".partial"


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Writes a file whole or not at all: under a temporary name beside it, which is then renamed.

    Raises:
        RunError: a full disk, a read-only folder, or any other refusal of the file system.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=_PARTIAL)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp gives 0600; a checkpoint is as readable as any file of its owner.
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise _refused(path, error) from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """`write_whole` for text, as UTF-8."""
    write_whole(path, text.encode("utf-8"))


def append_line(path: Path, line: str) -> None:
    """Adds one line to a file and waits until it is on disk; raises RunError as `write_whole` does."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise _refused(path, error) from error


@contextmanager
def held(folder: Path) -> Iterator[Path]:
    """Makes a run folder if need be and keeps every other process out of it.

    Raises:
        RunError: another process holds the folder, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("a+", encoding="utf-8")
    except OSError as error:
        raise _refused(folder, error) from error
    with lock:
        try:
            # A lock of the process (lockf), not of the open file (flock): loader workers are forks that would
            # inherit the latter, and hold the folder for seconds after a killed run is gone.
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            raise RunError(
                f"{folder}: another process (pid {holder}) is working in this run folder; "
                "wait for it, or give this run another folder with out=PATH"
            ) from None
        except OSError as error:
            raise _refused(folder, error) from error
        try:
            # What a killed process left half written; nobody else writes here now.
            for leftover in folder.glob(f".*{_PARTIAL}"):
                leftover.unlink(missing_ok=True)
            os.ftruncate(lock.fileno(), 0)
            os.pwrite(lock.fileno(), str(os.getpid()).encode(), 0)
        except OSError as error:
            raise _refused(folder, error) from error
        yield folder


def _refused(path: Path, error: OSError) -> RunError:
    return RunError(
        f"cannot write {path}: {error.strerror or error}; files written before are whole. "
        "Free some space or choose another folder with out=PATH, then run the same command again"
    )


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
