//! `meit bench stream`: packets a second from Kafka through the agent to Kafka, beside a bare copy of the same bytes.
//!
//! Place: runs the agent as `meit-agent` does, with transactions, on a broker that was given to it. Invariant: both sides
//! read the same records from the same broker in the same run; the agent's time ends when its last segment is committed,
//! the copy's when its last record is acknowledged.

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use agent::settings::AgentSettings;
use agent::windows::{Windows, WindowsConfig};
use anyhow::{Context as _, ensure};
use bedside::recording::Recording;
use ecg::packet::{Packet, PacketLead};
use ecg::window::WindowerConfig;
use ecg::{SAMPLE_RATE_HZ, SEGMENT_SAMPLES, topic};
use prometheus::Registry;
use serde::Serialize;
use service::kafka::KafkaSettings;
use service::kafka::bare;
use service::kafka::cluster::{Cluster, Topic, create_topics};
use service::kafka::sink::Sink;
use service::shutdown::Shutdown;

use crate::assets;

/// 250 ms at 500 Hz, as monitors send.
const PACKET_SAMPLES: usize = 125;
/// Where the copy goes.
const COPY: &str = "meit.bench-copy.v1";
/// Group of the agents; its offsets are set before it starts.
const AGENTS: &str = "agent";
/// Between two looks at the agent's counters.
const LOOK: Duration = Duration::from_millis(2);
/// How long the agent may take.
const PATIENCE: Duration = Duration::from_secs(600);
/// Streams over which the memory of one is measured.
const MEMORY_STREAMS: usize = 200;

/// Arguments of `meit bench stream`.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// A real Kafka, host:port, that nobody else uses: `deploy/kafka/kafka.sh start`.
    #[arg(long, default_value = "127.0.0.1:9092")]
    brokers: String,
    /// Monitors.
    #[arg(long, default_value_t = 64)]
    streams: usize,
    /// Windows of ten seconds that each monitor sends; few of them measure how a client starts.
    #[arg(long, default_value_t = 48)]
    windows: usize,
    /// Analyses at once; 0 takes the processors.
    #[arg(long, default_value_t = 0)]
    workers: usize,
    /// Directory of WFDB recordings; the shipped ones where not given.
    #[arg(long, value_name = "DIR")]
    recordings: Option<PathBuf>,
}

/// What was measured.
#[derive(Debug, Serialize)]
struct Figures {
    packets_per_s: f64,
    mb_per_s: f64,
    passthrough_packets_per_s: f64,
    passthrough_mb_per_s: f64,
    ratio_to_passthrough: f64,
    /// Resident memory of one stream's state, window full.
    bytes_per_stream: u64,
    /// Beds in real time, four packets a second each.
    beds: f64,
    /// Time of this process on processors, agent's and copy's part.
    cpu_us_per_packet: f64,
    passthrough_cpu_us_per_packet: f64,
    packets: usize,
    bytes: usize,
    segments: u64,
    streams: usize,
    processors: usize,
}

/// Writes packets, copies them, runs the agent over them.
///
/// # Errors
/// A broker that does not answer or is the embedded one, recordings that cannot be read, an agent that fails.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start runtime")?;
    let figures = runtime.block_on(measure(arguments))?;
    println!("{}", serde_json::to_string(&figures)?);
    Ok(())
}

