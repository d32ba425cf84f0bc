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
# # Your own sounds: label, train, predict, take along
#
# From a zip of labelled recordings to a model that says what is heard when in a long one, and that
# you can download. The encoder that comes with the package is used as it is; a few minutes, on a CPU,
# too. Without an upload it runs on sounds that are made up on the spot.

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
    extra = "[cuda12,media]" if shutil.which("nvidia-smi") else "[media]"
    extra = "[tpu,media]" if "TPU_ACCELERATOR_TYPE" in os.environ else extra
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "-e", f".{extra}"], check=True)
os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # this page and the commands share a GPU

# %%
# !python -c "import conformer_jax; print(conformer_jax.device())"

# %% [markdown]
# ## The sounds
#
# A zip with a folder `labelled`, one subfolder a label, 20 clips or more in each, and a folder
# `recordings`, what is to be listened to. `upload = True` asks for it (on Colab).

# %%
upload = False
sounds = pathlib.Path("my_sounds")
shutil.rmtree(sounds, ignore_errors=True)
if upload:
    from google.colab import files

    shutil.unpack_archive(next(iter(files.upload())), sounds)
else:
    from conformer_jax.data import examples

    few = os.environ.get("CONFORMER_JAX_FAST") == "1"  # for tests
    examples.write(sounds, labels=3 if few else 6, clips=8 if few else 20)

# %%
# !python -m conformer_jax.manifest {sounds}/labelled

# %% [markdown]
# ## Train
#
# A linear probe of the frozen encoder. With hundreds of clips a label, `configs/finetune.py:tiny` with
# `--config.init_from=pretrained:tiny` trains the encoder, too, and takes its time.

# %%
# !python -m conformer_jax.main --config=configs/finetune.py:probe --config.data.manifest={sounds}/labelled/manifest.csv --config.data.eval_share=0.2 --workdir=runs/mine

# %%
# !python -m conformer_jax.report runs/mine --output=report.html

# %%
from IPython.display import HTML, Audio, display

HTML(filename="report.html")

# %% [markdown]
# ## What is heard when
#
# The label track opens in Audacity (File > Import > Labels).

# %%
# !python -m conformer_jax.predict runs/mine {sounds}/recordings --window=2
# !python -m conformer_jax.predict runs/mine {sounds}/recordings --window=2 --format=raven --output=heard.txt --overwrite

# %% [markdown]
# ## Annotations are labels
#
# A label track beside a recording (`day.txt` beside `day.wav`), drawn by hand or predicted and then
# corrected, makes training clips of its parts. Train on this manifest as on the one above.

# %%
# !python -m conformer_jax.manifest {sounds}/recordings --annotations=audacity

# %% [markdown]
# ## What sounds alike
#
# The windows of a recording that are nearest to a clip, by the cosine of their vectors.

# %%
import numpy as np

import conformer_jax
from conformer_jax.data import tree

model = conformer_jax.load("runs/mine")
query = next(p for p in tree.find(sounds / "labelled").files if not tree.is_text(p))
recording = next(p for p in tree.find(sounds / "recordings").files if not tree.is_text(p))
one, many = model.embed(query), model.embed(recording, window_s=2.0)
cosine = many.windows @ one.clip
cosine /= np.linalg.norm(many.windows, axis=1) * np.linalg.norm(one.clip)
for i in np.argsort(-cosine)[:5]:
    print(f"{many.start[i]:6.1f} s to {many.end[i]:6.1f} s  {cosine[i]:.3f}")
display(Audio(str(query)))

# %% [markdown]
# ## Take it along
#
# A folder with the model and a model card; `conformer_jax.load("my_model")` reads it.

# %%
# !python -m conformer_jax.bundle runs/mine my_model --overwrite

# %%
archive = shutil.make_archive("my_model", "zip", ".", "my_model")
if "COLAB_RELEASE_TAG" in os.environ:
    from google.colab import files

    files.download(archive)
print(archive)
