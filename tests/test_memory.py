"""What networks hold while they run, and after."""

import subprocess
import sys
from pathlib import Path

import sdcore

CODE = """
import numpy as np
from sdcore import _core
from sdcore.graph import Builder, nn

def held(what):
    lines = dict(line.split(":") for line in open("/proc/self/status") if line.startswith("Vm"))
    return int(lines[what].split()[0]) >> 10

def network(ops):
    b = Builder()
    x = b.input("x")
    for _ in range(ops):
        x = nn.silu(x) * x
    b.output("y", x)
    return _core.Network(b.graph, {}, threads=2)

def run(net, side):
    net.run({"x": np.zeros((1, side, side, 16), np.float32)})

run(network(1), 8)  # threads and their stacks
start = held("VmHWM")
small, large = network(2), network(3)
run(small, 512)
first = held("VmHWM") - start
run(large, 512)
run(small, 512)
print(first, held("VmHWM") - start)
run(large, 1024)
before = held("VmRSS")
del small, large
print(before - held("VmRSS"))
"""


def test_networks_share_one_arena():
    package = Path(sdcore.__file__).parents[1]
    env = {
        "PYTHONPATH": str(package),
        "PATH": "/usr/bin:/bin",
        # Else glibc keeps some arrays once they are freed, and clears them for the next.
        "MALLOC_MMAP_THRESHOLD_": "1048576",
    }
    out = subprocess.run(
        [sys.executable, "-c", CODE], check=True, capture_output=True, text=True, env=env
    ).stdout.split()
    one, both, freed = (int(number) for number in out)
    assert one >= 48  # an input, what is made of it, and the result: 16 MiB each, some twice
    assert both - one < 16, "the second network's arena lies beside the first's"
    assert freed > 128, "an arena outlived the networks"
