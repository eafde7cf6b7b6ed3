# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Quick start
#
# Three hospitals train one model without sharing their images: from arrays to clients, a model, a
# simulation, its learning curve, and an evaluation. It runs in seconds on a CPU.

# %%
import jax
import matplotlib.pyplot as plt
import numpy as np
import optax

import fedjax_med as fm

# %% [markdown]
# ## Arrays
#
# Images uint8 `[N, H, W, 3]` of three classes, which differ in brightness; and for each image the
# hospital that holds it. The hospitals differ in size. The last 100 images are for the test.

# %%
rng = np.random.default_rng(0)
labels = rng.integers(0, 3, 400)
images = rng.integers(0, 100, (400, 32, 32, 3)) + 70 * labels[:, None, None, None]
images = images.astype(np.uint8)
hospital = rng.choice(["Graz", "Lyon", "Turin"], 400, p=[0.5, 0.3, 0.2])

# %% [markdown]
# ## Clients

# %%
clients = fm.data.from_arrays(images[:300], labels[:300], hospital[:300])
dict(zip(np.unique(hospital), clients.sizes.tolist(), strict=True))

# %% [markdown]
# ## A model, and how it is trained
#
# A small convolutional network; each hospital trains it with Adam for one epoch in a round, and the
# server takes the mean of what they send (FedAvg).

# %%
model = fm.models.cnn.build(3, widths=(8, 16), groups=4)
gradient = fm.client.cross_entropy(model, num_classes=3)
trainer = fm.LocalTrainer(gradient, optax.adam(0.005), epochs=1, batch_size=16)
algorithm = fm.algorithms.fed_avg.build(trainer, optax.sgd(1.0))
process = fm.Process(algorithm, fm.aggregators.mean.build())

# %% [markdown]
# ## Simulation

# %%
simulation = fm.Simulation(process)
state = simulation.init(model.init(jax.random.key(0), (32, 32, 3)), clients)
results = list(simulation.rounds(state, clients, jax.random.key(1), num_rounds=10))

# %% [markdown]
# ## The learning curve
#
# Of each hospital and of all together.

# %%
for number, name in enumerate(np.unique(hospital)):
    each = [r.metrics["loss"][number] / r.metrics["count"][number] for r in results]
    plt.plot([r.round for r in results], each, alpha=0.5, label=name)
plt.plot([r.round for r in results], [r.train_loss for r in results], "k", label="all")
plt.xlabel("round")
plt.ylabel("training loss")
plt.legend()
plt.show()

# %% [markdown]
# ## Evaluation
#
# On images that no hospital has trained on, with 95 % intervals.

# %%
found = fm.evaluate(model, results[-1].state.server.params, images[300:], labels[300:])
for metric in ("accuracy", "balanced_accuracy", "macro_auroc"):
    print(metric, round(found[metric], 3), found["intervals"][metric])
