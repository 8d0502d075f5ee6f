"""Dockerfile, compose file and the container's entry point, as far as they can be checked without Docker."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from router.config import load_settings
from router.config.environment import VARIABLES

ROOT = Path(__file__).resolve().parents[2]
ENTRYPOINT = ROOT / "scripts" / "docker-entrypoint.sh"
SECRET = re.compile(r"KEY|TOKEN|PASSWORD|SECRET")

needs_sh = pytest.mark.skipif(shutil.which("sh") is None or sys.platform == "win32", reason="needs a POSIX shell")


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions in order, each with its arguments on one line."""
    text = "\n".join(line for line in read("Dockerfile").splitlines() if not line.lstrip().startswith("#"))
    lines = [line.strip() for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    return [(word, re.sub(r"\s+", " ", rest)) for word, _, rest in (line.partition(" ") for line in lines)]


def arguments(instruction: str) -> list[str]:
    return [rest for word, rest in instructions() if word == instruction]


def image_environment() -> dict[str, str]:
    return dict(pair.split("=", 1) for rest in arguments("ENV") for pair in rest.split(" "))


def service() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(read("docker-compose.yml"))["services"]["router"]
    return found


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


# -- the image


def test_the_image_stands_on_a_named_build_of_llama_cpp() -> None:
    assert re.fullmatch(r"LLAMA_CPP_TAG=server-cuda-b\d+", arguments("ARG")[0])
    assert arguments("FROM") == ["ghcr.io/ggml-org/llama.cpp:${LLAMA_CPP_TAG}"]


def test_the_image_installs_what_is_locked() -> None:
    (install,) = (rest for rest in arguments("RUN") if "pip install" in rest)
    assert "--require-hashes" in install
    assert install.endswith("-r /opt/llama-router/requirements.txt")


def test_an_old_python_in_the_base_stops_the_build() -> None:
    wanted = re.search(r'requires-python = ">=3\.(\d+)"', read("pyproject.toml"))
    assert wanted
    assert f"sys.exit(sys.version_info < (3, {wanted[1]}))" in arguments("RUN")[0]


def test_what_is_copied_is_there_and_not_ignored() -> None:
    lines = [line for line in read(".dockerignore").splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*", "everything is ignored but what is named, so that no secret is sent along by accident"
    admitted = {line[1:] for line in lines if line.startswith("!")}
    copied = {source.rstrip("/") for rest in arguments("COPY") for source in rest.split(" ")[:-1]}
    assert copied == admitted
    for source in copied:
        assert (ROOT / source).exists(), source


def test_the_router_in_the_image_is_nobody() -> None:
    assert arguments("USER") == ["router"]
    order = [word for word, _ in instructions()]
    assert order.index("USER") > max(index for index, word in enumerate(order) if word in {"RUN", "COPY", "WORKDIR"})


def test_the_image_tells_how_it_is_and_stops_when_told() -> None:
    (check,) = arguments("HEALTHCHECK")
    assert "http://127.0.0.1:${ROUTER_PORT}/health" in check
    assert arguments("EXPOSE") == [image_environment()["ROUTER_PORT"]]
    assert arguments("STOPSIGNAL") == ["SIGTERM"]
    # As a list: the shell form would keep the signal from the router.
    assert arguments("ENTRYPOINT") == ['["/bin/sh", "/opt/llama-router/docker-entrypoint.sh"]']


def test_no_secret_is_baked_in() -> None:
    for rest in arguments("ENV") + arguments("ARG"):
        for pair in rest.split(" "):
            assert not SECRET.search(pair.partition("=")[0]), pair


def test_models_configuration_and_state_are_found_by_themselves(tmp_path: Path) -> None:
    (workdir,) = arguments("WORKDIR")
    app = tmp_path / workdir.lstrip("/")
    (app / "models").mkdir(parents=True)
    (app / "models" / "tiny.gguf").write_bytes(b"GGUF")
    (app / "llama-server").touch(mode=0o755)
    (app / "config.json").write_text("{}")
    environ = {
        name: value.replace("/app", str(app)) for name, value in image_environment().items() if name in VARIABLES
    }

    settings = load_settings(environ=environ, cwd=app)

    assert set(settings.models) == {"tiny"}
    assert settings.source == app / "config.json"
    assert settings.system.llama_server_path == app / "llama-server"
    assert [str(settings.state_dir)] == [f"{tmp_path}{volume}" for volume in arguments("VOLUME")]
    assert (settings.api.host, settings.api.port) == ("0.0.0.0", 8000)


# -- compose


def test_the_gpu_is_reserved() -> None:
    (device,) = service()["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}


def test_compose_mounts_what_the_image_looks_for_and_makes_no_folders() -> None:
    binds = {volume["target"]: volume for volume in service()["volumes"] if isinstance(volume, dict)}
    assert set(binds) == {image_environment()["BASE_MODELS_PATH"], f"{arguments('WORKDIR')[0]}/config.json"}
    for volume in binds.values():
        assert volume["read_only"] is True
        assert volume["bind"] == {"create_host_path": False}
    (state,) = (volume for volume in service()["volumes"] if isinstance(volume, str))
    assert state.split(":")[1:] == arguments("VOLUME")
    assert state.split(":")[0] in yaml.safe_load(read("docker-compose.yml"))["volumes"]


def test_compose_publishes_the_image_s_port() -> None:
    port = image_environment()["ROUTER_PORT"]
    assert service()["ports"] == [f"{port}:{port}"]


@pytest.mark.parametrize("file", ["docker-compose.yml", "docker-compose.monitoring.yml"])
def test_compose_files_hold_no_secret(file: str) -> None:
    for each in yaml.safe_load(read(file))["services"].values():
        for name, value in each.get("environment", {}).items():
            if SECRET.search(name):
                assert re.fullmatch(r"\$\{\w+:-(admin)?\}", value), name


# -- the entry point


class Container:
    """Runs the entry point with a `python` that tells what it was started with instead of serving."""

    def __init__(self, folder: Path) -> None:
        self.app = folder / "app"
        self.app.mkdir()
        self._bin = folder / "bin"
        self._bin.mkdir()
        python = self._bin / "python"
        python.write_text(
            f'#!/bin/sh\n[ "$1" = - ] && exec "{sys.executable}" "$@"\nprintf "[%s]" "$@"\necho " as $$"\n'
        )
        python.chmod(0o755)

    def run(self, *command: str, **environ: str) -> subprocess.CompletedProcess[str]:
        path = f"{self._bin}{os.pathsep}{os.environ['PATH']}"
        return subprocess.run(
            ["sh", str(ENTRYPOINT), *command],
            cwd=self.app,
            env={"PATH": path, **environ},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )


@pytest.fixture
def container(tmp_path: Path) -> Container:
    return Container(tmp_path)


CLOSED = [
    pytest.param({}, None, id="nothing said"),
    pytest.param({"API_KEY": ""}, None, id="empty key"),
    pytest.param({"ROUTER_ALLOW_UNAUTHENTICATED": "0"}, None, id="opt-out switched off"),
    pytest.param({}, "{}", id="empty configuration"),
    pytest.param({}, '{"api": {"allow_unauthenticated": false}}', id="false"),
    pytest.param({}, '{"api": {"api_keys": {}}}', id="no keys"),
    pytest.param({"ADMIN_API_KEY": "sk-test"}, None, id="admin key alone"),
    pytest.param({}, '{"api": {"allow_unauthenticated": "true"}}', id="not a boolean"),
    pytest.param({}, "{", id="broken configuration"),
]
OPEN = [
    pytest.param({"API_KEY": "sk-test"}, None, id="key"),
    pytest.param({"API_KEYS": "alice:sk-test"}, None, id="named key"),
    pytest.param({}, '{"api": {"api_keys": {"alice": "sk-test"}}}', id="key in the configuration"),
    pytest.param({"ROUTER_ALLOW_UNAUTHENTICATED": "1"}, None, id="opt-out"),
    pytest.param({}, '{"api": {"allow_unauthenticated": true}}', id="configuration"),
    pytest.param({}, '\ufeff{"api": {"allow_unauthenticated": true}}', id="configuration with a byte order mark"),
]


@needs_sh
@pytest.mark.parametrize(("environ", "config"), CLOSED)
@pytest.mark.parametrize("command", [(), ("serve",), ("--port", "9000")], ids=" ".join)
def test_without_a_key_nothing_is_served(
    container: Container, environ: dict[str, str], config: str | None, command: tuple[str, ...]
) -> None:
    if config is not None:
        (container.app / "config.json").write_text(config, encoding="utf-8")
    done = container.run(*command, **environ)
    assert (done.returncode, done.stdout) == (2, "")
    for way_out in ("API_KEY", "api.allow_unauthenticated", "ROUTER_ALLOW_UNAUTHENTICATED=1"):
        assert way_out in done.stderr
    assert "Traceback" not in done.stderr


@needs_sh
@pytest.mark.parametrize(("environ", "config"), OPEN)
def test_with_a_key_or_an_explicit_word_it_is(
    container: Container, environ: dict[str, str], config: str | None
) -> None:
    if config is not None:
        (container.app / "config.json").write_text(config, encoding="utf-8")
    done = container.run("serve", **environ)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("[-m][router][serve] as ")
    assert "sk-test" not in done.stdout


@needs_sh
def test_the_configuration_may_lie_elsewhere(container: Container, tmp_path: Path) -> None:
    file = tmp_path / "my config.json"
    file.write_text('{"api": {"allow_unauthenticated": true}}')
    assert container.run(CONFIG_PATH=str(file)).returncode == 0


@needs_sh
@pytest.mark.parametrize("command", ["check-config", "models", "--help", "--version"])
def test_what_serves_nobody_needs_no_key(container: Container, command: str) -> None:
    assert container.run(command).stdout.startswith(f"[-m][router][{command}] as ")


@needs_sh
def test_arguments_arrive_as_they_are(container: Container) -> None:
    done = container.run("serve", "--config", "my models.json", API_KEY="sk-test")
    assert done.stdout.startswith("[-m][router][serve][--config][my models.json] as ")


@needs_sh
def test_the_router_takes_the_shell_s_place(container: Container) -> None:
    with subprocess.Popen(
        ["sh", str(ENTRYPOINT)],
        cwd=container.app,
        env={"PATH": f"{container.app.parent / 'bin'}{os.pathsep}{os.environ['PATH']}", "API_KEY": "sk-test"},
        stdout=subprocess.PIPE,
        text=True,
    ) as shell:
        out, _ = shell.communicate(timeout=30)
    assert out.split()[-1] == str(shell.pid)
