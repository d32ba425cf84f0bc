"""What the commands that use a trained model share: which files, and how every error ends."""

import os
import pathlib
import sys
from typing import NamedTuple

from conformer_jax.command import compilation_cache

_USER, _CRASHED, _INTERRUPTED = 1, 70, 130  # as the commands that train


def answer(work) -> int:
    """Runs `work`, a function without arguments that returns an exit code; returns that code.

    A mistake ends in one line and 1; no space, or what another try may mend, with 70; Ctrl-C: 130.
    """
    from conformer_jax.errors import DiskFull, UserError, is_disk_full
    from conformer_jax.training import progress

    progress.set_up_logging()
    compilation_cache.turn_on()
    try:
        return work()
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from here", file=sys.stderr)
        return _INTERRUPTED
    except DiskFull as error:
        return _fail(str(error), _CRASHED)
    except UserError as error:
        return _fail(str(error), _USER)
    except OSError as error:
        if is_disk_full(error):
            where = f" for {error.filename}" if error.filename else ""
            return _fail(
                f"no space left on the disk{where}: free some and run the same command again",
                _CRASHED,
            )
        return _fail(f"{error}: mend it and run the same command again", _CRASHED)


def _fail(message, code):
    print(f"error: {message}", file=sys.stderr)
    return code


class Input(NamedTuple):
    """A file to hear. name: as tables write it; named: whether it was typed itself."""

    path: pathlib.Path
    name: str
    named: bool


def inputs(arguments) -> list[Input]:
    """The files of FILE|DIR..., each once; of folders all below, but texts and hidden ones.

    Raises:
      UserError: there is no such file, or none in the folder.
    """
    from conformer_jax.data import tree
    from conformer_jax.errors import UserError

    found = {}
    for argument in arguments:
        path = pathlib.Path(argument)
        if not path.exists():
            raise UserError(f"there is no {argument}")
        if not path.is_dir():
            found.setdefault(path, Input(path, str(argument), named=True))
            continue
        files = [file for file in tree.find(path).files if not tree.is_text(file)]
        if not files:
            raise UserError(f"{argument} contains no files that could be sounds")
        for file in files:
            found.setdefault(file, Input(file, str(file), named=False))
    return list(found.values())


class Bad:
    """Files that could not be used: said at the end, a few by name."""

    _FEW = 5

    def __init__(self):
        self.reasons = []  # in words, with the file
        self._named = False

    def add(self, one: Input, reason: str) -> None:
        """A file that was passed over."""
        self.reasons.append(reason)
        self._named |= one.named

    def close(self, tried: int) -> int:
        """Says them; the exit code: 1 where a file that was typed, or every file, is among them."""
        for reason in self.reasons[: self._FEW]:
            print(f"passed over: {reason}", file=sys.stderr)
        if len(self.reasons) > self._FEW:
            print(f"and {len(self.reasons) - self._FEW} more files", file=sys.stderr)
        return _USER if self._named or len(self.reasons) == tried else 0


def check_output(flag: str, path, *, overwrite: bool) -> None:
    """Raises UserError where a file exists that may not be replaced, or has no folder to lie in."""
    from conformer_jax.errors import UserError

    if not path:
        return
    path = pathlib.Path(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder: name a file")
    if path.exists() and not overwrite:
        raise UserError(f"{path} exists: --overwrite replaces it")
    if not path.parent.is_dir():
        raise UserError(f"--{flag}={path}: there is no folder {path.parent}")


def check_apart(path, *inputs) -> None:
    """Raises UserError where what is to be written is one of the inputs (None: no input)."""
    from conformer_jax.errors import UserError

    for one in filter(None, inputs):
        if path and os.path.realpath(path) == os.path.realpath(one):
            raise UserError(f"{path} is what is read: choose another name for what is written")


def write_page(path, text: str) -> None:
    """`write_whole`, and a line to stderr that says so: stdout may be a table."""
    write_whole(path, text)
    size = os.path.getsize(path) / 1e6
    print(f"Wrote {path}: {size:.1f} MB; open it in a browser", file=sys.stderr)


def write_whole(path, text: str) -> None:
    """Writes a file so that a reader finds all of it or what was there before."""
    path = pathlib.Path(path)
    temporary = path.with_name(path.name + ".tmp")
    try:
        # Names of files may hold bytes that are no text.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
