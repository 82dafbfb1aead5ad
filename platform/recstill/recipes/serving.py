"""Start the server of a bento, and wait until it answers."""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recstill.api.errors import RequestError
from recstill.data.bundle import open_bundle
from recstill.data.versions import hold
from recstill.recipes.packaging import bento_environment, online_for, served_versions, views_read

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import IO

    from recstill.recipes.platform import Platform


def serve_command(bento: Path, host: str, port: int) -> Sequence[str]:
    """The command that serves a bento."""
    return [sys.executable, "-m", "bentoml", "serve", str(bento), "--host", host, "--port", str(port)]


def serve_environment(platform: Platform, bento: Path, workers: int) -> dict[str, str]:
    """The environment of a server: the newest materialized features, not those of the day it was packaged."""
    environment = {
        **bento_environment(platform.settings),
        "RECSTILL_WORKERS": str(workers),
        "RECSTILL_DECISIONS": str(platform.settings.folder("decisions")),
    }
    online = online_for(platform.settings, _views_of(bento))
    if online is not None:  # a bento whose models read no views brings all that they need
        environment["RECSTILL_ONLINE"] = str(online)
    return environment


def hold_online(environment: dict[str, str]) -> IO[bytes] | None:
    """Keep the features of a server's environment from being deleted for as long as the returned file is open.

    The server inherits it, so that they are there for a worker that starts anew, however the one before it ended.
    """
    if "RECSTILL_ONLINE" not in environment:
        return None
    file = hold(Path(environment["RECSTILL_ONLINE"]))
    os.set_inheritable(file.fileno(), True)
    atexit.register(file.close)  # refers to it, so that it stays open up to an exec
    return file


def _views_of(bento: Path) -> set[str]:
    models = bento / "src" / "models"
    return {view for card in served_versions(bento) for view in views_read(open_bundle(models / card["bundle"]))}


@contextmanager
def running_server(platform: Platform, bento: Path, port: int, log: Path, patience: float = 120) -> Iterator[str]:
    """Serve a bento on loopback for the length of the block; give its address."""
    address = f"http://127.0.0.1:{port}"
    environment = serve_environment(platform, bento, 1)
    held = hold_online(environment)
    with log.open("w") as output:
        process = subprocess.Popen(
            serve_command(bento, "127.0.0.1", port),
            env=environment,
            pass_fds=[] if held is None else [held.fileno()],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            _wait(process, f"{address}/readyz", log, patience)
            yield address
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if held is not None:
                held.close()


def post(address: str, body: Any) -> dict[str, Any]:
    """Post JSON and return the JSON answer. Raise RequestError with the server's own words."""
    request = urllib.request.Request(address, json.dumps(body).encode(), {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            found: dict[str, Any] = json.load(answer)
            return found
    except urllib.error.HTTPError as error:
        raise RequestError(error.code, error.read().decode(errors="replace")) from error


def _wait(process: subprocess.Popen[Any], address: str, log: Path, patience: float) -> None:
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RequestError(503, f"The server ended with code {process.returncode}:\n{log.read_text()[-2000:]}")
        try:
            with urllib.request.urlopen(address, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise RequestError(503, f"The server was not ready within {patience:.0f} s:\n{log.read_text()[-2000:]}")
