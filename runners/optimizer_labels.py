"""Several optimizers in one run, each for the parameters of one label.

    optimizer = {"generator": @adamw(...), "discriminator": @adamw(...)}

By default a label is a part of the parameter's name: `generator/layer_0/kernel` has the label
`generator`. For other names, `by_label` takes regular expressions for each label.

A parameter has the first label, in their order, that matches. Each optimizer clips, decays and
counts steps for its own parameters only.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import fiddle as fdl
import jax
import optax

from layers.errors import UserError
from layers.suggestions import did_you_mean, nearest
from runners.array_names import array_name, check_patterns

_PART = ("(^|/)", "(/|$)")  # around a label that has no patterns


def by_label(
  optimizers: Mapping[str, optax.GradientTransformation],
  patterns: Mapping[str, Sequence[str]] | None = None,
) -> optax.GradientTransformation:
  """Combines several optimizers into one transformation.

  Args:
    optimizers: label -> optimizer.
    patterns: label -> regular expressions, one of which must match a parameter's name. Without
      patterns, a label must be a part of the name between slashes.

  Raises:
    UserError: labels and patterns do not fit each other; or, when a state is made, a parameter
      has no label or a label has no parameter.
  """
  rules = _rules(optimizers, patterns or {})

  def labels(params: Any) -> Any:
    names: dict[str, str] = {}

    def of(path: Any, _: Any) -> str:
      name = array_name(path)
      names[name] = _label(name, rules)
      return names[name]

    tree = jax.tree_util.tree_map_with_path(of, params)
    for label in rules.keys() - set(names.values()) if names else ():  # none in optax's blank
      raise UserError(
        f"optimizer: no parameter has the label {label!r}, of the patterns "
        f"{[*map(_bare, rules[label])]}: "
        f"{did_you_mean(label, names, 3)}"
      )
    return tree

  return optax.partition({**optimizers}, labels)


def one_transformation(
  optimizer: optax.GradientTransformation | Mapping[str, optax.GradientTransformation],
) -> optax.GradientTransformation:
  """`Trainer.optimizer` as the step uses it."""
  return by_label(optimizer) if isinstance(optimizer, Mapping) else optimizer


def learning_rates(optimizer: Any) -> dict[str, Any]:
  """Name of the scalar -> rate or schedule, as `Trainer.optimizer` holds it in a config.

  `learning_rate`, or `learning_rate/<label>` for each of several; an optimizer without such an
  argument has none.
  """
  if isinstance(optimizer, fdl.Buildable) and fdl.get_callable(optimizer) is by_label:
    optimizer = optimizer.optimizers
  labelled = optimizer.items() if isinstance(optimizer, Mapping) else [("", optimizer)]
  rates = {label: getattr(one, "learning_rate", None) for label, one in labelled}
  return {
    f"learning_rate/{label}" if label else "learning_rate": rate
    for label, rate in rates.items()
    if rate is not None
  }


def _rules(
  optimizers: Mapping[str, Any], patterns: Mapping[str, Sequence[str]]
) -> dict[str, list[str]]:
  """Label -> its patterns, checked."""
  if not optimizers:
    raise UserError("optimizer: there is none; give at least one, {'all': @adamw(...)}")
  for label, given in patterns.items():
    if label not in optimizers:
      raise UserError(
        f"optimizer.patterns: {label!r} is no label: {did_you_mean(label, optimizers)}"
      )
    check_patterns(f"optimizer.patterns[{label!r}]", given)
  return {
    label: list(patterns.get(label, [re.escape(label).join(_PART)])) for label in optimizers
  }


def _label(name: str, rules: Mapping[str, Sequence[str]]) -> str:
  for label, patterns in rules.items():
    if any(re.search(pattern, name) for pattern in patterns):
      return label
  bare = {_bare(pattern): label for label, patterns in rules.items() for pattern in patterns}
  close = next(iter(nearest(name, bare, 1, likeness=0.0)), next(iter(bare), ""))
  raise UserError(
    f"optimizer: the parameter {name!r} has no label; the nearest pattern is {close!r} of "
    f"{bare.get(close)!r}; give it a label with @by_label(optimizers=..., patterns=...)"
  )


def _bare(pattern: str) -> str:
  """A pattern as a message shows it: the label itself for a label without patterns."""
  return pattern.removeprefix(_PART[0]).removesuffix(_PART[1])
