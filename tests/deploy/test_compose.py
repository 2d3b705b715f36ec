"""The files for Docker Compose, checked without a daemon."""

import functools
import http.server
import importlib.metadata
import re
import subprocess
import threading

import compose_spec
import pytest
import yaml
from deploy_checks import (
    COMPOSE,
    IMAGE,
    METRICS_PATH,
    exporter_files,
    interpolate,
    parse_flags,
)

pytestmark = pytest.mark.fast

TEXT = (COMPOSE / "compose.yaml").read_text()
VARIABLES = {"MODELS": "/home/me/models", "MODEL_NAME": "photos"}
SERVICES = yaml.safe_load(interpolate(TEXT, VARIABLES))["services"]
SCRAPING = (COMPOSE / "prometheus.yaml").read_text()


def mounts(service):
    """Return target to source of a service's bind mounts, all of them read-only."""
    sources = {}
    for volume in SERVICES[service]["volumes"]:
        if isinstance(volume, dict):
            assert volume["type"] == "bind"
            assert volume["read_only"] is True
            # By default Docker creates an empty folder for a mistyped one.
            assert volume["bind"] == {"create_host_path": False}
            sources[volume["target"]] = volume["source"]
    return sources


@pytest.mark.parametrize(
    "optional",
    [
        {},
        {"MODEL_CONFIG_FILE": "/models/models.config", "SERVING_USER": "0:0"},
        {"CORES": "8", "GRPC_PORT": "9500", "SSL_CONFIG_FILE": "/models/ssl.config"},
    ],
)
def test_the_file_follows_the_specification(optional):
    # Docker's name for the address of the host; the validator accepts addresses only.
    text = interpolate(TEXT, VARIABLES | optional).replace("host-gateway", "127.0.0.1")
    compose_spec.PyCompose.from_yaml(text).validate()
    assert "extra_hosts" in text


@pytest.mark.parametrize("missing", VARIABLES)
def test_the_variables_of_the_model_are_required(missing):
    variables = VARIABLES | {missing: ""}
    with pytest.raises(KeyError, match=f"{missing}: .* of"):
        interpolate(TEXT, variables)


def test_the_server_reads_what_the_exporter_writes(tmp_path):
    flags = parse_flags(SERVICES["serving"]["command"])
    (folder,) = mounts("serving")
    assert flags["model_name"] == "photos"
    assert flags["model_base_path"] == f"{folder}/photos"
    written = exporter_files(tmp_path, name="photos", base_path=f"{folder}/photos")
    assert f'base_path: "{flags["model_base_path"]}"' in written["models.config"]
    for flag in ("batching_parameters_file", "monitoring_config_file"):
        parent, _, name = flags[flag].rpartition("/")
        assert parent == flags["model_base_path"]
        assert name in written
    # main.cc: `model_name` and `model_base_path` are ignored with a configuration.
    assert flags["model_config_file"] == flags["ssl_config_file"] == ""
    assert "${" not in str(SERVICES)


def test_ports_are_those_of_the_servers_and_open_on_this_machine_only():
    ports = {name: service["ports"] for name, service in SERVICES.items()}
    assert ports == {
        "serving": ["127.0.0.1:8500:8500", "127.0.0.1:8501:8501"],
        "prometheus": ["127.0.0.1:9090:9090"],
        "grafana": ["127.0.0.1:3000:3000"],
    }


def test_no_container_has_privileges_that_it_does_not_need():
    for name, service in SERVICES.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["mem_limit"], name
        assert service["cpus"], name
        assert not {"privileged", "cap_add", "network_mode", "pid"} & set(service), name
    assert SERVICES["serving"]["user"] == "1000:1000"
    assert SERVICES["serving"]["init"] is True


def test_images_are_pinned_and_the_server_has_the_version_of_tensorflow_here():
    for service in SERVICES.values():
        assert re.fullmatch(
            r"[\w./-]+:v?\d+\.\d+\.\d+(@sha256:\w{64})?", service["image"]
        )
    assert SERVICES["serving"]["image"] == IMAGE
    installed = importlib.metadata.version("tensorflow").split(".")[:2]
    assert IMAGE.partition(":")[2].split(".")[:2] == installed


def test_the_files_that_are_mounted_exist():
    sources = mounts("prometheus") | mounts("grafana")
    assert len(sources) == 3
    for source in sources.values():
        assert (COMPOSE / source).exists(), source


def test_prometheus_scrapes_the_path_that_the_exporter_writes():
    config = yaml.safe_load(SCRAPING)
    (job,) = config["scrape_configs"]
    (targets,) = job["static_configs"]
    (target,) = targets["targets"]
    service, _, port = target.partition(":")
    assert port == parse_flags(SERVICES[service]["command"])["rest_api_port"]
    assert job["metrics_path"] == METRICS_PATH
    (mounted,) = mounts("prometheus")
    assert f"--config.file={mounted}" in SERVICES["prometheus"]["command"]


def test_the_job_in_the_comment_scrapes_the_embedded_server():
    head, _, comment = SCRAPING.partition("uncomment:\n")
    text = head + "uncomment:\n" + re.sub(r"^  # ?", "  ", comment, flags=re.MULTILINE)
    jobs = yaml.safe_load(text)["scrape_configs"]
    assert [job["job_name"] for job in jobs] == ["tensorflow-serving", "bn-keras"]
    assert jobs[1]["metrics_path"] == METRICS_PATH
    (targets,) = jobs[1]["static_configs"]
    host = targets["targets"][0].partition(":")[0]
    assert SERVICES["prometheus"]["extra_hosts"] == [f"{host}:host-gateway"]


# Source: g3doc/api_rest.md, "Model status API".
STATUS = """{{
 "model_version_status": [
  {{
   "version": "1",
   "state": "{state}",
   "status": {{
    "error_code": "{code}",
    "error_message": ""
   }}
  }}
 ]
}}
"""


class Status(http.server.BaseHTTPRequestHandler):
    def __init__(self, state, *arguments):
        self.state = state
        super().__init__(*arguments)

    def do_GET(self):
        exists = self.path == "/v1/models/photos"
        text = STATUS.format(state=self.state, code="UNAVAILABLE")
        self.send_response(200 if exists else 404)
        self.end_headers()
        self.wfile.write(text.encode() if exists else b'{"error": "no AVAILABLE"}')

    def log_message(self, *arguments):
        pass


@pytest.mark.parametrize(
    ("state", "name", "healthy"),
    [
        ("AVAILABLE", "photos", True),
        ("LOADING", "photos", False),
        ("AVAILABLE", "other", False),
        (None, "photos", False),
    ],
)
def test_the_health_check_succeeds_only_for_a_loaded_model(state, name, healthy):
    service = yaml.safe_load(interpolate(TEXT, VARIABLES | {"MODEL_NAME": name}))
    kind, *command = service["services"]["serving"]["healthcheck"]["test"]
    assert kind == "CMD"
    handler = functools.partial(Status, state)
    with http.server.HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        if state:
            thread.start()
        else:
            server.socket.close()
        try:
            assert "/127.0.0.1/8501 " in command[-1]
            command[-1] = command[-1].replace("8501", str(server.server_port))
            ended = subprocess.run(command, capture_output=True, timeout=10)
        finally:
            if state:
                server.shutdown()
                thread.join()
    assert (ended.returncode == 0) == healthy, ended.stderr
