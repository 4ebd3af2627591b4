"""Another optimizer or schedule in place of one keeps what is a matter of the run."""

import pytest

from experiments.command_line import main
from experiments.override_arguments import Override
from experiments.provenance import explain
from experiments.resolution import resolve
from experiments.sweep_plan import plan_sweep
from layers.errors import UserError
from runners.configs.tree import flatten


def _resolve(*settings):
  return resolve("gpt2.Nano", [Override("set", text) for text in settings])


def _values(*settings):
  return flatten(_resolve(*settings).config)


@pytest.mark.parametrize("name", ["@sgdm", "@sgdm()", "@lion(b1=0.95)", "@optax:adamw"])
def test_another_optimizer_keeps_the_schedule(name):
  before, after = _values(), _values(f"optimizer={name}")
  rate = {path for path in before if path.startswith("optimizer.learning_rate")}
  assert {path: after[path] for path in rate} == {path: before[path] for path in rate}
  assert after["optimizer"] != before["optimizer"]


def test_what_is_frozen_stays_so_and_a_decay_is_the_new_ones_own():
  values = _values("optimizer.frozen=['^a']", "optimizer.weight_decay=0.3", "optimizer=@sgdm")
  assert values["optimizer.frozen"] == "['^a']"
  assert values["optimizer.weight_decay"] == "0.0"


def test_what_the_new_one_says_itself_is_taken():
  assert _values("optimizer=@sgdm(learning_rate=0.5)")["optimizer.learning_rate"] == "0.5"


@pytest.mark.parametrize("name", ["@constant", "@warmup_linear()", "@warmup_stable_decay"])
def test_another_schedule_keeps_the_peak(name):
  values = _values(f"optimizer.learning_rate={name}")
  assert values["optimizer.learning_rate.peak"] == "0.004"
  assert values["optimizer.learning_rate"].endswith(f":{name.strip('@()')}()")


def test_an_override_that_was_handed_on_is_no_lost_override():
  resolved = _resolve("optimizer.learning_rate.peak=1e-3", "optimizer=@sgdm")
  assert resolved.warnings == ()
  assert resolved.config.optimizer.learning_rate.peak == 1e-3
  (lost,) = _resolve("optimizer.b1=0.5", "optimizer=@sgdm").warnings
  assert "so --set=optimizer.b1=0.5 before it has no effect" in lost


def test_why_says_who_kept_a_value_and_who_had_set_it():
  lines = explain(_resolve("optimizer=@sgdm"), "optimizer.learning_rate.peak").lines()
  assert lines[0] == "optimizer.learning_rate.peak = 0.004"
  assert lines[1] == "  set by --set=optimizer=@sgdm, which kept it in optimizer"
  assert lines[2].startswith("  before: 0.004, gpt2.Nano (experiments/gpt2.py:")


def test_a_function_that_makes_a_schedule_is_not_the_schedule(capsys):
  assert (
    main(["runner", "show", "--exp=gpt2.Nano", "--set=optimizer.learning_rate=@constant"]) == 0
  )
  assert "optimizer.learning_rate = @runners.schedules:constant()" in capsys.readouterr().out


# Sweeps


def _plan(*sweeps, settings=()):
  return plan_sweep("gpt2.Nano", [Override("set", text) for text in settings], sweeps).points


RATES = "optimizer.learning_rate.peak=1e-3,3e-3"


@pytest.mark.parametrize(
  "sweeps", [("optimizer=@adamw,@sgdm", RATES), (RATES, "optimizer=@adamw,@sgdm")]
)
def test_optimizers_and_rates_are_swept_in_every_combination(sweeps):
  points = _plan(*sweeps)
  got = {
    (flatten(p.config)["optimizer"].rpartition(":")[2], p.config.optimizer.learning_rate.peak)
    for p in points
  }
  assert got == {(name, rate) for name in ("adamw()", "sgdm()") for rate in (1e-3, 3e-3)}
  assert len({point.name for point in points}) == 4
  assert [override.text.partition("=")[0] for override in points[0].overrides] == [
    "optimizer",
    "optimizer.learning_rate.peak",
  ]


def test_rates_are_swept_of_an_optimizer_that_was_set():
  points = _plan(RATES, settings=["optimizer=@sgdm"])
  assert [p.config.optimizer.learning_rate.peak for p in points] == [1e-3, 3e-3]


def test_three_axes_within_one_another_and_a_field_that_only_the_swept_have():
  points = _plan(
    "optimizer.momentum=0,0.5",
    "optimizer.learning_rate=@constant,@warmup_linear",
    "optimizer=@sgdm,@sgdm(nesterov=True)",
    "optimizer.learning_rate.peak=1,2",
  )
  assert len({point.name for point in points}) == 16


@pytest.mark.parametrize(
  "sweeps, said",
  [
    (
      ("optimizer=@sgdm,@sgdm(learning_rate=@constant(peak=3.0))", RATES),
      "3e-3 and set by --sweep=optimizer=@sgdm(learning_rate=@constant(peak=3.0)); drop one",
    ),
    (("optimizer=@sgdm,@adamw", "optimizer.momentum=0,0.5"), "adamw has no field 'momentum'"),
    ((RATES, "optimizer.learning_rate.peak=2"), "sweep the same field; drop one of them"),
  ],
)
def test_a_value_that_settles_what_is_swept_within_it_is_refused(sweeps, said):
  with pytest.raises(UserError) as error:
    _plan(*sweeps)
  assert said in str(error.value)
