import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy

from fedjax_med.aggregators import mean
from fedjax_med.algorithms import fed_avg
from fedjax_med.client.local_training import LocalTrainer
from fedjax_med.core.client_map import ClientMap
from fedjax_med.core.process import Process
from fedjax_med.errors import UserError
from fedjax_med.experiment import config, resolve
from fedjax_med.experiment.config import Checkpoint, Experiment
from fedjax_med.run import checkpoint_store as checkpoint
from fedjax_med.run import provenance
from fedjax_med.run.checkpoint import Checkpoints


def experiment(**changes):
    values = config.to_dict(resolve.complete(Experiment()))
    return values | changes


VMAP = ClientMap(sequential=False)
TAG = provenance.identity(experiment(), "data", VMAP)


def state(number=0, scale=1.0):
    algorithm = fed_avg.build(LocalTrainer(toy.grad_fn(), optax.sgd(0.1)), optax.adam(0.1))
    data = toy.federation((3, 2))
    start = Process(algorithm, mean.build()).init(toy.params(), data)
    scaled = jax.tree.map(lambda leaf: leaf * scale, start.server.params)
    return start._replace(round=jnp.int32(number), server=start.server._replace(params=scaled))


def scores(value):
    return {"balanced_accuracy": value, "accuracy": 0.5, "clients": {"n": [3, 2]}}


def opened(folder, every=1, read_only=False, **options):
    return Checkpoints(folder, Checkpoint(every=every, **options), read_only=read_only)


@pytest.fixture
def five(tmp_path):
    """Five saved rounds, the second the best by validation; the last two and it are kept."""
    checkpoints = opened(tmp_path, keep_last=2, keep_best=1)
    for number, score in enumerate([0.1, 0.9, 0.3, 0.2, 0.4], 1):
        checkpoints.save(state(number, float(number)), TAG, scores(score))
    checkpoints.wait()
    checkpoints.close()
    return tmp_path


def restore(folder, order=None, tag=TAG, said=None):
    checkpoints = opened(folder)
    try:
        say = (said if said is not None else []).append
        wanted = checkpoints.latest_first if order is None else lambda: order
        return checkpoints.restore(state, tag, wanted, say)
    finally:
        checkpoints.close()


def test_restored_state_has_the_same_bits_and_types(five):
    restored = restore(five)
    toy.assert_same_bits(restored.state, state(5, 5.0))
    assert type(restored.state.server) is fed_avg.ServerState
    assert restored.identity == TAG
    assert restored.validation == scores(0.4)


def test_last_and_best_are_kept(five):
    checkpoints = opened(five)
    assert checkpoints.rounds() == [2, 4, 5]
    assert checkpoints.best_first() == [2, 5, 4]
    checkpoints.close()


def test_a_reopened_folder_knows_the_best_that_was_saved_before(five):
    for number, score in ((6, 0.5), (7, 0.2)):
        checkpoints = opened(five, keep_last=1, keep_best=1)
        checkpoints.save(state(number), TAG, scores(score))
        checkpoints.wait()
        assert checkpoints.rounds() == [2, number]
        assert checkpoints.best_first() == [2, number]
        checkpoints.close()


def test_what_was_not_scheduled_goes_when_there_is_another(tmp_path):
    checkpoints = opened(tmp_path, every=2, keep_last=2, keep_best=1)
    for number, score in ((2, 0.9), (4, 0.2), (5, 1.0), (6, 0.1), (7, 1.0)):
        checkpoints.save(state(number), TAG, scores(score))
    checkpoints.wait()
    assert checkpoints.rounds() == [2, 6, 7]
    assert checkpoints.best_first()[0] == 2
    assert checkpoints.best_first(last=7)[0] == 7  # of a run of seven rounds
    checkpoints.close()


def test_who_closes_the_folder_leaves_what_another_process_is_writing(tmp_path):
    """All processes of a run open it, and only the first one writes."""
    written = tmp_path / "checkpoints" / ".unfinished" / "4" / "state"
    written.mkdir(parents=True)
    opened(tmp_path).close()
    assert written.exists()


