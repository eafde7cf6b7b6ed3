"""What holds for every file of every shelf. A file without a row here fails: add its row."""

import ast
import dataclasses
import functools
import re
import tokenize
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import shipped
import toy
from PIL import Image

from fedjax_med.aggregators import mean
from fedjax_med.client.local_training import LocalTrainer
from fedjax_med.client.optimizers import sgd_step_weight
from fedjax_med.core import aggregation, client_map, faults
from fedjax_med.core.algorithm import ClientOutput, FederatedAlgorithm
from fedjax_med.core.process import Process
from fedjax_med.data.dataset import Dataset, Split
from fedjax_med.experiment import components
from fedjax_med.experiment.config import Experiment, Spec
from fedjax_med.experiment.config_file import read
from fedjax_med.privacy import dp_mean

PACKAGE = Path(__file__).parent.parent / "fedjax_med"
KEY = jax.random.key(11)

# shelf -> file -> the options under which its contract is tested
ROWS = {
    "algorithms": {
        "fed_avg": {},
        "fed_dyn": {"alpha": 0.1},
        "fed_nova": {},
        "fed_prox": {"mu": 0.1},
        "scaffold": {},
        "apfl": {"adapt": 0.01},
        "ditto": {},
        "fed_bn": {"local": ("b",)},
        "fed_per": {"local": ("b",)},
        "fed_rep": {"local": ("b",), "head_epochs": 2},
        "cfl": {"clusters": 2, "mean_norm": 9.0, "max_norm": 0.01},
        "ifca": {"spread": 0.5},
        "moon": {},
    },
    "attacks": {
        "backdoor": {"clients": (1,), "target": 2},
        "gaussian_noise": {"clients": (1,)},
        "inner_product": {"clients": (1,)},
        "label_flip": {"clients": (1,)},
        "scaled_update": {"clients": (1,)},
        "sign_flip": {"clients": (1,)},
    },
    "cohorts": {
        "everyone": {},
        "fixed": {"clients": (3, 1)},
        "uniform": {"size": 3},
        "weighted": {"size": 3},
    },
    "datasets": {
        "image_folder": {},
        "isic9": {},
        "lesions": {"train_size": 45, "test_size": 18},
        "table": {},
    },
    "models": {
        "cnn": {"widths": (4, 8), "groups": 2},
        "efficientnet_lite0": {},
        "frozen_layers": {"backbones": "efficientnet_lite0", "hidden": 4, "dropout": 0.1},
        "linear": {},
    },
    "partitions": {
        "by_column": {},
        "dirichlet": {},
        "equal": {},
        "labels_per_client": {"k": 2},
        "quantity": {},
    },
    "aggregators": {
        "agnostic": {},
        "bulyan": {"hostile": 0},
        "geometric_median": {},
        "krum": {},
        "mean": {},
        "median": {},
        "norm_bounded_mean": {},
        "q_fair": {"q": 0.0},  # with more, equal messages are shortened
        "trimmed_mean": {},
    },
    "transforms": {
        "adaptive_clip": {"norm": 0.5},
        "clip": {"norm": 0.5},
        "low_precision": {},
        "quantize": {"bits": 4, "rotate": True},
        "random_k": {"share": 0.3},
        "top_k": {"share": 0.3},
    },
}
# What comes from a paper names it.
CITING = ("algorithms", "attacks", "models", "aggregators", "transforms")


# Lines of code: one file that holds three ideas, and a network of sixteen blocks.
LONGEST = {"cfl": 110, "efficientnet_lite0": 170}
NO_CODE = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)


def code_lines(file):
    """How many lines have code, docstrings and comments aside."""
    said = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node
        ):
            said |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    with file.open("rb") as stream:
        tokens = [token for token in tokenize.tokenize(stream.readline) if token.string]
    spans = [(token.start[0], token.end[0]) for token in tokens if token.type not in NO_CODE]
    return len({line for first, last in spans[1:] for line in range(first, last + 1)} - said)


def rows(shelf):
    slow = {"efficientnet_lite0": pytest.mark.slow}  # compiles longest
    return [
        pytest.param(Spec(name, options), id=name, marks=slow.get(name, ()))
        for name, options in ROWS[shelf].items()
    ]


