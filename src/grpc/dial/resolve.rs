//! The addresses of a host, by the system's resolver.
//!
//! The resolver blocks, for half a minute where a name server does not answer. tokio runs it on a thread of the runtime,
//! whose end then waits for it, and once for each caller. Here:
//!
//! * A look-up runs on a thread of its own, `cenote-resolve`, which belongs to no runtime: nothing waits for it at a
//!   runtime's end, nor at the end of the process. Its result is dropped if nobody wants it any more.
//! * There is one look-up of a name at a time in the process. Callers that come while it runs share its
//!   outcome; those that come later begin another. Nothing is cached.
//!
//! Since no runtime knows of the thread, tokio's paused clock does not stand still during a look-up.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

use tokio::sync::watch;

use crate::primitive::{Arc, Mutex, spawn_thread};

/// All addresses of `host`, with this port. An IP address is its own.
///
/// Cancel safe: the look-up goes on for others.
pub(in crate::grpc) async fn look_up(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    static LOOK_UPS: LookUps<fn(&str) -> Found> =
        LookUps { running: Mutex::new(BTreeMap::new()), resolve: system };
    match host.parse::<IpAddr>() {
        Ok(address) => Ok(vec![SocketAddr::new(address, port)]),
        Err(_) => LOOK_UPS.look_up(host, port).await,
    }
}

type Found = io::Result<Vec<SocketAddr>>;

fn system(host: &str) -> Found {
    Ok((host, 0).to_socket_addrs()?.collect())
}

/// An error that many callers get.
type Outcome = Result<Arc<[SocketAddr]>, Arc<io::Error>>;

struct LookUps<F> {
    /// By host. An entry is removed before its outcome is sent, so that no caller joins a look-up that is over.
    running: Mutex<BTreeMap<String, watch::Receiver<Option<Outcome>>>>,
    resolve: F,
}

impl<F: Fn(&str) -> Found + Send + Sync> LookUps<F> {
    async fn look_up(&'static self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let mut outcome = self.join(host)?;
        let outcome = match outcome.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone(),
            Err(_) => None,
        };
        match outcome {
            Some(Ok(found)) => {
                let with_port = |address: &SocketAddr| {
                    let mut address = *address;
                    address.set_port(port);
                    address
                };
                Ok(found.iter().map(with_port).collect())
            }
            Some(Err(error)) => Err(io::Error::new(error.kind(), error.to_string())),
            None => Err(io::Error::other("the look-up ended without an outcome")),
        }
    }

    /// The look-up that runs, or another.
    fn join(&'static self, host: &str) -> io::Result<watch::Receiver<Option<Outcome>>> {
        let (sender, receiver) = watch::channel(None);
        {
            let mut running = self.running.lock();
            if let Some(outcome) = running.get(host) {
                return Ok(outcome.clone());
            }
            running.insert(host.to_owned(), receiver.clone());
        }
        let entry = Entry { look_ups: self, host: host.to_owned() };
        // Where no thread can be had, the closure is dropped, and with it the entry.
        spawn_thread("cenote-resolve", move || {
            let found = (self.resolve)(&entry.host);
            drop(entry);
            sender.send_replace(Some(found.map(Arc::from).map_err(Arc::new)));
        })?;
        Ok(receiver)
    }
}

struct Entry<F: 'static> {
    look_ups: &'static LookUps<F>,
    host: String,
}

impl<F> Drop for Entry<F> {
    fn drop(&mut self) {
        let entry = self.look_ups.running.lock().remove(&self.host);
        drop(entry);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::time::{Duration, Instant};

    use super::*;

    fn v4(last: u8, port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, last], port))
    }

    type Resolver = Box<dyn Fn(&str) -> Found + Send + Sync>;

    /// A resolver that does not answer until it may, and how often it was asked.
    struct Slow {
        may_answer: Arc<AtomicBool>,
        asked: Arc<AtomicUsize>,
        look_ups: &'static LookUps<Resolver>,
    }

    fn slow() -> Slow {
        let may_answer = Arc::new(AtomicBool::new(false));
        let asked = Arc::new(AtomicUsize::new(0));
        let (wait, counted) = (Arc::clone(&may_answer), Arc::clone(&asked));
        let resolve = move |host: &str| {
            counted.fetch_add(1, Ordering::SeqCst);
            while !wait.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            match host {
                "unknown" => Err(io::Error::new(io::ErrorKind::NotFound, "no such host")),
                "panic" => panic!("by this test's resolver"),
                _ => Ok(vec![v4(1, 0), v4(2, 0)]),
            }
        };
        let look_ups = LookUps { running: Mutex::new(BTreeMap::new()), resolve: Box::new(resolve) as _ };
        Slow { may_answer, asked, look_ups: Box::leak(Box::new(look_ups)) }
    }

    #[tokio::test]
    async fn callers_share_the_look_up_of_a_name_that_is_under_way() {
        let slow = slow();
        let look_ups = slow.look_ups;
        let callers: Vec<_> = (0..50u16)
            .map(|n| {
                let host = ["one", "other", "unknown", "panic"][usize::from(n % 4)];
                tokio::spawn(async move { (host, n, look_ups.look_up(host, n).await) })
            })
            .collect();
        while slow.asked.load(Ordering::SeqCst) < 4 {
            tokio::task::yield_now().await;
        }
        // All have asked: what runs here runs in turn.
        tokio::task::yield_now().await;
        slow.may_answer.store(true, Ordering::SeqCst);
        for caller in callers {
            match caller.await.unwrap() {
                ("unknown", _, found) => assert_eq!(found.unwrap_err().kind(), io::ErrorKind::NotFound),
                ("panic", _, found) => assert_eq!(found.unwrap_err().kind(), io::ErrorKind::Other),
                (_, port, found) => {
                    assert_eq!(found.unwrap(), [v4(1, port), v4(2, port)]);
                }
            }
        }
        assert_eq!(slow.asked.load(Ordering::SeqCst), 4);
        assert!(look_ups.running.lock().is_empty());
        look_ups.look_up("one", 1).await.unwrap();
        assert_eq!(slow.asked.load(Ordering::SeqCst), 5, "nothing is cached");
    }

    #[test]
    fn the_end_of_a_runtime_does_not_wait_for_a_name_server() {
        let slow = slow();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let look_ups = slow.look_ups;
        runtime.block_on(async {
            tokio::spawn(look_ups.look_up("one", 1));
            while slow.asked.load(Ordering::SeqCst) == 0 {
                tokio::task::yield_now().await;
            }
        });
        let before = Instant::now();
        // A wait here would not end.
        drop(runtime);
        assert!(before.elapsed() < Duration::from_secs(5));
        // Those of other runtimes share what was begun there.
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let other = runtime.spawn(look_ups.look_up("one", 7));
        runtime.block_on(tokio::task::yield_now());
        slow.may_answer.store(true, Ordering::SeqCst);
        assert_eq!(runtime.block_on(other).unwrap().unwrap()[0], v4(1, 7));
        assert_eq!(slow.asked.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn an_ip_address_is_its_own_and_a_name_is_the_systems() {
        for address in ["127.0.0.1", "::1"] {
            let expected = SocketAddr::new(address.parse().unwrap(), 5);
            assert_eq!(look_up(address, 5).await.unwrap(), [expected]);
        }
        let local = look_up("localhost", 5).await.unwrap();
        assert!(!local.is_empty() && local.iter().all(|found| found.ip().is_loopback() && found.port() == 5));
        assert!(look_up("no.such.host.invalid", 5).await.is_err());
    }
}
