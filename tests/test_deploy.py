import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from compose_spec import PyCompose

from service import __version__
from service.gallery.folder import SECRET_BYTES
from service.settings import CHECKOUT, Settings
from tests.cli.running import serving

DEPLOY = CHECKOUT / "deploy"
KNOWN = {f"VULTUS_{name.upper()}" for name in Settings.model_fields}
SCRIPTS = sorted(path.name for path in DEPLOY.glob("*.sh"))


def normal(name: str) -> str:
    """The name of a distribution as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins() -> dict[str, str]:
    lines = (DEPLOY / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def substituted(text: str) -> str:
    """The compose file with the variables that it takes from the shell set to their defaults."""
    return re.sub(r"\$\{(\w+):-([^}]*)\}", r"\2", text)


@pytest.fixture(scope="module")
def compose():
    return yaml.safe_load(substituted((CHECKOUT / "docker-compose.yml").read_text()))


@pytest.fixture(scope="module")
def services(compose):
    return compose["services"]


@pytest.fixture(scope="module")
def dockerfile():
    return (DEPLOY / "Dockerfile").read_text()


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_is_sound_posix_shell(script):
    done = subprocess.run(["sh", "-n", DEPLOY / script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "file",
    [
        "docker-compose.yml",
        "deploy/Dockerfile",
        "deploy/Caddyfile",
        "deploy/milvus-cluster.yaml",
        *(f"deploy/{name}" for name in SCRIPTS),
    ],
)
def test_every_setting_that_a_file_names_exists(file):
    named = set(re.findall(r"VULTUS_[A-Z_]+", (CHECKOUT / file).read_text()))
    assert named <= KNOWN


class TestCompose:
    def test_it_keeps_to_the_compose_specification(self, compose):
        parsed = PyCompose.from_yaml(yaml.safe_dump(compose))
        assert {"vultus", "proxy", "postgres", "redis"} <= set(parsed.service_names())

    @pytest.mark.parametrize("wrong", ["healthchek: {}", "read_only: [1]", "depends_on: 3", "volumes: [{}]"])
    def test_the_check_of_the_specification_finds_what_is_wrong(self, wrong):
        with pytest.raises(ValueError, match="services"):
            PyCompose.from_yaml(f"services:\n  vultus:\n    image: vultus\n    {wrong}\n")

    def test_only_the_proxy_is_published_and_on_this_machine_only(self, services):
        published = {name: service["ports"] for name, service in services.items() if "ports" in service}
        assert published == {"proxy": ["127.0.0.1:8000:8080"]}

    def test_only_the_proxy_reaches_the_world(self, compose, services):
        assert compose["networks"]["inside"]["internal"] is True
        assert [name for name, service in services.items() if "outside" in service.get("networks", ())] == ["proxy"]
        assert services["train"]["network_mode"] == "none"

    def test_nobody_is_served_without_a_key_unless_told_to(self, services):
        assert "VULTUS_OPEN: ${VULTUS_OPEN:-0}" in (CHECKOUT / "docker-compose.yml").read_text()
        assert services["vultus"]["environment"]["VULTUS_OPEN"] == 0

    def test_every_service_is_fenced_in(self, services):
        for name, service in services.items():
            assert service["cap_drop"] == ["ALL"], name
            assert service["security_opt"] == ["no-new-privileges:true"], name
            assert service["read_only"] is (name != "milvus"), name

    def test_there_are_several_replicas_over_one_catalog_each_with_a_folder_of_its_own(self, services):
        assert services["vultus"]["deploy"]["replicas"] > 1
        assert services["vultus"]["secrets"] == ["shared_secret", "vultus_catalog", "vultus_redis"]
        assert services["vultus"]["volumes"][0] == "/data"

    def test_every_replica_imports_from_the_same_folder_and_cannot_write_to_it(self, services):
        for name in ("vultus", "vultus-gpu"):
            assert services[name]["environment"]["VULTUS_IMPORT_ROOT"] == "/imports"
            assert services[name]["volumes"][1:] == ["./imports:/imports:ro"]
        assert "- ${IMPORTS:-./imports}:/imports:ro" in (CHECKOUT / "docker-compose.yml").read_text()

    def test_profiles(self, services):
        found = {name: service["profiles"] for name, service in services.items() if "profiles" in service}
        assert found == {"vultus-gpu": ["gpu"], "milvus": ["milvus"], "train": ["train"]}

    def test_it_builds_targets_that_the_dockerfile_has(self, services, dockerfile):
        built = {service["image"]: service["build"] for service in services.values() if "build" in service}
        assert built.keys() == {"vultus:cpu", "vultus:gpu", "vultus:train"}
        for image, build in built.items():
            assert CHECKOUT / build["dockerfile"] == DEPLOY / "Dockerfile"
            assert image == f"vultus:{build['target']}"
            assert re.search(rf"^FROM .* AS {build['target']}$", dockerfile, re.MULTILINE)

    def test_every_image_of_others_has_a_version(self, services):
        foreign = {service["image"] for service in services.values() if "build" not in service}
        assert [image for image in foreign if not re.search(r":v?\d", image)] == []

    def test_the_proxy_can_leave_out_a_replica_that_it_looked_up(self, services):
        """Caddy forgot about those at once before 2.11."""
        assert "fail_duration 5s" in (DEPLOY / "Caddyfile").read_text()
        version = re.fullmatch(r"caddy:(\d+)\.(\d+)-alpine", services["proxy"]["image"]).groups()
        assert tuple(map(int, version)) >= (2, 11)

    def test_no_password_stands_in_it(self):
        text = (CHECKOUT / "docker-compose.yml").read_text()
        assert not re.search(r"(?i)password: |:[^/@\s]+@|requirepass", text)


class TestSecrets:
    @pytest.fixture
    def made(self, tmp_path):
        (tmp_path / "deploy").mkdir()
        script = tmp_path / "deploy" / "secrets.sh"
        script.write_text((DEPLOY / "secrets.sh").read_text())

        def run():
            subprocess.run(["sh", script], check=True, capture_output=True)
            return {file.name: file.read_text() for file in (tmp_path / "deploy" / "secrets").iterdir()}

        return run

    def test_every_file_that_compose_names_is_made(self, made, compose):
        assert {Path(each["file"]).name for each in compose["secrets"].values()} <= made().keys()

    def test_a_second_run_keeps_them(self, made):
        assert made() == made()

    def test_they_fit_together(self, made):
        files = made()
        assert files["vultus_catalog"] == f"postgresql://vultus:{files['postgres_password']}@postgres/vultus"
        assert files["vultus_redis"] == f"redis://:{files['redis_password']}@redis/0"
        assert f"requirepass {files['redis_password']}\n" in files["redis_conf"]
        assert len(files["shared_secret"]) >= SECRET_BYTES
        assert re.match(Settings.model_fields["catalog"].metadata[0].pattern, files["vultus_catalog"])

    def test_only_their_owner_gets_at_them(self, made, tmp_path):
        made()
        assert (tmp_path / "deploy" / "secrets").stat().st_mode & 0o777 == 0o700

    def test_those_that_containers_take_for_settings_are_settings(self, compose):
        assert {name.upper() for name in compose["secrets"] if name.startswith("vultus_")} <= KNOWN

    def test_git_never_sees_them(self):
        assert "deploy/secrets/" in (CHECKOUT / ".gitignore").read_text().splitlines()


def test_every_command_of_the_guide_that_needs_no_engine_is_run_by_a_test():
    """By their blocks: replicas in tests/test_replicas.py, imports in tests/cli/test_index.py, backups beside it."""
    guide = (DEPLOY / "README.md").read_text()
    blocks = re.findall(r"^```sh\n(.*?)^```$", guide, re.DOTALL | re.MULTILINE)
    run = "shared-secret|x-vultus-revision|vultus index|vultus backup"
    assert [block for block in blocks if not re.search(run, block)] == []


def test_links_of_the_guide_lead_somewhere():
    links = re.findall(r"\]\((?!http)([^)]+)\)", (DEPLOY / "README.md").read_text())
    assert links
    assert [link for link in links if not (DEPLOY / link).exists()] == []


def test_the_guide_names_every_file_of_its_folder():
    guide = (DEPLOY / "README.md").read_text()
    tracked = subprocess.run(["git", "ls-files", DEPLOY], capture_output=True, text=True, check=True).stdout.split()
    assert [file for file in tracked if Path(file).name not in guide] == []


def test_the_data_folder_of_the_image_is_a_volume(dockerfile):
    assert "VULTUS_DATA=/data" in dockerfile
    assert "VOLUME /data" in dockerfile


def test_the_health_check_of_the_image_passes_where_a_service_runs_and_fails_where_none_does(dockerfile, tmp_path):
    """Run as the image would, but for the address; `python` there is the one that the service is installed in."""
    (words,) = re.findall(r"^HEALTHCHECK (?:.*\\\n)?\s*CMD (\[.*\])$", dockerfile, re.MULTILINE)
    program, *arguments = json.loads(words)
    assert program == "python"
    with serving(tmp_path / "data") as service:
        inside = service.url.removeprefix("http://")
        assert "http://127.0.0.1:8000/" in arguments[-1]
        command = [sys.executable, *(word.replace("127.0.0.1:8000", inside) for word in arguments)]
        healthy = subprocess.run(command, capture_output=True, text=True, check=False)
        service.stop()
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (healthy.returncode, healthy.stderr) == (0, "")
    assert ended.returncode != 0


def test_the_image_carries_the_version_of_the_package(dockerfile):
    assert f"ARG VERSION={__version__}\n" in dockerfile


def test_the_image_does_not_run_as_root(dockerfile):
    assert re.findall(r"^USER (\w+)$", dockerfile, re.MULTILINE)[-1] != "root"


def test_what_the_image_copies_is_sent_to_the_build(dockerfile):
    sent = {line.removeprefix("!") for line in (CHECKOUT / ".dockerignore").read_text().splitlines() if line[0] == "!"}
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile, re.MULTILINE)
    assert {path for line in copied for path in line.split()} == sent


def test_every_distribution_that_the_project_names_is_pinned():
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(each for extra in project["optional-dependencies"].values() for each in extra),
    ]
    pinned = {normal(name) for name in pins()}
    assert {normal(re.split(r"[\s\[<>=!~;]", each)[0]) for each in wanted} - pinned == set()


@pytest.mark.parametrize("file", ["constraints.txt", "constraints-gpu.txt"])
def test_every_line_of_the_constraints_is_a_version_and_nothing_else(file):
    lines = (DEPLOY / file).read_text().splitlines()
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


def test_the_milvus_cluster_is_the_milvus_of_the_compose_file_and_asks_who_comes(services):
    cluster = yaml.safe_load((DEPLOY / "milvus-cluster.yaml").read_text())
    assert (cluster["kind"], cluster["spec"]["mode"]) == ("Milvus", "cluster")
    assert cluster["spec"]["components"]["image"] == services["milvus"]["image"]
    assert cluster["spec"]["config"]["common"]["security"]["authorizationEnabled"] is True
