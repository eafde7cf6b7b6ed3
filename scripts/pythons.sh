#!/usr/bin/env bash
# The Pythons that continuous integration tests on: 3.11, the oldest that is supported, and the newest
# from 3.13 on. Prints "VERSION INTERPRETER" for each that the machine has, and on standard error which
# it did not find; fails where it has none of them.
set -euo pipefail

# What is on the PATH may refuse to run (pyenv's shims do where their version is not the chosen one)
# or be unable to make environments; pyenv's own interpreters come after it.
candidates() {
    for name in $(compgen -c python3 | sort -u); do
        [[ $name =~ ^python3(\.[0-9]+)?$ ]] && type -aP "$name"
    done
    for python in "$(pyenv root)"/versions/*/bin/python3; do
        echo "$python"
    done
}

usable() {
    candidates 2>/dev/null | while read -r python; do
        "$python" -c 'if True:
            import ensurepip, sys, venv
            major, minor, _, level, _ = sys.version_info
            if level == "final":
                print("%d.%d %s" % (major, minor, sys.executable))
        ' 2>/dev/null </dev/null || true
    done
}

all=$(usable | sort -s -V -k 1,1)
oldest=$(awk '$1 == "3.11" { print; exit }' <<<"$all")
newest=$(awk '{ split($1, v, "."); if (v[2] >= 13 && $1 != last) found = $0; last = $1 } END { print found }' <<<"$all")

[[ $oldest ]] && echo "$oldest" || echo "Python 3.11, the oldest supported one, was not found." >&2
[[ $newest ]] && echo "$newest" || echo "Python 3.13 or later was not found." >&2
[[ $oldest || $newest ]]
