//! The log while it is written: by customers and readers at once.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::log::{Log, Number, Outcome, Step, View};
use super::system::differences;

/// What was seen so far, the clock of the run, and the orders that customers place.
pub struct Notes {
    begun: Instant,
    log: Mutex<Log>,
    orders: Vec<Value>,
}

impl Notes {
    pub fn new(orders: Vec<Value>) -> Notes {
        Notes { begun: Instant::now(), log: Mutex::default(), orders }
    }

    /// Time since the run began.
    pub fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    pub fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The order of this number, as its customer places it: a real one, marked so that it is known again.
    pub fn order(&self, number: Number) -> Value {
        let mut order = self.orders[number % self.orders.len()].clone();
        if !order["metadata"].is_object() {
            order["metadata"] = Value::Object(serde_json::Map::new());
        }
        order["metadata"]["number"] = Value::from(number);
        order
    }

    /// What is told of an order, in the JSON of `GET`, or of a row in that form.
    pub fn view(&self, number: Number, shown: &Value) -> View {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let step = |step: &Value| {
            let outcome = step["outcome"].as_str().map(|name| Outcome {
                name: name.to_owned(),
                attempts: step["attempts"].as_u64().unwrap_or(0),
                finished_at: text(&step["finished_at"]),
                worker: text(&step["worker"]),
            });
            Step { stage: text(&step["stage"]), outcome }
        };
        View {
            status: text(&shown["status"]),
            steps: shown["steps"].as_array().into_iter().flatten().map(step).collect(),
            differing: differences(&self.order(number), shown),
        }
    }
}
