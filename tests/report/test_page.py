"""The report: its figures are those of the files, its form is sound, and nothing in it runs."""

import dataclasses
import html.parser
import json
import random
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import workdirs

from fedjax_med.cli import main as cli
from fedjax_med.errors import UserError
from fedjax_med.evaluation import tables
from fedjax_med.experiment import config
from fedjax_med.report import inputs, page
from fedjax_med.report.sections import ORDER

HOSTILE = '<script>alert(\'"&1")</script>\u202e\x1b[31m'
SHELF = Path(page.__file__).parent / "sections"


class Reader(html.parser.HTMLParser):
    """Collects elements, attributes and the text of cells; every tag must be closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.seen, self.attributes = [], [], []
        self.cells, self.headings = [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        self.attributes += attrs
        if tag in ("th", "td"):
            self.cells.append("")
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag == "th":
            self.headings.append(self.cells[-1])

    def handle_data(self, data):
        if self.open and self.open[-1] in ("th", "td"):
            self.cells[-1] += data


def rows(text):
    """The tables' rows, by their first cell."""
    found = {}
    for row in re.findall(r"<tr>(.*?)</tr>", text):
        cells = re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)
        found.setdefault(html.unescape(cells[0]), []).append(list(map(html.unescape, cells[1:])))
    return found


def sections(text):
    return re.findall(r'<section id="(\w+)"', text)


def render(workdir):
    return page.render(inputs.read(workdir))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    return workdir, workdirs.write_run(workdir)


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("compared")
    return workdir, workdirs.write_comparison(workdir)


def test_the_headline_figures_are_those_of_the_evaluation(run):
    workdir, evaluation = run
    found = rows(render(workdir))
    for key, name in tables.HEADLINES.items():
        low, high = evaluation["intervals"][key]
        assert found[name] == [[f"{evaluation[key]:.3f}", f"{low:.3f} to {high:.3f}"]]


def test_the_figures_of_classes_and_hospitals_are_those_of_the_evaluation(run):
    workdir, evaluation = run
    found = rows(render(workdir))
    for k, (name, row) in enumerate(evaluation["per_class"].items()):
        cells = [str(row["support"])]
        for key in ("sensitivity", "specificity", "auroc"):
            low, high = row["intervals"][key]
            cells += [f"{row[key]:.3f}", f"{low:.3f} to {high:.3f}"]
        assert cells in found[name]
        counts = evaluation["confusion_matrix"][k]
        shown = [f"{n} ({100 * n / sum(counts):.0f} %)" if n else "0" for n in counts]
        assert [*shown, str(sum(counts))] in found[name]
    assert ["4", "0.500", "0.250", "1.500", "-"] in found["0 (Bonn)"]
    assert ["5", "0.600", "-", "1.250", "nevus"] in found["1 (Jena)"]
    sites = evaluation["sites"]
    accuracy, balanced, loss = (
        f"{sites[key][0]:.3f}" for key in ("accuracy", "balanced_accuracy", "loss")
    )
    assert [str(sites["n"][0]), accuracy, balanced, loss, "-"] in found["0 (Bonn)"]
    melanoma = evaluation["operating"]["classes"]["melanoma"]
    low, high = melanoma["intervals"]["sensitivity"]
    assert found["sensitivity at the threshold"] == [
        [f"{melanoma['sensitivity']:.3f}", f"{low:.3f} to {high:.3f}"]
    ]


def drawing(text, name):
    """The drawing of this name, and its dots as values from 0 to 1 of its frame."""
    (found,) = (one for one in re.findall(r"<svg.*?</svg>", text) if f'id="{name}-title"' in one)
    root = ElementTree.fromstring(found)
    (frame,) = root.iter("rect")
    left, top, width, height = (float(frame.get(key)) for key in ("x", "y", "width", "height"))
    dots = [
        ((float(one.get("cx")) - left) / width, 1 - (float(one.get("cy")) - top) / height)
        for one in root.iter("circle")
        if one.get("r") == "4.5"
    ]
    return root, dots


