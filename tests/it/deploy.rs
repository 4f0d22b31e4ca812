//! Deployments set only settings that exist, and name only topics that exist.
//!
//! Place: reads deploy/, config/ and docs/ as text, TOML and YAML. Invariant: what is checked against is
//! config/default.toml and ecg::topic, so a key or topic that is renamed breaks a test here and not a start in a hospital.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use ecg::topic;
use serde::Deserialize as _;
use serde_yaml_ng::Value;

use crate::rig::root;
use crate::tidy::{files, text};

/// Processes that stay, each with a port for Prometheus.
const PROCESSES: [&str; 4] = ["agent", "node", "bedside", "review"];

/// Files of deployments, of any kind.
fn deployments() -> Vec<PathBuf> {
    let extensions = ["yaml", "yml", "toml", "service", "timer", "cuda", "sh", "properties"];
    let mut found: Vec<PathBuf> = extensions
        .iter()
        .flat_map(|extension| files("deploy", extension))
        .collect();
    found.push(root().join("deploy/docker/Dockerfile"));
    found.retain(|path| path.file_name().unwrap() != "Cargo.toml");
    assert!(found.len() > 20, "only {} deployment files were found", found.len());
    found
}

/// Every setting, as its environment variable is called.
fn variables() -> BTreeSet<String> {
    fn add(prefix: &str, table: &toml::Table, names: &mut BTreeSet<String>) {
        for (key, value) in table {
            let name = format!("{prefix}__{}", key.to_uppercase());
            match value {
                toml::Value::Table(table) => add(&name, table, names),
                _ => drop(names.insert(name)),
            }
        }
    }
    let mut names = BTreeSet::new();
    let defaults: toml::Table = service::settings::DEFAULTS.parse().unwrap();
    add("MEIT", &defaults, &mut names);
    names
}

/// Words of a text that begin so; a word is letters, digits and the characters given.
fn words<'a>(text: &'a str, start: &'a str, also: &'a [char]) -> impl Iterator<Item = &'a str> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || also.contains(&c);
    text.split(move |c| !is_word(c))
        .filter(move |word| word.starts_with(start))
}

#[test]
fn every_variable_of_a_deployment_is_a_setting() {
    let known = variables();
    assert!(known.contains("MEIT__NODE__DECODE__TOKENS_MAX"));
    let mut used = 0;
    for path in deployments() {
        let text = text(&path);
        for name in words(&text, "MEIT__", &['_']).filter(|name| *name != "MEIT__SECTION__KEY") {
            assert!(known.contains(name), "{}: no setting {name}", path.display());
            used += 1;
        }
    }
    assert!(used > 10, "only {used} variables were found");
}

