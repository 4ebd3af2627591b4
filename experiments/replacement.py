"""What a part of a config hands on to the part that takes its place.

`--set=optimizer=@sgdm` names another rule of updating. How fast it learns, what is frozen and
what decays are matters of the run: they stay, unless the new part says otherwise.
"""

from typing import Any

import fiddle as fdl

from runners.configs.fields import fields, target_of

# Of an optimizer, and of a schedule.
HANDED_ON = ("learning_rate", "frozen", "decay_mask", "peak")


def hand_on(old: Any, new: Any) -> None:
  """Gives `new` what `old` states of HANDED_ON and `new` has a field for, left unset."""
  if not isinstance(old, fdl.Buildable) or not isinstance(new, fdl.Buildable):
    return
  for name in HANDED_ON:
    known = name in fields(target_of(new)) and name not in new.__arguments__
    if known and name in old.__arguments__:
      setattr(new, name, old.__arguments__[name])
