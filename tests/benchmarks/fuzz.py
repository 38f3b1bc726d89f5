"""Ten thousand broken and hostile files against every reader, each in a process that may die.

    python tests/benchmarks/fuzz.py [--files 10000] [--seed 0] [--keep DIR]

Real files (a table, a checkpoint in both formats, an archive of arrays, a mask) and hostile ones (links
and storage that lead to a canary, pickles that would touch it, bombs) are mutated byte by byte and piece by
piece. A reader may accept a file or refuse it with one sentence. Everything else counts: another exception, a
death, a hang, more memory than allowed, a look at the canary (inotify sees reads from C too), a file opened
elsewhere.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import resource
import signal
import sys
import sysconfig
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import torch

from marginkit.comparison.compare import compare
from marginkit.comparison.summary import figures
from marginkit.data.sources import load as load_data
from marginkit.errors import MarginkitError
from marginkit.kinds import Kind, Status
from marginkit.methods.constraints import read_mask
from marginkit.models.architectures import ARCHITECTURES
from marginkit.models.checkpoint import Checkpoint, read_state, save
from marginkit.models.checkpoint import load as load_checkpoint
from marginkit.models.programs import is_program
from marginkit.report import contents
from marginkit.table.reading import read
from marginkit.table.table import Column, MarginTable
from marginkit.table.writing import write

MEMORY, SECONDS, BATCH = 6 * 2**30, 20, 100
OPENED, ACCESSED = 0x20, 0x1  # inotify's IN_OPEN and IN_ACCESS
N = 12


# Readers: everything that is done with a file of that kind ----------------------------------------------


def table(path: Path) -> None:
    found = read(path)
    list(contents(found))
    figures(found)
    compare(found, found)
    found.to_pandas()


def checkpoint(path: Path) -> None:
    is_program(path)
    load_checkpoint(path, GUESS)[0].model()


def weights(path: Path) -> None:
    read_state(path)


def arrays(path: Path) -> None:
    data = load_data(f"npz:{path}")
    data.inputs([0])


def mask(path: Path) -> None:
    read_mask(path, (1, 4, 4))


READERS: dict[str, tuple[Callable[[Path], None], ...]] = {
    ".h5": (table,),
    ".pt": (checkpoint, weights),
    ".safetensors": (checkpoint, weights),
    ".npz": (arrays,),
    ".npy": (mask,),
}
GUESS = {"architecture": "mlp", "options": {"hidden": (3,)}, "shape": (1, 4, 4), "classes": 3}


# Files to begin with ----------------------------------------------------------------------------------


class Touch:
    """A pickle that would look at the canary."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return open, (str(self.canary),)


def sources(folder: Path, canary: Path) -> list[Path]:
    good = folder / "good.h5"
    write(_table(), good)
    with h5py.File(folder / "links.h5", "w") as file, h5py.File(good) as whole:
        file.attrs.update(whole.attrs)
        for name in whole:
            whole.copy(name, file)
        file["external"] = h5py.ExternalLink(str(canary), "label")
        file["soft"] = h5py.SoftLink("/label")
        file.create_dataset("stored", (N,), "i4", external=[(str(canary), 0, 4 * N)])
        layout = h5py.VirtualLayout((N,), "i4")
        layout[:] = h5py.VirtualSource(str(canary), "label", (N,))
        file.create_virtual_dataset("virtual", layout)
    with h5py.File(folder / "bomb.h5", "w") as file:
        file.attrs.update({"format": "marginkit.margins", "version": 1, "meta": "{}"})
        file.create_dataset("sample", (2**40,), "i8", chunks=(2**20,), compression="gzip")
        file.create_group("a/b/c/d")
    model = ARCHITECTURES["mlp"](hidden=(3,))((1, 4, 4), 3)
    plain = Checkpoint(model.state_dict(), "mlp", {"hidden": (3,)}, (1, 4, 4), 3)
    for name in ("good.pt", "good.safetensors"):
        save(plain, folder / name)
    torch.save(plain.state, folder / "legacy.pt", _use_new_zipfile_serialization=False)
    torch.save({"state": Touch(canary), **plain.state}, folder / "pickle.pt")
    torch.save({"huge": torch.zeros(1).expand(2**40), **plain.state}, folder / "huge.pt")
    x, y = np.random.default_rng(0).random((N, 4, 4)), np.arange(N) % 3
    np.savez(folder / "good.npz", x=x, y=y)
    np.savez_compressed(folder / "packed.npz", x=x.round(), y=y)
    np.savez(folder / "objects.npz", x=np.array([Touch(canary)], object), y=y)
    np.save(folder / "good.npy", np.ones((4, 4), bool))
    np.save(folder / "objects.npy", np.array([Touch(canary)], object), allow_pickle=True)
    return sorted(path for path in folder.iterdir() if path.suffix in READERS)


