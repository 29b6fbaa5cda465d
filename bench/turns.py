"""Programs that take turns: whatever else the machine does meets all of them, and only one of them computes at a time."""

import json
import os
import select
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WORKER = Path(__file__).resolve().parent / "peers" / "worker.py"
LONGEST_TURN = 1800  # seconds; compiling a network takes minutes on a busy machine
# A thread that waits leaves its core to whose turn it is, and torchrun's ranks find each other whatever the host is called.
ENVIRONMENT = {"OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "passive"), "GLOO_SOCKET_IFNAME": "lo",
               "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}


class MemberFailed(RuntimeError):
    """A member that could not do what it was asked; says why."""


class TooSlow(MemberFailed):
    """No answer within the time that was given; the member is dead now."""


class Peer:
    """The processes of one peer, asked by pipes; between requests they wait for their input."""

    def __init__(self, task):
        ranks = task["ranks"]
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.processes, self.errors = [], []
        for rank in range(ranks):
            # As torchrun starts them.
            environment = os.environ | ENVIRONMENT | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "LOCAL_RANK": str(rank),
                                                      "WORLD_SIZE": str(ranks), "OMP_NUM_THREADS": str(task["threads"])}
            self.errors.append(tempfile.TemporaryFile("w+"))  # not a pipe: one that nobody reads fills up with warnings
            self.processes.append(subprocess.Popen([sys.executable, WORKER, json.dumps(task)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                                   stderr=self.errors[-1], text=True, env=environment))

    def ask(self, do, steps=0, limit=LONGEST_TURN):
        """Rank 0's answer, once all have answered; its value is the sum of theirs.

        @raise MemberFailed with the last line that a dead process wrote; TooSlow after `limit` seconds
        """
        deadline = time.monotonic() + limit
        for rank, process in enumerate(self.processes):
            try:
                process.stdin.write(json.dumps({"do": do, "steps": steps}) + "\n")
                process.stdin.flush()
            except BrokenPipeError:
                raise MemberFailed(self.why(rank)) from None
        answers, waiting = {}, {process.stdout: rank for rank, process in enumerate(self.processes)}
        while waiting:
            ready, _, _ = select.select(list(waiting), [], [], max(0, deadline - time.monotonic()))
            if not ready:
                self.close()
                raise TooSlow(f"no answer within {limit:.0f} s")
            for stream in ready:
                rank = waiting.pop(stream)
                line = stream.readline()
                if not line:
                    raise MemberFailed(self.why(rank))
                answers[rank] = json.loads(line)
        return answers[0] | ({"value": sum(answer["value"] for answer in answers.values())} if "value" in answers[0] else {})

    def why(self, rank):
        self.close()
        self.errors[rank].seek(0)
        said = self.errors[rank].read().strip().splitlines()
        return said[-1] if said else f"it ended with {self.processes[rank].returncode}"

    def close(self):
        for process in self.processes:
            process.kill()
            process.wait()


class PeerAnew:
    """A peer that is started for each turn: its first step and its memory."""

    def __init__(self, task):
        self.task = task

    def ask(self, _, steps):
        peer = Peer(self.task)
        try:
            return peer.ask("first") | peer.ask("measure", steps - 2)  # a turn begins with a step of its own
        finally:
            peer.close()

    def close(self):
        pass


class Program:
    """`perrin bench ...`, started anew for each turn."""

    def __init__(self, binary, arguments, figure, turn, ranks=1):
        """@param turn  its options for a turn of so many steps   @param figure  what of its report counts"""
        launch = ["mpirun", "--oversubscribe", "--bind-to", "none", "-np", str(ranks)] if ranks > 1 else []
        self.command = [*launch, binary, "bench", *arguments, "--json"]
        self.figure, self.turn = figure, turn

    def run(self, *more, limit=LONGEST_TURN):
        """Its report. Whatever else than slowness hinders perrin ends the comparison."""
        command = [str(part) for part in (*self.command, *more)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | ENVIRONMENT)
        try:
            said, errors = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            process.terminate()  # mpirun takes its ranks along
            process.communicate()
            raise TooSlow(f"no answer within {limit:.0f} s") from None
        if process.returncode != 0:
            sys.exit(f"{' '.join(command)} failed with {process.returncode}:\n{errors}")
        return json.loads(said)

    def ask(self, _, steps):
        report = self.run(*self.turn(steps))
        return report | {"value": report[self.figure]}

    def close(self):
        pass


def take_turns(members, rounds, steps, deadline, report):
    """{name: [answer of each round]} of those that held out. A round that would end after the deadline is not begun, but for the first."""
    answers = {name: [] for name in members}
    begun = time.monotonic()
    for done in range(rounds):
        if done and time.monotonic() + (time.monotonic() - begun) / done > deadline:
            report.say(f"  {done} of {rounds} rounds: another would not end within the budget")
            break
        for name in list(answers):
            try:
                answers[name].append(members[name].ask("measure", steps))
            except MemberFailed as failure:
                report.skip(name, f"failed in round {done + 1}: {failure}")
                del answers[name]
        if done == 0:
            report.say(f"  a round takes {time.monotonic() - begun:.0f} s")
    for member in members.values():
        member.close()
    return answers


def ratio(of, over):
    """Median over the rounds of the quotient within a round."""
    return statistics.median(a / b for a, b in zip(of, over))