def test_what_a_killed_run_did_not_come_to_remove_goes_at_the_next_start(tmp_path, monkeypatch):
    checkpoints = opened(tmp_path, keep_last=1, keep_best=0)
    monkeypatch.setattr(Checkpoints, "_prune", lambda self: None)
    for number in (1, 2):
        checkpoints.save(state(number), TAG, scores(0.5))
    checkpoints.close()
    monkeypatch.undo()
    again = opened(tmp_path, keep_last=1, keep_best=0)
    assert again.rounds() == [1, 2]
    again.remove_after(2)
    assert again.rounds() == [2]
    again.close()


FAULTS = [
    MemoryError(),
    ImportError("no module"),
    OSError(5, "Input/output error"),
    OSError(24, "Too many open files"),
    ValueError("another structure"),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
def test_a_fault_that_is_no_damage_ends_the_run_and_removes_nothing(five, monkeypatch, fault):
    checkpoints, said = opened(five), []

    def fail(*_):
        raise fault

    monkeypatch.setattr(checkpoints._store, "read", fail)
    with pytest.raises((type(fault), UserError)) as raised:
        checkpoints.restore(state, TAG, checkpoints.latest_first, said.append)
    if isinstance(raised.value, UserError):
        assert "round 5" in str(raised.value)
        assert "Nothing was removed" in str(raised.value)
    assert not said
    assert checkpoints.rounds() == [2, 4, 5]
    checkpoints.close()


def test_damage_that_cannot_be_known_is_put_aside(five):
    for number in (4, 5):
        (five / "checkpoints" / str(number) / "checksums.json").unlink()  # of a version before
    largest(five / "checkpoints" / "5" / "state").write_bytes(b"")
    largest(five / "checkpoints" / "2" / "state").write_bytes(b"")
    checkpoints = opened(five)
    assert int(checkpoints.restore(state, TAG, checkpoints.latest_first).state.round) == 4
    checkpoints.remove_after(4)
    assert checkpoints.rounds() == [2, 4]
    assert [path.name for path in (five / "damaged-1").iterdir()] == ["5"]
    checkpoints.close()


def test_who_reads_while_a_run_removes_what_it_read_looks_again(five):
    writer, reader, said = opened(five, keep_last=1), opened(five, read_only=True), []
    orders = iter([[5], [6]])

    def order():
        wanted = next(orders)
        if wanted == [5]:
            writer.save(state(6, 6.0), TAG, scores(0.0))
            writer.wait()
        return wanted

    toy.assert_same_bits(reader.restore(state, TAG, order, said.append).state, state(6, 6.0))
    assert not said
    writer.close()
    reader.close()


def test_a_checkpoint_is_on_the_disk_before_it_has_its_name_and_before_another_goes(
    tmp_path, file_calls
):
    folder = tmp_path / "checkpoints"
    for number in (1, 2):
        checkpoints = opened(tmp_path, keep_last=1, keep_best=0)
        checkpoints.save(state(number), TAG, scores(0.5))
        checkpoints.close()
    named = [file_calls.index(("rename", str(folder / str(number)))) for number in (1, 2)]
    removed = file_calls.index(("rename", str(folder / ".unfinished" / "1")), named[0])
    there = {str(path.relative_to(folder / "2")) for path in (folder / "2").rglob("*")}
    synced = {
        str(Path(path).relative_to(folder / ".unfinished" / "2"))
        for call, path in file_calls[named[0] : named[1]]
        if call == "sync" and path.startswith(str(folder / ".unfinished" / "2"))
    }
    # What becomes checksums.json has a name of its own until it is on the disk.
    synced = {re.sub(r"^\.(.*)\.\d+\.\w{8}\.tmp$", r"\1", name) for name in synced}
    assert synced == there | {"."}
    assert named[1] < file_calls.index(("sync", str(folder)), named[1]) < removed
    assert checkpoints.rounds() == [2]


def test_records_are_saved_with_the_state(tmp_path):
    checkpoints, records = opened(tmp_path), [{"round": 1, "loss": 0.1, "epsilon": None}]
    checkpoints.save(state(1), TAG, scores(0.5), records)
    records.append({"round": 2})
    checkpoints.wait()
    assert checkpoints.restore(state, TAG, lambda: [1]).records == records[:1]
    file = tmp_path / "checkpoints" / "1" / "records" / "metadata"
    file.write_text(file.read_text().replace("0.1", "0.2"))
    said = []
    assert checkpoints.restore(state, TAG, lambda: [1], said.append) is None
    assert "differ from those that were saved" in said[0]
    checkpoints.close()


def test_a_changed_identity_is_noticed(five):
    file = five / "checkpoints" / "5" / "identity" / "metadata"
    file.write_text(file.read_text().replace("0.4", "0.95"))  # its score
    checkpoints = opened(five)
    assert checkpoints.best_first() == [5, 2, 4]  # as if unknown
    checkpoints.close()


def test_a_save_does_not_see_what_becomes_of_the_state_afterwards(tmp_path):
    """The loop donates its arrays to the next round while the save goes on."""
    checkpoints, given = opened(tmp_path), jax.tree.map(np.array, state(1, 3.0))
    checkpoints.save(given, TAG, {})
    for leaf in jax.tree.leaves(given.server.params):
        leaf[...] = 9.0
    checkpoints.wait()
    toy.assert_same_bits(checkpoints.restore(state, TAG, lambda: [1]).state, state(1, 3.0))
    checkpoints.close()


def test_without_validation_the_last_are_kept_and_the_latest_is_best(tmp_path):
    checkpoints = opened(tmp_path, keep_last=2)
    for number in range(1, 5):
        checkpoints.save(state(number), TAG, {})
    checkpoints.wait()
    assert checkpoints.rounds() == [3, 4]
    assert checkpoints.best_first() == [4, 3]
    checkpoints.close()


def test_empty_workdir_has_nothing_to_restore(tmp_path):
    assert restore(tmp_path) is None


def largest(folder):
    return max(
        (file for file in folder.rglob("*") if file.is_file()), key=lambda f: f.stat().st_size
    )


@pytest.mark.parametrize("damage", ["truncated", "zeroed", "removed", "no identity", "no metadata"])
def test_damaged_checkpoint_falls_back_to_the_one_before_and_says_so(five, damage):
    folder = five / "checkpoints" / "5"
    file = largest(folder / "state")
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    elif damage == "zeroed":
        file.write_bytes(bytes(file.stat().st_size))
    elif damage == "removed":
        file.unlink()
    elif damage == "no identity":
        largest(folder / "identity").write_text("{")
    else:
        for other in (folder / "state").glob("_*"):
            other.unlink()
    said = []
    restored = restore(five, said=said)
    toy.assert_same_bits(restored.state, state(4, 4.0))
    assert len(said) == 1
    assert "checkpoint of round 5 is damaged" in said[0]
    assert "\n" not in said[0]


def test_identity_of_the_last_checkpoint_is_of_the_last_that_can_be_read(five):
    largest(five / "checkpoints" / "5" / "identity").write_text("{")
    checkpoints = opened(five)
    assert checkpoints.last_identity() == checkpoints.read_identity(4)
    assert checkpoints.client_map() == "vmap"
    for number in (2, 4):
        largest(five / "checkpoints" / str(number) / "identity").write_text("{")
    assert (checkpoints.last_identity(), checkpoints.client_map()) == ({}, "")
    checkpoints.close()


def test_swapped_bytes_are_noticed(five):
    """Bits that read well but are not those that were saved."""
    checkpoints = opened(five)
    file = largest(five / "checkpoints" / "5" / "identity")
    saved = json.loads(file.read_text())
    saved["digest"] = "0" * 64
    file.write_text(json.dumps(saved))
    said = []
    assert int(checkpoints.restore(state, TAG, lambda: [5, 4], said.append).state.round) == 4
    assert "identity/metadata has other bytes" in said[0]
    (five / "checkpoints" / "5" / "checksums.json").unlink()  # older versions wrote none
    assert int(checkpoints.restore(state, TAG, lambda: [5, 4], said.append).state.round) == 4
    assert "differ from those that were saved" in said[1]
    checkpoints.close()


def test_no_byte_of_an_identity_can_change_unnoticed(five):
    checkpoints = opened(five)
    file = largest(five / "checkpoints" / "5" / "identity")
    whole, expected = file.read_bytes(), checkpoints.read_identity(5)
    places = [whole.index(b"checksum") + 3, *range(0, len(whole), max(1, len(whole) // 40))]
    for place in places:
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ValueError, match="identity/metadata has other bytes"):
            checkpoints.read_identity(5)
    file.write_bytes(whole)
    assert checkpoints.read_identity(5) == expected
    checkpoints.close()


@pytest.mark.parametrize("part", ["identity", "state"])
def test_a_damaged_best_checkpoint_is_not_passed_over_in_silence(five, part):
    largest(five / "checkpoints" / "2" / part).write_bytes(b"{")
    checkpoints, said = opened(five, read_only=True), []
    restored = checkpoints.restore(state, TAG, checkpoints.best_first, said.append)
    assert int(restored.state.round) == 5  # the next best
    assert len(said) == 1
    assert "checkpoint of round 2 is damaged" in said[0]
    checkpoints.close()


def test_every_checkpoint_damaged_restores_nothing(five):
    for number in (2, 4, 5):
        largest(five / "checkpoints" / str(number) / "state").write_bytes(b"")
    said = []
    assert restore(five, said=said) is None
    assert len(said) == 3


def test_another_experiment_is_refused_and_its_fields_are_named(five):
    other = experiment(seed=3, algorithm={"name": "scaffold", "options": {}})
    with pytest.raises(UserError) as caught:
        restore(five, tag=provenance.identity(other, "data", VMAP))
    message = str(caught.value)
    assert "seed: the checkpoint has 0, this run 3" in message
    assert "algorithm.name: the checkpoint has 'fed_avg', this run 'scaffold'" in message
    assert "image_size" not in message


def test_other_data_is_refused(five):
    with pytest.raises(UserError, match="images"):
        restore(five, tag=provenance.identity(experiment(), "other data", VMAP))


def test_what_does_not_touch_the_numbers_may_change(five):
    free = experiment(
        name="x", map_clients="vmap", checkpoint={"every": 1, "keep_last": 9, "keep_best": 0}
    )
    assert restore(five, tag=provenance.identity(free, "data", VMAP)) is not None


@pytest.mark.parametrize(("schedule", "refused"), [("constant", False), ("cosine", True)])
def test_rounds_may_change_unless_the_schedule_depends_on_them(tmp_path, schedule, refused):
    client = experiment()["client"] | {"schedule": schedule}
    old, new = (
        provenance.identity(experiment(client=client, rounds=rounds), "data", VMAP)
        for rounds in (20, 30)
    )
    checkpoints = opened(tmp_path)
    checkpoints.save(state(1), old, {})
    checkpoints.wait()
    if refused:
        with pytest.raises(UserError, match="rounds: the checkpoint has 20, this run 30"):
            checkpoints.restore(state, new, lambda: [1])
    else:
        assert checkpoints.restore(state, new, lambda: [1]) is not None
    checkpoints.close()


@pytest.mark.parametrize("key", ["the code", "map_clients", "platform", "devices", "jax"])
def test_what_the_last_bits_depend_on_is_told_when_it_changes(five, key):
    said = []
    assert restore(five, tag=TAG, said=said) is not None
    assert said == []
    computed = TAG["computed by"] | {key: "another"}
    assert restore(five, tag=TAG | {"computed by": computed}, said=said) is not None
    assert len(said) == 1
    assert f"{key} {TAG['computed by'][key]} -> another. The last bits may differ" in said[0]


@pytest.mark.parametrize("before", [True, False])
def test_a_setting_outside_of_the_experiment_is_told_when_it_comes_or_goes(tmp_path, before):
    changed = TAG | {"computed by": TAG["computed by"] | {"JAX_DEFAULT_MATMUL_PRECISION": "high"}}
    checkpoints = opened(tmp_path)
    checkpoints.save(state(1), changed if before else TAG, {})
    checkpoints.wait()
    said = []
    given = TAG if before else changed
    assert checkpoints.restore(state, given, checkpoints.latest_first, said.append) is not None
    checkpoints.close()
    turn = "high -> None" if before else "None -> high"
    assert f"JAX_DEFAULT_MATMUL_PRECISION {turn}. The last bits may differ" in said[0]


def test_a_run_of_64_bits_is_not_called_damaged(tmp_path):
    wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), state(1).server)
    checkpoints = opened(tmp_path)
    checkpoints.save(state(1)._replace(server=wide), TAG, {})
    checkpoints.wait()
    with pytest.raises(UserError, match=r"holds numbers of float64: .* with JAX_ENABLE_X64"):
        checkpoints.restore(state, TAG, checkpoints.latest_first)
    assert checkpoints.rounds() == [1]
    checkpoints.close()


def test_who_only_reads_is_not_told_of_last_bits(five):
    said = []
    reader = Checkpoints(five, Checkpoint(), read_only=True)
    moved = TAG | {"computed by": TAG["computed by"] | {"platform": "another"}}
    assert reader.restore(state, moved, lambda: [5], said.append) is not None
    reader.close()
    assert said == []


def test_long_lists_of_differences_are_cut(five):
    other = experiment(seed=3, rounds=7, num_clients=2, image_size=9, policy="keep")
    with pytest.raises(UserError, match=r"; and 2 more\): choose another --workdir"):
        restore(five, tag=provenance.identity(other, "data", VMAP))


def test_a_field_newer_than_the_checkpoint_had_its_default(tmp_path):
    values = experiment()
    old = {key: value for key, value in values.items() if key != "policy"}
    for given in (values, experiment(policy="keep")):
        tags = [provenance.identity(one, "data", VMAP) for one in (old, given)]
        expected = (
            [] if given is values else ["policy: the checkpoint has 'rarest', this run 'keep'"]
        )
        assert provenance.differences(*tags) == expected


def test_where_a_table_of_sites_lies_may_change():
    tags = []
    for path in ("/here/sites.csv", "/there/sites.csv"):
        partition = {"name": "by_column", "options": {"path": path}}
        tags.append(provenance.identity(experiment(partition=partition), "data", VMAP))
    assert not any("path" in line for line in provenance.differences(*tags))


def test_remove_after_makes_room_for_a_resumed_run(five):
    checkpoints = opened(five)
    checkpoints.remove_after(2)
    assert checkpoints.rounds() == [2]
    checkpoints.save(state(4, 7.0), TAG, scores(0.0))
    checkpoints.wait()
    toy.assert_same_bits(checkpoints.restore(state, TAG, lambda: [4]).state, state(4, 7.0))
    checkpoints.close()


def test_digest_depends_on_every_leaf_its_type_and_its_place():
    one = {"a": jnp.array([1.0, 2.0]), "b": jnp.array(3)}
    assert checkpoint.digest(one) == checkpoint.digest(jax.tree.map(jnp.array, one))
    others = [
        one | {"b": jnp.array(4)},
        one | {"b": jnp.array(3.0)},
        {"a": one["a"], "c": one["b"]},
        one | {"a": one["a"].reshape(2, 1)},
        one | {"a": -one["a"]},
    ]
    assert len({checkpoint.digest(tree) for tree in [one, *others]}) == 6
