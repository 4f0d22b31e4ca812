//! One switch that every task of a process looks at.
//!
//! Place: an argument of every `run`, so that tests, the demo and signals stop it alike.
//! Invariant: once triggered it stays triggered, for every clone.

use std::sync::Arc;

use tokio::sync::watch;

/// A handle on the switch; clones share it.
#[derive(Clone, Debug)]
pub struct Shutdown {
    stopped: Arc<watch::Sender<bool>>,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self::new()
    }
}

impl Shutdown {
    /// A switch that only [`Shutdown::trigger`] turns.
    pub fn new() -> Self {
        let (stopped, _) = watch::channel(false);
        Self {
            stopped: Arc::new(stopped),
        }
    }

    /// A switch that SIGINT and SIGTERM turn; a second signal ends the process at once with code 130.
    ///
    /// # Panics
    /// Outside of a tokio runtime, and when the operating system refuses a signal handler.
    pub fn from_signals() -> Self {
        use tokio::signal::unix::{SignalKind, signal};
        let mut interrupt = signal(SignalKind::interrupt()).expect("a process may handle SIGINT");
        let mut terminate = signal(SignalKind::terminate()).expect("a process may handle SIGTERM");
        let shutdown = Self::new();
        let switch = shutdown.clone();
        tokio::spawn(async move {
            loop {
                let name = tokio::select! {
                    _ = interrupt.recv() => "SIGINT",
                    _ = terminate.recv() => "SIGTERM",
                };
                if switch.is_triggered() {
                    std::process::exit(130);
                }
                tracing::info!(signal = name, "stopping; a second signal ends the process at once");
                switch.trigger();
            }
        });
        shutdown
    }

    /// Turns the switch.
    pub fn trigger(&self) {
        self.stopped.send_replace(true);
    }

    /// True once the switch was turned.
    pub fn is_triggered(&self) -> bool {
        *self.stopped.borrow()
    }

    /// Returns when the switch is turned, at once if it already is.
    pub async fn wait(&self) {
        let waited = self.stopped.subscribe().wait_for(|stopped| *stopped).await.map(drop);
        waited.expect("self holds the sender, so the channel is open");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_clone_sees_the_switch_before_and_after_it_was_turned() {
        let shutdown = Shutdown::new();
        let waiting = tokio::spawn({
            let clone = shutdown.clone();
            async move { clone.wait().await }
        });
        assert!(!shutdown.is_triggered());
        shutdown.trigger();
        waiting.await.unwrap();
        shutdown.clone().wait().await;
        assert!(shutdown.is_triggered());
    }
}