def aggregators():
    """All of the shelf, and the private mean, which the unit of privacy chooses."""
    found = {
        name: components.build("aggregators", Spec(name, of))
        for name, of in ROWS["aggregators"].items()
    }
    # With noise nothing is equal, and nobody is not zero: tests/privacy/test_dp_mean.py.
    found["dp_mean"] = dp_mean.build(clip_norm=1e3, noise_multiplier=0.0)
    return [pytest.param(aggregator, id=name) for name, aggregator in found.items()]


@pytest.mark.parametrize("shelf", ROWS)
def test_every_file_has_a_row_and_every_row_a_file(shelf):
    files, known = set(components.names(shelf)), set(ROWS[shelf])
    missing = ", ".join(f'"{name}": {{}}' for name in sorted(files - known))
    assert not missing, f"add {missing} to ROWS[{shelf!r}] in {Path(__file__).name}"
    assert known - files == set(), f"these rows of {shelf} have no file"


@pytest.mark.parametrize("shelf", ["algorithms", "attacks", "aggregators", "transforms"])
def test_every_file_is_used_by_a_config(shelf):
    used = set()
    for path in shipped.EXPERIMENTS:
        experiment = read(path)
        one_or_more = getattr(
            experiment, {"algorithms": "algorithm", "aggregators": "aggregator"}.get(shelf, shelf)
        )
        used |= {
            spec.name for spec in (one_or_more if isinstance(one_or_more, list) else [one_or_more])
        }
    assert set(ROWS[shelf]) <= used


def test_every_config_says_what_it_gives():
    for file in shipped.FILES:
        said = re.search(r"Expect:\s+(.*?)\nChange:", file.read_text(), re.DOTALL)
        assert said, file.name
        assert re.search(r"\d\.\d\d", said.group(1)), f"{file.name} has no measured result"
    for path, variant in shipped.VARIANTS.items():
        assert 0 < variant.balanced_accuracy < 1, f"{path} has no measured result"
        private = read(path).privacy.unit != "none"
        assert ("epsilon" in variant.expected) == private, f"{path} has no measured epsilon"


def test_every_shelf_is_walked():
    fields = dataclasses.fields(Experiment)
    shelves = {field.metadata["shelf"] for field in fields if "shelf" in field.metadata}
    assert shelves - {"optax"} == set(ROWS)


@pytest.mark.parametrize(("shelf", "name"), [(s, n) for s in ROWS for n in ROWS[s]])
def test_file_is_short_and_documented(shelf, name):
    file = Path(components.module(shelf, name).__file__)
    tree = ast.parse(file.read_text())
    document = ast.get_docstring(tree)
    assert document
    if shelf in CITING:
        everything = file.read_text()
        assert re.search(r"(19|20)\d\d", everything), f"{file.name} names no paper"
        assert code_lines(file) <= LONGEST.get(name, 75), f"{file.name} wants a room of its own"
    build = next(node for node in tree.body if getattr(node, "name", "") == "build")
    assert ast.get_docstring(build)
    for default in build.args.kw_defaults:
        assert default is not None, "an option without default cannot be overridden by name"
        assert getattr(default, "value", 0) is not None, "None has no type to parse"


# --- algorithms -------------------------------------------------------------------------------


def algorithm_of(spec):
    training = LocalTrainer(
        toy.grad_fn(), optax.sgd(0.1), 1, 4, features=toy.features(), step_weight=sgd_step_weight()
    )
    algorithm = components.build("algorithms", spec, training, optax.sgd(1.0))
    assert isinstance(algorithm, FederatedAlgorithm)
    return algorithm


def three_rounds(algorithm, data, map_clients=toy.MAP_CLIENTS):
    process = Process(algorithm, mean.build())
    state = process.init(toy.params(), data)
    before = jax.tree.structure(state), jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state)
    for _ in range(3):
        state, metrics = process.round(state, data, KEY, client_map=map_clients)
    after = jax.tree.structure(state), jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state)
    assert before == after, "a round changed the structure, a shape or a type of the state"
    return state, metrics


