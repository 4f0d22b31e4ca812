//! How often an address may ask.
//!
//! Place: first thing in the guard. Invariant: bounded; an address that asks too often waits, the others do not notice.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::Instant;

/// Addresses that are remembered; one more forgets those that have asked least lately.
const ADDRESSES_MAX: usize = 4096;
/// Seconds of requests that may come at once.
const BURST_SECONDS: f64 = 10.0;
/// A refused token costs as many requests, so that guessing is slow.
pub const LOGIN_REFUSED_COST: f64 = 50.0;

/// Requests that an address has left, and when that was counted.
struct Bucket {
    left: f64,
    at: Instant,
}

/// The limiter: a token bucket for each address.
pub struct RateLimit {
    per_second: f64,
    buckets: Mutex<HashMap<IpAddr, Bucket>>,
}

impl RateLimit {
    /// A limiter of `per_second` requests, averaged over ten seconds.
    pub fn new(per_second: u32) -> Self {
        Self {
            per_second: f64::from(per_second),
            buckets: Mutex::default(),
        }
    }

    /// Takes one request from an address's account; false when nothing is left.
    pub fn admits(&self, address: IpAddr, now: Instant) -> bool {
        self.with(address, now, |bucket| {
            let admits = bucket.left >= 1.0;
            if admits {
                bucket.left -= 1.0;
            }
            admits
        })
    }

    /// Takes a refused login from an address's account.
    pub fn charge_refused_login(&self, address: IpAddr, now: Instant) {
        self.with(address, now, |bucket| bucket.left -= LOGIN_REFUSED_COST);
    }

    fn with<T>(&self, address: IpAddr, now: Instant, change: impl FnOnce(&mut Bucket) -> T) -> T {
        let full = self.per_second * BURST_SECONDS;
        let mut buckets = self.buckets.lock().expect("no code panics while it holds this lock");
        if buckets.len() >= ADDRESSES_MAX && !buckets.contains_key(&address) {
            // whoever is full again loses nothing by being forgotten
            let filled = |bucket: &Bucket| bucket.left + now.duration_since(bucket.at).as_secs_f64() * self.per_second;
            buckets.retain(|_, bucket| filled(bucket) < full);
            if buckets.len() >= ADDRESSES_MAX {
                buckets.clear();
            }
        }
        let bucket = buckets.entry(address).or_insert(Bucket { left: full, at: now });
        let gained = now.duration_since(bucket.at).as_secs_f64() * self.per_second;
        bucket.left = (bucket.left + gained).min(full);
        bucket.at = now;
        change(bucket)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, 0, 0, last))
    }

    #[test]
    fn an_address_that_asks_too_often_waits_and_the_others_do_not() {
        let limit = RateLimit::new(2);
        let start = Instant::now();
        let admitted = (0..30).filter(|_| limit.admits(address(1), start)).count();
        assert_eq!(admitted, 20);
        assert!(limit.admits(address(2), start));
        let later = start + Duration::from_secs(1);
        assert_eq!((0..5).filter(|_| limit.admits(address(1), later)).count(), 2);
    }

    #[test]
    fn refused_logins_cost_more() {
        let limit = RateLimit::new(10);
        let start = Instant::now();
        limit.charge_refused_login(address(1), start);
        limit.charge_refused_login(address(1), start);
        assert!(!limit.admits(address(1), start));
        assert!(limit.admits(address(1), start + Duration::from_secs(1)));
    }
}
