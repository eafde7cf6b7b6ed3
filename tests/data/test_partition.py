"""Who holds what: strategies, client folders, a site's CSV, and each client's validation part."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_med.data.dataset import Split
from fedjax_med.data.partitions import _dealing
from fedjax_med.data.splits import folds, hold_out, partition
from fedjax_med.errors import UserError
from fedjax_med.experiment import components, config, resolve
from fedjax_med.experiment.config import Spec
from fedjax_med.experiment.load_data import client_names, partitioner

DRAWN = [name for name in components.names("partitions") if name != "by_column"]


def make_split(labels, client=None):
    """Examples "a/000", "a/001", ... sorted by name, with tiny images that tell them apart."""
    labels = np.sort(np.asarray(labels, np.int32))
    count = labels.size
    return Split(
        image=np.arange(count * 12, dtype=np.uint32).astype(np.uint8).reshape(count, 2, 2, 3),
        label=labels,
        name=np.array([f"{'abcdefghi'[k]}/{i:03d}.jpg" for i, k in enumerate(labels)], str),
        sha256=np.array([f"{i:064x}" for i in range(count)], str),
        image_hash=np.zeros((count, 32), np.uint8),
        client=np.full(count, -1, np.int32) if client is None else np.asarray(client, np.int32),
    )


def singles(split):
    return np.arange(split.num_examples, dtype=np.int32)


def divide(name, split, groups=None, num_clients=3, seed=0, **options):
    groups = singles(split) if groups is None else np.asarray(groups, np.int32)
    divide = partitioner(Spec(name, options), num_clients, seed)
    return partition(split, groups, divide, num_clients)


def class_sizes(split, parts, num_classes=None):
    num_classes = num_classes or int(split.label.max()) + 1
    return np.array([np.bincount(split.label[part], minlength=num_classes) for part in parts])


def spread(sizes):
    return int((sizes.max(axis=0) - sizes.min(axis=0)).max())


many_labels = st.lists(st.integers(0, 4), min_size=40, max_size=90)


@st.composite
def labels_and_groups(draw):
    """Labels with some pairs of duplicates, within a class and across two, and their groups."""
    labels = np.sort(draw(many_labels))
    groups = np.arange(labels.size) * 7 % 101  # numbers that are not positions
    order = draw(st.permutations(range(labels.size)))
    for first, second in zip(order[0:16:2], order[1:16:2], strict=True):
        groups[second] = groups[first]
    return labels, groups


@given(labels_and_groups(), st.sampled_from(["equal", "dirichlet", "quantity"]), st.integers(1, 4))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_every_example_has_one_client_and_groups_stay_together(drawn, name, num_clients):
    labels, groups = drawn
    parts = divide(name, make_split(labels), groups, num_clients)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(labels.size))
    for part in parts:
        assert part.dtype == np.int64
        assert np.array_equal(part, np.sort(part))
        assert np.isin(groups[part], np.delete(groups, part)).sum() == 0


@given(many_labels, st.integers(1, 7), st.integers(0, 3))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_equal_deals_class_and_total_sizes_within_one(labels, num_clients, seed):
    split = make_split(labels)
    sizes = class_sizes(split, divide("equal", split, None, num_clients, seed))
    assert spread(sizes) <= 1
    assert spread(sizes.sum(axis=1, keepdims=True)) <= 1


@pytest.mark.parametrize("name", ["equal", "labels_per_client"])
def test_dealing_to_many_clients_keeps_the_rule_of_dealing_to_few(name, monkeypatch):
    monkeypatch.setattr(_dealing, "_FEW", 1)
    rng = np.random.default_rng(0)
    for _ in range(20):
        split = make_split(np.sort(rng.integers(0, 4, 90)).tolist())
        parts = divide(name, split, num_clients=7)
        assert sorted(np.concatenate(parts).tolist()) == list(range(90))
        sizes = class_sizes(split, parts)
        for column in sizes.T:
            held = column[column > 0] if name == "labels_per_client" else column
            assert held.max() - held.min() <= 1
        assert name != "equal" or spread(sizes.sum(axis=1)) <= 1


def test_dealing_to_many_clients_levels_out_what_large_groups_left_uneven(monkeypatch):
    monkeypatch.setattr(_dealing, "_FEW", 1)
    split = make_split([0] * 12)
    groups = np.array([0, 0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7], np.int32)
    parts = divide("equal", split, groups, num_clients=3)
    assert sorted(map(len, parts)) == [4, 4, 4]


def test_ten_thousand_clients_are_divided_in_seconds():
    split = make_split([k % 9 for k in range(40_000)])
    for name, options in (("equal", {}), ("dirichlet", {"min_examples": 2})):
        began = time.monotonic()
        parts = divide(name, split, num_clients=10_000, **options)
        assert time.monotonic() - began < 60  # comparing all with all takes minutes
        assert min(map(len, parts)) >= 2


@given(st.integers(2, 5), st.integers(0, 6), st.integers(0, 6), st.integers(0, 3))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_equal_levels_out_pairs_with_single_examples(num_clients, same, across, seed):
    # `same` pairs within class 0, `across` pairs over classes 0 and 1, and enough singles of both.
    count = 2 * same + across + 4 * num_clients
    split = make_split([0] * count + [1] * (across + 4 * num_clients))
    groups = singles(split)
    groups[1 : 2 * same : 2] = groups[0 : 2 * same : 2]
    groups[count : count + across] = groups[2 * same : 2 * same + across]
    parts = divide("equal", split, groups, num_clients, seed)
    assert spread(class_sizes(split, parts)) <= 1


def test_equal_by_hand():
    # 7 of a and 5 of b over 3 clients: 3 2 2 and, since leftovers go to the smallest, 1 2 2.
    split = make_split([0] * 7 + [1] * 5)
    sizes = class_sizes(split, divide("equal", split))
    assert sorted(sizes.tolist()) == [[2, 2], [2, 2], [3, 1]]


def test_equal_uses_large_groups_first():
    # A triple, a pair and a single over two clients: 3 and 2 + 1.
    split = make_split([0] * 6)
    parts = divide("equal", split, [4, 4, 9, 0, 0, 0], num_clients=2)
    assert sorted(part.tolist() for part in parts) == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("name", DRAWN)
def test_seed_decides_the_division(name):
    split = make_split([0] * 40 + [1] * 40 + [2] * 40)
    one, again, other = (divide(name, split, seed=seed) for seed in (1, 1, 2))
    assert all(map(np.array_equal, one, again))
    assert not all(map(np.array_equal, one, other))


@pytest.mark.parametrize("name", DRAWN)
def test_numbering_of_groups_does_not_matter(name):
    split = make_split([0] * 40 + [1] * 40)
    groups = np.arange(80) // 2
    one = divide(name, split, groups)
    other = divide(name, split, (groups * 17 + 5) % 40)
    assert all(map(np.array_equal, one, other))


@pytest.mark.parametrize("name", DRAWN)
def test_global_random_state_is_neither_read_nor_changed(name):
    split = make_split([0] * 40 + [1] * 40)
    np.random.seed(1)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    one = divide(name, split)
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002
    np.random.seed(2)  # noqa: NPY002
    assert all(map(np.array_equal, one, divide(name, split)))


def test_dirichlet_alpha_decides_how_alike_clients_are():
    split = make_split(np.repeat(np.arange(5), 200))
    alike = class_sizes(split, divide("dirichlet", split, alpha=1e4))
    apart = class_sizes(split, divide("dirichlet", split, alpha=0.05))
    assert spread(alike) < 20
    assert spread(apart) > 150


@pytest.mark.parametrize("name", ["dirichlet", "quantity"])
@pytest.mark.parametrize("seed", range(5))
def test_every_client_has_the_least_number_of_examples(name, seed):
    split = make_split(np.repeat(np.arange(3), 40))
    parts = divide(name, split, num_clients=10, seed=seed, alpha=0.02, min_examples=11)
    assert min(part.size for part in parts) >= 11


def test_quantity_keeps_the_mix_of_classes():
    split = make_split([0] * 300 + [1] * 600)
    sizes = class_sizes(split, divide("quantity", split, min_examples=1))
    assert sizes.sum(axis=1).max() > 1.5 * sizes.sum(axis=1).min()
    assert np.abs(2 * sizes[:, 0] - sizes[:, 1]).max() <= 3


def test_quantity_by_hand():
    # A third of 4 is 1.33: the examples, each 1 wide, go where their middles 0.5, 1.5, ... lie.
    parts = divide("quantity", make_split([0] * 4), alpha=1e9, min_examples=1)
    assert [part.size for part in parts] == [1, 2, 1]


def test_labels_per_client_holds_k_classes_and_every_class_has_a_holder():
    split = make_split(np.repeat(np.arange(9), 12))
    parts = divide("labels_per_client", split, num_clients=5, k=2)
    sizes = class_sizes(split, parts)
    assert ((sizes > 0).sum(axis=1) == 2).all()
    assert ((sizes > 0).sum(axis=0) >= 1).all()
    # Nine classes have ten places: one class is dealt to two clients, half each.
    assert sorted(sizes[sizes > 0]) == [6, 6] + [12] * 8


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("labels_per_client", {"k": 2}, "3 clients with 2 classes each cannot hold all 9"),
        ("labels_per_client", {"k": 0}, "expected 1 <= k <= 9"),
        ("labels_per_client", {"k": 10}, "expected 1 <= k <= 9"),
        ("dirichlet", {"alpha": 0.0}, "expected 0 < alpha <= 1e9, got 0.0"),
        ("quantity", {"alpha": -1.0}, "expected 0 < alpha <= 1e9, got -1.0"),
        ("quantity", {"min_examples": 0}, "expected 0 < min_examples <= 1e9, got 0"),
        ("dirichlet", {"min_examples": 7}, "18 images do not give each of 3 clients 7"),
        ("equall", {}, "Did you mean 'equal'"),
    ],
)
def test_options_out_of_range_are_refused(name, options, message):
    with pytest.raises(UserError, match=message):
        divide(name, make_split(np.repeat(np.arange(9), 2)), **options)


def test_image_under_two_labels_fits_no_client_with_one_label():
    with pytest.raises(UserError, match=r"a/001.jpg and b/002.jpg"):
        divide("labels_per_client", make_split([0, 0, 1, 1]), [0, 1, 1, 2], num_clients=2, k=1)


def test_client_without_examples_is_refused():
    with pytest.raises(UserError, match="gets none of the 4 images"):
        divide("equal", make_split([0, 0, 1, 1]), [0, 0, 0, 1])


@pytest.mark.parametrize(
    ("labels", "num_clients", "seed", "message"),
    [
        ([], 3, 0, "no training images"),
        ([0] * 9, 0, 0, "expected num_clients >= 1, got 0"),
        ([0] * 9, 3, -1, "expected seed >= 0, got -1"),
    ],
)
def test_impossible_divisions_are_refused(labels, num_clients, seed, message):
    with pytest.raises(UserError, match=message):
        divide("equal", make_split(labels), None, num_clients, seed)


def test_every_strategy_completes_its_options():
    for name in components.names("partitions"):
        experiment = resolve.complete(config.Experiment(partition=Spec(name)))
        assert None not in experiment.partition.options.values()


def test_client_folders_are_the_division_whatever_the_strategy():
    split = make_split([0, 0, 0, 1, 1, 1], client=[0, 1, 1, 0, 0, 1])
    # Positions 0 and 1 are the same image: what hospitals hold is theirs.
    parts = divide("dirichlet", split, [0, 0, 2, 3, 4, 5], num_clients=2, seed=9)
    assert [part.tolist() for part in parts] == [[0, 3, 4], [1, 2, 5]]


def test_client_folders_must_be_as_many_as_clients():
    split = make_split([0, 0, 0, 1, 1, 1], client=[0, 1, 1, 0, 0, 1])
    with pytest.raises(UserError, match=r"into 2 client folders.*--config.num_clients=2"):
        divide("equal", split)


def test_emptied_client_folder_is_refused():
    with pytest.raises(UserError, match="client 1 of 3 gets none"):
        divide("equal", make_split([0, 0, 0], client=[0, 2, 2]))


def by_column(tmp_path, text, split=None, groups=None, num_clients=2, **options):
    path = tmp_path / "sites.csv"
    path.write_text(text, "utf-8")
    split = make_split([0, 0, 1, 1]) if split is None else split
    return divide("by_column", split, groups, num_clients, path=str(path), **options)


GOOD = "image,site\na/000.jpg,Zürich\n001.jpg,Bern\n002,Bern\nb/003.jpg,Zürich\nb/test.jpg,Rom\n"


def test_by_column_takes_sites_in_order_and_every_form_of_name(tmp_path):
    assert [part.tolist() for part in by_column(tmp_path, GOOD)] == [[1, 2], [0, 3]]


def test_by_column_reads_other_columns_and_a_byte_order_mark(tmp_path):
    text = "\ufefffile,age,hospital\n000,5,x\n001,6,x\n002,7,y\n003,8,x\n"
    parts = by_column(tmp_path, text, column="hospital", image="file")
    assert [part.tolist() for part in parts] == [[0, 1, 3], [2]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD.replace("002,Bern\n", ""), "the image 'b/002.jpg' on one line, found it nowhere"),
        (GOOD + "002,Rom\n", "line 7: the image '002' is listed twice"),
        (GOOD + "002.jpg,Bern\n", "'b/002.jpg' on one line, found it as '002.jpg' and as '002'"),
        (GOOD.replace("image,site", "image,sites"), "no 'site' in the columns.*mean 'sites'"),
        (GOOD.replace("image,", "picture,"), "no 'image' in the columns"),
        (GOOD.replace("001.jpg,Bern", "001.jpg,"), "line 3: the image '001.jpg' lacks"),
        (GOOD.replace("001.jpg,Bern", "001.jpg"), "line 3: the image '001.jpg' lacks"),
        (GOOD.replace("001.jpg,Bern", "001.jpg,Aarau"), r"3 sites .*\(Aarau, Bern, Zürich\)"),
        ("", "no 'image' in the columns of .*none"),
    ],
)
def test_by_column_names_the_first_fault(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        by_column(tmp_path, text)


def test_by_column_refuses_a_name_that_two_images_have(tmp_path):
    split = make_split([0, 1])._replace(name=np.array(["a/1.jpg", "b/1.jpg"]))
    text = "image,site\n1.jpg,x\n"
    with pytest.raises(UserError, match=r"'1.jpg' may be a/1.jpg or b/1.jpg"):
        by_column(tmp_path, text, split, num_clients=1)
    assert by_column(tmp_path, text, split, groups=[0, 0], num_clients=1)[0].tolist() == [0, 1]


def test_by_column_refuses_duplicates_at_two_sites(tmp_path):
    with pytest.raises(UserError, match=r"a/000.jpg and a/001.jpg are the same image"):
        by_column(tmp_path, GOOD, groups=[0, 0, 1, 2])


def test_by_column_needs_a_file_it_can_read(tmp_path):
    split = make_split([0, 1])
    with pytest.raises(UserError, match=r"--config.partition.options.path"):
        divide("by_column", split)
    with pytest.raises(UserError, match=r"nothing.csv cannot be read: No such file.*Give a CSV"):
        divide("by_column", split, path=str(tmp_path / "nothing.csv"))
    (tmp_path / "latin.csv").write_bytes(b"image,site\n000,Z\xfcrich\n")
    with pytest.raises(UserError, match=r"latin.csv cannot be read: .*utf-8"):
        divide("by_column", split, path=str(tmp_path / "latin.csv"))


def test_hold_out_takes_the_fraction_of_each_class_and_leaves_one():
    split = make_split([0] * 20 + [1] * 7 + [2] * 1 + [3] * 2)
    index = np.arange(30)
    train, validation = hold_out(split, singles(split), index, 0.3, 0, 0)
    assert np.bincount(split.label[validation], minlength=4).tolist() == [6, 2, 0, 1]
    assert np.array_equal(np.sort(np.concatenate([train, validation])), index)
    assert train.tolist() == sorted(train)
    assert validation.tolist() == sorted(validation)
    train, _ = hold_out(split, singles(split), index, 0.99, 0, 0)
    assert np.bincount(split.label[train]).tolist() == [1, 1, 1, 1]


def test_hold_out_of_nothing_is_empty():
    split = make_split([0] * 9)
    train, validation = hold_out(split, singles(split), np.arange(3, 9), 0.0, 0, 0)
    assert train.tolist() == [3, 4, 5, 6, 7, 8]
    assert validation.shape == (0,)
    train, validation = hold_out(split, singles(split), np.arange(0), 0.5, 0, 0)
    assert train.size == validation.size == 0


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_hold_out_refuses_other_fractions(fraction):
    split = make_split([0] * 9)
    with pytest.raises(UserError, match="0 <= validation_fraction < 1"):
        hold_out(split, singles(split), np.arange(9), fraction, 0, 0)


@given(labels_and_groups(), st.floats(0, 0.9), st.integers(0, 3))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_hold_out_never_separates_duplicates(drawn, fraction, seed):
    labels, groups = drawn
    split = make_split(labels)
    train, validation = hold_out(split, groups, np.arange(labels.size), fraction, seed, 1)
    assert not set(groups[train]) & set(groups[validation])
    sizes, held = (
        np.bincount(split.label[i], minlength=5) for i in (np.arange(labels.size), validation)
    )
    assert (held <= np.rint(fraction * sizes)).all()
    assert (np.bincount(split.label[train], minlength=5)[sizes > 0] >= 1).all()


def test_hold_out_depends_on_seed_and_client():
    split = make_split([0] * 40)
    results = {
        (seed, client): hold_out(split, singles(split), np.arange(40), 0.25, seed, client)[1]
        for seed in (0, 1)
        for client in (0, 1)
    }
    assert len({tuple(validation) for validation in results.values()}) == 4


def test_hold_out_does_not_see_other_clients_examples():
    split = make_split([0] * 30 + [1] * 30)
    groups = (np.arange(60, dtype=np.int32) // 2 * 2) % 47
    index = np.sort(np.random.default_rng(0).permutation(30)[:20]) * 2
    index = np.sort(np.concatenate([index, index + 1]))
    alone = split.take(index)
    for whole, part in zip(
        hold_out(split, groups, index, 0.3, 5, 2),
        hold_out(alone, groups[index] * 3 % 101, np.arange(index.size), 0.3, 5, 2),
        strict=True,
    ):
        assert np.array_equal(split.name[whole], alone.name[part])


def test_by_column_reads_what_spreadsheets_and_people_write(tmp_path):
    text = "image;site\nTrain/a/000.jpg;Zürich\na/001;Bern\n002;Bern\nb/003.jpg;Zürich\n"
    assert [part.tolist() for part in by_column(tmp_path, text)] == [[1, 2], [0, 3]]


def test_by_column_names_its_clients(tmp_path):
    by_column(tmp_path, GOOD)
    spec = Spec("by_column", {"path": str(tmp_path / "sites.csv")})
    assert client_names(make_split([0, 0, 1, 1]), spec) == ("Bern", "Zürich")
    assert client_names(make_split([0, 0, 1, 1]), Spec("equal")) == ()


def test_by_column_counts_what_is_missing(tmp_path):
    text = "image,site\na/000.jpg,x\n"
    with pytest.raises(UserError, match=r"'a/001.jpg' on one line, found it nowhere \(2 more"):
        by_column(tmp_path, text)


@pytest.mark.parametrize(
    "text",
    [
        GOOD.replace(",", "\t"),
        GOOD.replace(",", "|"),
        "sep=;\n" + GOOD.replace(",", ";"),
        GOOD.replace("image,site", " Image , SITE "),
        GOOD.replace("a/000.jpg", "A/000.JPG"),
        GOOD.replace("a/000.jpg", "/data/set/train/a/000.jpg"),
        GOOD.replace("a/000.jpg", "D:\\set\\Train\\a\\000.jpg"),
        GOOD.replace("a/000.jpg", "./pictures/000.jpg"),
        GOOD.replace("\n", "\r\n") + ",\r\n , \r\n\r\n",
        GOOD.replace("\n", "\n\n"),
        GOOD.replace("\n", ",,\n"),  # empty columns at the right
        GOOD + "/data/Test/a/000.jpg,Rom\n",
        GOOD.replace("002,Bern", '"002"," Bern "'),
        GOOD.replace("002,Bern", '"002", "Bern"'),
        GOOD.replace("\n", "\r"),
        GOOD + "002,Bern\n",  # twice the same
        GOOD.replace("a/000.jpg", "a / 000.jpg"),
        "Sites of the study, 2024; draft\n\n" + GOOD,
        '"Sites, of\nthe study"\n' + GOOD.replace(",", ";"),
        "sep=;\nSites\n" + GOOD.replace(",", ";"),
        "\ufeff\ufeff" + GOOD,
        '\ufeff\ufeff"image","site"\n' + GOOD.partition("\n")[2],
        "Sites\n\ufeff" + GOOD,
    ],
)
def test_by_column_reads_a_table_as_it_is_written(tmp_path, text):
    assert [part.tolist() for part in by_column(tmp_path, text)] == [[1, 2], [0, 3]]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_by_column_reads_unicode_text_of_spreadsheets(tmp_path, encoding):
    (tmp_path / "sites.txt").write_bytes(GOOD.replace(",", "\t").encode(encoding))
    path = str(tmp_path / "sites.txt")
    parts = divide("by_column", make_split([0, 0, 1, 1]), num_clients=2, path=path)
    assert [part.tolist() for part in parts] == [[1, 2], [0, 3]]


@pytest.mark.parametrize("name", ["Zürich", "Göttingen", "Århus"])
def test_by_column_names_the_line_that_is_in_another_encoding(tmp_path, name):
    path = tmp_path / "sites.csv"
    path.write_bytes(f"Sites\r\nimage,site\r\n000,Bern\r\n001,{name}\r\n".encode("cp1252"))
    message = f"encoding utf-8, and line 4 has another .*Windows-1252 it is '001,{name}'.*CSV UTF-8"
    with pytest.raises(UserError, match=message):
        divide("by_column", make_split([0, 1]), path=str(path))


def test_letter_case_decides_where_it_is_all_that_differs(tmp_path):
    split = make_split([0, 0])._replace(name=np.array(["a/X.jpg", "a/x.jpg"]))
    text = "image,site\na/X.jpg,Bern\na/x.jpg,Rom\n"
    assert [part.tolist() for part in by_column(tmp_path, text, split)] == [[0], [1]]
    with pytest.raises(UserError, match=r"'a/X.JPG' on one line, found it as 'a/X.jpg' and as"):
        by_column(tmp_path, text, split._replace(name=np.array(["a/X.JPG", "a/x.jpg"])))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD.replace("002,Bern", "002,bern"), "the sites 'Bern' and 'bern' differ only in"),
        ("image,Site,SITE\n000,a,b\n", "has the column 'site' 2 times"),
        ("\n\n", "no 'image' in the columns of .*none"),
    ],
)
def test_by_column_says_what_it_cannot_decide(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        by_column(tmp_path, text)


def test_no_more_folds_than_the_rarest_class_has_images():
    split = make_split([0] * 9 + [1] * 4)
    assert [len(fold) for fold in folds(split, singles(split), 4, seed=0)] == [4, 3, 3, 3]
    copies = np.array([*range(9), 9, 9, 10, 11], np.int32)  # three different images
    for groups, most, asked in ((singles(split), 4, 5), (copies, 3, 4)):
        message = f"at most {most} folds, since 'b' has no more .* got {asked}"
        with pytest.raises(UserError, match=message + ": give fewer --config.folds .*--folds"):
            folds(split, groups, asked, seed=0)