def test_operating_points_are_marked_where_they_are_measured(run):
    workdir, evaluation = run
    text, found = render(workdir), workdirs.predicted()
    row = evaluation["operating"]["classes"]["melanoma"]
    _, (roc, _) = drawing(text, "roc-0")  # the other dot is in the legend
    assert roc == pytest.approx((1 - row["specificity"], row["sensitivity"]), abs=1e-3)
    called, positive = found.probabilities[:, 0] >= row["threshold"], found.label == 0
    _, (precise, _) = drawing(text, "pr-0")
    expected = row["sensitivity"], positive[called].mean()
    assert precise == pytest.approx(expected, abs=1e-3)
    root, _ = drawing(text, "decision-0")
    false = (called & ~positive).sum() / 60 * 0.5 / (1 - 0.5)  # its threshold is 0.5
    benefit = (called & positive).sum() / 60 - false
    assert f"operating point: {benefit:.3g} at 0.5." in root.find("desc").text
    assert drawing(text, "roc-1")[1] == []


def test_the_rounds_the_bytes_and_the_contribution_are_shown(run):
    found = rows(render(run[0]))
    assert found["1"] == [["3.000", "2.000", "0.500", "0.250"]]
    assert found["sent by the hospitals"] == [["2,400", "2.4 kB", "1.2 kB"]]
    assert found["Bonn"] == [["20", "+0.2500", "+0.5000 ± 0.1250", "50.0 %"]]
    assert found["rounds trained"] == [["2 of 2"]]


def test_the_most_certain_mistake_comes_first(run):
    found = workdirs.predicted()
    guess = found.probabilities.argmax(axis=1)
    wrong = [i for i in range(60) if guess[i] != found.label[i]]
    first, *others = sorted(wrong, key=lambda i: -found.probabilities[i, guess[i]])
    text = render(run[0])
    mistakes = text[text.index('<section id="mistakes"') :]
    names = [one for one in rows(mistakes) if one.endswith(".png")]
    assert names[0] == str(found.image[first])
    assert names == [str(found.image[i]) for i in (first, *others)][:20]
    assert "<img" not in text


def test_a_comparison_is_reported(compared):
    workdir, result = compared
    found = rows(render(workdir))
    minus = result["federated_minus"]["balanced_accuracy"]
    cells = [
        f"{minus[of]['mean']:+.3f} ({minus[of]['interval'][0]:+.3f} to "
        f"{minus[of]['interval'][1]:+.3f})"
        for of in ("centralized", "local", "local_1")
    ]
    assert cells[:2] in found["balanced accuracy"]
    assert [cells[2], "nevus"] == found["1 (Jena)"][0][1:]
    for setting, place in (("local", 0), ("federated", 1), ("centralized", 2)):
        scores = [one["accuracy"] for one in result["scores"][setting]]
        shown = found["accuracy"][0][place]
        assert shown.startswith(f"{sum(scores) / 2:.3f} ± ")
        seed = result["scores"][setting][1]["balanced_accuracy"]
        assert found["1"][0][place] == f"{seed:.3f}"
    assert "fedjax-med compare --seeds=0,1" in render(workdir)
    assert sections(render(workdir)) == ["summary", "comparison", "again"]


# Without the file, the sections that are not there.
LACKING = {
    "evaluation.json": {"results", "confusion", "hospitals"},
    "predictions.csv": {"discrimination", "decision", "calibration", "mistakes"},
    "metrics.jsonl": {"curves", "communication"},
    "contribution.json": {"contribution"},
    "audit.json": {"images"},
}


@pytest.mark.parametrize("file", LACKING)
def test_sections_that_lack_their_file_are_left_out(tmp_path, file):
    workdirs.write_run(tmp_path)
    whole = sections(render(tmp_path))
    assert set(whole) == ORDER.keys() - {"comparison"}
    (tmp_path / file).unlink()
    left = [name for name in whole if name not in LACKING[file]]
    assert sections(render(tmp_path)) == left


def test_of_a_run_that_has_only_begun_there_are_three_sections(tmp_path):
    workdirs.write_experiment(tmp_path)
    assert sections(render(tmp_path)) == ["summary", "privacy", "again"]
    assert "0 of 2" in render(tmp_path)


def test_the_shelf_is_in_the_list():
    files = {file.stem for file in SHELF.glob("[a-z]*.py")}
    assert ORDER.keys() == files


