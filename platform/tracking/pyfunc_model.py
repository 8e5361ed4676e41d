"""The registered model, as MLflow loads it: classes in, images out.

MLflow runs this file by itself (models from code); the package's `trainers` folder travels beside
it as `whipray_trainers`, so that loading a model needs PyTorch and no whipray.
"""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc.model import PythonModel, PythonModelContext

FORMATS = ("array", "png")


class SamplerModel(PythonModel):
    """Generates one image for each row of the input.

    Input: a table with a column `class_id` of integers, or `class_name` of text.
    Parameters: omega (guidance), steps (of the sampler), seed, format.
    Output: (N, H, W, C) uint8, or for format png N strings, each a PNG file in base64.
    """

    def load_context(self, context: PythonModelContext) -> None:
        """Load the EMA weights, onto the GPU where there is one."""
        # Not on top: MLflow runs this file once while logging, before the folder is beside it.
        from whipray_trainers import model, png  # type: ignore[import-not-found]
        from whipray_trainers.errors import Problem  # type: ignore[import-not-found]

        self.changed_sampling, self.encode_png = model.changed_sampling, png.encode_png
        self.problem = Problem
        self.model = model.open_model(context.artifacts["model"])

    # MLflow 3 takes other type hints for a schema, and warns of a missing one.
    def predict(
        self,
        context: PythonModelContext,  # noqa: ARG002
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> np.ndarray[Any, np.dtype[np.uint8]] | list[str]:
        """Generate images; each depends only on the seed, its class and its index in the class."""
        params = params or {}
        try:
            wanted = params.get("format", FORMATS[0])
            if wanted not in FORMATS:
                raise ValueError(f"format {wanted!r} is not one of {', '.join(FORMATS)}")
            labels = self.model.labels(_classes(model_input))
            sampling = self.changed_sampling(
                self.model.exported, params.get("omega"), params.get("steps")
            )
            pixels = self.model.generate(labels, sampling, int(params.get("seed", 0)))
            if wanted == "png":
                return [b64encode(self.encode_png(image)).decode() for image in pixels]
        except (self.problem, ValueError) as error:
            raise MlflowException(str(error), error_code=INVALID_PARAMETER_VALUE) from error
        arrays: np.ndarray[Any, np.dtype[np.uint8]] = pixels.transpose(0, 2, 3, 1)
        return arrays


def _classes(table: pd.DataFrame) -> list[int | str]:
    """Return the class of each row.

    Raises:
        ValueError: not one column of classes, or a row without one.
    """
    columns = [name for name in ("class_id", "class_name") if name in table]
    if len(columns) != 1:
        raise ValueError("give a column class_id of whole numbers, or class_name of text")
    values = table[columns[0]]
    if values.isna().any():
        raise ValueError(f"{columns[0]} is missing in row {int(values.isna().to_numpy().argmax())}")
    return [str(v) if columns[0] == "class_name" else int(v) for v in values]


set_model(SamplerModel())
