"""Startup kits: what each hospital, the server and the coordinators are handed once.

A kit is a folder with a certificate of the federation's own authority, its key, and settings. The
certificates are NVIDIA FLARE's (its provisioning runs in this process); what differs from its
templates is written here: state lies inside the kit, jobs may name our two classes and none else,
nobody may send code or a shell command, and a site's own log stays at the site.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from nvflare.lighter.entity import Project as FlareProject
from nvflare.lighter.impl.cert import CertBuilder
from nvflare.lighter.impl.signature import SignatureBuilder
from nvflare.lighter.impl.static_file import StaticFileBuilder
from nvflare.lighter.impl.workspace import WorkspaceBuilder
from nvflare.lighter.provisioner import Provisioner

from federation.flare.home import Settings, write_settings
from federation.job import check_site
from imaging.errors import BadParameter, FederationError

AUTHORITY = "authority"
"""Folder with the authority's key: it makes further kits and leaves this machine never."""
ORGANISATION = "islet"
"""Every party's: what a role may do does not depend on it."""
CONTROLLER = "federation.flare.controller.IsletController"
EXECUTOR = "federation.flare.executor.IsletExecutor"
_GUARD = {"id": "guard", "path": "federation.flare.guard.Guard", "args": {}}
_MUSTER = {"id": "muster", "path": "federation.flare.muster.Muster", "args": {}}
# A job waits for its sites as long as it takes, and is looked at often.
_PATIENT = {
    "max_schedule_count": 10**9,
    "min_schedule_interval": 2.0,
    "max_schedule_interval": 10.0,
}
_SITE_LOG_STREAMER = "site_log_streamer"
# A site beats every 4 s (processes.py); one that was silent for so long is taken for gone.
_SILENCE_S = 60
# Ports that need no privilege.
_PORTS = range(1025, 65536)
# FLARE cuts certificates of parties at this many days; the authority's would live on.
_LONGEST_DAYS = 360
# Rights of the engine: to look (a job's log at the server is one), and what nobody is given.
_LOOK = {"view": "any", "get_job_log": "any"}
_NOBODY = {"byoc": "none", "shell_commands": "none", "server-predeployed-flwr": "none"}
_ROLES: dict[str, dict[str, str]] = {
    "project_admin": {
        **dict.fromkeys(("submit_job", "clone_job", "manage_job", "download_job"), "any"),
        **_LOOK,
        "operate": "any",
        **_NOBODY,
    },
    "lead": {
        **dict.fromkeys(("clone_job", "manage_job", "download_job"), "n:submitter"),
        **_LOOK,
        "submit_job": "any",
        "operate": "none",
        **_NOBODY,
    },
    "member": {**_LOOK, **_NOBODY},
}

EXAMPLE = """\
# Who takes part in a federation; `islet federate provision project.yml -o kits` makes the kits.
name: pancreas
server:
  host: fl.example.org       # the name that the sites reach it by; localhost binds loopback only
  port: 8002                 # for sites
  admin_port: 8003           # for coordinators
sites: [north-clinic, c2]
coordinators:                # project_admin: everything; lead: own jobs; member: looks on
  ada@example.org: lead
  bob@example.org: member
max_sites: 16                # no more are let in
valid_days: 360              # of the certificates
"""


@dataclass(frozen=True)
class Project:
    """A federation's members.

    Attributes:
        name: of the federation.
        host: name that sites reach the server by; with ``localhost`` it binds loopback only.
        port, admin_port: TCP ports of the server for sites and for coordinators.
        sites: their names.
        coordinators: address like a mail's to role: ``project_admin``, ``lead`` or ``member``.
        max_sites: no more are let in.
        valid_days: of the certificates, at most 360.
    """

    name: str
    host: str
    port: int
    admin_port: int
    sites: tuple[str, ...]
    coordinators: Mapping[str, str]
    max_sites: int = 16
    valid_days: int = _LONGEST_DAYS

    def __post_init__(self) -> None:
        for site in self.sites:
            check_site(site)
        if len(set(self.sites) | {"server", self.host}) != len(self.sites) + 2:
            raise BadParameter(f"Each of the sites needs a name of its own: {list(self.sites)}.")
        unknown = sorted(set(self.coordinators.values()) - set(_ROLES))
        if unknown:
            raise BadParameter(f"A role is one of {', '.join(_ROLES)}, not {unknown}.")
        if not 1 <= self.valid_days <= _LONGEST_DAYS:
            raise BadParameter(f"valid_days is 1 to {_LONGEST_DAYS}, not {self.valid_days}.")
        if self.max_sites < 1 or not all(0 < p < 65536 for p in (self.port, self.admin_port)):
            raise BadParameter("max_sites is at least 1, ports are between 1 and 65535.")
        if self.port == self.admin_port:
            raise BadParameter(f"port and admin_port must differ; both are {self.port}.")


def read_project(path: Path) -> Project:
    """The project of a YAML file like :data:`EXAMPLE`.

    Raises:
        BadParameter: no such file, or not of this form.
    """
    try:
        raw: dict[str, Any] = yaml.safe_load(path.read_text())
        server = raw.pop("server")
        sites = tuple(raw.pop("sites"))
        return Project(**raw, **server, sites=sites)
    except OSError as error:
        raise BadParameter(f"{path} cannot be read ({error.strerror}).") from error
    except (yaml.YAMLError, TypeError, KeyError, AttributeError, ValueError) as error:
        raise BadParameter(
            f"{path} is no project ({error}); `islet federate provision --example` prints one."
        ) from error


