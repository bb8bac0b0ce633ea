//! `ordering dead list`.

use clap::Args;
use comfy_table::{ContentArrangement, Table, presets};
use reqwest::Method;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Failure, queue_parser};
use crate::client::ServerArgs;
use crate::client::http::{Server, Trouble};
use crate::client::output::{print, print_line};
use crate::client::printable;
use crate::ports::Source;

/// The most a server gives at once.
const PAGE: u32 = 1_000;

#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only those of this queue
    #[arg(long, value_name = "QUEUE", value_parser = queue_parser())]
    queue: Option<Source>,

    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,

    /// Print a line of JSON for each, as the server describes it
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    pub(super) server: ServerArgs,
}

/// A page of the list. What the server says of a letter is kept as it says it.
#[derive(Deserialize)]
pub(super) struct Page {
    pub(super) dead_letters: Vec<Box<RawValue>>,
    pub(super) cursor: Option<String>,
}

/// What the table shows of a letter. Fields that are not known here are left alone: the server may be newer.
#[derive(Deserialize)]
struct Row {
    id: String,
    at: String,
    queue: String,
    size_bytes: u64,
    reason: String,
}

/// Prints page after page, so that a long list begins to show at once.
pub(super) async fn run(server: &Server, args: ListArgs) -> Result<(), Failure> {
    let (mut left, mut cursor, mut is_first) = (args.limit, None, true);
    loop {
        let page = page(server, args.queue, left.min(PAGE), cursor.as_deref()).await;
        let page = page?;
        if is_first && page.dead_letters.is_empty() {
            let of_queue = args.queue.map(|queue| format!(" of {queue}")).unwrap_or_default();
            eprintln!("there are no dead letters{of_queue}");
        } else if args.json {
            page.dead_letters.iter().for_each(|letter| print_line(letter.get().as_bytes()));
        } else {
            print(&format!("{}\n", table(&page, is_first)?));
        }
        left = left.saturating_sub(u32::try_from(page.dead_letters.len()).unwrap_or(u32::MAX));
        (cursor, is_first) = (page.cursor, false);
        if cursor.is_none() {
            return Ok(());
        }
        if left == 0 {
            eprintln!("there are more than {}: see them with a larger --limit", args.limit);
            return Ok(());
        }
    }
}

/// Asks for a page.
pub(super) async fn page(
    server: &Server,
    queue: Option<Source>,
    limit: u32,
    cursor: Option<&str>,
) -> Result<Page, Trouble> {
    let (queue, limit) = (queue.map(|queue| queue.to_string()), limit.to_string());
    let mut query = vec![("limit", limit.as_str())];
    query.extend(queue.as_deref().map(|queue| ("queue", queue)));
    query.extend(cursor.map(|cursor| ("cursor", cursor)));
    server.dead_letters(Method::GET, "", &query).await.map(|(page, _)| page)
}

fn table(page: &Page, has_header: bool) -> Result<Table, Failure> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    if has_header {
        table.set_header(["ID", "WHEN", "QUEUE", "BYTES", "REASON"]);
    }
    for letter in &page.dead_letters {
        let not_understood = |_| Failure::Failed("the server describes dead letters in a way unknown here".to_owned());
        let row: Row = serde_json::from_str(letter.get()).map_err(not_understood)?;
        let size = row.size_bytes.to_string();
        table.add_row([&row.id, &row.at, &row.queue, &size, &row.reason].map(|text| printable(text)));
    }
    Ok(table)
}
