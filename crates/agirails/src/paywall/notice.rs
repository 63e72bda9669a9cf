//! What the operator should know.

use std::{fmt, sync::Arc};

/// How much it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// It is as it should be.
    Info,
    /// Somebody should look at it some time.
    Warning,
    /// Somebody should look at it now.
    Error,
}

/// Something that happened. It may name internals; a caller of the service never sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// How much it matters.
    pub level: Level,
    /// The request that was refused, as its caller was told.
    pub request_id: Option<String>,
    /// What happened, in words.
    pub message: String,
}

/// Whoever listens to notices.
#[derive(Clone)]
pub(super) struct Listener(Arc<dyn Fn(&Notice) + Send + Sync>);

impl Listener {
    pub(super) fn new(listen: impl Fn(&Notice) + Send + Sync + 'static) -> Self {
        Self(Arc::new(listen))
    }

    pub(super) fn tell(&self, level: Level, message: impl Into<String>) {
        (self.0)(&Notice { level, request_id: None, message: message.into() });
    }

    pub(super) fn tell_of(&self, level: Level, request_id: &str, message: impl Into<String>) {
        let request_id = Some(request_id.to_owned());
        (self.0)(&Notice { level, request_id, message: message.into() });
    }
}

/// Without a listener of the application's own, `tracing` gets them.
impl Default for Listener {
    fn default() -> Self {
        Self::new(|Notice { level, request_id, message }| match level {
            Level::Info => tracing::info!(request_id, "{message}"),
            Level::Warning => tracing::warn!(request_id, "{message}"),
            Level::Error => tracing::error!(request_id, "{message}"),
        })
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Listener(..)")
    }
}
