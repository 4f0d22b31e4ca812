//! The review page of the demo.
//!
//! Place: beside the processes of the demo, on the same broker. Invariant: nothing of it outlasts the demo: the embedded
//! broker forgets the signatures, so their audit log lies in the temporary directory under the process's id.

use std::net::SocketAddr;

use anyhow::Context as _;
use review::Server;
use review::metrics::Metrics;
use review::settings::ReviewSettings;
use service::kafka::KafkaSettings;
use service::shutdown::Shutdown;
use tokio::task::JoinHandle;

/// A page that is being served.
pub(crate) struct Page {
    address: SocketAddr,
    metrics: Metrics,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Page {
    /// Serves the page at the address of the settings until `stop`, and says where.
    ///
    /// # Errors
    /// As [`Server::bind`].
    pub(crate) async fn open(kafka: &KafkaSettings, metrics: Metrics, stop: Shutdown) -> anyhow::Result<Self> {
        let mut settings: ReviewSettings = service::settings::load("review", None)?;
        settings.kafka = kafka.clone();
        let audit = format!("meit-demo-audit-{}.jsonl", std::process::id());
        settings.review.audit_file = std::env::temp_dir().join(audit);
        let audit = settings.review.audit_file.display().to_string();
        let server = Server::bind(settings, metrics.clone(), stop).await?;
        let address = server.address();
        eprintln!("review page http://{address}/ · audit log {audit}");
        let task = tokio::spawn(server.run());
        Ok(Self { address, metrics, task })
    }

    /// Waits for the interrupt, or for the page's own end.
    pub(crate) async fn stay(&mut self, interrupt: &Shutdown) {
        eprintln!("review page http://{}/ stays open; Ctrl-C ends it", self.address);
        tokio::select! {
            () = interrupt.wait() => {}
            // its error is told by `close`
            () = wait_finished(&self.task) => {}
        }
    }

    /// Waits until it has stopped, and says what was signed.
    ///
    /// # Errors
    /// What ended it early.
    pub(crate) async fn close(page: Option<Self>) -> anyhow::Result<()> {
        let Some(page) = page else { return Ok(()) };
        page.task.await.context("review page panicked")??;
        let signed = page.metrics.signed_total();
        eprintln!("{signed} reports signed or rejected on the review page");
        Ok(())
    }
}

async fn wait_finished(task: &JoinHandle<anyhow::Result<()>>) {
    while !task.is_finished() {
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
}
