//! What makes an order valid. One pass over the customer's JSON finds every problem, and writes the order down in
//! the one form that everything after this reads.

use std::borrow::Cow;

use bytes::Bytes;
use rust_decimal::Decimal;

use super::json_tree::{Document, Member, Node};
use super::order::{Order, Problem, Refusal};
use super::timestamp::Timestamp;

pub const CUSTOMER_ID_CHARS_MAX: usize = 128;
pub const REFERENCE_CHARS_MAX: usize = 128;
pub const SKU_CHARS_MAX: usize = 64;
pub const DESCRIPTION_CHARS_MAX: usize = 500;
pub const ITEMS_MAX: usize = 1_000;
pub const QUANTITY_MAX: u32 = 1_000_000;
pub const METADATA_BYTES_MAX: usize = 16 * 1024;
pub const PRICE_DECIMALS_MAX: usize = 4;
/// 10^15 × 10^4 (decimals) × 10^6 (quantity) × 10^3 (items) = 10^28 fits the 96 bits of a [`Decimal`]: no sum of a
/// valid order is ever rounded.
pub const PRICE_WHOLE_DIGITS_MAX: usize = 15;

/// Four fields of a thousand items: past that, problems are counted and no longer listed.
const PROBLEMS_MAX: usize = 4_000;

/// Turns a customer's JSON into an [`Order`], or says everything that is wrong with it.
pub fn validate(json: &[u8]) -> Result<Order, Refusal> {
    let document: Document = serde_json::from_slice(json).map_err(malformed)?;
    let mut check = Check { problems: Vec::new(), unlisted: 0 };
    let placed = match document {
        Document::Object(members) => Placed::read(members, &mut check),
        Document::Other(node) => {
            check.problem("", || format!("an order must be an object, not {}", node.kind()));
            Placed::default()
        }
    };
    if !check.problems.is_empty() {
        if check.unlisted > 0 {
            let detail = format!("{} more problems are not listed", check.unlisted);
            check.problems.push(Problem { pointer: String::new(), detail });
        }
        return Err(Refusal::Invalid(check.problems));
    }
    let total = placed.total();
    Ok(Order::from_parts(placed.to_json(json.len()), total.into()))
}

fn malformed(error: serde_json::Error) -> Refusal {
    // serde_json ends its text with the place, which goes into fields of its own.
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    let detail = text.strip_suffix(&place).unwrap_or(&text).to_owned();
    Refusal::Malformed { line: error.line().max(1), column: error.column().max(1), detail }
}

/// Collects problems.
struct Check {
    problems: Vec<Problem>,
    unlisted: usize,
}

impl Check {
    fn problem(&mut self, pointer: &str, detail: impl FnOnce() -> String) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(Problem { pointer: pointer.to_owned(), detail: detail() });
        } else {
            self.unlisted += 1;
        }
    }

    /// A text of `min` to `max` characters; `None` is reported unless the value is absent and need not be there.
    fn text<'a>(
        &mut self,
        pointer: impl Fn() -> String,
        node: Option<Node<'a>>,
        min: usize,
        max: usize,
        required: bool,
    ) -> Option<Cow<'a, str>> {
        let text = match node {
            None if required => {
                self.problem(&pointer(), || "is required".into());
                return None;
            }
            None => return None,
            Some(Node::Null) if !required => return None,
            Some(Node::String(text)) => text,
            Some(other) => {
                self.problem(&pointer(), || format!("must be a string, not {}", other.kind()));
                return None;
            }
        };
        let chars = text.chars().count();
        if chars < min || chars > max {
            let range = if min == 0 { format!("at most {max}") } else { format!("{min} to {max}") };
            self.problem(&pointer(), || format!("must have {range} characters, has {chars}"));
            return None;
        }
        // No database text can hold it, and one such order would hold up the whole batch it is archived with.
        if text.contains('\0') {
            self.problem(&pointer(), || "must not contain the character U+0000".into());
            return None;
        }
        Some(text)
    }
}

/// Puts a member into its slot, or reports that it is there twice.
fn fill<T>(slot: &mut Option<T>, value: T, pointer: impl FnOnce() -> String, check: &mut Check) {
    if slot.is_some() {
        check.problem(&pointer(), || "is given more than once".into());
    } else {
        *slot = Some(value);
    }
}

