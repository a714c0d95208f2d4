import os
import re
import subprocess
import tomllib

import pytest
import yaml

from service.settings import CHECKOUT, Settings

DEPLOY = CHECKOUT / "deploy"
KNOWN = {f"VULTUS_{name.upper()}" for name in Settings.model_fields}
SCRIPTS = sorted(path.name for path in DEPLOY.glob("*.sh"))


def normal(name: str) -> str:
    """The name of a distribution as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins() -> dict[str, str]:
    lines = (DEPLOY / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


@pytest.fixture(scope="module")
def compose():
    return yaml.safe_load((CHECKOUT / "docker-compose.yml").read_text())["services"]["vultus"]


@pytest.fixture(scope="module")
def dockerfile():
    return (DEPLOY / "Dockerfile").read_text()


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_is_sound_posix_shell(script):
    done = subprocess.run(["sh", "-n", DEPLOY / script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("file", ["docker-compose.yml", "deploy/Dockerfile", *(f"deploy/{name}" for name in SCRIPTS)])
def test_every_setting_that_a_file_names_exists(file):
    named = set(re.findall(r"VULTUS_[A-Z_]+", (CHECKOUT / file).read_text()))
    assert named <= KNOWN


def test_compose_publishes_on_this_machine_only(compose):
    assert all(port.startswith("127.0.0.1:") for port in compose["ports"])


def test_compose_serves_nobody_without_a_key_unless_told_to(compose):
    assert compose["environment"]["VULTUS_OPEN"] == "${VULTUS_OPEN:-0}"


def test_compose_builds_a_target_that_the_dockerfile_has(compose, dockerfile):
    build = compose["build"]
    assert CHECKOUT / build["dockerfile"] == DEPLOY / "Dockerfile"
    assert re.search(rf"^FROM .* AS {build['target']}$", dockerfile, re.MULTILINE)


def test_the_data_folder_of_the_image_is_the_volume(compose, dockerfile):
    assert "VULTUS_DATA=/data" in dockerfile
    assert compose["volumes"] == ["data:/data"]


def test_the_image_does_not_run_as_root(dockerfile):
    assert re.findall(r"^USER (\w+)$", dockerfile, re.MULTILINE)[-1] != "root"


def test_what_the_image_copies_is_sent_to_the_build(dockerfile):
    sent = {line.removeprefix("!") for line in (CHECKOUT / ".dockerignore").read_text().splitlines() if line[0] == "!"}
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile, re.MULTILINE)
    assert {path.split("/")[0] for line in copied for path in line.split()} <= sent


def test_every_distribution_that_the_project_names_is_pinned():
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(each for extra in project["optional-dependencies"].values() for each in extra),
    ]
    pinned = {normal(name) for name in pins()}
    assert {normal(re.split(r"[\s\[<>=!~;]", each)[0]) for each in wanted} - pinned == set()


def test_every_line_of_the_constraints_is_a_version_and_nothing_else():
    lines = (DEPLOY / "constraints.txt").read_text().splitlines()
    assert [line for line in lines if not re.fullmatch(r"#.*|[\w.-]+==[\w.]+", line)] == []


def test_the_constraints_name_no_host():
    assert not re.search(r"https?:|\.(org|com|io|dev)\b|--", (DEPLOY / "constraints.txt").read_text())


class TestInstallation:
    """`install_extras` with a Python that only writes down what it is asked to do."""

    @pytest.fixture
    def install(self, tmp_path):
        for file in ("pyproject.toml", "deploy/constraints.txt", "deploy/environment.sh"):
            (tmp_path / file).parent.mkdir(exist_ok=True)
            (tmp_path / file).write_text((CHECKOUT / file).read_text())
        python = tmp_path / "python"
        python.write_text(
            "#!/bin/sh\n"
            'echo "$@" >>"$LOG"\n'
            'case "$*" in\n'
            "*'-m venv'*) mkdir -p .venv/bin && cp \"$0\" .venv/bin/python ;;\n"
            '*"pip install"*) exit "$PIP_EXIT" ;;\n'
            '*ensurepip*) exit "$VENV_EXIT" ;;\n'
            "esac\n"
        )
        python.chmod(0o755)

        def run(*extras, pip_exit=0, venv_exit=0, name="python"):
            """Install, and give the exit code, what was said, and the extras that pip was asked for."""
            log = tmp_path / "log"
            log.write_text("")
            done = subprocess.run(
                ["sh", "-euc", f". deploy/environment.sh; install_extras {' '.join(extras)}"],
                cwd=tmp_path,
                env={
                    **os.environ,
                    "PYTHON": f"./{name}",
                    "LOG": str(log),
                    "PIP_EXIT": str(pip_exit),
                    "VENV_EXIT": str(venv_exit),
                },
                capture_output=True,
                text=True,
                check=False,
            )
            return done.returncode, done.stderr, re.findall(r"-e \.\[(.*)\]", log.read_text())

        return run

    def test_the_first_run_installs_what_is_asked_for(self, install):
        assert install("cpu")[2] == ["cpu"]

    def test_the_second_run_installs_nothing_and_says_nothing(self, install):
        install("cpu")
        assert install("cpu") == (0, "", [])

    def test_further_extras_are_added_to_those_that_are_there(self, install):
        install("cpu")
        assert install("cpu", "train", "test")[2] == ["cpu,train,test"]

    def test_fewer_extras_than_are_there_need_nothing(self, install):
        install("cpu", "train", "test")
        assert install("cpu")[2] == []

    def test_other_versions_install_anew(self, install, tmp_path):
        install("cpu")
        with (tmp_path / "deploy" / "constraints.txt").open("a") as file:
            file.write("example==1.0\n")
        assert install("cpu")[2] == ["cpu"]

    def test_a_failed_installation_is_told_and_taken_up_again(self, install):
        code, said, _ = install("cpu", pip_exit=1)
        assert (code, "package index" in said) == (1, True)
        assert install("cpu")[2] == ["cpu"]

    def test_a_python_without_venv_is_told(self, install):
        code, said, _ = install("cpu", venv_exit=1)
        assert (code, "python3-venv" in said) == (1, True)

    def test_a_python_that_is_not_there_is_told(self, install):
        code, said, _ = install("cpu", name="python9")
        assert (code, "python9 was not found" in said) == (1, True)
