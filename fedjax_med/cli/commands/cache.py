"""lists what is kept in the cache folder, or clears it.

Prepared images, features of frozen layers and compiled programs are kept so that later runs begin
sooner; all are made again when they are needed. --clear removes what no run uses at the moment.
"""

from absl import flags as absl_flags

from fedjax_med.data import cache
from fedjax_med.errors import expand
from fedjax_med.files import clear_temporary, writing
from fedjax_med.run.metrics_writer import size_in_words
from fedjax_med.run.workdir import CACHE_DIR


def define_flags(flags: absl_flags.FlagValues, arguments: list[str]) -> None:
    """Define the command's flags on `flags`."""
    absl_flags.DEFINE_string("cache_dir", CACHE_DIR, "the cache folder", flag_values=flags)
    absl_flags.DEFINE_boolean(
        "clear", False, "remove everything that no run uses", flag_values=flags
    )


def run(flags: absl_flags.FlagValues) -> int:
    """List or clear the cache folder; return the exit code."""
    folder = expand(flags.cache_dir).absolute()
    found = cache.entries(folder)
    freed, rows = 0, []
    if flags.clear:
        clear_temporary(folder)
    for entry in found:
        said = ""
        if flags.clear:
            with writing(entry.path):
                gone = cache.remove(entry)
            freed += entry.size if gone else 0
            said = "  removed" if gone else "  stays: a run uses it"
        name = entry.path.relative_to(folder)
        rows.append(f"{size_in_words(entry.size):>8}  {entry.kind:<18} {name}{said}")
    for row in rows:  # not before all are removed, whether or not somebody reads them
        print(row)
    total = sum(entry.size for entry in found)
    print(f"{size_in_words(total):>8}  in {folder}; {size_in_words(freed)} of it removed.")
    return 0
