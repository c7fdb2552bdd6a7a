import json
import multiprocessing
import os
import tomllib
from functools import partial

import pytest

from aiflow_ext import _core
from aiflow_ext.broker import keys
from aiflow_ext.errors import AccessError, ConflictError
from aiflow_ext.events import keyfile


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "keys"


@pytest.fixture
def aiflow(aiflow, folder, monkeypatch):
    monkeypatch.setenv("AIFLOW_KEYS", str(folder))
    return partial(aiflow, "keys")


def mode(path):
    return path.stat().st_mode & 0o777


def make(folder, name, publish=("a",), read=("*",)):
    return keyfile.load_client_key(keys.new_key(name, publish, read, folder)[0])


def secrets(folder):
    return [tomllib.loads(path.read_text())["secret"] for path in folder.glob("*.key")]


def test_a_pair_is_made_by_the_core():
    public, secret = _core.curve_keypair()
    assert len(public) == len(secret) == 40
    assert _core.curve_public(secret) == public
    with pytest.raises(ValueError, match="40 characters") as caught:
        _core.curve_public(secret[:-1])
    assert secret[:10] not in str(caught.value)


@pytest.mark.parametrize(
    ("table", "error", "text"),
    [
        ([("x", "ann", [], [])], ValueError, "public key of ann is no key"),
        ([1], TypeError, "not iterable"),
        ([("a", "b", [])], TypeError, "a key is"),
        ([("a", "b", "abc", [])], TypeError, "publish: a sequence of str, not a str"),
        ([("a", "b", [1], [])], TypeError, "namespace must be str"),
        ("abc", TypeError, "not a str"),
    ],
)
def test_a_table_is_checked(table, error, text):
    with pytest.raises(error, match=text):
        _core.check_access(table)


def test_files_are_for_their_owner_only(folder):
    key = make(folder, "ann")
    assert mode(folder) == 0o700
    assert {path.name: mode(path) for path in folder.iterdir()} == {
        "broker.key": 0o600,
        "access.toml": 0o600,
        "ann.key": 0o600,
    }
    assert _core.curve_public(keys.load_broker_key(folder)) == key.server
    assert make(folder, "bob").server == key.server
    assert keys.load_access(folder)[0] == keys.Grant("ann", key.public, ("a",), ("*",))


def test_no_secret_is_shown(folder, aiflow):
    shown = "".join(map(str, aiflow("new", "ann", "--read", "*")))
    shown += "".join(map(str, aiflow("list")))
    shown += "".join(map(str, aiflow("list", "-o", "json")))
    shown += "".join(map(str, aiflow("new", "ann", "--read", "*")))
    shown += repr(keyfile.load_client_key(folder / "ann.key"))
    shown += "".join(map(str, aiflow("revoke", "ann")))
    (folder / "access.toml").write_text("[keys.x]\nsecret = 'no'\n")
    shown += "".join(map(str, aiflow("list")))
    assert len(shown) > 500
    for secret in secrets(folder):
        assert secret not in shown


def test_new_list_revoke(folder, aiflow, tmp_path):
    out = tmp_path / "handed-over.key"
    code, printed, said = aiflow("new", "team-a", "--publish", "team-a.*", "--publish", "x", "--out", str(out))
    assert (code, printed) == (0, f"{out}\n")
    assert "broker.key: it stays" in said
    assert "AIFLOW_KEY_FILE" in said
    assert aiflow("new", "bob", "--read", "*")[0] == 0
    code, printed, _ = aiflow("list", "-o", "json")
    rows = json.loads(printed)
    assert [row["name"] for row in rows] == ["bob", "team-a"]
    assert rows[1]["publish"] == ["team-a.*", "x"]
    assert rows[1]["public"] == keyfile.load_client_key(out).public
    code, printed, _ = aiflow("list")
    assert printed.splitlines()[2].split()[:3] == ["team-a", "team-a.*", "x"]
    code, _, said = aiflow("revoke", "bob", "team-a")
    assert code == 0
    assert f"removed {folder / 'bob.key'}" in said
    assert out.exists()  # not ours to remove
    assert keys.load_access(folder) == []
    assert aiflow("revoke", "bob")[0] == 1


@pytest.mark.parametrize(
    ("argv", "code", "text"),
    [
        (["new", "ann"], 2, "what may ann do"),
        (["new", "../ann", "--read", "*"], 1, "'../ann' is no name"),
        (["new", "broker", "--read", "*"], 1, "not broker"),
        (["new", "a.b", "--read", "*"], 1, "no name"),
        (["new", "ann", "--read", ""], 1, "namespace is empty"),
        (["new", "ann", "--read", "x" * 256], 1, "256 bytes"),
        (["new", "ann", "--read", "*", "--out", __file__], 1, "is there already"),
        (["new", "ann", "--read", "*", "--out", "/nowhere/ann.key"], 1, "No such file"),
        (["revoke", "ann"], 1, "no keys to revoke"),
        (["list"], 1, "access.toml, so there are no keys"),
        ([], 2, "COMMAND"),
    ],
)
def test_what_makes_no_sense_is_refused_and_leaves_nothing(aiflow, folder, argv, code, text):
    got, printed, said = aiflow(*argv)
    assert (got, printed) == (code, "")
    assert text in said
    assert not folder.exists() or list(folder.iterdir()) == []


