//! A broker that goes and comes back: rows 37 and 38 of docs/faults.md.
//!
//! Place: under `kafka`. Invariant: a process that ends by itself is started again, as a supervisor does; monitors' gateways
//! buffer meanwhile.

use std::collections::BTreeMap;
use std::time::Duration;

use agent::metrics::AgentSummary;
use agent::settings::AgentSettings;
use ecg::packet::Packet;
use ecg::topic;
use ecg::window::Windower;
use node::metrics::NodeSummary;
use prometheus::Registry;
use service::kafka::KafkaSettings;
use service::kafka::cluster::{Cluster, ClusterError, create_topics};
use service::kafka::commit::{CommitError, Committer};
use service::kafka::config::{SaslMechanism, SecurityProtocol};
use service::kafka::sink::Sink;
use service::kafka::source::Source;
use service::shutdown::Shutdown;
use tokio::task::{JoinHandle, block_in_place};
use tokio::time::Instant;

use super::{Bench, STREAMS, WAIT_MAX, batch, first_owner, streams};
use crate::rig::{Running, agent_on, agent_settings, agent_with, node_on};

/// Time between two packets of a stream: faster than life.
const PACE: Duration = Duration::from_millis(120);
/// Longer than the deliveries and the silences of these tests.
const OUTAGE: Duration = Duration::from_secs(12);

/// A process that is started again whenever it ends by itself.
struct KeptUp<Summary> {
    stop: Shutdown,
    task: JoinHandle<(Summary, Vec<String>)>,
}

impl<Summary: Send + 'static> KeptUp<Summary> {
    fn start(start: impl Fn() -> Running<Summary> + Send + 'static) -> Self {
        let stop = Shutdown::new();
        let asked = stop.clone();
        let task = tokio::spawn(async move {
            let mut errors = Vec::new();
            loop {
                let process = start();
                let switch = process.switch();
                let asked = asked.clone();
                let forward = tokio::spawn(async move {
                    asked.wait().await;
                    switch.trigger();
                });
                let ended = process.ended().await;
                forward.abort();
                match ended {
                    Ok(summary) => return (summary, errors),
                    Err(error) => errors.push(format!("{error:#}")),
                }
            }
        });
        Self { stop, task }
    }

    /// Stops it; why it had to be started again.
    async fn stop(self) -> (Summary, Vec<String>) {
        self.stop.trigger();
        tokio::time::timeout(WAIT_MAX, self.task).await.unwrap().unwrap()
    }
}

/// An agent and a node.
fn kept_up(one: KafkaSettings, two: KafkaSettings) -> (KeptUp<AgentSummary>, KeptUp<NodeSummary>) {
    let agent = KeptUp::start(move || agent_on(one.clone()));
    (agent, KeptUp::start(move || node_on(two.clone())))
}

impl Bench {
    /// Sends in time, through a gateway that buffers what the broker does not take.
    fn play(&self, packets: Vec<Packet>) -> JoinHandle<()> {
        let patient = KafkaSettings {
            delivery_timeout_ms: 600_000,
            ..self.kafka.clone()
        };
        let gateway = Sink::new(&patient).unwrap();
        tokio::spawn(async move {
            let start = Instant::now();
            for (number, packet) in packets.iter().enumerate() {
                tokio::time::sleep_until(start + PACE * (number / STREAMS) as u32).await;
                let key = Some(packet.stream_id.as_bytes());
                let sent = gateway.send(topic::WAVEFORMS, key, &packet.encode(), &[]).await;
                sent.unwrap();
            }
        })
    }

    async fn down_for(&self, time: Duration) {
        block_in_place(|| self.brokers[0].stop());
        tokio::time::sleep(time).await;
        block_in_place(|| self.brokers[0].start_again());
    }

    /// An agent and a node that give a delivery up after a few seconds.
    fn impatient(&self, instance: &str) -> KafkaSettings {
        KafkaSettings {
            delivery_timeout_ms: 3000,
            transaction_timeout_ms: 2000,
            ..self.named(instance)
        }
    }
}

