"""Seeds of the fuzz targets: small sound files, each by a maker that is not perrin.

Usage: make_seeds.py FORMAT_PAGE CONFIGS SEEDS CHECKPOINT_MANIFEST...
"""

import gzip
import io
import json
import pathlib
import re
import struct
import sys
import tarfile
import tempfile
import types
import zipfile

import h5py
import numpy as np
import PIL.Image

rng = np.random.default_rng(1)


def crc32c(data):
    """Bit by bit, as RFC 3720 defines it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def pixels(*shape):
    return rng.integers(0, 256, shape, dtype=np.uint8)


def picture(kind, mode="RGB", **options):
    channels = len(mode) if mode in ("RGB", "RGBA", "LA") else 1
    image = PIL.Image.fromarray(pixels(9, 7, channels).squeeze(), None if channels != 2 else "LA")
    buffer = io.BytesIO()
    image.convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def exif(orientation):
    tags = PIL.Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


def idx(rank, *extents):
    return bytes([0, 0, 8, rank]) + struct.pack(f">{rank}I", *extents) + pixels(*extents).tobytes()


def idx_pair(pack):
    labels, images = pack(idx(1, 3)), pack(idx(3, 3, 4, 5))
    return bytes([len(labels)]) + labels + images


def zip_of(members, compression=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, contents in members.items():
            archive.writestr(name, contents)
    return buffer.getvalue()


def npz(save, **arrays):
    buffer = io.BytesIO()
    save(buffer, **arrays)
    return buffer.getvalue()


def cifar_tar(mode):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, contents in {
            "cifar-10-batches-bin/test_batch.bin": b"\3" + pixels(3072).tobytes(),
            "cifar-10-batches-bin/batches.meta.txt": b"".join(b"name %d\n" % i for i in range(10)),
        }.items():
            member = tarfile.TarInfo(name)
            member.size = len(contents)
            archive.addfile(member, io.BytesIO(contents))
    return buffer.getvalue()


def hdf5(**options):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "x.h5"
        with h5py.File(path, "w") as file:
            file.create_dataset("images", data=pixels(6, 3, 4, 5), **options)
            file.create_dataset("labels", data=np.arange(6))
        return path.read_bytes()


def dataset(format_page):
    """manifest.json and one shard, by the script in the documentation."""
    sys.modules["crc32c"] = types.SimpleNamespace(crc32c=crc32c)
    names = {}
    exec(re.search(r"```python\n(.*?)```", pathlib.Path(format_page).read_text(), re.S).group(1), names)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "set"
        names["write_dataset"](str(path), pixels(5, 3, 4, 4), np.array([0, 1, -1, 2, 0], np.int32), ["a", "b", "c"], "uuid")
        return (path / "manifest.json").read_bytes(), (path / "shard-00000.h5").read_bytes()


def safetensors(tensors):
    header, at = {}, 0
    for name, size in tensors.items():
        header[name] = {"dtype": "F32", "shape": [size], "data_offsets": [at, at + 4 * size]}
        at += 4 * size
    text = json.dumps(header | {"__metadata__": {"format": "pt"}}).encode()
    return struct.pack("<Q", len(text)) + text + bytes(at)


def main(format_page, configs, output, *checkpoint_manifests):
    manifest, shard = dataset(format_page)
    image_members = {"a/0.png": picture("PNG"), "b/1.jpg": picture("JPEG"), "a/2.png": picture("PNG")}
    labels = {"dataset.json": json.dumps({"labels": [["a/0.png", 1], ["b/1.jpg", 0], ["a/2.png", 2]]})}
    seeds = {
        "manifest": [manifest],
        "shard": [shard],
        "hdf5_arrays": [hdf5(), hdf5(chunks=(2, 3, 4, 5), compression="gzip"), hdf5(chunks=(2, 3, 4, 5), fletcher32=True)],
        "idx": [idx_pair(bytes), idx_pair(gzip.compress)],
        "cifar": [b"\3" + pixels(3072).tobytes(), b"\x13\x63" + pixels(3072).tobytes()],
        "tar": [cifar_tar("w"), cifar_tar("w:gz")],
        "npz": [
            npz(np.savez, arr_0=pixels(2, 4, 5, 3), arr_1=np.arange(2)),
            npz(np.savez_compressed, images=pixels(2, 3, 4, 5), labels=np.arange(2, dtype=">u2")),
        ],
        "image_archive": [zip_of(image_members), zip_of(image_members | labels, zipfile.ZIP_DEFLATED)],
        "png": [picture("PNG", mode) for mode in ("RGB", "RGBA", "L", "LA", "P", "1")] + [picture("PNG", exif=exif(6))],
        "jpeg": [picture("JPEG"), picture("JPEG", "L"), picture("JPEG", progressive=True), picture("JPEG", exif=exif(5))],
        # The first byte says what is expected: a checkpoint or a snapshot.
        "checkpoint_manifest": [kind + pathlib.Path(path).read_bytes() for path in checkpoint_manifests for kind in (b"c", b"s")],
        "config": [path.read_bytes() for path in sorted(pathlib.Path(configs).glob("*.toml"))],
        "safetensors": [safetensors({"a": 3, "b.c": 0}), safetensors({})],
    }
    for target, contents in seeds.items():
        folder = pathlib.Path(output) / target
        folder.mkdir(parents=True, exist_ok=True)
        for i, content in enumerate(contents):
            (folder / f"seed-{i}").write_bytes(content)
    (pathlib.Path(output) / "made").touch()


if __name__ == "__main__":
    main(*sys.argv[1:])
