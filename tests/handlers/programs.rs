//! Programs of others that the tests run: the examples, Python, and the reference implementation of what we sign by.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::json;

use super::Call;

/// The release of the reference implementation that is installed from PyPI.
const STANDARD_WEBHOOKS: &str = "standardwebhooks==1.1.0";

/// A program that says where it listens. Dropping it kills it.
pub struct Program {
    child: Child,
    pub url: String,
}

impl Program {
    pub fn start(program: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Program {
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ORDERING_") {
                command.env_remove(name);
            }
        }
        command.args(arguments).envs(environment.iter().copied());
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut reader = BufReader::new(child.stdout.take().unwrap());
        let mut first = String::new();
        reader.read_line(&mut first).unwrap();
        // Read on, so that the program never waits for its reader.
        std::thread::spawn(move || reader.lines().map_while(Result::ok).for_each(drop));
        let url = first.trim_end().strip_prefix("listening on ").unwrap_or_else(|| panic!("it says {first:?}"));
        Program { url: url.to_owned(), child }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Builds an example of this crate; where it is. A whole `cargo test` has built it already.
pub fn build_example(name: &str) -> PathBuf {
    let target = Path::new(env!("CARGO_BIN_EXE_ordering")).parent().unwrap();
    let profile: &[&str] = if target.ends_with("release") { &["--release"] } else { &[] };
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--locked", "--example", name])
        .args(profile)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .unwrap();
    assert!(built.success(), "the example {name} does not compile");
    target.join("examples").join(name)
}

/// Says that a test cannot do what it is for. Where everything was promised that is a failure.
fn missing(what: &str) {
    let says = |name: &str, value: &str| std::env::var(name).as_deref() == Ok(value);
    assert!(!(says("CI", "true") && says("ORDERING_TEST_SERVERS", "1")), "there is no {what}");
    eprintln!("skipped: there is no {what}");
}

/// A Python of 3.9 or later.
pub fn python() -> Option<PathBuf> {
    let check = Command::new("python3").args(["-c", "import sys; assert sys.version_info >= (3, 9)"]).output();
    if check.is_ok_and(|output| output.status.success()) {
        return Some("python3".into());
    }
    missing("python3 of version 3.9 or later");
    None
}

/// A Python that has the reference implementation, installed from PyPI once for a target folder.
pub fn standard_webhooks() -> Option<Verifier> {
    let python = python()?;
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(STANDARD_WEBHOOKS.replace("==", "-"));
    let installed = folder.join("bin/python");
    let verifier = Verifier { python: installed.clone() };
    if verifier.is_there() {
        return Some(verifier);
    }
    let run = |program: &Path, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output();
        output.map_err(|error| error.to_string()).and_then(|output| match output.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        })
    };
    let install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", STANDARD_WEBHOOKS];
    let made =
        run(&python, &["-m", "venv", "--clear", folder.to_str().unwrap()]).and_then(|()| run(&installed, &install));
    match made {
        Ok(()) => Some(verifier),
        Err(error) => {
            missing(&format!("{STANDARD_WEBHOOKS}: {error}"));
            None
        }
    }
}

/// The reference implementation at work.
pub struct Verifier {
    python: PathBuf,
}

impl Verifier {
    fn is_there(&self) -> bool {
        let output = Command::new(&self.python).args(["-c", "import standardwebhooks"]).output();
        output.is_ok_and(|output| output.status.success())
    }

    /// Verifies a call as a service would.
    ///
    /// # Errors
    /// What it has against it.
    pub fn verifies(&self, secret: &str, call: &Call) -> Result<(), String> {
        let script = "import json, sys; from standardwebhooks import Webhook\n\
                      given = json.load(sys.stdin)\n\
                      Webhook(given['secret']).verify(given['body'], given['headers'])";
        let mut child = Command::new(&self.python)
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let given = json!({"secret": secret, "headers": call.headers, "body": call.body});
        child.stdin.take().unwrap().write_all(given.to_string().as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        match output.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }
}
