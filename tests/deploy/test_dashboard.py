"""Grafana's dashboard: its queries, its metrics and its provisioning."""

import json
import re

import promql_parser
import pytest
import yaml
from deploy_checks import COMPOSE, interpolate
from prometheus_client.parser import text_string_to_metric_families

from bn_keras_serving.common.metrics import Metrics

pytestmark = pytest.mark.fast

GRAFANA = COMPOSE / "grafana"
DASHBOARD = json.loads((GRAFANA / "dashboards" / "serving.json").read_text())
PANELS = DASHBOARD["panels"]
QUERIES = [
    pytest.param(target["expr"], id=f"{panel['id']}{target['refId']}")
    for panel in PANELS
    for target in panel["targets"]
]
SERVICES = yaml.safe_load(
    interpolate(
        (COMPOSE / "compose.yaml").read_text(), {"MODELS": "/m", "MODEL_NAME": "m"}
    )
)["services"]


def exported_metrics():
    """Return metric to labels, of the embedded and the original server together."""
    metrics = Metrics(lambda: ["photos"])
    metrics.record_request("photos", "Predict", "GRPC", "OK", 100.0)
    metrics.record_runtime("photos", "Predict", 50.0)
    labels_of = {
        # Source: batching/batching_session.cc; util/prometheus_exporter.cc.
        f":tensorflow:serving:batching_session:queuing_latency{suffix}": labels
        for suffix, labels in {
            "_bucket": {"thread_pool_name", "le"},
            "_sum": {"thread_pool_name"},
            "_count": {"thread_pool_name"},
        }.items()
    }
    for line in metrics.exposition().decode().splitlines():
        if match := re.match(r"([\w:]+)\{(.*)\} ", line):
            labels_of[match[1]] = set(re.findall(r'(\w+)="', match[2]))
    # Prometheus adds this metric, and two labels to all.
    labels_of["up"] = set()
    return {name: labels | {"job", "instance"} for name, labels in labels_of.items()}


EXPORTED = exported_metrics()


def parse(query):
    # Grafana replaces these variables by an interval and by names.
    query = query.replace("$__rate_interval", "20s")
    return promql_parser.parse(query.replace("$job", ".*").replace("$model", ".*"))


def parts(expression, kind):
    """Return all parts of an expression that are of a kind."""
    matches = []
    if isinstance(expression, kind):
        matches.append(expression)
    for name in ("expr", "lhs", "rhs", "vector_selector"):
        if part := getattr(expression, name, None):
            matches += parts(part, kind)
    for part in getattr(expression, "args", None) or []:
        matches += parts(part, kind)
    return matches


@pytest.mark.parametrize("query", QUERIES)
def test_queries_use_metrics_and_labels_that_the_servers_export(query):
    expression = parse(query)
    selectors = parts(expression, promql_parser.VectorSelector)
    assert len(selectors) == len(re.findall(r"(?<!\w)(?::tensorflow|up\b)", query))
    for selector in selectors:
        matched = {matcher.name for matcher in selector.matchers.matchers}
        assert selector.name in EXPORTED
        assert matched <= EXPORTED[selector.name]
        for aggregate in parts(expression, promql_parser.AggregateExpr):
            if selector.name in str(aggregate.expr) and aggregate.modifier:
                assert set(aggregate.modifier.labels) <= EXPORTED[selector.name]


@pytest.mark.parametrize(
    "query", [param for param in QUERIES if "_bucket" in param.values[0]]
)
def test_quantiles_keep_the_label_of_the_bucket_limits(query):
    expression = parse(query)
    assert expression.func.name == "histogram_quantile"
    quantile, aggregate = expression.args
    assert quantile.val in (0.5, 0.95, 0.99)
    assert "le" in aggregate.modifier.labels
    (call,) = parts(aggregate, promql_parser.Call)
    assert call.func.name == "rate"
    assert call.args[0].vector_selector.name.endswith("_bucket")


def test_the_dashboard_shows_latencies_errors_and_entrypoints():
    queries = " ".join(param.values[0] for param in QUERIES)
    for quantile in ("0.5", "0.95", "0.99"):
        for metric in (
            "request_latency",
            "runtime_latency",
            "batching_session:queuing_latency",
        ):
            pattern = rf"histogram_quantile\({quantile}, [^$]*:{metric}_bucket"
            assert re.search(pattern, queries), (quantile, metric)
    assert "sum by (model_name, status)" in queries
    assert 'status!="OK"' in queries
    assert "API, entrypoint" in queries


def test_times_are_microseconds_and_panels_do_not_overlap():
    occupied = set()
    for panel in PANELS:
        latency = any(
            "_latency_bucket" in target["expr"] for target in panel["targets"]
        )
        assert (panel["fieldConfig"]["defaults"]["unit"] == "µs") == latency
        area = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(area["x"], area["x"] + area["w"])
            for y in range(area["y"], area["y"] + area["h"])
        }
        assert not cells & occupied
        assert max(x for x, _ in cells) < 24
        occupied |= cells
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)


def test_variables_list_jobs_and_models_and_are_used():
    names = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    used = set(re.findall(r"\$(?!__)(\w+)", " ".join(p.values[0] for p in QUERIES)))
    assert names == used == {"job", "model"}
    for variable in DASHBOARD["templating"]["list"]:
        query = variable["query"]["query"].replace("$job", ".*")
        metric, label = re.fullmatch(r"label_values\((.*), (\w+)\)", query).groups()
        assert label in EXPORTED[promql_parser.parse(metric).name]


def test_the_dashboard_is_provisioned_with_its_data_source():
    folder = GRAFANA / "provisioning"
    (source,) = yaml.safe_load((folder / "datasources/prometheus.yaml").read_text())[
        "datasources"
    ]
    uids = re.findall(r'"type": "prometheus",\s+"uid": "(\w+)"', json.dumps(DASHBOARD))
    assert set(uids) == {source["uid"]}
    host, _, port = source["url"].removeprefix("http://").partition(":")
    assert SERVICES[host]["ports"] == [f"127.0.0.1:{port}:{port}"]
    (provider,) = yaml.safe_load((folder / "dashboards/dashboards.yaml").read_text())[
        "providers"
    ]
    mounted = {
        volume["target"]: volume["source"]
        for volume in SERVICES["grafana"]["volumes"]
        if isinstance(volume, dict)
    }
    assert mounted[provider["options"]["path"]] == "./grafana/dashboards"
    assert mounted["/etc/grafana/provisioning"] == "./grafana/provisioning"
    home = SERVICES["grafana"]["environment"][
        "GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"
    ]
    assert home == f"{provider['options']['path']}/serving.json"


def test_prometheus_keeps_every_metric_of_the_dashboard():
    config = yaml.safe_load((COMPOSE / "prometheus.yaml").read_text())
    (rule,) = config["scrape_configs"][0]["metric_relabel_configs"]
    assert (rule["source_labels"], rule["action"]) == (["__name__"], "keep")
    for name in EXPORTED.keys() - {"up"}:
        assert re.fullmatch(rule["regex"], name)


def test_prometheus_can_parse_the_metrics_of_the_embedded_server():
    metrics = Metrics(lambda: ["photos"])
    metrics.record_request("photos", "Predict", "GRPC", "OK", 100.0)
    names = {
        family.name
        for family in text_string_to_metric_families(metrics.exposition().decode())
    }
    assert {
        ":tensorflow:serving:request_count",
        ":tensorflow:serving:request_latency",
    } <= {name.removesuffix("_total") for name in names}
