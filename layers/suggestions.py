"""Finds the nearest names to a misspelt one, for error messages."""

import difflib
from collections.abc import Iterable


def nearest(
  word: str, options: Iterable[str], count: int = 5, likeness: float = 0.6
) -> list[str]:
  """Up to `count` of `options`, most similar first; case is ignored, a shared part counts.

  `nearest("gpt2.nan", ["gpt2.Nano", "lwm.Nano"])` is `["gpt2.Nano", "lwm.Nano"]`.
  """
  lowered = {option.lower(): option for option in options}
  if word.lower() in lowered:
    return [lowered[word.lower()]]  # only the case was wrong
  close = difflib.get_close_matches(word.lower(), lowered, n=count, cutoff=likeness)
  if len(word) >= 3:
    close += [option for option in lowered if word.lower() in option and option not in close]
  return [lowered[option] for option in close[:count]]


def did_you_mean(word: str, options: Iterable[str], count: int = 5) -> str:
  """The end of an error message: the nearest options, or the first 12 if none is near."""
  options = list(dict.fromkeys(options))
  if close := nearest(word, options, count):
    return f"did you mean {' or '.join(close)}?"
  if not options:
    return "there are none"
  shown = ", ".join(options[:12])
  return f"there are {shown}{', ...' if len(options) > 12 else ''}"
