"""The memory of a running process, read and written from outside (/proc/PID/mem; needs root)."""

import pathlib

import numpy as np


class Memory:
    def __init__(self, pid):
        self._folder = pathlib.Path(f"/proc/{pid}")

    def find(self, table):
        """Addresses in the heap at which an array of float64 lies, its numbers equal to 1 part in 10^12."""
        begin, end = self._heap()
        numbers = self.read(begin, (end - begin) // 8)
        near = np.flatnonzero(np.isclose(numbers, table[0], rtol=1e-12, atol=0))
        return [begin + 8 * int(at) for at in near if same(numbers[at : at + len(table)], table)]

    def read(self, address, count):
        """@return [count] float64"""
        with open(self._folder / "mem", "rb", buffering=0) as file:
            file.seek(address)
            return np.frombuffer(file.read(8 * count))

    def write(self, address, values):
        """@param values float64"""
        with open(self._folder / "mem", "r+b", buffering=0) as file:
            file.seek(address)
            file.write(values.tobytes())

    def _heap(self):
        line = next(line for line in (self._folder / "maps").read_text().splitlines() if line.endswith("[heap]"))
        return (int(address, 16) for address in line.split()[0].split("-"))


def same(a, b):
    return len(a) == len(b) and np.allclose(a, b, rtol=1e-12, atol=0)
