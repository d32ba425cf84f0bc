"""What XLA has compiled is kept from one start to the next."""

import logging
import os
import pathlib

SWITCH = "CONFORMER_JAX_CACHE"  # a folder, or 0 for none


def turn_on() -> None:
    """Keeps compilations in ~/.cache/conformer_jax/xla (of XDG_CACHE_HOME, where it is set).

    $CONFORMER_JAX_CACHE names another folder, or switches it off with 0; where
    $JAX_COMPILATION_CACHE_DIR is set that folder is taken, as JAX does by itself. Several processes
    may share it: files are named by what they were compiled from, and one that is not whole (being
    written, or left by a kill) is compiled again, with a warning of JAX. A folder that cannot be
    written to only means that everything is compiled again. It may be deleted at any time.
    """
    wanted = os.environ.get(SWITCH, "")
    if wanted == "0" or "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    import jax

    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = pathlib.Path(wanted or os.path.join(home, "conformer_jax", "xla"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        logging.info("compilations are not kept: %s", error)
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
