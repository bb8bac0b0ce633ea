//! An order system with work of its own: the handler of one stage is written in Rust and runs in this process.
//!
//! ```sh
//! cargo run --release --example own_handler
//! ```
//!
//! It takes the flags, the environment and the file that `ordering all` takes; the other stages do what the settings say.

use std::collections::HashMap;
use std::process::ExitCode;
use std::sync::Mutex;

use async_trait::async_trait;
use clap::Parser;
use ordering::cli::{SettingsArgs, chain};
use ordering::domain::{Json, Outcome, Report, Stage};
use ordering::handlers::{Call, Handler, Handlers};
use ordering::logging;
use ordering::roles;
use ordering::settings::Role;

/// Takes what an order needs off the shelf.
struct Stock {
    shelf: Mutex<Shelf>,
}

struct Shelf {
    /// How many there are, by sku.
    left: HashMap<String, u32>,
    /// What was taken for which key. A call can come twice (after a crash, or when its reply was lost), with the same
    /// key: what was done for a key is not done again. A real handler keeps this where it keeps what it takes from, and
    /// changes both in one transaction.
    taken: HashMap<String, u32>,
}

#[async_trait]
impl Handler for Stock {
    async fn handle(&self, call: &Call<'_>) -> Outcome {
        let Ok(order) = call.order.order.fields() else {
            return Outcome::reject("the order cannot be read");
        };
        let mut shelf = self.shelf.lock().expect("nobody panics while holding it");
        let key = call.key().to_string();
        let pieces = match shelf.taken.get(&key) {
            Some(pieces) => *pieces,
            None => {
                let mut left = shelf.left.clone();
                let mut pieces = 0;
                for item in &order.items {
                    let of_sku = left.entry(item.sku.to_string()).or_default();
                    let Some(rest) = of_sku.checked_sub(item.quantity) else {
                        let there = shelf.left.get(&*item.sku).copied().unwrap_or_default();
                        // Final: the order fails with this reason. What may work later is `Outcome::retry(reason)`.
                        return Outcome::reject(format!("only {there} of {} are left", item.sku));
                    };
                    *of_sku = rest;
                    pieces += item.quantity;
                }
                shelf.left = left;
                shelf.taken.insert(key, pieces);
                pieces
            }
        };
        // Both are kept in the step: readers of the order see them, and so do the stages behind this one.
        let result = Json::parse(&format!("{{\"pieces\":{pieces}}}")).expect("it is JSON");
        Outcome::Done(Report::default().with_note("taken off the shelf").with_result(result))
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    #[derive(Parser)]
    struct Args {
        #[command(flatten)]
        settings: SettingsArgs,
    }
    let settings = match Args::parse().settings.load(Role::All) {
        Ok(loaded) => loaded.settings,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(2);
        }
    };
    logging::init(&settings.log);
    let left = HashMap::from([("TEA-100".to_owned(), 1_000), ("MUG-7".to_owned(), 3)]);
    let stock = Stock { shelf: Mutex::new(Shelf { left, taken: HashMap::new() }) };
    match roles::all_with(settings, Handlers::default().with(Stage::PreProcessing, stock)).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}
