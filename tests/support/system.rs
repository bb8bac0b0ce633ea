//! The program itself, run as its users run it, and the orders they place with it.

#![allow(dead_code, reason = "every test program takes what it needs")]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Once;
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long a test waits for something that must happen.
const DEADLINE: Duration = Duration::from_secs(60);

/// A running `ordering`. Dropping it kills it.
pub struct System {
    child: Child,
    /// Where it listens; empty for a role that does not.
    pub url: String,
    pub stdout: Vec<String>,
}

/// `ordering` with no settings of whoever runs the tests.
pub fn ordering() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ordering"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ORDERING_") {
            command.env_remove(name);
        }
    }
    command
}

impl System {
    /// Starts a role that listens, on a free port, and waits until it does.
    pub fn start(args: &[&str]) -> System {
        let mut command = ordering();
        command.args(args).args(["--listen", "127.0.0.1:0"]).stderr(stderr());
        Self::start_command(command)
    }

    /// Runs a command that listens, and waits until it does.
    pub fn start_command(command: Command) -> System {
        let what = format!("{command:?}");
        let (child, stdout) = Self::spawn(command);
        let first = stdout.first().unwrap_or_else(|| panic!("{what} ended before it listened"));
        let url = first.strip_prefix("listening on ").unwrap_or_else(|| panic!("the first line is {first}"));
        System { url: url.to_owned(), child, stdout }
    }

    /// Starts a role that does not listen.
    pub fn start_silent(args: &[&str]) -> System {
        let mut command = ordering();
        command.args(args).stdin(Stdio::null()).stderr(stderr());
        System { child: command.spawn().unwrap(), url: String::new(), stdout: Vec::new() }
    }

