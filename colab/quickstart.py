# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Quickstart: pre-train, fine-tune, look, listen
#
# A small encoder learns from sounds without labels, then from four labelled clips of each class, and
# is compared with the same model that has learned from these clips alone. The sounds are made up on
# the spot, so nothing is downloaded. About 10 minutes on a free GPU or TPU or on two cores.
#
# **Runtime > Change runtime type** chooses a GPU or a TPU.

# %% [markdown]
# ## Install
#
# Where this notebook does not lie in the repository (on Colab), `repository` is cloned: put in the
# address that you have opened it from.

# %%
import os
import pathlib
import shutil
import subprocess
import sys

repository = os.environ.get("CONFORMER_JAX_REPOSITORY", "https://github.com/OWNER/conformer_jax")
if pathlib.Path("../configs").is_dir():
    os.chdir("..")
if not pathlib.Path("configs").is_dir():
    subprocess.run(["git", "clone", "--depth=1", repository, "conformer_jax"], check=True)
    os.chdir("conformer_jax")
if "COLAB_RELEASE_TAG" in os.environ:
    extra = "[cuda12]" if shutil.which("nvidia-smi") else ""
    extra = "[tpu]" if "TPU_ACCELERATOR_TYPE" in os.environ else extra
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "-e", f".{extra}"], check=True)
os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # this page and the commands share a GPU

# %%
# !python -c "import conformer_jax; print(conformer_jax.device())"

# %% [markdown]
# ## Pre-train without labels
#
# `CONFORMER_JAX_FAST=1` makes everything toy-sized, which learns nothing: it is for tests.

# %%
variant = ":smoke" if os.environ.get("CONFORMER_JAX_FAST") == "1" else ""
name = variant.replace(":", "_")

# %%
# !python -m conformer_jax.main --config=configs/pretrain.py{variant} --workdir=runs/pretrain{name}

# %% [markdown]
# ## Fine-tune on four labelled clips a class
#
# The run also trains the same model from scratch, and prints both.

# %%
# !python -m conformer_jax.main --config=configs/finetune.py{variant} --workdir=runs/finetune{name}

# %% [markdown]
# ## Look
#
# One page on both runs: curves, classes, confusions, and the worst mistakes to listen to.

# %%
# !python -m conformer_jax.report runs/pretrain{name} runs/finetune{name} --output=report.html

# %%
from IPython.display import HTML, Audio, display

HTML(filename="report.html")

# %% [markdown]
# ## Listen
#
# Recordings that the model has not heard, and what it says of them.

# %%
import conformer_jax
from conformer_jax.data import examples

folder = examples.write("made_up", labels=3, clips=1)
recording = str(folder / "recordings" / "day.wav")
model = conformer_jax.load(f"runs/finetune{name}")
tags = model.tag(recording)
for start, end, p in zip(tags.start, tags.end, tags.probabilities, strict=True):
    print(f"{start:5.1f} s to {end:5.1f} s: {tags.label_names[p.argmax()]} ({p.max():.2f})")
display(Audio(recording))

# %% [markdown]
# Next: `your_own_sounds`, beside this notebook.
