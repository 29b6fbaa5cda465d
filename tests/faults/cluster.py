"""The two-node Slurm of tests/slurm/testbed.sh: jobs, the processes on its machines, and its cables."""

import contextlib
import os
import pathlib
import signal
import subprocess
import time

SOURCE = pathlib.Path(__file__).resolve().parents[2]
TESTBED = SOURCE / "tests" / "slurm" / "testbed.sh"

# What a job may leave on a node: ranks, what starts them, and the steps of Slurm that hold them.
JOB_PROGRAMS = {"perrin", "mpirun", "orterun", "orted", "srun", "slurmstepd"}
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY", "DEADLINE"}


def wait_for(what, condition, seconds, interval=0.1):
    """The first true value of condition(); AssertionError naming what was waited for after so many seconds."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, f"no {what} within {seconds} s"
        time.sleep(interval)


class Process:
    """A process of a machine, by its id on the host."""

    def __init__(self, pid, program, environment):
        self.pid = pid
        self.program = program
        rank = environment.get("OMPI_COMM_WORLD_RANK", environment.get("PMIX_RANK"))
        self.rank = int(rank) if rank is not None and program == "perrin" else None

    def send(self, number):
        os.kill(self.pid, number)

    def lives(self):
        try:
            return "\nState:\tZ" not in pathlib.Path(f"/proc/{self.pid}/status").read_text()
        except OSError:
            return False


class Job:
    """A batch job."""

    def __init__(self, cluster, number, log):
        self.cluster = cluster
        self.number = number
        self._log = log

    def info(self):
        """The fields of `scontrol show job`, as text."""
        text = self.cluster.run("scontrol", "show", "job", "--oneliner", self.number)
        return dict(field.split("=", 1) for field in text.split() if "=" in field)

    @property
    def state(self):
        return self.info()["JobState"]

    @property
    def exit_code(self):
        """Of the batch script: "0:0" is status and signal."""
        return self.info()["ExitCode"]

    @property
    def restarts(self):
        return int(self.info()["Restarts"])

    def log(self):
        path = pathlib.Path(self._log)
        return path.read_text(errors="replace") if path.exists() else ""

    def wait_state(self, states, seconds):
        wait_for(f"state {states} of job {self.number} (it is {self.state})", lambda: self.state in states, seconds, 0.5)

    def wait_end(self, seconds):
        """The final state, once nothing of the job runs any more."""
        self.wait_state(ENDED, seconds)
        return self.state


class Cluster:
    """Starts the test bed, or takes the one that runs."""

    def __init__(self, state):
        self._state = state
        # What the shell that called this has of a scheduler or of MPI is not the job's.
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_", "OMPI_", "PMIX_"))}
        self._environment.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1", OMP_NUM_THREADS="1")

    def testbed(self, *arguments, seconds=120, **environment):
        done = subprocess.run([TESTBED, "--state", self._state, *map(str, arguments)], cwd=SOURCE, env={**self._environment, **environment},
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds)
        assert done.returncode == 0, f"testbed.sh {' '.join(map(str, arguments))}: {done.stderr.strip() or done.stdout.strip()}"
        return done.stdout

    def up(self):
        self.testbed("up")

    def down(self):
        self.testbed("down")

    def run(self, *command, **environment):
        """Output of a command on the controller."""
        return self.testbed("run", *command, **environment)

    def on(self, machine, *command):
        return self.testbed("on", machine, *command)

    def small(self):
        """The small file system: its path on the machines, and the one by which the host sees it."""
        there = pathlib.Path(self._state) / "small"
        return there, pathlib.Path(f"/proc/{self._pid('ctl')}/root{there}")

    def submit(self, log, *arguments, **environment):
        text = self.run("sbatch", "--parsable", f"--output={log}", *arguments, **environment)
        return Job(self, text.strip(), log)

    def _pid(self, machine):
        return int(self.testbed("pid", machine))

    def processes(self, program=None):
        """Of the nodes, by program name; without one, all that belong to jobs."""
        homes = {os.readlink(f"/proc/{self._pid(node)}/ns/pid") for node in ("n1", "n2")}
        wanted = JOB_PROGRAMS if program is None else {program}
        found = []
        for entry in pathlib.Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                if os.readlink(entry / "ns" / "pid") not in homes:
                    continue
                name = (entry / "comm").read_text().strip()
                if name not in wanted or "\nState:\tZ" in (entry / "status").read_text():
                    continue
                environment = dict(item.split("=", 1) for item in (entry / "environ").read_text(errors="replace").split("\0") if "=" in item)
            except OSError:
                continue
            found.append(Process(int(entry.name), name, environment))
        return found

    def rank(self, rank):
        """The process of a rank, once it is there."""
        return wait_for(f"rank {rank}", lambda: next((p for p in self.processes("perrin") if p.rank == rank), None), 60, 0.01)

    def daemon(self, node, program):
        """Sends SIGKILL to a daemon of a machine."""
        self.on(node, "pkill", "-KILL", "-x", program)

    def cable(self, node, state):
        """Plugs the network of a node in ("up") or out ("down")."""
        self.on("ctl", "ip", "link", "set", node, state)

    def configure(self, name, value):
        """Changes a line of slurm.conf on the running cluster."""
        path = pathlib.Path(self._state) / "slurm.conf"
        lines = [f"{name}={value}" if line.startswith(f"{name}=") else line for line in path.read_text().splitlines()]
        path.write_text("\n".join(lines) + "\n")
        self.run("scontrol", "reconfigure")

    def clear(self):
        """Ends what a failed scenario has left: jobs, and processes that no job owns any more; daemons run again."""
        for node in ("n1", "n2"):
            self.cable(node, "up")
        self.testbed("mend")
        self.run("scancel", "--user=root", "--signal=KILL", "--full")
        self.run("scancel", "--user=root")
        for process in self.processes():
            if process.program != "slurmstepd":
                with contextlib.suppress(ProcessLookupError):
                    process.send(signal.SIGCONT)
                    process.send(signal.SIGKILL)
        wait_for("free nodes", lambda: not self.run("squeue", "--noheader").strip() and not self.processes(), 60, 0.5)

    def idle(self, seconds=45):
        """True once no process of a job is left; AssertionError naming those that are."""
        try:
            return wait_for("end of all processes", lambda: not self.processes(), seconds, 0.3)
        except AssertionError:
            left = ", ".join(f"{p.program} {p.pid}" for p in self.processes())
            raise AssertionError(f"orphans {seconds} s after the job: {left}") from None
