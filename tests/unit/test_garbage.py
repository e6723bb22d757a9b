"""Full collections leave what survived alone, and still find garbage of it."""

from __future__ import annotations

import subprocess
import sys

_SCRIPT = """
import gc, time, weakref
from kmn import garbage

class Ring:
    def __init__(self):
        self.me = self
        self.much = [[] for _ in range(200000)]

garbage._PAUSE = garbage._QUIET = 0.05
garbage.spread()
gc.collect()
old = gc.get_freeze_count()
ring = Ring()
gone = weakref.ref(ring)
gc.collect()
assert gc.get_freeze_count() > old + 200000, "what survived is left alone"
assert len(gc.get_objects()) < 10000
del ring
until = time.monotonic() + 20
while gone() is not None:
    assert time.monotonic() < until, "garbage among it is not found"
    time.sleep(0.01)
"""


def test_survivors_are_left_alone_until_there_is_time() -> None:
    done = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
