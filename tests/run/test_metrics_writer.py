import json
import struct

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from fedjax_med.core.algorithm import FederatedState
from fedjax_med.core.communication import Traffic
from fedjax_med.errors import UserError
from fedjax_med.run import metrics_file, metrics_writer
from fedjax_med.run.metrics_writer import MetricsWriter

CLIENTS = {
    "client": np.array([0, 1, 2]),
    "loss": np.array([6.0, 2.0, 0.0]),
    "correct": np.array([1.0, 2.0, 0.0]),
    "count": np.array([4.0, 4.0, 0.0]),
    "steps": np.array([1.0, 1.0, 0.0]),
    "finite": np.array([True, True, True]),
}
STATE = FederatedState(jnp.int32(1), {"w": jnp.ones(2)}, (), {"steps": jnp.int32(3)})
SCORES = {"loss": 0.5, "accuracy": 0.75, "balanced_accuracy": 0.6, "clients": {"n": [1]}}


def record(number, validation=SCORES, seconds=2.0):
    return metrics_writer.record(number, CLIENTS, validation, seconds)


def test_train_loss_is_the_mean_over_all_examples():
    one = record(1)
    assert one["train_loss"] == 1.0
    assert one["clients"]["train_loss"] == [1.5, 0.5, 0.0]
    assert one["clients"]["train_accuracy"] == [0.25, 0.5, 0.0]


def events(folder):
    """The scalars in the TensorBoard files of `folder`: tag -> [(step, value)]."""
    scalars = {}
    for file in sorted(folder.glob("events.out.tfevents.*")):
        data, position = file.read_bytes(), 0
        while position < len(data):
            (length,) = struct.unpack_from("<Q", data, position)
            event = event_pb2.Event.FromString(data[position + 12 : position + 12 + length])
            for value in event.summary.value:
                scalars.setdefault(value.tag, []).append((event.step, value.simple_value))
            position += 12 + length + 4
    return scalars


def test_each_round_is_one_line_of_json_and_one_step_in_tensorboard(tmp_path, capsys):
    run = MetricsWriter(tmp_path, 0, 3)
    for number in (1, 2, 3):
        run.add(record(number))
    run.close()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [record(number) for number in (1, 2, 3)]
    scalars = events(tmp_path / "tensorboard")
    assert scalars["train/loss"] == [(1, 1.0), (2, 1.0), (3, 1.0)]
    assert scalars["validation/accuracy"] == [(1, 0.75), (2, 0.75), (3, 0.75)]
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "round 1/3  loss 1.000  val loss 0.500  acc 0.750  balanced 0.600  2.0 s"
    assert out[1].endswith("2.0 s  left 0:02")


def test_time_left_does_not_count_the_round_that_compiles(tmp_path, capsys):
    run = MetricsWriter(tmp_path, 0, 12)
    for number, seconds in ((1, 100.0), (2, 10.0), (3, 20.0)):
        run.add(record(number, {}, seconds))
    run.close()
    assert capsys.readouterr().out.splitlines()[-1].endswith("left 2:15")  # 9 rounds of 15 s


def test_resumed_run_cuts_later_rounds_and_a_broken_last_line(tmp_path):
    run = MetricsWriter(tmp_path, 0, 5)
    for number in (1, 2, 3):
        run.add(record(number))
    run.close()
    with (tmp_path / "metrics.jsonl").open("a") as stream:
        stream.write('{"round": 4, "train_l')
    again = MetricsWriter(tmp_path, 2, 5)
    assert [one["round"] for one in again.records] == [1, 2]
    again.add(record(3, seconds=7.0))
    again.close()
    assert [one["round"] for one in metrics_file.read_records(tmp_path / "metrics.jsonl", 9)] == [
        1,
        2,
        3,
    ]


def test_resumed_run_goes_on_without_its_earlier_lines(tmp_path, capsys):
    (tmp_path / "metrics.jsonl").write_text("[3]\n")
    run = MetricsWriter(tmp_path, 2, 5)
    run.add(record(3, {}, 40.0))  # compiles
    run.add(record(4, {}, 4.0))
    run.close()
    lacks, first, second = capsys.readouterr().out.splitlines()
    assert "lacks rounds 1, 2" in lacks
    assert first.endswith("40.0 s")
    assert second.endswith("4.0 s  left 0:04")


def test_first_client_that_is_not_finite_is_named():
    metrics_writer.check_finite(CLIENTS, STATE, 1, 0)
    for name, value in (("finite", False), ("loss", np.nan)):
        broken = {key: field.copy() for key, field in CLIENTS.items()}
        broken[name][1:] = value
        with pytest.raises(UserError, match=r"round 7: client 1 .* round 5 is intact"):
            metrics_writer.check_finite(broken, STATE, 7, 5)


@pytest.mark.parametrize("part", ["server", "clients", "aggregator"])
def test_state_that_is_not_finite_is_named(part):
    broken = STATE._replace(**{part: {"a": jnp.ones(3), "b": jnp.array([1.0, jnp.inf])}})
    with pytest.raises(UserError, match=rf"round 7: the update of the {part}'s state gave NaN"):
        metrics_writer.check_finite(CLIENTS, broken, 7, 5)


def test_folder_that_cannot_be_written_is_told_in_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"could not write .*metrics.jsonl"):
        MetricsWriter(tmp_path / "file", 0, 1)


def test_tensorboard_drops_what_a_resumed_run_does_again(tmp_path):
    for start, numbers in ((0, (1, 2, 3)), (1, (2, 3))):
        run = MetricsWriter(tmp_path, start, 3)
        for number in numbers:
            run.add(record(number))
        run.close()
    starts = []
    for file in sorted((tmp_path / "tensorboard").iterdir()):
        data, position = file.read_bytes(), 0
        while position < len(data):
            (length,) = struct.unpack("<Q", data[position : position + 8])
            event = event_pb2.Event.FromString(data[position + 12 : position + 12 + length])
            if event.session_log.status == event_pb2.SessionLog.START:
                starts.append(event.step)
            position += 12 + length + 4
    assert max(starts) == 2  # the first round that is done again


def test_bytes_are_those_of_the_clients_that_took_part(tmp_path, capsys):
    metrics = CLIENTS | {
        "weight": np.array([4.0, 0.0, 0.0]),  # the second came too late, the third did not come
        "counted": np.array([True, False, False]),
        "present": np.array([True, True, False]),
    }
    one = metrics_writer.record(1, metrics, {}, 1.0, Traffic(up=100, down=3000, plain_up=400))
    assert (one["bytes_up"], one["bytes_down"]) == (200, 6000)
    assert one["clients"]["counted"] == [True, False, False]
    run = MetricsWriter(tmp_path, 0, 1)
    run.add(one)
    run.close()
    assert "up 200 B  without 2 of 3" in capsys.readouterr().out


def test_bytes_are_not_told_where_nothing_crosses_a_network():
    assert "bytes_up" not in record(1)


@pytest.mark.parametrize(
    ("size", "words"),
    [(7, "7 B"), (999, "999 B"), (1000, "1 kB"), (1_234_567, "1.23 MB"), (4e9, "4 GB")],
)
def test_sizes_have_three_digits_and_a_unit(size, words):
    assert metrics_writer.size_in_words(size) == words
