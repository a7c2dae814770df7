"""What the four commands share: `RECIPE key=value ...`, help, lists, and errors as one line."""

import sys
from collections.abc import Callable

from compress.recipe import Recipe
from detectors.config import dump, key_lines, load
from detectors.errors import Interrupted, UserError

Command = Callable[[Recipe, str], None]


def main(command: Command, manual: str) -> None:
    """Runs a command and exits: 0 done, 2 a user's error (one line on stderr), 130 stopped by Ctrl-C.

    Args:
        command: is given the recipe and the path of its file.
        manual: the script's docstring, shown above the keys by `--help`.
    """
    arguments = sys.argv[1:]
    try:
        if not arguments or "--help" in arguments or "-h" in arguments:
            print(_help(manual))
        elif "--list" in arguments:
            print(_list())
        else:
            flags = [a for a in arguments if a.startswith("-")]
            if any(flag != "--show" for flag in flags):
                raise UserError(
                    f"unknown option {flags[0]}; there are --help, --list and --show, and key=value"
                )
            path, *overrides = [a for a in arguments if not a.startswith("-")] or [""]
            if not path or "=" in path:
                raise UserError(
                    f"the first argument is a recipe, such as recipes/quickstart.yaml; got {path or 'none'}"
                )
            recipe = load(Recipe, path, overrides)
            if flags:
                print(dump(recipe), end="")
            else:
                command(recipe, path)
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except (Interrupted, KeyboardInterrupt) as stop:
        print(f"{str(stop) or 'stopped'}; run the same command again to go on", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # `... | head` closed our output: that is no fault of ours, and Python must not complain at exit.
        sys.stderr.close()
        sys.exit(1)


def _help(manual: str) -> str:
    lines = [manual.strip(), "", "Keys (RECIPE.yaml may hold them all; key=value on the command line wins):"]
    for key, default, text in key_lines(Recipe):
        lines.append(f"  {key + '=' + default:44s} {text}")
    lines += [
        "",
        "--list names the detectors, data sets, augmentations, metrics and criteria; --show prints the "
        "recipe.",
    ]
    return "\n".join(lines)


def _list() -> str:
    # Imported here: these import torch, which --help and a typo in a recipe need not wait for.
    from compress.criteria import CRITERIA
    from detectors.data import AUGMENTATIONS, DATASETS
    from detectors.evaluation import METRICS
    from detectors.models import DETECTORS

    lines = []
    for registry in (DETECTORS, DATASETS, AUGMENTATIONS, METRICS, CRITERIA):
        lines.append(f"{registry.kind}:")
        width = max(20, *map(len, registry.names()))
        lines += [f"  {name:{width}s} {text}" for name, text in registry.described().items()]
    return "\n".join(lines)
