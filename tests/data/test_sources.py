"""Every kind of source against an independent reader: what h5py finds in the shards is what numpy and Pillow read."""

import tarfile

import h5py
import numpy as np
import pytest

RANDOM = np.random.default_rng(6)


def stored_by_source(folder):
    """Images and labels of a dataset, in the order of its source, and the class names."""
    parts = []
    for path in sorted(folder.glob("shard-*.h5")):
        with h5py.File(path, "r") as file:
            parts.append((file["images"][:], file["labels"][:], file["source_id"][:]))
            names = [name.decode() for name in file.attrs.get("class_names", [])]
    images, labels, ids = (np.concatenate(part) for part in zip(*parts))
    back = np.argsort(ids)
    return images[back], labels[back], names


@pytest.fixture
def prepare(perrin, tmp_path):
    """prepare(path, *options) -> images, labels, names by source; one output a test."""

    def call(path, *options):
        perrin("prepare", path, "--output", tmp_path / "prepared/set", "--seed", 3, *options)
        return stored_by_source(tmp_path / "prepared/set")

    return call


@pytest.fixture
def refuse(perrin, tmp_path):
    """refuse(path, *options) -> what perrin says."""

    def call(path, *options, code=65):
        done = perrin("prepare", path, "--output", tmp_path / "refused/set", *options, check=False)
        assert done.returncode == code, done.stderr
        assert not (tmp_path / "refused/set").exists()
        return done.stderr

    return call


def cifar_tar(folder, files):
    """A .tar.gz as the authors pack it: one folder, files in no helpful order."""
    path = folder / "cifar.tar.gz"
    (folder / "unpacked").mkdir()
    with tarfile.open(path, "w:gz") as archive:
        for name, contents in reversed(files.items()):
            (folder / "unpacked" / name).write_bytes(contents)
            archive.add(folder / "unpacked" / name, f"cifar-batches-bin/{name}")
    return path


@pytest.mark.parametrize("packed", [True, False])
def test_cifar_10_is_stored_to_the_byte(prepare, tmp_path, packed):
    images = RANDOM.integers(0, 256, (60, 3, 32, 32), dtype=np.uint8)
    labels = RANDOM.integers(0, 10, 60, dtype=np.uint8)
    names = [f"class {i}" for i in range(10)]
    records = np.concatenate([labels[:, None], images.reshape(60, -1)], 1)
    files = {f"data_batch_{i + 1}.bin": records[10 * i : 10 * i + 10].tobytes() for i in range(5)}
    files["test_batch.bin"] = records[50:].tobytes()
    files["batches.meta.txt"] = ("\n".join(names) + "\n\n").encode()
    archive = cifar_tar(tmp_path, files)
    found, found_labels, found_names = prepare(archive if packed else tmp_path / "unpacked")
    assert np.array_equal(found, images[:50]) and np.array_equal(found_labels, labels[:50]) and found_names == names


def test_cifar_100s_test_set_is_stored_with_the_label_asked_for(prepare, tmp_path):
    images = RANDOM.integers(0, 256, (7, 3, 32, 32), dtype=np.uint8)
    labels = np.stack([np.arange(7) + 13, np.arange(7) * 16], 1).astype(np.uint8)
    records = np.concatenate([labels, images.reshape(7, -1)], 1).tobytes()
    archive = cifar_tar(tmp_path, {"train.bin": records[:3074], "test.bin": records,
                                   "coarse_label_names.txt": "\n".join(f"c{i}" for i in range(20)).encode()})
    found, found_labels, names = prepare(archive, "--subset", "test", "--cifar-labels", "coarse")
    assert np.array_equal(found, images) and np.array_equal(found_labels, labels[:, 0]) and names[19] == "c19"


def test_pickles_are_refused_with_a_pointer_to_the_binary_version(refuse, tmp_path):
    archive = cifar_tar(tmp_path, {"data_batch_1": b"\x80\x02}q\x00.", "batches.meta": b"\x80\x02}q\x00."})
    assert "cifar-10-binary.tar.gz" in refuse(archive)
    assert "binary version" in refuse(tmp_path / "unpacked")
    assert "numpy.savez" in refuse(tmp_path / "unpacked/data_batch_1")


def test_a_tar_whose_members_are_links_or_lead_out_is_refused(refuse, tmp_path):
    for kind, linkname, name in ((tarfile.SYMTYPE, "/etc/passwd", "x/train.bin"), (tarfile.LNKTYPE, "x/y", "x/train.bin"),
                                 (tarfile.REGTYPE, "", "../train.bin"), (tarfile.REGTYPE, "", "/tmp/train.bin")):
        with tarfile.open(tmp_path / "evil.tar.gz", "w:gz") as archive:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, linkname
            archive.addfile(member)
        said = refuse(tmp_path / "evil.tar.gz")
        assert "is a link" in said or "leads out of the archive" in said


def test_a_truncated_tar_is_refused(refuse, tmp_path):
    archive = cifar_tar(tmp_path, {"train.bin": RANDOM.integers(0, 20, 3074 * 50, dtype=np.uint8).tobytes()})
    whole = archive.read_bytes()
    for length in (len(whole) // 2, len(whole) - 20):
        archive.write_bytes(whole[:length])
        assert "cifar.tar.gz" in refuse(archive)