@pytest.mark.parametrize("spec", rows("algorithms"))
def test_algorithm_learns_and_gives_the_same_under_every_map(spec):
    algorithm, data = algorithm_of(spec), toy.federation((12, 8, 10))
    state, metrics = three_rounds(algorithm, data)
    other, _ = three_rounds(algorithm, data, client_map.sequential)
    toy.assert_close(state, other, rtol=1e-4)
    assert not np.array_equal(state.server.params["w"], toy.params()["w"])
    assert metrics["weight"].tolist() == [12, 8, 10]
    assert {"loss", "correct", "count", "steps", "finite"} <= set(metrics)


@pytest.mark.parametrize("spec", rows("algorithms"))
def test_algorithm_ignores_padding_and_clients_without_examples(spec):
    algorithm, data = algorithm_of(spec), toy.federation((12, 0, 10))
    state, metrics = three_rounds(algorithm, toy.pad(data, 5))
    toy.assert_close(state, three_rounds(algorithm, data)[0])
    assert metrics["weight"].tolist() == [12, 0, 10]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


@pytest.mark.parametrize("spec", rows("algorithms"))
def test_algorithm_client_update_is_a_pure_function(spec):
    algorithm, data = algorithm_of(spec), toy.federation((6,))
    server, client = algorithm.init(toy.params())
    one = jax.tree.map(lambda leaf: leaf[0], data)
    results = [algorithm.client_update(server, client, one, jnp.int32(0), KEY) for _ in range(2)]
    assert all(isinstance(result, ClientOutput) for result in results)
    toy.assert_same_bits(*results)


# --- cohorts ----------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", rows("cohorts"))
def test_cohort_is_different_clients_in_order_and_follows_the_key_alone(spec):
    cohort = jax.jit(components.build("cohorts", spec, 6))
    sizes = jnp.array([5, 1, 9, 3, 2, 4])
    for seed in range(5):
        chosen = cohort(jax.random.key(seed), sizes)
        assert chosen.dtype == jnp.int32
        assert chosen.tolist() == sorted(set(chosen.tolist()))
        assert set(chosen.tolist()) <= set(range(6))
        np.testing.assert_array_equal(chosen, cohort(jax.random.key(seed), sizes))


# --- models -----------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", rows("models"))
def test_model_gives_finite_logits_and_gradients_and_is_still_without_key(spec):
    model = components.build("models", spec, 5)
    params = model.init(KEY, (32, 32, 3))
    images = jax.random.normal(KEY, (3, 32, 32, 3))
    if model.frozen is not None:  # the trained part takes what the frozen part makes of images
        below = functools.partial(model.frozen.init, KEY, (32, 32, 3))
        made = jax.eval_shape(lambda: model.frozen.apply(below(), images, None))
        images = jax.random.normal(KEY, made.shape)
    still = jax.jit(lambda p, x: model.apply(p, x, None))
    logits = still(params, images)
    assert logits.shape == (3, 5)
    np.testing.assert_array_equal(logits, still(params, images))
    alone = images.at[::2].set(0.0)
    np.testing.assert_allclose(logits[1], still(params, alone)[1], rtol=1e-5, atol=1e-5)
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(model.apply(p, images, KEY) ** 2)))(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((logits, gradient)))


# --- aggregators and transforms -------------------------------------------------------------------


def messages(clients=5):
    rng = np.random.default_rng(3)
    return {
        "a": jnp.asarray(rng.normal(size=(clients, 2, 3)), jnp.float32),
        "b": {"c": jnp.asarray(rng.normal(size=(clients,)), jnp.float32)},
    }


def one_of(stacked, client=0):
    return jax.tree.map(lambda leaf: leaf[client], stacked)


@pytest.mark.parametrize("aggregator", aggregators())
def test_aggregator_gives_one_message_and_does_not_mind_the_order(aggregator):
    stacked, weights = messages(), jnp.array([3.0, 1.0, 4.0, 1.0, 5.0])
    state = aggregator.init(one_of(stacked), 5, 5)
    client_info = aggregation.all_clients(weights)
    message, new = aggregator.update(stacked, client_info, state, KEY)
    shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), (message, new))
    assert shapes == jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), (one_of(stacked), state))
    order = jnp.array([4, 2, 0, 1, 3])
    shuffled = jax.tree.map(lambda leaf: leaf[order], stacked)
    moved = client_info._replace(num_examples=weights[order], client=client_info.client[order])
    toy.assert_close(aggregator.update(shuffled, moved, state, KEY)[0], message)


