"""Documents as seqio Tasks, and seqio Tasks as tokens to store (imports TensorFlow).

A Task made here has the preprocessors `tokenize` and `frame_documents`, and one feature,
`targets`: BOS, all ids of the document, EOS.
"""

import difflib
import functools
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from input_pipelines import gin_bindings
from input_pipelines.documents import DocumentSource
from input_pipelines.store_builder import Piece
from input_pipelines.tensorflow_import import import_seqio, import_tensorflow
from input_pipelines.tfds_folders import check_prepared
from input_pipelines.token_store import OPERATIVE_GIN
from input_pipelines.vocabularies import Vocabulary
from layers.errors import UserError

tf = import_tensorflow()
seqio = import_seqio()

TARGETS = "targets"
STARTS_DOCUMENT = "starts_document"
ENDS_DOCUMENT = "ends_document"


class SeqioDocumentSource(seqio.DataSource):
  """A DocumentSource as a seqio DataSource: {targets: text, starts_document, ends_document}."""

  def __init__(self, source: DocumentSource):
    self._documents = source
    self.error: UserError | None = None  # the error in reading, which tf.data would hide
    super().__init__(splits=source.splits, caching_permitted=True)

  @property
  def supports_arbitrary_sharding(self) -> bool:
    return False

  def list_shards(self, split: str) -> list[str]:
    return [f"{split}-{shard}" for shard in range(self._documents.num_shards(split))]

  def get_dataset(self, split="train", shuffle=True, seed=None, shard_info=None, **_):
    """Shards in order; `shuffle` shuffles shards, and the Task then shuffles its examples."""
    shards = tf.data.Dataset.range(self._documents.num_shards(split))
    if shard_info is not None:
      shards = shards.shard(shard_info.num_shards, shard_info.index)
    if shuffle:
      shards = shards.shuffle(self._documents.num_shards(split), seed)
    return shards.flat_map(functools.partial(self._read, split))

  @tf.autograph.experimental.do_not_convert  # plain Python, generator included
  def _read(self, split: str, shard):
    def texts(shard) -> Iterator[dict[str, Any]]:
      try:
        for text in self._documents.read(split, int(shard)):
          yield {
            TARGETS: text.text,
            STARTS_DOCUMENT: text.starts_document,
            ENDS_DOCUMENT: text.ends_document,
          }
      except UserError as error:
        self.error = error
        raise

    flag = tf.TensorSpec([], tf.bool)
    return tf.data.Dataset.from_generator(
      texts,
      args=(shard,),
      output_signature={
        TARGETS: tf.TensorSpec([], tf.string),
        STARTS_DOCUMENT: flag,
        ENDS_DOCUMENT: flag,
      },
    )


def frame_documents(dataset, vocabulary: Vocabulary):
  """Puts BOS before each document's first part and EOS after its last, if there are such ids.

  seqio's append_eos would put an EOS after every part.
  """
  bos = [] if vocabulary.bos_id is None else [vocabulary.bos_id]
  eos = [] if vocabulary.eos_id is None else [vocabulary.eos_id]

  def when(flag, ids):
    return tf.constant(ids, tf.int32)[: len(ids) * tf.cast(flag, tf.int32)]

  def frame(example: Mapping[str, Any]) -> dict[str, Any]:
    parts = (
      when(example[STARTS_DOCUMENT], bos),
      example[TARGETS],
      when(example[ENDS_DOCUMENT], eos),
    )
    return {**example, TARGETS: tf.concat(parts, axis=0)}

  return dataset.map(frame, num_parallel_calls=tf.data.AUTOTUNE)


def register_documents(name: str, source: DocumentSource, vocabulary: Vocabulary):
  """The seqio Task `name` over `source`, registered unless it already is."""
  if name in seqio.TaskRegistry.names():
    return seqio.TaskRegistry.get(name)

  def tokenize(dataset, output_features):
    one = functools.partial(
      seqio.preprocessors.tokenize_impl,
      output_features=output_features,
      copy_pretokenized=False,
    )
    # seqio's own map holds 256 elements at once: too much for parts of a megabyte.
    return dataset.map(one, num_parallel_calls=tf.data.AUTOTUNE)

  def frame(dataset):
    return frame_documents(dataset, vocabulary)

  feature = seqio.Feature(vocabulary.as_seqio(), add_eos=False, dtype=tf.int32)
  return seqio.TaskRegistry.add(
    name,
    source=SeqioDocumentSource(source),
    preprocessors=[tokenize, frame],
    output_features={TARGETS: feature},
    metric_fns=[],
  )


def find_task(name: str, module: str):
  """The Task `name`, which `module` should have registered, if its `targets` can be stored."""
  if name in seqio.MixtureRegistry.names():
    raise UserError(
      f"{name} is a seqio mixture; name one of the tasks in it, or "
      "several as the sources of @Mixture"
    )
  if name not in seqio.TaskRegistry.names():
    near = difflib.get_close_matches(name, seqio.TaskRegistry.names(), n=3)
    hint = f"; nearest: {', '.join(near)}" if near else ""
    raise UserError(f"the module {module} registers no seqio task {name!r}{hint}")
  task = seqio.TaskRegistry.get(name)
  feature = task.output_features.get(TARGETS)
  if feature is None or feature.rank != 1 or not feature.dtype.is_integer:
    raise UserError(
      f"the seqio task {name} has no feature 'targets' of token ids, one row a "
      f"document; it has {', '.join(task.output_features)}"
    )
  if others := sorted(set(task.output_features) - {TARGETS}):
    print(
      f"the seqio task {name}: only 'targets' is read, not {', '.join(others)}", file=sys.stderr
    )
  return task


class TokenisedTask:
  """The tokens of a Task's split, shard by shard in file order, untrimmed (Tokenised)."""

  def __init__(self, task, split: str, gin: Sequence[str] = ()):
    """`gin`: statements for the Task's preprocessors, see gin_bindings.py."""
    check_prepared(task, split)  # first: asking a data set for its splits loads it
    if split not in task.splits:
      raise UserError(
        f"the task {task.name} has no split {split!r}; it has "
        f"{', '.join(map(repr, task.splits))}"
      )
    self._task = task
    self._split = split
    self._gin = gin
    self.num_shards = max(1, len(task.source.list_shards(split)))
    self.notes: dict[str, str] = {}

  def pieces(self, shard: int, first: int) -> Iterator[Piece]:
    with gin_bindings.bound(self._gin):
      yield from self._pieces(shard, first)
      if self._gin:
        self.notes[OPERATIVE_GIN] = gin_bindings.operative()

  def _pieces(self, shard: int, first: int) -> Iterator[Piece]:
    dataset = self._task.get_dataset(
      sequence_length=None,
      split=self._split,
      shuffle=False,
      seed=0,
      num_epochs=1,
      shard_info=seqio.ShardInfo(shard, self.num_shards),
      trim_output_features=False,
      try_in_mem_cache=False,
    )
    options = tf.data.Options()
    options.deterministic = True  # in order, with any number of threads
    try:
      for example in dataset.skip(first).with_options(options).as_numpy_iterator():
        yield Piece(example[TARGETS], bool(example.get(STARTS_DOCUMENT, True)))
    except tf.errors.OpError as error:
      raise getattr(self._task.source, "error", None) or error from None
