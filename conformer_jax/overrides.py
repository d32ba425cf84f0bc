"""Explains a --config.field=value that names no field."""

import difflib
import importlib.util

import ml_collections


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
