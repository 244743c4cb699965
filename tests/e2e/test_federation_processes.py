"""One federation of real processes over mutual TLS: killed, joined late, intruded upon."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from federation.flare.coordinators import coordinator, follow
from federation.flare.home import STATE, read_settings, write_settings
from federation.flare.kits import AUTHORITY, provision
from federation.flare.local import COORDINATOR, make_kits, party, serving
from federation.home import Home
from federation.job import Job, scheduled
from federation.progress import FAILED, TOOK_PART, TRAINING, Entry, History
from imaging.errors import FederationError
from models.onnxfile import read_manifest
from models.store import Store
from tests.federation.sites import flat_job, homes
from tests.training.tiny import NAMES

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

MEMBER = "member@islet.local"
# Epochs of a round that lasts long enough to be hit in its middle.
_LONG = 40
_LIMIT_S = 240.0


@dataclass
class Realm:
    """A federation: its kits, its sites' homes, and what runs of it."""

    kits: Path
    homes: list[Home]
    running: contextlib.ExitStack
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, site: str) -> None:
        process = self.running.enter_context(party(self.kits / site, "site"))
        self.running.callback(process.terminate)
        self.processes[site] = process

    def kill(self, name: str) -> None:
        """SIGKILL the engine's process of a kit; what it started is orphaned."""
        text = (self.kits / name / "supervisor.txt").read_text()
        os.kill(int(re.findall(r"process (\d+)", text)[-1]), signal.SIGKILL)

    def folder(self, job_id: str) -> Path:
        """Of the job's state at the server."""
        return self.kits / "server" / STATE / job_id

    def entries(self, job_id: str) -> list[tuple[str, Entry]]:
        """What happened so far, by round and attempt."""
        path = self.folder(job_id) / "rounds.json"
        rounds = History.load(path).rounds if path.exists() else ()
        return [(made.label, entry) for made in rounds for entry in made.entries]

    def states(self, job_id: str, label: str) -> dict[str, str]:
        return {e.site: e.state for made, e in self.entries(job_id) if made == label}

    def log(self) -> str:
        server = self.kits / "server"
        return (server / "log.txt").read_text() + (server / "output.txt").read_text()


def lasting(rounds: int) -> Job:
    """A job whose rounds last some seconds each."""
    short = flat_job(rounds, max_sites=3)
    recipe = scheduled(short.recipe, rounds, _LONG)
    return dataclasses.replace(short, recipe=recipe, local_epochs=_LONG)


def until(check: Callable[[], Any], what: str, seconds: float = _LIMIT_S) -> Any:
    """Wait for something to become true."""
    deadline = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.2)
    return found


@pytest.fixture(scope="module")
def realm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Realm]:
    """A server with two of four sites; no more than three are let in."""
    out = tmp_path_factory.mktemp("federation")
    sites = homes(out / "homes", dict.fromkeys(("c1", "c2", "c3", "c4"), NAMES))
    roles = {COORDINATOR: "lead", MEMBER: "member"}
    kits = make_kits(sites, out / "kits", roles, max_sites=3)
    with contextlib.ExitStack() as running:
        running.enter_context(serving(kits))
        realm = Realm(kits, sites, running)
        realm.start("c1")
        realm.start("c2")
        yield realm


