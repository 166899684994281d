"""Hosts out of this machine: network namespaces on one bridge, each with an sshd, processes and a home of its own.

A host sees its own network, host name, process ids, ``/home``, ``/tmp/ray`` and ``/dev/shm``; everything else is this
machine's. Its user ``bench`` is root under another name, so that nothing here depends on accounts. The namespaces reach
each other and nothing outside.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROJECT = "vit-forgetting-bench"
USER = "bench"
HOME = Path("/home") / USER
NETWORK = "10.77.0"
TOOLS = ("ip", "unshare", "mount", "sshd", "ssh", "ssh-keygen", "rsync", "setsid")

SSHD = """\
HostKey {home}/.sshd/hostkey
AuthorizedKeysFile {home}/.sshd/authorized
StrictModes no
PermitRootLogin prohibit-password
PasswordAuthentication no
PidFile none
UsePAM no
MaxStartups 100
MaxSessions 100
"""

BOOT = """\
hostname {name}
mount --make-rprivate /
mount --bind {shared}/hosts /etc/hosts
mount --bind {shared}/passwd /etc/passwd
mkdir -p /home /run/sshd /tmp/ray && mount --bind {own}/home /home
mount --bind {own}/ray /tmp/ray
mount -t tmpfs -o size=8g tmpfs /dev/shm
cd {home}
exec env -i PATH={path} "$(command -v sshd)" -D -f {home}/.sshd/config -E {home}/.sshd/log
"""
"""What a host does first; its last line becomes the process with which it lives and dies."""


def missing() -> str | None:
    """What this machine lacks for making hosts, in words; None if nothing."""
    if os.geteuid() != 0:
        return "hosts are made by root"
    if lacking := [tool for tool in TOOLS if not shutil.which(tool, path=path())]:
        return f"not installed here: {', '.join(lacking)} (Debian: iproute2, openssh-server, rsync, util-linux)"
    try_out = ["unshare", "--net", "--mount", "--pid", "--fork", "--uts", "--ipc", "mount", "--make-rprivate", "/"]
    tried = subprocess.run(try_out, capture_output=True, text=True, check=False)
    return f"namespaces are not allowed here: {tried.stderr.strip()}" if tried.returncode else None


def path() -> str:
    return os.pathsep.join(["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"])


class Hosts:
    """An operator, from whose shell the cluster is driven, and hosts that it reaches by ssh.

    Args:
        folder: what the hosts write is kept there.
        count: of the hosts; the first is the head.
    """

    def __init__(self, folder: Path, count: int = 2) -> None:
        self.folder = folder
        self.names = [f"vfb{number}" for number in range(count)]
        self.addresses = {name: f"{NETWORK}.{10 + number}" for number, name in enumerate(self.names)}
        self.operator = "vfbop"
        self.key = folder / "key"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def up(self) -> None:
        """Make the network and start all hosts."""
        self.down()  # what an interrupted run has left
        self._write_shared()
        _ip("netns", "add", self.operator)
        _ip("-n", self.operator, "link", "set", "lo", "up")
        _ip("-n", self.operator, "link", "add", "br0", "type", "bridge")
        _ip("-n", self.operator, "addr", "add", f"{NETWORK}.1/24", "dev", "br0")
        _ip("-n", self.operator, "link", "set", "br0", "up")
        for name in self.names:
            self._write_host(name)
            self._plug_in(name)
            self.start(name)

    def start(self, name: str) -> None:
        """Switch a host on; returns when its sshd answers."""
        boot = BOOT.format(name=name, shared=self.folder, own=self.folder / name, home=HOME, path=path())
        _ip("-n", self.operator, "link", "set", _cable(name), "up")
        command = ["ip", "netns", "exec", name, "unshare", "--mount", "--pid", "--fork", "--uts", "--ipc"]
        command += ["--mount-proc", "--kill-child=SIGKILL", "bash", "-ec", boot]
        with (self.folder / name / "console").open("ab") as console:
            self._processes[name] = subprocess.Popen(command, stdout=console, stderr=console)
        for _ in range(100):
            if self.ssh(name, "true").returncode == 0:
                return
            time.sleep(0.1)
        raise RuntimeError(f"{name} does not answer: {(self.folder / name / 'console').read_text()}")

    def cut_off(self, name: str) -> None:
        """Take a host from the network without a word, and then from life. It may be off already."""
        _ip("-n", self.operator, "link", "set", _cable(name), "down")
        if process := self._processes.pop(name, None):
            process.kill()
            process.wait()

    def down(self) -> None:
        """End all hosts, and take the network away."""
        for process in self._processes.values():
            process.kill()
            process.wait()
        self._processes.clear()
        for name in (*self.names, self.operator):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)

    def ssh(self, name: str, command: str) -> subprocess.CompletedProcess[str]:
        """Run a command on a host, as ssh does: no terminal, no profile."""
        options = ["-q", "-i", str(self.key), "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
        options += ["-o", "ConnectTimeout=2"]
        return self.operate(["ssh", *options, f"{USER}@{self.addresses[name]}", command], timeout=120)

    def operate(self, command: Sequence[str], *, timeout: float = 1500) -> subprocess.CompletedProcess[str]:
        """Run a command where the operator sits: in this project's folder, with a home of its own."""
        mounts = f"mount --bind {self.folder / 'operator/ray'} /tmp/ray"
        inner = f"mkdir -p /tmp/ray && {mounts} && exec {shlex.join(command)}"
        return subprocess.run(
            ["ip", "netns", "exec", self.operator, "bash", "-ec", inner],
            cwd=ROOT,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )

    @property
    def environment(self) -> Mapping[str, str]:
        """Of the operator's shell."""
        bin_folder = Path(sys.executable).parent
        return {
            "HOME": str(self.folder / "operator"),
            "PATH": f"{bin_folder}{os.pathsep}{path()}",
            "USER": USER,
            "LANG": "C.UTF-8",
            "TERM": "dumb",
            "RAY_AUTH_MODE": "token",
            "OMP_NUM_THREADS": "1",
        }

    def _write_shared(self) -> None:
        for name in ("operator/ray", *(f"{host}/{part}" for host in self.names for part in ("home", "ray"))):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        lines = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in self.addresses.items())]
        (self.folder / "hosts").write_text("\n".join(lines) + "\n")
        accounts = Path("/etc/passwd").read_text().splitlines()
        ours = f"{USER}:x:0:0::{HOME}:/bin/bash"  # before root: who is user 0 is answered by the first
        (self.folder / "passwd").write_text("\n".join([ours, *accounts]) + "\n")
        for key in (self.key, self.folder / "hostkey"):
            if not key.exists():
                _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key))

    def _write_host(self, name: str) -> None:
        home = self.folder / name / "home" / USER
        server = home / ".sshd"
        server.mkdir(parents=True, exist_ok=True)
        shutil.copy(self.folder / "hostkey", server)
        shutil.copy(self.key.with_suffix(".pub"), server / "authorized")
        (server / "config").write_text(SSHD.format(home=HOME))
        (home / ".bashrc").write_text("# ~/.bashrc\n")
        (home / ".profile").write_text('[ -z "$BASH_VERSION" ] || . ~/.bashrc\n')
        write_environment(home / PROJECT / ".venv", seen_as=HOME / PROJECT)

    def _plug_in(self, name: str) -> None:
        cable = _cable(name)
        _ip("netns", "add", name)
        _ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("link", "set", cable, "netns", self.operator)
        _ip("-n", self.operator, "link", "set", cable, "master", "br0", "up")
        _ip("-n", name, "addr", "add", f"{self.addresses[name]}/24", "dev", "eth0")
        _ip("-n", name, "link", "set", "eth0", "up")
        _ip("-n", name, "link", "set", "lo", "up")


