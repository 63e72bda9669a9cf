//! Ctrl-C, while a command works or asks for a secret.

use std::io;

use tokio::{select, signal::ctrl_c};

/// Works until it is done, or until Ctrl-C: then `None`. What was begun on a chain or at a service is
/// on record, and the same command again goes on with it.
pub async fn interruptible<T>(work: impl Future<Output = T>) -> Option<T> {
    let terminal = Terminal::now();
    select! {
        biased;
        outcome = work => Some(outcome),
        pressed = ctrl_c() => {
            // Without a handler nobody could press it.
            if pressed.is_err() {
                std::future::pending::<()>().await;
            }
            terminal.restore();
            None
        }
    }
}

/// Who asked a command to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Ctrl-C.
    Interrupted,
    /// SIGTERM, as service managers send it.
    Terminated,
}

/// Returns once the process is asked to end.
#[cfg(unix)]
pub async fn asked_to_end() -> End {
    use tokio::signal::unix::{SignalKind, signal};

    let Ok(mut terminate) = signal(SignalKind::terminate()) else { return interrupted().await };
    select! {
        end = interrupted() => end,
        _ = terminate.recv() => End::Terminated,
    }
}

/// Returns once the process is asked to end.
#[cfg(not(unix))]
pub async fn asked_to_end() -> End {
    interrupted().await
}

async fn interrupted() -> End {
    // Without a handler nobody could press it.
    if ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
    End::Interrupted
}

/// The terminal as it was: a prompt for a secret shows nothing of what is typed, also after Ctrl-C.
struct Terminal {
    #[cfg(unix)]
    settings: Option<rustix::termios::Termios>,
}

#[cfg(unix)]
impl Terminal {
    fn now() -> Self {
        Self { settings: rustix::termios::tcgetattr(io::stdin()).ok() }
    }

    fn restore(&self) {
        if let Some(settings) = &self.settings {
            let when = rustix::termios::OptionalActions::Now;
            // Nothing is left to be done about a terminal that is gone.
            let _ = rustix::termios::tcsetattr(io::stdin(), when, settings);
        }
    }
}

#[cfg(not(unix))]
impl Terminal {
    fn now() -> Self {
        let _ = io::stdin();
        Self {}
    }

    fn restore(&self) {}
}
