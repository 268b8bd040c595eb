"""Makes `programs` importable from the suites, and keeps torch on one thread: more are slower for small LMs."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

pytest_plugins = ["pytester"]
