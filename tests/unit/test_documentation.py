"""Documentation that lies fails here: settings, commands, routes, files and variables that it names must exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from api.app import ROUTERS
from pacs import overview
from pacs.cli import known_commands
from pacs.sources import entries

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
VARIABLES = {entry.variable for entry in entries()}


def page(path: Path) -> str:
    return path.read_text("utf-8")


def test_the_table_of_settings_is_the_one_that_the_code_prints() -> None:
    assert overview.markdown() in page(ROOT / "docs" / "configuration.md"), "run: sangloc settings --markdown"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_command_that_is_named_exists(path: Path) -> None:
    blocks = "\n".join(re.findall(r"^```.*?^```", page(path), re.MULTILINE | re.DOTALL))
    named = set(re.findall(r"(?:^|bin/)sangloc ([a-z]+)", blocks, re.MULTILINE))
    named |= set(re.findall(r"`sangloc ([a-z]+)", page(path)))
    assert named <= known_commands(), named - known_commands()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_link_to_a_file_leads_somewhere(path: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page(path))
    missing = [link for link in links if "://" not in link and not (path.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize(
    "path",
    [*PAGES, ROOT / "compose.yaml", ROOT / "Dockerfile", ROOT / "Makefile"],
    ids=lambda path: path.name,
)
def test_every_variable_that_is_named_is_a_setting(path: Path) -> None:
    named = set(re.findall(r"\bSANGLOC_[A-Z][A-Z0-9_]*[A-Z0-9]\b(?!_?\.\.\.)", page(path)))
    secrets = {f"{entry.variable}_FILE" for entry in entries() if entry.secret}
    assert named <= VARIABLES | secrets | {"SANGLOC_CONFIG"}, named - VARIABLES


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_setting_that_is_named_exists(path: Path) -> None:
    sections = {entry.path.split(".")[0] for entry in entries() if "." in entry.path}
    named = {f"{a}.{b}" for a, b in re.findall(r"`([a-z]+)\.([a-z_]+)(?: = [^`]*)?`", page(path)) if a in sections}
    paths = {entry.path for entry in entries()}
    assert {name for name in named if not name.endswith(".py")} <= paths, named - paths


def test_the_routes_that_operations_names_exist() -> None:
    routes = {(method, route.path) for router in ROUTERS for route in router.routes for method in route.methods}
    named = re.findall(r"`(GET|POST) (/[^` ?]*)", page(ROOT / "docs" / "operations.md"))
    plain = {(method, re.sub(r"\{[^}]*\}", "{}", path)) for method, path in routes}
    assert len(named) > 5
    assert {(method, re.sub(r"\{[^}]*\}", "{}", path)) for method, path in named} <= plain


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", page(ROOT / "Makefile"), re.MULTILINE))
    for path in PAGES:
        named = set(re.findall(r"(?:^|`)make ([a-z-]+)", page(path), re.MULTILINE))
        assert named <= targets, f"{path.name}: {named - targets}"


def test_the_compose_file_is_pinned_unprivileged_watched_and_without_default_secrets() -> None:
    text = page(ROOT / "compose.yaml")
    services = yaml.safe_load(text)["services"]
    assert set(services) == {"postgres", "s3", "migrate", "receiver", "worker", "api", "exchange"}
    for name, service in services.items():
        image = service["image"]
        assert ":latest" not in image
        assert ":" in image or image.startswith("${S3_IMAGE")
        if name not in {"s3", "postgres"}:
            assert service["cap_drop"] == ["ALL"]
            assert service["read_only"] is True
        if name != "s3":
            assert "healthcheck" in service, name
    used = re.findall(r"\$\{([A-Z0-9_]+)(.*?)\}", text)
    assert used
    assert all(rest.startswith(":?") for _, rest in used), "a variable with a default, or none that is demanded"


def test_the_image_does_not_run_as_root_and_is_pinned() -> None:
    text = page(ROOT / "Dockerfile")
    assert re.findall(r"^USER (\d+)$", text, re.MULTILINE) == ["10001"]
    assert all(re.search(r":\d+\.\d+\.\d+", line) for line in re.findall(r"^FROM (\S+)", text, re.MULTILINE))
    assert "HEALTHCHECK" in text
    copied = set(re.findall(r"^COPY (\w+) \1$", text, re.MULTILINE))
    assert copied == {"pacs", "inference", "models", "api", "storage"}
