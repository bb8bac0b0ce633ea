//! The files that people read and edit say what the table of settings says. `UPDATE_DOCS=1 cargo test --test
//! settings_docs` writes them anew.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::PathBuf;

use ordering::domain::Stage;
use ordering::settings::keys::{self, KEYS, Key};
use ordering::settings::kind::Kind;
use ordering::settings::{self, Given, Origin, Role};

const EMBEDDED: &str = "\
# Settings of `ordering` for one process that needs no servers.
#
#   ordering all --config config/embedded.toml
#
# Lines that begin with `#name =` show defaults. Environment variables win over this file, flags over both;
# doc/configuration.md says more. `ordering check-config --config FILE` shows what is in force.
";

const SERVERS: &str = "\
# Settings of `ordering` for any number of processes over RabbitMQ, Redis and Postgres.
#
#   ordering api --config config/servers.toml
#   ordering worker --stage scheduling --stage pre-processing --config config/servers.toml
#
# Keep passwords out of this file: give URLs that hold one as environment variables (ORDERING_AMQP_URLS,
# ORDERING_REDIS_URL, ORDERING_POSTGRES_URL), which win over it.
#
# Lines that begin with `#name =` show defaults. Environment variables win over this file, flags over both;
# doc/configuration.md says more. `ordering check-config --role api --config FILE` shows what is in force.
";

const FILES: [(&str, &str, &str); 2] =
    [("config/embedded.toml", EMBEDDED, "embedded"), ("config/servers.toml", SERVERS, "servers")];

#[test]
fn the_documented_files_say_what_the_table_says() {
    for (path, intro, backend) in FILES {
        compare(path, &config_file(intro, backend));
    }
}

#[test]
fn the_table_of_the_documentation_is_the_table_of_the_code() {
    const BEGIN: &str = "<!-- settings: begin -->\n";
    const END: &str = "<!-- settings: end -->";
    let path = "doc/configuration.md";
    let text = std::fs::read_to_string(repository(path)).unwrap();
    let (before, rest) = text.split_once(BEGIN).unwrap();
    let (_, after) = rest.split_once(END).unwrap();
    compare(path, &format!("{before}{BEGIN}{}{END}{after}", markdown_table()));
}

#[test]
fn the_documented_files_load_and_have_every_key() {
    let every_key: BTreeSet<String> = keys::all().map(|(name, _)| name).collect();
    for (path, _, backend) in FILES {
        let role = match backend {
            "servers" => Role::Worker,
            _ => Role::All,
        };
        let given = |file: PathBuf| Given { file: Some(file), ..Given::default() };
        if let Err(error) = settings::load(role, &given(repository(path))) {
            panic!("{error}");
        }

        // The defaults that are commented out are legal, and are the defaults.
        let text = std::fs::read_to_string(repository(path)).unwrap();
        let whole: String = text
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(setting) if setting.starts_with(|c: char| c.is_ascii_lowercase()) => {
                    format!("{setting}\n")
                }
                _ => format!("{line}\n"),
            })
            .collect();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), whole).unwrap();
        let loaded = match settings::load(role, &given(file.path().to_owned())) {
            Ok(loaded) => loaded,
            Err(error) => panic!("{path}: {error}"),
        };
        let present: BTreeSet<String> = loaded
            .effective
            .iter()
            .filter(|setting| setting.origin != Origin::Default)
            .map(|setting| setting.key.clone())
            .collect();
        assert_eq!(present, every_key, "{path}");
        let defaults = settings::load(Role::All, &Given::default()).ok().unwrap();
        for (ours, default) in loaded.effective.iter().zip(&defaults.effective) {
            if ours.key != "backend" {
                assert_eq!(ours.value, default.value, "{path}: {}", ours.key);
            }
        }
    }
}

fn repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn compare(path: &str, expected: &str) {
    let file = repository(path);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&file, expected).unwrap();
    }
    let text = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        text == expected,
        "{path} is out of date; write it anew with `UPDATE_DOCS=1 cargo test --test settings_docs`"
    );
}

fn config_file(intro: &str, backend: &str) -> String {
    let mut text = intro.to_owned();
    let mut section = String::new();
    // The settings of a stage stand together, so that each stage is one section.
    let of_stages = |key: &&Key| key.name.starts_with("stages.");
    let position = KEYS.iter().position(|key| of_stages(&key)).unwrap();
    let mut ordered: Vec<(String, &Key, bool)> = Vec::new();
    for key in KEYS[..position].iter() {
        ordered.push((key.name.to_owned(), key, true));
    }
    for stage in Stage::ALL {
        for key in KEYS.iter().filter(of_stages) {
            let name = key.name.replace("<stage>", stage.as_kebab());
            ordered.push((name, key, stage == Stage::FIRST));
        }
    }
    for key in KEYS[position..].iter().filter(|key| !of_stages(key)) {
        ordered.push((key.name.to_owned(), key, true));
    }
    for (name, key, is_explained) in ordered {
        let (of_section, leaf) = name.rsplit_once('.').unwrap_or(("", &name));
        if of_section != section {
            section = of_section.to_owned();
            write!(text, "\n[{section}]\n").unwrap();
            if !is_explained {
                text.push_str("# As explained under [stages.scheduling].\n");
            }
        } else if is_explained {
            text.push('\n');
        }
        if is_explained {
            for line in wrapped(&format!("{} ({})", key.meaning, values(key)), 110) {
                writeln!(text, "# {line}").unwrap();
            }
        }
        match name.as_str() {
            "backend" => writeln!(text, "backend = \"{backend}\"").unwrap(),
            _ => writeln!(text, "#{leaf} = {}", toml_default(key)).unwrap(),
        }
    }
    text
}

fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().unwrap();
        if line.is_empty() {
            line.push_str(word);
        } else if line.len() + 1 + word.len() <= width {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

fn toml_default(key: &Key) -> String {
    match key.kind {
        Kind::Boolean | Kind::Whole { .. } | Kind::Fraction => key.default.to_owned(),
        Kind::AmqpUrls => format!("[\"{}\"]", key.default),
        _ => format!("\"{}\"", key.default),
    }
}

fn values(key: &Key) -> String {
    match key.unit {
        "" => key.kind.describe(),
        unit => format!("{} {unit}", key.kind.describe()),
    }
}

fn markdown_table() -> String {
    let mut table = "| key | default | values | meaning |\n|---|---|---|---|\n".to_owned();
    for key in KEYS {
        let default = match key.default {
            "" => "not set".to_owned(),
            default => format!("`{default}`"),
        };
        writeln!(table, "| `{}` | {default} | {} | {} |", key.name, values(key), key.meaning).unwrap();
    }
    table
}
