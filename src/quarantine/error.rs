//! Why a slot cannot be had, or an object not be looked at.

use std::error::Error;
use std::fmt;
use std::io;
use std::time::Duration;

use super::slot::Refusal;

/// Why [`enter`](super::QuarantinePool::enter) has no object for a handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stale {
    /// Its owner has released the object, and the slot is free.
    Released,
    /// Its owner has released the object, and the slot is in quarantine.
    InQuarantine,
    /// The slot has another object's life now.
    Reused,
    /// The slot is never used again.
    Retired,
    /// The handle is of another table.
    OtherTable,
    /// No object has had this handle: a token was made up, or is of another table.
    Unknown,
    /// The object is there, but more users are inside than can be counted: 4 million, with 40 bits for the generation.
    TooManyUsers,
}

impl From<Refusal> for Stale {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Released => Stale::Released,
            Refusal::Quarantined => Stale::InQuarantine,
            Refusal::Reused => Stale::Reused,
            Refusal::Retired => Stale::Retired,
            Refusal::Unknown => Stale::Unknown,
            Refusal::TooManyUsers => Stale::TooManyUsers,
        }
    }
}

impl fmt::Display for Stale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stale::Released => "the object was released",
            Stale::InQuarantine => "the object was released, and its slot is in quarantine",
            Stale::Reused => "the object was released, and its slot is used again",
            Stale::Retired => "the slot of the object is retired",
            Stale::OtherTable => "the handle is of another table",
            Stale::Unknown => "no object has this handle",
            Stale::TooManyUsers => "too many users are inside",
        })
    }
}

impl Error for Stale {}

/// There is no slot to [`reserve`](super::QuarantinePool::reserve).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Exhausted {
    /// Slots that owners have, reserved ones among them.
    pub leased: usize,
    /// Slots that wait for the end of their quarantine.
    pub quarantined: usize,
    /// Slots that are never used again.
    pub retired: usize,
    /// How long it is until the next slot is due; `None` if none is in quarantine.
    pub next_due: Option<Duration>,
}

impl fmt::Display for Exhausted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Exhausted { leased, quarantined, retired, next_due } = self;
        write!(f, "no slot is free: {leased} are leased, {quarantined} in quarantine, {retired} retired")?;
        match next_due {
            Some(time) => write!(f, "; the next is due in {time:?}"),
            None => Ok(()),
        }
    }
}

impl Error for Exhausted {}

/// Why a pool cannot be built.
#[derive(Debug)]
#[non_exhaustive]
pub enum BuildError {
    /// `max_size` is 0.
    Zero,
    /// `generation_bits` is not from 8 to 48.
    GenerationBits(u32),
    /// `max_grace` is shorter than `grace`.
    MaxGrace,
    /// The tables of this process have taken too many of the slots that the rest of a token can tell apart.
    TooManySlots,
    /// The recycler's thread could not be started.
    Thread(io::Error),
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BuildError::Zero => f.write_str("`max_size` is 0"),
            BuildError::GenerationBits(bits) => {
                write!(f, "`generation_bits` is {bits}, which is not from 8 to 48")
            }
            BuildError::MaxGrace => f.write_str("`max_grace` is shorter than `grace`"),
            BuildError::TooManySlots => f.write_str("there are more slots than a token can tell apart"),
            BuildError::Thread(_) => f.write_str("the recycler's thread could not be started"),
        }
    }
}

impl Error for BuildError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            BuildError::Thread(error) => Some(error),
            _ => None,
        }
    }
}
