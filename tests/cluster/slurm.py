"""A real SLURM on this machine: one node, two GPUs that are none, no accounting.

Needs root, and the packages slurmctld, slurmd, slurm-client and munge. The commands find their
configuration in /etc/slurm only, so a machine that has one there already is left alone.
"""

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CONFIGURATION = Path("/etc/slurm/slurm.conf")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol")
# config_overrides: the node claims more processors and memory than the machine may have.
TEMPLATE = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
GresTypes=gpu
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/jobs.log
MinJobAge=3600
ReturnToService=2
KillWait=10
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,sched_min_interval=0,batch_sched_delay=0,bf_interval=1
DefMemPerCPU=500
NodeName={host} NodeAddr=127.0.0.1 CPUs=16 RealMemory=200000 Gres=gpu:2 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Return why no SLURM can be started here; None if one can."""
    if os.geteuid() != 0:
        return "needs root"
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"needs {', '.join(absent)}"
    if CONFIGURATION.exists():
        return f"{CONFIGURATION} exists: this machine has a SLURM of its own"
    return None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run(*command: str) -> str:
    """Run a command and return what it prints."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{command}: {done.stdout}{done.stderr}")
    return done.stdout


def wait_until(condition, what: str, seconds: float = 60):
    """Return the first true value of a condition."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.2)
    raise TimeoutError(f"waited {seconds} s for {what}")


@dataclass(frozen=True)
class Cluster:
    """The running SLURM."""

    folder: Path
    host: str

    def jobs(self) -> list[dict[str, str]]:
        """Return what `scontrol` knows of each job, oldest first."""
        text = run("scontrol", "--oneliner", "show", "jobs")
        found = [dict(re.findall(r"(\S+?)=(\S*)", line)) for line in text.splitlines()]
        return sorted((job for job in found if "JobId" in job), key=lambda job: int(job["JobId"]))

    def jobs_of(self, rule: str, after: int = 0) -> list[dict[str, str]]:
        """Return the jobs of a rule that were submitted after a job."""
        return [
            job
            for job in self.jobs()
            if int(job["JobId"]) > after and job.get("Comment", "").startswith(f"rule_{rule}")
        ]

    def last(self) -> int:
        """Return the number of the newest job."""
        return max((int(job["JobId"]) for job in self.jobs()), default=0)

    def running(self, rule: str, after: int) -> str:
        """Wait for a job of a rule to run and return its number."""

        def found():
            return next(
                (j["JobId"] for j in self.jobs_of(rule, after) if j["JobState"] == "RUNNING"), None
            )

        return wait_until(found, f"a running job of {rule}")

    def set_node(self, state: str) -> None:
        """Change the state of the node."""
        reason = [] if state == "RESUME" else ["Reason=test"]
        run("scontrol", "update", f"NodeName={self.host}", f"State={state}", *reason)


def _stop(pid_file: Path) -> None:
    if not pid_file.exists():
        return
    pid = int(pid_file.read_text())
    try:
        os.kill(pid, 15)
        wait_until(lambda: not Path(f"/proc/{pid}").exists(), pid_file.stem, seconds=15)
    except (ProcessLookupError, TimeoutError):
        pass


@contextmanager
def slurm(folder: Path) -> Iterator[Cluster]:
    """Run a SLURM until the block ends.

    Args:
        folder: For its state, logs and sockets; short, because of the length limit of sockets.

    Yields:
        The cluster, with its node idle.
    """
    host = socket.gethostname()
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    folder.chmod(0o755)
    for i in range(2):
        os.mknod(folder / f"gpu{i}", 0o20666, os.makedev(1, 3))
    (folder / "gres.conf").write_text(f"AutoDetect=off\nName=gpu File={folder}/gpu[0-1]\n")
    (folder / "slurm.conf").write_text(
        TEMPLATE.format(
            folder=folder, host=host, controller_port=free_port(), node_port=free_port()
        )
    )
    CONFIGURATION.parent.mkdir(exist_ok=True)
    links = [CONFIGURATION.with_name(name) for name in ("slurm.conf", "gres.conf")]
    try:
        for link in links:
            link.symlink_to(folder / link.name)
        run(
            "munged", f"--key-file={key}", f"--socket={folder}/munge.socket",
            f"--pid-file={folder}/munged.pid", f"--log-file={folder}/munged.log",
            f"--seed-file={folder}/munged.seed", "--force",
        )  # fmt: skip
        run("slurmctld", "-c")
        run("slurmd")
        cluster = Cluster(folder, host)
        wait_until(lambda: "idle" in run("sinfo", "--noheader", "--format=%T"), "an idle node")
        yield cluster
    finally:
        subprocess.run(["scancel", "--user=root"], check=False)
        for name in ("slurmd", "slurmctld", "munged"):
            _stop(folder / f"{name}.pid")
        for link in links:
            link.unlink(missing_ok=True)
