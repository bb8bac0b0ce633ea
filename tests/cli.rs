//! The command line as a user meets it: the binary, its output and its exit codes.

use std::process::{Command, Output};

/// Runs the binary in an environment without settings.
fn ordering(args: &[&str]) -> Output {
    command(args).output().unwrap()
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ordering"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ORDERING_") {
            command.env_remove(name);
        }
    }
    command.args(args).env("RUST_BACKTRACE", "0");
    command
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

const COMMANDS: [&str; 11] =
    ["all", "api", "worker", "migrate", "check-config", "submit", "get", "events", "webhook", "dead", "completions"];

#[test]
fn every_command_teaches_its_use() {
    for name in COMMANDS {
        let output = ordering(&[name, "--help"]);
        assert_eq!(output.status.code(), Some(0), "{name}");
        let help = stdout(&output);
        assert!(help.contains("Example"), "{name}: {help}");
        assert!(help.contains(&format!("ordering {name}")), "{name}: {help}");
    }
    let output = ordering(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    for name in COMMANDS {
        assert!(stdout(&output).contains(&format!("\n  {name} ")), "{name}");
    }
}

#[test]
fn without_a_command_it_prints_its_help_and_is_misused() {
    let output = ordering(&[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("Usage: ordering <COMMAND>"));
    assert!(stdout(&output).is_empty());
}

#[test]
fn the_version_is_told() {
    let output = ordering(&["--version"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(stdout(&output), format!("ordering {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn wrong_flags_are_misuse() {
    for (args, hint) in [
        (&["all", "--lisen", "x"][..], "--listen"),
        (&["wrk"], "worker"),
        (&["worker"], "--stage <STAGE>"),
        (&["worker", "--stage", "packing"], "pre-processing"),
        (&["submit"], "<FILE>"),
        (&["submit", "-", "--at-once", "0"], "1..=1024"),
        (&["submit", "-", "--json", "--quiet"], "cannot be used with"),
        (&["submit", "-", "--wait", "--wait-timeout", "10"], "with its unit"),
        (&["submit", "-", "--server", "127.0.0.1:8080"], "http://HOST:PORT"),
        (&["get", "7"], "no order id"),
        (&["completions", "cmd"], "bash"),
        (&["all", "--set", "listen"], "takes KEY=VALUE"),
    ] {
        let output = ordering(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(stderr(&output).contains(hint), "{args:?}: {}", stderr(&output));
    }
}

#[test]
fn a_role_with_wrong_settings_is_misuse_and_names_file_and_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.toml");
    std::fs::write(&path, "namespace = 'mine'\nlisten_on = 'x'\n").unwrap();
    let path = path.to_str().unwrap();
    let expected = format!(
        "error: the settings have a problem:\n  listen_on ({path}, line 2): no such setting; did you mean `listen`?\n"
    );
    for role in [
        &["all", "--config", path][..],
        &["api", "--backend", "servers", "--config", path],
        &["worker", "--stage", "processing", "--backend", "servers", "--config", path],
        &["migrate", "--backend", "servers", "--config", path],
    ] {
        let output = ordering(role);
        assert_eq!(output.status.code(), Some(2), "{role:?}");
        assert_eq!(stderr(&output), expected, "{role:?}");
    }
    let output = command(&["all"]).env("ORDERING_CONFIG", path).output().unwrap();
    assert_eq!(stderr(&output), expected);
}

#[test]
fn check_config_shows_what_is_in_force_and_where_from() {
    let output = command(&["check-config", "--redis-url", "redis://:hunter2@cache", "--json"])
        .env("ORDERING_API_BODY_MAX", "1MiB")
        .env("ORDERING_AMQP_URLS", "amqp://me:hunter2@rabbit")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(!stdout(&output).contains("hunter2"));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let setting = |key: &str| {
        let settings = json["settings"].as_array().unwrap();
        let found = settings.iter().find(|setting| setting["key"] == key).unwrap();
        format!("{} {} {}", found["value"], found["origin"], found["note"])
    };
    assert_eq!(setting("api.body_max"), r#""1MiB" "ORDERING_API_BODY_MAX" null"#);
    assert_eq!(setting("backend"), r#""embedded" "default" null"#);
    assert_eq!(setting("redis_url"), r#""redis://:***@cache" "--redis-url" "not used: backend is `embedded`""#);

    let output = command(&["check-config", "--role", "api", "--backend", "servers"])
        .env("ORDERING_AMQP_URLS", "amqp://me:hunter2@rabbit")
        .output()
        .unwrap();
    let table = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let row = |key: &str| {
        let row = table.lines().find(|line| line.trim().starts_with(key)).unwrap();
        row.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(row("backend"), "backend servers --backend");
    assert_eq!(row("amqp_urls"), "amqp_urls amqp://me:***@rabbit ORDERING_AMQP_URLS");
    assert_eq!(row("health_listen"), "health_listen (not set) default");
}

#[test]
fn check_config_fails_where_a_role_would() {
    let output = ordering(&["check-config", "--role", "worker"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("backend (default): `ordering worker` needs"));

    let output = ordering(&["check-config", "--json", "--set", "lissten=x", "--set", "redis.timeout=x"]);
    assert_eq!(output.status.code(), Some(1));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["problems"][0]["key"], "lissten");
    assert_eq!(json["problems"][1]["origin"], "--set");
    assert_eq!(json["problems"].as_array().unwrap().len(), 2);
}

#[test]
fn completions_know_the_commands() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = ordering(&["completions", shell]);
        assert_eq!(output.status.code(), Some(0), "{shell}");
        assert!(stdout(&output).contains("check-config"), "{shell}");
    }
}
