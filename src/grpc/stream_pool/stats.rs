//! A snapshot of a [`StreamPool`](super::StreamPool)'s counters.

use std::time::Duration;

use super::address::Address;
use super::member::Member;
use crate::grpc::conn::ConnectivityState;
use crate::grpc::counters::read;
use crate::primitive::Arc;
use crate::primitive::atomic::Ordering;

/// A snapshot of a [`StreamPool`](super::StreamPool). Its numbers are read one after another, while others go on.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct StreamPoolStats {
    /// Each address that somebody has asked for, in the order of their names.
    pub addresses: Vec<AddressStats>,
}

impl StreamPoolStats {
    /// The one with this name, as it was given to the pool.
    pub fn address(&self, name: &str) -> Option<&AddressStats> {
        self.addresses.iter().find(|address| address.address == name)
    }
}

/// One address of a pool.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct AddressStats {
    /// As it was given.
    pub address: String,
    /// Those that take streams, or will when they are Ready.
    pub connections: Vec<ConnectionStats>,
    /// Those that take none any more (they were lost, failed, grew old, were not needed), and those that were made beyond `size`, as
    /// long as streams run on them.
    pub running_out: Vec<ConnectionStats>,
    /// Leases and calls that wait for a stream.
    pub waiting: usize,
    /// Connections made, since the address is known.
    pub made: u64,
    /// Attempts to connect.
    pub dials: u64,
    /// Those of them that failed.
    pub failed_dials: u64,
    /// Sockets that are open now.
    pub open: usize,
    /// The most that were open at once.
    pub peak_open: usize,
}

impl AddressStats {
    /// Streams under way, on all connections.
    pub fn streams(&self) -> usize {
        self.connections.iter().chain(&self.running_out).map(|conn| conn.streams as usize).sum()
    }
}

/// One connection of a pool.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ConnectionStats {
    /// Its state.
    pub state: ConnectivityState,
    /// Leases and calls that it has now.
    pub streams: u32,
    /// What it takes; 0 until it has been Ready.
    pub max_streams: u32,
    /// Since it was made, before it was dialed.
    pub age: Duration,
    /// Calls that were sent.
    pub calls: u64,
    /// Those of them that the connection broke off.
    pub failures: u64,
}

impl AddressStats {
    pub(super) fn read(address: &Arc<Address>) -> Self {
        let (connections, running_out) = address.members();
        let stats =
            |members: Vec<Arc<Member>>| members.iter().map(|member| ConnectionStats::read(member)).collect();
        let counters = &address.group.counters;
        AddressStats {
            address: address.name.to_string(),
            connections: stats(connections),
            running_out: stats(running_out),
            waiting: address.waiting(),
            made: read(&counters.made),
            dials: read(&counters.dials),
            failed_dials: read(&counters.failed_dials),
            open: counters.open(),
            peak_open: counters.peak_open(),
        }
    }
}

impl ConnectionStats {
    fn read(member: &Member) -> Self {
        ConnectionStats {
            state: member.conn.state(),
            streams: member.streams(),
            max_streams: member.limit(),
            age: member.born.elapsed(),
            calls: member.calls.load(Ordering::Relaxed),
            failures: member.failures.load(Ordering::Relaxed),
        }
    }
}
