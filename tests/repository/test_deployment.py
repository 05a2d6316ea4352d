"""Compose file and Kubernetes manifests: valid by their schemas, and in agreement with the programs they start.

Neither Docker nor a cluster is needed. The schemas come with packages, nothing is downloaded.
"""

from __future__ import annotations

import copy
import functools
import itertools
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from clipsr.v1 import library_pb2
from clipsr_gateway.cli import build_parser
from clipsr_serving.launcher import make_parser
from clipsr_serving.launcher._gateway import find_guard_options
from clipsr_serving.launcher._options import _GATEWAY_GRACE_S
from clipsr_serving.launcher._supervisor.service import _STOP_MARGIN_S, _TRITON_STOP_TIMEOUT_S

REPO_ROOT = Path(__file__).resolve().parents[2]
DOCKER = REPO_ROOT / "docker"
KUBERNETES = REPO_ROOT / "deploy" / "kubernetes"
BASE = KUBERNETES / "base"
COMPOSE_FILES = ("compose.yaml", "compose.secure.yaml", "compose.gpu.yaml")
# The oldest release that the manifests are meant for (it brought unhealthyPodEvictionPolicy and gRPC probes to be
# stable or on by default), and the newest that the schemas' package knows.
KUBERNETES_VERSIONS = ("1.29", "1.37")
BUILDERS = {"kustomize": ["build"], "kubectl": ["kustomize"]}


