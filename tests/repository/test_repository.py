"""The repository itself: scripts parse, pages link to what exists, nothing names one machine."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

REPO_ROOT = Path(__file__).resolve().parents[2]
GENERATED = re.compile(r"_pb2(_grpc)?\.pyi?$")
# Home directories and scratch folders of whoever wrote a file: they exist on no other machine.
MACHINE_PATH = re.compile(r"(?<![\w.~$}/-])/(?:home/(?!someone/)\w+|root|work|Users/(?!someone/)\w+)/[\w.]")
# Package registries are the user's to choose (pip's and npm's configuration, TORCH_INDEX_URL).
REGISTRY = re.compile(r"pypi\.org|pythonhosted\.org|download\.pytorch\.org|registry\.npmjs|anaconda\.org")
LINK = re.compile(r"\]\(([^)\s]+)\)")
COMMAND = re.compile(r"^\$? *make ([a-z-]+)", re.MULTILINE)


def tracked(*patterns: str) -> list[Path]:
    """Files that git tracks and that still exist."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--", *patterns], cwd=REPO_ROOT, capture_output=True, text=True, check=True
    ).stdout
    return [path for name in listed.split("\0") if name and (path := REPO_ROOT / name).is_file()]


def machine_paths(text: str) -> list[str]:
    """Absolute paths of one machine, and hosts of package registries, that a text mentions."""
    return [match.group() for pattern in (MACHINE_PATH, REGISTRY) for match in pattern.finditer(text)]


def verbs() -> dict[str, str]:
    """The verbs that `make help` lists, with their descriptions."""
    listed = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=REPO_ROOT, capture_output=True, text=True, check=True
    ).stdout
    return dict(re.findall(r"^  make (\S+)\s+(.+)$", listed, re.MULTILINE))


def test_every_script_is_valid_bash() -> None:
    scripts = tracked("*.sh", ".ci/run")
    assert scripts
    for script in scripts:
        subprocess.run(["bash", "-n", script], check=True)


def test_every_script_is_executable_and_strict() -> None:
    for script in tracked("*.sh", ".ci/run"):
        text = script.read_text(encoding="utf-8")
        assert script.stat().st_mode & 0o100, f"{script.name} is not executable"
        assert text.startswith("#!/usr/bin/env bash\n"), script.name
        assert re.search(r"^set -e?uo pipefail$", text, re.MULTILINE), script.name


def test_no_file_names_a_machine() -> None:
    found = {
        path.relative_to(REPO_ROOT).as_posix(): hits
        for path in tracked()
        if path.suffix not in {".png", ".safetensors", ".jpg"}
        and path != Path(__file__)  # holds the patterns
        and (hits := machine_paths(path.read_text(encoding="utf-8", errors="replace")))
    }
    assert not found


@pytest.mark.parametrize("prefix", ["/" + "home/ada/", "/" + "work/", "/" + "root/", "/" + "Users/ada/"])
def test_machine_paths_are_found(prefix: str) -> None:
    assert machine_paths(f"see {prefix}data for more")
    assert not machine_paths("see ../shared/data, $HOME/data, /home/someone/data and /opt/clipsr")


def test_registries_are_found() -> None:
    assert machine_paths("pip install --index-url https://download.pytorch.org/whl/cpu torch")


def test_every_verb_is_phony_and_explained() -> None:
    makefile = (REPO_ROOT / "Makefile").read_text(encoding="utf-8")
    phony = set(re.findall(r"^\.PHONY: (\S+)$", makefile, re.MULTILINE))
    assert phony == set(verbs())
    assert all(verbs().values())


def test_make_without_a_verb_shows_the_verbs() -> None:
    silent = subprocess.run(
        ["make", "--no-print-directory"], cwd=REPO_ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert "make demo" in silent


@pytest.mark.parametrize("page", tracked("*.md"), ids=lambda page: page.relative_to(REPO_ROOT).as_posix())
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://", "#", "mailto:")):
            assert (page.parent / target.split("#")[0]).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_make_commands_of_a_page_exist(page: str) -> None:
    commands = set(COMMAND.findall((REPO_ROOT / page).read_text(encoding="utf-8")))
    assert commands
    assert commands <= set(verbs())


def test_every_page_is_reached_from_the_readme() -> None:
    readme = (REPO_ROOT / "README.md").read_text(encoding="utf-8")
    linked = {target.split("#")[0] for target in LINK.findall(readme)}
    pages = {page.relative_to(REPO_ROOT).as_posix() for page in tracked("docs/*.md")}
    assert pages <= linked


def test_constraints_pin_exactly() -> None:
    for line in (REPO_ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            assert re.fullmatch(r'[a-z0-9-]+==[\w.]+( ; python_version >= "3\.\d+")?', line), line


def test_every_development_tool_is_pinned() -> None:
    pinned = set(re.findall(r"^([a-z0-9-]+)==", (REPO_ROOT / "constraints.txt").read_text("utf-8"), re.MULTILINE))
    for line in (REPO_ROOT / "requirements-dev.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            assert re.match(r"[a-z0-9-]+", line)[0] in pinned, line  # type: ignore[index]


def test_pre_commit_runs_what_lint_runs() -> None:
    config = REPO_ROOT / ".pre-commit-config.yaml"
    validated = subprocess.run(
        [Path(sys.executable).with_name("pre-commit"), "validate-config", config],
        capture_output=True,
        text=True,
        check=False,
    )
    assert validated.returncode == 0, validated.stdout + validated.stderr
    hooks = config.read_text(encoding="utf-8")
    checks = re.findall(r"^check '[^']+' (\S+)", (REPO_ROOT / "scripts" / "lint.sh").read_text("utf-8"), re.MULTILINE)
    assert len(checks) >= 6
    for command in checks:
        tool = "bash -n" if command == "shell_syntax" else command
        assert tool in hooks, tool
