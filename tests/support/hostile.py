"""What a stranger may put where a file is expected: nothing of it may hang or fill the memory."""

import os
import socket
from pathlib import Path

KINDS = {
    "pipe": "a named pipe",
    "pipe link": "a named pipe",
    "device": "a device",
    "socket": "socket|No such device",
    "folder": "a folder|Is a directory",
    "dangling": "No such file",
    "loop": "symbolic links",
    "huge": "MB, expected at most",
}


def make(path, kind):
    """Make at `path` a thing of `kind`, which is one of `KINDS`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "pipe link":
        os.mkfifo(path.with_name(f".{path.name}"))
        path.symlink_to(path.with_name(f".{path.name}"))
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "socket":
        here = Path.cwd()  # a socket's path must be short
        os.chdir(path.parent)
        try:
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(path.name)
        finally:
            os.chdir(here)
    elif kind == "folder":
        path.mkdir()
    elif kind == "dangling":
        path.symlink_to(path.with_name("nowhere"))
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "huge":
        path.touch()
        os.truncate(path, 2**40)  # sparse
