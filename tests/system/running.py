"""A program that runs beside the test: to be sent signals, and ended whatever happens."""

import os
import signal
import subprocess
import time


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


class Running:
    """with Running(command, environment, tmp_path / "output") as process: ...; nothing of it is left afterwards."""

    def __init__(self, command, environment, output):
        self.output = output
        with open(output, "w") as file:
            self.process = subprocess.Popen([str(part) for part in command], env=environment, stdin=subprocess.DEVNULL, stdout=file,
                                            stderr=subprocess.STDOUT, start_new_session=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()

    def kill(self):
        """SIGKILL to all of it at once; returns when none runs any more. mpirun does not share its group with its ranks."""
        pids = [self.process.pid, *self.ranks()]
        for pid in pids:
            self.send(signal.SIGKILL, pid)
        self.process.wait()
        while any(is_running(pid) for pid in pids):
            time.sleep(0.005)

    def ranks(self):
        """Process numbers of the ranks that mpirun started, in rank order."""
        children = subprocess.run(["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True).stdout
        return sorted(map(int, children.split()))

    def send(self, number, pid=None):
        try:
            os.kill(self.process.pid if pid is None else pid, number)
        except ProcessLookupError:
            pass

    def said(self):
        return self.output.read_text(errors="replace")

    def wait_until(self, condition, timeout=60):
        deadline = time.monotonic() + timeout
        while not condition():
            assert self.process.poll() is None, f"it ended with {self.process.returncode} before it should:\n{self.said()[-4000:]}"
            assert time.monotonic() < deadline, f"not within {timeout} s:\n{self.said()[-4000:]}"
            time.sleep(0.005)

    def end(self, timeout):
        """The exit status, which must come within so many seconds."""
        try:
            return self.process.wait(timeout=timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout} s:\n{self.said()[-4000:]}") from None
