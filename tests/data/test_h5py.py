"""The format seen from outside: h5py and numpy read what perrin wrote, and perrin reads what h5py wrote.

The order, the checksum and the fingerprint are computed here a second time, from the text of docs/format.md alone.
"""

import gzip
import hashlib
import json
import math
import re
import shutil
import sys
import types

import h5py
import numpy as np
import pytest

CLASS_NAMES = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
SHUFFLE_SEED = 5
STORAGE_SEED_MASK = 0x70726570617265
MASK = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15


def read_idx(path):
    """An IDX file as numpy array, by its published description."""
    raw = gzip.decompress(path.read_bytes())
    rank = raw[3]
    extents = np.frombuffer(raw, ">u4", rank, 4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * rank).reshape(extents)


def crc32c(data):
    """Bit by bit, as RFC 3720 defines it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def mix(x):
    x ^= x >> 30
    x = x * 0xBF58476D1CE4E5B9 & MASK
    x ^= x >> 27
    x = x * 0x94D049BB133111EB & MASK
    return x ^ x >> 31


def order(n, seed, p):
    """perrin-order-1, from docs/format.md."""
    e, i = divmod(p, n)
    key = mix(mix(seed + GOLDEN & MASK) ^ (mix(e + 2 * GOLDEN & MASK) * GOLDEN & MASK))

    def subkey(k):
        return mix(key + (k + 1) * GOLDEN & MASK)

    if n < 1024:
        table = [0] * n
        for k in range(n):
            j = subkey(k) * (k + 1) >> 64
            table[k] = table[j]
            table[j] = k
        return table[i]
    a = math.isqrt(n - 1) + 1
    b = -(-n // a)
    while True:
        right, left = divmod(i, a)
        for k in (0, 2, 4):
            left = (left + (mix(right ^ subkey(k)) * a >> 64)) % a
            right = (right + (mix(left ^ subkey(k + 1)) * b >> 64)) % b
        i = right * a + left
        if i < n:
            return i


@pytest.fixture(scope="module")
def idx(fashion_mnist):
    return (fashion_mnist / "t10k-images-idx3-ubyte.gz", fashion_mnist / "t10k-labels-idx1-ubyte.gz")


@pytest.fixture(scope="module")
def dataset(perrin, idx, tmp_path_factory):
    """Fashion-MNIST's 10,000 held-out images in shards of 3,000."""
    folder = tmp_path_factory.mktemp("h5py") / "heldout"
    perrin("prepare", "--images", idx[0], "--labels", idx[1], "--output", folder, "--shard-images", 3000,
           "--seed", SHUFFLE_SEED, "--class-names", ",".join(CLASS_NAMES))
    return folder


def load(folder):
    """All shards, joined in the manifest's order, as h5py gives them."""
    manifest = json.loads((folder / "manifest.json").read_text())
    parts = {"images": [], "labels": [], "source_id": [], "crc32c": []}
    for shard in manifest["shards"]:
        with h5py.File(folder / shard["path"], "r") as file:
            for name, part in parts.items():
                part.append(file[name][:])
    return manifest, {name: np.concatenate(part) for name, part in parts.items()}


def test_h5py_finds_the_pixels_and_labels_of_the_idx_files(dataset, idx):
    manifest, stored = load(dataset)
    images, labels = read_idx(idx[0]), read_idx(idx[1])
    assert manifest["n"] == len(images) == 10_000
    assert stored["images"].dtype == np.uint8 and stored["images"].shape == (10_000, 1, 28, 28)
    assert stored["labels"].dtype == np.int32
    assert np.array_equal(np.sort(stored["source_id"]), np.arange(10_000))
    assert np.array_equal(stored["images"][:, 0], images[stored["source_id"]])
    assert np.array_equal(stored["labels"], labels[stored["source_id"]])


def test_the_stored_order_is_the_one_the_format_describes(dataset):
    _, stored = load(dataset)
    seed = SHUFFLE_SEED ^ STORAGE_SEED_MASK
    for p in (*range(50), 2999, 3000, 9999):
        assert stored["source_id"][p] == order(10_000, seed, p)