def test_a_key_is_never_written_over(folder, tmp_path):
    before = make(folder, "ann")
    with pytest.raises(ConflictError, match="has a key ann"):
        make(folder, "ann")
    out = tmp_path / "mine"
    out.write_text("mine")
    with pytest.raises(ConflictError, match="never written over"):
        keys.new_key("bob", ["b"], [], folder, out)
    assert out.read_text() == "mine"
    assert keyfile.load_client_key(folder / "ann.key") == before
    assert [grant.name for grant in keys.load_access(folder)] == ["ann"]


def test_revoke_keeps_what_people_wrote(folder):
    for name in ("ann", "bob", "eve"):
        make(folder, name)
    path = folder / "access.toml"
    text = path.read_text()
    assert text.startswith("# Which key may")
    text = text.replace("[keys.bob]", "# bob is on leave\n[ keys . 'bob' ] # he is\n# still his")
    text = text.replace("[keys.eve]", "# eve's own\n[keys.eve]").replace('read = ["*"]', 'read = [\n  "*", # all\n]', 2)
    path.write_text(text)
    path.chmod(0o640)
    keys.revoke_key("bob", folder)
    left = path.read_text()
    assert [grant.name for grant in keys.load_access(folder)] == ["ann", "eve"]
    assert "# Which key may" in left
    assert "# eve's own\n[keys.eve]" in left
    assert "still his" not in left
    assert mode(path) == 0o640
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    keys.revoke_key("eve", folder)
    keys.revoke_key("ann", folder)
    assert keys.load_access(folder) == []


def test_what_is_written_in_another_way_is_left_alone(folder):
    key = make(folder, "ann")
    path = folder / "access.toml"
    path.write_text(f'keys.ann = {{ public = "{key.public}" }}\n')
    with pytest.raises(ValueError, match="take it out by hand"):
        keys.revoke_key("ann", folder)
    assert [grant.name for grant in keys.load_access(folder)] == ["ann"]


@pytest.mark.parametrize("name", ["ann.key", "broker.key"])
@pytest.mark.parametrize("bits", [0o644, 0o640, 0o602, 0o777])
def test_a_secret_that_others_may_read_is_refused(folder, name, bits):
    make(folder, "ann")
    (folder / name).chmod(bits)
    with pytest.raises(AccessError, match=rf"chmod go-rwx .*{name}") as caught:
        keyfile.load_client_key(folder / name) if name == "ann.key" else keys.load_broker_key(folder)
    assert isinstance(caught.value, PermissionError)
    (folder / name).chmod(0o400)
    assert keyfile.load_client_key(folder / "ann.key") if name == "ann.key" else keys.load_broker_key(folder)


def test_what_others_may_change_is_refused(folder):
    make(folder, "ann")
    (folder / "access.toml").chmod(0o644)
    assert keys.load_access(folder)
    (folder / "access.toml").chmod(0o664)
    with pytest.raises(AccessError, match=r"others may change .*chmod go-w"):
        keys.load_access(folder)
    folder.chmod(0o777)
    with pytest.raises(AccessError, match="chmod go-w"):
        keys.load_broker_key(folder)
    with pytest.raises(AccessError, match="chmod go-w"):
        make(folder, "bob")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it has no public"),
        ("secret = 1", "it has no public"),
        ('server = "x', "Unterminated string"),
        ('server = "x"\npublic = "x"\nsecret = "x"', "40 characters"),
        (b"\xff\xff", "no UTF-8"),
    ],
)
def test_a_file_that_is_no_key_is_refused(tmp_path, text, said):
    path = tmp_path / "k"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(0o600)
    with pytest.raises(ValueError, match=said):
        keyfile.load_client_key(path)


def test_a_pair_that_does_not_belong_together_is_refused(folder):
    make(folder, "ann")
    path = folder / "ann.key"
    path.write_text(path.read_text().replace(keyfile.load_client_key(path).secret, "0" * 40))
    with pytest.raises(ValueError, match="does not belong"):
        keyfile.load_client_key(path)