def provision(project: Path, out: Path) -> list[Path]:
    """Make the kits of a project that ``out`` does not hold yet.

    Layout: ``out/server``, ``out/<site>``, ``out/<coordinator>`` and ``out/authority``, the key
    of the federation's authority. Kits that are there are left alone; so a site that comes later
    is added to the file and provisioned with the same ``out``.

    Returns:
        The new kits.

    Raises:
        BadParameter: what :func:`read_project` refuses.
        FederationError: FLARE could not make them; says why.
    """
    members = read_project(project)
    out.mkdir(parents=True, exist_ok=True)
    authority = out / AUTHORITY
    authority.mkdir(mode=0o700, exist_ok=True)
    made = _provision(members, authority)
    kits = []
    for folder in sorted(made.iterdir()):
        kit = out / ("server" if folder.name == members.host else folder.name)
        if folder.is_dir() and not kit.exists():
            _finish(folder, members)
            folder.rename(kit)
            kits.append(kit)
    place_server(out / "server")
    shutil.rmtree(made)
    return kits


def place_server(kit: Path) -> None:
    """Keep the jobs of a server in its kit, wherever that lies now; FLARE wants whole paths.

    Raises:
        BadParameter: the folder is no server's kit.
    """
    path = kit / "local" / "resources.json"
    try:
        raw = json.loads(path.read_text())
        storage = raw["snapshot_persistor"]["args"]["storage"]["args"]
        jobs = next(p for p in raw["components"] if p["id"] == "job_manager")["args"]
    except (OSError, ValueError, KeyError, StopIteration) as error:
        raise BadParameter(
            f"{kit} is no server's kit; `islet federate provision` makes them."
        ) from error
    state = kit.resolve() / "state"
    storage["root_dir"], jobs["uri_root"] = str(state / "snapshots"), str(state / "jobs")
    _write(path, raw)


def server_ports(kit: Path) -> tuple[int, int]:
    """The ports on which the server of a kit listens for sites and for coordinators."""
    raw = json.loads((kit / "startup" / "fed_server.json").read_text())["servers"][0]
    return int(raw["service"]["target"].rpartition(":")[2]), int(raw["admin_port"])


class _Messages:
    """What FLARE's provisioning says; only its errors are of use."""

    def __init__(self) -> None:
        self.errors: list[str] = []

    def error(self, message: str) -> None:
        self.errors.append(message)

    def ignore(self, message: str) -> None:
        pass

    debug = info = warning = ignore


def _provision(members: Project, authority: Path) -> Path:
    """FLARE's own kits, in a folder inside the authority's."""
    builders = [
        WorkspaceBuilder(),
        StaticFileBuilder(config_folder="config", scheme="grpc"),
        CertBuilder(root_valid_days=members.valid_days),
        SignatureBuilder(),
    ]
    messages = _Messages()
    try:
        project = FlareProject(name=members.name, description="")
        ports = {"fed_learn_port": members.port, "admin_port": members.admin_port}
        project.set_server(members.host, ORGANISATION, ports)
        for site in members.sites:
            project.add_client(site, ORGANISATION, {})
        for name, role in members.coordinators.items():
            project.add_admin(name, ORGANISATION, {"role": role})
        context = Provisioner(str(authority), builders).provision(project, logger=messages)
    except (ValueError, RuntimeError) as error:
        raise BadParameter(f"FLARE refuses the project: {error}.") from error
    made: str | None = context.get("current_prod_dir")
    if messages.errors or made is None:
        raise FederationError(f"FLARE could not make the kits: {'; '.join(messages.errors)}.")
    return Path(made)


def _finish(kit: Path, members: Project) -> None:
    """Bring one kit from FLARE's templates to ours."""
    local = kit / "local"
    if kit.name == members.host:
        _write(local / "resources.json", _server_resources(_template(local), members))
    elif kit.name in members.sites:
        _write(local / "resources.json", _site_resources(_template(local)))
        write_settings(kit, Settings(name=kit.name))
    _write(local / "comm_config.json", _internal(members))
    if (local / "authorization.json.default").exists():
        _write(local / "authorization.json", {"format_version": "1.0", "permissions": _ROLES})
    # The engine's own scripts would start it without our supervisor.
    for script in (*kit.rglob("*.sh"), *kit.rglob("*.ipynb"), *kit.rglob("readme.txt")):
        script.unlink()
    kit.chmod(0o700)
    for key in kit.rglob("*.key"):
        key.chmod(0o600)


def _internal(members: Project) -> dict[str, Any]:
    """Where a party's own processes meet: any port of loopback but the federation's own two.

    The engine takes one at random and looks only whether it is free, which the server's are until
    it listens on them itself; of two that listen on one, sites then meet the wrong one for ever.
    """
    low, high = sorted((members.port, members.admin_port))
    gaps = [(_PORTS[0], low - 1), (low + 1, high - 1), (high + 1, _PORTS[-1])]
    first, last = max(gaps, key=lambda gap: gap[1] - gap[0])
    resources = {"host": "localhost", "ports": [f"{first}-{last}"]}
    return {"internal": {"scheme": "tcp", "resources": resources}}


def _template(local: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((local / "resources.json.default").read_text())
    return found | {"class_allow_list": [CONTROLLER, EXECUTOR]}


def _server_resources(raw: dict[str, Any], members: Project) -> dict[str, Any]:
    server = raw["servers"][0]
    server |= {"max_num_clients": members.max_sites, "heart_beat_timeout": _SILENCE_S}
    parts = {part["id"]: part for part in raw["components"]}
    parts["job_scheduler"]["args"] |= _PATIENT
    raw["components"] += [_MUSTER, _GUARD]
    return raw


def _site_resources(raw: dict[str, Any]) -> dict[str, Any]:
    raw["allow_log_streaming"] = False
    raw["components"] = [p for p in raw["components"] if p["id"] != _SITE_LOG_STREAMER] + [_GUARD]
    return raw


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")
