"""Every kind of source against an independent reader: what h5py finds in the shards is what numpy and Pillow read."""

import gzip
import io
import json
import sys
import tarfile
import zipfile
import zlib

import h5py
import numpy as np
import PIL.Image
import PIL.ImageOps
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


def chw(image):
    """A Pillow image or array [H, W] or [H, W, C] as [C, H, W]."""
    array = np.asarray(image)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


# --- arrays ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("dtype", ["u1", "<i2", ">i4", "<i8", "<u8"])
def test_npz_of_guided_diffusions_sampler_is_stored_to_the_byte(prepare, tmp_path, save, dtype):
    images = RANDOM.integers(0, 256, (9, 6, 5, 3), dtype=np.uint8)
    labels = np.arange(9).astype(dtype)
    save(tmp_path / "samples.npz", images, labels)
    found, found_labels, names = prepare(tmp_path / "samples.npz")
    assert np.array_equal(found, images.transpose(0, 3, 1, 2)) and np.array_equal(found_labels, labels) and names == []


def test_npz_without_labels_and_with_names_of_its_own(prepare, tmp_path):
    images = RANDOM.integers(0, 256, (4, 3, 5, 6), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", pixels=images, other=np.zeros(3))
    found, labels, _ = prepare(tmp_path / "a.npz", "--images-key", "pixels")
    assert np.array_equal(found, images) and np.array_equal(labels, [-1] * 4)


def test_npz_of_grey_images_and_labels_of_minus_one(prepare, tmp_path):
    images = RANDOM.integers(0, 256, (4, 5, 6), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", images=images, y=np.array([2, -1, 0, 1], np.int8))
    found, labels, names = prepare(tmp_path / "a.npz", "--class-names", "a,b,c")
    assert np.array_equal(found[:, 0], images) and np.array_equal(labels, [2, -1, 0, 1]) and names == ["a", "b", "c"]


def test_arrays_that_could_be_read_in_two_ways_are_refused_until_the_user_says_how(prepare, refuse, tmp_path):
    images = RANDOM.integers(0, 256, (4, 3, 7, 3), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", images)
    assert "say --layout" in refuse(tmp_path / "a.npz")
    assert np.array_equal(prepare(tmp_path / "a.npz", "--layout", "nhwc")[0], images.transpose(0, 3, 1, 2))
    np.savez(tmp_path / "b.npz", RANDOM.integers(0, 256, (4, 8, 7, 9), dtype=np.uint8))
    assert "say --layout" in refuse(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", images=images, x=images)
    assert "--images-key" in refuse(tmp_path / "c.npz")
    np.savez(tmp_path / "d.npz", pictures=images)
    assert "has: pictures" in refuse(tmp_path / "d.npz")
    assert "no array 'z'" in refuse(tmp_path / "d.npz", "--images-key", "z")


def test_arrays_that_are_no_images_or_labels_are_refused(refuse, tmp_path):
    images = np.zeros((4, 8, 8, 3), np.uint8)

    def said(*arrays):
        np.savez(tmp_path / "a.npz", *arrays)
        return refuse(tmp_path / "a.npz")

    assert "images are uint8" in said(images.astype(np.float32))
    assert "Python objects" in said(np.array([{}], object))
    assert "Fortran order" in said(np.asfortranarray(images))
    assert "has shape [4, 8]" in said(images[:, :, 0, 0])
    assert "5 labels for 4 images" in said(images, np.arange(5))
    assert "argmax" in said(images, np.eye(4))
    assert "has label -2" in said(images, np.array([0, -2, 0, 0]))
    assert "has label 9223372036854775807" in said(images, np.array([0, 2**64 - 1, 0, 0], np.uint64))
    assert "one array" in (np.save(tmp_path / "a.npy", images), refuse(tmp_path / "a.npy"))[1]


# --- HDF5 of other people ---------------------------------------------------------------------------------------------

STORAGE = [{}, dict(chunks=(4, 3, 6, 5), compression="gzip", shuffle=True), dict(chunks=(7, 1, 3, 5), fletcher32=True)]


@pytest.mark.parametrize("storage", STORAGE)
@pytest.mark.parametrize("images_key, labels_key", [("imgs", "labels"), ("x", "y"), ("images", "ans"), ("mine", "theirs")])
def test_hdf5_is_stored_to_the_byte_under_its_usual_names(prepare, tmp_path, storage, images_key, labels_key):
    images = RANDOM.integers(0, 256, (10, 3, 6, 5), dtype=np.uint8)
    labels = np.arange(10, dtype=">i8")
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file.create_dataset(images_key, data=images, **storage)
        file[labels_key] = labels[:, None, None, None] if labels_key == "y" else labels
    options = ["--images-key", "mine", "--labels-key", "theirs"] if images_key == "mine" else []
    found, found_labels, _ = prepare(tmp_path / "a.hdf5", *options)
    assert np.array_equal(found, images) and np.array_equal(found_labels, labels)


def test_hdf5_with_channels_last_is_turned(prepare, tmp_path):
    images = RANDOM.integers(0, 256, (10, 6, 5, 3), dtype=np.uint8)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["images"] = images
    found, labels, names = prepare(tmp_path / "a.h5", "--class-names", "a,b")
    assert np.array_equal(found, images.transpose(0, 3, 1, 2)) and set(labels) == {-1} and names == ["a", "b"]


def test_hdf5_that_is_ambiguous_hostile_or_of_other_types_is_refused(refuse, tmp_path):
    images = np.zeros((4, 3, 8, 8), np.uint8)
    (tmp_path / "secret").write_bytes(bytes(images.nbytes))

    def said(*options, **objects):
        path = tmp_path / "a.h5"
        with h5py.File(path, "w") as file:
            for name, value in objects.items():
                value(file, name) if callable(value) else file.__setitem__(name, value)
        return refuse(path, *options)

    assert "images and data could be the images; say which with --images-key" in said(images=images, data=images)
    assert "has: pictures" in said(pictures=images)
    assert "say --layout" in said(images=np.zeros((4, 3, 8, 3), np.uint8))
    assert "not of type uint8" in said(images=images.astype(np.float32))
    assert "not of type uint8" in said(images=images.astype(np.int8))
    assert "5 labels for 4 images" in said(images=images, labels=np.arange(5))
    assert "argmax" in said(images=images, labels=np.eye(4, dtype=np.int64))
    assert "has label 9223372036854775807" in said(images=images, labels=np.full(4, 2**64 - 1, np.uint64))
    assert "never written" in said(images=lambda file, name: file.create_dataset(name, images.shape, np.uint8))
    assert "is a group" in said(images=lambda file, name: file.create_group(name))
    assert "links are refused" in said(other=images, images=h5py.SoftLink("/other"))
    assert "links are refused" in said(images=h5py.ExternalLink("secret", "/images"))
    assert "from other files" in said(images=lambda file, name: file.create_dataset(
        name, images.shape, np.uint8, external=[(str(tmp_path / "secret"), 0, images.nbytes)]))

    def virtual(file, name):
        layout = h5py.VirtualLayout(images.shape, np.uint8)
        layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "images", images.shape)
        file.create_virtual_dataset(name, layout)

    assert "from other files" in said(images=virtual)
    whole = (tmp_path / "a.h5").read_bytes()
    (tmp_path / "a.h5").write_bytes(whole[: len(whole) // 2])
    assert "cannot be opened" in refuse(tmp_path / "a.h5")


@pytest.mark.parametrize("chunks", [(7, 3, 6, 5), (100, 1, 6, 5), (3, 2, 4, 4)])
def test_chunked_hdf5_is_unpacked_block_by_block(perrin, tmp_path, chunks):
    images = RANDOM.integers(0, 256, (100, 3, 6, 5), dtype=np.uint8)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("images", data=images, chunks=chunks, compression="gzip")
    perrin("prepare", tmp_path / "a.h5", "--output", tmp_path / "set", "--shard-images", 30)
    assert np.array_equal(stored_by_source(tmp_path / "set")[0], images)


def test_a_large_compressed_hdf5_is_never_whole_in_memory(perrin_binary, run_command, tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        images = file.create_dataset("images", (1200, 3, 256, 256), np.uint8, chunks=(8, 3, 256, 256), compression="gzip", compression_opts=1)
        for first in range(0, 1200, 8):
            shades = (np.arange(first, first + 8) % 251).astype(np.uint8)
            images[first : first + 8] = np.repeat(shades, 3 * 256 * 256).reshape(8, 3, 256, 256)  # 236 MB in all
    script = ("import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True); "
              "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)")
    options = ["--output", tmp_path / "set", "--keep-order", "--shard-images", 600]
    with open(tmp_path / "small.png", "wb") as small:
        PIL.Image.fromarray(np.zeros((4, 4), np.uint8)).save(small, "PNG")
    (tmp_path / "one").mkdir()
    (tmp_path / "small.png").rename(tmp_path / "one/a.png")
    peaks = []
    for path, output in ((tmp_path / "one", tmp_path / "nothing"), (tmp_path / "a.h5", tmp_path / "set")):
        options[1] = output
        done = run_command([sys.executable, "-c", script, perrin_binary, "prepare", path, *options], timeout=120)
        peaks.append(int(done.stdout.splitlines()[-1]) / 1024)
    assert peaks[1] < peaks[0] + 150, peaks  # MiB: a block of 64 MiB and HDF5's own, not 236
    with h5py.File(tmp_path / "set/shard-00001.h5") as file:
        assert [int(image.min()) for image in file["images"][::100]] == [i % 251 for i in range(600, 1200, 100)]


def test_chunks_that_would_fill_the_memory_are_refused(refuse, tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("images", (2000, 3, 512, 512), np.uint8, chunks=(1500, 1, 512, 512))
        file["filler"] = RANDOM.integers(0, 256, 2_000_000, dtype=np.uint8)  # what is in the file bounds what it can unpack to
    assert "h5repack" in refuse(tmp_path / "a.h5")


@pytest.mark.parametrize("key", ["y", "lone"])
def test_labels_of_hdf5_may_be_in_a_file_of_their_own(prepare, refuse, tmp_path, key):
    images = RANDOM.integers(0, 256, (10, 6, 5, 3), dtype=np.uint8)
    labels = np.arange(10, dtype=np.uint8)
    with h5py.File(tmp_path / "x.h5", "w") as file, h5py.File(tmp_path / "y.h5", "w") as other:
        file.create_dataset("x", data=images, chunks=(4, 6, 5, 3), compression="gzip")
        other[key] = labels[:, None, None, None]
    found, found_labels, names = prepare(tmp_path / "x.h5", "--labels-file", tmp_path / "y.h5", "--class-names", ",".join("abcdefghij"))
    assert np.array_equal(found, images.transpose(0, 3, 1, 2)) and np.array_equal(found_labels, labels) and names == list("abcdefghij")
    with h5py.File(tmp_path / "y.h5", "w") as other:
        other["one"], other["two"] = labels, labels
    assert "--labels-key" in refuse(tmp_path / "x.h5", "--labels", tmp_path / "y.h5")
    with h5py.File(tmp_path / "y.h5", "w") as other:
        other["y"] = labels[:9]
    assert "9 labels for 10 images" in refuse(tmp_path / "x.h5", "--labels", tmp_path / "y.h5")


def test_a_compressed_file_of_hdf5_is_refused_with_the_way_out(refuse, tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = np.zeros((4, 3, 8, 8), np.uint8)
    (tmp_path / "a.h5.gz").write_bytes(gzip.compress((tmp_path / "a.h5").read_bytes()))
    assert "gunzip it first" in refuse(tmp_path / "a.h5.gz")


# --- repack -----------------------------------------------------------------------------------------------------------


def hdf5_files(folder, storage=None):
    """Three files of different storage, as one array and labels."""
    images = RANDOM.integers(0, 256, (50, 6, 5, 3), dtype=np.uint8)
    folder.mkdir()
    for name, part, storage in (("b.h5", slice(20, 21), {}), ("a.hdf5", slice(0, 20), dict(chunks=(6, 6, 5, 3), compression="gzip")),
                                ("c.h5", slice(21, 50), dict(chunks=(50, 6, 5, 1), maxshape=(None, 6, 5, 3)))):
        with h5py.File(folder / name, "w") as file:
            file.create_dataset("imgs", data=images[part], **storage)
            file["labels"] = np.arange(50)[part]
    return images.transpose(0, 3, 1, 2)


@pytest.mark.parametrize("ranks", [None, 3])
def test_repack_keeps_the_order_of_several_files_when_asked(perrin, tmp_path, ranks):
    images = hdf5_files(tmp_path / "in")
    perrin("repack", tmp_path / "in", tmp_path / "set", "--keep-order", "--shard-images", 16, ranks=ranks)
    stored, labels = [], []
    for path in sorted((tmp_path / "set").glob("*.h5")):
        with h5py.File(path) as file:
            stored.append(file["images"][:])
            labels.append(file["labels"][:])
    assert np.array_equal(np.concatenate(stored), images) and np.array_equal(np.concatenate(labels), np.arange(50))
    assert [len(part) for part in stored] == [16, 16, 16, 2]
    assert json.loads((tmp_path / "set/manifest.json").read_text())["shuffle"] == {"algorithm": "none", "seed": 0}


def test_repack_takes_a_pattern_and_shuffles_by_the_seed(perrin, tmp_path):
    images = hdf5_files(tmp_path / "in")
    perrin("repack", tmp_path / "in/[bc].h5", tmp_path / "set", "--seed", 5)
    stored, labels, _ = stored_by_source(tmp_path / "set")
    assert np.array_equal(stored, images[20:]) and np.array_equal(labels, np.arange(20, 50))
    with h5py.File(tmp_path / "set/shard-00000.h5") as file:
        assert list(file["source_id"][:]) != list(range(30))


def test_repack_divides_a_dataset_anew(perrin, tmp_path):
    np.savez(tmp_path / "a.npz", RANDOM.integers(0, 256, (40, 5, 6, 3), dtype=np.uint8), np.arange(40) % 3)
    perrin("prepare", tmp_path / "a.npz", "--output", tmp_path / "old", "--class-names", "a,b,c", "--pad", 8)
    perrin("repack", tmp_path / "old", tmp_path / "new", "--shard-images", 7, "--keep-order")
    parts = []
    for folder in ("old", "new"):
        stored = []
        for path in sorted((tmp_path / folder).glob("*.h5")):
            with h5py.File(path) as file:
                stored.append((file["images"][:], file["labels"][:]))
        parts.append([np.concatenate(arrays) for arrays in zip(*stored)])
        assert len(stored) == (1 if folder == "old" else 6)
    assert np.array_equal(parts[0][0], parts[1][0]) and np.array_equal(parts[0][1], parts[1][1])
    old, new = (json.loads((tmp_path / folder / "manifest.json").read_text()) for folder in ("old", "new"))
    assert new["transform"] == old["transform"] == "pad 5x6 to 8x8 with 0" and new["class_names"] == ["a", "b", "c"]
    shard = tmp_path / "old/shard-00000.h5"
    whole = bytearray(shard.read_bytes())
    with h5py.File(shard) as file:
        whole[file["images"].id.get_offset() + 9] ^= 1
    shard.write_bytes(whole)
    done = perrin("repack", tmp_path / "old", tmp_path / "damaged", check=False)
    assert done.returncode == 65 and "fails its checksum" in done.stderr and not (tmp_path / "damaged").exists()


def test_repack_refuses_what_is_no_hdf5(perrin, tmp_path):
    np.savez(tmp_path / "a.npz", np.zeros((4, 5, 6, 3), np.uint8))
    hdf5_files(tmp_path / "in")
    (tmp_path / "in/d.h5").write_bytes(b"no HDF5 at all")
    with h5py.File(tmp_path / "in/e.h5", "w") as file:
        file["imgs"] = np.zeros((4, 7, 5, 3), np.uint8)
    for path, said in ((tmp_path / "a.npz", "perrin prepare"), (tmp_path / "in/*.h5", "d.h5: is not recognised"),
                       (tmp_path / "in/[bce].h5", "e.h5: has images of 3x7x5, the first file has 3x6x5"),
                       (tmp_path / "in/*.hdf9", "matches no file")):
        done = perrin("repack", path, tmp_path / "set", check=False)
        assert done.returncode == 65 and said in done.stderr, done.stderr
    assert not (tmp_path / "set").exists()


# --- MNIST's four files -----------------------------------------------------------------------------------------------


def write_idx(path, array):
    data = bytes([0, 0, 8, array.ndim]) + b"".join(extent.to_bytes(4, "big") for extent in array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@pytest.fixture
def mnist(tmp_path):
    """A folder of the four files, one of them unpacked beside its archive, and what they hold."""
    folder, arrays = tmp_path / "mnist", {}
    folder.mkdir()
    for prefix, count in (("train", 30), ("t10k", 8)):
        images, labels = RANDOM.integers(0, 256, (count, 5, 4), dtype=np.uint8), RANDOM.integers(0, 10, count, dtype=np.uint8)
        write_idx(folder / f"{prefix}-images-idx3-ubyte.gz", images)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", labels)
        arrays[prefix] = images, labels
    write_idx(folder / "train-labels-idx1-ubyte", arrays["train"][1])
    return folder, arrays


def test_the_four_files_become_training_and_held_out_images(perrin, mnist, tmp_path):
    folder, arrays = mnist
    perrin("prepare", folder, "--held-out", "test", "--output", tmp_path / "set", "--pad", 6)
    for part, prefix in (("train", "train"), ("heldout", "t10k")):
        images, labels, _ = stored_by_source(tmp_path / "set" / part)
        assert np.array_equal(images[:, 0, :-1, 1:-1], arrays[prefix][0]) and np.array_equal(labels, arrays[prefix][1])
    perrin("prepare", "--images", folder / "train-images-idx3-ubyte.gz", "--labels", folder / "train-labels-idx1-ubyte.gz", "--pad", 6,
           "--output", tmp_path / "pair")
    assert (tmp_path / "pair/manifest.json").read_bytes() == (tmp_path / "set/train/manifest.json").read_bytes()


def test_one_of_the_two_sets_is_chosen(prepare, mnist):
    folder, arrays = mnist
    for name in ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"):
        (folder / name).rename(folder / name.replace("-idx", ".idx"))
    images, labels, _ = prepare(folder, "--subset", "test")
    assert np.array_equal(images[:, 0], arrays["t10k"][0]) and np.array_equal(labels, arrays["t10k"][1])


def test_a_set_that_is_not_whole_or_not_divided_is_refused(refuse, mnist, tmp_path):
    folder, _ = mnist
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    assert "has no file t10k-labels*" in refuse(folder, "--held-out", "test")
    assert "leave --subset out" in refuse(folder, "--held-out", "test", "--subset", "train", code=64)
    assert "neither a number" in refuse(folder, "--held-out", "tests", code=64)
    np.savez(tmp_path / "a.npz", np.zeros((4, 5, 6, 3), np.uint8))
    assert "--held-out test" in refuse(tmp_path / "a.npz", "--held-out", "test")


def test_cifars_test_set_can_be_held_out(perrin, tmp_path):
    images = RANDOM.integers(0, 256, (9, 3, 32, 32), dtype=np.uint8)
    records = np.concatenate([np.zeros((9, 2), np.uint8), images.reshape(9, -1)], 1).tobytes()
    archive = cifar_tar(tmp_path, {"train.bin": records[: 5 * 3074], "test.bin": records[5 * 3074 :]})
    perrin("prepare", archive, "--held-out", "test", "--output", tmp_path / "set")
    assert np.array_equal(stored_by_source(tmp_path / "set/train")[0], images[:5])
    assert np.array_equal(stored_by_source(tmp_path / "set/heldout")[0], images[5:])


# --- image files -----------------------------------------------------------------------------------------------------


def smooth(height, width, channels=3):
    """Something like a photograph: JPEG's own noise stays small and every filter has something to do."""
    y, x = np.mgrid[:height, :width]
    waves = [127 + 90 * np.sin(x / (5 + c) + y / (9 - c)) + RANDOM.normal(0, 12, (height, width)) for c in range(channels)]
    return np.clip(np.stack(waves, -1), 0, 255).astype(np.uint8).squeeze()


def save_tree(root, files):
    for name, contents in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(contents, bytes):
            path.write_bytes(contents)
        else:
            contents.save(path)
    return root


def test_folders_are_classes_and_png_pixels_are_kept_to_the_byte(prepare, tmp_path):
    pictures = {f"{animal}/{i}.png": PIL.Image.fromarray(smooth(12, 10)) for animal in ("ox", "ant", "bee é") for i in range(3)}
    root = save_tree(tmp_path / "zoo", {**pictures, "ant/notes.txt": b"x", ".hidden/a.png": b"x", "ox/.a.png": b"x"})
    images, labels, names = prepare(root)
    order = sorted(pictures)
    assert names == ["ant", "bee é", "ox"]
    assert [names[k] for k in labels] == [name.split("/")[0] for name in order]
    assert np.array_equal(images, [chw(pictures[name]) for name in order])


MODES = {"L": (8, 1), "1": (8, 1), "P": (8, 3), "RGB": (8, 3)}


@pytest.mark.parametrize("mode", MODES)
def test_every_kind_of_png_is_decoded_as_pillow_does(prepare, tmp_path, mode):
    picture = PIL.Image.fromarray(smooth(16, 13)).convert(mode)
    root = save_tree(tmp_path / "in", {"a.png": picture})
    expected = picture.convert("L" if mode == "1" else "RGB" if mode == "P" else mode)
    images, labels, names = prepare(root)
    assert np.array_equal(images[0], chw(expected)) and labels[0] == -1 and names == []


def test_interlaced_png_of_four_bits_is_decoded_as_pillow_does(prepare, tmp_path):
    picture = PIL.Image.fromarray(smooth(16, 13)).quantize(11)
    picture.save(tmp_path / "in.png", bits=4)
    root = save_tree(tmp_path / "in", {"a.png": (tmp_path / "in.png").read_bytes()})
    assert np.array_equal(prepare(root)[0][0], chw(picture.convert("RGB")))


JPEGS = [dict(subsampling=s, progressive=p, quality=q) for s in (0, 1, 2) for p in (False, True) for q in (50, 95)]


def test_jpeg_is_decoded_as_pillow_does(prepare, tmp_path):
    root = tmp_path / "in"
    for i, options in enumerate(JPEGS):
        buffer = io.BytesIO()
        PIL.Image.fromarray(smooth(67, 51)).save(buffer, "JPEG", **options)
        save_tree(root, {f"{i:02}.jpg": buffer.getvalue()})
    images = prepare(root)[0]
    for i, options in enumerate(JPEGS):
        assert np.array_equal(images[i], chw(PIL.Image.open(root / f"{i:02}.jpg"))), options


@pytest.mark.parametrize("ending", ["jpg", "png"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_as_pillow_does(prepare, tmp_path, ending, orientation):
    exif = PIL.Image.Exif()
    exif[0x010F] = "a maker"
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    PIL.Image.fromarray(smooth(16, 24)).save(buffer, {"jpg": "JPEG", "png": "PNG"}[ending], exif=exif)
    root = save_tree(tmp_path / "in", {f"a.{ending}": buffer.getvalue()})
    expected = PIL.ImageOps.exif_transpose(PIL.Image.open(root / f"a.{ending}"))
    assert np.array_equal(prepare(root)[0][0], chw(expected))


@pytest.mark.parametrize("policy", ["black", "white", "drop"])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_settled_as_pillow_pastes(prepare, refuse, tmp_path, policy, mode):
    picture = PIL.Image.fromarray(smooth(16, 13, 4)).convert(mode)
    root = save_tree(tmp_path / "in", {"a.png": picture})
    assert "--alpha" in refuse(root)
    expected = PIL.Image.new(mode[:-1], picture.size, {"L": {"white": 255}, "RGB": {"white": (255,) * 3}}[mode[:-1]].get(policy, 0))
    colours = picture.convert(mode[:-1])
    expected = colours if policy == "drop" else (expected.paste(colours, mask=picture.getchannel("A")), expected)[1]
    assert np.array_equal(prepare(root, "--alpha", policy)[0][0], chw(expected))


def test_opaque_images_lose_their_alpha_without_a_word(prepare, tmp_path):
    picture = PIL.Image.fromarray(smooth(16, 13))
    root = save_tree(tmp_path / "in", {"a.png": picture.convert("RGBA"), "b.png": picture})
    assert np.array_equal(prepare(root)[0], [chw(picture)] * 2)


@pytest.mark.parametrize("channels, mode", [(1, "L"), (3, "RGB")])
def test_channels_are_made_alike_as_pillow_converts(prepare, refuse, tmp_path, channels, mode):
    pictures = [PIL.Image.fromarray(smooth(16, 13)), PIL.Image.fromarray(smooth(16, 13, 1))]
    root = save_tree(tmp_path / "in", {"a.png": pictures[0], "b.png": pictures[1]})
    assert "--channels 3" in refuse(root)
    assert np.array_equal(prepare(root, "--channels", channels)[0], [chw(p.convert(mode)) for p in pictures])


def test_images_of_several_sizes_are_refused_with_the_way_out(refuse, tmp_path):
    root = save_tree(tmp_path / "in", {"a.png": PIL.Image.fromarray(smooth(16, 13)), "b.png": PIL.Image.fromarray(smooth(16, 12))})
    assert "b.png: is 16 x 12, the first image is 16 x 13" in refuse(root)


def adm(image, size):
    """center_crop_arr of guided-diffusion (image_datasets.py), EDM's center-crop-dhariwal."""
    while min(*image.size) >= 2 * size:
        image = image.resize(tuple(x // 2 for x in image.size), resample=PIL.Image.Resampling.BOX)
    scale = size / min(*image.size)
    image = image.resize(tuple(round(x * scale) for x in image.size), resample=PIL.Image.Resampling.BICUBIC)
    array = np.array(image)
    y, x = (array.shape[0] - size) // 2, (array.shape[1] - size) // 2
    return array[y : y + size, x : x + size]


def center(image, size):
    """center-crop of EDM's and StyleGAN's dataset_tool.py."""
    array = np.array(image)
    crop = min(array.shape[:2])
    h, w = array.shape[:2]
    array = array[(h - crop) // 2 : (h + crop) // 2, (w - crop) // 2 : (w + crop) // 2]
    return np.array(PIL.Image.fromarray(array).resize((size, size), PIL.Image.Resampling.LANCZOS))


SIZES = [(33, 47), (64, 64), (100, 75), (131, 257), (255, 300), (500, 333), (20, 31)]  # (20, 31) is enlarged


@pytest.mark.parametrize("recipe", [adm, center])
@pytest.mark.parametrize("channels", [1, 3])
def test_crops_are_pillows_to_the_bit(prepare, tmp_path, recipe, channels):
    pictures = {f"{i}.png": PIL.Image.fromarray(smooth(*size, channels)) for i, size in enumerate(SIZES)}
    # Extremes make every filter overshoot, and show where rounding or clipping differs.
    pictures["7.png"] = PIL.Image.fromarray(RANDOM.integers(0, 2, (97, 113, 3)).astype(np.uint8) * 255).convert("L" if channels == 1 else "RGB")
    root = save_tree(tmp_path / "in", pictures)
    images = prepare(root, "--crop", recipe.__name__, "--resolution", 32)[0]
    for image, (name, picture) in zip(images, pictures.items(), strict=True):
        assert np.array_equal(image, chw(recipe(picture, 32))), (name, picture.size)


def wide(image, width, height):
    """center-crop-wide of EDM's and StyleGAN's dataset_tool.py: the middle of the wanted aspect, Lanczos, black bars; None: too small.

    Theirs counts rows of the result in the source, (H - ch) // 2 with ch = width * H / W, and so bends an image that is wider than the
    result; the crop that is meant has height * W / width rows of the source.
    """
    rows = round(height * image.width / width)
    if image.width < width or rows > image.height:
        return None
    top = (image.height - rows) // 2
    # Cut first: the filter must not see the rows beyond.
    small = PIL.Image.fromarray(np.array(image)[top : top + rows]).resize((width, height), PIL.Image.Resampling.LANCZOS)
    canvas = PIL.Image.new(image.mode, (width, width))
    canvas.paste(small, (0, (width - height) // 2))
    return np.array(canvas)


WIDE_SIZES = [(130, 160), (48, 64), (47, 64), (48, 63), (96, 128), (300, 64), (75, 100), (74, 100), (200, 263), (333, 257), (20, 400)]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("resolution", [(64, 48), (64, 37), (51, 20)])
def test_the_wide_crop_is_pillows_to_the_bit_and_leaves_small_images_out(prepare, tmp_path, channels, resolution):
    pictures = [PIL.Image.fromarray(smooth(*size, channels)) for size in WIDE_SIZES]
    root = save_tree(tmp_path / "in", {f"{i:02}.png": picture for i, picture in enumerate(pictures)})
    images = prepare(root, "--crop", "center-wide", "--resolution", "{}x{}".format(*resolution), "--on-error", "skip")[0]
    expected = [chw(crop) for picture in pictures if (crop := wide(picture, *resolution)) is not None]
    assert 3 <= len(expected) < len(pictures)
    assert np.array_equal(images, expected)


def test_the_wide_crop_says_which_image_is_too_small(refuse, tmp_path):
    root = save_tree(tmp_path / "in", {"a.png": PIL.Image.fromarray(smooth(130, 160))})
    assert "a.png: is 130 x 160, too small" in refuse(root, "--crop", "center-wide", "--resolution", "64x60")


def test_options_that_contradict_each_other_are_usage_errors(refuse, tmp_path):
    root = save_tree(tmp_path / "in", {"a.png": PIL.Image.fromarray(smooth(16, 13))})
    assert "belong together" in refuse(root, "--crop", "adm", code=64)
    assert "belong together" in refuse(root, "--resolution", "8", code=64)
    assert "neither N nor" in refuse(root, "--crop", "adm", "--resolution", "8y9", code=64)
    assert "makes squares" in refuse(root, "--crop", "adm", "--resolution", "8x9", code=64)
    assert "--images-key" in refuse(root, "--images-key", "x")


def test_damaged_foreign_and_enormous_images_are_refused_by_name(refuse, tmp_path):
    whole = {}
    for ending, kind in (("png", "PNG"), ("jpg", "JPEG")):
        buffer = io.BytesIO()
        PIL.Image.fromarray(smooth(64, 64)).save(buffer, kind)
        whole[ending] = buffer.getvalue()

    def said(name, contents):
        root = tmp_path / f"in-{len(list(tmp_path.iterdir()))}"
        save_tree(root, {name: contents})
        message = refuse(root)
        assert name in message
        return message

    assert "damaged PNG" in said("a.png", whole["png"][:-900])
    assert "damaged PNG" in said("a.png", whole["png"][:200] + bytes([whole["png"][200] ^ 1]) + whole["png"][201:])
    assert "damaged JPEG" in said("a.jpg", whole["jpg"][: len(whole["jpg"]) // 2])
    assert "neither PNG nor JPEG" in said("a.jpg", b"<html></html>")
    assert "neither PNG nor JPEG" in said("a.webp", b"RIFF")
    assert "is empty" in said("a.png", b"")
    bomb = bytearray(whole["png"])
    bomb[16:24] = (60000).to_bytes(4, "big") * 2
    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")
    assert "60000 x 60000" in said("a.png", bytes(bomb))
    deep = io.BytesIO()
    PIL.Image.fromarray((smooth(8, 8, 1).astype(np.uint16) * 256)).save(deep, "PNG")
    assert "16 bits" in said("a.png", deep.getvalue())
    cmyk = io.BytesIO()
    PIL.Image.fromarray(smooth(8, 8, 4), "CMYK").save(cmyk, "JPEG")
    assert "CMYK" in said("a.jpg", cmyk.getvalue())


def edm_zip(path, pictures, labels):
    """As dataset_tool.py of EDM and StyleGAN writes it: stored PNG, and dataset.json."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, picture in pictures.items():
            buffer = io.BytesIO()
            picture.save(buffer, "PNG", compress_level=0, optimize=False)
            archive.writestr(name, buffer.getvalue())
        archive.writestr("dataset.json", json.dumps({"labels": labels}))
    return path


def test_edms_zip_and_its_folder_give_the_same_pixels_and_labels(prepare, tmp_path):
    pictures = {f"{i // 4:05}/img{i:08}.png": PIL.Image.fromarray(smooth(8, 8)) for i in range(9)}
    labels = [[name, (7 * i) % 5] for i, name in enumerate(pictures)]
    archive = edm_zip(tmp_path / "edm.zip", pictures, list(reversed(labels)))
    images, found, names = prepare(archive)
    assert np.array_equal(images, [chw(p) for p in pictures.values()])
    assert list(found) == [label for _, label in labels] and names == []
    with zipfile.ZipFile(archive) as file:
        file.extractall(tmp_path / "folder")
    (tmp_path / "prepared").rename(tmp_path / "first")
    images_again, found_again, _ = prepare(tmp_path / "folder")
    assert np.array_equal(images_again, images) and np.array_equal(found_again, found)


def test_null_labels_and_images_that_the_list_leaves_out_have_none(prepare, tmp_path):
    pictures = {f"0/{i}.png": PIL.Image.fromarray(smooth(8, 8)) for i in range(3)}
    assert list(prepare(edm_zip(tmp_path / "a.zip", pictures, None))[1]) == [-1] * 3
    (tmp_path / "prepared").rename(tmp_path / "first")
    assert list(prepare(edm_zip(tmp_path / "b.zip", pictures, [["0/1.png", 4]]))[1]) == [-1, 4, -1]


def test_hostile_and_damaged_zips_are_refused(refuse, tmp_path):
    picture = PIL.Image.fromarray(smooth(8, 8))
    assert "not there" in refuse(edm_zip(tmp_path / "a.zip", {"0.png": picture}, [["0.png", 1], ["1.png", 1]]))
    assert "no name and class" in refuse(edm_zip(tmp_path / "b.zip", {"0.png": picture}, [["0.png", [0.5, 1]]]))
    assert "leads out" in refuse(edm_zip(tmp_path / "c.zip", {"../0.png": picture}, None))
    link = zipfile.ZipInfo("0.png")
    link.external_attr = 0o120777 << 16
    link.create_system = 3
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    assert "is a link" in refuse(tmp_path / "d.zip")
    whole = edm_zip(tmp_path / "e.zip", {"0.png": picture}, None).read_bytes()
    (tmp_path / "e.zip").write_bytes(whole[:-30])
    assert "truncated or damaged" in refuse(tmp_path / "e.zip")
    at = whole.index(b"IDAT") + 40
    (tmp_path / "e.zip").write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
    assert "e.zip: 0.png: is truncated or damaged" in refuse(tmp_path / "e.zip")


def test_a_folder_without_images_or_with_images_beside_folders_is_refused(refuse, tmp_path):
    picture = PIL.Image.fromarray(smooth(8, 8))
    assert "holds no image" in refuse(save_tree(tmp_path / "a", {"x.txt": b"x"}))
    assert "beside them" in refuse(save_tree(tmp_path / "b", {"a.png": picture, "cat/b.png": picture}))
    root = save_tree(tmp_path / "c", {"cat/b.png": picture})
    (root / "dog").symlink_to(root / "cat")
    assert "link to a folder" in refuse(root)


# --- what is left out ------------------------------------------------------------------------------------------------


def test_failing_images_are_skipped_counted_and_named_when_asked(perrin, prepare, refuse, tmp_path):
    pictures = {f"{i}.png": PIL.Image.fromarray(smooth(8, 8)) for i in range(5)}
    root = save_tree(tmp_path / "in", {**pictures, "1b.png": b"no image", "0a.jpg": b"\xff\xd8\xff\xe0"})
    assert "0a.jpg" in refuse(root) or "1b.png" in refuse(root)
    done = perrin("prepare", root, "--output", tmp_path / "kept", "--on-error", "skip")
    said = done.stdout + done.stderr
    assert "2 of 7 images were skipped" in said and "1b.png" in said and "0a.jpg" in said
    assert np.array_equal(stored_by_source(tmp_path / "kept")[0], [chw(p) for p in pictures.values()])
    only = save_tree(tmp_path / "bad", {"1b.png": b"no image"})
    assert "every other image failed" in refuse(only, "--on-error", "skip")


def test_held_out_images_are_drawn_once_and_are_no_training_images(perrin, refuse, tmp_path):
    images = RANDOM.integers(0, 256, (40, 5, 6, 3), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", images, np.arange(40))
    perrin("prepare", tmp_path / "a.npz", "--output", tmp_path / "set", "--held-out", 10, "--seed", 4)
    train, held_out = (stored_by_source(tmp_path / "set" / part) for part in ("train", "heldout"))
    assert len(train[0]) == 30 and len(held_out[0]) == 10
    assert sorted([*train[1], *held_out[1]]) == list(range(40))
    assert list(held_out[1]) != list(range(10)) and list(held_out[1]) != list(range(30, 40))
    for found, labels, _ in (train, held_out):
        assert np.array_equal(found, images.transpose(0, 3, 1, 2)[labels])
    assert "leaves nothing" in refuse(tmp_path / "a.npz", "--held-out", 40, code=64)