/// A key as a token of a JSON pointer (RFC 6901, section 3), cut where it would make an error text of any length.
fn token(key: &str) -> String {
    key.chars().take(128).collect::<String>().replace('~', "~0").replace('/', "~1")
}

#[derive(Default)]
struct Placed<'a> {
    not_before: Option<Timestamp>,
    customer_id: Cow<'a, str>,
    reference: Option<Cow<'a, str>>,
    currency: Cow<'a, str>,
    items: Vec<PlacedItem<'a>>,
    metadata: Option<Cow<'a, str>>,
}

struct PlacedItem<'a> {
    sku: Cow<'a, str>,
    description: Option<Cow<'a, str>>,
    quantity: u32,
    unit_price: Cow<'a, str>,
    price: Decimal,
}

impl<'a> Placed<'a> {
    fn read(members: Vec<(Cow<'a, str>, Member<'a>)>, check: &mut Check) -> Self {
        let (mut customer_id, mut reference, mut currency, mut items, mut metadata) = (None, None, None, None, None);
        let mut not_before = None;
        for (key, member) in members {
            match (&*key, member) {
                ("customer_id", Member::Parsed(node)) => {
                    fill(&mut customer_id, node, || "/customer_id".into(), check);
                }
                ("reference", Member::Parsed(node)) => fill(&mut reference, node, || "/reference".into(), check),
                ("currency", Member::Parsed(node)) => fill(&mut currency, node, || "/currency".into(), check),
                ("not_before", Member::Parsed(node)) => fill(&mut not_before, node, || "/not_before".into(), check),
                ("items", Member::Parsed(node)) => fill(&mut items, node, || "/items".into(), check),
                (_, Member::Raw(raw)) => fill(&mut metadata, raw, || "/metadata".into(), check),
                ("total", _) => {
                    check.problem("/total", || "is not a field of a placed order: the total is computed".into());
                }
                (unknown, _) => check.problem(&format!("/{}", token(unknown)), || {
                    "is not a field of an order: the fields are customer_id, reference, currency, items, metadata and not_before".into()
                }),
            }
        }
        let customer_id = check.text(|| "/customer_id".into(), customer_id, 1, CUSTOMER_ID_CHARS_MAX, true);
        let reference = check.text(|| "/reference".into(), reference, 0, REFERENCE_CHARS_MAX, false);
        Placed {
            not_before: read_not_before(not_before, check),
            customer_id: customer_id.unwrap_or_default(),
            reference,
            currency: read_currency(currency, check),
            items: read_items(items, check),
            metadata: metadata.and_then(|raw| read_metadata(raw.get(), check)),
        }
    }

    fn total(&self) -> String {
        let mut total: Decimal = self.items.iter().map(|item| item.price * Decimal::from(item.quantity)).sum();
        // A product of zero forgets the scale of its price: the scale is put back.
        total.rescale(self.items.iter().map(|item| item.price.scale()).max().unwrap_or(0));
        total.to_string()
    }

    /// `size_bytes` is a guess of the size it will have.
    fn to_json(&self, size_bytes: usize) -> Bytes {
        let mut json = Vec::with_capacity(size_bytes + 64);
        json.push(b'{');
        if let Some(not_before) = self.not_before {
            json.extend_from_slice(NOT_BEFORE);
            push_string(&mut json, &not_before.to_string());
            json.push(b',');
        }
        json.extend_from_slice(b"\"customer_id\":");
        push_string(&mut json, &self.customer_id);
        json.extend_from_slice(b",\"reference\":");
        push_optional(&mut json, self.reference.as_deref());
        json.extend_from_slice(b",\"currency\":");
        push_string(&mut json, &self.currency);
        json.extend_from_slice(b",\"items\":[");
        for (n, item) in self.items.iter().enumerate() {
            json.extend_from_slice(if n == 0 { b"{\"sku\":" } else { b",{\"sku\":" });
            push_string(&mut json, &item.sku);
            json.extend_from_slice(b",\"description\":");
            push_optional(&mut json, item.description.as_deref());
            json.extend_from_slice(b",\"quantity\":");
            json.extend_from_slice(item.quantity.to_string().as_bytes());
            json.extend_from_slice(b",\"unit_price\":");
            push_string(&mut json, &item.unit_price);
            json.push(b'}');
        }
        json.extend_from_slice(b"],\"metadata\":");
        json.extend_from_slice(self.metadata.as_deref().unwrap_or("null").as_bytes());
        json.push(b'}');
        Bytes::from(json)
    }
}

