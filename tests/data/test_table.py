"""The data set `table`: images in any folders, labelled by a CSV as it is."""

import os

import drawn_tables
import numpy as np
import pytest
from PIL import Image

from fedjax_med.data import digests, splits
from fedjax_med.data.datasets import image_folder, table
from fedjax_med.errors import UserError
from fedjax_med.experiment import load_data, resolve
from fedjax_med.experiment.config import Experiment, Groups, Spec


@pytest.fixture
def root(tmp_path):
    """Six images in two folders, one of them nested."""
    rng = np.random.default_rng(1)
    for number in range(6):
        below = ("part_1", "part_2/deep")[number % 2]
        drawn_tables.image(tmp_path / "images" / below / f"im{number}.png", 40 * number, rng)
    return tmp_path / "images"


ROWS = ("im0,a", "im1,b", "im2,a", "im3,b", "im4,a", "im5,b")


def write(root, *lines, encoding="utf-8", end="\n"):
    file = root / "table.csv"
    file.write_bytes(end.join(lines).encode(encoding))
    return str(file)


def scan(root, *lines, encoding="utf-8", end="\n", **options):
    return table.scan(str(root), path=write(root, *lines, encoding=encoding, end=end), **options)


def found(source):
    """The split and the class of each image, by its file."""
    return {
        file.path.name: (file.split, source.class_names[file.label], file.client)
        for file in source.files
    }


def labels(source):
    return {name: label for name, (_, label, _) in found(source).items()}


EXPECTED = {f"im{number}.png": "ab"[number % 2] for number in range(6)}

