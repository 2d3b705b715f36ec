"""The configuration of Envoy: what it lets through, and that it agrees with the server.

Its fields have been checked against Envoy's own messages: the package xds-protos has
them, but also a module `google` that replaces that of other packages. In an environment
of its own, `json_format.ParseDict(yaml.safe_load(text), bootstrap_pb2.Bootstrap())`
does it.
"""

import re

import pytest
import yaml
from deploy_checks import DEPLOY, METRICS_PATH
from grpc_health.v1 import health_pb2
from tensorflow_serving.apis import model_service_pb2, prediction_service_pb2

from bn_keras_serving.common.limits import Limits
from bn_keras_serving.configuration.settings import Access
from bn_keras_serving.rest.connections import IDLE_SECONDS

pytestmark = pytest.mark.fast

TEXT = (DEPLOY / "envoy" / "envoy.yaml").read_text()
README = (DEPLOY / "README.md").read_text()
CONFIG = yaml.safe_load(TEXT)["static_resources"]
(LISTENER,) = CONFIG["listeners"]
(CHAIN,) = LISTENER["filter_chains"]
MANAGER = CHAIN["filters"][0]["typed_config"]
FILTERS = {item["name"]: item["typed_config"] for item in MANAGER["http_filters"]}
(HOST,) = MANAGER["route_config"]["virtual_hosts"]
CLUSTERS = {cluster["name"]: cluster for cluster in CONFIG["clusters"]}
METHODS = [
    f"/{service.full_name}/{method.name}"
    for file in (prediction_service_pb2, model_service_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]
RELOAD = "/tensorflow.serving.ModelService/HandleReloadConfigRequest"
HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name


def destination(path, grpc=False):
    """Return the cluster or the status of the first route that matches, as in Envoy."""
    for route in HOST["routes"]:
        match = route["match"]
        if "grpc" in match and not grpc:
            continue
        if path == match.get("path") or path.startswith(match.get("prefix", "\0")):
            if "direct_response" in route:
                return route["direct_response"]["status"]
            return route["route"]["cluster"]
    return 404


def seconds(text):
    return float(text.removesuffix("s"))


def command():
    """Return flag to value of the server's command in the README."""
    (line,) = re.findall("^bn-keras serve .*", README.replace("\\\n", " "), re.M)
    return dict(re.findall(r"--(\w+)=(\S+)", line))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_but_the_reload_reaches_the_server(method):
    assert destination(method, grpc=True) == (403 if method == RELOAD else "grpc")
    assert destination(method) == (403 if method == RELOAD else 404)
    assert RELOAD in METHODS


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v1/models/digits:predict", "rest"),
        ("/v1/models/digits/versions/3/metadata", "rest"),
        ("/", 404),
        ("/status.json", 404),
        (METRICS_PATH, 404),
        ("/v1/other", 404),
    ],
)
def test_only_the_models_are_reached_by_rest(path, expected):
    assert destination(path) == expected


def test_health_is_checked_without_a_token_and_reflection_is_not_offered():
    assert destination(f"/{HEALTH}/Check", grpc=True) == "grpc"
    reflection = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
    assert destination(reflection, grpc=True) == 404
    open_rule, closed_rule = FILTERS["envoy.filters.http.jwt_authn"]["rules"]
    assert open_rule == {"match": {"prefix": f"/{HEALTH}/"}}
    assert closed_rule["match"] == {"prefix": "/"}
    providers = FILTERS["envoy.filters.http.jwt_authn"]["providers"]
    assert closed_rule["requires"]["provider_name"] in providers
    (check,) = CLUSTERS["grpc"]["health_checks"]
    services = {name.split("/")[1].split(".")[-1] for name in METHODS}
    assert check["grpc_health_check"]["service_name"] in services


def test_ports_are_those_of_the_servers_command():
    ports = {}
    for name, cluster in CLUSTERS.items():
        (group,) = cluster["load_assignment"]["endpoints"]
        (endpoint,) = group["lb_endpoints"]
        address = endpoint["endpoint"]["address"]["socket_address"]
        assert address["address"] == "127.0.0.1"
        ports[name] = str(address["port_value"])
    flags = command()
    assert ports == {"grpc": flags["port"], "rest": flags["rest_api_port"]}
    options = {
        name: next(iter(cluster["typed_extension_protocol_options"].values()))
        for name, cluster in CLUSTERS.items()
    }
    assert "http2_protocol_options" in options["grpc"]["explicit_http_config"]
    assert "http_protocol_options" in options["rest"]["explicit_http_config"]


def test_the_server_accepts_the_host_and_refuses_a_reload():
    flags = command()
    access = Access(allowed_hosts=tuple(flags["allowed_hosts"].split(",")))
    assert set(access.allowed_hosts) == {
        domain.removesuffix(":*") for domain in HOST["domains"]
    }
    assert flags["allow_model_reload"] == "false"


def test_limits_agree_with_those_of_the_server():
    limit = FILTERS["envoy.filters.http.buffer"]["max_request_bytes"]
    assert str(limit) == command()["max_message_bytes"]
    (rest_route,) = [
        route["route"]
        for route in HOST["routes"]
        if route.get("route", {}).get("cluster") == "rest"
    ]
    assert 30 < seconds(rest_route["timeout"]) < 60  # --rest_api_timeout_in_ms
    rest = next(iter(CLUSTERS["rest"]["typed_extension_protocol_options"].values()))
    idle = rest["common_http_protocol_options"]["idle_timeout"]
    assert seconds(idle) < IDLE_SECONDS
    for cluster in CLUSTERS.values():
        (limits,) = cluster["circuit_breakers"]["thresholds"]
        assert limits["max_connections"] < Limits().connections
        assert limits["max_requests"] <= Limits().concurrent_requests
    streams = MANAGER["http2_protocol_options"]["max_concurrent_streams"]
    assert streams <= Limits().streams_per_connection


def test_every_part_is_explained():
    names = [*FILTERS, *re.findall(r"\b(\w+_timeout|\w+_duration):", TEXT)]
    for name in {*names, "max_concurrent_streams", "access_log", "overload_manager"}:
        assert f"`{name}`" in README, name
    assert list(FILTERS)[-1] == "envoy.filters.http.router"
