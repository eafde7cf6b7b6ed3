"""Cohorts read ahead from disk: the same bits as from memory, bounded, and closed in every case."""

import functools
import hashlib
import json
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
import toy

from fedjax_med.aggregators import mean
from fedjax_med.algorithms import fed_avg
from fedjax_med.cli import main as cli
from fedjax_med.client.local_training import LocalTrainer
from fedjax_med.cohorts import uniform
from fedjax_med.core import client_map
from fedjax_med.core.process import Process
from fedjax_med.core.round import RoundBatch, choose
from fedjax_med.core.types import Examples
from fedjax_med.data import client_data
from fedjax_med.data.dataset import Split
from fedjax_med.data.images.lazy import DiskImages
from fedjax_med.errors import UserError
from fedjax_med.execution import bucketing, sharding
from fedjax_med.execution.prefetch import RoundLoader
from fedjax_med.experiment import components
from fedjax_med.experiment.config import Checkpoint, Spec
from fedjax_med.run.checkpoint import Checkpoints

TINY = f"--config={tiny.__file__}"
SIZES = (5, 9, 2, 7, 30)


class Reader:
    """Records in memory that remember when they were read."""

    def __init__(self, image):
        self.image, self.read = image, []

    def __getitems__(self, positions):
        self.read += positions
        return [{"image": self.image[position]} for position in positions]


@pytest.fixture
def held():
    """Clients of unequal size, in memory and as if on disk."""
    count = sum(SIZES)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    split = Split(
        image=image,
        label=rng.integers(0, 3, count).astype(np.int32),
        name=np.array([f"a/{i:03}" for i in range(count)]),
        sha256=np.array([f"{i:064x}" for i in range(count)]),
        image_hash=np.zeros((count, 32), np.uint8),
        client=np.full(count, -1, np.int32),
    )
    # The records lie in another order than the split has them.
    order = rng.permutation(count)
    reader = Reader(image[np.argsort(order)])
    disk = DiskImages(reader, order, image.max(axis=(1, 2, 3)), (4, 4, 3), Path("somewhere"))
    parts = tuple(np.split(np.arange(count), np.cumsum(SIZES)[:-1]))
    return (
        client_data.ClientData(split, parts),
        client_data.ClientData(split._replace(image=disk), parts),
        reader,
    )


def two_neighbours(done, sizes):
    """Two neighbours, another pair each round."""
    return jnp.sort(jnp.array([done, done + 1]) % 5).astype(jnp.int32)


def turns(held, choose, rounds=4, start=1, strategy="sequential"):
    loader_map = client_map.CLIENT_MAPS[strategy]
    feed = RoundLoader(held, choose, loader_map, 4, rounds)
    try:
        return [feed.get(number) for number in range(start, rounds + 1)]
    finally:
        feed.close()


def assert_same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize("cohort", [None, two_neighbours], ids=["everyone", "sampled"])
@pytest.mark.parametrize("strategy", client_map.CLIENT_MAPS)
def test_disk_and_memory_give_the_same_turns_and_so_does_a_later_start(held, cohort, strategy):
    memory, disk, _ = held
    expected = turns(memory, cohort, strategy=strategy)
    assert_same(turns(disk, cohort, strategy=strategy), expected)
    assert_same(turns(disk, cohort, start=3, strategy=strategy), expected[2:])


@functools.cache
def a_federation():
    """Averaging of the toy model, trained on the images of `held`."""
    training = LocalTrainer(toy.grad_fn(), optax.sgd(0.1, momentum=0.9), 2, 4)
    return fed_avg.build(training, optax.sgd(1.0)), mean.build()


def train(held, choose, strategy, rounds=2, filled=None):
    """The state and the metrics after some rounds on what a feed gives; `filled` may change it."""
    process = Process(*a_federation())
    state = process.init(toy.params(), held.shapes())
    state = jax.device_put(state, sharding.of(client_map.CLIENT_MAPS[strategy], len(SIZES)).state)
    ids = jnp.arange(len(SIZES), dtype=jnp.int32)
    step = functools.partial(process.round, client_map=client_map.CLIENT_MAPS[strategy])
    run = jax.jit(step, compiler_options=toy.SAME_BITS)
    for turn in turns(held, choose, rounds, strategy=strategy):
        data = filled(turn.data) if filled else turn.data
        state, metrics = run(state, RoundBatch(data, turn.places, ids), jax.random.key(3))
    return jax.device_get((state, metrics))


def uniform_three(done, sizes):
    """Three of the clients, drawn uniformly."""
    return choose(uniform.build(len(SIZES), size=3), jax.random.key(3), done, sizes)


COHORTS = pytest.mark.parametrize("cohort", [None, uniform_three], ids=["everyone", "uniform"])


@COHORTS
@pytest.mark.parametrize("strategy", sorted(client_map.CLIENT_MAPS.keys() - {"vmap"}))
def test_turns_train_the_same_under_every_client_map(held, cohort, strategy):
    assert jax.device_count() == 4  # that divide neither five clients nor three
    expected = train(held[0], cohort, "vmap")
    toy.assert_close(train(held[0], cohort, strategy), expected)
    assert len(expected[1]["client"]) == (3 if cohort else 5)


