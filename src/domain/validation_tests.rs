//! What is taken and what is refused, and how.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn order() -> Value {
    json!({"customer_id": "17850", "reference": "536365", "currency": "GBP",
           "items": [{"sku": "85123A", "description": "", "quantity": 6, "unit_price": "2.55"},
                     {"sku": "D", "quantity": 1_000_000, "unit_price": "0.0001"}],
           "metadata": {"country": "United Kingdom"}})
}

fn problems(order: &Value) -> Vec<(String, String)> {
    match validate(order.to_string().as_bytes()) {
        Err(Refusal::Invalid(problems)) => problems.into_iter().map(|p| (p.pointer, p.detail)).collect(),
        other => panic!("expected problems, got {other:?}"),
    }
}

#[test]
fn a_valid_order_is_written_with_every_field_and_an_exact_total() {
    let placed = validate(order().to_string().as_bytes()).unwrap();
    assert_eq!(placed.total(), "115.3000");
    let mut expected = order();
    expected["items"][1]["description"] = Value::Null;
    assert_eq!(serde_json::from_slice::<Value>(placed.json()).unwrap(), expected);
    assert_eq!(validate(placed.json()).unwrap(), placed);
}

#[test]
fn the_total_has_the_largest_scale_of_the_prices() {
    for (price, total) in [("2", "2"), ("2.5", "2.5"), ("2.50", "2.50"), ("0.00", "0.00"), ("007", "7")] {
        let order =
            json!({"customer_id": "c", "currency": "EUR", "items": [{"sku": "s", "quantity": 1, "unit_price": price}]});
        assert_eq!(validate(order.to_string().as_bytes()).unwrap().total(), total);
    }
}

#[test]
fn the_largest_order_there_can_be_has_an_exact_total() {
    let item = json!({"sku": "s", "quantity": 1_000_000, "unit_price": "999999999999999.9999"});
    let order = json!({"customer_id": "c", "currency": "EUR", "items": vec![item; 1_000]});
    assert_eq!(validate(order.to_string().as_bytes()).unwrap().total(), "999999999999999999900000.0000");
}

#[test]
fn every_problem_is_reported_at_its_place() {
    let mut wrong = order();
    wrong["customer_id"] = json!("");
    wrong["currency"] = json!("gbp");
    wrong["surprise/~"] = json!(1);
    wrong["total"] = json!("1.00");
    wrong["items"][0]["quantity"] = json!(0);
    wrong["items"][0]["unit_price"] = json!(2.55);
    wrong["items"][1] = json!({"sku": "x".repeat(65), "quantity": 1.5, "unit_price": "-1", "colour": "red"});
    wrong["metadata"] = json!([1]);
    let mut pointers: Vec<String> = problems(&wrong).into_iter().map(|(pointer, _)| pointer).collect();
    pointers.sort();
    let expected = [
        "/currency",
        "/customer_id",
        "/items/0/quantity",
        "/items/0/unit_price",
        "/items/1/colour",
        "/items/1/quantity",
        "/items/1/sku",
        "/items/1/unit_price",
        "/metadata",
        "/surprise~1~0",
        "/total",
    ];
    assert_eq!(pointers, expected);
}

#[test]
fn an_empty_object_lacks_what_is_required() {
    let pointers: Vec<String> = problems(&json!({})).into_iter().map(|(pointer, _)| pointer).collect();
    assert_eq!(pointers, ["/customer_id", "/currency", "/items"]);
    assert_eq!(problems(&json!([])), [(String::new(), "an order must be an object, not an array".into())]);
}

#[test]
fn prices_are_plain_decimals() {
    for wrong in ["", ".5", "5.", "1e3", "+1", "-1", "1,5", "0.00001", "1000000000000000", " 1", "NaN", "١"] {
        assert_eq!(parse_price(wrong), None, "{wrong}");
    }
}

