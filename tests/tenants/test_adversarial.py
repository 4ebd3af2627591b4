"""Two players share a step, and each moves by its own optimizer alone."""

import jax
import numpy as np
import pytest

from tests.runners.toy_run import begin, snapshot, take_steps
from tests.tenants import adversarial

pytest.importorskip("sklearn")


@pytest.mark.parametrize("still", ["generator", "discriminator"])
def test_a_player_without_a_rate_stands_still_while_the_other_moves(still):
  config = adversarial.config()
  config.optimizer[still].learning_rate = 0.0
  assembly, state = begin(config)
  before = snapshot(state.params)
  state, _ = take_steps(assembly, state, 3)
  for player, params in before.items():
    moved = jax.tree.map(lambda x, y: not np.array_equal(x, y), state.params[player], params)
    assert jax.tree.leaves(moved) == [player != still] * len(jax.tree.leaves(moved)), player


def test_the_gradient_of_each_loss_stops_at_the_other_player():
  config = adversarial.config()
  config.optimizer["discriminator"].learning_rate = 0.0
  assembly, state = begin(config)
  losses = []
  for _ in range(3):
    state, _ = take_steps(assembly, state, 10)
    losses.append(assembly.evaluator()(state.params, state.variables))
  fooled = [found["eval/validation/generator"] for found in losses]
  caught = [found["eval/validation/discriminator"] for found in losses]
  # The generator learns to fool a judge that stands still, who then does worse.
  assert fooled[0] > fooled[1] > fooled[2] and caught[0] < caught[1] < caught[2]
