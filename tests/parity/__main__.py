"""python -m tests.parity PACK.json [...]: our networks against reference outputs of the original ones.

Prints a line for each pack: the largest difference of every output and of the default boxes, PASS or FAIL;
exits with 1 if a pack failed.
"""

import sys

from tests.parity.reference import compare


def main(paths: list[str]) -> int:
    """Compares the packs; the exit status."""
    if not paths:
        print(__doc__.splitlines()[0])
        return 2
    failed = 0
    for path in paths:
        found = compare(path)
        print(found.line(), flush=True)
        failed += not found.passed
    print(f"{len(paths) - failed} of {len(paths)} packs pass")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
