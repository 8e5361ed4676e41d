"""The registered model, as MLflow loads it: class ids in, images out.

MLflow runs this file by itself (models from code); the package's `trainers` folder travels beside
it as `whipray_trainers`, so that loading a model needs PyTorch and no whipray.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc.model import PythonModel, PythonModelContext

# MLflow asks for type hints whenever the class below is made; see `predict` for why it has none.
warnings.filterwarnings("ignore", message=".*type hints")


class SamplerModel(PythonModel):
    """Draws one image for each row of the input.

    Input: a table with an integer column `class_id`.
    Parameters: omega (guidance), steps (of DDIM), seed.
    Output: (N, H, W, C) uint8.
    """

    def load_context(self, context: PythonModelContext) -> None:
        """Read the EMA weights onto the GPU if there is one."""
        # Here, because MLflow runs this file once while logging, when the folder is not yet beside.
        from whipray_trainers.data.batches import to_uint8  # type: ignore[import-not-found]
        from whipray_trainers.export import load_exported  # type: ignore[import-not-found]

        self.to_uint8 = to_uint8
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = load_exported(Path(context.artifacts["model"]), device)

    # No type hints: MLflow would read them as a schema, and the signature is the schema.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]  # noqa: ARG002
        """Sample; image n depends on the seed, its place n and its class alone."""
        card, params = self.model.card, params or {}
        ids = np.array(model_input["class_id"], dtype=np.int64)
        outside = ids[(ids < 0) | (ids >= len(card.class_names))]
        if len(outside):
            raise MlflowException(
                f"class_id {outside[0]} is not one of 0..{len(card.class_names) - 1}",
                error_code=INVALID_PARAMETER_VALUE,
            )
        wanted = {key: params[key] for key in ("omega", "steps") if key in params}
        try:
            sampling = type(card.sampling).model_validate({**card.sampling.model_dump(), **wanted})
        except ValueError as error:
            raise MlflowException(str(error), error_code=INVALID_PARAMETER_VALUE) from error
        images = self.model.sample(torch.from_numpy(ids), sampling, int(params.get("seed", 0)))
        return self.to_uint8(images).permute(0, 2, 3, 1).numpy()


set_model(SamplerModel())