    fn spawn(mut command: Command) -> (Child, Vec<String>) {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut reader = BufReader::new(child.stdout.take().unwrap());
        let mut first = String::new();
        reader.read_line(&mut first).unwrap();
        // Read on, so that the program never waits for its reader.
        std::thread::spawn(move || reader.lines().map_while(Result::ok).for_each(drop));
        let lines = if first.is_empty() { Vec::new() } else { vec![first.trim_end().to_owned()] };
        (child, lines)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: &str) {
        let done = Command::new("kill").args([format!("-{signal}"), self.pid().to_string()]).status().unwrap();
        assert!(done.success(), "kill -{signal}");
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, and waits for its end.
    pub fn terminate(self) -> ExitStatus {
        self.signal("TERM");
        self.ended()
    }

    /// Waits for its end.
    pub fn ended(mut self) -> ExitStatus {
        let end = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < end, "it does not stop");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for System {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Logs of the programs under test are shown when they are asked for.
fn stderr() -> Stdio {
    if std::env::var_os("ORDERING_TEST_LOGS").is_some() { Stdio::inherit() } else { Stdio::null() }
}

/// An HTTP client that gives up in the end.
pub fn http() -> reqwest::Client {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
    reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(30)).build().unwrap()
}

/// The lines of a file of real orders, where it is there; else of the sample beside the code.
fn lines(real: &str, sample: impl FnOnce() -> Vec<String>) -> Vec<String> {
    let path = format!("{}/../shared/data/{real}", env!("CARGO_MANIFEST_DIR"));
    match std::fs::read_to_string(path) {
        Ok(text) => text.lines().map(str::to_owned).collect(),
        Err(_) => sample(),
    }
}

/// Orders to place: 438 real ones, or as many of the sample's.
pub fn valid_orders() -> Vec<Value> {
    let sample = || {
        let text = include_str!("../../examples/orders.ndjson");
        text.lines().cycle().take(438).map(str::to_owned).collect()
    };
    let lines = lines("online-retail-orders.ndjson", sample);
    lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Orders that must be refused: 73 real returns, or the sample's with their quantities turned round.
pub fn returned_orders() -> Vec<Value> {
    let lines = lines("online-retail-rejects.ndjson", Vec::new);
    if !lines.is_empty() {
        return lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    }
    let mut orders = valid_orders();
    orders.truncate(73);
    for item in orders.iter_mut().flat_map(|order| order["items"].as_array_mut().unwrap()) {
        item["quantity"] = Value::from(-item["quantity"].as_i64().unwrap());
    }
    orders
}

/// Places all orders, some at a time, and gives the ids in the order of `orders`. Panics unless each is taken.
pub async fn place_all(url: &str, orders: &[Value]) -> Vec<String> {
    let (client, mut ids) = (http(), Vec::with_capacity(orders.len()));
    ready(&client, url).await;
    for some in orders.chunks(32) {
        let placed = futures_util::future::join_all(some.iter().map(|order| place(&client, url, order))).await;
        ids.extend(placed.into_iter().map(|id| id.expect("the order is taken")));
    }
    ids
}

/// Waits until everything is there: a program that listens has not found its servers yet.
pub async fn ready(client: &reqwest::Client, url: &str) {
    let end = Instant::now() + DEADLINE;
    let is_ready = async || {
        let answer: Value = client.get(format!("{url}/readyz")).send().await.ok()?.json().await.ok()?;
        (answer["status"] == "ready").then_some(())
    };
    while is_ready().await.is_none() {
        assert!(Instant::now() < end, "it does not get ready");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Places one order; its id, or what was answered instead.
pub async fn place(client: &reqwest::Client, url: &str, order: &Value) -> Result<String, String> {
    let sent = client.post(format!("{url}/v1/orders")).json(order).send().await;
    let answer = sent.map_err(|error| error.to_string())?;
    let (status, location) = (answer.status(), answer.headers().get("location").cloned());
    let text = answer.text().await.map_err(|error| error.to_string())?;
    let body: Value = serde_json::from_str(&text).map_err(|error| format!("{status} {text:?}: {error}"))?;
    if status != 202 {
        return Err(format!("{status}: {body}"));
    }
    assert_eq!(body["status"], "accepted");
    let id = body["id"].as_str().unwrap().to_owned();
    assert_eq!(location.unwrap(), format!("/v1/orders/{id}"));
    Ok(id)
}

/// Reads an order until it has ended. Panics on a 404: it was accepted.
pub async fn ended(client: &reqwest::Client, url: &str, id: &str) -> Value {
    let end = Instant::now() + DEADLINE;
    loop {
        // A system that is down for a moment answers nothing, or 503.
        if let Ok(answer) = client.get(format!("{url}/v1/orders/{id}")).send().await {
            assert_ne!(answer.status(), 404, "{id} was accepted");
            if answer.status() == 200 {
                let order: Value = answer.json().await.unwrap();
                if ["completed", "failed", "cancelled"].contains(&order["status"].as_str().unwrap()) {
                    return order;
                }
            }
        }
        assert!(Instant::now() < end, "{id} does not end");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until all have ended; in the order of `ids`.
pub async fn all_ended(url: &str, ids: &[String]) -> Vec<Value> {
    let (client, mut orders) = (http(), Vec::with_capacity(ids.len()));
    for some in ids.chunks(32) {
        orders.extend(futures_util::future::join_all(some.iter().map(|id| ended(&client, url, id))).await);
    }
    orders
}

/// Panics unless `shown` is `placed` as it must come back: every field, and the exact total.
pub fn assert_same(placed: &Value, shown: &Value) {
    assert_eq!(differences(placed, shown), Vec::<String>::new(), "in {shown}");
}

/// Names the fields in which `shown` is not `placed` as it must come back, the exact total among them.
pub fn differences(placed: &Value, shown: &Value) -> Vec<String> {
    let or_null = |value: &Value, field: &str| value.get(field).cloned().unwrap_or(Value::Null);
    let mut differing = Vec::new();
    for field in ["customer_id", "currency", "reference", "metadata"] {
        if or_null(placed, field) != shown[field] {
            differing.push(field.to_owned());
        }
    }
    let (Some(items), Some(shown_items)) = (placed["items"].as_array(), shown["items"].as_array()) else {
        return vec!["items".to_owned()];
    };
    if items.len() != shown_items.len() {
        differing.push("items".to_owned());
    }
    for (n, (item, shown)) in items.iter().zip(shown_items).enumerate() {
        for field in ["sku", "quantity", "unit_price", "description"] {
            if or_null(item, field) != shown[field] {
                differing.push(format!("items/{n}/{field}"));
            }
        }
    }
    if shown["total"] != total(items) {
        differing.push("total".to_owned());
    }
    differing
}

/// Computed here by other means than the program's: in ten-thousandths, as whole numbers.
fn total(items: &[Value]) -> String {
    let (mut sum, mut scale) = (0i128, 0);
    for item in items {
        let price = item["unit_price"].as_str().unwrap();
        let (whole, decimals) = price.split_once('.').unwrap_or((price, ""));
        scale = scale.max(decimals.len());
        let ten_thousandths: i128 = format!("{whole}{decimals:0<4}").parse().unwrap();
        sum += ten_thousandths * i128::from(item["quantity"].as_u64().unwrap());
    }
    let (whole, decimals) = (sum / 10_000, format!("{:04}", sum % 10_000));
    if scale == 0 { whole.to_string() } else { format!("{whole}.{}", &decimals[..scale]) }
}

/// Panics unless all four stages were passed once each, in order.
pub fn assert_completed(order: &Value) {
    assert_eq!(order["status"], "completed", "{order}");
    assert_eq!(order["failure"], Value::Null);
    let steps = order["steps"].as_array().unwrap();
    let stages: Vec<&str> = steps.iter().map(|step| step["stage"].as_str().unwrap()).collect();
    assert_eq!(stages, ["scheduling", "pre_processing", "processing", "post_processing"]);
    let mut before = order["placed_at"].as_str().unwrap();
    for step in steps {
        assert_eq!(step["outcome"], "done");
        assert_eq!(step["attempts"], 1);
        // RFC 3339 in UTC with milliseconds sorts as text. Clocks of one machine only go forward.
        for at in ["entered_at", "finished_at"] {
            let at = step[at].as_str().unwrap();
            assert!(at >= before, "{at} is before {before}");
            before = at;
        }
    }
    assert_eq!(order["finished_at"], before);
    assert_eq!(order["updated_at"], before);
}
