"""Install recstill and its bundled plugins into .venv: `python3 deploy/setup/install.py`. Standard library only.

A second call does nothing until the pins or a pyproject change. Trouble ends in one line that says what and what to do.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VENV = Path(os.environ.get("RECSTILL_VENV", ROOT / ".venv"))
NEEDED_BYTES = 4_000_000_000
PIP = "pip==26.3"


def main() -> None:
    if sys.version_info < (3, 11):
        stop(f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}: call `make setup PYTHON=python3.11`.")
    stamp = VENV / "recstill-setup.sha256"
    wanted = fingerprint()
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    free = shutil.disk_usage(ROOT).free
    if free < NEEDED_BYTES:
        stop(f"{free / 1e9:.1f} GB are free in {ROOT}, {NEEDED_BYTES / 1e9:.0f} GB are needed: free some space and call again.")
    print(f"installing into {VENV} (a few minutes, once)", file=sys.stderr)
    if not (VENV / "bin" / "python").exists():
        venv.create(VENV, with_pip=True)
    pip("install", "--upgrade", PIP)
    cuda = Path("/proc/driver/nvidia/version").exists()
    fbgemm = "fbgemm-gpu==1.8.0" if cuda else str(ROOT / "deploy" / "setup" / "fbgemm-gpu-cpu-shim")
    plugins = sorted(path.parent for path in (ROOT / "plugins").glob("*/pyproject.toml"))
    editable = [argument for folder in plugins for argument in ("-e", str(folder))]
    pip("install", "-c", str(ROOT / "constraints.txt"), fbgemm, "-e", f"{ROOT}[all,dev]", *editable)
    pip("check")
    stamp.write_text(wanted)


def fingerprint() -> str:
    """Digest everything that decides what is installed."""
    digest = hashlib.sha256(sys.version.encode())
    shim = ROOT / "deploy" / "setup" / "fbgemm-gpu-cpu-shim" / "pyproject.toml"
    decisive = [ROOT / "constraints.txt", ROOT / "pyproject.toml", shim, Path(__file__).resolve()]
    for path in [*decisive, *sorted(ROOT.glob("plugins/*/pyproject.toml"))]:
        digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return digest.hexdigest()


def pip(*arguments: str) -> None:
    command = [str(VENV / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", *arguments, "-q"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return
    said = done.stdout + done.stderr
    if "No space left" in said:
        stop(f"The disk became full while installing into {VENV}: free {NEEDED_BYTES / 1e9:.0f} GB and call again.")
    network = (
        "NewConnectionError",
        "Temporary failure in name resolution",
        "Network is unreachable",
        "ReadTimeoutError",
        "ConnectTimeoutError",
        "Connection refused",
        "ProxyError",
        # pip retries silently when it is told to be quiet; an index that answers knows at least one version.
        "(from versions: none)",
    )
    if any(sign in said for sign in network):
        stop("The package index cannot be reached: check the network and `pip config list`, and call again.")
    lines = [line for line in said.splitlines() if line.strip() and not line.startswith("WARNING")]
    stop(f"pip {arguments[0]} failed: {lines[-1] if lines else 'it said nothing'}\nThe whole output:\n{said[-3000:]}")


def stop(message: str) -> None:
    print(f"recstill setup: {message}", file=sys.stderr)
    sys.exit(1)


if __name__ == "__main__":
    main()