def _table() -> MarginTable:
    generator = np.random.default_rng(0)

    def column(method: str, kind: Kind, layer: str = "input") -> Column:
        options = {"eps": [0.1, 0.2]} if method == "fgsm" else {"steps": 5}
        status = np.full(N, Status.OK, np.uint8)
        inputs = generator.random((N, 1, 2, 2)).astype(np.float32) if method == "fgsm" else None
        return Column(
            method, "l2", layer, kind, options, generator.random(N), status, np.zeros(N, int), inputs
        )

    meta = {
        "dataset": {"name": "d", "fingerprint": "f"},
        "threat": {"low": 0.0, "high": 1.0},
        "command": ["x"],
    }
    label = np.arange(N) % 3
    columns = (column("first_order", Kind.ESTIMATE), column("fgsm", Kind.UPPER), column("crown", Kind.LOWER))
    return MarginTable(np.arange(N), label, label, generator.random(N), columns, meta)


# Mutations --------------------------------------------------------------------------------------------

INTERESTING = (0, 1, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**40, 2**63 - 1, 2**64 - 1)


def mutated(data: bytes, others: list[bytes], generator: np.random.Generator) -> bytes:
    out = bytearray(data)
    for _ in range(1 << int(generator.integers(0, 5))):
        here = int(generator.integers(0, max(len(out), 1)))
        match int(generator.integers(0, 8)):
            case 0 | 1:
                out[here : here + 1] = bytes([int(generator.integers(256))])
            case 2:
                out[here : here + 1] = bytes([(out[here] if out else 0) ^ (1 << int(generator.integers(8)))])
            case 3:
                width = int(generator.choice([1, 2, 4, 8]))
                value = INTERESTING[int(generator.integers(len(INTERESTING)))] % 256**width
                out[here : here + width] = value.to_bytes(width, "little")
            case 4:
                del out[here : here + int(generator.integers(1, 64))]
            case 5:
                out[here:here] = out[here // 2 : here // 2 + int(generator.integers(1, 64))]
            case 6:
                other = others[int(generator.integers(len(others)))]
                there = int(generator.integers(0, max(len(other), 1)))
                width = int(generator.integers(1, 256))
                out[here : here + width] = other[there : there + width]
            case _:
                if generator.random() < 0.2:
                    del out[here:]
    return bytes(out)


# Watching ---------------------------------------------------------------------------------------------


def watch(path: Path) -> int:
    """An inotify descriptor that becomes readable where anything opens or reads the file."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = int(libc.inotify_init1(os.O_NONBLOCK))
    if descriptor < 0 or libc.inotify_add_watch(descriptor, os.fsencode(path), OPENED | ACCESSED) < 0:
        raise OSError(ctypes.get_errno(), "no inotify here: the canary can't be watched")
    return descriptor


def touched(descriptor: int) -> bool:
    try:
        return bool(os.read(descriptor, 4096))
    except BlockingIOError:
        return False


def forbid_other_files(folder: Path, found: list[str]) -> None:
    """Notes what Python code opens outside the folder and the installation."""
    roots = [
        str(folder),
        *sysconfig.get_paths().values(),
        sys.prefix,
        sys.base_prefix,
        *filter(None, sys.path),
    ]
    roots += ["/proc", "/sys", "/usr", "/etc/", "/dev/"]  # libraries look at the machine

    def hear(event: str, about: tuple[object, ...]) -> None:
        if event == "open" and isinstance(about[0], str) and os.path.isabs(about[0]):
            if not about[0].startswith(tuple(roots)):
                found.append(f"opened {about[0]}")
        elif event in ("os.system", "subprocess.Popen", "socket.connect"):
            found.append(f"{event} {about[:1]}")

    sys.addaudithook(hear)


def child(paths: list[Path], folder: Path, report: Path) -> None:
    """Reads the files one by one, and writes a line before and after each."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[1]
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, limit))
    elsewhere: list[str] = []
    forbid_other_files(folder, elsewhere)
    with report.open("a", buffering=1) as out:
        for path in paths:
            out.write(json.dumps({"begun": str(path)}) + "\n")
            signal.alarm(SECONDS)
            outcomes = []
            for reader in READERS[path.suffix]:
                try:
                    reader(path)
                    outcomes.append("accepted")
                except MarginkitError as error:
                    sentence = str(error)
                    outcomes.append("refused" if "\n" not in sentence else "many lines: " + sentence)
                except BaseException:
                    outcomes.append("traceback: " + traceback.format_exc()[-1500:])
            signal.alarm(0)
            out.write(json.dumps({"done": str(path), "outcomes": outcomes + elsewhere}) + "\n")
            elsewhere.clear()


