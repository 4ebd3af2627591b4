"""Law 2, second half, for the LLaMA family: a run saved on one layout continues on another.

Its weights are split over fsdp, sequence and tensor at once, and its vocabulary is odd.
"""

import pytest

from experiments.llama import RULES
from tests.experiments.mesh_runs import tiny
from tests.runners import continued_run

# Devices, mesh, microbatches, and the step up to which the run stays there.
STATIONS = (
  (8, {"data": 1, "fsdp": 2, "sequence": 2, "tensor": 2}, None, 2),
  (1, {}, 4, 4),
  (2, {"data": 1, "fsdp": 2}, None, 5),
)

CODE = """
import json
from experiments.llama import RULES
from tests.experiments.mesh_runs import tiny
from tests.runners.continued_run import go_on
model = tiny("lwm.TextLlamaDebug", "", {{}}).model
fields = dict(model=model, sharding=RULES, microbatch_size={microbatch_size})
print(json.dumps(go_on({workdir!r}, {num_steps}, {mesh!r}, **fields)))
"""


@pytest.mark.slow
def test_law_2_a_llama_goes_on_on_any_layout_with_the_same_batches(tmp_path, run_with_devices):
  unbroken, moved = tmp_path / "unbroken", tmp_path / "moved"
  num_steps = STATIONS[-1][-1]
  model = tiny("lwm.TextLlamaDebug", "", {}).model
  continued_run.go_on(str(unbroken), num_steps, {}, model=model, sharding=RULES)
  for num_devices, mesh, size, last in STATIONS:
    code = CODE.format(workdir=str(moved), num_steps=last, mesh=mesh, microbatch_size=size)
    run_with_devices(num_devices, code)

  continued_run.assert_same(moved, unbroken, num_steps)
