//! `tracing`, where the feature is on; nothing, where it is not.

/// `trace_event!("what happened", key = value, ..)`: an event at debug level, each value by its `Display`. Nothing
/// is evaluated unless somebody listens.
macro_rules! trace_event {
    ($message:literal $(, $key:ident = $value:expr)* $(,)?) => {
        #[cfg(feature = "tracing")]
        ::tracing::debug!($($key = %$value,)* $message);
        #[cfg(not(feature = "tracing"))]
        if false {
            $(let _ = &$value;)*
        }
    };
}

pub(crate) use trace_event;
