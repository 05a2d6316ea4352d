"""docs/errors.md lists every reason that a caller of the gateway can meet."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.conftest import REPO_ROOT

import clipsr_gateway

SOURCE = Path(clipsr_gateway.__file__).parent
# Where the code names a reason: an argument or attribute, the head of an error's arguments, a table of them.
_NAMED = re.compile(
    r"""reason(?::\ str)?\s*=\s*"([A-Z][A-Z_]+)"                   # reason="LABEL_EMPTY"
    | _error_info\("([A-Z_]+)"\)
    | (?:ImageRejectedError|UnauthenticatedError|NotInLibraryError|LibraryStateError)\(\s*"([A-Z_]+)"
    | super\(\).__init__\(\s*"([A-Z_]+)"
    | (?:refuse|_invalid)\([^()"]*"[a-z_]+",\s*"([A-Z_]+)"
    | Error:\ "([A-Z][A-Z_]+)"                                      # a table by type of error
    | f"\{noun\.upper\(\)\}(_[A-Z_]+)" """,
    re.VERBOSE,
)


def reasons_in(source: str) -> set[str]:
    """Returns the reasons that a module names; those built of a noun for labels and for texts."""
    found = {next(filter(None, groups)) for groups in _NAMED.findall(source)}
    return {
        name
        for reason in found
        for name in ([f"LABEL{reason}", f"TEXT{reason}"] if reason.startswith("_") else [reason])
    }


def documented() -> set[str]:
    page = (REPO_ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    return set(re.findall(r"^\| `([A-Z_]+)` \|", page, re.MULTILINE))


def test_every_reason_is_documented():
    raised = set().union(*(reasons_in(path.read_text(encoding="utf-8")) for path in SOURCE.rglob("*.py")))
    assert len(raised) > 60
    assert raised <= documented(), sorted(raised - documented())


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ('Violation(field=field, reason="NEW_ONE", sentence=s)', "NEW_ONE"),
        ('raise _refuse("options", "NEW_ONE", message)', "NEW_ONE"),
        ('raise ImageRejectedError("NEW_ONE", sentence)', "NEW_ONE"),
        ('    reason = "NEW_ONE"\n', "NEW_ONE"),
        ('reason=f"{noun.upper()}_NEW"', "TEXT_NEW"),
    ],
)
def test_a_new_reason_is_found(source, reason):
    assert reason in reasons_in(source)
    assert reason not in documented()
