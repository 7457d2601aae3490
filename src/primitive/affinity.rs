//! On which processors a thread may run.

use std::io;

/// The processors that the process may use: those of its first thread, whatever the mask of the calling one.
#[cfg(target_os = "linux")]
pub(crate) fn of_process() -> io::Result<Vec<usize>> {
    // SAFETY: it has no preconditions.
    let process = unsafe { libc::getpid() };
    // A machine may have more processors than the usual set has room for: the kernel says so.
    let mut words = 16;
    loop {
        let mut set = vec![0_u64; words];
        // SAFETY: the set has so many bytes. It is written to, and nothing else.
        let done = unsafe { libc::sched_getaffinity(process, words * 8, set.as_mut_ptr().cast()) };
        if done == 0 {
            let bits = set.iter().enumerate();
            return Ok(bits
                .flat_map(|(at, word)| {
                    (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| at * 64 + bit)
                })
                .collect());
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EINVAL) || words > 1 << 12 {
            return Err(error);
        }
        words *= 2;
    }
}

/// Lets the calling thread, and those that it makes, run on these processors only.
#[cfg(target_os = "linux")]
pub(crate) fn restrict_to(processors: &[usize]) -> io::Result<()> {
    let words = processors.iter().max().map_or(1, |last| last / 64 + 1);
    let mut set = vec![0_u64; words];
    processors.iter().for_each(|processor| set[processor / 64] |= 1 << (processor % 64));
    // SAFETY: the set has so many bytes, and is only read. 0 is the calling thread.
    match unsafe { libc::sched_setaffinity(0, words * 8, set.as_ptr().cast()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn of_process() -> io::Result<Vec<usize>> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn restrict_to(_: &[usize]) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
