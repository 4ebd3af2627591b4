"""A random order of n things, one index at a time: O(1) memory, nothing to store or resume.

Index i goes to place `permute(i)` through a Feistel network on pairs (left, right) with
left < a and right < b, where a * b is the least such product >= n. Each round adds to one half
a hash of the other, which can be undone, so the whole is a permutation of a * b numbers. A
result >= n is sent through again until it is below n (cycle walking, Black and Rogaway 2002),
which leaves a permutation of 0 .. n - 1. Not for cryptography.

Grain's index_shuffle does the same one index at a time (2.5 us each), but it is private, stops
at 32 bits, reuses seed + 1 for the second epoch of seed, and Grain loads jax.
"""

import math

import numpy as np

_ROUNDS = 8  # even: both halves are mixed equally often


def permute(index: np.ndarray, length: int, seed: int, epoch: np.ndarray | int) -> np.ndarray:
  """The place of each `index` (0 .. length - 1) in the order of `epoch`; int64, shaped alike.

  Each (seed, epoch) has its own permutation. `epoch` may be an array of the shape of `index`.
  Changing any result here changes the batches of every resumed run.
  """
  num_left = math.isqrt(length - 1) + 1 if length > 1 else 1
  num_right = -(-length // num_left)
  place = np.array(index, np.uint64)
  keys = _hash(_hash(np.full_like(place, seed % 2**64)) + np.asarray(epoch).astype(np.uint64))
  walking = np.ones(place.shape, bool)
  while walking.any():
    place[walking] = _feistel(place[walking], keys[walking], num_left, num_right)
    walking = place >= length
  return place.astype(np.int64)


def _feistel(number: np.ndarray, keys: np.ndarray, num_left: int, num_right: int) -> np.ndarray:
  left, right = number // np.uint64(num_right), number % np.uint64(num_right)
  for i in range(0, _ROUNDS, 2):
    left = (left + _hash(right ^ _hash(keys + np.uint64(i)))) % np.uint64(num_left)
    right = (right + _hash(left ^ _hash(keys + np.uint64(i + 1)))) % np.uint64(num_right)
  return left * np.uint64(num_right) + right


def _hash(x: np.ndarray) -> np.ndarray:
  """splitmix64 (Steele, Lea and Flood 2014): each output bit depends on every input bit."""
  x = x + np.uint64(0x9E3779B97F4A7C15)
  x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
  x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
  return x ^ (x >> np.uint64(31))
