"""On an NVIDIA GPU with cuDNN a run begins: its first state and its step compile.

No GPU has to be there, but its compiler and cuDNN: pip install 'strata[gpu-plan]'.
"""

import json
import os
import subprocess
import sys

import pytest

from layers.attention_cores.cudnn import is_installed
from runners.planning.topologies import parse
from tests.conftest import ROOT

pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(
    not (parse("h100:1x1").can_compile() and is_installed()),
    reason="compiles for an absent GPU: pip install 'strata[gpu-plan]' brings what that takes",
  ),
]

EXPERIMENTS = {
  "lwm.TextLlamaDebug": ["batch_size=2", "microbatch_size=None", "sequence_length=512"],
  "gpt2.Small": [
    "batch_size=2",
    "microbatch_size=None",
    "sequence_length=512",
    "model.num_layers=3",
    "model.scan_layers=True",
    "model.block.attention.core=@auto_attention",
  ],
}


@pytest.mark.parametrize("exp", EXPERIMENTS)
def test_the_step_attends_with_cudnn_and_the_first_state_computes_no_product(exp):
  result = subprocess.run(
    [sys.executable, "-m", "tests.runners.gpu_programs", exp, *EXPERIMENTS[exp]],
    cwd=ROOT,
    env={**os.environ, **parse("h100:1x1").environment()},
    capture_output=True,
    text=True,
  )
  assert result.returncode == 0, result.stderr
  found = json.loads(result.stdout.splitlines()[-1])
  assert found["attention_in_step"] >= 2  # forward and backward
  assert found["random_in_init"] > 0
  assert found["attention_in_init"] == found["products_in_init"] == 0
