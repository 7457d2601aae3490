//! Several addresses of one host: tried one beside the other, in the way of RFC 8305 ("happy eyeballs").
//!
//! The addresses take turns by family, that of the first one first. Each attempt begins when the one before it has failed, or
//! has not come through for [`DELAY`]; those that were begun go on. The first that comes through wins, and the others are dropped.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::sleep;

/// How long an attempt has to itself: the RFC's "connection attempt delay".
const DELAY: Duration = Duration::from_millis(250);

/// In the order in which to try them: the families in turn.
fn in_turn(addresses: impl IntoIterator<Item = SocketAddr>) -> VecDeque<SocketAddr> {
    let mut addresses = addresses.into_iter().peekable();
    let first_is_v6 = addresses.peek().is_some_and(SocketAddr::is_ipv6);
    let (mut first, mut second): (VecDeque<_>, VecDeque<_>) =
        addresses.partition(|address| address.is_ipv6() == first_is_v6);
    let mut order = VecDeque::with_capacity(first.len() + second.len());
    while !(first.is_empty() && second.is_empty()) {
        order.extend(first.pop_front());
        order.extend(second.pop_front());
    }
    order
}

/// Connects to one of the addresses. If none can be had the error is that of the last to fail. Has no time limit of its own.
///
/// Cancel safe: all attempts are dropped.
pub(super) async fn connect<S, F>(
    addresses: impl IntoIterator<Item = SocketAddr>,
    attempt: impl Fn(SocketAddr) -> F,
) -> io::Result<S>
where
    F: Future<Output = io::Result<S>>,
{
    let mut left = in_turn(addresses);
    let mut attempts = FuturesUnordered::new();
    let mut last_error = None;
    loop {
        if let Some(address) = left.pop_front() {
            attempts.push(attempt(address));
        }
        let outcome = tokio::select! {
            biased;
            outcome = attempts.next() => outcome,
            () = sleep(DELAY), if !left.is_empty() => continue,
        };
        match outcome {
            Some(Ok(stream)) => return Ok(stream),
            Some(Err(error)) => last_error = Some(error),
            None => {
                let no_address = || io::Error::new(io::ErrorKind::NotFound, "the host has no address");
                return Err(last_error.unwrap_or_else(no_address));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::time::Instant;

    use super::*;

    fn v4(n: u8) -> SocketAddr {
        ([192, 0, 2, n], 1).into()
    }

    fn v6(n: u16) -> SocketAddr {
        ([0x2001, 0xdb8, 0, 0, 0, 0, 0, n], 1).into()
    }

    /// What becomes of an attempt, and after how long.
    type Fate = (SocketAddr, u64, Result<(), &'static str>);

    /// Connects where each address has its fate; and when each attempt began, in ms.
    async fn run(fates: &[Fate]) -> (io::Result<SocketAddr>, Vec<(SocketAddr, u64)>) {
        let start = Instant::now();
        let begun = Mutex::new(Vec::new());
        let attempt = async |address: SocketAddr| {
            begun.lock().unwrap().push((address, start.elapsed().as_millis() as u64));
            let (_, after, fate) = *fates.iter().find(|fate| fate.0 == address).unwrap();
            sleep(Duration::from_millis(after)).await;
            fate.map(|()| address).map_err(io::Error::other)
        };
        let result = connect(fates.iter().map(|fate| fate.0), attempt).await;
        (result, begun.into_inner().unwrap())
    }

    #[test]
    fn the_families_take_turns_the_first_addresss_first() {
        let order = |addresses: &[SocketAddr]| Vec::from(in_turn(addresses.to_vec()));
        assert_eq!(order(&[v6(1), v6(2), v6(3), v4(1)]), [v6(1), v4(1), v6(2), v6(3)]);
        assert_eq!(order(&[v4(1), v4(2), v6(1), v6(2)]), [v4(1), v6(1), v4(2), v6(2)]);
        assert_eq!(order(&[v4(2), v4(1)]), [v4(2), v4(1)]);
        assert_eq!(order(&[]), []);
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_answers_soon_is_the_only_one_tried() {
        let (result, begun) = run(&[(v6(1), 200, Ok(())), (v4(1), 1, Ok(()))]).await;
        assert_eq!(result.unwrap(), v6(1));
        assert_eq!(begun, [(v6(1), 0)]);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_swallows_packets_costs_a_quarter_of_a_second() {
        let start = Instant::now();
        let (result, begun) = run(&[(v6(1), 1 << 30, Err("silence")), (v4(1), 10, Ok(()))]).await;
        assert_eq!(result.unwrap(), v4(1));
        assert_eq!(begun, [(v6(1), 0), (v4(1), 250)]);
        assert!(start.elapsed() < Duration::from_millis(270));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_slow_may_still_win() {
        let fates = [(v6(1), 300, Ok(())), (v4(1), 500, Ok(())), (v6(2), 1, Ok(()))];
        assert_eq!(run(&fates).await.0.unwrap(), v6(1));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_fails_makes_way_at_once() {
        let fates = [(v6(1), 5, Err("refused")), (v4(1), 5, Err("refused")), (v6(2), 5, Ok(()))];
        let (result, begun) = run(&fates).await;
        assert_eq!(result.unwrap(), v6(2));
        assert_eq!(begun.iter().map(|(_, at)| *at / 5).collect::<Vec<_>>(), [0, 1, 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn when_all_fail_the_last_error_is_told() {
        let fates = [(v6(1), 400, Err("late")), (v4(1), 5, Err("early"))];
        assert_eq!(run(&fates).await.0.unwrap_err().to_string(), "late");
        assert_eq!(run(&[]).await.0.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
