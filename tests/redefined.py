"""Other defaults for a function or class, as another version of the code has them."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from runners.configs.fields import fields


@contextmanager
def redefined(target: Callable, **defaults: Any) -> Iterator[None]:
  """Within it `target` has these defaults; each is of a parameter that has one already."""
  function = target.__init__ if isinstance(target, type) else target
  before = function.__defaults__, function.__kwdefaults__
  named = {
    p.name: defaults.get(p.name, p.default)
    for p in inspect.signature(function).parameters.values()
    if p.default is not p.empty
  }
  assert defaults.keys() <= named.keys()
  by_keyword = before[1] or {}
  positional = tuple(value for name, value in named.items() if name not in by_keyword)
  function.__defaults__ = positional or None
  function.__kwdefaults__ = {name: named[name] for name in by_keyword} or None
  fields.cache_clear()
  try:
    yield
  finally:
    function.__defaults__, function.__kwdefaults__ = before
    fields.cache_clear()
