"""Law 2 for every registered experiment, shrunk.

On data=8, fsdp=8, tensor=2 x fsdp=4 and sequence=2 x fsdp=2 x tensor=2 the first parameters are
bitwise those of one device, and the losses of float32 steps agree with its losses to 1e-5
relative. Experiments that are the same program once shrunk (the published sizes of a family)
run once. Of a family's programs with scanned layers and of those with unrolled ones, the first
takes 20 steps on each mesh, with accumulation and without; the others take 2.
"""

import numpy as np
import pytest

from tests.experiments.mesh_runs import program, runs, tiny
from tests.experiments.shrinking import ENTRIES, write_text

MESHES = (
  {"data": 8},
  {"data": 1, "fsdp": 8},
  {"data": 1, "fsdp": 4, "tensor": 2},
  {"data": 1, "fsdp": 2, "sequence": 2, "tensor": 2},
)

PROGRAMS = {program(name): name for name in reversed(ENTRIES)}
FAMILIES_AND_FORMS = {
  (name.split(".")[0], tiny(name, "text", {}).model.scan_layers): name
  for name in reversed(PROGRAMS.values())
}
AT_LENGTH = set(FAMILIES_AND_FORMS.values())

ON_EIGHT_DEVICES = """
import json
from tests.experiments.mesh_runs import runs
print(json.dumps(runs({name!r}, {text_file!r}, {cases!r}, {num_steps})))
"""


@pytest.mark.slow
@pytest.mark.plain
@pytest.mark.parametrize("name", PROGRAMS.values())
def test_law_2_an_experiment_is_the_same_run_on_every_mesh(name, tmp_path, run_with_devices):
  text_file = str(write_text(tmp_path / "text.txt"))
  accumulations = [None, 8] if name in AT_LENGTH else [None]
  cases = [(mesh, size) for mesh in MESHES for size in accumulations]
  num_steps = 20 if name in AT_LENGTH else 2
  (alone,) = runs(name, text_file, [({"data": 1}, None)], num_steps)
  assert len(set(alone["losses"])) == num_steps
  code = ON_EIGHT_DEVICES.format(
    name=name, text_file=text_file, cases=cases, num_steps=num_steps
  )
  for case, got in zip(cases, run_with_devices(8, code), strict=True):
    assert got["params"] == alone["params"], case
    assert got["padding_is_zero"], case
    np.testing.assert_allclose(got["losses"], alone["losses"], rtol=1e-5, err_msg=str(case))


def test_every_experiment_is_a_program_that_runs():
  assert {program(name) for name in ENTRIES} == set(PROGRAMS)
  assert AT_LENGTH <= set(PROGRAMS.values()) <= set(ENTRIES)
  assert program("gpt2.Small") == program("gpt2.XL") != program("gpt2.Nano")
