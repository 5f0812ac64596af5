"""A query whose Java finds a damaged archive of its classes."""

from tables import environment, run_etl


def test_a_damaged_archive_of_classes_is_removed_and_the_query_answered(sample_output, tmp_path):
    sql = "SELECT count(*) AS n FROM songplays"

    def ask():
        settings = environment(XDG_CACHE_HOME=str(tmp_path / "my cache"))
        answer = run_etl("--output", sample_output / "output", "--query", sql, cwd=tmp_path, env=settings)
        said = [line for line in answer.stderr.splitlines() if not line.startswith("saving Java's classes")]
        assert (answer.returncode, said, answer.stdout.split()) == (0, [], ["n", "6800"])
        return list((tmp_path / "my cache/sparkify-etl").iterdir())

    [archive] = ask()
    assert archive.suffix == ".jsa"
    assert ask() == [archive]
    whole = archive.read_bytes()
    quarter = len(whole) // 4
    for damaged in (whole[:-1_000_000], whole[:quarter] + bytes(quarter) + whole[2 * quarter :]):
        archive.unlink(missing_ok=True)
        archive.write_bytes(damaged)
        assert ask() == []
    assert ask() == [archive]
    assert [path.name for path in tmp_path.iterdir()] == ["my cache"]