@pytest.mark.parametrize("aggregator", aggregators())
def test_aggregator_of_equal_messages_is_that_message(aggregator):
    one = one_of(messages())
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf] * 5), one)
    client_info = aggregation.all_clients(jnp.ones(5))
    toy.assert_close(
        aggregator.update(stacked, client_info, aggregator.init(one, 5, 5), KEY)[0], one
    )


@pytest.mark.parametrize("aggregator", aggregators())
def test_aggregator_without_a_client_that_counts_gives_zero(aggregator):
    one, stacked = one_of(messages()), jax.tree.map(lambda leaf: leaf * jnp.nan, messages())
    client_info = aggregation.all_clients(jnp.zeros(5))
    message, _ = aggregator.update(stacked, client_info, aggregator.init(one, 5, 5), KEY)
    toy.assert_same_bits(message, jax.tree.map(jnp.zeros_like, one))


@pytest.mark.parametrize("aggregator", aggregators())
def test_aggregator_leaves_out_a_client_of_weight_zero_whatever_it_sent(aggregator):
    one, stacked = one_of(messages()), messages(7)
    bad = jax.tree.map(lambda leaf: leaf.at[jnp.array([1, 4])].set(jnp.nan), stacked)
    other = jax.tree.map(lambda leaf: leaf.at[jnp.array([1, 4])].set(9.0), stacked)
    client_info = aggregation.all_clients(jnp.array([3.0, 0.0, 1.0, 4.0, 0.0, 1.0, 5.0]))
    state = aggregator.init(one, 7, 7)
    expected = aggregator.update(other, client_info, state, KEY)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(expected))
    toy.assert_same_bits(aggregator.update(bad, client_info, state, KEY), expected)


@pytest.mark.parametrize("spec", rows("transforms"))
def test_transform_keeps_shapes_and_types_and_treats_clients_alike(spec):
    transform = components.build("transforms", spec)
    stacked = messages()
    state = transform.init(one_of(stacked), 5)
    client_info = aggregation.all_clients(jnp.array([3.0, 1.0, 4.0, 1.0, 5.0]))
    changed, new = jax.jit(transform.update)(stacked, client_info, state, KEY)
    for before, after in ((stacked, changed), (state, new)):
        assert jax.tree.structure(before) == jax.tree.structure(after)
    jax.tree.map(
        lambda a, b: np.testing.assert_equal((a.shape, a.dtype), (b.shape, b.dtype)),
        changed,
        stacked,
    )


# --- attacks ----------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", rows("attacks"))
def test_attack_changes_what_hostile_clients_train_on_or_send_and_nothing_else(spec):
    attack = components.build("attacks", spec, toy.CLASSES)
    assert attack.clients == (1,)
    assert attack.examples or attack.messages
    here = faults.Faults(attacks=(attack,))
    data = toy.pad(toy.federation((9, 7, 8)), 4)
    ids = jnp.arange(3, dtype=jnp.int32)
    keys = jax.random.split(KEY, 3)
    poison = jax.jit(jax.vmap(lambda *one: faults.poison_data(here, *one)))
    seen, stacked = poison(data, ids, keys), messages(3)
    send = jax.jit(lambda stacked: faults.sent(here, stacked, jnp.ones(3), ids, keys, KEY)[0])
    sent = send(stacked)
    for before, after in ((data, seen), (stacked, sent)):
        kinds = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), (before, after))
        assert kinds[0] == kinds[1]
        for honest in (0, 2):
            toy.assert_same_bits(one_of(after, honest), one_of(before, honest))
    padding = ~data.mask
    toy.assert_same_bits([leaf[padding] for leaf in seen], [leaf[padding] for leaf in data])
    changed = [not np.array_equal(a[1], b[1]) for a, b in zip(seen, data, strict=True)]
    assert any(changed) == (attack.examples is not None)
    changed = jax.tree.map(lambda a, b: bool((a[1] != b[1]).all()), sent, stacked)
    assert all(jax.tree.leaves(changed)) == (attack.messages is not None)


