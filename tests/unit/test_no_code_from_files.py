"""Nothing that is read from a file or a store is executed: what could do so is not called at all."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from whipray.platform.config import yaml12 as plain_yaml

ROOT = Path(__file__).parents[2]
SOURCES = sorted(
    file
    for folder in ("platform", "trainers", "search_spaces")
    for file in (ROOT / folder).rglob("*.py")
)
MODULES = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "imp"}
CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen"}
ALLOWED = {
    # Exceptions and dataclasses that the workers of one training send each other, as PyTorch's and Ray's
    # own messages are: each carries an HMAC under a key that worker 0 makes for this training and gives to
    # the others through Ray. tests/unit/test_peers.py: what has none is refused before it is unpickled.
    "platform/compute/peers.py": ["pickle"],
}
METHODS = {"read_pickle", "unsafe_load", "full_load", "extractall", "unpack_archive"}


def dangers(text: str) -> Iterator[str]:
    """What a source does that could execute what it reads."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.split(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
            yield str(node.module)
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            given = {word.arg: ast.unparse(word.value) for word in node.keywords}
            if (
                called in CALLS
                or called.split(".")[-1] in METHODS
                or called.endswith("pyfunc.load_model")
                or (called == "torch.load" and given.get("weights_only") != "True")
                or (called == "yaml.load" and given.get("Loader") != "_Loader")
                or given.get("allow_pickle") == "True"
                or given.get("shell") == "True"
            ):
                yield called


def test_no_source_executes_what_it_reads() -> None:
    assert SOURCES
    found = {str(file.relative_to(ROOT)): list(dangers(file.read_text())) for file in SOURCES}
    assert {file: said for file, said in found.items() if said} == ALLOWED


def test_the_yaml_loader_is_a_safe_one() -> None:
    assert issubclass(plain_yaml._Loader, yaml.SafeLoader)


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from joblib import load",
        "mlflow.pyfunc.load_model(uri)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text, Loader=yaml.Loader)",
        "eval(text)",
        "archive.extractall(folder)",
        "subprocess.run(line, shell=True)",
    ],
)
def test_what_is_looked_for_is_found(text: str) -> None:
    assert list(dangers(text))
