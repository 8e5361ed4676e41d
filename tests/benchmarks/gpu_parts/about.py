"""The card and the versions; the driver learns here whether there is a GPU."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version

import torch

from .setting import Setting, parse


def main(setting: Setting) -> None:
    card = "none"
    if setting.gpu:
        properties = torch.cuda.get_device_properties(setting.device)
        card = (
            f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, "
            f"{properties.multi_processor_count} multiprocessors"
        )
    setting.say("GPU", {}, card)
    setting.say(
        "versions",
        {},
        f"Python {platform.python_version()}, PyTorch {torch.__version__}, CUDA "
        f"{torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}, DeepSpeed "
        f"{version('deepspeed')}, NumPy {version('numpy')}",
    )
    setting.say("host", {}, f"{len(os.sched_getaffinity(0))} cores, {platform.platform()}")


if __name__ == "__main__":
    main(parse("about"))
