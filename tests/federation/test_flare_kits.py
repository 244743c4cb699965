"""Kits: who is in them, what is allowed with them, what must not be in them."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from nvflare.fuel.f3.drivers.net_utils import parse_port_list

from federation.flare import kits
from federation.flare.kits import (
    CONTROLLER,
    EXAMPLE,
    EXECUTOR,
    Project,
    place_server,
    provision,
    server_ports,
)
from imaging.errors import BadParameter

RAW: dict[str, Any] = {
    "name": "try",
    "server": {"host": "localhost", "port": 18002, "admin_port": 18003},
    "sites": ["c1", "north-clinic"],
    "coordinators": {"lead@islet.test": "lead", "member@islet.test": "member"},
    "max_sites": 5,
    "valid_days": 30,
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("kits")
    write(out / "project.yml")
    provision(out / "project.yml", out / "kits")
    return out / "kits"


def write(path: Path, **changes: Any) -> Path:
    path.write_text(yaml.safe_dump(RAW | changes))
    return path


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_every_party_has_a_kit(made: Path) -> None:
    parties = {"server", "c1", "north-clinic", "lead@islet.test", "member@islet.test"}
    assert {p.name for p in made.iterdir()} == parties | {kits.AUTHORITY}


def test_certificates_are_of_one_authority_and_end_in_time(made: Path) -> None:
    authority = certificate(made / "c1" / "startup" / "rootCA.pem")
    for path in made.glob("*/startup/*.crt"):
        found = certificate(path)
        found.verify_directly_issued_by(authority)
        days = (found.not_valid_after_utc - found.not_valid_before_utc).days
        assert 29 <= days <= 30


def test_only_the_owner_reads_keys(made: Path) -> None:
    keys = list(made.rglob("*.key"))
    assert len(keys) == 5
    assert {stat.S_IMODE(key.stat().st_mode) for key in keys} == {0o600}
    assert {stat.S_IMODE(p.stat().st_mode) for p in made.iterdir()} == {0o700}


def test_the_authoritys_key_is_in_no_kit(made: Path) -> None:
    state = json.loads(next((made / kits.AUTHORITY).rglob("cert.json")).read_text())
    secret = state["root_pri_key"].encode()
    for path in made.rglob("*"):
        if path.is_file() and kits.AUTHORITY not in path.relative_to(made).parts:
            assert secret not in path.read_bytes()


@pytest.mark.parametrize("party", ["server", "c1"])
def test_jobs_name_our_classes_alone_and_bring_no_code(made: Path, party: str) -> None:
    local = made / party / "local"
    resources = json.loads((local / "resources.json").read_text())
    assert resources["class_allow_list"] == [CONTROLLER, EXECUTOR]
    assert resources["class_list_enforcement_mode"] == "enforce"
    rights = json.loads((local / "authorization.json").read_text())["permissions"]
    assert {role: held.get("submit_job", "none") for role, held in rights.items()} == {
        "project_admin": "any",
        "lead": "any",
        "member": "none",
    }
    for held in rights.values():
        assert held["byoc"] == held["shell_commands"] == "none"


def test_the_server_keeps_its_state_in_its_kit(made: Path) -> None:
    text = (made / "server" / "local" / "resources.json").read_text()
    assert "/tmp/nvflare" not in text
    resources = json.loads(text)
    assert resources["servers"][0]["max_num_clients"] == 5
    jobs = next(p for p in resources["components"] if p["id"] == "job_manager")
    assert jobs["args"]["uri_root"] == str(made / "server" / "state" / "jobs")


@pytest.mark.parametrize("ports", [(18002, 18003), (50000, 40000), (1025, 65535)])
def test_no_process_of_a_kit_takes_the_federations_ports(
    tmp_path: Path, ports: tuple[int, int]
) -> None:
    """Where the engine looks for a port of its own."""
    server = {"host": "localhost", "port": ports[0], "admin_port": ports[1]}
    provision(write(tmp_path / "project.yml", server=server), tmp_path / "kits")
    assert server_ports(tmp_path / "kits" / "server") == ports
    for party in ("server", "c1"):
        raw = json.loads((tmp_path / "kits" / party / "local" / "comm_config.json").read_text())
        (found,) = parse_port_list(raw["internal"]["resources"]["ports"])
        assert len(found) > 20_000
        assert not set(found) & {*ports, *range(1025)}


def test_a_moved_server_keeps_its_state_with_it(made: Path, tmp_path: Path) -> None:
    local = tmp_path / "moved" / "local"
    local.mkdir(parents=True)
    (local / "resources.json").write_bytes(
        (made / "server" / "local" / "resources.json").read_bytes()
    )
    place_server(tmp_path / "moved")
    text = (local / "resources.json").read_text()
    assert str(made) not in text
    assert str(tmp_path / "moved" / "state" / "jobs") in text
    with pytest.raises(BadParameter, match="no server's kit"):
        place_server(made / "c1")


def test_a_sites_log_stays_at_the_site(made: Path) -> None:
    resources = json.loads((made / "c1" / "local" / "resources.json").read_text())
    assert resources["allow_log_streaming"] is False
    assert not any("log_streamer" in part["id"] for part in resources["components"])


def test_a_later_site_gets_a_kit_and_the_others_are_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "kits"
    provision(write(tmp_path / "project.yml", sites=["c1"]), out)
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    added = provision(write(tmp_path / "project.yml", sites=["c1", "c2"]), out)
    assert [kit.name for kit in added] == ["c2"]
    for path, data in before.items():
        assert path.name == "cert.json" or path.read_bytes() == data
    root = certificate(out / "c1" / "startup" / "rootCA.pem")
    certificate(out / "c2" / "startup" / "client.crt").verify_directly_issued_by(root)


def test_the_example_is_a_project(tmp_path: Path) -> None:
    (tmp_path / "project.yml").write_text(EXAMPLE)
    project = kits.read_project(tmp_path / "project.yml")
    assert project.sites == ("north-clinic", "c2")
    assert project.coordinators["bob@example.org"] == "member"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"sites": ["C 1"]}, "'C 1'"),
        ({"sites": ["c1", "c1"]}, "name of its own"),
        ({"sites": ["server"]}, "name of its own"),
        ({"coordinators": {"a@b.test": "boss"}}, "boss"),
        ({"valid_days": 400}, "400"),
        ({"max_sites": 0}, "max_sites"),
        ({"server": {"host": "localhost", "port": 1, "admin_port": 1}}, "must differ"),
        ({"server": {"host": "localhost", "port": 0, "admin_port": 1}}, "ports"),
        ({"server": "localhost"}, "no project"),
        ({"colour": "blue"}, "colour"),
    ],
)
def test_a_wrong_project_is_refused(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(BadParameter, match=says):
        provision(write(tmp_path / "project.yml", **changes), tmp_path / "kits")
    assert not (tmp_path / "kits").exists()


def test_what_the_engine_refuses_is_said(tmp_path: Path) -> None:
    project = write(tmp_path / "project.yml", coordinators={"no mail": "lead"})
    with pytest.raises(BadParameter, match="no mail"):
        provision(project, tmp_path / "kits")


def test_a_missing_project_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadParameter, match=r"absent\.yml"):
        provision(tmp_path / "absent.yml", tmp_path / "kits")


def test_a_project_is_a_value() -> None:
    project = Project("try", "localhost", 1, 2, ("c1",), {})
    assert project.valid_days == 360