# --- data sets and partitions -------------------------------------------------------------------

ISIC9_CLASSES = (
    "actinic keratosis",
    "basal cell carcinoma",
    "dermatofibroma",
    "melanoma",
    "nevus",
    "pigmented benign keratosis",
    "seborrheic keratosis",
    "squamous cell carcinoma",
    "vascular lesion",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A class folder with the nine classes of the Kaggle set."""
    root = tmp_path_factory.mktemp("folder")
    rng = np.random.default_rng(0)
    for number, name in enumerate(ISIC9_CLASSES):
        for split, count in (("Train", 4), ("Test", 2)):
            (root / split / name).mkdir(parents=True)
            for image in range(count):
                pixels = rng.integers(0, 255, (20, 24, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{number}_{image}.png")
    return root


@pytest.mark.parametrize("spec", rows("datasets"))
def test_dataset_is_sorted_consistent_and_the_same_twice(spec, folder, tmp_path):
    data_dir = "" if spec.name == "lesions" else str(folder)
    if spec.name == "table":
        files = (path.relative_to(folder) for path in sorted(folder.rglob("*.png")))
        lines = [f"{file.as_posix()},{file.parts[1]},{file.parts[0]}" for file in files]
        (tmp_path / "table.csv").write_text("\n".join(["image,label,split", *lines]))
        spec = Spec(spec.name, {"path": str(tmp_path / "table.csv")})
    first, second = (
        components.build("datasets", spec, data_dir, str(tmp_path / "cache"), 16) for _ in range(2)
    )
    assert isinstance(first, Dataset)
    assert len(first.class_names) == 9
    assert list(first.class_names) == sorted(first.class_names)
    for one, two in ((first.train, second.train), (first.test, second.test)):
        count = one.num_examples
        assert one.image.shape == (count, 16, 16, 3)
        assert {str(field.dtype) for field in (one.image, one.image_hash)} == {"uint8"}
        assert {str(field.dtype) for field in (one.label, one.client)} == {"int32"}
        *fields, group = one
        assert group is None  # a table gives it
        assert all(len(field) == count for field in fields)
        assert list(one.name) == sorted(set(one.name.tolist()))
        assert all(
            str(name).startswith(f"{first.class_names[label]}/")
            for name, label in zip(one.name, one.label, strict=True)
        )
        for before, after in zip(one, two, strict=True):
            np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("spec", rows("partitions"))
def test_partition_deals_every_example_once_and_never_separates_duplicates(spec, tmp_path):
    rng = np.random.default_rng(5)
    label = np.sort(rng.integers(0, 4, 120)).astype(np.int32)
    name = np.array([f"{label[i]}/{i:03d}.png" for i in range(120)])
    groups = np.arange(120, dtype=np.int32)
    for pair in range(0, 120, 10):  # some images have a copy next to them, with the same label
        if label[pair] == label[pair + 1]:
            groups[pair + 1] = groups[pair]
    split = Split(
        np.zeros((120, 2, 2, 3), np.uint8),
        label,
        name,
        np.array(["0" * 64] * 120),
        np.zeros((120, 32), np.uint8),
        np.full(120, -1, np.int32),
    )
    if spec.name == "by_column":
        table = tmp_path / "sites.csv"
        sites = {int(group): f"site {group % 3}" for group in groups}
        lines = [f"{name[i]},{sites[int(groups[i])]}" for i in range(120)]
        table.write_text("\n".join(["image,site", *lines]))
        spec = Spec(spec.name, {"path": str(table)})
    parts = components.build("partitions", spec, split, groups, 3, 0)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(120))
    owner = np.empty(120, np.int64)
    for client, part in enumerate(parts):
        assert part.tolist() == sorted(part.tolist())
        owner[part] = client
    for group in np.unique(groups):
        assert len(set(owner[groups == group])) == 1
    again = components.build("partitions", spec, split, groups, 3, 0)
    assert all(np.array_equal(*pair) for pair in zip(parts, again, strict=True))
