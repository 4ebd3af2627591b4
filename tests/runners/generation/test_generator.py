"""A row's tokens are those of the uncached model, whatever else is in the batch or the mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from layers.errors import UserError
from layers.sampling import Sampling
from layers.tokens import Tokens
from runners.generation.generator import Generator, check_context
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


def made(name):
  model, params = model_and_params(name)
  return model, params, generator(model, {})


@pytest.fixture(scope="module")
def gpt2():
  return made("gpt2")


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def family(request, gpt2):
  return gpt2 if request.param == "gpt2" else made("llama")


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


def test_sampled_ids_depend_on_the_prompt_and_the_seed_and_not_on_the_batch(gpt2):
  _, params, generate = gpt2
  how = {"max_tokens": NUM_NEW, "sampling": Sampling(top_p=0.95)}
  together = lists(generate(params, PROMPTS, **how))
  reversed_ = lists(generate(params, PROMPTS[::-1], **how))
  assert reversed_[::-1] == together
  assert lists(generate(params, PROMPTS[1:2], **how)) == together[1:2]
  assert lists(generate(params, PROMPTS, seed=1, **how)) != together
  first, second, *_ = lists(generate(params, [PROMPTS[0]] * len(PROMPTS), **how))
  assert first == together[0] != second


def test_a_row_ends_with_eos_and_the_others_go_on(gpt2):
  model, params, generate = gpt2
  whole = lists(generate(params, PROMPTS, max_tokens=NUM_NEW, sampling=GREEDY))
  eos = whole[0][2]
  ending = generator(model, {}, end_ids=[NUM_IDS - 1, eos])
  got = lists(ending(params, PROMPTS, max_tokens=NUM_NEW, sampling=GREEDY))
  for row, full in zip(got, whole, strict=True):
    assert row == (full[: full.index(eos) + 1] if eos in full else full)
  assert len(got[0]) == 3 and any(len(row) == NUM_NEW for row in got)


def test_only_ids_of_the_vocabulary_are_drawn(gpt2):
  model, params, _ = gpt2
  few = Generator(model, mesh_of(), (), num_ids=3)
  rows = few(params, PROMPTS, max_tokens=NUM_NEW, sampling=Sampling(temperature=9.0))
  assert set(np.concatenate(rows).tolist()) == {0, 1, 2}


def test_what_goes_beyond_the_context_is_refused(gpt2):
  model, params, generate = gpt2
  context = model.max_positions
  assert context == 32
  check_context(context, 5, context - 4)
  check_context(None, 10**6, 10**6)
  with pytest.raises(UserError, match="the model's context of 32 tokens; take max_tokens=28"):
    generate(params, PROMPTS[:1], max_tokens=context - 3, sampling=GREEDY)
  with pytest.raises(UserError, match="shorten the prompt by 2 or more"):
    check_context(context, context + 2, 1)


def test_prompts_of_about_one_length_share_a_program(family):
  _, params, generate = family

  def num_programs(length):
    prompts = [np.arange(length, dtype=np.int32)] * len(PROMPTS)
    generate(params, prompts, max_tokens=NUM_NEW, sampling=GREEDY)
    return generate._jitted._cache_size()

  first = num_programs(5)
  assert [num_programs(length) for length in (16, 1, 11)] == [first] * 3
  assert num_programs(17) == first + 1  # beyond the padding of the others


@pytest.mark.slow
@pytest.mark.parametrize(("name", "how"), [("gpt2", GREEDY), ("llama", Sampling(top_k=9))])
def test_law_2_a_mesh_of_eight_devices_gives_the_ids_of_one(run_with_devices, name, how):
  modules = "from layers.sampling import Sampling; from tests.runners import generation_models"
  code = f"{modules}; generation_models.on_a_mesh({name!r}, {how!r})"
  one, eight, part = run_with_devices(8, code)
  assert one == eight
  assert part == MESHES[name][1]  # each device holds its part of the cache alone
