"""A PostgreSQL server for the tests: of Debian's packages, on a port of its own, as another user than root."""

import contextlib
import fcntl
import glob
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

ADMIN, PASSWORD = "admin", "a secret: 'of' #tests"
NOBODY = "nobody"  # the server refuses to run as root


def programs():
    """The folder of the server's programs, which one of pytest's processes installs where they aren't there."""
    with open(Path(tempfile.gettempdir(), "sparkify-postgres.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _installed()


def _installed():
    found, on_path = sorted(glob.glob("/usr/lib/postgresql/*/bin")), shutil.which("initdb")
    if not found and on_path:
        return Path(on_path).parent
    if not found:
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (["apt-get", "update", "-qq"], ["apt-get", "install", "-y", "-qq", "postgresql"]):
            subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
        found = sorted(glob.glob("/usr/lib/postgresql/*/bin"))
    return Path(found[-1])


class Server:
    """A server that runs; ADMIN may do everything on it, others are made by sql()."""

    def __init__(self, folder, port):
        self.folder, self.port = folder, port

    def url(self, database="postgres", user=ADMIN):
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    def psql(self, *statements, database="postgres", user=ADMIN, **environment):
        """The finished process of psql: rows without frames, the columns between '|'."""
        words = {**os.environ, "PGPASSWORD": PASSWORD, "PGTZ": "UTC", **environment}
        commands = [word for statement in statements for word in ("-c", statement)]
        return subprocess.run([*self.command(user, database), *commands], env=words, capture_output=True, text=True)

    def command(self, user, database):
        """psql's command line, without a password."""
        place = ["-h", "127.0.0.1", "-p", str(self.port), "-U", user, "-d", database]
        return ["psql", "-XAtq", "-v", "ON_ERROR_STOP=1", *place]

    def sql(self, *statements, **options):
        """The lines that psql prints."""
        process = self.psql(*statements, **options)
        assert process.returncode == 0, process.stderr
        return process.stdout.splitlines()


@contextlib.contextmanager
def running(*settings, tls=False):
    """A Server with some settings, 'name=value', besides; it and its folder are gone after the block."""
    folder = Path(tempfile.mkdtemp(prefix="sparkify-postgres-"))
    bin, data = programs(), folder / "data"
    options = {"cwd": folder, "stdout": subprocess.DEVNULL, "check": True}
    if os.getuid() == 0:
        owner = pwd.getpwnam(NOBODY)
        os.chown(folder, owner.pw_uid, owner.pw_gid)
        options.update(user=owner.pw_uid, group=owner.pw_gid, extra_groups=[])
    (folder / "password").write_text(PASSWORD)
    (folder / "password").chmod(0o644)
    locale = ["--locale=C.UTF-8", "--encoding=UTF8", "--no-sync"]
    access = ["--auth=scram-sha-256", f"--pwfile={folder}/password", f"--username={ADMIN}"]
    subprocess.run([bin / "initdb", "-D", data, *locale, *access], **options)
    if tls:
        names = ["-keyout", data / "server.key", "-out", data / "server.crt", "-subj", "/CN=localhost"]
        made = {**options, "stderr": subprocess.DEVNULL}
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "9", *names], **made)
        (data / "pg_hba.conf").write_text("hostssl all all all scram-sha-256\n")
        settings += ("ssl=on",)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = Server(folder, listener.getsockname()[1])
    own = [f"port={server.port}", f"unix_socket_directories={folder}", "listen_addresses=127.0.0.1", "fsync=off"]
    words = " ".join(f"-c {setting}" for setting in (*own, *settings))
    try:
        subprocess.run([bin / "pg_ctl", "-D", data, "-w", "-l", folder / "log", "-o", words, "start"], **options)
        yield server
    finally:
        with contextlib.suppress(subprocess.CalledProcessError):
            subprocess.run([bin / "pg_ctl", "-D", data, "-m", "immediate", "stop"], **options)
        shutil.rmtree(folder)
