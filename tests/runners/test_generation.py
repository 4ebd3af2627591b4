"""A row's tokens are those of the uncached model, whatever else is in the batch or the mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from layers.errors import UserError
from layers.sampling import Sampling
from layers.tokens import Tokens
from runners.generation import Generator, check_positions
from tests.runners.generation_models import (
  MESHES,
  NUM_IDS,
  NUM_NEW,
  PROMPTS,
  generator,
  mesh_of,
  model_and_params,
)

GREEDY = Sampling(temperature=0.0)


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def family(request):
  model, params = model_and_params(request.param)
  return model, params, generator(model, {})


def lists(rows):
  return [row.tolist() for row in rows]


def by_full_forward(model, params, prompt, num_new):
  """Greedy ids, each from a pass over all before it, of which there are always as many."""
  forward = jax.jit(model.apply)
  ids = np.zeros((1, len(prompt) + num_new), np.int32)
  ids[0, : len(prompt)] = prompt
  for end in range(len(prompt), ids.shape[1]):
    logits = forward({"params": params}, jnp.asarray(ids), Tokens.unpacked(*ids.shape))
    ids[0, end] = logits[0, end - 1, :NUM_IDS].argmax()
  return ids[0, len(prompt) :].tolist()


def test_greedy_ids_are_those_of_repeated_full_passes_in_a_batch_and_alone(family):
  model, params, generate = family
  together = lists(generate(params, PROMPTS, max_tokens=NUM_NEW, sampling=GREEDY))
  for prompt, got in zip(PROMPTS, together, strict=True):
    assert got == by_full_forward(model, params, prompt, NUM_NEW)
  for prompt, got in zip(PROMPTS[:2], together, strict=False):
    assert lists(generate(params, [prompt], max_tokens=NUM_NEW, sampling=GREEDY)) == [got]
  assert len({tuple(row) for row in together}) == len(PROMPTS)


def test_sampled_ids_depend_on_the_prompt_and_the_seed_and_not_on_the_batch(family):
  _, params, generate = family
  how = {"max_tokens": NUM_NEW, "sampling": Sampling(top_p=0.95)}
  together = lists(generate(params, PROMPTS, **how))
  reversed_ = lists(generate(params, PROMPTS[::-1], **how))
  assert reversed_[::-1] == together
  assert lists(generate(params, PROMPTS[1:2], **how)) == together[1:2]
  assert lists(generate(params, PROMPTS, seed=1, **how)) != together
  first, second = lists(generate(params, [PROMPTS[0]] * 2, **how))
  assert first == together[0] != second


def test_a_row_ends_with_eos_and_the_others_go_on(family):
  model, params, generate = family
  whole = lists(generate(params, PROMPTS, max_tokens=NUM_NEW, sampling=GREEDY))
  eos = whole[0][3]
  ending = generator(model, {}, eos_id=eos)
  got = lists(ending(params, PROMPTS, max_tokens=NUM_NEW, sampling=GREEDY))
  for row, full in zip(got, whole, strict=True):
    assert row == (full[: full.index(eos) + 1] if eos in full else full)
  assert len(got[0]) <= 4 and any(len(row) == NUM_NEW for row in got)


def test_only_ids_of_the_vocabulary_are_drawn(family):
  model, params, _ = family
  few = Generator(model, mesh_of(), (), num_ids=3)
  rows = few(params, PROMPTS, max_tokens=NUM_NEW, sampling=Sampling(temperature=9.0))
  assert set(np.concatenate(rows).tolist()) == {0, 1, 2}


def test_what_goes_beyond_a_learned_position_table_is_refused():
  model, params = model_and_params("gpt2")
  limit = 32
  assert model.max_positions == limit
  check_positions(model, 5, limit - 4)
  with pytest.raises(UserError, match=f"more than the {limit} positions .* take max_tokens=28"):
    generator(model, {})(params, PROMPTS[:1], max_tokens=limit - 3, sampling=GREEDY)
  with pytest.raises(UserError, match="shorten the prompt"):
    check_positions(model, limit + 1, 1)
  check_positions(model_and_params("llama")[0], 10**6, 10**6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_law_2_every_mesh_gives_the_ids_of_one_device(run_with_devices, name):
  code = f"from tests.runners.generation_models import on_meshes; on_meshes({name!r})"
  one, *others = run_with_devices(4, code)
  for (mesh, part), report in zip(MESHES, others, strict=True):
    assert report["greedy"] == one["greedy"] and report["sampled"] == one["sampled"], mesh
    assert report["cache"] == part, mesh
