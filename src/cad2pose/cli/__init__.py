"""The command line, `cad2pose COMMAND ...`: one module per command, imported only when it is asked for."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence

from cad2pose import __version__

TRACEBACK_VARIABLE = "CAD2POSE_TRACEBACK"

_COMMANDS = {
    "inspect": "read a mesh file, say what was understood, and save six views of it",
    "symmetries": "find the rotational symmetries of a mesh and write them to models_info.json",
    "check": "check a BOP folder and name everything that is missing or broken",
    "preview": "show rendered crops as training makes them, beside photographs where there are any",
    "render": "write a BOP data set of rendered, labelled photographs",
    "train": "train a model from meshes, or from the models of a BOP folder",
    "compare": "train several methods on equal terms and judge them by the same code",
    "calibrate": "learn what a model's scores are worth, so that estimates come with a chance to be right",
    "estimate": "estimate the poses of known objects in images",
    "view": "show in a browser what the network says of a photograph: distributions over the part, poses",
    "evaluate": "score BOP results files against ground truth, with intervals and paired tests",
    "report": "write one page: what results files are worth, with pictures; or how a training run goes",
    "demo": "render fresh pictures of the built-in parts and estimate their poses",
}

_USER_ERROR = 2
_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status.

    Args:
        argv: the arguments after the program's name; those of the process by default.

    Returns:
        0 when all went well, 2 after a user's error (one line about it goes to stderr), 130 after Ctrl-C, or
        what the command itself returned. With CAD2POSE_TRACEBACK=1 in the environment the traceback is shown too.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage(), file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else _USER_ERROR
    if arguments[0] == "--version":
        print(f"cad2pose {__version__}")
        return 0
    name, *rest = arguments
    if name not in _COMMANDS:
        _complain(_unknown(name))
        return _USER_ERROR
    usual, warnings.formatwarning = warnings.formatwarning, _warning
    try:
        return _run(name, rest)
    except KeyboardInterrupt as error:
        _show_traceback()
        _complain(str(error) or "interrupted")
        return _INTERRUPTED
    except (ValueError, OSError) as error:
        _show_traceback()
        _complain(_describe(error))
        return _USER_ERROR
    finally:
        warnings.formatwarning = usual


def _run(name: str, arguments: list[str]) -> int:
    """Import a command's module, parse its arguments by its function's signature, and call it."""
    import tyro  # here and not above: `cad2pose --help` needs none of this

    from cad2pose.devices import keep_freed_memory

    command: Callable[..., object] = getattr(importlib.import_module(f"cad2pose.cli.{name}"), f"{name}_command")
    keep_freed_memory()
    try:
        status = tyro.cli(command, prog=f"cad2pose {name}", args=arguments)
    except SystemExit as leaving:  # tyro has printed its help (0) or what is wrong with the arguments (2)
        status = leaving.code
        if isinstance(status, str):
            raise ValueError(status) from leaving
    return status if isinstance(status, int) else 0


def _usage() -> str:
    commands = "\n".join(f"  {name:<12}{summary}" for name, summary in _COMMANDS.items())
    return (
        "usage: cad2pose COMMAND ...\n\n"
        "From the CAD model of a rigid part to its 6D pose in one RGB image.\n\n"
        f"commands:\n{commands}\n\n"
        "`cad2pose COMMAND --help` lists the options of a command; `cad2pose --version` prints the version."
    )


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, _COMMANDS, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"there is no command {name!r}; the commands are {', '.join(_COMMANDS)}{hint}"


def _describe(error: ValueError | OSError) -> str:
    """One line for an error; `[Errno 2] No such file ...: 'x'` becomes `x: No such file ...`."""
    if isinstance(error, OSError) and error.strerror:
        where = f"{os.fspath(error.filename)}: " if error.filename is not None else ""
        return f"{where}{error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


def _complain(text: str) -> None:
    print(f"cad2pose: error: {text}", file=sys.stderr)


def _warning(message: Warning | str, *where: object, **_: object) -> str:
    """One line for a warning; who is warned is not asked to read code."""
    return f"cad2pose: warning: {' '.join(str(message).split())}\n"


def _show_traceback() -> None:
    if os.environ.get(TRACEBACK_VARIABLE, "0") not in ("", "0"):
        traceback.print_exc()
