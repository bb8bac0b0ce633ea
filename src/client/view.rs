//! An order as the server shows it, and as people read it.

use std::fmt::Write;

use comfy_table::{ContentArrangement, Table, presets};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::printable;
use crate::domain::Timestamp;
use crate::settings::units::format_duration;

/// What is shown of an order. Fields that are not known here are left alone: the server may be newer.
#[derive(Debug, Deserialize)]
pub struct OrderView {
    pub id: String,
    pub status: String,
    pub customer_id: String,
    pub reference: Option<String>,
    pub currency: String,
    #[serde(default)]
    pub items: Vec<IgnoredAny>,
    pub total: String,
    pub placed_at: String,
    pub updated_at: String,
    pub finished_at: Option<String>,
    pub failure: Option<FailureView>,
    pub not_before: Option<String>,
    pub cancellation: Option<CancellationView>,
    #[serde(default)]
    pub earlier_passages: Vec<IgnoredAny>,
    #[serde(default)]
    pub steps: Vec<StepView>,
}

#[derive(Debug, Deserialize)]
pub struct FailureView {
    pub stage: String,
    pub reason: String,
}

#[derive(Debug, Deserialize)]
pub struct CancellationView {
    pub at: String,
    pub reason: Option<String>,
}

#[derive(Debug, Deserialize)]
pub struct StepView {
    pub stage: String,
    pub entered_at: String,
    pub finished_at: Option<String>,
    #[serde(default)]
    pub attempts: u32,
    pub outcome: Option<String>,
    pub reason: Option<String>,
    pub note: Option<String>,
    pub worker: Option<String>,
}

impl OrderView {
    pub fn has_ended(&self) -> bool {
        matches!(self.status.as_str(), "completed" | "failed" | "cancelled")
    }

    /// Where it failed and why.
    pub fn failure_text(&self) -> Option<String> {
        let failure = self.failure.as_ref()?;
        Some(printable(&format!("at {}: {}", failure.stage, failure.reason)))
    }

    /// When it was cancelled and why.
    fn cancellation_text(&self) -> Option<String> {
        let CancellationView { at, reason } = self.cancellation.as_ref()?;
        Some(match reason {
            Some(reason) => format!("{at}: {reason}"),
            None => at.clone(),
        })
    }

    /// That it failed before and was tried again.
    fn passages_text(&self) -> Option<String> {
        match self.earlier_passages.len() {
            0 => None,
            1 => Some("again, once".to_owned()),
            count => Some(format!("again, {count} times")),
        }
    }

    /// Its status and, while a step is tried again, how often.
    pub fn status_text(&self) -> String {
        let attempts = self.steps.last().map_or(0, |step| step.attempts);
        let status = printable(&self.status);
        match attempts > 1 && !self.has_ended() {
            true => format!("{status} (attempt {attempts})"),
            false => status,
        }
    }

    /// The whole order for people: a few lines and a table of its steps.
    pub fn to_text(&self) -> String {
        let mut text = format!("order {}\n", printable(&self.id));
        let items = match self.items.len() {
            1 => "1 item".to_owned(),
            count => format!("{count} items"),
        };
        let total = format!("{} {} for {items}", self.total, self.currency);
        let rows = [
            ("status", Some(self.status_text())),
            ("failure", self.failure_text()),
            ("cancelled", self.cancellation_text()),
            ("tried", self.passages_text()),
            ("customer", Some(self.customer_id.clone())),
            ("reference", self.reference.clone()),
            ("total", Some(total)),
            ("placed", Some(self.placed_at.clone())),
            ("not before", self.not_before.clone()),
            ("updated", Some(self.updated_at.clone())),
            ("finished", self.finished_at.clone()),
        ];
        for (name, value) in rows {
            if let Some(value) = value {
                // Writing to a String cannot fail.
                let _ = writeln!(text, "  {name:<10} {}", printable(&value));
            }
        }
        if !self.steps.is_empty() {
            let _ = write!(text, "\n{}\n", self.steps_table());
        }
        text
    }

    fn steps_table(&self) -> Table {
        let mut table = Table::new();
        table
            .load_style(presets::NOTHING)
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_header(["  STAGE", "ENTERED", "TOOK", "ATTEMPTS", "OUTCOME", "WORKER"]);
        for step in &self.steps {
            let outcome = match (&step.outcome, step.reason.as_ref().or(step.note.as_ref())) {
                (Some(outcome), Some(words)) => format!("{outcome}: {words}"),
                (None, Some(reason)) => reason.clone(),
                (Some(outcome), None) => outcome.clone(),
                (None, None) => "at work".to_owned(),
            };
            table.add_row([
                format!("  {}", printable(&step.stage)),
                printable(&step.entered_at),
                step.took().unwrap_or_default(),
                step.attempts.to_string(),
                printable(&outcome),
                printable(step.worker.as_deref().unwrap_or("")),
            ]);
        }
        table
    }
}

impl StepView {
    fn took(&self) -> Option<String> {
        let entered = Timestamp::parse(&self.entered_at)?;
        let finished = Timestamp::parse(self.finished_at.as_deref()?)?;
        match finished.since(entered) {
            took if took.is_zero() => Some("<1ms".to_owned()),
            took => Some(format_duration(took)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_cannot_steer_the_terminal() {
        let order: OrderView = serde_json::from_str(
            r#"{"id":"x","status":"failed","customer_id":"\u001b[31m7","reference":null,"currency":"EUR","items":[{}],
            "metadata":null,"total":"1.50","placed_at":"2026-11-24T08:00:00.000Z","updated_at":"2026-11-24T08:00:01.250Z",
            "finished_at":"2026-11-24T08:00:01.250Z","failure":{"stage":"processing","reason":"no\u0007"},
            "steps":[{"stage":"processing","entered_at":"2026-11-24T08:00:00.000Z",
            "finished_at":"2026-11-24T08:00:01.250Z","attempts":2,"outcome":"rejected","reason":"no","worker":"w-1"}]}"#,
        )
        .unwrap();
        let text = order.to_text();
        assert!(!text.contains(['\u{1b}', '\u{7}']), "{text}");
        for part in ["1.50 EUR for 1 item", "at processing: no", "1s250ms", "rejected: no", "w-1"] {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
        assert!(!text.contains("reference"), "{text}");
    }
}
