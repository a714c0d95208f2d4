import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from service.cli.terminal import Words, print_table
from service.errors import StorageFullError
from service.settings import CHECKOUT


def ended_with(error: BaseException):
    """How a command ends that raises this."""
    app = typer.Typer(cls=Words, pretty_exceptions_enable=False)

    @app.command()
    def fail():
        raise error

    @app.command()
    def other():
        pass

    return CliRunner().invoke(app, ["fail"])


def test_an_error_is_one_line_with_its_code():
    done = ended_with(StorageFullError("no space\nis left"))
    assert (done.exit_code, done.stdout, done.stderr) == (1, "", "error [storage_full]: no space is left\n")


def test_an_error_of_the_system_names_the_file():
    done = ended_with(PermissionError(13, "Permission denied", "/somewhere"))
    assert (done.exit_code, done.stderr) == (1, "error [storage_unavailable]: /somewhere: Permission denied\n")


def test_ctrl_c_ends_without_a_word():
    done = ended_with(KeyboardInterrupt())
    assert (done.exit_code, done.output) == (130, "")


def test_a_defect_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        raise ended_with(ZeroDivisionError()).exception


def test_a_table_shows_brackets_as_they_are(capsys):
    print_table(("name", "count"), [("[bold]", 1), (None, 2)], empty="nothing")
    assert "[bold]" in capsys.readouterr().out


def test_a_table_without_rows_says_so(capsys):
    print_table(("name",), [], empty="nothing")
    assert capsys.readouterr().out == "nothing\n"


def test_the_command_line_starts_without_heavy_libraries():
    heavy = ["fastapi", "faiss", "httpx", "numpy", "onnx", "onnxruntime", "openvino", "pydantic", "sqlalchemy"]
    code = f"import sys, service.cli; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
