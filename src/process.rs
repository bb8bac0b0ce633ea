//! The process among others: signals that end it, and systemd, where it runs under it.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// What a process that was told twice to end exits with.
const EXIT_AT_ONCE: i32 = 1;

/// Chooses how TLS is spoken, unless the program that this is part of has chosen. Two providers are compiled into many
/// programs, and then none is chosen by itself.
pub fn install_tls() {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // An error means that somebody was faster.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
}

/// A token that SIGTERM or Ctrl-C cancels. A second one of either ends the process at once.
///
/// # Errors
/// If the signals cannot be listened to.
pub fn stop_signal() -> std::io::Result<CancellationToken> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stop = CancellationToken::new();
    let cancel = stop.clone();
    tokio::spawn(async move {
        let mut told = 0;
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            told += 1;
            if told > 1 {
                tracing::warn!("told twice to stop: ending at once");
                std::process::exit(EXIT_AT_ONCE);
            }
            tracing::info!("stopping; once more ends at once");
            cancel.cancel();
        }
    });
    Ok(stop)
}

/// Tells systemd that the process serves, and goes on telling its watchdog that the runtime turns.
pub fn notify_ready() {
    notify(&[NotifyState::Ready]);
    let Some(every) = sd_notify::watchdog_enabled().map(|limit| limit / 2).filter(|every| !every.is_zero()) else {
        return;
    };
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(every.max(Duration::from_millis(10))).await;
            notify(&[NotifyState::Watchdog]);
        }
    });
}

/// Tells systemd that the process is about to end.
pub fn notify_stopping() {
    notify(&[NotifyState::Stopping]);
}

fn notify(states: &[NotifyState<'_>]) {
    // Without systemd there is no socket, and nothing is sent.
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd could not be told");
    }
}
