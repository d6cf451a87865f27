"""`/v1/models`: which models serve."""

from __future__ import annotations

from typing import Any

from apiflask import APIBlueprint

from services.api.schemas import ServedModels
from services.api.state import state

bp = APIBlueprint("models", __name__, url_prefix="/v1/models", tag="Models")


@bp.get("")
@bp.output(ServedModels)
def list_models() -> Any:
    """List the models in use

    A report names the versions that made it; these are the ones that make reports now.
    """
    return {
        "models": [
            {"stage": stage, "name": model.name, "version": model.version}
            for stage, model in state().container.pipeline.models.items()
        ]
    }