fn push_string(json: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(json, text).expect("writing a string to memory does not fail");
}

fn push_optional(json: &mut Vec<u8>, text: Option<&str>) {
    match text {
        Some(text) => push_string(json, text),
        None => json.extend_from_slice(b"null"),
    }
}

/// What the text of an order that has one begins with, behind its brace: first of all, so that it is found at once.
pub(super) const NOT_BEFORE: &[u8] = b"\"not_before\":";

fn read_not_before(node: Option<Node<'_>>, check: &mut Check) -> Option<Timestamp> {
    let detail = "must be a moment as RFC 3339 writes it, as in 2026-11-24T08:15:30Z";
    match node {
        None | Some(Node::Null) => {}
        Some(Node::String(text)) => match Timestamp::parse(&text) {
            Some(at) => return Some(at),
            None => check.problem("/not_before", || detail.into()),
        },
        Some(other) => check.problem("/not_before", || format!("{detail}, not {}", other.kind())),
    }
    None
}

fn read_currency<'a>(node: Option<Node<'a>>, check: &mut Check) -> Cow<'a, str> {
    let detail = "must be three capital letters (ISO 4217), as in EUR";
    match node {
        Some(Node::String(text)) if text.len() == 3 && text.bytes().all(|b| b.is_ascii_uppercase()) => {
            return text;
        }
        Some(Node::String(_)) => check.problem("/currency", || detail.into()),
        Some(other) => check.problem("/currency", || format!("{detail}, not {}", other.kind())),
        None => check.problem("/currency", || "is required".into()),
    }
    Cow::default()
}

fn read_items<'a>(node: Option<Node<'a>>, check: &mut Check) -> Vec<PlacedItem<'a>> {
    let nodes = match node {
        Some(Node::Array(nodes)) => nodes,
        Some(other) => {
            check.problem("/items", || format!("must be an array, not {}", other.kind()));
            return Vec::new();
        }
        None => {
            check.problem("/items", || "is required".into());
            return Vec::new();
        }
    };
    if nodes.is_empty() || nodes.len() > ITEMS_MAX {
        check.problem("/items", || format!("must have 1 to {ITEMS_MAX} items, has {}", nodes.len()));
    }
    let mut items = Vec::with_capacity(nodes.len().min(ITEMS_MAX));
    for (n, node) in nodes.into_iter().take(ITEMS_MAX).enumerate() {
        items.extend(read_item(n, node, check));
    }
    items
}

fn read_item<'a>(n: usize, node: Node<'a>, check: &mut Check) -> Option<PlacedItem<'a>> {
    let Node::Object(members) = node else {
        check.problem(&format!("/items/{n}"), || format!("must be an object, not {}", node.kind()));
        return None;
    };
    let (mut sku, mut description, mut quantity, mut unit_price) = (None, None, None, None);
    for (key, node) in members {
        let slot = match &*key {
            "sku" => &mut sku,
            "description" => &mut description,
            "quantity" => &mut quantity,
            "unit_price" => &mut unit_price,
            unknown => {
                check.problem(&format!("/items/{n}/{}", token(unknown)), || {
                    "is not a field of an item: the fields are sku, description, quantity and unit_price".into()
                });
                continue;
            }
        };
        fill(slot, node, || format!("/items/{n}/{key}"), check);
    }
    let sku = check.text(|| format!("/items/{n}/sku"), sku, 1, SKU_CHARS_MAX, true);
    let description = check.text(|| format!("/items/{n}/description"), description, 0, DESCRIPTION_CHARS_MAX, false);
    let quantity = read_quantity(n, quantity, check);
    let price = read_price(n, unit_price, check);
    let (sku, quantity, (unit_price, price)) = (sku?, quantity?, price?);
    Some(PlacedItem { sku, description, quantity, unit_price, price })
}

fn read_quantity(n: usize, node: Option<Node<'_>>, check: &mut Check) -> Option<u32> {
    let found = match node {
        Some(Node::Whole(number)) if (1..=u64::from(QUANTITY_MAX)).contains(&number) => {
            return u32::try_from(number).ok();
        }
        Some(Node::Whole(number)) => format!(", is {number}"),
        Some(Node::Number) => String::new(),
        Some(other) => format!(", not {}", other.kind()),
        None => {
            check.problem(&format!("/items/{n}/quantity"), || "is required".into());
            return None;
        }
    };
    check
        .problem(&format!("/items/{n}/quantity"), || format!("must be a whole number from 1 to {QUANTITY_MAX}{found}"));
    None
}

