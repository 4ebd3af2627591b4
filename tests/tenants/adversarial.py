"""Tenant: a generator and a discriminator (arXiv:1406.2661), each with its own optimizer."""

from typing import Any

import fiddle as fdl
import flax.linen as nn
import flax.struct
import jax
import optax
from clu import metrics

from layers.sharding import partitioned_init
from runners import optimizers
from tasks.objective import Outcome
from tasks.weighted_metrics import average, collect
from tests.tenants import image_classifier
from tests.tenants.digits import Encoder


class Layer(nn.Module):
  @nn.compact
  def __call__(self, x: jax.Array, tokens: Any = None) -> jax.Array:
    split = partitioned_init(nn.initializers.lecun_normal(), "embed", "mlp")
    return x + nn.relu(nn.Dense(x.shape[-1], kernel_init=split)(x))


class Pair(nn.Module):
  scan_layers: bool = True
  remat: str = "full"

  def setup(self):
    player = lambda: Encoder(scan_layers=self.scan_layers, remat=self.remat, block=Layer)
    self.generator = nn.Sequential([player(), nn.Dense(64), nn.sigmoid])
    self.discriminator = nn.Sequential([player(), nn.Dense(1)])

  def __call__(self, images: jax.Array) -> jax.Array:  # where both get their parameters
    return self.judge(self.generate(jax.numpy.arange(images.shape[0])))

  def generate(self, rows: jax.Array) -> jax.Array:  # [B] to images [B, 64]
    key = self.make_rng("dropout") if self.has_rng("dropout") else jax.random.key(0)
    noise = jax.vmap(lambda row: jax.random.normal(jax.random.fold_in(key, row), (16,)))(rows)
    return self.generator(noise)

  def judge(self, images: jax.Array) -> jax.Array:  # [B, ...] to logits [B] of being real
    return self.discriminator(images)[:, 0]


@flax.struct.dataclass
class Losses(metrics.Collection):
  generator: metrics.Average
  discriminator: metrics.Average


class Adversarial(image_classifier.Labels):
  """The sum of both losses, where each holds the other player's parameters still."""

  splits = True

  def loss(self, forward: Any, batch: Any, totals: Any) -> Outcome:
    entropy, held = optax.sigmoid_binary_cross_entropy, jax.lax.stop_gradient
    judge = lambda images, params=None: forward(images, method="judge", params=params).output
    fake = forward(forward.rows, method="generate")
    apart = entropy(judge(batch["images"]), 1.0) + entropy(judge(held(fake.output)), 0.0)
    fooled = entropy(judge(fake.output, held(forward.params)), 1.0)
    sums = [(batch["weights"] * x).sum() for x in (fooled, apart)]
    fooled, apart = (average(x, batch["weights"].sum()) for x in sums)
    found = collect(Losses, generator=fooled, discriminator=apart)
    return fake.outcome(sum(sums) / totals, found)

  def empty_metrics(self) -> Any:
    return collect(Losses, generator=average(0.0, 0.0), discriminator=average(0.0, 0.0))


def config(**fields: Any) -> fdl.Config:
  """A Trainer; `fields` replace its own."""
  adam, sgd = fdl.Config(optimizers.adamw, 3e-3), fdl.Config(optimizers.sgdm, 0.05)
  players = {"generator": adam, "discriminator": sgd}
  own = {"model": fdl.Config(Pair), "objective": fdl.Config(Adversarial), "optimizer": players}
  return image_classifier.config(**own | fields)