@pytest.fixture(scope="module")
def finished(realm: Realm, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A job whose server is killed in the middle of its second round; its number and results."""
    with coordinator(realm.kits / COORDINATOR) as session:
        job_id = session.submit(lasting(2))
    until(lambda: TRAINING in realm.states(job_id, "2").values(), "the second round")
    realm.kill("server")
    standing = follow(realm.kits / COORDINATOR, job_id, lambda _: None)
    assert standing.state == "completed"
    out = tmp_path_factory.mktemp("results")
    with coordinator(realm.kits / COORDINATOR) as session:
        session.fetch(job_id, out)
    return job_id, out


def test_a_killed_server_goes_on_in_the_same_round(
    realm: Realm, finished: tuple[str, Path]
) -> None:
    history = History.load(finished[1] / "rounds.json")
    assert [made.label for made in history.rounds] == ["1", "2", "2.2"]
    before, hit, after = ({e.state for e in made.entries} for made in history.rounds)
    assert before == after == {TOOK_PART}
    assert FAILED in hit
    assert history.job_id == finished[0]


def test_a_job_leaves_models_everywhere(realm: Realm, finished: tuple[str, Path]) -> None:
    model = read_manifest(finished[1] / "global.onnx")
    assert {path.name for path in finished[1].iterdir()} >= {"matrix.json", "report.html"}
    for home in realm.homes[:2]:
        aliases = Store(home.store, behind=()).aliases(model.name)
        assert aliases.keys() == {"global", f"site-{home.name}"}


def test_nothing_of_a_sites_disk_is_at_the_server(realm: Realm, finished: tuple[str, Path]) -> None:
    secrets = [b"blocks_1", *(str(home.data[0]).encode() for home in realm.homes)]
    files = [p for p in (realm.kits / "server").rglob("*") if p.is_file()]
    assert len(files) > 10
    assert not [p for p in files for secret in secrets if secret in p.read_bytes()]


@pytest.fixture(scope="module")
def endless(realm: Realm, finished: tuple[str, Path]) -> str:
    """A job that runs while others are at it; its number."""
    del finished
    with coordinator(realm.kits / COORDINATOR) as session:
        job_id = session.submit(lasting(100))
    until(lambda: TRAINING in realm.states(job_id, "1").values(), "the first round")
    return job_id


def test_a_killed_site_comes_back_and_a_late_one_joins(realm: Realm, endless: str) -> None:
    until(lambda: realm.states(endless, "1").get("c1") == TRAINING, "c1 in training")
    realm.kill("c1")
    realm.start("c3")
    for site in ("c1", "c3"):
        until(lambda s=site: takes_part(realm, endless, s), f"{site} to take part")


def takes_part(realm: Realm, job_id: str, site: str) -> bool:
    return any(e.state == TOOK_PART for _, e in realm.entries(job_id) if e.site == site)


def goes_on(realm: Realm, job_id: str, site: str) -> None:
    """See the job unharmed: the site takes part in a further round."""

    def count() -> int:
        found = realm.entries(job_id)
        return sum(e.site == site and e.state == TOOK_PART for _, e in found)

    before = count()
    until(lambda: count() > before, f"{site} to go on")


def test_one_site_too_many_is_refused(realm: Realm, endless: str) -> None:
    until(lambda: takes_part(realm, endless, "c3"), "c3 to take part")
    with party(realm.kits / "c4", "site"):
        until(lambda: "Reject client: c4" in realm.log(), "c4 to be refused", 60)
    assert "c4" not in {e.site for _, e in realm.entries(endless)}


def test_a_coordinator_without_the_role_is_refused(realm: Realm, endless: str) -> None:
    with coordinator(realm.kits / MEMBER) as session:
        assert session.standing(endless).history is not None
        for refused in (lambda: session.submit(flat_job()), lambda: session.abort(endless)):
            with pytest.raises(FederationError, match="role does not allow"):
                refused()
        assert endless in {standing.job_id for standing in session.jobs()}


@pytest.mark.parametrize(
    ("kind", "logged"),
    [
        ("none", "PEER_DID_NOT_RETURN_A_CERTIFICATE"),
        ("of another authority", "unable to get local issuer certificate"),
        ("expired", "certificate has expired"),
    ],
)
def test_without_a_valid_certificate_nobody_speaks_to_the_server(
    realm: Realm, endless: str, kind: str, logged: str, tmp_path: Path
) -> None:
    assert greeted(realm, realm.kits / "c2" / "startup")
    assert logged not in realm.log()
    assert not greeted(realm, forged(realm, kind, tmp_path))
    until(lambda: logged in realm.log(), "the refusal in the server's log", 30)
    goes_on(realm, endless, "c2")


def test_a_site_is_not_let_in_under_anothers_name(
    realm: Realm, endless: str, tmp_path: Path
) -> None:
    kit = shutil.copytree(realm.kits / "c4", tmp_path / "c2")
    write_settings(kit, dataclasses.replace(read_settings(kit), name="c2"))
    claim = "authenticated as 'c4' but claimed endpoint 'c2'"
    with party(kit, "site"):
        until(lambda: claim in realm.log(), "the false c2's refusal", 60)
    goes_on(realm, endless, "c2")


def test_a_site_that_is_stopped_is_missed_at_once(realm: Realm, endless: str) -> None:
    gone = f"job {endless}: site c3 is gone"
    assert gone not in realm.log()
    realm.processes["c3"].terminate()
    until(lambda: gone in realm.log(), "c3 to be missed", 30)


def test_an_aborted_job_ends(realm: Realm, endless: str) -> None:
    with coordinator(realm.kits / COORDINATOR) as session:
        session.abort(endless)
    assert follow(realm.kits / COORDINATOR, endless, lambda _: None).state == "aborted"


def greeted(realm: Realm, certificate: Path | None) -> bool:
    """Whether the server answers a connection; HTTP/2 servers speak first."""
    project = yaml.safe_load((realm.kits / "project.yml").read_text())["server"]
    context = ssl.create_default_context(cafile=str(realm.kits / "c1" / "startup" / "rootCA.pem"))
    context.set_alpn_protocols(["h2"])
    if certificate is not None:
        context.load_cert_chain(certificate / "client.crt", certificate / "client.key")
    with (
        contextlib.suppress(ssl.SSLError, ConnectionError),
        socket.create_connection(("127.0.0.1", project["port"]), 10) as plain,
        context.wrap_socket(plain, server_hostname=project["host"]) as secured,
    ):
        return bool(secured.recv(9))
    return False


def forged(realm: Realm, kind: str, out: Path) -> Path | None:
    """A folder with a certificate for c2 that must not do."""
    if kind == "none":
        return None
    if kind == "of another authority":
        project = realm.kits / "project.yml"
        return next(k for k in provision(project, out) if k.name == "c2") / "startup"
    state = next((realm.kits / AUTHORITY).rglob("cert.json"))
    root = json.loads(state.read_text())
    key = serialization.load_pem_private_key(root["root_pri_key"].encode(), None)
    old = x509.load_pem_x509_certificate((realm.kits / "c2/startup/client.crt").read_bytes())
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(
        issuer_name=old.issuer,
        subject_name=old.subject,
        public_key=old.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=now - datetime.timedelta(days=2),
        not_valid_after=now - datetime.timedelta(days=1),
        extensions=list(old.extensions),
    )
    expired = builder.sign(key, hashes.SHA256())
    (out / "client.crt").write_bytes(expired.public_bytes(serialization.Encoding.PEM))
    (out / "client.key").write_bytes((realm.kits / "c2/startup/client.key").read_bytes())
    return out
