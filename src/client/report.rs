//! What `submit` prints: ids on stdout, errors, progress and the summary on stderr.

use std::fmt;
use std::io::{IsTerminal, Write, stderr, stdout};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

/// Prints so that lines and the progress bar do not disturb each other.
pub struct Report {
    form: Form,
    bar: Option<ProgressBar>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Plain,
    Json,
    /// Errors only.
    Quiet,
}

impl Report {
    /// A progress bar is shown on a terminal only, over `bytes_total` where that is known.
    pub fn new(form: Form, bytes_total: Option<u64>) -> Report {
        let bar = (stderr().is_terminal() && form != Form::Quiet).then(|| {
            let (bar, template) = match bytes_total {
                Some(total) => (ProgressBar::new(total), "{bar:30} {percent:>3}%  {msg}  {elapsed}"),
                None => (ProgressBar::new_spinner(), "{spinner} {msg}  {elapsed}"),
            };
            // The template is a constant; with a wrong one the bar just looks as it does by default.
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        Report { form, bar }
    }

    pub fn progress(&self, bytes_read: u64, tally: &Tally) {
        if let Some(bar) = &self.bar {
            bar.set_position(bytes_read);
            bar.set_message(tally.to_string());
        }
    }

    /// Tells the status of an order; a reader who has closed the pipe is no reason to stop.
    pub fn status(&self, line: u64, id: &str, status: &str) {
        let text = match self.form {
            Form::Quiet => return,
            Form::Plain if status == "accepted" => format!("line {line}: {id}"),
            Form::Plain => format!("line {line}: {id} {status}"),
            Form::Json => json!({ "line": line, "id": id, "status": status }).to_string(),
        };
        let print = || {
            let _ = writeln!(stdout(), "{text}");
        };
        // Drawing the bar anew for each of many orders is slow; it only disturbs lines on its own terminal.
        match stdout().is_terminal() {
            true => self.without_bar(print),
            false => print(),
        }
    }

    pub fn error(&self, text: &str) {
        self.without_bar(|| {
            let _ = writeln!(stderr(), "{text}");
        });
    }

    pub fn summary(&self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        if self.form != Form::Quiet {
            let _ = writeln!(stderr(), "{text}");
        }
    }

    fn without_bar(&self, print: impl FnOnce()) {
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }
}

/// What became of the orders.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub accepted: u64,
    pub refused: u64,
    pub not_sent: u64,
    /// How they ended, where somebody waits for that.
    pub ends: Option<Ends>,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Ends {
    pub completed: u64,
    pub failed: u64,
    pub cancelled: u64,
    /// How many had not ended, or were not found, when waiting stopped.
    pub not_ended: u64,
}

impl Tally {
    pub fn is_fine(&self) -> bool {
        let sent = self.refused == 0 && self.not_sent == 0;
        sent && self.ends.as_ref().is_none_or(|ends| ends.failed == 0 && ends.cancelled == 0 && ends.not_ended == 0)
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} accepted, {} refused, {} not sent", self.accepted, self.refused, self.not_sent)?;
        match &self.ends {
            Some(ends) => write!(
                f,
                "; {} completed, {} failed, {} cancelled, {} not ended",
                ends.completed, ends.failed, ends.cancelled, ends.not_ended
            ),
            None => Ok(()),
        }
    }
}
