"""Explains a --config that cannot be read and a --config.field=value that names no field."""

import difflib
import importlib.util
import os

import ml_collections


def explain_unreadable_config(argv: list[str], error: str) -> str:
    """One line for what absl says, where a file's own error comes last after a traceback."""
    named = [arg.partition("=")[2] for arg in argv if arg.lstrip("-").startswith("config=")]
    file = named[-1].partition(":")[0] if named else ""
    if file and not os.path.exists(file):
        return f"the config file {file} does not exist: try --config=configs/pretrain.py"
    text = " ".join(error.split())
    return text.rpartition("Error: ")[2] if "Traceback" in text else text


def explain_unknown_field(argv: list[str]) -> str | None:
    """One line that names the unknown field of `argv`, the nearest and all known ones."""
    values = dict(arg.lstrip("-").split("=", 1) for arg in argv[1:] if "=" in arg)
    file, _, variant = values.pop("config", "").partition(":")
    spec = importlib.util.spec_from_file_location("config_file", file)
    if spec is None:
        return None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config(variant) if variant else module.get_config()
    for name in values:
        if not name.startswith("config."):
            continue
        section, known = "config", config
        for part in name.removeprefix("config.").split("."):
            if not isinstance(known, ml_collections.ConfigDict) or part not in known:
                return unknown(f"field {section}.{part}", part, _names(known))
            section, known = f"{section}.{part}", known[part]
    return None


def unknown(what: str, name: str, known: list[str]) -> str:
    """'unknown <what>: did you mean ...? known: ...'."""
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    meant = f": did you mean {nearest[0]!r}?" if nearest else ":"
    return f"unknown {what}{meant} known: {', '.join(known) or 'none'}"


def _names(config):
    return sorted(config) if isinstance(config, ml_collections.ConfigDict) else []
