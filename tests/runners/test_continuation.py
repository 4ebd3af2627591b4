"""Law 2, second half: a run saved on one mesh continues on another with the same batches.

Nothing has to be accepted for it. The 19 letters of the toy are no multiple of tensor=2: the
vocabulary that is saved has a row of padding on some of the meshes and none on others.
"""

import pytest

from tests.runners import continued_run

# Devices, mesh, microbatches, and the step up to which the run stays there.
STATIONS = (
  (8, {"data": 1, "fsdp": 4, "tensor": 2}, None, 3),
  (4, {}, 8, 5),
  (1, {}, None, 7),  # the same config on a smaller machine
  (8, {"fsdp": 2, "tensor": 2}, None, 9),
  (8, {"data": 8}, None, 11),
)

CODE = """
import json
from tests.runners.continued_run import go_on
print(json.dumps(go_on({workdir!r}, {num_steps}, {mesh!r}, microbatch_size={microbatch_size})))
"""


@pytest.mark.slow
def test_law_2_a_run_goes_on_on_any_mesh_with_the_same_batches(tmp_path, run_with_devices):
  unbroken, moved = tmp_path / "unbroken", tmp_path / "moved"
  num_steps = STATIONS[-1][-1]
  continued_run.go_on(str(unbroken), num_steps, {})
  said = []
  for num_devices, mesh, size, last in STATIONS:
    code = CODE.format(workdir=str(moved), num_steps=last, mesh=mesh, microbatch_size=size)
    said.append(run_with_devices(num_devices, code))

  continued_run.assert_same(moved, unbroken, num_steps)

  changes = [[line for line in lines if "goes on" in line] for lines in said]
  assert [len(lines) for lines in changes] == [0, 2, 2, 1, 1]
  assert "microbatch_size was None, is 8: " in changes[1][0]
  assert "The mesh was fsdp=4, tensor=2, is data=4: " in changes[1][1]
  assert "The mesh was data=4, is one device: " in changes[2][1]
