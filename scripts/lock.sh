#!/bin/sh
# Writes requirements.lock and requirements-dev.lock from pyproject.toml: versions, hashes and
# markers for every Python from 3.11 on, without any index address. Needs `pip install uv`.
set -eu
cd "$(dirname "$0")/.."
build=$(mktemp)
trap 'rm -f "$build"' EXIT
echo "setuptools>=77" > "$build" # the build backend, so that nothing is installed unpinned

lock() { # FILE COMMENT [OPTION ...]
    file=$1 comment=$2
    shift 2
    uv pip compile --quiet pyproject.toml "$build" --universal --python-version 3.11 \
        --generate-hashes --no-header --no-annotate --no-emit-index-url --no-emit-find-links \
        --output-file "$file" "$@"
    printf '# %s, for Python 3.11 and later, with hashes; written by scripts/lock.sh.\n' \
        "$comment" | cat - "$file" > "$file.new"
    mv "$file.new" "$file"
}

lock requirements.lock 'Everything that `make train` needs'
lock requirements-dev.lock 'Everything that `make test` needs' --extra dev \
    --constraint requirements.lock
