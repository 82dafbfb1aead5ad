"""The BentoML service: the recstill application, mounted at the root of the bento."""

from __future__ import annotations

import gc
import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import bentoml

from recstill.serving.app import Service

_HERE = Path(__file__).parent
_PACKAGES = (_HERE / "requirements.txt").read_text().split()
_IMAGE = bentoml.images.Image(python_version="3.11", lock_python_packages=False).python_packages(*_PACKAGES)
# Decisions are logged where the operator says; a container without a volume keeps them beside the bento.
_service = Service(_HERE / "models", Path(os.environ.get("RECSTILL_DECISIONS", _HERE / "decisions")))


@bentoml.service(
    image=_IMAGE,
    workers=int(os.environ.get("RECSTILL_WORKERS", "1")),
    traffic={"timeout": 10},
    logging={"access": {"enabled": False}},
)
@bentoml.asgi_app(_service.app(), path="/")
class Recstill:
    """Scores requests with the bundled models and features, or with the newer features of RECSTILL_ONLINE."""

    def __init__(self) -> None:
        _service.load(Path(os.environ.get("RECSTILL_ONLINE", _HERE / "online")))
        # What is loaded lives as long as the worker; scanning it would pause requests for 150 ms and more.
        gc.collect()
        gc.freeze()

    async def __is_ready__(self) -> bool:
        return _service.is_ready
