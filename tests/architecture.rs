//! Who may know whom. The way of an order stays testable without servers only as long as it names none of them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A module of `src/`, and the modules of this crate its code may name.
const MAY_KNOW: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("ports", &["domain"]),
    ("wire", &["domain", "ports"]),
    ("batch", &[]),
    ("view", &["domain"]),
    ("gate", &[]),
    ("handlers", &["domain", "gate", "view"]),
    ("adapters", &["domain", "ports", "wire"]),
    ("metrics", &["domain"]),
    ("portions", &["domain", "ports"]),
    ("pauses", &["domain", "gate", "metrics", "ports"]),
    ("intake", &["batch", "domain", "metrics", "ports"]),
    ("lookup", &["domain", "ports"]),
    ("live", &["domain", "ports"]),
    // It says which orders a letter carries.
    ("dead_letters", &["domain", "ports", "wire"]),
    // It takes messages apart that have no business in their queue, and buries them as the bytes they were.
    ("worker", &["batch", "domain", "gate", "handlers", "metrics", "ports", "wire"]),
    ("webhooks", &["domain", "handlers", "ports", "view"]),
    ("cancel", &["domain", "lookup", "metrics", "ports", "webhooks"]),
    ("upkeep", &["batch", "cancel", "domain", "intake", "metrics", "pauses", "ports", "webhooks"]),
    // It publishes as the outbox does.
    ("try_again", &["batch", "domain", "lookup", "metrics", "ports", "upkeep"]),
    ("readiness", &["domain", "metrics", "pauses", "ports"]),
    (
        "api",
        &[
            "cancel",
            "dead_letters",
            "domain",
            "intake",
            "live",
            "lookup",
            "metrics",
            "ports",
            "readiness",
            "try_again",
            "view",
            "webhooks",
        ],
    ),
];

/// Products that only their adapter may name.
const PRODUCTS: &[&str] = &["amqprs", "fred", "rusqlite", "tokio_postgres", "deadpool_postgres", "refinery"];

#[test]
fn modules_know_only_what_they_may() {
    let mut wrong = Vec::new();
    for (module, may_know) in MAY_KNOW {
        for file in files_of(module) {
            let known: BTreeSet<String> = known_by(&code_of(&file));
            for other in known {
                if other != *module && !may_know.contains(&other.as_str()) {
                    wrong.push(format!("{} names crate::{other}", file.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn only_adapters_name_products() {
    let mut wrong = Vec::new();
    for file in rust_files(Path::new("src")) {
        if file.starts_with("src/adapters") {
            continue;
        }
        let code = code_of(&file);
        for product in PRODUCTS {
            if code.contains(&format!("{product}::")) {
                wrong.push(format!("{} names {product}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_domain_is_pure() {
    let forbidden = ["async ", "tokio", "std::fs", "std::net", "SystemTime", "Instant", "rand::", "now_v7", "std::env"];
    for file in files_of("domain") {
        let code = code_of(&file);
        for word in forbidden {
            assert!(!code.contains(word), "{} has {word}", file.display());
        }
    }
}

/// The code of a file without comments and without its tests.
fn code_of(file: &Path) -> String {
    let text = fs::read_to_string(file).unwrap();
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// The modules named as `crate::module` or in `crate::{module, …}`.
fn known_by(code: &str) -> BTreeSet<String> {
    let mut known = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let names = match rest.strip_prefix('{') {
            Some(group) => group.split('}').next().unwrap_or_default().split(',').collect(),
            None => vec![rest],
        };
        for name in names {
            let name: String = name.trim().chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
            known.insert(name);
        }
    }
    known.remove("");
    known
}

fn files_of(module: &str) -> Vec<PathBuf> {
    let folder = Path::new("src").join(module);
    let mut files = rust_files(&folder);
    let file = folder.with_extension("rs");
    if file.exists() {
        files.push(file);
    }
    assert!(!files.is_empty(), "there is no module {module}");
    files
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    entries
        .flat_map(|entry| {
            let path = entry.unwrap().path();
            if path.is_dir() { rust_files(&path) } else { vec![path] }
        })
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect()
}