SPELLINGS = {
    "plain": (["image,label", *ROWS], {}),
    "semicolons": (["image;label", *(row.replace(",", ";") for row in ROWS)], {}),
    "tabs": (["image\tlabel", *(row.replace(",", "\t") for row in ROWS)], {}),
    "byte order mark": (["\ufeffimage,label", *ROWS], {}),
    "line ends": (["image,label", *ROWS], {"end": "\r\n"}),
    "utf-16": (["image,label", *ROWS], {"encoding": "utf-16"}),
    "quotes": (['"image","label"', *('"{}","{}"'.format(*row.split(",")) for row in ROWS)], {}),
    "quotes and spaces": (
        ['"image" , "label"', *('"{}" , "{}" '.format(*row.split(",")) for row in ROWS)],
        {},
    ),
    "lines in a cell": (
        ["image,note,label", *(row.replace(",", ',"a\nb, 5"" wide",') for row in ROWS)],
        {},
    ),
    "an inch": (
        ["image,note,label", *(row.replace(",", ',5" wide,') for row in ROWS[:5]), "im5,,b"],
        {},
    ),
    "blank ends": (["image,label,", *(f"{row}," for row in ROWS), ",,", "", ""], {}),
    "spaces": ([" Image , Label ", *(f" {row.replace(',', ' , ')} " for row in ROWS)], {}),
    "suffixes": (["file_name,diagnosis", *(row.replace(",", ".PNG,") for row in ROWS)], {}),
    "titles": (["ward 3,,", "", "image_id,dx", *ROWS], {}),
    "other columns": (["age,isic_id,target", *(f"5,{row}" for row in ROWS)], {}),
    "one-hot": (
        ["image,a,b,UNK", *(f"im{n},{float(n % 2 == 0)},{n % 2}.0,0" for n in range(6))],
        {},
    ),
    "one-hot among others": (
        ["image,a,b,age", *(f"im{n},{n % 2 == 0:d},{n % 2},{n}" for n in range(6))],
        {},
    ),
    "one-hot, commas": (
        ["image;a;b", *(f"im{n};{n % 2 == 0:d},0;{n % 2},0" for n in range(6))],
        {"label": "one-hot"},
    ),
    "one-hot by name": (
        ["image,a,b,smokes", *(f"im{n},{n % 2 == 0:d},{n % 2},1" for n in range(6))],
        {"label": "a+b"},
    ),
    "names": (
        ["image,label", *(row.replace(",a", ",0") for row in ROWS)],
        {"names": '0:a'},
    ),
    "chosen": (
        ["image,file,dx,class", *(f"x,{row},y" for row in ROWS)],
        {"image": "file", "label": "dx"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SPELLINGS)
def test_tables_of_every_spelling_say_the_same(name, root):
    lines, options = SPELLINGS[name]
    how = {key: options.pop(key) for key in ("end", "encoding") if key in (options := {**options})}
    assert labels(scan(root, *lines, **how, **options)) == EXPECTED


@pytest.fixture
def both(tmp_path):
    """The same images in class folders, and in one folder with a table of paths."""
    rng, rows = np.random.default_rng(2), [["file", "class", "split"]]
    for split, count in (("Train", 8), ("Test", 3)):
        for label, name in enumerate(("melanoma", "nevus")):
            for number in range(count):
                file = f"{split.lower()}{label}{number}.png"
                path = tmp_path / "folders" / split / name / file
                drawn_tables.image(path, 60 * label, rng)
                (tmp_path / "flat").mkdir(exist_ok=True)
                (tmp_path / "flat" / file).write_bytes(path.read_bytes())
                rows.append([file, name, split.upper()])
    rows[1:] = rows[:0:-1]
    return tmp_path, drawn_tables.table(tmp_path / "flat" / "t.csv", rows)


def test_a_table_and_class_folders_of_the_same_images_are_the_same_data(both):
    root, file = both
    by_folder = image_folder.build(str(root / "folders"), str(root / "cache"), 16)
    by_table = table.build(str(root / "flat"), str(root / "cache"), 16, path=str(file))
    assert by_table.class_names == by_folder.class_names == ("melanoma", "nevus")
    for one, two in ((by_folder.train, by_table.train), (by_folder.test, by_table.test)):
        assert one.num_examples == two.num_examples > 0
        for field, other in zip(one[:-1], two[:-1], strict=True):
            np.testing.assert_array_equal(field, other)
        classes = by_folder.class_names
        assert digests.files_and_labels(one, classes) == digests.files_and_labels(two, classes)
    loaded = [
        load_data.load(
            resolve.complete(Experiment(image_size=16, num_clients=2, dataset=spec)),
            str(root / of),
            str(root / "cache"),
        )
        for of, spec in (
            ("folders", Spec("image_folder")),
            ("flat", Spec("table", {"path": str(file)})),
        )
    ]
    for field in ("digest", "test_digest", "test_set"):
        assert getattr(loaded[0], field) == getattr(loaded[1], field) != ""


def test_it_says_what_it_chose_and_what_it_left_out(root, capsys):
    lines = ["patient_id,image,dx,site", *(f"p{n},{row},s" for n, row in enumerate(ROWS))]
    file = write(root, *lines[:-1], "p6,im5,NA,s")
    table.build(str(root), str(root.parent / "cache"), 8, path=file)
    said = capsys.readouterr().err.splitlines()[0]
    assert "images by image, classes by dx (not used, and perhaps meant: " in said
    assert "--config.dataset.options.site=site, --config.dataset.options.group=patient_id)" in said
    assert "left out: 1 rows without a label" in said
    assert "5 images of Train and 0 of Test, 2 classes: a, b" in said


def test_what_is_not_used_is_counted(root):
    source = scan(root, "image,label", *ROWS[:4], "im4,", "gone,a", missing="skip")
    assert dict(source.ignored) == {
        "images that the table does not list": 2,
        "rows of images that are missing": 1,
        "rows without a label": 1,
    }


def at_sites(root, *sites, tested=2):
    """The clients and their names, where the last images are those of Test."""
    splits = ["train"] * (6 - tested) + ["test"] * tested
    rows = [",".join(row) for row in zip(ROWS, sites, splits, strict=True)]
    source = scan(root, "image,label,where,split", *rows, site="where")
    clients = {name: client for name, (_, _, client) in found(source).items()}
    return source.clients, [clients[f"im{number}.png"] for number in range(6)]


def test_sites_are_clients_in_the_order_of_their_names(root):
    sites = ("Wien", "Graz", "Linz")
    assert at_sites(root, *sites, *sites) == (tuple(sorted(sites)), [2, 0, 1, 2, 0, 1])


def test_a_further_hospital_may_be_tested_on(root):
    sites = ("Wien", "Graz", "Wien", "Graz", "Wien", "Linz")
    assert at_sites(root, *sites) == (("Graz", "Wien"), [1, 0, 1, 0, -1, -1])
    rows = [f"{row},site {number}" for number, row in enumerate(ROWS)]  # two stay in Train
    with pytest.raises(UserError, match=r"=0.9 leaves no training image at the sites 'site "):
        scan(root, "image,label,where", *rows, site="where", test_fraction=0.9)


def test_splits_in_any_spelling(root, capsys):
    names = (" TRAIN", "Training", "val", "Validation", "Test", "TESTING")
    lines = [f"{row},{split}" for row, split in zip(ROWS, names, strict=True)]
    source = scan(root, "image,label,Split", *lines)
    assert [found(source)[f"im{n}.png"][0] for n in range(6)] == ["train"] * 4 + ["test"] * 2
    table.build(str(root), str(root.parent / "cache"), 8, path=str(root / "table.csv"))
    assert "2 rows for validation count as Train (parts" in capsys.readouterr().err
    everything = scan(root, "image,label,Split", *lines, split="none")
    assert {split for split, *_ in found(everything).values()} == {"train"}


def test_a_test_set_is_drawn_by_class_in_whole_groups_from_a_seed(tmp_path):
    file = drawn_tables.ham10000(tmp_path / "ham", lesions=60)
    options = {"path": str(file), "group": "lesion_id", "test_fraction": 0.2}
    drawn = table.scan(str(tmp_path / "ham"), **options)
    of = {file.path.stem: file for file in drawn.files}
    lesions = {line.split(",")[1]: line.split(",")[0] for line in file.read_text().splitlines()[1:]}
    splits_of = {lesion: set() for lesion in lesions.values()}
    for name, one in of.items():
        splits_of[lesions[name]].add(one.split)
    assert all(len(splits) == 1 for splits in splits_of.values())
    tested = [one.label for one in drawn.files if one.split == "test"]
    assert np.bincount(tested).tolist() == [4, 8, 12]  # of 20, 40 and 60
    again = table.scan(str(tmp_path / "ham"), **options, split_seed=0)
    assert again == drawn
    other = table.scan(str(tmp_path / "ham"), **options, split_seed=1)
    assert other.files != drawn.files
    head, *rows = file.read_text().splitlines()
    file.write_text("\n".join([head, *rows[::-1]]))
    assert table.scan(str(tmp_path / "ham"), **options).files == drawn.files


def test_a_share_is_drawn_as_validation_parts_are():
    label, groups = np.array([0] * 10 + [1] * 5), np.arange(15, dtype=np.int32)
    rng = np.random.default_rng(3)
    drawn = splits.sampled(label, groups, np.arange(15), 0.4, rng)
    assert np.bincount(label[drawn]).tolist() == [4, 2]


def test_groups_go_with_their_images(tmp_path):
    file = drawn_tables.ham10000(tmp_path / "ham", lesions=6)
    dataset = table.build(
        str(tmp_path / "ham"), str(tmp_path / "cache"), 8, path=str(file), group="lesion_id"
    )
    lesions = {line.split(",")[1]: line.split(",")[0] for line in file.read_text().splitlines()[1:]}
    names = [name.split("/")[1].removesuffix(".png") for name in dataset.train.name]
    assert dataset.train.group.tolist() == [lesions[name] for name in names]
    assert (dataset.groups.path, dataset.groups.column) == (str(file), "lesion_id")
    assert dataset.test.group.shape == (0,)


def test_labels_splits_and_sites_prepare_the_images_anew(root):
    file = write(root, "image,label,split", *(f"{row},train" for row in ROWS))

    def build(**options):
        return table.build(str(root), str(root.parent / "cache"), 8, path=file, **options)

    assert build().train.num_examples == 6
    write(
        root, "image,label,split", *(f"{row},train" for row in ROWS[:4]), "im4,a,test", "im5,b,test"
    )
    assert (build().train.num_examples, build().test.num_examples) == (4, 2)
    write(
        root, "image,label,split", *(f"{row},train" for row in ROWS[:4]), "im4,b,test", "im5,b,test"
    )
    assert build().test.label.tolist() == [1, 1]  # fmt: skip


def test_sites_alone_prepare_the_images_anew(root):
    def clients(*sites):
        rows = [f"{row},{site}" for row, site in zip(ROWS[::2], sites, strict=True)]
        file = write(root, "image,label,site", *rows)
        cache = str(root.parent / "cache")
        return table.build(str(root), cache, 8, path=file, site="site").train.client.tolist()

    assert clients("x", "x", "x") == [0, 0, 0]
    assert clients("x", "x", "y") == [0, 0, 1]


def test_a_table_that_says_something_else_is_told_as_that(root, capsys):
    file = write(root, "image,label", *ROWS)
    table.build(str(root), str(root.parent / "cache"), 8, path=file)
    table.build(str(root), str(root.parent / "cache"), 8, path=file, names="a:c")
    assert "The images, or what the table says of them, have changed" in capsys.readouterr().err


def test_two_tables_keep_what_each_has_prepared(root, capsys):
    files = [write(root, "image,label", *ROWS[:count]) for count in (2, 4)]
    (root / "other.csv").write_text("\n".join(["image,label", *ROWS[:3]]))
    for file in (files[1], str(root / "other.csv"), files[1]):
        table.build(str(root), str(root.parent / "cache"), 8, path=file)
    said = capsys.readouterr().err
    assert said.count("Preparing") == 2
    assert "have changed" not in said


def test_files_of_one_name(root):
    rng = np.random.default_rng(4)
    for part in ("one", "two"):
        drawn_tables.image(root / part / "same.png", 0, rng)
    with pytest.raises(UserError, match=r"line 8: .*'same'.*2 files with different.*one/same.png"):
        scan(root, "image,label", *ROWS, "same,a")
    source = scan(root, "image,label", *ROWS, "one/same.png,a", "two\\same,a")
    assert [f.name for f in source.files if f.path.name == "same.png"] == [
        "a/one_same.png",
        "a/two_same.png",
    ]
    (root / "two" / "same.png").write_bytes((root / "one" / "same.png").read_bytes())
    assert [f.path.parent.name for f in scan(root, "image,label", *ROWS, "same,a").files][
        -4
    ] == "one"


def test_one_image_on_two_lines(root):
    same = scan(root, "image,label", *ROWS, "im0.png,a")
    assert len(same.files) == 6
    with pytest.raises(UserError, match=r"lines 2 and 8 .*'im0.png'.* label 'a' and 'b'"):
        scan(root, "image,label", *ROWS, "im0.png,b")


FAULTS = {
    "no image column": (["name,label", "im0,a"], {}, "its image: set .*which are name, label"),
    "two image columns": (["image,file,label", "im0,im0,a"], {}, "any of 'image', 'file'"),
    "no label column": (["image,thing", *ROWS], {}, "label.*is not one-hot.* image, thing"),
    "two label columns": (["image,dx,label", "im0,a,a"], {}, "any of 'dx', 'label'"),
    "a column twice": (["image,label,label", "im0,a,a"], {"label": "label"}, "'label' 2 times"),
    "unknown column": (["image,label", *ROWS], {"group": "patient"}, "no 'patient'.*options.group"),
    "two ones": (["image,a,b", "im0,1,0", "im1,1,1"], {}, "line 3, image 'im1': .*got 2 .a, b"),
    "no one": (["image,a,b", "im0,1,0", "im1,0,0"], {}, "line 3, image 'im1': .*got none"),
    "no bit": (["image,a,b", "im0,1,0", "im1,0,1", "im2,0.5,1"], {}, "'im2'.*got '0.5' in a"),
    "missing": (["image,label", *ROWS, *(f"x{n},a" for n in range(5))], {},
                "lists 5 of 11 .*'x0', 'x1', 'x2' .*missing=skip"),
    "all missing": (["image,label", "x,a"], {"missing": "skip"}, "1 of 1 images.*folders"),
    "no image name": (["image,label", ",a"], {}, "line 2: the name of the image is missing"),
    "split": (["image,label,split", "im0,a,both"], {}, "line 2: expected train or test.*'both'"),
    "no split": (["image,label,split", "im0,a,"], {}, "line 2: expected train or test.*''"),
    "no site": (["image,label,s", "im0,a,NA"], {"site": "s"}, "line 2: .*has no site"),
    "two sites": (["image,label,s", "im0,a,Graz", "im1,b,graz"], {"site": "s"},
                  "'Graz' and 'graz' differ"),
    "two spellings": (["image,label", "im0,A", "im1,a"], {},
                      "'A' and 'a' differ only .*names='A:a'"),
    "unknown name": (["image,label", *ROWS], {"names": "c:d"}, "no 'c' in the labels of"),
    "no names": (["image,label", *ROWS], {"names": "c"}, "expected .*names='OLD:NEW,OLD:NEW'"),
    "slash": (["image,label", "im0,a/b"], {}, "class 'a/b' could not be the name of a folder"),
    "huge label": (["image,label", f"im0,{'a' * 300}"], {}, "could not be the name of a folder"),
    "tested only": (["image,label,split", "im0,a,train", "im1,b,test"], {}, "'b' have test images"),
    "above": (["image,label", "../images/im0,a"], {}, "line 2: .*leads out of the folder"),
    "absolute": (["image,label", "/etc/im0.png,a"], {}, "line 2: .*leads out of the folder"),
    "drive": (["image,label", "C:\\im0.png,a"], {}, "line 2: .*leads out of the folder"),
    "folders above": (["image,label", *ROWS], {"folders": "part_1+../x"},
                      "options.folders=.*out of"),
    "no folder": (["image,label", *ROWS], {"folders": "part_3"},
                  "no folder 'part_3'; it has part_1"),
    "comma": (["image,label", *ROWS], {"folders": "part_1,part_2"}, "Write . between folders"),
    "two tests": (["image,label,split", *(f"{r},train" for r in ROWS[:5]), "im5,b,test"],
                  {"test_fraction": 0.5}, "has test images of its own"),
    "fraction": (["image,label", *ROWS], {"test_fraction": 1.0},
                 "test_fraction in .0, 1., got 1.0"),
    "way": (["image,label", *ROWS], {"missing": "ignore"}, "'ignore' in the values of .*missing"),
    "groups": (["image,label,g", "im0,a,1", "im0.png,a,2"], {"group": "g"}, "expected one g .*two"),
    "NUL": (["image,label", *ROWS, "x\0,a"], {}, "cannot be read: it has NUL"),
    "huge cell": (["image,label", f"{'x' * 200_000},a"], {}, "cannot be read: field larger"),
    "many columns": (["image,label," + "x," * 2_000, "im0,a"], {}, "from 1 to 1,000 columns"),
    "many cells": (["image,label", "im0,a,b"], {}, "line 2 has 3 cells, and there are 2 headings"),
    "open quotation": (["image,label", "im0,a", '"im1,b', "im2,a"], {},
                       "quotation that begins in line 3 or so is not closed"),
    "open at the end": (["image,label,note", "im0,a,x", 'im1,b,"y', "im2,a,z"], {}, "not closed"),
    "another kind": (["image,label", "im0,a", "t,a"], {}, "such as 't' .*other files: 1 .csv"),
    "cell of two lines": (["image,label", '"im0\nim1",a'], {}, "has several lines"),
    "empty": ([""], {}, "from 1 to 1,000 columns, got 0"),
    "headings": (["image,label"], {}, "no row with a label"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_mistake_is_one_line(name, root):
    lines, options, said = FAULTS[name]
    with pytest.raises(UserError, match=said) as error:
        scan(root, *lines, **options)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 2_000


def test_another_encoding_and_other_files_are_one_line(root):
    with pytest.raises(UserError, match=r"expected the encoding utf-8, and line 2"):
        scan(root, "image,label", "im0,n\u00e4vus", encoding="cp1252")
    with pytest.raises(UserError, match=r"cannot be read"):
        table.scan(str(root), path=str(root / "part_1"))
    with pytest.raises(UserError, match=r"needs a CSV of images and labels"):
        table.check_options()
    with pytest.raises(UserError, match="give --data_dir=FOLDER"):
        table.scan("", path=write(root, "image,label"))


def test_links_out_of_the_folder_are_refused(root):
    elsewhere = root.parent / "elsewhere"
    drawn_tables.image(elsewhere / "im9.png", 0, np.random.default_rng(5))
    (root / "im9.png").symlink_to(elsewhere / "im9.png")
    with pytest.raises(UserError, match=r"line 8: .*im9.png is a link that leads out of"):
        scan(root, "image,label", *ROWS, "im9,a")
    (root / "im9.png").unlink()
    (root / "there").symlink_to(elsewhere)
    with pytest.raises(UserError, match=r"links to folders are not followed: .*there"):
        scan(root, "image,label", *ROWS, "im9,a")
    with pytest.raises(UserError, match=r"there is a link that leads out of"):
        scan(root, "image,label", *ROWS, "im9,a", folders="part_1+there")
    (root / "im8.png").symlink_to("im8.png")  # to itself: an unreadable file, which is told later
    assert len(scan(root, "image,label", *ROWS, "im8,a").files) == 7
    os.mkfifo(root / "part_1" / "im1.png")  # nobody waits for it
    with pytest.raises(UserError, match="different bytes"):
        scan(root, "image,label", *ROWS)


def test_letter_case_decides_where_it_must(root):
    rng = np.random.default_rng(6)
    drawn_tables.image(root / "IM0.png", 200, rng)
    source = scan(root, "image,label", *ROWS, "IM0,b")
    assert {f.path.name: source.class_names[f.label] for f in source.files}["IM0.png"] == "b"
    assert labels(source)["im0.png"] == "a"


def test_one_table_of_groups_is_enough(root):
    file = write(root, "image,label,lesion", *(f"{row},{row[2]}" for row in ROWS))
    experiment = Experiment(
        image_size=8,
        dataset=Spec("table", {"path": file, "group": "lesion"}),
        groups=Groups(path=file, column="lesion"),
    )
    with pytest.raises(UserError, match=r"groups.path=.* and .*options.group=lesion both"):
        resolve.settle(resolve.complete(experiment))


def test_public_tables_are_read_as_they_are(tmp_path):
    rng = np.random.default_rng(7)
    for number in range(3):
        drawn_tables.image(tmp_path / f"ISIC_{number:07}.jpg", 50 * number, rng)
        path = tmp_path / "pad" / f"imgs_part_{number}" / f"PAT_{number}_1_2.png"
        drawn_tables.image(path, 50 * number, rng)
    isic = drawn_tables.table(
        tmp_path / "ISIC_2019_Training_GroundTruth.csv",
        [
            ["image", "MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "UNK"],
            *([f"ISIC_{n:07}"] + [float(n == at) for at in range(9)] for n in range(3)),
        ],
    )
    assert labels(table.scan(str(tmp_path), path=str(isic))) == {
        "ISIC_0000000.jpg": "MEL", "ISIC_0000001.jpg": "NV", "ISIC_0000002.jpg": "BCC",
    }  # fmt: skip
    pad = drawn_tables.table(
        tmp_path / "metadata.csv",
        [
            ["patient_id", "lesion_id", "smoke", "diagnostic", "grew", "img_id", "biopsed"],
            *([f"PAT_{n}", n, "True", dx, "UNK", f"PAT_{n}_1_2.png", 1]
              for n, dx in enumerate(("NEV", "BCC", "ACK"))),
        ],
    )  # fmt: skip
    found = table.scan(str(tmp_path), path=str(pad), folders="pad", group="patient_id")
    assert labels(found) == {"PAT_0_1_2.png": "NEV", "PAT_1_1_2.png": "BCC", "PAT_2_1_2.png": "ACK"}
    named = table.scan(str(tmp_path), path=str(pad), folders="pad", names="NEV:nevus, ACK:actinic")
    assert named.class_names == ("BCC", "actinic", "nevus")


def test_unreadable_images_are_told_of(root, tmp_path):
    (root / "im0.png").write_bytes(b"no image")
    Image.new("RGB", (16, 16)).save(root / "im7.png")
    file = write(root, "image,label", "im0.png,a", *ROWS[1:], "im7,a")
    (root / "part_1" / "im0.png").unlink()
    dataset = table.build(str(root), str(tmp_path / "cache"), 8, path=file)
    assert [(one.split, one.name) for one in dataset.unreadable] == [("train", "a/im0.png")]