#[test]
fn every_settings_file_is_what_its_process_takes() {
    let mut settings = files("config", "toml");
    settings.extend(files("deploy/systemd", "toml"));
    let load = |process: &str, path: &PathBuf| match process {
        "agent" => service::settings::load_checked::<agent::settings::AgentSettings>(process, Some(path)).map(drop),
        "node" => service::settings::load_checked::<node::settings::NodeSettings>(process, Some(path)).map(drop),
        "bedside" => {
            service::settings::load_checked::<bedside::settings::BedsideSettings>(process, Some(path)).map(drop)
        }
        "pipeline" => {
            service::settings::load_checked::<pipeline::night::settings::PipelineSettings>(process, Some(path))
                .map(drop)
        }
        "review" => service::settings::load_checked::<review::settings::ReviewSettings>(process, Some(path)).map(drop),
        other => panic!("{}: no process reads section {other}", path.display()),
    };
    let mut loaded = 0;
    for path in settings
        .iter()
        .filter(|path| path.file_name().unwrap() != "default.toml")
    {
        let table: toml::Table = text(path)
            .parse()
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        for section in table.keys().filter(|section| *section != "kafka") {
            load(section, path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            loaded += 1;
        }
    }
    assert!(loaded >= 5, "only {loaded} settings files were loaded");
}

#[test]
fn every_topic_of_a_deployment_or_document_is_a_topic() {
    let mut paths = deployments();
    paths.extend(files("docs", "md"));
    for path in paths {
        let text = text(&path);
        for word in words(&text, "ecg.", &['.', '-']) {
            // the dot that ends a sentence
            let name = word.trim_end_matches('.');
            let is_topic = name
                .rsplit_once(".v")
                .is_some_and(|(_, version)| version.parse::<u32>().is_ok());
            assert!(
                !is_topic || topic::ALL.contains(&name),
                "{}: no topic {name}",
                path.display()
            );
        }
    }
    let compose = text(&root().join("deploy/docker/compose.yaml"));
    for name in topic::ALL {
        assert!(
            compose.contains(&format!("{name}:")),
            "deploy/docker/compose.yaml does not create {name}"
        );
    }
}

/// Every document of a YAML file.
fn documents(path: &Path) -> Vec<Value> {
    let text = text(path);
    let documents = serde_yaml_ng::Deserializer::from_str(&text).map(Value::deserialize);
    documents
        .map(|document| document.unwrap_or_else(|error| panic!("{}: {error}", path.display())))
        .collect()
}

#[test]
fn every_pod_runs_without_rights_and_within_limits() {
    let mut pods = 0;
    for path in files("deploy/k8s", "yaml") {
        for document in documents(&path) {
            let spec = match document["kind"].as_str() {
                Some("Deployment") => &document["spec"]["template"]["spec"],
                Some("CronJob") => &document["spec"]["jobTemplate"]["spec"]["template"]["spec"],
                _ => continue,
            };
            pods += 1;
            let place = path.display();
            assert_eq!(spec["securityContext"]["runAsNonRoot"], Value::Bool(true), "{place}");
            assert_eq!(spec["automountServiceAccountToken"], Value::Bool(false), "{place}");
            for container in spec["containers"].as_sequence().unwrap() {
                let context = &container["securityContext"];
                assert_eq!(context["readOnlyRootFilesystem"], Value::Bool(true), "{place}");
                assert_eq!(context["allowPrivilegeEscalation"], Value::Bool(false), "{place}");
                assert!(
                    container["resources"]["limits"]["memory"].is_string(),
                    "{place}: no memory limit"
                );
                assert!(
                    container["resources"]["requests"]["cpu"].is_string(),
                    "{place}: no CPU request"
                );
            }
        }
    }
    assert_eq!(pods, 5, "agent, node, heartbeat, review and training");
}

#[test]
fn a_training_that_runs_is_not_joined_by_another_and_ends() {
    let path = root().join("deploy/k8s/training.yaml");
    let job = documents(&path)
        .into_iter()
        .find(|document| document["kind"] == "CronJob")
        .unwrap();
    let spec = &job["spec"];
    assert_eq!(spec["concurrencyPolicy"], "Forbid");
    assert_eq!(spec["timeZone"], "Etc/UTC");
    assert!(spec["startingDeadlineSeconds"].is_u64() && spec["jobTemplate"]["spec"]["activeDeadlineSeconds"].is_u64());
}

#[test]
fn prometheus_scrapes_the_ports_that_the_processes_listen_at() {
    let defaults: toml::Table = service::settings::DEFAULTS.parse().unwrap();
    for targets in ["deploy/prometheus/targets.yml", "deploy/docker/targets.yml"] {
        let targets = text(&root().join(targets));
        for process in PROCESSES {
            let address = defaults[process]["metrics_address"].as_str().unwrap();
            let (_, port) = address.rsplit_once(':').unwrap();
            let line = targets
                .lines()
                .find(|line| line.contains(&format!("process: {process}")));
            assert!(
                line.unwrap().contains(&format!(":{port}\"")),
                "{process} listens at {port}"
            );
        }
    }
}

#[test]
fn every_process_is_in_every_deployment() {
    let compose = &documents(&root().join("deploy/docker/compose.yaml"))[0];
    let kustomization = text(&root().join("deploy/k8s/kustomization.yaml"));
    let image = text(&root().join("deploy/docker/Dockerfile"));
    for process in PROCESSES.into_iter().chain(["pipeline"]) {
        assert_eq!(
            compose["services"][process]["image"],
            format!("meit-{process}"),
            "compose.yaml"
        );
        assert!(
            image.contains(&format!("AS {process}\n")),
            "Dockerfile has no target {process}"
        );
        assert!(
            kustomization.contains(&format!("name: meit-{process},")),
            "kustomization.yaml: {process}"
        );
        // the monitors of a hospital are no service; what stands for them there is the heartbeat
        let unit = if process == "bedside" { "heartbeat" } else { process };
        let unit = text(&root().join(format!("deploy/systemd/meit-{unit}.service")));
        assert!(unit.contains(&format!("ExecStart=/usr/bin/meit-{process} ")), "{unit}");
    }
    let review = &documents(&root().join("deploy/k8s/review.yaml"))[0]["spec"];
    assert_eq!(review["replicas"], 1, "the audit log has one writer");
    assert_eq!(review["strategy"]["type"], "Recreate");
}

#[test]
fn shell_in_deployments_is_shell() {
    let compose = &documents(&root().join("deploy/docker/compose.yaml"))[0];
    let script = compose["services"]["topics"]["command"][0]
        .as_str()
        .unwrap()
        .replace("$$", "$");
    let check = |script: &str, place: &str| {
        let bash = std::process::Command::new("bash")
            .args(["-n", "-c", script])
            .output()
            .unwrap();
        assert!(
            bash.status.success(),
            "{place}: {}",
            String::from_utf8_lossy(&bash.stderr)
        );
    };
    check(&script, "compose.yaml, topics");
    for path in files("deploy", "sh") {
        check(&text(&path), &path.display().to_string());
    }
}

#[test]
fn the_trial_token_is_let_in_and_known_to_compose_alone() {
    let tokens = review::auth::Tokens::read(&root().join("deploy/docker/trial-tokens.toml")).unwrap();
    assert_eq!(tokens.identify("trial").unwrap().signer, "trial");
    let compose = text(&root().join("deploy/docker/compose.yaml"));
    assert!(
        compose.contains("\"127.0.0.1:9470:9470\""),
        "the trial's page leaves the machine"
    );
}
