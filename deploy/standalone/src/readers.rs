//! The demo's readers of what agent and node give out.
//!
//! Place: beside `demo`, as a hospital's own consumers would stand. Invariant: a record that the broker dropped is an error.

use anyhow::{Context as _, bail};
use ecg::report::DraftReport;
use ecg::topic;
use service::kafka::KafkaSettings;
use service::kafka::source::{Event, Source};
use service::shutdown::Shutdown;
use tokio::sync::mpsc;

/// Reads `ecg.reports.v1` until `stop`.
pub async fn drafts(kafka: KafkaSettings, drafts: mpsc::Sender<DraftReport>, stop: Shutdown) -> anyhow::Result<()> {
    let (source, mut events) = Source::start(&kafka, "demo-drafts", &[topic::REPORTS], 64).context("read drafts")?;
    loop {
        let event = tokio::select! { () = stop.wait() => break, event = events.recv() => event };
        match event.context("the reader of drafts ended early")? {
            Event::Record(record) => {
                let draft = serde_json::from_slice(&record.payload).context("parse draft")?;
                source.commit(&record.topic, record.partition, record.offset + 1)?;
                if drafts.send(draft).await.is_err() {
                    break;
                }
            }
            Event::OffsetGap(gap) => bail!("the broker dropped {} drafts: {gap:?}", gap.records()),
            Event::Fatal(error) => bail!("read drafts: {error}"),
            Event::Assigned(_) | Event::Revoked(_) => {}
        }
    }
    source.stop().await.context("stop reading drafts")
}

/// Drains `ecg.rejects.v1` until `stop`, so that the topic has a reader as in production.
pub async fn rejects(kafka: KafkaSettings, stop: Shutdown) -> anyhow::Result<()> {
    let (source, mut events) = Source::start(&kafka, "demo-rejects", &[topic::REJECTS], 64).context("read rejects")?;
    loop {
        let event = tokio::select! { () = stop.wait() => break, event = events.recv() => event };
        if let Event::Record(record) = event.context("the reader of rejects ended early")? {
            source.commit(&record.topic, record.partition, record.offset + 1)?;
        }
    }
    source.stop().await.context("stop reading rejects")
}
