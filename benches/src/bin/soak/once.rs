//! Which calls the servers have begun to handle. None may begin twice, whichever server it reaches: a call that may have been
//! processed is never sent again.
//!
//! A call's name, which its server gets in the first message, begins with its number. A server that refused a call, or took
//! leave without it, has not begun it; a unary handler begins when the whole message is there.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// For so long, at least, a call is known. No deadline and no fault is nearly as long.
const KEPT: Duration = Duration::from_secs(60);

static NEXT: AtomicU64 = AtomicU64::new(0);

static BEGUN: LazyLock<Mutex<Begun>> = LazyLock::new(|| Mutex::new(Begun::new(Instant::now())));

/// A name that no other call has.
pub(crate) fn name(source: &str, kind: &str) -> String {
    format!("{:x} {source}, {kind};", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// That a handler of the server at `place` begins; an error if it is not the first for this call.
pub(crate) fn begin(name: &str, place: usize) -> Result<(), String> {
    let number = name.split(' ').next().and_then(|number| u64::from_str_radix(number, 16).ok());
    let number = number.ok_or_else(|| format!("a call without a number: {name:.80}"))?;
    let before = BEGUN.lock().unwrap_or_else(PoisonError::into_inner).begin(number, place);
    match before {
        None => Ok(()),
        Some((at, before)) => {
            let ago = at.elapsed();
            // A large one has its name in it many times.
            let name = name.split(';').next().unwrap_or(name);
            Err(format!("{name}: processed twice, by server {before}, and {ago:?} later by server {place}"))
        }
    }
}

type Beginnings = HashMap<u64, (Instant, usize)>;

/// Two generations, so that a long soak does not fill the memory.
struct Begun {
    since: Instant,
    young: Beginnings,
    old: Beginnings,
}

impl Begun {
    fn new(since: Instant) -> Self {
        Begun { since, young: HashMap::new(), old: HashMap::new() }
    }

    /// When and where it began before.
    fn begin(&mut self, number: u64, place: usize) -> Option<(Instant, usize)> {
        let now = Instant::now();
        if now - self.since > KEPT {
            self.since = now;
            self.old = std::mem::take(&mut self.young);
        }
        let before = self.old.get(&number).copied();
        self.young.insert(number, (now, place)).or(before)
    }
}
