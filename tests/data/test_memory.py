"""The memory that a process may use, from fake trees of /proc and of cgroups."""

import resource

import pytest

from fedjax_med.data import memory

V2 = "30 24 0:26 {top} {place} rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "33 24 0:29 {top} {place} rw,nosuid shared:9 - cgroup cgroup rw,memory\n"
OTHER = "34 24 0:30 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\nnonsense\n"


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """A machine with 64 GiB whose processes are not limited."""
    monkeypatch.setattr(memory, "_machine", lambda: 64 * 2.0**30)
    monkeypatch.setattr(memory, "_limits", lambda: [])


def tree(root, own, mounts, files):
    """A folder that looks like the root of a system."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(own)
    (root / "proc/self/mountinfo").write_text(mounts)
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{text}\n")
    return root


@pytest.mark.parametrize(
    ("own", "mounts", "files"),
    [
        pytest.param(
            "0::/\n", V2.format(top="/", place="/cg"), {"cg/memory.max": 4096}, id="container"
        ),
        pytest.param(
            "0::/user.slice/a.scope\n",
            V2.format(top="/", place="/cg"),
            {"cg/user.slice/a.scope/memory.max": 4096, "cg/user.slice/memory.max": "max"},
            id="own",
        ),
        pytest.param(
            "0::/slurm/job_1/step_0\n",
            V2.format(top="/", place="/cg"),
            {"cg/slurm/job_1/step_0/memory.max": "max", "cg/slurm/job_1/memory.max": 4096},
            id="around",
        ),
        pytest.param(
            "0::/a\n",
            V2.format(top="/", place="/cg"),
            {"cg/a/memory.max": 8192, "cg/a/memory.high": 4096},
            id="throttled",
        ),
        pytest.param(
            "5:cpu,cpuacct:/x\n4:memory:/slurm/uid_0/job_1\n0::/x\n",
            OTHER + V1.format(top="/", place="/cg/memory"),
            {
                "cg/memory/memory.limit_in_bytes": 9223372036854771712,
                "cg/memory/slurm/uid_0/memory.limit_in_bytes": 4096,
                "cg/memory/slurm/uid_0/job_1/memory.limit_in_bytes": 8192,
                "x/memory.limit_in_bytes": 1,
            },
            id="version 1",
        ),
        pytest.param(
            "4:memory:/docker/1\n",
            V1.format(top="/docker/1", place="/cg/memory"),
            {"cg/memory/memory.limit_in_bytes": 4096},
            id="version 1 in a container",
        ),
        pytest.param(
            "4:memory:/docker/1\n",
            V1.format(top="/", place="/cg/memory"),
            {"cg/memory/memory.limit_in_bytes": 4096},
            id="a path of the host",
        ),
        pytest.param(
            "0::/../../job\n",
            V2.format(top="/", place="/c\\040g"),
            {"c g/memory.max": 4096},
            id="outside of the namespace",
        ),
    ],
)
def test_limits_of_cgroups_are_found_wherever_they_are_set(tmp_path, own, mounts, files):
    root = tree(tmp_path, own, mounts, files)
    assert memory.memory_bytes(root, {}) == 4096


@pytest.mark.parametrize(
    ("environ", "mebibytes"),
    [
        ({"SLURM_MEM_PER_NODE": "2000"}, 2000),
        ({"SLURM_MEM_PER_CPU": "500", "SLURM_CPUS_ON_NODE": "4"}, 2000),
        ({"SLURM_MEM_PER_GPU": "1000", "SLURM_GPUS_ON_NODE": "2"}, 2000),
        ({"SLURM_MEM_PER_NODE": "0"}, 64 * 1024),  # all of it
        ({"SLURM_MEM_PER_CPU": "500"}, 64 * 1024),
        ({"SLURM_MEM_PER_NODE": "many"}, 64 * 1024),
    ],
)
def test_what_slurm_gave_counts(tmp_path, environ, mebibytes):
    assert memory.memory_bytes(tmp_path, environ) == mebibytes * 2**20


def test_what_ulimit_allows_counts(tmp_path, monkeypatch):
    monkeypatch.undo()
    limits = {resource.RLIMIT_AS: 10**9, resource.RLIMIT_DATA: resource.RLIM_INFINITY}
    monkeypatch.setattr(resource, "getrlimit", lambda number: (limits[number], -1))
    monkeypatch.setattr(memory, "_machine", lambda: 64 * 2.0**30)
    assert memory.memory_bytes(tmp_path, {}) == 10**9


def test_a_system_that_tells_nothing_limits_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "_machine", lambda: float("inf"))
    assert memory.memory_bytes(tmp_path, {}) == float("inf")