def test_the_page_is_well_formed(run, compared):
    for workdir in (run[0], compared[0]):
        text = render(workdir)
        read = Reader(text)
        elements = [name for name, _ in read.seen]
        assert elements[:2] == ["html", "head"]
        assert read.seen[0][1] == {"lang": "en"}
        for name, attributes in read.seen:
            assert name != "th" or attributes["scope"] in ("row", "col")
        assert all(read.headings)
        ids = [value for name, value in read.attributes if name == "id"]
        assert len(ids) == len(set(ids))
        named = [
            one
            for key, value in read.attributes
            if key == "aria-labelledby"
            for one in value.split()
        ]
        links = [value[1:] for name, value in read.attributes if name == "href"]
        assert set(named + links) <= set(ids)
        assert elements.count("table") == elements.count("caption")


def test_every_drawing_is_xml_with_a_title_and_a_description(run):
    drawings = re.findall(r"<svg.*?</svg>", render(run[0]), re.DOTALL)
    assert len(drawings) == 2 + 3 * 2 + 3 + 1
    for one in drawings:
        root = ElementTree.fromstring(one)
        assert root[0].tag == "title"
        assert root[0].text
        assert root[1].tag == "desc"
        assert root[1].text


def test_nothing_runs_and_nothing_is_loaded(run):
    text = render(run[0])
    read = Reader(text)
    allowed = {"charset", "http-equiv", "content", "name", "lang", "id", "class", "scope", "href"}
    allowed |= {"role", "tabindex", "aria-label", "aria-labelledby", "viewbox", "points", "r", "x"}
    allowed |= {"y", "x1", "x2", "y1", "y2", "cx", "cy", "width", "height", "text-anchor"}
    allowed |= {"transform"}
    assert {name for name, _ in read.attributes} <= allowed
    assert all(value[0] == "#" for name, value in read.attributes if name == "href")
    elements = {name for name, _ in read.seen}
    assert not elements & {"script", "img", "link", "iframe", "object", "embed", "form", "base"}
    assert "http:" not in text
    assert "https:" not in text
    assert "url(" not in text
    assert "@import" not in text


def test_names_are_text_whatever_they_hold(tmp_path):
    names = (f"{HOSTILE}a", f"{HOSTILE}b", f"{HOSTILE}c")
    found = workdirs.predicted(image=HOSTILE + "{label}/{number}.png")
    workdirs.write_run(tmp_path, names, found)
    file = tmp_path / "experiment.json"
    saved = json.loads(file.read_text())
    saved["experiment"]["name"] = saved["code"] = HOSTILE
    file.write_text(json.dumps(saved))
    text = render(tmp_path)
    read = Reader(text)
    assert "script" not in {name for name, _ in read.seen}
    assert "<script" not in text.lower()
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "&lt;script&gt;" in text
    assert any("<script>" in cell for cell in read.cells)
    for one in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        ElementTree.fromstring(one)


def test_the_same_files_give_the_same_bytes(run, tmp_path, monkeypatch):
    copy = tmp_path / "elsewhere"
    shutil.copytree(run[0], copy)
    monkeypatch.setattr("time.time", lambda: 0.0)
    assert page.write(copy).read_bytes() == page.write(run[0]).read_bytes()
    lines = (copy / "metrics.jsonl").read_text()
    (copy / "metrics.jsonl").write_text(lines.replace('"seconds": 0.5', '"seconds": 7.25'))
    assert page.write(copy).read_bytes() == page.write(run[0]).read_bytes()


def test_the_report_is_as_closed_as_the_run(run, tmp_path):
    copy = tmp_path / "closed"
    shutil.copytree(run[0], copy)
    (copy / "experiment.json").chmod(0o600)
    (copy / "report.html").unlink(missing_ok=True)
    assert page.write(copy).stat().st_mode & 0o777 == 0o600