def judge(paths: list[Path], folder: Path, canary: int) -> dict[str, list[str]]:
    """What became of each file; a death or a hang costs one file, not the rest."""
    found: dict[str, list[str]] = {}
    report = folder / "report.jsonl"
    while left := [path for path in paths if str(path) not in found]:
        report.unlink(missing_ok=True)
        if not (pid := os.fork()):
            try:
                child(left, folder, report)
            finally:
                os._exit(0)
        _, status = os.waitpid(pid, 0)
        begun = None
        for line in report.read_text().splitlines():
            entry = json.loads(line)
            begun = entry.get("begun")
            if begun is None:
                found[entry["done"]] = entry["outcomes"]
        if begun is not None:
            code = os.waitstatus_to_exitcode(status)
            found[begun] = ["hang" if code == -signal.SIGALRM else f"death by {code}"]
        elif not found:
            raise RuntimeError("the child read nothing")
    if touched(canary):
        found.setdefault(str(paths[0]), []).append("the canary was read in this batch")
    return found


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--files", type=int, default=10_000)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--keep", type=Path, help="a folder for the files that went wrong")
    asked = arguments.parse_args()
    torch.set_num_threads(1)
    generator, counts, began = np.random.default_rng(asked.seed), Counter[tuple[str, str]](), time.time()
    wrong = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "seeds").mkdir()
        canary = folder / "canary.h5"
        with h5py.File(canary, "w") as file:
            file["label"] = np.arange(N)
        seeds = sources(folder / "seeds", canary)
        contents_of = {path: path.read_bytes() for path in seeds}
        judge(seeds, folder, watching := watch(canary))  # not counted: what is imported late is so no more
        for path in seeds:
            if path.stem == "good":
                for reader in READERS[path.suffix]:
                    reader(path)
        for start in range(0, asked.files, BATCH):
            paths = []
            for i in range(start, min(start + BATCH, asked.files)):
                seed = seeds[i % len(seeds)]
                others = [data for path, data in contents_of.items() if path.suffix == seed.suffix]
                whole = i < len(seeds)  # the first round is of the files as they are
                data = contents_of[seed] if whole else mutated(contents_of[seed], others, generator)
                paths.append(folder / f"{i}-{seed.stem}{seed.suffix}")
                paths[-1].write_bytes(data)
            for text, outcomes in judge(paths, folder, watching).items():
                path = Path(text)
                for outcome in outcomes:
                    counts[path.suffix, outcome.partition(":")[0]] += 1
                    if outcome not in ("accepted", "refused"):
                        wrong += 1
                        print(path.name, outcome, flush=True)
                        if asked.keep:
                            asked.keep.mkdir(exist_ok=True)
                            (asked.keep / path.name).write_bytes(path.read_bytes())
            for path in paths:
                path.unlink()
    for (suffix, outcome), count in sorted(counts.items()):
        print(f"{suffix:14}{outcome:10}{count:8}")
    print(f"{asked.files} files, {wrong} went wrong, {time.time() - began:.0f} s")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
