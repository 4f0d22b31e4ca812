//! One job at a time, and no late write of one that lost its turn.
//!
//! Place: taken before a run, asked before its promotion. Layout: leases/NNNNNNNN.json in the registry; the number is the
//! fencing token. Invariant: tokens only rise; a job whose token is not the highest any more is fenced and writes nothing.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use store::Store;
use store::registry::{numbered, parse};

const FOLDER: &str = "leases";
/// Renewals in the length of a lease that is kept: a store on the network is not asked at every training step, and a lease
/// that was lost is noticed long before it would have ended.
const RENEWALS: i64 = 20;

/// leases/NNNNNNNN.json.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    token: u64,
    holder: Holder,
    /// Microseconds since the Unix epoch.
    until_us: i64,
    released: bool,
}

impl Entry {
    /// True when it is not `asking`'s turn.
    fn excludes(&self, asking: &Holder, now_us: i64) -> bool {
        !self.released && self.until_us > now_us && self.holder != *asking && !self.holder.is_gone(asking)
    }
}

/// The process that holds a lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    pub host: String,
    pub process: u32,
    pub run: String,
}

impl Holder {
    /// This process, for a run.
    pub fn this(run: &str) -> Self {
        Self {
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            process: std::process::id(),
            run: run.to_owned(),
        }
    }

    /// True when the process surely ended: it ran on this host and is not there any more.
    fn is_gone(&self, asking: &Holder) -> bool {
        !self.host.is_empty() && self.host == asking.host && !Path::new(&format!("/proc/{}", self.process)).exists()
    }
}

/// A lease that this process holds.
#[derive(Debug)]
pub struct Lease {
    store: Arc<dyn Store>,
    entry: Entry,
    length_us: i64,
}

/// What became of asking for a lease.
#[derive(Debug)]
pub enum Asked {
    Granted(Lease),
    /// Somebody else's turn.
    Held {
        by: Holder,
        until_us: i64,
    },
}

impl Lease {
    /// Asks for the lease of a registry, for `length_us` from `now_us` on. A lease that was released, is over, or belonged to
    /// a process of this host that ended is taken over with a higher token.
    ///
    /// # Errors
    /// A registry that cannot be read or written.
    pub fn ask(store: &Arc<dyn Store>, holder: Holder, now_us: i64, length_us: i64) -> anyhow::Result<Asked> {
        let last = highest(&**store)?;
        if let Some(held) = last.as_ref().filter(|held| held.excludes(&holder, now_us)) {
            return Ok(Asked::Held {
                by: held.holder.clone(),
                until_us: held.until_us,
            });
        }
        let entry = Entry {
            token: last.map_or(1, |held| held.token + 1),
            holder,
            until_us: now_us + length_us,
            released: false,
        };
        if store.create_new(&key(entry.token), &serde_json::to_vec_pretty(&entry)?)? {
            return Ok(Asked::Granted(Self {
                store: Arc::clone(store),
                entry,
                length_us,
            }));
        }
        let won = highest(&**store)?.context("the lease that was taken first is gone")?;
        Ok(Asked::Held {
            by: won.holder,
            until_us: won.until_us,
        })
    }

    /// The fencing token.
    pub fn token(&self) -> u64 {
        self.entry.token
    }

    /// The run that it was taken for.
    pub fn run(&self) -> &str {
        &self.entry.holder.run
    }

    /// As [`Lease::renew`], once a part of its length has gone by; before that, nothing is asked.
    ///
    /// # Errors
    /// As [`Lease::renew`].
    pub fn keep(&mut self, now_us: i64) -> anyhow::Result<()> {
        let left_us = self.entry.until_us - now_us;
        if left_us > self.length_us - self.length_us / RENEWALS {
            return Ok(());
        }
        self.renew(now_us)
    }

    /// Extends the lease, which must still be this process's.
    ///
    /// # Errors
    /// A higher token was given out, or the lease was over: whoever holds it must stop.
    pub fn renew(&mut self, now_us: i64) -> anyhow::Result<()> {
        self.check(now_us)?;
        self.entry.until_us = now_us + self.length_us;
        self.write()
    }

