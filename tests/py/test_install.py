"""From a clone to an import: what is missing is said, what is built is whole, and it needs no more than it says."""

import fcntl
import itertools
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Not ours to hand on: a sanitizer is for this process, a compiler's settings are each test's own.
ENV = {k: v for k, v in os.environ.items() if k not in {"LD_PRELOAD", "PYTHONPATH", "CC", "CFLAGS", "AIF_SANITIZE"}}


def run(*command, check=True, cwd=None, **env):
    return subprocess.run(command, check=check, cwd=cwd, env={**ENV, **env}, capture_output=True, text=True)


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """The source distribution, made of a checkout."""
    folder = tmp_path_factory.mktemp("sdist")
    run(sys.executable, "setup.py", "-q", "egg_info", "--egg-base", folder, "sdist", "--dist-dir", folder, cwd=ROOT)
    (archive,) = folder.glob("*.tar.gz")
    return archive


@pytest.fixture(scope="module")
def tree(archive, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tree")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    (tree,) = folder.iterdir()
    return tree


def test_all_missing_headers_are_named_at_once(tmp_path):
    out = run(
        sys.executable,
        "setup.py",
        "build_ext",
        check=False,
        cwd=ROOT,
        PKG_CONFIG_LIBDIR=str(tmp_path),
        PKG_CONFIG_PATH="",
    )
    assert out.returncode == 1
    assert out.stderr == (
        "aiflow-ext: missing: libpq, libzmq, sqlite3, libmariadb; "
        "on Debian: apt-get install libpq-dev libzmq3-dev libsqlite3-dev libmariadb-dev\n"
    )


def test_without_a_compiler_or_pkg_config_they_are_named_too(tmp_path):
    out = run(sys.executable, "setup.py", "build_ext", check=False, cwd=ROOT, CC="nobody", PATH=str(tmp_path))
    assert out.returncode == 1
    assert out.stderr == (
        "aiflow-ext: missing: a C compiler, pkg-config, libpq, libzmq, sqlite3, libmariadb; on Debian: "
        "apt-get install gcc libc6-dev pkg-config libpq-dev libzmq3-dev libsqlite3-dev libmariadb-dev\n"
    )


# Writes down what it was asked, and makes the file that was asked for.
COMPILER = """#!/bin/sh
echo "$@" >>"$COMPILED"
while [ "$1" != -o ]; do shift; done
: >"$2"
"""


def test_what_decides_how_it_is_built_builds_it_again(tree, tmp_path):
    tree = shutil.copytree(tree, tmp_path / "tree")
    shutil.rmtree(tree / "csrc/core")  # what is left is enough, and takes less time
    compiled = tmp_path / "compiled"
    (tmp_path / "cc").write_text(COMPILER)
    (tmp_path / "cc").chmod(0o755)

    def built(**env):
        compiled.write_text("")
        env = {"COMPILED": str(compiled), "CC": f"{tmp_path}/cc", **env}
        run(sys.executable, "setup.py", "-q", "build_ext", "--inplace", cwd=tree, **env)
        return len(compiled.read_text().splitlines())

    everything = built()
    assert everything > 10
    assert built() == 0
    for env in ({"CFLAGS": "-O3"}, {"LDFLAGS": "-Wl,-z,now"}, {"AIF_SANITIZE": "thread"}):
        assert built(**env) == everything, env

    newer = tmp_path / "libpq.pc"
    newer.write_text("Name: libpq\nDescription: another one\nVersion: 99\nLibs: -lpq\n")
    assert built(PKG_CONFIG_PATH=str(tmp_path)) == everything
    assert built() == everything
    (tree / "csrc/py/watch.c").unlink()
    assert built() == everything - 1


def test_a_source_distribution_gives_a_wheel_that_installs(archive, tmp_path):
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, archive)
    (wheel,) = tmp_path.glob("*.whl")
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv")
    python = tmp_path / "venv/bin/python"
    run(*pip, "--python", python, "install", "--no-deps", "--no-index", wheel)  # events need nothing else
    program = "from aiflow_ext import Event, EventLog; print(EventLog('mem:').append([Event('k')], 'p', 1))"
    assert run(python, "-c", program, cwd=tmp_path).stdout == "[1]\n"
    assert "events" in run(tmp_path / "venv/bin/aiflow", "--help", cwd=tmp_path).stdout
    files = run(python, "-c", "import importlib.metadata as m; print(*m.files('aiflow-ext'))", cwd=tmp_path).stdout
    for file in ("py.typed", "_core.pyi", "db/alembic.ini"):
        assert f"/{file}" in files
    metadata = run(python, "-c", "import importlib.metadata as m; print(m.metadata('aiflow-ext'))", cwd=tmp_path).stdout
    assert "Classifier: Development Status :: " in metadata


@pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("apt-get"), reason="only root installs packages, and apt-get on Debian"
)
@pytest.mark.parametrize("lock", ["lists/lock", "cache/archives/lock", "lock-frontend", "lock"])
def test_another_apt_get_is_waited_for(lock, tmp_path):
    """An apt of our own, with a state of our own: it installs what is here already, and holds the true locks."""
    for folder in ("lists/partial", "cache/archives/partial", "bin"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy("/var/lib/dpkg/status", tmp_path)
    config = tmp_path / "apt.conf"
    config.write_text(
        f'Dir::State "{tmp_path}"; Dir::State::status "{tmp_path}/status"; Dir::State::lists "{tmp_path}/lists";'
        f'Dir::Cache "{tmp_path}/cache"; Dir::Etc::sourcelist "{os.devnull}"; Dir::Etc::sourceparts "{os.devnull}";'
    )
    for folder in ("/usr/sbin", "/usr/bin", "/sbin", "/bin"):  # all but one, which is then said to be missing
        for tool in Path(folder).iterdir():
            if tool.name != "pkg-config" and not (tmp_path / "bin" / tool.name).exists():
                (tmp_path / "bin" / tool.name).symlink_to(tool)
    env = {**ENV, "PATH": f"{tmp_path}/bin", "APT_CONFIG": str(config), "PYTHON": sys.executable}
    with (tmp_path / lock).open("w") as held:
        fcntl.lockf(held, fcntl.LOCK_EX)
        command = [ROOT / ".ci/deps", "build"]
        with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as deps:
            said = list(
                itertools.takewhile(lambda line: not line.startswith("Another apt-get is at work"), deps.stdout)
            )
            still_waits = deps.poll() is None
            fcntl.lockf(held, fcntl.LOCK_UN)
            said += deps.stdout
    assert still_waits, said
    assert deps.returncode == 0, said
