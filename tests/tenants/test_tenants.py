"""The laws hold for whoever moves in: each tenant is a few lines on top of the product."""

import random
import signal
from pathlib import Path

import jax
import numpy as np
import pytest

from layers.errors import UserError
from runners.array_names import named_arrays
from runners.assembly import assemble
from runners.checkpoints.reading import open_step, read_arrays
from runners.processes import compilation_cache
from tests import warm_processes
from tests.tenants import laws
from tests.tenants.laws import NUM_STEPS, replaced, run_tenant, short_run, tenant_config

pytest.importorskip("sklearn")

# Every axis is split in one of them, and each compiles programs of its own.
MESHES = [
  {"data": 8},
  {"data": 1, "fsdp": 2, "sequence": 2, "tensor": 2},
  {"data": 1, "fsdp": 2, "expert": 4},
]
TENANTS = ("speaking_layer", "image_classifier", "contrastive", "adversarial", "measured_step")
SPLITTING = ("speaking_layer", "adversarial", "measured_step")
TRAITS = {
  "speaking_layer": {"train/router_z", "train/confidence/0", "eval/validation/confidence/1"},
  "image_classifier": {"train/accuracy", "eval/validation/accuracy"},
  "contrastive": {"train/accuracy", "eval/validation/accuracy"},
  "adversarial": {"train/learning_rate/generator", "eval/validation/discriminator"},
  "measured_step": {"train/update_norm", "train/relative_update", "train/distance_to_average"},
}


@pytest.fixture(scope="module", autouse=True)
def compiled_programs():
  compilation_cache.enable(laws.os.environ["STRATA_CACHE"])


def _arrays(workdir: Path) -> dict[str, np.ndarray]:
  step = open_step(workdir / "checkpoints" / str(NUM_STEPS))
  return read_arrays(step, list(step.arrays))


@pytest.mark.slow
@pytest.mark.parametrize("name", TENANTS)
def test_law_1_a_killed_tenant_goes_on_bitwise(name, tmp_path):
  unbroken, killed = tmp_path / "unbroken", tmp_path / "killed"
  run_tenant(name, str(unbroken))
  kill_at = random.Random(name).randrange(4, NUM_STEPS)  # after the first checkpoint
  code = (
    f"from tests.tenants import laws; laws.run_killed({name!r}, {str(killed)!r}, {kill_at})"
  )
  died = warm_processes.run(code, dict(laws.os.environ), tmp_path, timeout_s=300)
  assert died.returncode == -signal.SIGKILL, died.stderr
  run_tenant(name, str(killed))
  got, want = laws.rows(killed), laws.rows(unbroken)
  assert got == want
  assert TRAITS[name] <= {key for row in want for key in row}
  mine, theirs = _arrays(killed), _arrays(unbroken)
  assert mine.keys() == theirs.keys()
  for key, value in mine.items():
    np.testing.assert_array_equal(value, theirs[key], err_msg=key)


def _assert_same(got, want):
  np.testing.assert_allclose(got["losses"], want["losses"], rtol=1e-5)
  assert got["said"].keys() == want["said"].keys()
  for name, value in want["said"].items():
    np.testing.assert_allclose(got["said"][name], value, rtol=1e-4, err_msg=name)


@pytest.mark.plain
@pytest.mark.slow
@pytest.mark.parametrize("name", TENANTS)
def test_law_2_a_tenant_trains_alike_on_every_mesh(name, run_with_devices):
  imports = "import json; from tests.tenants.laws import runs_on"
  code = f"{imports}; print(json.dumps(runs_on({name!r}, {MESHES!r})))"
  (want,) = laws.runs_on(name, [{"data": 1}])
  for mesh, got in zip(MESHES, run_with_devices(8, code), strict=True):
    assert got["first"] == want["first"], mesh
    _assert_same(got, want)


@pytest.mark.plain
@pytest.mark.slow
@pytest.mark.parametrize("name", SPLITTING)
def test_law_3_a_tenant_does_not_depend_on_the_microbatch_size(name):
  want = short_run(tenant_config(name), 4)
  for size in (8, 4):
    _assert_same(short_run(tenant_config(name, microbatch_size=size), 4), want)


@pytest.mark.parametrize("name", sorted(set(TENANTS) - set(SPLITTING)))
def test_law_3_what_cannot_be_cut_is_refused_with_a_microbatch_size(name, tmp_path):
  with pytest.raises(UserError, match="no sum over microbatches: leave microbatch_size unset"):
    assemble(tenant_config(name, microbatch_size=16), str(tmp_path))


@pytest.mark.plain
@pytest.mark.slow
@pytest.mark.parametrize("name", TENANTS)
def test_law_8_scan_and_remat_change_nothing_for_a_tenant(name):
  forms = [(True, "full"), (True, "none"), (False, "full")]
  want, *others = (
    short_run(replaced(tenant_config(name), scan_layers=scan, remat=remat), 4)
    for scan, remat in forms
  )
  for got in others:
    _assert_same(got, want)


def test_batch_statistics_lie_in_the_state_and_move_in_training_alone():
  assembly, state = laws.toy_run.begin(tenant_config("image_classifier"))
  before = laws.toy_run.snapshot(state.variables)
  assert {name.split("/")[0] for name, _ in named_arrays(before)} == {"batch_stats"}
  first = assembly.evaluator()(state.params, state.variables)
  laws.toy_run.assert_bitwise_equal(state.variables, before)
  assert assembly.evaluator()(state.params, state.variables) == first
  state, _ = laws.toy_run.take_steps(assembly, state, 1)
  moved = jax.tree.map(lambda x, y: not np.array_equal(x, y), before, state.variables)
  assert all(jax.tree.leaves(moved))


@pytest.mark.parametrize("name", TENANTS)
def test_a_tenant_is_less_than_sixty_lines(name):
  source = Path(laws.__file__).with_name(f"{name}.py").read_text()
  code = [line for line in source.splitlines() if line.strip()]
  assert len(code) < 60