def test_a_client_is_told_its_file_by_the_environment(folder, monkeypatch):
    key = make(folder, "ann")
    path = folder / "ann.key"
    assert keyfile.client_key("tcp://127.0.0.1:1") is None
    assert keyfile.client_key("tcp://127.0.0.1:1", path) == key
    monkeypatch.setenv("AIRFLOW__AIFLOW__KEY_FILE", str(path))
    assert keyfile.client_key("ipc:///x,tcp://127.0.0.1:1") == key
    assert keyfile.client_key("ipc:///x") is None
    monkeypatch.setenv("AIFLOW_KEY_FILE", str(folder / "no.key"))
    with pytest.raises(FileNotFoundError):
        keyfile.client_key("tcp://127.0.0.1:1")


def test_keys_are_under_airflow_home_when_nobody_says_so(monkeypatch, tmp_path):
    monkeypatch.delenv("AIFLOW_KEYS", raising=False)
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))
    assert keys.keys_folder() == tmp_path / "aiflow" / "keys"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[key.ann]", r"has \['key'\]"),
        ("keys = 1", "no table"),
        ("[keys]\nann = 1", "no table"),
        ("[keys.ann]\nread = ['*']", "no public key"),
        ("[keys.ann]\npublic = 'x'\nwrite = ['*']", r"has \['write'\]"),
        ("[keys.ann]\npublic = 'x'\nread = '*'", "no list of texts"),
        ("[keys.ann]\npublic = 'x'\nread = [1]", "no list of texts"),
        ("[keys.ann]\npublic = 'x'", "is no key"),
        ("[keys.ann", "Expected ']'"),
    ],
)
def test_a_broken_access_file_is_refused(folder, text, said):
    folder.mkdir()
    (folder / "access.toml").write_text(text)
    with pytest.raises(ValueError, match=said) as caught:
        keys.load_access(folder)
    assert "access.toml" in str(caught.value)


def test_two_names_for_one_key_are_refused(folder):
    key = make(folder, "ann")
    with open(folder / "access.toml", "a") as file:
        file.write(f'[keys.bob]\npublic = "{key.public}"\n')
    with pytest.raises(ValueError, match="have the same public key"):
        keys.load_access(folder)


def test_changes_are_seen_once(folder):
    make(folder, "ann")
    file = keys.AccessFile(folder)
    assert [grant.name for grant in file.changed()] == ["ann"]
    assert file.changed() is None
    make(folder, "bob")
    assert [grant.name for grant in file.changed()] == ["ann", "bob"]
    text = (folder / "access.toml").read_text()
    times = (folder / "access.toml").stat()
    (folder / "access.toml").write_text(text.replace("keys.bob", "keys.rob"))
    os.utime(folder / "access.toml", ns=(times.st_atime_ns, times.st_mtime_ns))  # in the same tick, as long as before
    assert [grant.name for grant in file.changed()] == ["ann", "rob"]
    (folder / "access.toml").write_text("[")
    with pytest.raises(ValueError, match=r"access\.toml"):
        file.changed()
    assert file.changed() is None  # it was said
    (folder / "access.toml").unlink()
    assert file.changed() is None  # an editor may be replacing it
    assert file.changed() == []
    assert file.changed() is None
    make(folder, "eve")
    assert [grant.name for grant in file.changed()] == ["eve"]


def test_a_file_that_is_being_written_is_looked_at_again(folder):
    """Who writes it in place empties it first, and nobody's key is revoked by that."""
    make(folder, "ann")
    path = folder / "access.toml"
    text = path.read_text()
    file = keys.AccessFile(folder)
    assert [grant.name for grant in file.changed()] == ["ann"]
    path.write_text("")
    assert file.changed() is None
    path.write_text(text)
    assert file.changed() is None
    path.write_text("")
    assert file.changed() is None
    assert file.changed() == []
    path.unlink()
    assert file.changed() is None  # it let nobody in before
    path.write_text("")
    assert file.changed() is None


def test_a_file_that_never_was_lets_nobody_in(folder):
    folder.mkdir()
    file = keys.AccessFile(folder)
    assert file.changed() == []
    assert file.changed() is None


def _make_some(folder, start):
    for i in range(10):
        keys.new_key(f"k{start + i}", ["a"], [], folder)


def test_many_at_a_time_lose_nothing(folder):
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_make_some, args=(folder, 10 * i)) for i in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert {grant.name for grant in keys.load_access(folder)} == {f"k{i}" for i in range(30)}
    servers = {keyfile.load_client_key(path).server for path in folder.glob("k*.key")}
    assert len(servers) == 1


def test_a_full_disk_leaves_all_as_it_was(folder, monkeypatch):
    make(folder, "ann")
    before = {path.name: path.read_text() for path in folder.iterdir()}

    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        keys.new_key("bob", ["b"], [], folder)
    with pytest.raises(OSError, match="No space"):
        keys.revoke_key("ann", folder)
    assert {path.name: path.read_text() for path in folder.iterdir()} == before
