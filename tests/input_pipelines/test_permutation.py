"""`permute` is a permutation for each (seed, epoch), and stays the one it is."""

import numpy as np
import pytest

from input_pipelines.permutation import permute


@pytest.mark.parametrize("length", [1, 2, 3, 7, 16, 17, 100, 1023, 65537])
@pytest.mark.parametrize("seed, epoch", [(0, 0), (0, 1), (2**63 + 5, 3), (-1, 0)])
def test_every_place_is_taken_once(length, seed, epoch):
  places = permute(np.arange(length), length, seed, epoch)
  np.testing.assert_array_equal(np.sort(places), np.arange(length))


def test_orders_differ_between_seeds_and_between_epochs():
  # Seed s + 1 must not be the next epoch of seed s either, as it would be were they added.
  orders = {
    tuple(permute(np.arange(50), 50, seed, epoch)) for seed in range(8) for epoch in range(8)
  }
  assert len(orders) == 64


def test_places_look_uniform():
  """Over 4,000 epochs each of 10 places holds each index about 400 times (chi-square)."""
  counts = np.zeros((10, 10))
  index, epoch = np.meshgrid(np.arange(10), np.arange(4000))
  np.add.at(counts, (index.ravel(), permute(index.ravel(), 10, 0, epoch.ravel())), 1)
  chi_square = ((counts - 400) ** 2 / 400).sum()  # 81 degrees of freedom: mean 81, sd 13
  assert chi_square < 81 + 5 * 13


def test_the_epoch_may_be_an_array_and_the_index_far_along():
  index, epoch = np.array([0, 5, 2**40]), np.array([0, 1, 2**41])
  together = permute(index, 2**40 + 1, 7, epoch)
  alone = [
    int(permute(np.array([i]), 2**40 + 1, 7, int(e))[0])
    for i, e in zip(index, epoch, strict=True)
  ]
  assert together.tolist() == alone


def test_the_order_is_pinned():
  """Another order would give a resumed run other batches than it began with."""
  assert permute(np.arange(10), 10, 0, 0).tolist() == [5, 1, 0, 3, 9, 6, 4, 8, 2, 7]
  assert permute(np.arange(10), 10, 1, 2).tolist() == [0, 5, 4, 6, 8, 7, 1, 9, 3, 2]