async fn measure(arguments: &Arguments) -> anyhow::Result<Figures> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let mut settings: AgentSettings = service::settings::load("agent", None)?;
    let boot_id = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as u64;
    settings.kafka.brokers.clone_from(&arguments.brokers);
    settings.kafka.outage_max_ms = 0;
    settings.kafka.group_prefix = format!("bench-{boot_id}");
    settings.agent.workers = if arguments.workers == 0 {
        processors
    } else {
        arguments.workers
    };
    settings.agent.streams_max = settings.agent.streams_max.max(arguments.streams);
    let kafka = settings.kafka.clone();
    let cluster = create_topics(&kafka, topic::KEPT).await.context("create topics")?;
    ensure!(
        cluster == Cluster::Real,
        "{} is the embedded broker, which drops what is not read at once",
        arguments.brokers
    );
    let copy = Topic {
        name: COPY,
        retention_hours: 1,
        compacted: false,
    };
    create_topics(&kafka, [copy])
        .await
        .context("create topic of the copy")?;

    let recordings = load(arguments)?;
    let bytes_per_stream = bytes_per_stream(&recordings, settings.agent.windows())?;
    let starts = bare::ends(&kafka, topic::WAVEFORMS)
        .await
        .context("look at the waveforms")?;
    let (packets, bytes) = write(&kafka, &recordings, arguments, boot_id).await?;

    let cpu = cpu_time();
    let copied = bare::copy(&kafka, topic::WAVEFORMS, &starts, COPY, packets)
        .await
        .context("copy")?;
    let copy_cpu = cpu_time().saturating_sub(cpu);
    ensure!(copied.bytes == bytes, "{} bytes were copied of {bytes}", copied.bytes);

    bare::start_group_at(&kafka, AGENTS, topic::WAVEFORMS, &starts)
        .await
        .context("set the group's offsets")?;
    let cpu = cpu_time();
    let (took, segments) = run_agent(settings, packets, arguments.streams * arguments.windows).await?;
    let agent_cpu = cpu_time().saturating_sub(cpu);

    let mb = bytes as f64 / 1e6;
    let us_per_packet = |time: Duration| time.as_secs_f64() * 1e6 / packets as f64;
    let packets_per_s = packets as f64 / took.as_secs_f64();
    Ok(Figures {
        packets_per_s,
        mb_per_s: mb / took.as_secs_f64(),
        passthrough_packets_per_s: packets as f64 / copied.took.as_secs_f64(),
        passthrough_mb_per_s: mb / copied.took.as_secs_f64(),
        ratio_to_passthrough: copied.took.as_secs_f64() / took.as_secs_f64(),
        bytes_per_stream,
        beds: packets_per_s * PACKET_SAMPLES as f64 / SAMPLE_RATE_HZ,
        cpu_us_per_packet: us_per_packet(agent_cpu),
        passthrough_cpu_us_per_packet: us_per_packet(copy_cpu),
        packets,
        bytes,
        segments,
        streams: arguments.streams,
        processors,
    })
}

fn load(arguments: &Arguments) -> anyhow::Result<Vec<Recording>> {
    let headers = bedside::recording::find(&[assets::recordings(arguments.recordings.as_deref())?])?;
    let recordings = headers
        .iter()
        .map(|header| Recording::load(header))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(recordings)
}

/// Writes every stream's packets in turn, as monitors do; gives their number and the bytes of their values.
async fn write(
    kafka: &KafkaSettings,
    recordings: &[Recording],
    arguments: &Arguments,
    boot_id: u64,
) -> anyhow::Result<(usize, usize)> {
    let sink = Sink::new(kafka).context("open kafka sink")?;
    let (mut packets, mut bytes) = (0, 0);
    let samples = arguments.windows * SEGMENT_SAMPLES;
    let ends = (0..samples).step_by(PACKET_SAMPLES).chain([samples + SEGMENT_SAMPLES]);
    for first in ends {
        let mut batch = Vec::with_capacity(arguments.streams);
        for stream in 0..arguments.streams {
            let packet = packet(recordings, stream, first, first >= samples, boot_id);
            let value = packet.encode();
            bytes += value.len();
            batch.push((packet.stream_id.into_bytes(), value));
        }
        packets += batch.len();
        sink.send_all(topic::WAVEFORMS, batch).await.context("write packets")?;
    }
    sink.flush().await?;
    Ok((packets, bytes))
}

