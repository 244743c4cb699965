"""The file that names the archives."""

from __future__ import annotations

from pathlib import Path

import pytest

from imaging.errors import BadParameter, ServerNotAllowed
from serving.pacs.config import Listener, Server, check_aet, load
from serving.pacs.tls import Tls
from serving.pacs.uids import check_uid

WHOLE = """
[servers.main]
url = "https://pacs.example/dicom-web"
wado = "wado"
user = "islet"
password_file = "secret"
tls = { ca = "ca.pem" }
timeout_s = 12

[peers.archive]
aet = "ARCHIVE"
host = "10.0.0.7"
port = 11112

[listener]
callers = ["CT1", "CT 2"]
send_to = "archive"
outputs = ["seg"]
"""


def write(folder: Path, text: str) -> Path:
    (folder / "ca.pem").write_text("")
    (folder / "secret").write_text("open sesame\n")
    path = folder / "pacs.toml"
    path.write_text(text)
    return path


def test_a_whole_file_is_read_with_paths_beside_it(tmp_path: Path) -> None:
    pacs = load(write(tmp_path, WHOLE))
    server = pacs.server("main")
    assert (server.url, server.wado, server.qido) == (
        "https://pacs.example/dicom-web",
        "wado",
        None,
    )
    assert (server.password(), server.timeout_s) == ("open sesame", 12)
    assert server.tls.ca == tmp_path / "ca.pem"
    assert pacs.destination("CT1") == pacs.peer("archive")
    assert pacs.listener is not None
    assert pacs.listener.outputs == ("seg",)


def test_without_a_file_nothing_may_be_asked() -> None:
    with pytest.raises(ServerNotAllowed, match="there are: none"):
        load(None).server("main")


def test_results_go_back_to_a_caller_that_is_a_peer(tmp_path: Path) -> None:
    pacs = load(
        write(
            tmp_path,
            WHOLE.replace('send_to = "archive"', "")
            .replace("CT1", "ARCHIVE")
            .replace('"ARCHIVE", "CT 2"', '"ARCHIVE"'),
        )
    )
    assert pacs.destination("ARCHIVE").name == "archive"
    with pytest.raises(ServerNotAllowed, match="CT9"):
        pacs.destination("CT9")


def test_a_caller_whose_results_would_go_nowhere_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ServerNotAllowed, match="CT1"):
        load(write(tmp_path, WHOLE.replace('send_to = "archive"', "")))


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("timeout_s = 12", "timeout = 12", "unknown key 'timeout'"),
        ("timeout_s = 12", "timeout_s = 0", "a number above 0"),
        ("https://pacs", "https://islet:pw@pacs", "without a user"),
        ("https://pacs", "file://pacs", "http:// or https://"),
        ('wado = "wado"', 'wado = "../x?y"', "letters, digits"),
        ('password_file = "secret"', "", "password_file and password_env"),
        ('"ca.pem"', '"none.pem"', "no such file"),
        ('ca = "ca.pem"', 'certificate = "ca.pem"', "certificate and key together"),
        ("[servers.main]", '[servers."Main PACS"]', "no name of an archive"),
        ('aet = "ARCHIVE"', 'aet = "ARCHIVE\\\\NO"', "no application entity title"),
        ("port = 11112", "port = 70000", "1 to 65535"),
        ('"CT1", "CT 2"', "", "no callers"),
        ('outputs = ["seg"]', 'outputs = ["nifti"]', "use some of"),
        ('outputs = ["seg"]', "outputs = 3", "a list of texts"),
        ('"archive"', '"elsewhere"', "no DIMSE peer"),
        ("[peers.archive]", "[peers", "cannot be read as TOML"),
        ("[listener]", "[extra]\n[listener]", "unknown key 'extra'"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, old: str, new: str, says: str) -> None:
    assert old in WHOLE
    with pytest.raises((BadParameter, ServerNotAllowed), match=says):
        load(write(tmp_path, WHOLE.replace(old, new)))


def test_a_password_comes_from_the_environment_too(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server("main", "http://pacs", user="islet", password_env="PACS_PASSWORD")
    with pytest.raises(BadParameter, match="PACS_PASSWORD"):
        server.password()
    monkeypatch.setenv("PACS_PASSWORD", "pw")
    assert server.password() == "pw"
    assert "pw'" not in repr(server)


def test_an_empty_secret_is_none(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    server = Server("main", "http://pacs", user="islet", password_file=tmp_path / "empty")
    with pytest.raises(BadParameter, match="nothing in empty"):
        server.password()


def test_credentials_in_clear_are_noticed(tmp_path: Path) -> None:
    token = {"token_file": tmp_path / "token"}
    assert Server("a", "http://pacs.example", **token).in_clear
    assert not Server("a", "https://pacs.example", **token).in_clear
    assert not Server("a", "http://127.0.0.1:8042", **token).in_clear
    assert not Server("a", "http://pacs.example").in_clear


def test_a_listener_needs_a_certificate_to_speak_tls() -> None:
    with pytest.raises(BadParameter, match="certificate and key"):
        Tls().server()
    assert Listener(("CT1",)).tls is None


@pytest.mark.parametrize("title", ["", " CT1", "A" * 17, "A\\B", "A\nB", "Ä"])
def test_no_titles(title: str) -> None:
    with pytest.raises(BadParameter):
        check_aet(title)


@pytest.mark.parametrize("uid", ["", "1..2", "1.2.", "1.a", "1/2", "1.2\n", "1." * 32 + "1", "١"])
def test_no_uids(uid: str) -> None:
    with pytest.raises(BadParameter, match="study"):
        check_uid("study", uid)


def test_a_uid_of_64_characters_is_one() -> None:
    uid = "1" * 64
    assert check_uid("study", uid) == uid