#[test]
fn a_field_given_twice_is_refused() {
    let text = br#"{"customer_id":"a","customer_id":"b","currency":"EUR","items":[{"sku":"s","sku":"t","quantity":1,"unit_price":"1"}]}"#;
    let Err(Refusal::Invalid(problems)) = validate(text) else { panic!("refused") };
    let pointers: Vec<&str> = problems.iter().map(|p| p.pointer.as_str()).collect();
    assert_eq!(pointers, ["/customer_id", "/items/0/sku"]);
}

#[test]
fn malformed_json_is_refused_with_its_place() {
    let Err(Refusal::Malformed { line, column, detail }) = validate(b"{\n  \"a\": ,\n}") else { panic!("refused") };
    assert_eq!((line, column, detail.as_str()), (2, 8, "expected value"));
    assert!(matches!(validate(b""), Err(Refusal::Malformed { .. })));
    assert!(matches!(validate(b"{} x"), Err(Refusal::Malformed { .. })));
    assert!(matches!(validate(b"\"\xff\""), Err(Refusal::Malformed { .. })));
}

#[test]
fn metadata_is_kept_to_the_letter_but_for_white_space() {
    let text = r#"{"customer_id":"c","currency":"EUR","items":[{"sku":"s","quantity":1,"unit_price":"1"}],
        "metadata": { "a b" : [ 1.50, 1e2, "x \" y\\" ] , "b" : { } } }"#;
    let json = String::from_utf8(validate(text.as_bytes()).unwrap().json().to_vec()).unwrap();
    assert!(json.ends_with(r#""metadata":{"a b":[1.50,1e2,"x \" y\\"],"b":{}}}"#), "{json}");
}

#[test]
fn metadata_nobody_could_read_later_is_refused() {
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(200), "]".repeat(200));
    let large = format!("{{\"a\":\"{}\"}}", "x".repeat(METADATA_BYTES_MAX));
    for metadata in [deep.as_str(), &large, r#"{"a":"\ud800"}"#, r#"{"a":"\u0000"}"#, r#"{"a":1e999}"#, "7"] {
        let text = format!(
            r#"{{"customer_id":"c","currency":"EUR","items":[{{"sku":"s","quantity":1,"unit_price":"1"}}],"metadata":{metadata}}}"#
        );
        let Err(Refusal::Invalid(problems)) = validate(text.as_bytes()) else { panic!("refused") };
        assert_eq!(problems[0].pointer, "/metadata");
    }
}

#[test]
fn problems_without_end_are_counted_not_listed() {
    let order: serde_json::Map<String, Value> = (0..9_000).map(|n| (format!("f{n}"), Value::Null)).collect();
    let problems = problems(&Value::Object(order));
    assert_eq!(problems.len(), PROBLEMS_MAX + 1);
    assert!(problems[PROBLEMS_MAX].1.contains("5003 more"), "{}", problems[PROBLEMS_MAX].1);
}

proptest! {
    #[test]
    fn any_bytes_are_taken_or_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = validate(&bytes);
    }

    #[test]
    fn what_was_taken_is_taken_again_unchanged(
        customer_id in "[^\u{0}]{1,128}", sku in "[^\u{0}]{1,64}", quantity in 1u32..=QUANTITY_MAX,
        whole in 0u64..1_000_000_000_000_000, decimals in "[0-9]{1,4}", note in "[^\u{0}]{0,40}",
    ) {
        let order = json!({"customer_id": customer_id, "currency": "EUR", "metadata": {"note": note},
            "items": [{"sku": sku, "quantity": quantity, "unit_price": format!("{whole}.{decimals}")}]});
        let placed = validate(order.to_string().as_bytes()).unwrap();
        prop_assert_eq!(&validate(placed.json()).unwrap(), &placed);
        prop_assert_eq!(&placed.fields().unwrap().customer_id, &customer_id);
        let scale = 10u128.pow(decimals.len() as u32);
        let sum = (u128::from(whole) * scale + decimals.parse::<u128>().unwrap()) * u128::from(quantity);
        let expected = format!("{}.{:0width$}", sum / scale, sum % scale, width = decimals.len());
        prop_assert_eq!(placed.total(), expected);
    }
}
