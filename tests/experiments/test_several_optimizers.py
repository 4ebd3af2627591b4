"""Several optimizers by label are fields like all others: set, shown, stored and derived."""

import fiddle as fdl
import pytest

from experiments.override_arguments import Override
from experiments.resolution import resolve
from layers.errors import UserError
from runners.configs.files import from_json, to_json
from runners.configs.tree import flatten
from runners.derivation import derive_schedules
from runners.optimizer_labels import one_transformation
from runners.short_runs import note_short_run

SEVERAL = (
  "optimizer={'embedding': @adamw(learning_rate=@warmup_cosine(peak=1e-2)), "
  "'stack': @sgdm(learning_rate=@warmup_linear(peak=0.1, warmup=20))}"
)
PATTERNED = (
  "optimizer=@by_label(optimizers={'matrices': @lion(learning_rate=1e-4), "
  "'rest': @adamw(learning_rate=1e-3)}, patterns={'matrices': ['kernel$'], 'rest': ['.']})"
)


def _config(*settings):
  return resolve("gpt2.Nano", [Override("set", text) for text in settings]).config


def test_a_field_of_one_of_them_is_set_by_its_label():
  path = "optimizer['embedding'].learning_rate.peak"
  values = flatten(_config(SEVERAL, f"{path}=1e-3", "optimizer[stack].momentum=0.5"))
  assert values[path] == "0.001" and values["optimizer['stack'].momentum"] == "0.5"
  assert values["optimizer['stack']"] == "@runners.optimizers:sgdm()"


def test_one_of_them_is_replaced_and_keeps_its_rate():
  values = flatten(_config(SEVERAL, "optimizer['embedding']=@lion"))
  assert values["optimizer['embedding']"] == "@runners.optimizers:lion()"
  assert values["optimizer['embedding'].learning_rate.peak"] == "0.01"


def test_a_label_that_is_none_is_refused_with_those_there_are():
  with pytest.raises(UserError, match=r"did you mean optimizer\['stack'\]"):
    _config(SEVERAL, "optimizer['stak'].momentum=0.5")


@pytest.mark.parametrize("text", [SEVERAL, PATTERNED])
def test_they_come_back_from_config_json(text):
  config = _config(text)
  stored = from_json(to_json(config, "gpt2.Nano"), "config.json").config
  assert flatten(stored) == flatten(config)
  built = fdl.build(derive_schedules(stored, 50).optimizer)
  assert callable(one_transformation(built).update)


def test_the_schedule_of_each_has_the_length_of_the_run(notes):
  config = derive_schedules(_config(SEVERAL), 50)
  lengths = {label: x.learning_rate.num_steps for label, x in config.optimizer.items()}
  assert lengths == {"embedding": 50, "stack": 50}
  note_short_run(config, 10)
  assert [line.partition(":")[0] for line in notes] == ["optimizer['stack'].learning_rate"]


def test_a_number_out_of_range_is_refused_where_it_stands():
  with pytest.raises(UserError, match="weight_decay"):
    _config(SEVERAL, "optimizer['stack'].weight_decay=-1")
