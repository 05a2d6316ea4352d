"""What a package exports is what its `__init__.py` imports: a name forgotten in either place is noticed."""

from __future__ import annotations

import importlib
import types

import pytest

PACKAGES = ["clipsr", "clipsr_gateway", "clipsr_serving", "clipsr_export"]  # training offers sub-packages only


def public_names(package: types.ModuleType) -> list[str]:
    """Names that a package holds without an underscore, modules and `annotations` left out."""
    return sorted(
        name
        for name, value in vars(package).items()
        if not name.startswith("_")
        and name not in ("annotations", "TYPE_CHECKING")
        and not isinstance(value, types.ModuleType)
    )


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_exports_what_it_imports(name):
    package = importlib.import_module(name)
    exported = [one for one in package.__all__ if not one.startswith("_")]
    assert set(public_names(package)) <= set(exported)
    assert all(hasattr(package, one) for one in exported)  # some are imported when they are asked for


def test_a_forgotten_name_is_noticed():
    package = types.ModuleType("package")
    package.__all__, package.Exported, package.forgotten = ["Exported"], object, print
    assert public_names(package) == ["Exported", "forgotten"]
