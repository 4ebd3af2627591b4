"""What says only where a run is computed is said in one place, and for fields that exist."""

from runners.configs.fields import fields
from runners.configs.placement import PLACEMENT_FIELDS, is_placement, trainer_field
from runners.trainer import Trainer


def test_each_is_a_field_of_the_trainer():
  assert set(PLACEMENT_FIELDS) <= fields(Trainer).keys()


def test_what_stands_below_one_is_meant_with_it_and_a_like_name_is_not():
  assert is_placement("mesh.fsdp") and is_placement("collective_budget[0].axis")
  assert not is_placement("model.mesh") and not is_placement("meshes")
  assert trainer_field("eval_data['a.b'].split") == "eval_data"
