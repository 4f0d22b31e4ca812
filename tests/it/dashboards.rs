//! Dashboards, recording rules and alerts ask for what is exported, and nothing else.
//!
//! Place: reads dashboards/ and deploy/prometheus/ as Grafana and Prometheus would. Invariant: names and label values come from
//! the processes' own registries, so a metric that is renamed breaks a test here and not a panel at night.

use std::collections::{BTreeMap, BTreeSet};

use prometheus::Registry;
use promql_parser::label::{MatchOp, Matcher};
use promql_parser::parser::{self, Expr, VectorSelector};
use promql_parser::util::{ExprVisitor, walk_expr};
use serde_json::Value;

use crate::rig::root;

const DASHBOARDS: [&str; 3] = ["overview", "node", "pipeline"];
/// Series that Prometheus itself makes.
const OF_PROMETHEUS: [&str; 2] = ["up", "ALERTS"];
/// Columns of Grafana's grid.
const COLUMNS: u64 = 24;

/// Label values by label; `None` where the set is open.
type Labels = BTreeMap<String, Option<BTreeSet<String>>>;

/// Every series that the processes export, with its labels.
fn exported() -> BTreeMap<String, Labels> {
    let registry = Registry::new();
    let _agent = agent::metrics::Metrics::new(&registry).unwrap();
    let node = node::metrics::Metrics::new(&registry).unwrap();
    node.bundle_loaded("any");
    let _bedside = bedside::metrics::Metrics::new(&registry).unwrap();
    let _review = review::metrics::Metrics::new(&registry).unwrap();
    let pipeline = pipeline::metrics::Metrics::new(&registry).unwrap();
    for stage in pipeline::metrics::STAGES {
        pipeline.ended(stage, true, 1.0, 1.0);
    }
    for process in ["agent", "node", "bedside", "review"] {
        let meter = service::telemetry::Meter::new(&registry, process);
        service::telemetry::describe(meter, &"settings").unwrap();
    }
    let mut families = registry.gather();
    let own = prometheus::process_collector::ProcessCollector::for_self();
    families.extend(prometheus::core::Collector::collect(&own));
    let mut series: BTreeMap<String, Labels> = BTreeMap::new();
    for family in families {
        for suffix in ["", "_bucket", "_sum", "_count"] {
            let labels = series.entry(format!("{}{suffix}", family.name())).or_default();
            for pair in family.get_metric().iter().flat_map(|metric| metric.get_label()) {
                let open = ["bundle", "version", "hash"].contains(&pair.name());
                let values = labels
                    .entry(pair.name().to_owned())
                    .or_insert((!open).then(BTreeSet::new));
                if let Some(values) = values {
                    values.insert(pair.value().to_owned());
                }
            }
            labels.extend(["instance", "job", "process", "le"].map(|label| (label.to_owned(), None)));
        }
    }
    series
}

/// Every selector of an expression.
#[derive(Default)]
struct Selectors(Vec<VectorSelector>);

impl ExprVisitor for Selectors {
    type Error = std::convert::Infallible;

    fn pre_visit(&mut self, expr: &Expr) -> Result<bool, Self::Error> {
        match expr {
            Expr::VectorSelector(selector) => self.0.push(selector.clone()),
            Expr::MatrixSelector(selector) => self.0.push(selector.vs.clone()),
            _ => {}
        }
        Ok(true)
    }
}

/// Checks one query, found at `place`, against what is exported and recorded.
#[track_caller]
fn check_query(query: &str, place: &str, series: &BTreeMap<String, Labels>, recorded: &BTreeSet<String>) {
    let expr = parser::parse(query).unwrap_or_else(|error| panic!("{place}: {error} in {query}"));
    let mut selectors = Selectors::default();
    let Ok(_) = walk_expr(&mut selectors, &expr);
    assert!(!selectors.0.is_empty(), "{place}: {query} asks for nothing");
    for selector in selectors.0 {
        let name = selector
            .name
            .unwrap_or_else(|| panic!("{place}: a selector without a name in {query}"));
        if OF_PROMETHEUS.contains(&name.as_str()) || recorded.contains(&name) {
            continue;
        }
        let labels = series
            .get(&name)
            .unwrap_or_else(|| panic!("{place}: nobody exports {name}"));
        for matcher in &selector.matchers.matchers {
            check_matcher(matcher, labels, &format!("{place}: {name}"));
        }
    }
}

fn check_matcher(matcher: &Matcher, labels: &Labels, place: &str) {
    let Matcher { op, name, value } = matcher;
    let values = labels
        .get(name)
        .unwrap_or_else(|| panic!("{place} has no label {name}"));
    if let (Some(values), MatchOp::Equal | MatchOp::NotEqual) = (values, op) {
        assert!(
            values.contains(value),
            "{place}: {name} is never {value:?} but one of {values:?}"
        );
    }
}

/// Variables as Grafana would fill them in.
fn filled(query: &str) -> String {
    query
        .replace("$__rate_interval", "1m")
        .replace("$__range", "1h")
        .replace("$instance", ".*")
}

