"""Several corpora as one: the share of each, and the tokens read of each.

--set=train_data=@Mixture(sources={'web': @Jsonl(files='web/*.gz'), 'code': @PythonStdlib})
--set=train_data.rates={'web': 3, 'code': 1}
"""

import dataclasses
import hashlib
from collections.abc import Mapping

from input_pipelines.batches import Data
from input_pipelines.mixing import BLOCK, JoinedRows, MixedBatches, shares
from input_pipelines.text_data import OpenedRows, TextData, check_counts
from input_pipelines.vocabularies import Vocabulary
from layers.errors import UserError
from layers.ranges import PositiveFloat, PositiveInt


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mixture(Data):
  """Rows of several sources; data/<name>/tokens logs how many tokens of each were read.

  Evaluation ignores the rates and reads every source whole, one after another.

  Attributes:
    sources: name -> text, all with one vocabulary. Evaluation data without sources take the
      training data's.
    rates: name -> number of its rows in proportion to the others, exact to 1 in 10,000. A
      source that ends begins its next epoch. None: all sources form one corpus, of which each
      row comes once in an epoch.
    split: split of every source; None: each source's own.
    num_batches: number of batches that evaluation reads; None: all.
  """

  sources: Mapping[str, TextData] | None = None
  rates: Mapping[str, PositiveFloat] | None = None
  split: str | None = None
  num_batches: PositiveInt | None = None

  def vocabulary(self) -> Vocabulary:
    self._check()
    (first, vocabulary), *others = (
      (name, data.vocabulary()) for name, data in self._sources().items()
    )
    for name, other in others:
      if other.fingerprint() != vocabulary.fingerprint():
        raise UserError(
          f"the sources {first!r} and {name!r} have different vocabularies; give them the "
          "same tokenizer"
        )
    return vocabulary

  def document_start(self) -> int | None:
    """The start id of the sources, if all have the same; else None."""
    starts = {data.document_start() for data in self._sources().values()}
    return starts.pop() if len(starts) == 1 else None

  def open(
    self,
    *,
    sequence_length: int,
    batch_size: int,
    cache_dir: str,
    seed: int | None,
    num_epochs: int | None = None,
    shard_index: int = 0,
    num_shards: int = 1,
  ) -> MixedBatches:
    self.vocabulary()
    check_counts(num_epochs, self.num_batches, seed)
    parts = None if seed is None else self._shares()
    if parts is not None and num_epochs is not None:
      raise UserError(
        "a mixture with rates has no epochs, as its sources end at different times; set "
        "num_steps, or leave out the rates to read every row once an epoch"
      )
    opened = {
      name: data.open_rows(sequence_length, cache_dir, is_training=seed is not None)
      for name, data in self._sources().items()
    }
    return MixedBatches(
      JoinedRows([source.rows for source in opened.values()]),
      sources=list(opened),
      shares=None if parts is None else list(parts.values()),
      batch_size=batch_size,
      seed=seed,
      num_epochs=num_epochs,
      num_batches=self.num_batches,
      shard_index=shard_index,
      num_shards=num_shards,
      content=_content(opened),
      description=_description(opened, parts),
      notes={f".sources['{name}']": source.notes for name, source in opened.items()},
      repair=lambda: JoinedRows([source.repair() for source in opened.values()]),
    )

  def _sources(self) -> dict[str, TextData]:
    """The sources sorted by name, so that the order in which they are given has no effect."""
    given = self.sources or {}
    split = {} if self.split is None else {"split": self.split}
    return {name: dataclasses.replace(data, **split) for name, data in sorted(given.items())}

  def _shares(self) -> dict[str, int] | None:
    """Name -> rows of the source in a block of 10,000; None without rates."""
    if self.rates is None:
      return None
    rates = {name: self.rates[name] for name in sorted(self.rates)}
    return dict(zip(rates, shares(rates), strict=True))

  def _check(self) -> None:
    if not self.sources:
      raise UserError("a mixture needs sources; give sources={'NAME': @Jsonl(files='...')}")
    for name, data in self.sources.items():
      if not isinstance(data, TextData):
        raise UserError(
          f"the source {name!r} is {type(data).__name__}, which cannot be mixed; text can"
        )
      if data.num_batches is not None:
        raise UserError(
          f"num_batches={data.num_batches} of the source {name!r} has no effect in a mixture; "
          "set that of the mixture"
        )
    if len({data.equal_documents for data in self.sources.values()}) > 1:
      raise UserError(
        "equal_documents is set for some sources and not for others: a document of one would "
        "weigh as much as a token of another; set it for all, or for none"
      )
    if self.rates is not None:
      if self.rates.keys() != self.sources.keys():
        raise UserError(
          f"rates are for {', '.join(self.rates)} and sources are {', '.join(self.sources)}; "
          "give each source a rate, or none"
        )
      self._shares()


def _description(
  opened: Mapping[str, OpenedRows], parts: Mapping[str, int] | None
) -> dict[str, str]:
  """Name -> text about the source. `parts`: name -> rows in a block, or None without rates."""
  described = {}
  for name, source in opened.items():
    facts = source.description
    share = "" if parts is None else f"{parts[name] / BLOCK:.2%} of the rows, "
    described[name] = f"{share}{facts['tokens']} tokens, {facts['store']}"
  return described


def _content(opened: Mapping[str, OpenedRows]) -> str:
  """The name of the content of all sources, `<address>:<checksum>`: see same_content."""
  addresses, checksums = (
    hashlib.sha256("".join(parts).encode()).hexdigest()[:16]
    for parts in zip(*(source.content.split(":") for source in opened.values()), strict=True)
  )
  return f"{addresses}:{checksums}"
