"""Kills small measurements at random moments, resumes them, and counts what was lost.

    python tests/benchmarks/kill.py --kills 200

Each round starts `marginkit measure`, kills it with SIGKILL after a random time, and looks at what is on
disk: every part must load, no part that was there before may be gone, and the file, once resumed to its end,
must be the uninterrupted run's to the bit. Each run is a fork of a process
that has everything loaded, which spends the time on kills and not on importing torch.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import tempfile
import time
from pathlib import Path

import torch
from click.testing import CliRunner
from marginkit_cli.main import main as command

from marginkit.measurement.parts import Parts
from marginkit.table.reading import read

ARGUMENTS = "measure --model {model} --methods deepfool --norms l2 --limit 80 --batch-size 4 --device cpu -q"


def run(arguments: list[str]) -> int:
    """Forks, measures there, and returns the child."""
    child = os.fork()
    if child:
        return child
    try:
        os._exit(CliRunner().invoke(command, arguments).exit_code)
    finally:
        os._exit(70)


def finish(arguments: list[str]) -> float:
    """Seconds of a run to its end."""
    began = time.monotonic()
    _, status = os.waitpid(run(arguments), 0)
    assert os.waitstatus_to_exitcode(status) == 0, arguments
    return time.monotonic() - began


def killed(arguments: list[str], after: float) -> bool:
    """Kills a run after so many seconds; whether it was not done before."""
    child = run(arguments)
    time.sleep(after)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    draw = random.Random(options.seed)
    kills = files = unreadable = lost = unlike = finished = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = folder / "model.pt"
        trained = ["train", "--arch", "mlp", "--epochs", "1", "--out", str(model), "-q"]
        assert CliRunner().invoke(command, trained).exit_code == 0
        arguments = ARGUMENTS.format(model=model).split()
        whole = finish([*arguments, "--out", str(folder / "whole.h5")])
        expected = (folder / "whole.h5").read_bytes()
        while kills < options.kills:
            out = folder / f"{files}.h5"
            parts, before, files = Parts(out), set[int](), files + 1
            resumed = [*arguments, "--out", str(out), "--resume"]
            for _ in range(draw.randint(1, 4)):
                done = killed(resumed, draw.uniform(0, 1.2 * whole))
                kills += done
                try:
                    now = parts.numbers()
                    for number in now:
                        parts.load(number)
                    if out.exists():
                        read(out)
                        finished += done
                    elif before - now:
                        lost += len(before - now)
                    before = now
                except ValueError as error:
                    unreadable += 1
                    print(error)
            finish(resumed)
            unlike += out.read_bytes() != expected or parts.folder.exists()
    print(
        f"{kills} kills over {files} files (one run takes {whole:.2f} s): {unreadable} unreadable, {lost}"
        f" finished batches lost, {unlike} files unlike the uninterrupted one; {finished} kills after the"
        " file was in place"
    )
    raise SystemExit(bool(unreadable or lost or unlike))


if __name__ == "__main__":
    main()
