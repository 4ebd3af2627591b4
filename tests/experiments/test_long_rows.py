"""Law 2 where a row is long: split over the sequence axis, in many blocks and chunks each."""

import fiddle as fdl
import numpy as np
import pytest

from layers.attention_cores.blockwise import BlockwiseAttention
from layers.attention_cores.ring import RingAttention
from tests.experiments.mesh_runs import tiny
from tests.runners.mesh_report import report

NUM_STEPS = 20
ON_EIGHT_DEVICES = """
import json
from tests.experiments.test_long_rows import run
print(json.dumps(run(sequence=8)))
"""


def run(**mesh):
  """2,048 tokens: of eight devices each has 4 chunks of logits, 8 blocks of queries."""
  config = tiny("lwm.TextLlama7B32K", "none", {"data": 1, **mesh})
  config.sequence_length, config.batch_size = 2048, 1
  config.model.loss_chunk = 64
  blocks = fdl.Config(BlockwiseAttention, query_block=32, key_block=32)
  config.model.block.attention.core = fdl.Config(RingAttention, inner=blocks)
  return report(config, NUM_STEPS)


@pytest.mark.slow
def test_law_2_a_long_row_is_the_same_run_on_one_device_and_on_eight(run_with_devices):
  alone, split = run(), run_with_devices(8, ON_EIGHT_DEVICES)
  assert split["params"] == alone["params"]
  assert len(set(alone["losses"])) == NUM_STEPS and alone["losses"][-1] < alone["losses"][1]
  np.testing.assert_allclose(split["losses"], alone["losses"], rtol=1e-5)