/// The packet of a stream at a sample, or the heartbeat that ends it.
fn packet(recordings: &[Recording], stream: usize, first: usize, is_end: bool, boot_id: u64) -> Packet {
    let recording = &recordings[(stream + first / SEGMENT_SAMPLES) % recordings.len()];
    let at = first % SEGMENT_SAMPLES;
    let lead = |(lead, samples_uv): &(ecg::lead::Lead, Vec<f32>)| {
        let units = samples_uv[at..at + PACKET_SAMPLES].iter().map(|uv| uv.round() as i16);
        PacketLead::of(*lead, units.collect(), 1.0)
    };
    let time_us = (first as f64 * 1e6 / SAMPLE_RATE_HZ) as i64;
    Packet {
        stream_id: format!("bench-{stream:05}"),
        device_id: "bench".to_owned(),
        boot_id,
        sequence: (first / PACKET_SAMPLES) as u64,
        first_sample: first as i64,
        device_time_us: time_us,
        gateway_time_us: time_us,
        rate_hz: SAMPLE_RATE_HZ,
        leads: if is_end {
            vec![]
        } else {
            recording.leads.iter().map(lead).collect()
        },
        stat: false,
        filter_class: ecg::segment::FilterClass::Unspecified,
        heartbeat: is_end,
    }
}

/// Runs the agent until it has read every packet and committed every segment; the time from the first packet on.
async fn run_agent(settings: AgentSettings, packets: usize, segments: usize) -> anyhow::Result<(Duration, u64)> {
    let metrics = agent::metrics::Metrics::new(&Registry::new())?;
    let stop = Shutdown::new();
    let mut task = tokio::spawn(agent::run_with(settings, metrics.clone(), stop.clone()));
    let (begun, mut start) = (Instant::now(), None);
    loop {
        tokio::select! {
            ended = &mut task => {
                ended.context("the agent panicked")??;
                anyhow::bail!("the agent ended early");
            }
            () = tokio::time::sleep(LOOK) => {}
        }
        let received = metrics.packets_received();
        if received > 0 {
            start.get_or_insert_with(Instant::now);
        }
        let delivered = metrics.segments_delivered();
        if received >= packets as u64 && delivered >= segments as u64 {
            break;
        }
        ensure!(
            begun.elapsed() < PATIENCE,
            "{received} of {packets} packets and {delivered} of {segments} segments after {PATIENCE:?}"
        );
    }
    let took = start.map(|start: Instant| start.elapsed()).unwrap_or_default();
    stop.trigger();
    task.await.context("the agent panicked")??;
    Ok((took, metrics.segments_delivered()))
}

/// Growth of resident memory over streams with a full window, its context and the lateness, divided by their number.
fn bytes_per_stream(recordings: &[Recording], windows: WindowsConfig) -> anyhow::Result<u64> {
    let cfg = WindowsConfig {
        streams_max: MEMORY_STREAMS + 1,
        ..windows
    };
    let fill = |windows: &mut Windows, stream: usize, cfg: &WindowerConfig| -> anyhow::Result<()> {
        let most = 2 * SEGMENT_SAMPLES + cfg.lateness_samples as usize;
        for first in (0..most).step_by(PACKET_SAMPLES) {
            let packet = packet(recordings, stream, first, false, 1);
            let mut closings = agent::windows::Closings::default();
            windows.push(packet, (0, first as u64), Instant::now(), &mut closings)?;
        }
        Ok(())
    };
    let mut windows = Windows::new(cfg);
    // the first stream warms the allocator
    fill(&mut windows, MEMORY_STREAMS, &cfg.windower)?;
    let before = resident_bytes()?;
    (0..MEMORY_STREAMS).try_for_each(|stream| fill(&mut windows, stream, &cfg.windower))?;
    let grown = resident_bytes()?.saturating_sub(before);
    std::hint::black_box(&windows);
    Ok(grown / MEMORY_STREAMS as u64)
}

fn resident_bytes() -> anyhow::Result<u64> {
    let text = std::fs::read_to_string("/proc/self/status").context("read /proc/self/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line
        .and_then(|line| line.split_whitespace().next())
        .and_then(|kb| kb.parse::<u64>().ok());
    Ok(kilobytes.context("/proc/self/status tells no VmRSS")? * 1024)
}

/// Time that this process has spent on processors, ended threads included, to 10 ms, as Linux tells it; 0 elsewhere.
fn cpu_time() -> Duration {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // after the name in parentheses: state, then numbers, of which user and system time are the 12th and 13th
    let numbers = text
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(11)
        .take(2);
    let hundredths: u64 = numbers.filter_map(|number| number.parse::<u64>().ok()).sum();
    Duration::from_millis(10 * hundredths)
}
