"""How arguments are parsed: the single line of every error, and its suggestions."""

import shutil
import subprocess
from pathlib import Path

import pytest
from command_line_calls import COMMAND, error_line, run

from bn_keras import __version__, data
from bn_keras.cli import command_line
from bn_keras.cli.command_line import COMMANDS
from bn_keras.training.recipes import RECIPES

TRAIN = ["train", "mlp", "--data", "digits", "--workdir", "w"]
PREDICT = ["predict", "--address", "127.0.0.1:1", "--model-name", "m", "x.npy"]


@pytest.mark.fast
def test_every_command_has_help_with_an_example(capsys):
    _, out, _ = run(capsys, "--help")
    for name in COMMANDS:
        assert f"\n    {name}" in out
        status, help_text, error = run(capsys, name, "--help")
        assert (status, error) == (0, "")
        assert help_text.startswith(f"usage: bn-keras {name} ")
        assert f"bn-keras {name}" in help_text.partition("example:\n  ")[2]


@pytest.mark.fast
def test_the_version_is_printed(capsys):
    assert run(capsys, "--version") == (0, f"bn-keras {__version__}\n", "")


@pytest.mark.fast
def test_help_lists_all_recipes_and_data_sets(capsys, monkeypatch):
    # Lines are broken behind hyphens.
    monkeypatch.setitem(RECIPES, "another", None)
    monkeypatch.setitem(data.DATA_SETS, "new-data", None)
    _, out, _ = run(capsys, "train", "--help")
    assert "another" in out
    assert ", new-data" in out


@pytest.mark.fast
def test_help_of_predict_describes_the_ink_of_the_digits(capsys):
    _, out, _ = run(capsys, "predict", "--help")
    assert "light ink on black" in " ".join(out.split())
    for split in data.digits().train, data.digits().test:
        assert split.images[:, :, 0].mean() < 0.1  # the margin is black, 0


@pytest.mark.fast
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "arguments are required: COMMAND; see bn-keras --help"),
        (["bake"], "invalid choice: 'bake' (choose from demo, "),
        (["train", "vgg", *TRAIN[2:]], "invalid choice: 'vgg'"),
        (["train", "mlp", "--data", "cats", "--workdir", "w"], "choice: 'cats'"),
        (["evaluate", "m.keras", "--data", "digits", "--crops", "5"], "choice: 5"),
        (["export", "m.keras", "d", "--version", "0"], "expected 1 or more"),
        (["export", "m.keras", ""], "expected a name, received an empty one"),
        ([*TRAIN, "--epochs", "x"], "expected 1 or more, received x"),
        ([*TRAIN, "--seed", "-1"], "expected 0 to 4294967295, received -1"),
        ([*TRAIN, "--learning-rate", "0"], "a number above 0, received 0"),
        (["serve", "d", "--port", "70000"], "expected 0 to 65535"),
        *(
            ([*PREDICT[:2], address, *PREDICT[3:]], "expected HOST:PORT")
            for address in ("x", "x:", ":8500", "x:0", "x:65536", "::1:8500", "a b:1")
        ),
        *(
            ([*PREDICT, "--timeout", seconds], "seconds above 0, received")
            for seconds in ("0", "-1", "nan", "inf", "soon")
        ),
        (["recipes", "mlp"], "unrecognized arguments: mlp; see bn-keras recipes -"),
        (["demo", "-x"], "unrecognized arguments: -x; see bn-keras demo --help"),
        (["train", "--two\nlines"], "unrecognized option --two lines"),
    ],
)
def test_a_wrong_argument_is_one_line(capsys, arguments, message):
    line = error_line(capsys, *arguments)
    assert message in line
    assert line.endswith(" --help\n")