fn dashboard(name: &str) -> Value {
    let path = root().join(format!("dashboards/{name}.json"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Rules of a file in deploy/prometheus.
fn rules(file: &str) -> Vec<serde_yaml_ng::Value> {
    let text = std::fs::read_to_string(root().join("deploy/prometheus").join(file)).unwrap();
    let file: serde_yaml_ng::Value = serde_yaml_ng::from_str(&text).unwrap();
    let groups = file["groups"].as_sequence().unwrap();
    groups
        .iter()
        .flat_map(|group| group["rules"].as_sequence().unwrap().clone())
        .collect()
}

fn recorded() -> BTreeSet<String> {
    rules("rules.yml")
        .iter()
        .map(|rule| rule["record"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn every_query_of_every_panel_parses_and_asks_for_what_is_exported() {
    let (series, recorded) = (exported(), recorded());
    let mut queries = 0;
    for name in DASHBOARDS {
        let dashboard = dashboard(name);
        let annotations = dashboard["annotations"]["list"].as_array().unwrap();
        for annotation in annotations {
            check_query(annotation["expr"].as_str().unwrap(), name, &series, &recorded);
        }
        for panel in dashboard["panels"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|panel| panel["type"] != "row")
        {
            let place = format!("{name}, {}", panel["title"]);
            for target in panel["targets"].as_array().unwrap() {
                check_query(&filled(target["expr"].as_str().unwrap()), &place, &series, &recorded);
                queries += 1;
            }
        }
    }
    assert!(queries > 80, "only {queries} queries were found");
}

#[test]
fn every_rule_parses_and_asks_for_what_is_exported() {
    let (series, recorded) = (exported(), recorded());
    for rule in rules("rules.yml").iter().chain(&rules("alerts.yml")) {
        let name = rule["record"].as_str().or(rule["alert"].as_str()).unwrap();
        check_query(rule["expr"].as_str().unwrap(), name, &series, &recorded);
    }
}

#[test]
fn every_panel_says_what_it_shows_in_what_unit_and_has_a_place_of_its_own() {
    for name in DASHBOARDS {
        let dashboard = dashboard(name);
        assert_eq!(dashboard["uid"], format!("meit-{name}"));
        let (mut ids, mut taken) = (BTreeSet::new(), BTreeMap::new());
        for panel in dashboard["panels"].as_array().unwrap() {
            let place = format!("{name}, {}", panel["title"]);
            assert!(ids.insert(panel["id"].as_u64().unwrap()), "{place}: its id is taken");
            let [x, y, w, h] = ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().unwrap());
            assert!(w > 0 && h > 0 && x + w <= COLUMNS, "{place} lies out of the grid");
            for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
                let other = taken.insert(cell, place.clone());
                assert!(other.is_none(), "{place} lies over {other:?}");
            }
            if panel["type"] == "row" {
                continue;
            }
            assert!(
                panel["description"].as_str().is_some_and(|text| text.ends_with('.')),
                "{place}: no description"
            );
            assert!(panel["fieldConfig"]["defaults"]["unit"].is_string(), "{place}: no unit");
            assert_eq!(
                panel["datasource"]["uid"], "${datasource}",
                "{place}: a fixed data source"
            );
            let refs: BTreeSet<&str> = panel["targets"]
                .as_array()
                .unwrap()
                .iter()
                .map(|t| t["refId"].as_str().unwrap())
                .collect();
            assert_eq!(
                refs.len(),
                panel["targets"].as_array().unwrap().len(),
                "{place}: refId twice"
            );
        }
    }
}

#[test]
fn every_alert_says_what_it_means_and_has_its_runbook() {
    let guide = std::fs::read_to_string(root().join("docs/operating.md")).unwrap();
    let headings: BTreeSet<String> = guide
        .lines()
        .filter_map(|line| line.strip_prefix("### "))
        .map(str::to_lowercase)
        .collect();
    let alerts = rules("alerts.yml");
    let tested = std::fs::read_to_string(root().join("deploy/prometheus/alerts_test.yml")).unwrap();
    for alert in &alerts {
        let name = alert["alert"].as_str().unwrap();
        let severity = alert["labels"]["severity"].as_str().unwrap();
        assert!(["page", "ticket"].contains(&severity), "{name}: severity {severity}");
        for key in ["summary", "description", "runbook"] {
            assert!(
                alert["annotations"][key].as_str().is_some_and(|text| !text.is_empty()),
                "{name}: no {key}"
            );
        }
        let anchor = name.to_lowercase();
        assert_eq!(
            alert["annotations"]["runbook_url"].as_str(),
            Some(format!("docs/operating.md#{anchor}").as_str())
        );
        assert!(headings.contains(&anchor), "docs/operating.md has no heading {name}");
        assert!(
            tested.contains(name) || name.starts_with("MeitDraftsLate"),
            "alerts_test.yml does not test {name}"
        );
    }
    let names: BTreeSet<&str> = alerts.iter().map(|alert| alert["alert"].as_str().unwrap()).collect();
    assert_eq!(names.len(), alerts.len(), "an alert twice");
}

#[test]
fn a_scrape_stays_far_under_five_thousand_series() {
    let registry = Registry::new();
    let _agent = agent::metrics::Metrics::new(&registry).unwrap();
    let node = node::metrics::Metrics::new(&registry).unwrap();
    node.bundle_loaded("any");
    let text = prometheus::TextEncoder::new()
        .encode_to_string(&registry.gather())
        .unwrap();
    let samples = text.lines().filter(|line| !line.starts_with('#')).count();
    assert!(
        (300..1500).contains(&samples),
        "{samples} samples of agent and node together"
    );
}
