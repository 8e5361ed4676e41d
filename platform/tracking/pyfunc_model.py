"""The registered model, as MLflow loads it: class ids in, images out.

MLflow runs this file by itself (models from code); the package's `trainers` folder travels beside
it as `whipray_trainers`, so that loading a model needs PyTorch and no whipray.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc.model import PythonModel, PythonModelContext


class SamplerModel(PythonModel):
    """Generates one image for each row of the input.

    Input: a table with an integer column `class_id`.
    Parameters: omega (guidance), steps (of DDIM), seed.
    Output: (N, H, W, C) uint8.
    """

    def load_context(self, context: PythonModelContext) -> None:
        """Load the EMA weights, onto the GPU where there is one."""
        # Not on top: MLflow runs this file once while logging, before the folder is beside it.
        from whipray_trainers.data.batches import to_uint8  # type: ignore[import-not-found]
        from whipray_trainers.export import load_exported  # type: ignore[import-not-found]

        self.to_uint8 = to_uint8
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = load_exported(Path(context.artifacts["model"]), device)

    # MLflow 3 takes other type hints for a schema, and warns of a missing one.
    def predict(
        self,
        context: PythonModelContext,  # noqa: ARG002
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Generate images; each depends only on the seed, its class and its index in the class."""
        card, params = self.model.card, params or {}
        ids = np.array(model_input["class_id"], dtype=np.int64)
        outside = ids[(ids < 0) | (ids >= len(card.class_names))]
        if len(outside):
            raise MlflowException(
                f"class_id {outside[0]} is not one of 0..{len(card.class_names) - 1}",
                error_code=INVALID_PARAMETER_VALUE,
            )
        own = card.sampling.model_dump()
        for section, key in (("guidance", "omega"), ("sampler", "steps")):
            if key in params and key in own[section]:
                own[section][key] = params[key]
        try:
            sampling = type(card.sampling).model_validate(own)
        except ValueError as error:
            raise MlflowException(str(error), error_code=INVALID_PARAMETER_VALUE) from error
        images = self.model.sample(torch.from_numpy(ids), sampling, int(params.get("seed", 0)))
        pixels: np.ndarray[Any, np.dtype[np.uint8]] = self.to_uint8(images).numpy()
        return pixels.transpose(0, 2, 3, 1)


set_model(SamplerModel())