def write_environment(folder: Path, *, seen_as: Path) -> None:
    """The environment of a host, which `make setup` there finds complete: hosts reach no package index.

    It is a virtual environment whose packages are those of the one that runs this; `bench` is the host's own.

    Args:
        folder: of the environment.
        seen_as: the project's folder, as the host sees it.
    """
    ours = Path(sys.executable).parent
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = folder / "lib" / version / "site-packages"
    _run(sys.executable, "-m", "venv", "--without-pip", str(folder))
    (ours_packages,) = (ours.parent / "lib").glob("python*/site-packages")
    (packages / "project.pth").write_text(f"{seen_as}\n{ours_packages}\n")
    for name in ("ray", "mlflow"):
        _, _, script = (ours / name).read_text().partition("\n")
        (folder / "bin" / name).write_text(f"#!{seen_as}/.venv/bin/python\n{script}")
        (folder / "bin" / name).chmod(0o755)
    activate = folder / "bin" / "activate"
    activate.write_text(activate.read_text().replace(str(folder), str(seen_as / ".venv")))
    (folder / ".installed-cluster").touch()


def _cable(name: str) -> str:
    return f"v{name}"


def _ip(*arguments: str) -> None:
    _run("ip", *arguments)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{shlex.join(command)}: {done.stderr.strip()}")
