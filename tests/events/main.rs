//! How the outside is told what happens to orders: streams of events, and webhooks.

mod all;
mod commands;
mod order;
#[path = "../support/proxy.rs"]
mod proxy;
mod servers;
#[path = "../handlers/service.rs"]
mod service;
#[path = "../support/sse.rs"]
mod sse;
#[path = "../support/system.rs"]
mod system;
mod webhooks;

use serde_json::{Value, json};
use system::System;

pub struct Running {
    pub system: System,
    pub folder: tempfile::TempDir,
}

/// Everything in one process, on the embedded back end.
pub fn start(settings: &[&str]) -> Running {
    start_in(tempfile::tempdir().unwrap(), settings)
}

pub fn start_in(folder: tempfile::TempDir, settings: &[&str]) -> Running {
    let mut args = vec!["all", "--data-dir", folder.path().to_str().unwrap()];
    settings.iter().for_each(|setting| args.extend(["--set", setting]));
    let system = System::start(&args);
    Running { system, folder }
}

impl Running {
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.system.url)
    }
}

pub fn an_order() -> Value {
    json!({"customer_id": "17850", "currency": "EUR", "items": [{"sku": "s", "quantity": 1, "unit_price": "1.00"}]})
}

/// The settings under which processing takes `delay`, so that there is something to wait for.
pub const SLOW: [&str; 2] = ["stages.processing.handler=simulated", "stages.processing.delay=700ms"];

/// What happens to an order at which nothing goes wrong.
pub const SMOOTH: [&str; 10] = [
    "order.accepted",
    "step.started",
    "step.done",
    "step.started",
    "step.done",
    "step.started",
    "step.done",
    "step.started",
    "step.done",
    "order.completed",
];

/// Every type of event there is.
pub const ALL_KINDS: [&str; 7] = [
    "order.accepted",
    "step.started",
    "step.done",
    "step.retried",
    "order.completed",
    "order.failed",
    "order.cancelled",
];
