"""Which checkpoints of a run are whole, by docs/checkpoints.md and without perrin."""

import hashlib
import json
import re


def manifest_of(folder):
    """The manifest of a folder in which every file is what the manifest says; None for any other folder."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        rest = {name: value for name, value in manifest.items() if name != "manifest_sha256"}
        compact = json.dumps(rest, separators=(",", ":"), ensure_ascii=False)
        if hashlib.sha256(compact.encode()).hexdigest() != manifest["manifest_sha256"]:
            return None
        for name, file in manifest["files"].items():
            contents = (folder / name).read_bytes()
            if len(contents) != file["bytes"] or hashlib.sha256(contents).hexdigest() != file["sha256"]:
                return None
    except (OSError, ValueError, KeyError):
        return None
    return manifest


def checkpoints(run):
    """(incarnation, step, folder) of every folder with a checkpoint's name, newest last."""
    found = []
    for folder in (run / "checkpoints").glob("step-*"):
        if match := re.fullmatch(r"step-(\d+)-i(\d+)", folder.name):
            found.append((int(match[2]), int(match[1]), folder))
    return sorted(found)


def newest_whole(run):
    """The folder of the newest whole checkpoint; None: there is none."""
    for _, _, folder in reversed(checkpoints(run)):
        if manifest_of(folder):
            return folder
    return None


def not_whole(run):
    """Folders with a checkpoint's name that are not whole: a crash must leave none."""
    return [folder.name for _, _, folder in checkpoints(run) if not manifest_of(folder)]
