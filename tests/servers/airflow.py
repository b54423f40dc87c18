"""A real Airflow for tests: API server, scheduler with its LocalExecutor, DAG processor and triggerer over SQLite, on 127.0.0.1.

    with running_airflow(directory, dags=folder, environment={"PENSTOCK_CONFIG": ...}) as airflow:
        airflow.trigger("penstock_retail_rollback", {"reason": "..."})
    python -m servers.airflow DIRECTORY DAGS      # the same from a shell (in tests/), until it is interrupted

The programs are those beside this Python. Each runs in a process group of its own, which is ended at the end.
"""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

USER = "operator"
COMPONENTS = ("api-server", "scheduler", "dag-processor", "triggerer")
START_S = 120.0
LOOK_S = 0.25
PATIENCE = 6
"""So many times as long as a machine needs that has nothing else to do: a busy one is slow, not wrong."""
ENDED = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})
T = TypeVar("T")


class AirflowUnavailable(Exception):
    """What is missing, in one line."""


class Airflow:
    """Its components, and what a person does in its pages, by the REST API."""

    def __init__(self, home: Path, *, dags: Path, environment: Mapping[str, str]) -> None:
        if importlib.util.find_spec("airflow") is None:
            raise AirflowUnavailable("no Airflow: pip install 'penstock[airflow]'")
        self.home = home
        home.mkdir(parents=True, exist_ok=True)
        self._port, *ports = _free_ports(3)
        self._password = secrets.token_hex(8)
        passwords = home / "passwords.json"
        passwords.write_text(json.dumps({USER: self._password}))
        self.url = f"http://127.0.0.1:{self._port}"
        # Requests to 127.0.0.1 must not go to a proxy, and what Airflow starts is looked up on the path.
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self._environment = os.environ | _settings(home, dags, self.url, self._port, ports, passwords)
        self._environment |= {"PATH": path, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"} | dict(environment)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._token = ""

    def start(self) -> None:
        """Returns once it answers, and every component is healthy."""
        self._run("db", "migrate")
        for name in COMPONENTS:
            with (self.home / f"{name}.log").open("wb") as log:
                self._processes[name] = subprocess.Popen(
                    [*_AIRFLOW, name],
                    env=self._environment, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
                )  # fmt: skip
        deadline = time.monotonic() + PATIENCE * START_S
        while not self._is_healthy():
            ended = [name for name, process in self._processes.items() if process.poll() is not None]
            if ended or time.monotonic() > deadline:
                name = ended[0] if ended else "api-server"
                raise AirflowUnavailable(f"{name} did not come up: {(self.home / f'{name}.log').read_text()[-2000:]}")
            time.sleep(LOOK_S)

    def stop(self) -> None:
        for process in self._processes.values():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        # Executor and processor give their children sessions of their own.
        for pid in _marked(str(self.home)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    # ---- what a person does ----------------------------------------------------------------------------------------------

    def dags(self) -> list[str]:
        return [found["dag_id"] for found in self.get("/dags?limit=500")["dags"]]

    def import_errors(self) -> list[dict[str, Any]]:
        return self.get("/importErrors")["import_errors"]

    def unpause(self, dag: str) -> None:
        self.request("PATCH", f"/dags/{dag}", {"is_paused": False})

    def pause(self, dag: str) -> None:
        self.request("PATCH", f"/dags/{dag}", {"is_paused": True})

    def trigger(self, dag: str, params: Mapping[str, object] | None = None) -> str:
        """The id of the run."""
        found = self.request("POST", f"/dags/{dag}/dagRuns", {"conf": dict(params or {}), "logical_date": None})
        return str(found["dag_run_id"])

    def runs(self, dag: str) -> list[dict[str, Any]]:
        """Oldest first."""
        return self.get(f"/dags/{dag}/dagRuns?order_by=run_after&limit=100")["dag_runs"]

    def run(self, dag: str, run: str) -> dict[str, Any]:
        return self.get(f"/dags/{dag}/dagRuns/{_quoted(run)}")

    def tasks(self, dag: str, run: str) -> list[dict[str, Any]]:
        return self.get(f"/dags/{dag}/dagRuns/{_quoted(run)}/taskInstances?limit=500")["task_instances"]

    def task(self, dag: str, run: str, task: str) -> dict[str, Any]:
        return next(found for found in self.tasks(dag, run) if found["task_id"] == task)

    def result(self, dag: str, run: str, task: str) -> Any:
        return self.get(f"/dags/{dag}/dagRuns/{_quoted(run)}/taskInstances/{task}/xcomEntries/return_value?deserialize=true")[
            "value"
        ]

    def clear(self, dag: str, run: str) -> None:
        self.request("POST", f"/dags/{dag}/clearTaskInstances", {"dag_run_id": run, "dry_run": False, "only_failed": False})

    def backfill(self, dag: str, start: str, end: str) -> None:
        """The intervals that begin between two times, one after the other."""
        self.request("POST", "/backfills", {"dag_id": dag, "from_date": start, "to_date": end, "max_active_runs": 1})

    def questions(self, dag: str, run: str) -> list[dict[str, Any]]:
        """What people are asked, and have not answered yet. A question is there a moment before its task waits for the answer;
        SQLite has no row locks, so an answer in that moment may be lost, and the task waits on."""
        found = self.get(f"/dags/{dag}/dagRuns/{_quoted(run)}/hitlDetails")["hitl_details"]
        return [each for each in found if not each["response_received"] and each["task_instance"]["state"] == "awaiting_input"]

    def answer(self, dag: str, run: str, task: str, option: str) -> None:
        path = f"/dags/{dag}/dagRuns/{_quoted(run)}/taskInstances/{task}/-1/hitlDetails"
        self.request("PATCH", path, {"chosen_options": [option], "params_input": {}})

    def asset_event(self, uri: str, extra: Mapping[str, object]) -> None:
        """What a trainer posts when it has saved a checkpoint."""
        found = self.get(f"/assets?uri_pattern={_quoted(uri)}")["assets"]
        number = next(asset["id"] for asset in found if asset["uri"].rstrip("/") == uri)
        self.request("POST", "/assets/events", {"asset_id": number, "extra": dict(extra)})

    def finished(self, dag: str, run: str, *, within_s: float = 60.0) -> dict[str, Any]:
        """The run, once it has ended."""
        return until(lambda: (found := self.run(dag, run))["state"] in ENDED and found, within_s, lambda: self.told(dag, run))

    def told(self, dag: str, run: str) -> str:
        """The states of the tasks of a run, and the end of each log."""
        lines = []
        for found in self.tasks(dag, run):
            lines.append(f"{found['task_id']}[{found['map_index']}] {found['state']} try {found['try_number']}")
            logs = sorted(self.home.glob(f"logs/dag_id={dag}/run_id={run}/task_id={found['task_id']}/**/*.log"))
            lines += [log.read_text(errors="replace")[-3000:] for log in logs[-1:]]
        return "\n".join(lines)

    # ---- the API -------------------------------------------------------------------------------------------------------

    def get(self, path: str) -> Any:
        return self.request("GET", path)

    def request(self, method: str, path: str, body: object | None = None) -> Any:
        if not self._token:
            given = {"username": USER, "password": self._password}
            self._token = _answer(f"{self.url}/auth/token", "POST", given, "")["access_token"]
        deadline = time.monotonic() + PATIENCE * START_S
        while True:
            try:
                return _answer(f"{self.url}/api/v2{path}", method, body, self._token)
            except urllib.error.HTTPError as error:
                # SQLite has one writer at a time; who comes meanwhile is turned away, and nothing was done.
                if "database is locked" not in str(error.__notes__).lower() or time.monotonic() > deadline:
                    raise
            time.sleep(LOOK_S)

    def _is_healthy(self) -> bool:
        try:
            health = _answer(f"{self.url}/api/v2/monitor/health", "GET", None, "")
        except OSError:
            return False
        return all(health[name]["status"] == "healthy" for name in ("metadatabase", "scheduler", "triggerer", "dag_processor"))

    def _run(self, *command: str) -> None:
        ended = subprocess.run(
            [*_AIRFLOW, *command], env=self._environment, capture_output=True, text=True, timeout=PATIENCE * START_S, check=False
        )
        if ended.returncode:
            raise AirflowUnavailable(f"airflow {' '.join(command)}: {ended.stderr[-2000:]}")


_AIRFLOW = (sys.executable, "-m", "airflow")


@contextmanager
def running_airflow(home: Path, *, dags: Path, environment: Mapping[str, str]) -> Iterator[Airflow]:
    """With its database and logs in `home`; ended at the end, with all that it has started."""
    airflow = Airflow(home, dags=dags, environment=environment)
    try:
        airflow.start()
        yield airflow
    finally:
        airflow.stop()


def until(look: Callable[[], T], within_s: float, told: Callable[[], str]) -> T:
    """What `look` finds, once that is something; `told` says what there was instead."""
    deadline = time.monotonic() + PATIENCE * within_s
    while not (found := look()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {PATIENCE * within_s:.0f} s: {told()}")
        time.sleep(LOOK_S)
    return found


def _settings(home: Path, dags: Path, url: str, port: int, ports: list[int], passwords: Path) -> dict[str, str]:
    sections = {
        "core": {
            "dags_folder": dags, "load_examples": False, "executor": "LocalExecutor", "parallelism": 4,
            "execution_api_server_url": f"{url}/execution/", "simple_auth_manager_users": f"{USER}:admin",
            "simple_auth_manager_passwords_file": passwords,
        },
        "database": {"sql_alchemy_conn": f"sqlite:///{home / 'airflow.db'}"},
        "api": {"host": "127.0.0.1", "port": port, "base_url": url, "workers": 1, "secret_key": secrets.token_hex(16)},
        "api_auth": {"jwt_secret": secrets.token_hex(32)},
        "logging": {"namespace_levels": "kafka=WARNING", "worker_log_server_port": ports[0], "trigger_log_server_port": ports[1]},
        "scheduler": {"scheduler_idle_sleep_time": 0.2, "scheduler_heartbeat_sec": 1, "enable_health_check": False},
        "dag_processor": {"refresh_interval": 5, "min_file_process_interval": 60, "parsing_processes": 2},
        "usage_data_collection": {"enabled": False},
    }  # fmt: skip
    named = {(section, name): value for section, given in sections.items() for name, value in given.items()}
    found = {f"AIRFLOW__{section.upper()}__{name.upper()}": str(value) for (section, name), value in named.items()}
    return found | {"AIRFLOW_HOME": str(home)}


def _answer(url: str, method: str, body: object | None, token: str) -> Any:
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers, method=method)
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=PATIENCE * 30) as found:
            return json.loads(found.read() or b"null")
    except urllib.error.HTTPError as error:
        error.add_note(error.read().decode(errors="replace")[:1000])
        raise


def _quoted(text: str) -> str:
    return urllib.parse.quote(text, safe="")


def _marked(home: str) -> Iterator[int]:
    """The processes whose AIRFLOW_HOME is `home`."""
    wanted = f"AIRFLOW_HOME={home}".encode()
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if wanted in path.read_bytes().split(b"\0"):
                yield int(path.parent.name)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [held.getsockname()[1] for held in sockets]
    for held in sockets:
        held.close()
    return ports


def main() -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with running_airflow(Path(sys.argv[1]).absolute(), dags=Path(sys.argv[2]).absolute(), environment={}) as airflow:
        print(airflow.url, USER, airflow._password, flush=True)
        with suppress(KeyboardInterrupt):
            signal.pause()


if __name__ == "__main__":
    main()
