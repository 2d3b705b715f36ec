"""Call the command line in this process, and see what it prints."""

from bn_keras.cli import command_line


def run(capsys, *arguments):
    """Exit status, standard output and standard error of one command."""
    try:
        status = command_line.main([str(argument) for argument in arguments])
    except SystemExit as stop:
        status = stop.code
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def fails(capsys, *arguments):
    """The one line of a command that must end with status 2."""
    status, _, error = run(capsys, *arguments)
    assert status == 2
    assert error.startswith("bn-keras")
    assert error.count("\n") == 1
    return error