@pytest.mark.fast
@pytest.mark.parametrize(
    ("arguments", "option_or_command", "command"),
    [
        (["trian", "mlp"], "train", "bn-keras"),
        (["predcit"], "predict", "bn-keras"),
        (["--verison"], "--version", "bn-keras"),
        (["train", "bn-xl5"], "bn-x5", "bn-keras train"),
        (["train", "mlp", "--data", "mnits"], "mnist", "bn-keras train"),
        ([*TRAIN, "--epoch=3"], "--epochs", "bn-keras train"),
        (["serve", "m", "--rest_api_prot", "1"], "--rest_api_port", "bn-keras serve"),
        (["data", "covnert"], "convert", "bn-keras data"),
        (["data", "convert", "--ouy", "d"], "--out", "bn-keras data convert"),
        (["reproduce", "minst"], "mnist", "bn-keras reproduce"),
        (["completion", "bahs"], "bash", "bn-keras completion"),
    ],
)
def test_a_typo_gets_a_suggestion_and_the_right_help(
    capsys, arguments, option_or_command, command
):
    line = error_line(capsys, *arguments)
    assert line.startswith(f"{command}: error: ")
    assert f", did you mean {option_or_command}?" in line
    assert line.endswith(f"; see {command} --help\n")


@pytest.mark.fast
def test_nothing_similar_gets_no_suggestion(capsys):
    assert "did you mean" not in error_line(capsys, "bake")
    assert "did you mean" not in error_line(capsys, *TRAIN, "--zzz")


@pytest.mark.fast
@pytest.mark.parametrize(
    "arguments",
    [
        ["--vers"],
        ["train", "mlp", "--data", "digits", "--workd", "w"],
        ["data", "convert", "--data", "digits", "--ou", "d"],
        ["serve", "--model_base", "m"],
    ],
)
def test_an_abbreviated_option_is_an_error(capsys, arguments):
    assert "unrecognized option --" in error_line(capsys, *arguments)


@pytest.mark.fast
def test_an_unknown_option_is_reported_before_a_missing_one(capsys):
    line = error_line(capsys, "train", "mlp", "--date", "digits", "--workdir", "w")
    assert "unrecognized option --date, did you mean --data?" in line


@pytest.mark.fast
def test_arguments_after_two_hyphens_are_files():
    options = command_line.parse(["evaluate", "--data", "digits", "--", "--odd.keras"])
    assert options.models == [Path("--odd.keras")]


@pytest.mark.fast
def test_recipes_are_listed_one_a_line(capsys):
    status, out, error = run(capsys, "recipes")
    assert (status, error) == (0, "")
    header, *lines = out.splitlines()
    for column in ("recipe", "network", "learning rate", "batch size", "epochs"):
        assert column in header
    assert [line.split()[0] for line in lines] == list(RECIPES)
    for line, recipe in zip(lines, RECIPES.values(), strict=True):
        rate, batch_size, epochs = line.split()[-3:]
        assert float(rate) == pytest.approx(recipe.learning_rate)
        assert (int(batch_size), int(epochs)) == (recipe.batch_size, recipe.epochs)
        assert ("with BN" in line) == recipe.batch_normalization


@pytest.fixture(scope="module")
def bash_script():
    done = subprocess.run(
        [COMMAND, "completion", "bash"], capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.mark.parametrize(
    ("words", "completions"),
    [
        ("tr", "train"),
        ("train bn-x", "bn-x5 bn-x30 bn-x5-sigmoid"),
        ("train mlp --data m", "mnist"),
        (
            "serve --model_c",
            "--model_config_file --model_config_file_poll_wait_seconds",
        ),
        ("data convert --sh", "--shards"),
        ("export mod", "model.keras"),
        ("train mlp --workdir mod", "model.keras"),
    ],
)
def test_bash_completes_commands_options_and_files(
    bash_script, tmp_path, words, completions
):
    (tmp_path / "model.keras").touch()
    code = (
        f"{bash_script}\nCOMP_WORDS=(bn-keras {words})\n"
        'COMP_CWORD=$((${#COMP_WORDS[@]} - 1))\n_shtab_bn_keras; echo "${COMPREPLY[*]}"'
    )
    done = subprocess.run(
        ["bash", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert (done.stdout.strip(), done.stderr) == (completions, "")


@pytest.mark.parametrize("shell", ["zsh", "tcsh"])
def test_the_scripts_for_other_shells_name_every_command(capsys, tmp_path, shell):
    status, out, _ = run(capsys, "completion", shell)
    assert status == 0
    assert all(name in out for name in COMMANDS)
    if shutil.which(shell):  # parse the script
        (tmp_path / "script").write_text(out)
        subprocess.run([shell, "-n", tmp_path / "script"], check=True)
