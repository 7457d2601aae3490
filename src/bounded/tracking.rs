//! Which lease is out since when, for which task or thread, and where it was asked for.

use std::collections::HashMap;
use std::panic::Location;
use std::time::Duration;

use super::time::Time;

/// A lease that is out for longer than it should be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Overdue {
    pub(super) id: u64,
    pub(super) site: &'static Location<'static>,
    pub(super) since: Time,
}

#[derive(Debug)]
struct Lease {
    holder: u64,
    site: &'static Location<'static>,
    since: Time,
    is_reported: bool,
}

/// The leases that are out, by the object's id.
#[derive(Debug)]
pub(super) struct Tracking {
    leases: HashMap<u64, Lease>,
    /// After which time a lease is reported.
    limit: Duration,
}

impl Tracking {
    pub(super) fn new(limit: Duration) -> Self {
        Tracking { leases: HashMap::new(), limit }
    }

    pub(super) fn begin(&mut self, id: u64, holder: u64, site: &'static Location<'static>, now: Time) {
        self.leases.insert(id, Lease { holder, site, since: now, is_reported: false });
    }

    /// When a lease that begins now is reported.
    pub(super) fn limit_from(&self, now: Time) -> Time {
        now.after(self.limit)
    }

    pub(super) fn end(&mut self, id: u64) {
        self.leases.remove(&id);
    }

    /// How many of the waiters' holders have a lease.
    pub(super) fn holders_among(&self, waiters: impl Iterator<Item = u64>) -> usize {
        let holders: std::collections::HashSet<u64> =
            self.leases.values().map(|lease| lease.holder).collect();
        waiters.filter(|holder| holders.contains(holder)).count()
    }

    pub(super) fn next_report(&self) -> Time {
        let open = self.leases.values().filter(|lease| !lease.is_reported);
        open.map(|lease| lease.since.after(self.limit)).min().unwrap_or(Time::NEVER)
    }

    /// Each lease is reported once.
    pub(super) fn report(&mut self, now: Time) -> Vec<Overdue> {
        let mut overdue = Vec::new();
        for (&id, lease) in &mut self.leases {
            if !lease.is_reported && lease.since.after(self.limit) <= now {
                lease.is_reported = true;
                overdue.push(Overdue { id, site: lease.site, since: lease.since });
            }
        }
        overdue
    }
}

#[cfg(all(test, not(cenote_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_reported_once_and_no_longer_when_it_has_ended() {
        let mut tracking = Tracking::new(Duration::from_secs(1));
        let at = |ms: u64| Time::from_nanos(ms * 1_000_000);
        tracking.begin(1, 7, Location::caller(), at(0));
        tracking.begin(2, 8, Location::caller(), at(500));
        assert_eq!(tracking.next_report(), at(1000));
        let reported: Vec<u64> = tracking.report(at(1200)).iter().map(|overdue| overdue.id).collect();
        assert_eq!(reported, [1]);
        assert!(tracking.report(at(1300)).is_empty());
        assert_eq!(tracking.holders_among([7, 7, 9].into_iter()), 2);
        tracking.end(2);
        assert!(tracking.report(at(9000)).is_empty());
        assert!(tracking.next_report().is_never());
    }
}
