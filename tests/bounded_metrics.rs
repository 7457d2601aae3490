//! What a named pool tells the `metrics` facade.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use cenote::bounded::{BoundedPool, from_fn};
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use tokio::time::sleep;

/// Sums of what was told, by pool, name and state. Histograms are the numbers of their records.
struct Told {
    snapshotter: Snapshotter,
    sums: BTreeMap<(String, String), f64>,
}

impl Told {
    fn of(recorder: &DebuggingRecorder) -> Self {
        Told { snapshotter: recorder.snapshotter(), sums: BTreeMap::new() }
    }

    fn by(&mut self, pool: &str) -> BTreeMap<&str, f64> {
        for (key, _, _, value) in self.snapshotter.snapshot().into_vec() {
            let label =
                |name| key.key().labels().find(|label| label.key() == name).map(|label| label.value());
            let pool = label("db.client.connection.pool.name").expect("each carries it").to_owned();
            let state =
                label("db.client.connection.state").map(|state| format!(" {state}")).unwrap_or_default();
            let name =
                key.key().name().strip_prefix("db.client.connection.").expect("OpenTelemetry's prefix");
            // A snapshot takes the values away.
            let value = match value {
                DebugValue::Gauge(value) => value.into_inner(),
                DebugValue::Counter(value) => value as f64,
                DebugValue::Histogram(values) => {
                    assert!(
                        values.iter().all(|value| (0.0..60.0).contains(&value.into_inner())),
                        "{values:?} s"
                    );
                    values.len() as f64
                }
            };
            *self.sums.entry((pool, format!("{name}{state}"))).or_default() += value;
        }
        let of_pool = self.sums.iter().filter(|((of, _), _)| of == pool);
        of_pool.map(|((_, name), value)| (name.as_str(), *value)).collect()
    }
}

#[tokio::test]
async fn a_named_pool_tells_its_counts_limits_and_times() {
    let recorder = DebuggingRecorder::new();
    let mut told = Told::of(&recorder);
    let build = |name| {
        let manager = from_fn(|| async { Ok::<_, io::Error>(()) });
        metrics::with_local_recorder(&recorder, || {
            BoundedPool::builder(manager).max_size(2).min_idle(1).name(name).build().unwrap()
        })
    };
    let (pool, other) = (build("orders"), build("other"));
    while pool.stats().idle < 1 || other.stats().idle < 1 {
        sleep(Duration::from_millis(1)).await;
    }
    let first = pool.get().await.unwrap();
    let second = pool.get().await.unwrap();
    pool.get_timeout(Duration::from_millis(5)).await.unwrap_err();
    drop(first);
    let expected = [
        ("count idle", 1.0),
        ("count used", 1.0),
        ("create_time", 2.0),
        ("idle.max", 2.0),
        ("idle.min", 1.0),
        ("max", 2.0),
        ("pending_requests", 0.0),
        ("timeouts", 1.0),
        ("use_time", 1.0),
        ("wait_time", 2.0),
    ];
    assert_eq!(told.by("orders").into_iter().collect::<Vec<_>>(), expected);

    let first = pool.get().await.unwrap();
    let waiter = tokio::spawn({
        let pool = pool.clone();
        async move { drop(pool.get().await) }
    });
    while pool.stats().waiting == 0 {
        sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(told.by("orders")["pending_requests"], 1.0);
    drop((first, second));
    waiter.await.unwrap();
    pool.resize(1);
    drop(pool);
    let mut gone = || {
        let found = told.by("orders");
        (found["count idle"], found["count used"], found["pending_requests"], found["max"])
    };
    for _ in 0..5_000 {
        if gone() == (0.0, 0.0, 0.0, 0.0) {
            break;
        }
        sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(gone(), (0.0, 0.0, 0.0, 0.0), "nothing is left of a pool that is gone");
    assert_eq!(told.by("other")["count idle"], 1.0);
}

#[tokio::test]
async fn a_pool_without_a_name_tells_nothing() {
    let recorder = DebuggingRecorder::new();
    let manager = from_fn(|| async { Ok::<_, io::Error>(()) });
    let pool = metrics::with_local_recorder(&recorder, || BoundedPool::builder(manager).build().unwrap());
    drop(pool.get().await.unwrap());
    assert!(recorder.snapshotter().snapshot().into_vec().is_empty());
}
