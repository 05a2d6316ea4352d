"""The public names, and the rule that one module alone knows tritonclient."""

from __future__ import annotations

import ast
from pathlib import Path

import clipsr_gateway

SOURCE = Path(clipsr_gateway.__file__).parent


def importers(source: Path, package: str) -> set[str]:
    """Returns the modules below `source` that import `package`."""
    found: set[str] = set()
    for path in source.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            if any(name.split(".")[0] == package for name in names):
                found.add(path.name)
    return found


def test_the_public_api_is_this_list():
    assert clipsr_gateway.__all__ == [
        "AdmissionConfig",
        "BackendError",
        "BackendFaultError",
        "BackendUnavailableError",
        "CertificateError",
        "ConfigurationError",
        "DeadlineExceededError",
        "Gateway",
        "GatewayConfig",
        "GatewayError",
        "HealthSchedule",
        "ImageRejectedError",
        "InferenceBackend",
        "InvalidRequestError",
        "KeyFileError",
        "LibrariesDisabledError",
        "LibraryError",
        "LibraryExistsError",
        "LibraryLimits",
        "LibraryStateError",
        "LimitedError",
        "Limits",
        "ListenError",
        "Manifest",
        "ManifestError",
        "NotInLibraryError",
        "OperationsConfig",
        "OverloadedError",
        "PreparedLabels",
        "RateExceededError",
        "Scores",
        "ShuttingDownError",
        "StorageFullError",
        "StorageUnavailableError",
        "StreamExpiredError",
        "TlsConfig",
        "TooManyCallsError",
        "UnauthenticatedError",
        "Violation",
        "load_manifest",
        "serve",
    ]
    for name in clipsr_gateway.__all__:
        assert getattr(clipsr_gateway, name)


def test_one_module_imports_tritonclient():
    assert importers(SOURCE, "tritonclient") == {"_triton.py"}


def test_metrics_and_traces_stay_in_one_module_each():
    assert importers(SOURCE, "prometheus_client") == {"_metrics.py"}
    assert importers(SOURCE, "opentelemetry") == {"_tracing.py"}


def test_the_check_above_can_fail(tmp_path):
    (tmp_path / "a.py").write_text("import tritonclient.grpc.aio")
    (tmp_path / "b.py").write_text("def f():\n    from tritonclient import utils")
    (tmp_path / "c.py").write_text("import numpy")
    assert importers(tmp_path, "tritonclient") == {"a.py", "b.py"}
