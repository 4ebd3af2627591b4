"""Fields that a part of a config hands on to the part that replaces it.

`--set=optimizer=@sgdm` chooses another update rule. The learning rate and the choice of frozen
and decayed parameters belong to the run: they stay, unless the new part sets them.
"""

from typing import Any

import fiddle as fdl

from runners.configs.fields import fields, target_of

# Fields of an optimizer; `peak` of a schedule.
HANDED_ON = ("learning_rate", "frozen", "decay_mask", "peak")


def hand_on(old: Any, new: Any) -> None:
  """Copies fields in HANDED_ON from `old` to `new`, if `old` sets them and `new` does not."""
  if not isinstance(old, fdl.Buildable) or not isinstance(new, fdl.Buildable):
    return
  for name in HANDED_ON:
    known = name in fields(target_of(new)) and name not in new.__arguments__
    if known and name in old.__arguments__:
      setattr(new, name, old.__arguments__[name])
