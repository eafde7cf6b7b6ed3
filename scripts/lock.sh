#!/bin/sh
# Writes requirements.lock, requirements-dev.lock and requirements-docs.lock from pyproject.toml:
# versions, hashes and markers for every Python from 3.11 on, without any index address. Needs
# `pip install uv`. `scripts/lock.sh docs` writes the last one alone.
set -eu
cd "$(dirname "$0")/.."
build=$(mktemp)
trap 'rm -f "$build"' EXIT
# The build backend, so that nothing is installed unpinned; promise has no wheel, and older versions
# of pip build such a package with `wheel` too.
printf 'setuptools>=77\nwheel\n' > "$build"

lock() { # FILE COMMENT SOURCE-OR-OPTION ...
    file=$1 comment=$2
    shift 2
    uv pip compile --quiet "$@" --universal --python-version 3.11 \
        --generate-hashes --no-header --no-annotate --no-emit-index-url --no-emit-find-links \
        --output-file "$file"
    printf '# %s, for Python 3.11 and later, with hashes; written by scripts/lock.sh.\n' \
        "$comment" | cat - "$file" > "$file.new"
    mv "$file.new" "$file"
}

if [ "${1:-all}" = all ]; then
    lock requirements.lock 'Everything that `make train` needs' pyproject.toml "$build"
    lock requirements-dev.lock 'Everything that `make test` needs' pyproject.toml "$build" \
        --extra dev --constraint requirements.lock
fi
lock requirements-docs.lock 'Everything that `make docs` needs' --group docs