def read_all(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def read(path: Path) -> dict[str, Any]:
    (document,) = read_all(path)
    return document


def run_tool(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a tool of this environment."""
    program = Path(sys.executable).parent / name
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False)


def check_kubernetes(version: str, *paths: Path) -> subprocess.CompletedProcess[str]:
    """Unknown fields are errors, as with `kubectl apply --validate=strict`."""
    return run_tool("kubernetes-validate", "--strict", "-k", version, *paths)


def check_compose(*paths: Path) -> subprocess.CompletedProcess[str]:
    return run_tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", *paths)


def resources(kustomization: Path) -> Iterator[Path]:
    """The manifests that a kustomization names, those of the ones below it included."""
    for name in read(kustomization).get("resources", []):
        path = (kustomization.parent / name).resolve()
        if path.is_dir():
            yield from resources(path / "kustomization.yaml")
        else:
            yield path


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> dict[str, Path]:
    """Base and example as kustomize makes them; skipped where there is neither kustomize nor kubectl."""
    name = next((name for name in BUILDERS if shutil.which(name)), None)
    if name is None:
        pytest.skip("neither kustomize nor kubectl is here: install one to build the overlays")
    folder = tmp_path_factory.mktemp("kustomize")
    made = {}
    stored = tmp_path_factory.mktemp("overlay") / "with object-storage"
    shutil.copytree(KUBERNETES, stored.parent / "kubernetes")
    shutil.copytree(KUBERNETES / "overlays" / "example", stored.parent / "kubernetes" / "overlays" / stored.name)
    stored = stored.parent / "kubernetes" / "overlays" / stored.name
    overlay = read(stored / "kustomization.yaml")
    overlay["components"].append("../../components/object-storage")
    (stored / "kustomization.yaml").write_text(yaml.safe_dump(overlay), encoding="utf-8")
    for source in ("base", "overlays/example", stored):
        command = [name, *BUILDERS[name], str(KUBERNETES / source)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        key = source if isinstance(source, str) else source.name
        made[key] = folder / f"{Path(source).name}.yaml"
        made[key].write_text(done.stdout, encoding="utf-8")
    return made


@pytest.fixture(scope="module")
def container() -> dict[str, Any]:
    (only,) = read(BASE / "deployment.yaml")["spec"]["template"]["spec"]["containers"]
    return only


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return read(DOCKER / "compose.yaml")["services"]["clipsr"]


def options_of(arguments: list[str]) -> tuple[Any, Any]:
    """What clipsr-serve and clipsr-gateway understand by a container's arguments; both exit if they do not."""
    index = arguments.index("--")
    up = make_parser().parse_args(["up", *arguments[:index]])
    return up, build_parser().parse_args(arguments[index + 1 :])


def merge_compose(*services: dict[str, Any]) -> dict[str, Any]:
    """One service of several files, by the rules of the Compose specification (13, Merge)."""

    def merge(old: Any, new: Any, key: str) -> Any:
        if isinstance(old, dict) and isinstance(new, dict):
            both = {name: merge(old[name], new[name], name) for name in old.keys() & new.keys()}
            return {**old, **new, **both}
        return [*old, *new] if isinstance(old, list) and key not in ("command", "test") else new

    return functools.reduce(lambda old, new: merge(old, new, ""), services)


class TestSchemas:
    @pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
    def test_the_manifests_are_valid(self, version):
        paths = sorted(set(resources(KUBERNETES / "overlays" / "example" / "kustomization.yaml")))
        assert len(paths) >= 8
        checked = check_kubernetes(version, *paths)
        assert checked.returncode == 0, checked.stdout + checked.stderr
        assert checked.stdout.count("passed") + checked.stderr.count("passed") == len(paths)

    def test_what_kustomize_makes_is_valid(self, built):
        checked = check_kubernetes(KUBERNETES_VERSIONS[-1], *built.values())
        assert checked.returncode == 0, checked.stdout + checked.stderr

    @pytest.mark.parametrize(
        ("path", "value"),
        [
            (("spec", "template", "spec", "containers", 0, "readinesProbe"), {}),
            (("spec", "template", "spec", "terminationGracePeriodSeconds"), "75 s"),
            (("spec", "selector"), None),
        ],
    )
    def test_the_check_trips_on_a_broken_manifest(self, tmp_path, path, value):
        document = copy.deepcopy(read(BASE / "deployment.yaml"))
        owner = document
        for step in path[:-1]:
            owner = owner[step]
        if value is None:
            del owner[path[-1]]
        else:
            owner[path[-1]] = value
        broken = tmp_path / "deployment.yaml"
        broken.write_text(yaml.safe_dump(document), encoding="utf-8")
        checked = check_kubernetes(KUBERNETES_VERSIONS[-1], broken)
        assert checked.returncode != 0, checked.stdout
        assert str(path[-1]) in checked.stdout + checked.stderr

    def test_the_compose_files_are_valid(self):
        checked = check_compose(*(DOCKER / name for name in COMPOSE_FILES))
        assert checked.returncode == 0, checked.stdout

    def test_the_check_trips_on_a_broken_compose_file(self, tmp_path):
        document = read(DOCKER / "compose.yaml")
        document["services"]["clipsr"]["read_onli"] = True
        broken = tmp_path / "compose.yaml"
        broken.write_text(yaml.safe_dump(document), encoding="utf-8")
        checked = check_compose(broken)
        assert checked.returncode == 1
        assert "read_onli" in checked.stdout


class TestKustomize:
    """What no schema knows: that files, names and ports refer to each other."""

    @pytest.mark.parametrize("path", sorted(KUBERNETES.rglob("kustomization.yaml")), ids=lambda path: path.parent.name)
    def test_everything_that_is_named_is_there(self, path):
        document = read(path)
        named = [*document.get("resources", []), *document.get("components", [])]
        named += [patch["path"] for patch in document.get("patches", [])]
        assert named
        for name in named:
            assert (path.parent / name).exists(), name

    def test_no_manifest_of_the_base_is_forgotten(self):
        named = set(read(BASE / "kustomization.yaml")["resources"])
        assert named == {path.name for path in BASE.iterdir()} - {"kustomization.yaml"}

    def test_every_selector_finds_the_pods(self):
        labels = read(BASE / "deployment.yaml")["spec"]["template"]["metadata"]["labels"]
        selectors = [
            read(BASE / "deployment.yaml")["spec"]["selector"]["matchLabels"],
            read(BASE / "service.yaml")["spec"]["selector"],
            read(BASE / "service-headless.yaml")["spec"]["selector"],
            read(BASE / "pod-disruption-budget.yaml")["spec"]["selector"]["matchLabels"],
            read(BASE / "network-policy.yaml")["spec"]["podSelector"]["matchLabels"],
        ]
        assert all(selector.items() <= labels.items() for selector in selectors)

    @pytest.mark.parametrize(
        "path",
        [
            path.parent / patch["path"]
            for path in sorted(KUBERNETES.glob("components/*/kustomization.yaml"))
            for patch in read(path)["patches"]
        ],
        ids=str,
    )
    def test_the_patches_of_components_fit_the_base(self, path):
        """Every list that one adds to, and everything that it replaces, is there."""
        target = "network-policy.yaml" if path.name == "network-policy.yaml" else "deployment.yaml"
        for operation in read(path):
            steps = operation["path"].strip("/").split("/")
            owner: Any = read(BASE / target)
            for step in steps[:-1]:
                owner = owner[int(step) if step.isdigit() else step]
            assert operation["op"] == "add" or steps[-1] in owner, operation["path"]

    def test_callers_need_one_label_and_no_more(self, built):
        """Kustomize adds labels to every selector that it is told to, those of callers among them."""
        for path in built.values():
            (policy,) = (each for each in read_all(path) if each["kind"] == "NetworkPolicy")
            callers, _ = policy["spec"]["ingress"]
            assert callers["from"] == [{"podSelector": {"matchLabels": {"clipsr.io/client": "true"}}}]
            (deployment,) = (each for each in read_all(path) if each["kind"] == "Deployment")
            pods = deployment["spec"]["template"]["metadata"]["labels"]
            for selector in (policy["spec"]["podSelector"], deployment["spec"]["selector"]):
                assert selector["matchLabels"] == pods
                assert "app.kubernetes.io/name" in pods

    def test_libraries_in_an_object_store_are_reachable_through_the_policy(self, built):
        documents = read_all(built["with object-storage"])
        (policy,) = (each["spec"] for each in documents if each["kind"] == "NetworkPolicy")
        ports = {(port["protocol"], port["port"]) for rule in policy["egress"] for port in rule["ports"]}
        assert ports == {("UDP", 53), ("TCP", 53), ("TCP", 443)}
        (deployment,) = (each for each in documents if each["kind"] == "Deployment")
        (only,) = deployment["spec"]["template"]["spec"]["containers"]
        assert only["envFrom"] == [{"secretRef": {"name": "clipsr-object-storage"}}]
        up, gateway = options_of(only["args"])
        assert up.library_uri == "$(CLIPSR_LIBRARY_URI)"
        assert gateway.api_keys is not None  # beside the component `secure`

    def test_the_example_is_complete(self, built):
        documents = read_all(built["overlays/example"])
        kinds = {"Namespace", "Deployment", "Service", "ServiceAccount"}
        kinds |= {"PodDisruptionBudget", "HorizontalPodAutoscaler", "NetworkPolicy"}
        assert {document["kind"] for document in documents} == kinds
        assert {document["metadata"].get("namespace", "clipsr") for document in documents} == {"clipsr"}


class TestAgreement:
    """The manifests say what the programs understand and do."""

    def secure_arguments(self, container):
        patch = read(KUBERNETES / "components" / "secure" / "patch.yaml")
        return container["args"] + [one["value"] for one in patch if one["path"].endswith("/args/-")]

    def test_the_programs_understand_their_arguments(self, container, compose):
        for arguments in (container["args"], self.secure_arguments(container), compose["command"]):
            up, gateway = options_of(arguments)
            assert str(up.listen) == "0.0.0.0:50051"
            assert (up.triton_address, up.triton_metrics_address) == ("127.0.0.1", "0.0.0.0")
            assert up.max_restarts == 10
            assert gateway.metrics == "0.0.0.0:9464"

    def test_the_secure_component_asks_for_keys_and_certificates(self, container):
        _, gateway = options_of(self.secure_arguments(container))
        assert all((gateway.api_keys, gateway.tls_cert, gateway.tls_key, gateway.tls_client_ca))

    @pytest.mark.parametrize("names", list(itertools.permutations(COMPOSE_FILES[1:])), ids=str)
    def test_compose_files_add_up_in_any_order(self, names):
        """Of several files Docker takes the last command, and all variables."""
        merged = merge_compose(*(read(DOCKER / name)["services"]["clipsr"] for name in (COMPOSE_FILES[0], *names)))
        guards = find_guard_options(merged["command"], merged["environment"])
        up, gateway = options_of([*merged["command"], *guards])
        assert up.library_uri == "/var/lib/clipsr/libraries"
        assert merged["environment"]["CLIPSR_PROFILE"] == "${CLIPSR_PROFILE:-gpu-onnx}"
        secrets = {Path(volume["target"]) for volume in merged["volumes"] if isinstance(volume, dict)}
        for file in (gateway.api_keys, gateway.tls_cert, gateway.tls_key, gateway.tls_client_ca):
            assert file is not None
            assert file.parent in secrets
        assert merged["healthcheck"]["test"] == ["CMD", "clipsr-serve", "status", "--ready"]
        assert merged["deploy"]["resources"].keys() == {"limits", "reservations"}

    def test_ports_agree(self, container, compose):
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        assert ports == {"grpc": 50051, "metrics": 9464, "triton-metrics": 8002}
        probes = [container[f"{kind}Probe"]["grpc"]["port"] for kind in ("startup", "readiness", "liveness")]
        assert set(probes) == {50051}
        for name in ("service.yaml", "service-headless.yaml"):
            assert [port["targetPort"] for port in read(BASE / name)["spec"]["ports"]] == ["grpc"]
        callers, monitoring = read(BASE / "network-policy.yaml")["spec"]["ingress"]
        assert [port["port"] for port in callers["ports"]] == [50051]
        assert {port["port"] for port in monitoring["ports"]} == {9464, 8002}
        endpoints = read(KUBERNETES / "monitoring" / "pod-monitor.yaml")["spec"]["podMetricsEndpoints"]
        assert {endpoint["port"] for endpoint in endpoints} == {"metrics", "triton-metrics"}
        assert {port.rpartition(":")[2] for port in compose["ports"]} == {"50051", "9464", "8002"}

    def test_the_gateway_api_leads_to_the_service(self):
        folder = KUBERNETES / "components" / "gateway-api"
        (rule,) = read(folder / "grpc-route.yaml")["spec"]["rules"]
        service = read(BASE / "service.yaml")
        (port,) = service["spec"]["ports"]
        assert rule["backendRefs"] == [{"name": service["metadata"]["name"], "port": port["port"]}]
        (parent,) = read(folder / "grpc-route.yaml")["spec"]["parentRefs"]
        gateway = read(folder / "gateway.yaml")
        assert parent["name"] == gateway["metadata"]["name"]
        assert parent["sectionName"] in {each["name"] for each in gateway["spec"]["listeners"]}
        (added,) = read(folder / "network-policy.yaml")
        assert added["value"]["ports"] == [{"protocol": "TCP", "port": 50051}]

    @pytest.mark.parametrize("proxy", ["envoy/envoy.yaml", "nginx/nginx.conf"])
    def test_load_balancers_repeat_no_call_of_the_library_that_may_have_been_done(self, repo_root, proxy):
        """Its calls have a rule of their own, named as the contract has it, before that of all others."""
        text = (repo_root / "deploy" / proxy).read_text(encoding="utf-8")
        service = library_pb2.DESCRIPTOR.services_by_name["LibraryService"].full_name
        of_library, others = text.partition(f"/{service}/")[2].split(
            "location / {" if "nginx" in proxy else "prefix: /}"
        )
        repeats = re.compile(r"(?:retry_on:.*|grpc_next_upstream .*)")
        (first,), (second,) = repeats.findall(of_library), repeats.findall(others)
        for risky in ("reset", "cancelled") if "envoy" in proxy else ("non_idempotent",):
            assert risky not in re.split(r"[ ,;]+", first)
            assert risky in re.split(r"[ ,;]+", second)
        assert {"clipsr-1", "clipsr-2", "clipsr-3"} <= set(re.findall(r"clipsr-\d", others + text))

    def test_there_is_time_to_drain(self, container, compose):
        assert build_parser().parse_args([]).grace == _GATEWAY_GRACE_S
        needed_s = _GATEWAY_GRACE_S + _STOP_MARGIN_S + _TRITON_STOP_TIMEOUT_S
        wait_s = float(container["lifecycle"]["preStop"]["exec"]["command"][1])
        pod = read(BASE / "deployment.yaml")["spec"]["template"]["spec"]
        assert pod["terminationGracePeriodSeconds"] > needed_s + wait_s
        assert float(compose["stop_grace_period"].removesuffix("s")) > needed_s

    def test_nothing_runs_with_rights(self, container, compose):
        pod = read(BASE / "deployment.yaml")["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert (compose["user"], compose["read_only"], compose["cap_drop"]) == ("1000:1000", True, ["ALL"])
        assert compose["security_opt"] == ["no-new-privileges:true"]
        limits = compose["deploy"]["resources"]["limits"]
        assert set(limits) == {"cpus", "memory", "pids"}

    def test_the_autoscaler_asks_for_the_metric_that_the_adapter_makes(self, repo_root):
        (rule,) = read(KUBERNETES / "monitoring" / "prometheus-adapter-rules.yaml")["rules"]
        (metric, _) = read(BASE / "horizontal-pod-autoscaler.yaml")["spec"]["metrics"]
        assert metric["pods"]["metric"]["name"] == rule["name"]["as"]
        models = rule["metricsQuery"].partition('model=~"')[2].partition('"')[0].split("|")
        ensembles = [
            path.parent.name
            for path in (repo_root / "model_repository").glob("*/config.pbtxt")
            if 'platform: "ensemble"' in path.read_text(encoding="utf-8")
        ]
        assert sorted(models) == sorted(ensembles)
        assert f'model!~"{"|".join(models)}"' in rule["metricsQuery"]