    /// # Errors
    /// As [`Lease::renew`].
    pub fn check(&self, now_us: i64) -> anyhow::Result<()> {
        let highest = highest(&*self.store)?.map_or(0, |entry| entry.token);
        if highest != self.entry.token {
            bail!(
                "fenced: token {} was given out after token {}",
                highest,
                self.entry.token
            );
        }
        if now_us >= self.entry.until_us {
            bail!(
                "lease {} was over at {} us, now is {now_us} us",
                self.entry.token,
                self.entry.until_us
            );
        }
        Ok(())
    }

    /// Gives the lease back, so that the next job need not wait.
    ///
    /// # Errors
    /// A registry that cannot be written.
    pub fn release(mut self) -> anyhow::Result<()> {
        self.entry.released = true;
        self.write()
    }

    /// Its object is this process's alone to write: whoever takes the lease over creates the next.
    fn write(&self) -> anyhow::Result<()> {
        self.store
            .put(&key(self.entry.token), &serde_json::to_vec_pretty(&self.entry)?)
    }
}

/// Who has the lease of a registry, if it is another process.
///
/// # Errors
/// A registry that cannot be read.
pub fn held(store: &Arc<dyn Store>, now_us: i64) -> anyhow::Result<Option<Holder>> {
    let last = highest(&**store)?.filter(|held| held.excludes(&Holder::this(""), now_us));
    Ok(last.map(|held| held.holder))
}

fn key(token: u64) -> String {
    format!("{FOLDER}/{token:08}.json")
}

fn highest(store: &dyn Store) -> anyhow::Result<Option<Entry>> {
    match numbered(store, FOLDER)?.pop() {
        Some((_, key)) => parse(store, &key),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_US: i64 = 3_600_000_000;

    fn other(run: &str) -> Holder {
        Holder {
            host: "elsewhere".to_owned(),
            process: 1,
            run: run.to_owned(),
        }
    }

    fn store() -> (tempfile::TempDir, Arc<dyn Store>) {
        let dir = tempfile::tempdir().unwrap();
        let store = store::open(&dir.path().into()).unwrap();
        (dir, store)
    }

    fn granted(asked: Asked) -> Lease {
        match asked {
            Asked::Granted(lease) => lease,
            Asked::Held { by, .. } => panic!("held by {by:?}"),
        }
    }

    #[test]
    fn a_second_job_waits_until_the_lease_is_given_back_or_over() {
        let (_dir, store) = store();
        let ask = |holder, now| Lease::ask(&store, holder, now, HOUR_US).unwrap();
        let first = granted(ask(Holder::this("a"), 0));
        assert!(matches!(ask(other("b"), 1), Asked::Held { until_us: HOUR_US, .. }));
        first.release().unwrap();
        let second = granted(ask(other("b"), 2));
        assert_eq!(second.token(), 2);
        let third = granted(ask(other("c"), 2 + HOUR_US));
        let error = second.check(3).unwrap_err().to_string();
        assert!(error.contains("fenced") && error.contains('3'), "{error}");
        third.check(3 + HOUR_US).unwrap();
        assert!(
            third
                .check(2 + 2 * HOUR_US)
                .unwrap_err()
                .to_string()
                .contains("was over")
        );
    }

    #[test]
    fn a_killed_process_of_this_host_does_not_hold_its_lease() {
        let (_dir, store) = store();
        let mut dead = Holder::this("a");
        dead.process = u32::MAX;
        granted(Lease::ask(&store, dead, 0, HOUR_US).unwrap());
        let mut lease = granted(Lease::ask(&store, Holder::this("a"), 1, HOUR_US).unwrap());
        lease.renew(2).unwrap();
        assert_eq!(lease.token(), 2);
    }

    #[test]
    fn a_lease_is_renewed_when_a_part_of_it_has_gone_by() {
        let (_dir, store) = store();
        let mut lease = granted(Lease::ask(&store, other("a"), 0, HOUR_US).unwrap());
        let until = |lease: &Lease| lease.entry.until_us;
        lease.keep(HOUR_US / 40).unwrap();
        assert_eq!(until(&lease), HOUR_US);
        lease.keep(HOUR_US / 10).unwrap();
        assert_eq!(until(&lease), HOUR_US + HOUR_US / 10);
        granted(Lease::ask(&store, other("b"), 2 * HOUR_US, HOUR_US).unwrap());
        assert!(lease.keep(HOUR_US).unwrap_err().to_string().contains("fenced"));
    }
}
