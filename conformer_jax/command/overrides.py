"""The --config flag of all commands, and what is wrong with it in one line."""

import importlib.util
import os
import sys

import ml_collections
from absl import flags
from ml_collections import config_flags

from conformer_jax.errors import unknown

flags.disclaim_key_flags()  # --help of a command lists what is defined here as its own


def define_config_flag():
    """Defines --config=FILE[:VARIANT] and --config.field=value."""
    return config_flags.DEFINE_config_file("config", None, "FILE[:VARIANT]", lock_config=True)


def parse_flags(argv: list[str], config, example="configs/pretrain.py") -> list[str]:
    """Parses all flags; an unknown variant or field ends in one line with the known ones.

    Args:
      argv: the command line.
      config: holder of the flag --config.
      example: a config file that the command takes, for who gives none.
    """
    try:
        rest = flags.FLAGS(argv)
        if config.value is None:
            raise ValueError(f"--config is missing: try --config={example}")
        if len(rest) > 1:
            raise ValueError(f"unknown argument {rest[1]!r}: flags are written --name=value")
        config.value.name  # noqa: B018  (a file that failed to load raises only when it is used)
        return rest
    except (AttributeError, KeyError) as error:
        fail(explain_unknown_field(argv) or str(error))
    except flags.UnrecognizedFlagError as error:
        fail(f"{error}{explain_unknown_flag(argv, error.flagname)}")
    except Exception as error:
        fail(explain_unreadable_config(argv, str(error)))


def fail(message: str, code: int = 1, *, at_once: bool = False):
    """Ends the process with one line on stderr; `at_once` without winding anything down."""
    print(f"error: {message}", file=sys.stderr, flush=True)
    (os._exit if at_once else sys.exit)(code)


def explain_unreadable_config(argv: list[str], error: str) -> str:
    """One line for what absl says, where a file's own error comes last after a traceback."""
    named = [arg.partition("=")[2] for arg in argv if arg.lstrip("-").startswith("config=")]
    file = named[-1].partition(":")[0] if named else ""
    if file and not os.path.exists(file):
        return (
            f"the config file {file} does not exist here ({os.getcwd()}): configs/ lies in the "
            f"repository's root, such as configs/pretrain.py"
        )
    text = " ".join(error.split())
    return text.rpartition("Error: ")[2] if "Traceback" in text else text


def explain_unknown_field(argv: list[str]) -> str | None:
    """One line that names the unknown field of `argv`, the nearest and all known ones."""
    values = _values(argv)
    config = _config(values)
    if config is None:
        return None
    for name in values:
        if not name.startswith("config."):
            continue
        section, known = "config", config
        for part in name.removeprefix("config.").split("."):
            if not isinstance(known, ml_collections.ConfigDict) or part not in known:
                return unknown(f"field {section}.{part}", part, _names(known))
            section, known = f"{section}.{part}", known[part]
    return None


def explain_unknown_flag(argv: list[str], name: str) -> str:
    """What to add to absl's line on a flag that is the last part of a field's name, or ''."""
    try:
        config = _config(_values(argv))
    except Exception:  # of a file that is not ours
        return ""
    found = [] if config is None else sorted(_fields_named(config, name, "--config"))
    return f": did you mean {' or '.join(found)}?" if found else ""


def _values(argv):
    return dict(arg.lstrip("-").split("=", 1) for arg in argv[1:] if "=" in arg)


def _config(values):
    """The config as the file makes it; None where no file is named."""
    file, _, variant = values.get("config", "").partition(":")
    spec = importlib.util.spec_from_file_location("config_file", file)
    if spec is None:
        return None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(variant) if variant else module.get_config()


def _fields_named(config, name, prefix):
    for part, value in config.items():
        if part == name and not isinstance(value, ml_collections.ConfigDict):
            yield f"{prefix}.{part}"
        # Names of the monitor's are those of others, which are meant.
        if isinstance(value, ml_collections.ConfigDict) and part != "monitor":
            yield from _fields_named(value, name, f"{prefix}.{part}")


def _names(config):
    return sorted(config) if isinstance(config, ml_collections.ConfigDict) else []