/// Every stream has the segments of one that nothing disturbed, bit for bit.
fn undisturbed(segments: &BTreeMap<(String, i64), (String, String)>, packets: &[Packet]) {
    let settings: AgentSettings = service::settings::load("agent", None).unwrap();
    let stream_id = &packets[0].stream_id;
    let mut windower = Windower::new(stream_id.clone(), settings.agent.windows().windower);
    let mut hashes = BTreeMap::new();
    for packet in packets.iter().filter(|packet| packet.stream_id == *stream_id) {
        windower.push(packet.clone(), 0).unwrap();
        while let Some(context) = windower.ready() {
            let segment = ecg::dsp::analyse(&context, &settings.agent.dsp);
            hashes.insert(segment.start_sample, segment.samples_sha256);
        }
    }
    for (window, (_, hash)) in segments {
        assert_eq!(hashes.get(&window.1), Some(hash), "{window:?}");
    }
}

fn gauge(registry: &Registry, name: &str) -> f64 {
    let families = registry.gather();
    let found = families.iter().find(|family| family.name() == name).unwrap();
    found
        .get_metric()
        .iter()
        .map(|metric| metric.get_gauge().get_value())
        .sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_37_a_broker_that_restarts_under_load_loses_and_doubles_nothing() {
    let Some(bench) = Bench::start().await else { return };
    let (packets, windows) = streams();
    let (agent, node) = kept_up(bench.named("one"), bench.named("two"));
    let load = bench.play(packets.clone());
    bench.reached(topic::REPORTS, 1).await;
    bench.down_for(Duration::ZERO).await;
    bench.reached(topic::REPORTS, STREAMS + 1).await;
    block_in_place(|| {
        bench.brokers[0].kill();
        bench.brokers[0].start_again();
    });
    load.await.unwrap();
    undisturbed(&bench.all_once(windows).await, &packets);
    let ((agent, _), _) = (agent.stop().await, node.stop().await);
    assert!(agent.partitions.values().all(|counts| counts.difference() == 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_37_of_three_brokers_one_goes_and_every_stream_goes_on_without_it() {
    let Some(bench) = Bench::start_with(3).await else {
        return;
    };
    let (packets, windows) = streams();
    let (agent, node) = kept_up(bench.named("one"), bench.named("two"));
    let load = bench.play(packets.clone());
    bench.reached(topic::REPORTS, 1).await;
    // counted before the broker goes: while it is away answers take so long that the streams may have come to their ends
    let before = bench.reached(topic::SEGMENTS, STREAMS).await.len();
    block_in_place(|| bench.brokers[0].kill());
    // another window of every stream, of those too that the broker led
    bench.reached(topic::REPORTS, before + STREAMS).await;
    block_in_place(|| bench.brokers[0].start_again());
    load.await.unwrap();
    undisturbed(&bench.all_once(windows).await, &packets);
    let ((agent, errors), (_, errors_of_node)) = (agent.stop().await, node.stop().await);
    assert!(agent.partitions.values().all(|counts| counts.difference() == 0));
    // a member that was joining when its group's coordinator went may be taken for another of its name by the next coordinator
    let other: Vec<&String> = errors
        .iter()
        .chain(&errors_of_node)
        .filter(|error| !error.contains("FencedInstanceId"))
        .collect();
    assert!(other.is_empty(), "{other:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_38_a_cluster_that_is_down_is_waited_for_and_no_stream_counts_as_silent() {
    let Some(bench) = Bench::start().await else { return };
    let (packets, windows) = streams();
    // 16 s: the first windows are out with all of their context, the second are open
    let (before, after) = packets.split_at(16 * 4 * STREAMS);
    // a member outlives the outage, so partitions stay, and with them the open windows ...
    let lasting = |instance| KafkaSettings {
        session_timeout_ms: 120_000,
        ..bench.named(instance)
    };
    let registry = Registry::new();
    let mut settings = agent_settings(lasting("one"));
    // ... which silence would close or give up before its end
    (settings.agent.idle_flush_ms, settings.agent.idle_evict_ms) = (10_000, 12_000);
    let agent = agent_with(settings, &registry);
    let node = node_on(lasting("one"));
    bench.send(before).await;
    bench.committed(topic::REPORTS, STREAMS).await;
    // the last floors, so that nothing is on its way when the broker goes
    tokio::time::sleep(Duration::from_secs(1)).await;
    let held = gauge(&registry, "meit_agent_state_bytes");
    assert!(held > 0.0);
    block_in_place(|| bench.brokers[0].stop());
    let load = bench.play(after.to_vec());
    tokio::time::sleep(OUTAGE).await;
    assert_eq!(gauge(&registry, "meit_agent_kafka_brokers_up"), 0.0);
    assert_eq!(
        gauge(&registry, "meit_agent_state_bytes"),
        held,
        "nothing more, nothing given up"
    );
    // a process that starts now waits as well
    let late = node_on(lasting("late"));
    tokio::time::sleep(Duration::from_secs(1)).await;
    block_in_place(|| bench.brokers[0].start_again());
    load.await.unwrap();
    undisturbed(&bench.all_once(windows).await, &packets);
    assert_eq!(gauge(&registry, "meit_agent_kafka_brokers_up"), 1.0);
    let agent = agent.stop().await;
    assert_eq!(agent.packets_received, packets.len() as u64);
    node.stop().await;
    late.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_38_a_delivery_that_takes_too_long_ends_the_process_which_waits_and_goes_on_from_the_floor() {
    let Some(bench) = Bench::start().await else { return };
    let (packets, windows) = streams();
    let (agent, node) = kept_up(bench.impatient("one"), bench.impatient("two"));
    let load = bench.play(packets.clone());
    bench.reached(topic::REPORTS, 1).await;
    bench.down_for(OUTAGE).await;
    load.await.unwrap();
    undisturbed(&bench.all_once(windows).await, &packets);
    let ((_, errors), _) = (agent.stop().await, node.stop().await);
    // as a rule something was on its way when the broker went, for floors move four times a second; once, not in a loop. One
    // whose last floors were there already has nothing to give up
    assert!(errors.len() <= 2, "{errors:#?}");
    assert!(
        errors.iter().all(|error| error.starts_with("commit batch: ")),
        "{errors:#?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_38_a_batch_that_no_broker_takes_in_time_is_an_error_and_is_written_once_when_it_is_given_again() {
    let Some(bench) = Bench::start().await else { return };
    // the member outlives the outage, so that the batch's owner is still one
    let kafka = KafkaSettings {
        session_timeout_ms: 120_000,
        ..bench.impatient("one")
    };
    let (source, mut events) = Source::start(&kafka, "outage", &[topic::SEGMENTS], 16).unwrap();
    let owner = first_owner(&mut events).await;
    let given = || batch(&owner, "held", 1);
    let committer = Committer::open(&kafka, Cluster::Real, "test").await.unwrap();
    block_in_place(|| bench.brokers[0].stop());
    let commit = committer.commit(vec![source.membership()], given());
    let error = tokio::time::timeout(WAIT_MAX, commit).await.unwrap().unwrap_err();
    assert!(
        matches!(error, CommitError::Transaction { outputs: 1, .. }),
        "{error:?}"
    );
    block_in_place(|| bench.brokers[0].start_again());
    drop(committer);
    let committer = Committer::open(&kafka, Cluster::Real, "test").await.unwrap();
    let written = committer.commit(vec![source.membership()], given()).await.unwrap();
    assert_eq!(written, [true]);
    assert_eq!(bench.committed(topic::REPORTS, 1).await[0].value, b"held");
    source.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_with_a_login_that_the_broker_refuses_ends_and_does_not_wait_for_the_cluster() {
    let Some(bench) = Bench::start().await else { return };
    let kafka = KafkaSettings {
        security_protocol: SecurityProtocol::SaslPlaintext,
        sasl_mechanism: SaslMechanism::Plain,
        sasl_username: "nobody".to_owned(),
        sasl_password: "wrong".into(),
        outage_max_ms: 3_600_000,
        ..bench.kafka.clone()
    };
    let answered = tokio::time::timeout(WAIT_MAX, create_topics(&kafka, topic::KEPT)).await;
    let refused = answered.expect("ends long before the hour is over").unwrap_err();
    let ClusterError::Refused { brokers, reason } = &refused else {
        panic!("{refused}");
    };
    assert_eq!(*brokers, kafka.brokers);
    assert!(reason.contains("SASL"), "{reason}");
}
