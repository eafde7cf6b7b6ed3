import numpy as np
import pytest
from PIL import Image

from fedjax_med import clients
from fedjax_med.config import Experiment, Spec


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for split, number in (("Train", 20), ("Test", 2)):
        for name in ("a", "b"):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for image in range(number):
                pixels = rng.integers(0, 256, (16, 16, 3), np.uint8)
                Image.fromarray(pixels).save(
                    tmp_path / "data" / split / name / f"{name}{image}.png"
                )
    return tmp_path / "data"


def load(folder, **changes):
    experiment = Experiment(num_clients=2, image_size=16, **changes)
    return clients.load(experiment, str(folder), str(folder.parent / "cache"))


def test_digests_follow_labels_images_division_and_the_test_set(folder):
    first, again = load(folder), load(folder)
    assert (first.digest, first.test_digest) == (again.digest, again.test_digest)
    others = [load(folder, seed=1), load(folder, validation_fraction=0.3)]
    (folder / "Test/a/a0.png").rename(folder / "Test/b/a0.png")
    relabelled = load(folder)
    assert relabelled.digest == first.digest
    assert relabelled.test_digest != first.test_digest
    (folder / "Train/a/a0.png").rename(folder / "Train/b/a0.png")
    others.append(load(folder))
    assert len({first.digest, *(one.digest for one in others)}) == 4


def test_labels_alone_change_the_digest(folder):
    split = load(folder).test
    wrong = split._replace(label=1 - split.label)
    part = [np.arange(split.num_examples)]
    assert clients._digest(split, part, "") != clients._digest(wrong, part, "")


def test_sites_of_a_table_name_the_clients(folder):
    rows = [
        f"{path.parent.name}/{path.name},{'Bern' if int(path.stem[1:]) % 2 else 'Aarau'}"
        for path in sorted((folder / "Train").rglob("*.png"))
    ]
    (folder / "sites.csv").write_text("\n".join(["image,site", *rows]))
    spec = Spec("by_column", {"path": str(folder / "sites.csv")})
    data = load(folder, partition=spec)
    assert data.names == ("Aarau", "Bern")
    assert "Clients: 0 is Aarau, 1 is Bern." in data.summary
    assert load(folder).names == ()