@pytest.mark.parametrize("strategy", ["vmap", pytest.param("sharded_vmap", marks=pytest.mark.slow)])
def test_a_cohort_in_buckets_trains_as_one_after_the_other(held, strategy, monkeypatch):
    expected = train(held[0], uniform_three, "sequential")
    monkeypatch.setattr("fedjax_med.execution.prefetch.RoundLoader._devices", lambda feed: 1)
    monkeypatch.setattr("fedjax_med.execution.bucketing._SIDE_BY_SIDE", 1)
    given = turns(held[0], uniform_three, strategy=strategy)
    assert max(len(turn.places) for turn in given) == 3
    toy.assert_close(train(held[0], uniform_three, strategy), expected)


@COHORTS
@pytest.mark.parametrize("strategy", ["sharded_vmap", "sharded_sequential"])
def test_clients_that_fill_a_device_change_nothing(held, cohort, strategy):
    rows = []

    def noisy(data):
        """The turn's data with noise instead of zeros in the images of the fillers."""
        one = data if isinstance(data, Examples) else data[0]
        fills = ~one.mask.any(axis=1)
        rows.append(int(fills.sum()))
        noise = jnp.where(fills[:, None, None, None, None], jnp.uint8(201), one.image)
        changed = one._replace(image=jax.device_put(noise, one.image.sharding))
        return changed if isinstance(data, Examples) else (changed, *data[1:])

    expected = train(held[0], cohort, strategy)
    toy.assert_same_bits(train(held[0], cohort, strategy, filled=noisy), expected)
    assert min(rows) > 0


def batches(turn):
    """The buckets of a round; a single one as well."""
    return (turn.data,) if isinstance(turn.data, Examples) else turn.data


@COHORTS
@pytest.mark.parametrize("strategy", toy.CLIENT_MAPS)
def test_a_larger_capacity_is_used_and_changes_no_bit(held, cohort, strategy, monkeypatch):
    monkeypatch.setattr("fedjax_med.execution.prefetch.RoundLoader._devices", lambda feed: 1)
    monkeypatch.setattr("fedjax_med.execution.bucketing._SIDE_BY_SIDE", 1)
    plain, roomy = held[0], held[0]._replace(min_capacity=64)
    for before, after in zip(
        *(turns(one, cohort, strategy=strategy) for one in (plain, roomy)), strict=True
    ):
        assert_same(before.places, after.places)
        for one, other in zip(batches(before), batches(after), strict=True):
            # A bucket of clients with less than a batch keeps its shape.
            size = one.label.shape[1]
            assert other.label.shape[1] == (64 if size >= 4 else size)
            assert_same(jax.tree.map(lambda leaf, n=size: leaf[:, :n], other), one)
            assert not other.mask[:, size:].any()
    toy.assert_same_bits(train(roomy, cohort, strategy), train(plain, cohort, strategy))


@pytest.mark.parametrize("cohort", [None, two_neighbours], ids=["everyone", "sampled"])
@pytest.mark.parametrize("strategy", ["vmap", "sequential"])
def test_memory_is_measured_with_the_capacity_that_clients_get(held, cohort, strategy):
    roomy = held[0]._replace(min_capacity=64)
    feed = RoundLoader(roomy, cohort, client_map.CLIENT_MAPS[strategy], 4, 1)
    expected = feed.largest()
    given = feed.get(1)
    feed.close()
    assert jax.tree.map(jnp.shape, batches(given)) == jax.tree.map(
        lambda leaf: leaf.shape, batches(expected)
    )


@pytest.mark.parametrize("batch_size", [0, 31])
def test_clients_that_do_not_fill_a_batch_get_no_padding(held, batch_size):
    roomy = held[0]._replace(min_capacity=64)
    feed = RoundLoader(roomy, None, client_map.ClientMap(True), batch_size, 1)
    shape, given = feed.largest().data.label.shape, feed.get(1).data.label.shape
    feed.close()
    assert shape == given == (5, 30)


def test_a_turn_is_the_cohort_stacked(held):
    memory, disk, _ = held
    turn = turns(disk, two_neighbours)[1]
    assert turn.places[0].tolist() == [1, 2]
    assert_same(
        turn.data, client_data.stack(memory.split, memory.indices[1:3], turn.data.label.shape[1])
    )


def test_nothing_but_the_next_cohort_is_read_ahead(held):
    _, disk, reader = held
    feed = RoundLoader(disk, two_neighbours, client_map.ClientMap(True), 4, 4)
    feed.get(1)
    deadline = time.monotonic() + 20
    while len(reader.read) < 5 + 9 + 9 + 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert len(reader.read) == 5 + 9 + 9 + 2
    feed.close()


def test_the_same_cohort_is_read_once(held):
    _, disk, reader = held
    turns(disk, lambda done, sizes: jnp.array([0, 3], jnp.int32))
    assert len(reader.read) == 5 + 7


