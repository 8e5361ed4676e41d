"""The files in infra/ are right by the schemas of the tools that read them, agree, and keep no secret."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from jsonschema import Draft7Validator
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
DATA = ROOT / "tests" / "data"
SCRIPTS = [*sorted(INFRA.glob("*.sh")), INFRA / "slurm.sbatch"]
EVERY = sorted(path for path in INFRA.iterdir() if path.is_file())
LAUNCHER = ["aws.yaml", "gcp.yaml", "aws-8gpu.yaml", "gcp-8gpu.yaml"]
CLOUDS = ["aws", "gcp"]
Where = tuple[str | int, ...]


@cache
def settings() -> dict[str, str]:
    lines = (INFRA / "settings.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


@cache
def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().split()
    return dict(line.split("==") for line in lines)


@cache
def project() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return found


def documents(name: str) -> list[Any]:
    return list(yaml.safe_load_all((INFRA / name).read_text()))


def load(name: str) -> Any:
    (document,) = documents(name)
    return document


def leaves(value: Any, at: Where = ()) -> Iterator[tuple[Where, Any]]:
    """Everything in a document that is neither a mapping nor a list, with where it stands."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, (*at, key))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from leaves(item, (*at, number))
    else:
        yield at, value


# --- schemas ---


def strict(schema: Any) -> Any:
    """Of a Kubernetes schema what JSON Schema understands; a field that is not named is an error."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    done = {key: strict(value) for key, value in schema.items()}
    if schema.get("x-kubernetes-int-or-string") is True:
        return {"type": ["integer", "string"]}
    if isinstance(schema.get("properties"), dict) and "type" in schema:
        done.setdefault("additionalProperties", False)
    return done


@cache
def validator(kind: str) -> Draft7Validator:
    if kind == "compose":
        return Draft7Validator(json.loads((DATA / "compose-spec.json").read_text()))
    if kind == "launcher":
        schema = Path(ray.__file__).parent / "autoscaler" / "ray-schema.json"
        return Draft7Validator(json.loads(schema.read_text()))
    crds = strict(json.loads((DATA / "kuberay.json").read_text()))
    definitions = crds["definitions"]
    if kind == "pod":
        place = crds["RayCluster"]
        for step in ("spec", "headGroupSpec", "template"):
            place = place["properties"][step]
            while "$ref" in place:
                place = definitions[place["$ref"].rpartition("/")[2]]
        return Draft7Validator({**place, "definitions": definitions})
    return Draft7Validator({**crds[kind], "definitions": definitions})


SCHEMAS = {
    **dict.fromkeys(LAUNCHER, "launcher"),
    "compose.yaml": "compose",
    "raycluster.yaml": "RayCluster",
    "rayjob.yaml": "RayJob",
}


def complaints(kind: str, document: Any) -> list[str]:
    return [f"{list(e.absolute_path)}: {e.message}" for e in validator(kind).iter_errors(document)]


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_file_follows_its_tools_schema(name: str) -> None:
    assert complaints(SCHEMAS[name], load(name)) == []


MISTAKES: dict[str, tuple[Where, str]] = {
    "aws.yaml": (("available_node_types", "spot"), "max_worker"),
    "gcp.yaml": ((), "file_mount"),
    "compose.yaml": (("services", "mlflow"), "healthchek"),
    "raycluster.yaml": (
        ("spec", "workerGroupSpecs", 0, "template", "spec", "containers", 0),
        "imagePullPolcy",
    ),
    "rayjob.yaml": (("spec", "rayClusterSpec", "authOptions"), "secretNam"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_misspelt_key_is_found(name: str) -> None:
    at, word = MISTAKES[name]
    document = load(name)
    place = document
    for step in at:
        place = place[step]
    place[word] = "x"
    assert any(word in line for line in complaints(SCHEMAS[name], document))


@pytest.mark.parametrize(("at", "wrong"), [("image", 3), ("env", {"A": "b"}), ("name", None)])
def test_a_value_of_the_wrong_type_is_found_in_a_pod(at: str, wrong: object) -> None:
    cluster = load("raycluster.yaml")
    cluster["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0][at] = wrong
    assert complaints("RayCluster", cluster)


def test_mlflows_pod_is_a_pod() -> None:
    (template,) = [d["spec"]["template"] for d in documents("mlflow.yaml") if "Depl" in d["kind"]]
    assert complaints("pod", template) == []
    template["spec"]["containers"][0]["readinesProbe"] = {}
    assert complaints("pod", template)


@pytest.mark.parametrize("name", LAUNCHER)
def test_rays_launcher_takes_the_file(name: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(load(name))
    validate_config(config)
    types = config["available_node_types"]
    assert types["head"]["max_workers"] == 0
    assert 0 < types["spot"]["max_workers"] <= config["max_workers"]


def check(tool: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name(tool)
    if not program.exists():
        pytest.skip(f"{tool} is not installed; the extra `dev` brings it")
    return subprocess.run(
        [str(program), *arguments], capture_output=True, text=True, check=False, cwd=ROOT
    )


def test_shellcheck_finds_nothing_in_the_scripts_and_something_in_a_bad_one(tmp_path: Path) -> None:
    done = check("shellcheck", "-x", "-P", "SCRIPTDIR", *map(str, SCRIPTS))
    assert (done.returncode, done.stdout) == (0, "")
    bad = tmp_path / "bad.sh"
    bad.write_text("#!/bin/bash\nrm -r $1/*\n")
    assert "SC2086" in check("shellcheck", str(bad)).stdout


def test_hadolint_finds_nothing_in_the_dockerfile_and_something_in_a_bad_one(
    tmp_path: Path,
) -> None:
    done = check("hadolint", "infra/Dockerfile")
    assert (done.returncode, done.stdout) == (0, "")
    bad = tmp_path / "Dockerfile"
    bad.write_text("FROM python\n")
    assert "DL3006" in check("hadolint", str(bad)).stdout


# --- one place ---


def test_versions_agree_with_the_pins_and_the_project() -> None:
    version = project()["version"]
    python = settings()["WHIPRAY_PYTHON"]
    assert settings()["WHIPRAY_IMAGE"] == f"whipray:{version}"
    assert SpecifierSet(project()["requires-python"]).contains(python)
    assert load("raycluster.yaml")["spec"]["rayVersion"] == pins()["ray"] == ray.__version__
    bases = re.findall(r"^FROM (\S+)", (INFRA / "Dockerfile").read_text(), re.MULTILINE)
    assert {base.partition("-")[0] for base in bases} == {f"python:{python}"}


@pytest.mark.parametrize("path", EVERY, ids=lambda path: path.name)
def test_one_image_everywhere(path: Path) -> None:
    named = set(re.findall(r"\bwhipray:[0-9][\w.-]*", path.read_text()))
    assert named <= {settings()["WHIPRAY_IMAGE"]}


def test_pods_and_services_use_the_image() -> None:
    images = [
        value
        for name in ("raycluster.yaml", "rayjob.yaml", "mlflow.yaml")
        for document in documents(name)
        for at, value in leaves(document)
        if at[-1] == "image"
    ]
    assert len(images) == 9  # a head and three kinds of worker, twice; MLflow
    assert set(images) == {settings()["WHIPRAY_IMAGE"]}
    compose = load("compose.yaml")["x-image"]["image"]
    assert compose == "${WHIPRAY_IMAGE:-" + settings()["WHIPRAY_IMAGE"] + "}"


OTHERS_PORTS = {"52365", "5432"}  # Ray's agent's and PostgreSQL's own


@pytest.mark.parametrize("path", EVERY, ids=lambda path: path.name)
def test_ports_are_those_of_the_settings(path: Path) -> None:
    known = {value for key, value in settings().items() if key.endswith("_PORT")}
    pattern = r"(?:[a-z0-9\]}]:|Port: |port: |port=:?)(\d{4,5})(?![\d:])"
    named = {port for port in re.findall(pattern, path.read_text()) if int(port) > 1024}
    assert named <= known | OTHERS_PORTS


def test_ports_in_use_are_found_at_all() -> None:
    compose = load("compose.yaml")["services"]
    published = {name: compose[name]["ports"] for name in ("head", "mlflow", "s3")}
    for name, key in (("head", "DASHBOARD"), ("mlflow", "MLFLOW"), ("s3", "S3")):
        port = settings()[f"WHIPRAY_{key}_PORT"]
        assert published[name] == ["${WHIPRAY_PUBLISH:-127.0.0.1}:" + f"{port}:{port}"]


def test_a_silent_node_is_given_up_within_fifteen_seconds() -> None:
    period, timeout, failures = (
        int(settings()[f"RAY_health_check_{name}"])
        for name in ("period_ms", "timeout_ms", "failure_threshold")
    )
    assert failures * timeout + failures * period <= 15_000


def test_pods_have_rays_settings() -> None:
    wanted = {name: value for name, value in settings().items() if name.startswith("RAY_")}
    del wanted["RAY_AUTH_MODE"]  # KubeRay's authOptions set it
    for where, pod in pods():
        if where != "mlflow.yaml":
            env = {item["name"]: item.get("value") for item in pod["containers"][0]["env"]}
            assert env.items() >= wanted.items(), where


def test_the_job_runs_on_the_same_cluster() -> None:
    assert load("rayjob.yaml")["spec"]["rayClusterSpec"] == load("raycluster.yaml")["spec"]


def test_clouds_and_sizes_differ_in_the_machines_only() -> None:
    own = {"cluster_name", "provider", "available_node_types", "initialization_commands"}
    aws, *others = ({k: v for k, v in load(name).items() if k not in own} for name in LAUNCHER)
    assert others == [aws] * 3


def test_nodes_of_eight_gpus_have_a_fast_network_shared_memory_and_disks_of_their_own() -> None:
    aws, gcp = (load(f"{cloud}-8gpu.yaml")["available_node_types"]["spot"] for cloud in CLOUDS)
    cards = aws["node_config"]["NetworkInterfaces"]
    assert [card["NetworkCardIndex"] for card in cards] == [0, 1, 2, 3]  # of a p4d.24xlarge
    assert {card["InterfaceType"] for card in cards} == {"efa"}
    assert aws["node_config"]["Placement"]["GroupName"] in (INFRA / "README.md").read_text()
    assert gcp["resources"]["GPU"] == 8
    assert [disk["type"] for disk in gcp["node_config"]["disks"]].count("SCRATCH") == 2
    (pod,) = [pod for where, pod in pods() if where == "raycluster.yaml eight-gpus"]
    (container,) = pod["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "8"
    volumes = {volume["name"]: volume["emptyDir"] for volume in pod["volumes"]}
    mounted = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
    assert mounted["/dev/shm"] == {"medium": "Memory", "sizeLimit": "64Gi"}
    assert {"/tmp", "/home/whipray/.cache"} < mounted.keys()


def test_launchers_file_of_eight_gpus_is_what_ray_asks_amazon_for() -> None:
    from ray.autoscaler._private.aws.config import _configure_from_network_interfaces

    spot = _configure_from_network_interfaces(load("aws-8gpu.yaml"))["available_node_types"]["spot"]
    assert set(spot["node_config"]["SubnetIds"]) == {"SUBNET"}
    assert set(spot["node_config"]["SecurityGroupIds"]) == {"GROUP"}


# --- who may do what ---


@pytest.mark.parametrize("path", EVERY, ids=lambda path: path.name)
def test_ray_starts_only_with_token_authentication(path: Path) -> None:
    assert settings()["RAY_AUTH_MODE"] == "token"
    if path.name == "start-ray.sh":
        before, found, _ = path.read_text().partition("ray start --head")
        assert found
        assert "${RAY_AUTH_TOKEN:?" in before
    elif path.suffix != ".md":
        assert "exec ray start" not in path.read_text()
        assert not re.search(r"^[^#\n]*\bray start\b", path.read_text(), re.MULTILINE)


def pods() -> Iterator[tuple[str, Any]]:
    for name in ("raycluster.yaml", "rayjob.yaml"):
        spec = load(name)["spec"]
        spec = spec.get("rayClusterSpec", spec)
        yield f"{name} head", spec["headGroupSpec"]["template"]["spec"]
        for group in spec["workerGroupSpecs"]:
            yield f"{name} {group['groupName']}", group["template"]["spec"]
    for document in documents("mlflow.yaml"):
        if document["kind"] == "Deployment":
            yield "mlflow.yaml", document["spec"]["template"]["spec"]


def test_kuberay_gives_every_pod_the_token() -> None:
    assert load("raycluster.yaml")["spec"]["authOptions"] == {
        "mode": "token",
        "secretName": "whipray",
    }


@pytest.mark.parametrize("pod", [pytest.param(pod, id=where) for where, pod in pods()])
def test_no_pod_runs_as_root(pod: dict[str, Any]) -> None:
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 1000
    (container,) = pod["containers"]
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_no_service_runs_as_root() -> None:
    for name, service in load("compose.yaml")["services"].items():
        assert service["user"] in ("1000:1000", "postgres"), name
    users = re.findall(r"^USER (\S+)", (INFRA / "Dockerfile").read_text(), re.MULTILINE)
    assert users[-1:] == ["1000:1000"]


def test_every_service_that_stays_has_a_health_check() -> None:
    services = load("compose.yaml")["services"]
    once = {
        name
        for service in services.values()
        for name, how in service.get("depends_on", {}).items()
        if how["condition"] == "service_completed_successfully"
    }
    assert once == {"bucket"}
    for name, service in services.items():
        assert ("healthcheck" in service) is (name not in once), name


@pytest.mark.parametrize("name", LAUNCHER)
def test_in_a_cloud_the_head_is_on_demand_and_the_workers_are_spot(name: str) -> None:
    types = load(name)["available_node_types"]
    spot = {kind for kind in types if "spot" in json.dumps(types[kind]["node_config"]).lower()}
    assert load(name)["head_node_type"] == "head"
    assert spot == {"spot"}


def test_in_kubernetes_the_head_shuns_every_label_that_spot_workers_look_for() -> None:
    spec = load("raycluster.yaml")["spec"]

    def terms(pod: Any) -> list[dict[str, Any]]:
        affinity = pod["template"]["spec"]["affinity"]["nodeAffinity"]
        required = affinity["requiredDuringSchedulingIgnoredDuringExecution"]
        return [rule for term in required["nodeSelectorTerms"] for rule in term["matchExpressions"]]

    wanted = terms(spec["workerGroupSpecs"][0])
    assert {rule["operator"] for rule in wanted} == {"In"}
    assert terms(spec["headGroupSpec"]) == [{**rule, "operator": "NotIn"} for rule in wanted]
    assert "tolerations" not in spec["headGroupSpec"]["template"]["spec"]


# --- secrets ---

SECRET = re.compile(r"TOKEN|PASSWORD|SECRET|ACCESS_KEY", re.IGNORECASE)
NOT_SECRET = {"secretName", "HttpTokens"}  # a Secret's name; a rule of Amazon's metadata service
LONG_WORD = re.compile(r"(?<![\w./-])(?=[A-Za-z+/]*\d)[A-Za-z0-9+/]{20,}={0,2}(?![\w./-])")


def given_secrets(document: Any) -> list[str]:
    """Settings with a secret's name whose value stands in the file itself."""
    found = []
    for at, value in leaves(document):
        name = str(at[-1])
        if at[-1] == "value":  # of a container's `{name: .., value: ..}`
            place = document
            for step in at[:-1]:
                place = place[step]
            name = str(place.get("name"))
        outside = isinstance(value, str) and re.fullmatch(r"\$\{\w+:\?[^}]*\}", value)
        if SECRET.search(name) and name not in NOT_SECRET and not outside:
            found.append(".".join(map(str, at)))
    return found


