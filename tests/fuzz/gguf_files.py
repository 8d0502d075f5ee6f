"""Spoiled GGUF files: read in a process that may hold little, whatever the files claim.

    python -m tests.fuzz.gguf_files SEED FOLDER [--tries N] [--seconds S]

reads what it spoils of every `*.gguf` in the folder and prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import resource
import struct
import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random
from time import thread_time

from router.config import ModelConfig
from router.core.estimate import read_shape
from router.devices.gguf import GgufError, read_header
from router.foresight import Machine, foresee
from tests.fuzz.budget import Budget
from tests.fuzz.mutation import Mutator
from tests.fuzz.outcome import Finding, Kind, Outcome

WORK = "gguf"
MEMORY = 50 * 1024**2  # bytes that reading one may take
MOST_MS = 100.0  # of CPU for one; what takes longer is told with the figures
_STUCK_MS = 2_000.0
_MACHINE = Machine(gpu=True, repacked=frozenset(), multiplier=1.2)
_HEAD = 256 * 1024  # where the changes lie, mostly: the weights are not read
_FLAGS = ((), ("-c", "4096"), ("-ngl", "99", "-np", "4"), ("--embedding",), ("-ctk", "q8_0", "-fa", "on"))
_COUNTS = (0, 1, 2**16, 2**31, 2**32 - 1, 2**40, 2**63, 2**64 - 1)


def fuzz(seed: int, folder: Path, budget: Budget) -> Outcome:
    """Spoil the files and have a confined process read them."""
    command = [sys.executable, "-m", __spec__.name, str(seed), str(folder)]
    for name in ("tries", "seconds"):
        if (value := getattr(budget, name)) is not None:
            command += [f"--{name}", str(value)]
    wait = 120 + (budget.seconds or 0)
    done = subprocess.run(command, capture_output=True, text=True, timeout=wait, check=False)
    if done.returncode:
        finding = Finding(Kind.CRASH, WORK, f"exit code {done.returncode}: {done.stderr[-500:]}", f"seed {seed}")
        return Outcome(findings=[finding])
    told = json.loads(done.stdout)
    findings = [Finding(Kind[kind], WORK, what, sent) for kind, what, sent in told["findings"]]
    return Outcome(Counter({WORK: told["tries"]}), findings, slowest={WORK: told["slowest"]})


def read_spoiled(seed: int, folder: Path, budget: Budget) -> Outcome:
    """The same in this process."""
    outcome = Outcome()
    seeds = [file.read_bytes() for file in sorted(folder.glob("*.gguf"))]
    file = folder / "spoiled"
    for number in budget:
        random = Random(f"{seed}/{number}")
        file.write_bytes(_spoiled(random, random.choice(seeds)))
        outcome.tries[WORK] += 1
        began = thread_time()
        fault = _fault(file, random.choice(_FLAGS))
        took = 1000 * (thread_time() - began)
        outcome.slowest[WORK] = max(took, outcome.slowest.get(WORK, 0.0))
        if fault is not None:
            outcome.findings.append(Finding(Kind.CRASH, WORK, fault, f"seed {seed}, file {number}"))
        if took > _STUCK_MS:
            outcome.findings.append(Finding(Kind.HANG, WORK, f"{took:.0f} ms", f"seed {seed}, file {number}"))
    return outcome


def _spoiled(random: Random, model: bytes) -> bytes:
    head, weights = model[:_HEAD], model[_HEAD:]
    for _ in range(random.randint(0, 3)):
        at = random.randrange(len(head))
        size, code = random.choice(((8, "<Q"), (4, "<I")))
        head = head[:at] + struct.pack(code, random.choice(_COUNTS) % 2 ** (8 * size)) + head[at + size :]
    if random.random() < 0.5:
        head = Mutator(random).torn(head)
    return head + weights if random.random() < 0.8 else head


def _fault(file: Path, flags: tuple[str, ...]) -> str | None:
    """What is wrong with the way that this file is taken; None if it is read, or refused in words that name it."""
    try:
        try:
            header = read_header(file)
        except GgufError as error:
            return None if str(file) in str(error) else f"does not name the file: {error}"
        try:
            read_shape(header.metadata, header.tensors)
        except ValueError as error:
            if not str(error):
                return "refused without a word"
        config = ModelConfig(model_path=file, flags=flags, env={})
        seen = foresee(config, [file], slots=1, folder=file.parent, reserve=0, machine=_MACHINE)
    except Exception as error:  # noqa: BLE001 - which is what is looked for
        return f"{type(error).__name__}: {error}"
    if seen.reason and str(file) not in seen.reason:
        return f"does not name the file: {seen.reason}"
    return None if min(seen.need.gpu, seen.need.host) >= 0 else f"a negative need: {seen.need}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("seed", type=int)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tries", type=int)
    parser.add_argument("--seconds", type=float)
    asked = parser.parse_args()
    limit = _address_space() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    outcome = read_spoiled(asked.seed, asked.folder, Budget(asked.tries, asked.seconds))
    findings = [(found.kind.name, found.what, found.sent) for found in outcome.findings]
    json.dump(
        {"tries": outcome.tries[WORK], "slowest": outcome.slowest.get(WORK, 0.0), "findings": findings}, sys.stdout
    )


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()


if __name__ == "__main__":
    main()