def test_small_orders_are_the_ones_the_format_describes():
    # The numbers that tests/data/sample_order_test.cpp expects of the program.
    assert [order(10, 1, p) for p in range(7, 13)] == [7, 5, 1, 1, 4, 6]
    assert [order(60_000, 1, p) for p in range(59_997, 60_003)] == [25092, 34852, 32538, 18724, 52908, 48134]


def test_every_table_has_its_checksum(dataset):
    _, stored = load(dataset)
    for i in range(0, 10_000, 500):
        assert stored["crc32c"][i] == crc32c(stored["images"][i].tobytes())
    with h5py.File(dataset / "shard-00003.h5", "r") as file:
        for name in ("labels", "source_id"):
            assert file[name].attrs["crc32c"] == crc32c(file[name][:].tobytes())


def test_manifest_and_attributes_say_what_is_there(dataset):
    manifest, stored = load(dataset)
    assert manifest["class_names"] == CLASS_NAMES
    assert manifest["class_histogram"] == [1000] * 10
    assert [shard["n"] for shard in manifest["shards"]] == [3000, 3000, 3000, 1000]
    text = "perrin-dataset 1\n10000 1 28 28\n"
    for i, shard in enumerate(manifest["shards"]):
        contents = (dataset / shard["path"]).read_bytes()
        assert len(contents) == shard["bytes"]
        assert hashlib.sha256(contents).hexdigest() == shard["sha256"]
        text += f"{shard['n']} {shard['sha256']}\n"
        with h5py.File(dataset / shard["path"], "r") as file:
            assert file.attrs["format"] == b"perrin-shard" and file.attrs["format_version"] == 1
            assert file.attrs["dataset_uuid"].decode() == manifest["uuid"]
            assert (file.attrs["shard_index"], file.attrs["num_shards"]) == (i, 4)
            assert [name.decode() for name in file.attrs["class_names"]] == CLASS_NAMES
            assert file["images"].chunks is None and file["images"].id.get_offset() % 2**20 == 0
    assert manifest["fingerprint"] == hashlib.sha256(text.encode()).hexdigest()


def test_padding_puts_the_image_in_the_middle_of_zeros(perrin, idx, tmp_path):
    perrin("prepare", "--images", idx[0], "--labels", idx[1], "--output", tmp_path / "padded", "--pad", 32)
    _, stored = load(tmp_path / "padded")
    expected = np.pad(read_idx(idx[0])[stored["source_id"]], ((0, 0), (2, 2), (2, 2)))
    assert np.array_equal(stored["images"][:, 0], expected)


def test_h5ls_lists_a_shard(dataset, run_command):
    if shutil.which("h5ls") is None:
        pytest.skip("h5ls (Debian's package hdf5-tools) is not installed")
    listing = run_command(["h5ls", dataset / "shard-00000.h5"]).stdout
    assert re.search(r"^images\s+Dataset \{3000, 1, 28, 28\}", listing, re.M)
    assert re.search(r"^labels\s+Dataset \{3000\}", listing, re.M)


def test_the_script_in_the_documentation_writes_what_perrin_reads(source_dir, build_dir, run_command, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "crc32c", types.SimpleNamespace(crc32c=crc32c))
    script = re.search(r"```python\n(.*?)```", (source_dir / "docs/format.md").read_text(), re.S).group(1)
    names = {}
    exec(script, names)
    images = np.random.default_rng(1).integers(0, 256, (40, 3, 8, 6), dtype=np.uint8)
    labels = np.arange(40, dtype=np.int32) % 4 - 1
    names["write_dataset"](str(tmp_path / "mine"), images, labels, ["cat", "chat noir é", "x"], "my-uuid")
    output = run_command([build_dir / "tests/data/read_dataset", tmp_path / "mine"]).stdout.splitlines()
    assert output[0] == json.loads((tmp_path / "mine/manifest.json").read_text())["fingerprint"]
    assert output[1] == hashlib.sha256(images.tobytes()).hexdigest()
    assert output[2].split() == [str(label) for label in labels]
