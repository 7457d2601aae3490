//! What a pool asks about each object that comes back.

use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};

/// The recycle hook of a pool: resets an object and says whether to keep it.
pub(super) enum Recycle<T> {
    /// Every object is kept as it is.
    Nothing,
    Function(fn(&mut T) -> bool),
    /// One that captures.
    Closure(Box<dyn Fn(&mut T) -> bool + Send + Sync>),
}

/// A closure that panics costs one object. What it captures is shared by all threads, so it is made for calls that end in any way.
impl<T> UnwindSafe for Recycle<T> {}
impl<T> RefUnwindSafe for Recycle<T> {}

impl<T> Recycle<T> {
    pub(super) const fn from_option(hook: Option<fn(&mut T) -> bool>) -> Self {
        match hook {
            None => Recycle::Nothing,
            Some(hook) => Recycle::Function(hook),
        }
    }

    /// Whether the object is to be kept.
    #[inline]
    pub(super) fn accepts(&self, object: &mut T) -> bool {
        match self {
            Recycle::Nothing => true,
            Recycle::Function(hook) => hook(object),
            Recycle::Closure(hook) => hook(object),
        }
    }

    pub(super) fn is_nothing(&self) -> bool {
        matches!(self, Recycle::Nothing)
    }
}

impl<T> fmt::Debug for Recycle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Recycle::Nothing => "none",
            Recycle::Function(_) => "a function",
            Recycle::Closure(_) => "a closure",
        })
    }
}
