//! Private servers of one test, which it may kill, pause, promote and wipe: `scripts/servers` on a folder of its own.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// Servers in a folder that goes with this value, and they with it.
pub struct Folder(tempfile::TempDir);

impl Folder {
    /// Starts the servers of these names; see `scripts/servers`.
    pub fn start(names: &[&str]) -> Folder {
        let folder = tempfile::Builder::new().prefix("ordering-servers").tempdir().unwrap();
        // Postgres, which does not run as root, must get through to its part of it.
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
        let folder = Folder(folder);
        folder.run("start", names);
        folder
    }

    /// `scripts/servers COMMAND NAME…`; what it printed.
    pub fn run(&self, command: &str, names: &[&str]) -> String {
        let output = self.command(command).args(names).output().unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "scripts/servers {command} {names:?}: {out}{err}");
        out.into_owned()
    }

    /// The address that `scripts/servers env` exports as `variable`.
    pub fn url(&self, variable: &str) -> String {
        let env = self.run("env", &[]);
        let line = env.lines().find_map(|line| line.strip_prefix(&format!("export {variable}=")));
        line.unwrap_or_else(|| panic!("{variable} in {env}")).trim_matches(['\'', '"']).to_owned()
    }

    fn command(&self, command: &str) -> Command {
        let mut servers = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/servers"));
        servers.arg(command).env("ORDERING_SERVERS_DIR", self.0.path()).stdin(Stdio::null());
        servers
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = self.command("remove").stdout(Stdio::null()).status();
    }
}