# A file, the values that are changed in it, and what the line says.
DAMAGES = {
    "no object": ("evaluation.json", "[1]", "evaluation.json cannot be read"),
    "nested": ("audit.json", "[" * 99 + "]" * 99, "audit.json cannot be read"),
    "no classes": ("evaluation.json", {"per_class": None}, "evaluation.json cannot be read"),
    "no matrix": ("evaluation.json", {"confusion_matrix": [[1]]}, "evaluation.json cannot be"),
    "negative": (
        "evaluation.json",
        {"confusion_matrix": [[-1, 0, 0]] * 3},
        "evaluation.json cannot be read",
    ),
    "no numbers": ("evaluation.json", {"intervals": {}}, "evaluation.json cannot be read"),
    "infinite": ("evaluation.json", {"ece": float("inf")}, "evaluation.json cannot be read"),
    "other images": ("evaluation.json", {"n": 7}, "different images or classes"),
    "no names": ("evaluation.json", {"client_names": ["Bonn"]}, "evaluation.json cannot be read"),
    "clients": ("evaluation.json", {"clients": {"n": [1]}}, "evaluation.json cannot be read"),
    "huge": ("contribution.json", {"hospitals": [10**400]}, "contribution.json cannot be read"),
    "a metric": ("contribution.json", {"metric": "x"}, "contribution.json cannot be read"),
    "no audit": ("audit.json", {"classes": {"a": 1}}, "audit.json cannot be read"),
    "no table": ("predictions.csv", "image,label\n1,2\n", "predictions.csv cannot be read"),
    "no images": ("predictions.csv", "image,client,label,a\n", "predictions.csv: expected"),
    "no shares": ("predictions.csv", "image,client,label,a\nx,,a,7.5\n", "sum to 1"),
    "experiment": ("experiment.json", {"experiment": 5}, "experiment.json cannot be read"),
    "no round": ("metrics.jsonl", '{"round": 1, "clients": {"steps": 1}, "seconds": 1}', "metrics"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_told_in_one_line(tmp_path, capsys, damage):
    file, change, expected = DAMAGES[damage]
    workdirs.write_run(tmp_path)
    (tmp_path / "report.html").write_text("before")
    path = tmp_path / file
    if isinstance(change, dict):
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
    else:
        path.write_text(change)
    assert cli.main(["report", f"--workdir={tmp_path}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert expected in line
    assert (tmp_path / "report.html").read_text() == "before"


JUNK = [HOSTILE, None, [], {}, -1, 1e300, 10**400, True, [[["a"]]], {"a": {}}, "nan", 2**63]


def places(value, way=()):
    """The ways to all values inside of `value`."""
    items = enumerate(value) if isinstance(value, list) else getattr(value, "items", list)()
    for key, one in items:
        yield (*way, key)
        yield from places(one, (*way, key))


def put(value, way, junk):
    for key in way[:-1]:
        value = value[key]
    value[way[-1]] = junk


@pytest.mark.parametrize("file", ["evaluation.json", "comparison.json", "others", "metrics.jsonl"])
def test_whatever_a_file_holds_is_reported_or_refused(tmp_path, file):
    comparison = file == "comparison.json"
    (workdirs.write_comparison if comparison else workdirs.write_run)(tmp_path)
    rng, refused = random.Random(7), 0
    names = ["audit.json", "contribution.json", "experiment.json"] if file == "others" else [file]
    texts = {name: (tmp_path / name).read_text().splitlines() for name in names}
    for _ in range(60):
        name = rng.choice(names)
        lines = texts[name] if name == "metrics.jsonl" else ["".join(texts[name])]
        values = list(map(json.loads, lines))
        put(values[0], rng.choice(list(places(values[0]))), rng.choice(JUNK))
        (tmp_path / name).write_text("\n".join(map(json.dumps, values)))
        try:
            text = render(tmp_path)
        except UserError as error:
            refused += "\n" not in str(error)
        else:
            Reader(text)
            assert "<script" not in text.lower()
            for one in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
                ElementTree.fromstring(one)
        (tmp_path / name).write_text("\n".join(texts[name]))
    assert 0 < refused < 60


@pytest.mark.parametrize(
    "change", [{"seeds": []}, {"folds": "x"}, {"scores": 1}, {"federated_minus": {"accuracy": {}}}]
)
def test_a_damaged_comparison_is_told_in_one_line(tmp_path, capsys, change):
    found = workdirs.write_comparison(tmp_path)
    (tmp_path / "comparison.json").write_text(json.dumps(found | change))
    assert cli.main(["report", f"--workdir={tmp_path}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "comparison.json cannot be read" in line
    assert "compare" in line


def test_privacy_is_the_epsilon_of_all_rounds_or_none(run):
    given = inputs.read(run[0])
    assert "No epsilon is promised" in page.render(given)
    spent = {"unit": "client", "epsilon": 0.0, "delta": 1e-5, "noise_multiplier": 1.5}
    records = tuple(
        one | {"epsilon": epsilon} for one, epsilon in zip(given.records, (1.0, 2.5), strict=True)
    )
    private = dataclasses.replace(given, saved=given.saved | {"privacy": spent}, records=records)
    text = page.render(private)
    assert "Epsilon 2.5 at delta 1e-05" in text
    assert "No epsilon is promised" not in text
    # Without the records nobody knows how many rounds have spent.
    assert "No epsilon" in page.render(dataclasses.replace(private, records=()))
    infinite = tuple(one | {"epsilon": None} for one in given.records)
    assert "infinite" in page.render(dataclasses.replace(private, records=infinite))


def test_many_classes_clients_and_images_stay_readable(tmp_path):
    names = tuple(f"class {k}" for k in range(50))
    found = workdirs.predicted(count=500, classes=50)
    evaluation = workdirs.write_run(tmp_path, names, found)
    many = {"n": [5] * 99, **{key: [0.5] * 99 for key in ("accuracy", "balanced_accuracy", "loss")}}
    changed = evaluation | {"clients": many, "client_names": []}
    tables.write_json(changed, tmp_path / "evaluation.json")
    text = render(tmp_path)
    assert "confusion" not in sections(text)
    assert text.count("<svg") == 2 + 12 * 2 + 12 + 1
    assert "percentiles of 99 hospitals" in text


def test_there_must_be_a_run(tmp_path, capsys):
    with pytest.raises(UserError, match=r"neither an experiment\.json nor a comparison"):
        inputs.read(tmp_path)
    assert cli.main(["report"]) == 2
    assert cli.main(["report", f"--workdir={tmp_path / 'none'}"]) == 2
    assert not (tmp_path / "none").exists()
    assert "expected" in capsys.readouterr().err


def test_the_command_writes_where_it_is_told(run, tmp_path, capsys):
    out = tmp_path / "folder" / "one.html"
    assert cli.main(["report", f"--workdir={run[0]}", f"--out={out}"]) == 0
    assert capsys.readouterr().out == f"Written: {out}\n"
    assert out.read_text() == render(run[0])
    assert cli.main(["report", f"--workdir={run[0]}", f"--out={tmp_path}"]) == 2
    assert "is a folder" in capsys.readouterr().err


@pytest.mark.slow
def test_a_browser_sees_no_error(run):
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("there is no Chromium on this machine")
    file = page.write(run[0])
    options = ["--headless", "--disable-gpu", "--no-sandbox", "--enable-logging=stderr", "--v=0"]
    process = subprocess.run(
        [browser, *options, "--dump-dom", file.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    assert "CONSOLE" not in process.stderr
    assert "How to make it again" in process.stdout


SITES = {"name": "table", "options": {"path": "table.csv", "site": "hospital"}}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"dataset": config.Spec(**SITES)}, "by the sites of the table"),
        ({}, "by the folders of the hospitals"),
        ({"partition": config.Spec("by_column")}, "by_column"),
    ],
)
def test_what_divided_the_images_of_named_hospitals_is_told(run, tmp_path, fields, said):
    workdir = shutil.copytree(run[0], tmp_path / "run")
    workdirs.write_experiment(workdir, **fields)
    assert rows(render(workdir))["images divided"] == [[said]]


def test_each_hospital_is_named_with_the_images_that_it_trained_on(run, tmp_path):
    workdir = shutil.copytree(run[0], tmp_path / "run")
    saved = json.loads((workdir / "experiment.json").read_text())
    tables.write_json({**saved, "train_sizes": [1200, 7]}, workdir / "experiment.json")
    found = rows(render(workdir))
    assert ["1,200"] in found["0 (Bonn)"]
    assert ["7"] in found["1 (Jena)"]
    for damaged in ([1200], "many", [1, "x"]):
        tables.write_json({**saved, "train_sizes": damaged}, workdir / "experiment.json")
        assert "training images</caption>" not in render(workdir)


def test_operating_points_are_explained_only_where_there_are_some(run, tmp_path):
    workdir, evaluation = run
    assert "A dot is the operating point" in render(workdir)
    workdir = shutil.copytree(workdir, tmp_path / "run")
    tables.write_json({**evaluation, "operating": {}}, workdir / "evaluation.json")
    assert "A dot is the operating point" not in render(workdir)
