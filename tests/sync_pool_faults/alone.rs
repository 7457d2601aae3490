//! A test in a process of its own, where it may crash, hang, or count what the whole process does.

use std::any::type_name;
use std::io::Read;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Names the one test that this process was started for.
const TEST: &str = "CENOTE_TEST_ALONE";

/// Longer than any trial takes on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// Runs `trial` in a process of its own, which fails the test if it fails or does not end within
/// [`LIMIT`].
#[track_caller]
pub(crate) fn alone<F: FnOnce()>(trial: F) {
    if let Some(printed) = printed_alone(trial) {
        print!("{printed}");
    }
}

/// As [`alone`]. Returns what the process has printed, and `None` in that process itself.
///
/// The process runs this test binary again, for the test in which the closure is written: the name
/// of the closure's type says which test that is.
#[track_caller]
pub(crate) fn printed_alone<F: FnOnce()>(trial: F) -> Option<String> {
    let closure = type_name::<F>();
    let test = closure.split_once("::").and_then(|(_, test)| test.split_once("::{{")).map(|(test, _)| test);
    let test = test.unwrap_or_else(|| panic!("{closure} is no closure in a test"));
    if std::env::var(TEST).is_ok_and(|name| name == test) {
        trial();
        return None;
    }
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(TEST, test)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (out, err) = (read_all(child.stdout.take().unwrap()), read_all(child.stderr.take().unwrap()));
    let began = Instant::now();
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break status.to_string(),
            None if began.elapsed() > LIMIT => {
                child.kill().unwrap();
                child.wait().unwrap();
                break format!("no end after {LIMIT:?}");
            }
            None => thread::sleep(Duration::from_millis(2)),
        }
    };
    let (out, err) = (out.join().unwrap(), err.join().unwrap());
    assert!(out.contains("test result: ok. 1 passed"), "{test}: {status}\n{out}\n{err}");
    Some(out)
}

fn read_all(mut pipe: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut text = Vec::new();
        let _ = pipe.read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    })
}
