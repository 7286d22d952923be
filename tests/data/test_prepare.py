"""The command: one line on stderr and status 1 for what is wrong, help for every word."""

import pytest

from data import prepare


def test_an_error_is_one_line(tmp_path, capsys):
    """With the command's name before it, and no traceback."""
    assert prepare.main(["verify", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("data.prepare verify: ") and error.count("\n") == 1


@pytest.mark.parametrize("name", prepare.COMMANDS)
def test_every_command_has_help(name, capsys):
    """The first line of its module says what it does."""
    with pytest.raises(SystemExit) as status:
        prepare.main([name, "--help"])
    assert status.value.code == 0
    assert prepare.COMMANDS[name].__doc__.splitlines()[0] in " ".join(
        capsys.readouterr().out.split()
    )


def test_the_old_spelling_of_an_option_names_the_new_one(tmp_path, capsys):
    """--recipe was --corpus's name before a recipe was a model."""
    with pytest.raises(SystemExit) as status:
        prepare.main(["build", "x", "--recipe", "c4", "--out", str(tmp_path)])
    assert status.value.code == 2
    assert "--recipe is called --corpus now: --corpus c4" in capsys.readouterr().err
