"""predicts the classes of images with a bundle that `export` wrote.

Writes a row for each image: its file, the predicted class, the probability of each class and, where
it cannot be read, why. For research: a bundle is not a medical device (docs/export.md).
"""

from absl import flags as absl_flags

from fedjax_med.artifact import bundle, images, predict, program
from fedjax_med.cli.flags import define_components, define_model
from fedjax_med.errors import UserError, expand
from fedjax_med.run.workdir import CACHE_DIR, check_file_writable


def define_flags(flags: absl_flags.FlagValues, arguments: list[str]) -> None:
    """Define the command's flags on `flags`."""
    define_model(flags)
    absl_flags.DEFINE_string(
        "images", "", "an image, or a folder with images, also in folders below", flag_values=flags
    )
    absl_flags.DEFINE_string(
        "out", "predictions.csv", "the file to write, .csv or .json", flag_values=flags
    )
    absl_flags.DEFINE_string(
        "cache_dir", CACHE_DIR, "where compiled programs are kept", flag_values=flags
    )
    absl_flags.DEFINE_boolean(
        "program",
        False,
        "run the bundle's program instead of building its model; trust whoever made it",
        flag_values=flags,
    )
    define_components(flags)


def run(flags: absl_flags.FlagValues) -> int:
    """Predict the images, write the table and show a few; return the exit code."""
    if not flags.model or not flags.images:
        raise UserError("expected --model=BUNDLE, a folder of `fedjax-med export`, and --images.")
    out = expand(flags.out)
    if out.suffix.lower() not in predict.SUFFIXES:
        raise UserError(f"expected --out=FILE.csv or FILE.json, got {flags.out}.")
    check_file_writable(out)
    model = bundle.read(expand(flags.model), flags.allow_components)
    compiled = program.reader(model) if flags.program else None
    listed = images.listing(expand(flags.images))
    predicted = predict.predict_files(model, listed.files, compiled)
    predict.write(predicted, model, out)
    for line in predict.shown(predicted, model):
        print(line)
    if listed.others:
        print(f"{listed.others:,} other files there are no images by their names: left out.")
    print(f"Written: {out}")
    return 0
