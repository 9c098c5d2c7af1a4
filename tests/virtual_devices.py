"""Runs a script with several virtual devices."""

import os
import subprocess
import sys


def run(script, count=2):
    """In a process of its own: their number is fixed at its start."""
    flags = f"--xla_force_host_platform_device_count={count}"
    env = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