fn read_price<'a>(n: usize, node: Option<Node<'a>>, check: &mut Check) -> Option<(Cow<'a, str>, Decimal)> {
    let detail = match node {
        Some(Node::String(text)) => match parse_price(&text) {
            Some(price) => return Some((text, price)),
            None => format!(
                "must be a decimal of 0 or more with at most {PRICE_WHOLE_DIGITS_MAX} digits before and \
                 {PRICE_DECIMALS_MAX} after the point, as in \"2.55\""
            ),
        },
        Some(other @ (Node::Whole(_) | Node::Number)) => {
            format!("must be a string, as in \"2.55\", not {}: floating point loses cents", other.kind())
        }
        Some(other) => format!("must be a decimal in a string, as in \"2.55\", not {}", other.kind()),
        None => "is required".into(),
    };
    check.problem(&format!("/items/{n}/unit_price"), || detail);
    None
}

fn parse_price(text: &str) -> Option<Decimal> {
    let (whole, decimals) = match text.split_once('.') {
        Some((whole, decimals)) if !decimals.is_empty() => (whole, decimals),
        Some(_) => return None,
        None => (text, ""),
    };
    let digits = |part: &str, max: usize| part.len() <= max && part.bytes().all(|b| b.is_ascii_digit());
    let fits = !whole.is_empty() && digits(whole, PRICE_WHOLE_DIGITS_MAX) && digits(decimals, PRICE_DECIMALS_MAX);
    fits.then(|| text.parse().ok()).flatten()
}

/// Metadata is anything the customer likes, so it is kept as text; but it must be readable by whoever comes later.
fn read_metadata<'a>(raw: &'a str, check: &mut Check) -> Option<Cow<'a, str>> {
    if raw == "null" {
        return None;
    }
    let node: Node = match serde_json::from_str(raw) {
        Ok(node) => node,
        // The syntax was fine as a whole: this is a number no float can hold, half a surrogate pair or deep nesting.
        Err(error) => {
            let Refusal::Malformed { detail, .. } = malformed(error) else { unreachable!("malformed says malformed") };
            check.problem("/metadata", || format!("cannot be read: {detail}"));
            return None;
        }
    };
    if !matches!(node, Node::Object(_)) {
        check.problem("/metadata", || format!("must be an object, not {}", node.kind()));
        return None;
    }
    let compact = without_whitespace(raw);
    if compact.len() > METADATA_BYTES_MAX {
        check.problem("/metadata", || {
            format!("must have at most {METADATA_BYTES_MAX} bytes of JSON, has {}", compact.len())
        });
        return None;
    }
    if has_nul(&node) {
        check.problem("/metadata", || "must not contain the character U+0000".into());
        return None;
    }
    Some(compact)
}

pub(super) fn has_nul(node: &Node<'_>) -> bool {
    match node {
        Node::Null | Node::Bool | Node::Whole(_) | Node::Number => false,
        Node::String(text) => text.contains('\0'),
        Node::Array(nodes) => nodes.iter().any(has_nul),
        Node::Object(members) => members.iter().any(|(key, node)| key.contains('\0') || has_nul(node)),
    }
}

/// Valid JSON without the white space between its tokens: an order is one line wherever it goes.
pub(super) fn without_whitespace(json: &str) -> Cow<'_, str> {
    if !json.bytes().any(|b| matches!(b, b' ' | b'\t' | b'\n' | b'\r')) {
        return Cow::Borrowed(json);
    }
    let (mut compact, mut in_string, mut escaped) = (String::with_capacity(json.len()), false, false);
    for c in json.chars() {
        if in_string {
            in_string = escaped || c != '"';
            escaped = !escaped && c == '\\';
        } else if matches!(c, ' ' | '\t' | '\n' | '\r') {
            continue;
        } else {
            in_string = c == '"';
        }
        compact.push(c);
    }
    Cow::Owned(compact)
}

#[cfg(test)]
#[path = "validation_tests.rs"]
mod tests;