def test_what_fails_in_the_thread_is_told_in_the_round_and_the_thread_ends(held):
    _, disk, reader = held
    feed = RoundLoader(disk, two_neighbours, client_map.ClientMap(True), 4, 4)
    feed.get(1)
    feed.get(2)  # the third round's may be read already
    reader.image = reader.image[:0]
    with pytest.raises(UserError, match="somewhere could not be read"):
        [feed.get(number) for number in (3, 4)]
    feed.close()
    assert not [thread for thread in threading.enumerate() if "loader" in thread.name]


def test_too_little_memory_is_not_taken_for_a_damaged_file(held):
    _, disk, _ = held

    class Full:
        def __getitems__(self, positions):
            raise MemoryError

    disk.split.image._reader = Full()
    with pytest.raises(MemoryError):
        np.asarray(disk.split.image)


def test_cohorts_of_unequal_clients_have_few_shapes_and_keep_their_batches():
    rng = np.random.default_rng(0)
    for _ in range(200):
        largest, batch = int(rng.integers(1, 500)), int(rng.integers(0, 40))
        rooms = {
            needed: bucketing.capacity_on_grid(needed, largest, batch)
            for needed in range(1, largest)
        }
        assert len(set(rooms.values())) <= 4
        for needed, room in rooms.items():
            assert needed <= room <= largest
            assert min(batch or room, room) == min(batch or largest, largest)
    assert bucketing.capacity_on_grid(16, 17, 4) == 17  # sizes that differ by one have one shape
    assert [bucketing.capacity_on_grid(n, 80, 4) for n in (1, 10, 11, 20, 21, 41)] == [
        10,
        10,
        20,
        20,
        40,
        80,
    ]


def run(workdir, *arguments, cache=None):
    flags = [TINY, f"--workdir={workdir}", "--config.client.schedule=constant"]
    flags += [f"--cache_dir={cache}", "--config.client.epochs=1"]
    return cli.main(["train", *flags, *arguments])


def digest(workdir, number):
    checkpoints = Checkpoints(workdir, Checkpoint(), read_only=True)
    try:
        return checkpoints.read_identity(number)["digest"]
    finally:
        checkpoints.close()


def scores(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) | {"seconds": 0} for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("cohort", ["everyone", "weighted"])
def test_a_run_from_disk_has_the_bits_of_one_from_memory_and_goes_on_with_them(
    tmp_path, cohort, capsys
):
    options = [f"--config.cohort.name={cohort}", "--config.partition.name=quantity"]
    cache = tmp_path / "cache"
    for images in ("memory", "disk"):
        where = [f"--config.image_storage={images}", "--config.rounds=4"]
        assert run(tmp_path / images, *options, *where, cache=cache) == 0
    assert "Images stayed on disk; memory:" in capsys.readouterr().out
    assert digest(tmp_path / "memory", 4) == digest(tmp_path / "disk", 4)
    assert scores(tmp_path / "memory") == scores(tmp_path / "disk")
    for images, rounds in (("disk", 2), ("memory", 3), ("disk", 4)):
        where = [f"--config.image_storage={images}", f"--config.rounds={rounds}"]
        assert run(tmp_path / "turns", *options, *where, cache=cache) == 0
    assert digest(tmp_path / "turns", 4) == digest(tmp_path / "memory", 4)


def test_drawn_images_on_disk_are_those_in_memory(tmp_path, capsys):
    spec = Spec("lesions", {"train_size": 20, "test_size": 9})
    memory, first, again = (
        components.build("datasets", spec, "", str(tmp_path), 16, images)
        for images in ("memory", "disk", "disk")
    )
    assert capsys.readouterr().err.count("Drawing 29 images") == 1
    assert isinstance(memory.train.image, np.ndarray)
    for split in (memory.train, memory.test):
        pixels = [hashlib.sha256(image.tobytes()).hexdigest() for image in split.image]
        assert pixels == split.sha256.tolist()
    for disk in (first, again):
        assert isinstance(disk.train.image, DiskImages)
        for split in ("train", "test"):
            assert_same(tuple(getattr(disk, split)), tuple(getattr(memory, split)))


def test_images_are_on_disk_where_they_would_take_a_quarter_of_the_memory(tmp_path, monkeypatch):
    spec = Spec("lesions", {"train_size": 20, "test_size": 9})
    size = 29 * 3 * 16**2
    for memory, kept in ((4 * size, np.ndarray), (4 * size - 1, DiskImages)):
        monkeypatch.setattr(
            "fedjax_med.data.images.array_record.memory_bytes", lambda memory=memory: memory
        )
        dataset = components.build("datasets", spec, "", str(tmp_path), 16, "auto")
        assert isinstance(dataset.train.image, kept)
    with pytest.raises(UserError, match="Did you mean 'disk'"):
        components.build("datasets", spec, "", str(tmp_path), 16, "disc")


@pytest.mark.slow
def test_rounds_are_validated_as_often_as_asked_and_when_saved(tmp_path):
    often = ["--config.rounds=5", "--config.validate_every=3", "--config.checkpoint.every=2"]
    assert run(tmp_path / "run", *often, cache=tmp_path) == 0
    validated = [bool(one["validation"]) for one in scores(tmp_path / "run")]
    assert validated == [False, True, True, True, True]
