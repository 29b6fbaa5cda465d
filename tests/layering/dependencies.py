"""Which way perrin's folders may depend on each other, and what breaks that: by include, transitively, and by link.

launch -> trainer -> {comm, data}; comm and data know nothing of each other nor of LibTorch.
"""

import collections
import pathlib
import re

# Folder (one library each: perrin_<folder>) -> the folders that it may use.
LAYERS = {
    "comm": {"comm"},
    "data": {"data"},
    "trainer": {"trainer", "comm", "data"},
    "launch": {"launch", "trainer", "comm", "data"},
}

# What is foreign, by the beginning of an include and by the name of a linked library.
FOREIGN_INCLUDES = {
    "LibTorch": re.compile(r"(torch|ATen|c10|caffe2)/"),
    "MPI": re.compile(r"mpi\.h$"),
    "HDF5": re.compile(r"(hdf5|H5\w+)\.h$"),
    "CUDA": re.compile(r"(cuda|cuda_runtime|cuda_runtime_api|nccl)\.h$"),
}
FOREIGN_LIBRARIES = {
    "LibTorch": re.compile(r"torch|\bc10\b|libc10", re.IGNORECASE),
    "MPI": re.compile(r"\bMPI::|libmpi", re.IGNORECASE),
    "HDF5": re.compile(r"hdf5", re.IGNORECASE),
    "CUDA": re.compile(r"\bCUDA::|\bNCCL::|libcudart|libnccl", re.IGNORECASE),
}

# Folder, or path prefix of single files -> what it must not see, directly or through any header.
FOREIGN_REFUSED = {
    "comm/": {"LibTorch", "HDF5"},
    "data/": {"LibTorch", "MPI", "CUDA"},
    "trainer/config": {"LibTorch"},
    "trainer/kernels/": {"LibTorch"},
    "launch/config": {"LibTorch"},
}

SOURCE_SUFFIXES = {".hpp", ".cpp", ".h", ".cu", ".cuh"}
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*[<"]([^>"]+)[>"]', re.MULTILINE)


def layer_of(path):
    """The layer of a path relative to the root, or None for tests, benchmarks and foreign headers."""
    first = path.split("/", 1)[0]
    return first if first in LAYERS else None


def includes_of(root, path):
    """What a file includes: paths relative to the root for perrin's own headers, the text as written for foreign ones."""
    found = []
    for name in INCLUDE.findall((root / path).read_text(encoding="utf-8", errors="replace")):
        beside = (root / path).parent / name
        if (root / name).is_file():
            found.append(name)
        elif beside.is_file() and beside.resolve().is_relative_to(root.resolve()):
            found.append(beside.resolve().relative_to(root.resolve()).as_posix())
        else:
            found.append(name)
    return found


def include_violations(root):
    """Every forbidden include below root as text with its chain, e.g.
    'comm/world.cpp -> comm/a.hpp -> trainer/b.hpp: comm may not include trainer'."""
    root = pathlib.Path(root)
    sources = sorted(path.relative_to(root).as_posix() for layer in LAYERS for path in (root / layer).rglob("*")
                     if path.suffix in SOURCE_SUFFIXES and path.is_file())
    direct = {path: includes_of(root, path) for path in sources}
    violations = []
    for source in sources:
        for target, chain in reachable(source, direct).items():
            broken = include_rule_broken(source, target)
            if broken:
                violations.append(" -> ".join(chain) + f": {broken}")
    return violations


def include_rule_broken(source, target):
    """The rule that source breaks by seeing target, as text; None if it may."""
    layer, other = layer_of(source), layer_of(target)
    if other is not None:
        return None if other in LAYERS[layer] else f"{layer} may not include {other}"
    refused = set().union(*(kinds for prefix, kinds in FOREIGN_REFUSED.items() if source.startswith(prefix)))
    if source.endswith((".cu", ".cuh")):
        refused = refused | {"LibTorch"}
    for kind in sorted(refused):
        if FOREIGN_INCLUDES[kind].match(target):
            return f"{source} may not see {kind}"
    return None


def reachable(start, edges):
    """Everything reachable from start, each with its shortest chain from start."""
    chains = {}
    queue = collections.deque([(start, [start])])
    while queue:
        node, chain = queue.popleft()
        for neighbour in edges.get(node, []):
            if neighbour not in chains and neighbour != start:
                chains[neighbour] = [*chain, neighbour]
                queue.append((neighbour, chains[neighbour]))
    return chains


def link_edges(dot_text):
    """target -> linked targets and libraries, from what `cmake --graphviz` wrote."""
    names = {node: label.split("\\n")[0] for node, label in re.findall(r'"(\w+)" \[ label = "([^"]*)"', dot_text)}
    edges = collections.defaultdict(list)
    for tail, head in re.findall(r'"(\w+)" -> "(\w+)"', dot_text):
        if tail in names and head in names:
            edges[names[tail]].append(names[head])
    return edges


def link_violations(dot_text):
    """Every forbidden link as text with its chain, e.g. 'perrin_comm -> LibTorch::LibTorch: comm may not link LibTorch'."""
    edges = link_edges(dot_text)
    violations = []
    for layer, allowed in LAYERS.items():
        refused = FOREIGN_REFUSED.get(f"{layer}/", set())
        for target, chain in reachable(f"perrin_{layer}", edges).items():
            other = target.removeprefix("perrin_")
            if target.startswith("perrin_") and other in LAYERS and other not in allowed:
                violations.append(" -> ".join(chain) + f": {layer} may not link {other}")
            for kind in sorted(refused):
                if FOREIGN_LIBRARIES[kind].search(target):
                    violations.append(" -> ".join(chain) + f": {layer} may not link {kind}")
    return violations
