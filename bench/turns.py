"""Programs that take turns: whatever else the machine does meets all of them, and only one of them computes at a time."""

import json
import os
import select
import socket
import statistics
import subprocess
import sys
from pathlib import Path

WORKER = Path(__file__).resolve().parent / "peers" / "worker.py"
LONGEST_TURN = 1800  # seconds; compiling a network takes minutes on a busy machine


class WorkerFailed(RuntimeError):
    """A peer that could not do what it was asked; says why."""


class Peer:
    """The processes of one peer (several only for DDP), asked by pipes; between requests they wait for their input."""

    def __init__(self, task, ranks=1):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.errors = []
        self.processes = []
        for rank in range(ranks):
            environment = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": str(ranks),
                                        "OMP_NUM_THREADS": str(task["threads"])}
            self.processes.append(subprocess.Popen([sys.executable, WORKER, json.dumps(task)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                                   stderr=subprocess.PIPE if ranks == 1 else subprocess.DEVNULL, text=True, env=environment))

    def ask(self, do, steps=0):
        """Rank 0's answer, once all have answered."""
        answers = []
        for process in self.processes:
            try:
                process.stdin.write(json.dumps({"do": do, "steps": steps}) + "\n")
                process.stdin.flush()
            except BrokenPipeError:
                raise WorkerFailed(self.why(process)) from None
        for process in self.processes:
            ready, _, _ = select.select([process.stdout], [], [], LONGEST_TURN)
            line = process.stdout.readline() if ready else ""
            if not line:
                raise WorkerFailed(self.why(process) if ready else f"no answer in {LONGEST_TURN} s")
            answers.append(json.loads(line))
        return answers[0]

    def why(self, process):
        process.kill()
        said = (process.stderr.read() if process.stderr else "").strip().splitlines()
        return said[-1] if said else f"it ended with {process.wait()}"

    def close(self):
        for process in self.processes:
            process.kill()
            process.wait()


class Program:
    """`perrin bench ...`, started anew for each turn."""

    def __init__(self, binary, arguments, figure, ranks=1):
        launch = ["mpirun", "--oversubscribe", "--bind-to", "none", "-np", str(ranks)] if ranks > 1 else []
        self.command = [*launch, binary, "bench", *arguments, "--json"]
        self.figure = figure
        self.environment = os.environ | {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}

    def run(self, *more):
        command = [str(part) for part in (*self.command, *more)]
        outcome = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST_TURN, env=self.environment)
        if outcome.returncode != 0:
            sys.exit(f"{' '.join(command)} failed with {outcome.returncode}:\n{outcome.stderr}")
        return json.loads(outcome.stdout)

    def ask(self, do, steps=0):
        return {"value": self.run()[self.figure]}

    def close(self):
        pass


def take_turns(members, rounds, steps):
    """{name: [value of each round]}."""
    values = {name: [] for name in members}
    for _ in range(rounds):
        for name, member in members.items():
            values[name].append(member.ask("measure", steps)["value"])
    return values


def ratio(of, over):
    """Median over the rounds of the quotient within a round."""
    return statistics.median(a / b for a, b in zip(of, over))