@pytest.mark.parametrize("path", EVERY, ids=lambda path: path.name)
def test_no_file_holds_a_secret(path: Path) -> None:
    assert LONG_WORD.findall(path.read_text()) == []
    if path.suffix == ".yaml":
        assert [name for document in documents(path.name) for name in given_secrets(document)] == []


def test_a_secret_in_a_file_would_be_found() -> None:
    assert LONG_WORD.findall("RAY_AUTH_TOKEN=9f86d081884c7d659a2feaa0c55ad015")
    compose = deepcopy(load("compose.yaml"))
    compose["services"]["postgres"]["environment"]["POSTGRES_PASSWORD"] = "hunter2"
    assert given_secrets(compose) == ["services.postgres.environment.POSTGRES_PASSWORD"]
    cluster = load("raycluster.yaml")
    env = cluster["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["env"]
    env.append({"name": "AWS_SECRET_ACCESS_KEY", "value": "hunter2"})
    assert len(given_secrets(cluster)) == 4  # the three kinds of worker share the list


def test_secrets_reach_pods_by_reference() -> None:
    for where, pod in pods():
        (container,) = pod["containers"]
        referred = {v["name"]: v["valueFrom"] for v in container["env"] if "valueFrom" in v}
        assert {"AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD"} <= referred.keys(), where
        for name, source in referred.items():
            reference = source["secretKeyRef"]
            assert (reference["name"], reference["key"]) == ("whipray", name)
            assert not (reference.get("optional") and SECRET.search(name))


def required_variables() -> set[str]:
    text = "\n".join(path.read_text() for path in EVERY if path.suffix != ".md")
    given = {*settings(), "RAY_HEAD_IP", "SLURM_SUBMIT_DIR"}
    named = set(re.findall(r"\$\{(\w+):[?-]", text)) - {"1", "2"}
    named |= set(re.findall(r"key: ([A-Z_]+)", text))
    return {name for name in named if not name.startswith("SLURM_")} - given


def test_every_variable_that_a_file_asks_for_is_in_the_readme() -> None:
    readme = (INFRA / "README.md").read_text()
    wanted = required_variables()
    assert {"RAY_AUTH_TOKEN", "WHIPRAY_PUBLISH", "POSTGRES_PASSWORD"} <= wanted
    assert {name for name in wanted if f"`{name}`" not in readme} == set()
