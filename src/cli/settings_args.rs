//! The flags that give settings.

use std::path::PathBuf;

use clap::Args;

use crate::settings::{self, Flag, Given, Loaded, Role, SettingsError};

#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Settings (flags win over the environment, the environment over the file)")]
pub struct SettingsArgs {
    /// A settings file (TOML); none is read unless it is named
    #[arg(long, value_name = "FILE", env = "ORDERING_CONFIG", hide_env_values = true)]
    pub config: Option<PathBuf>,

    /// Where orders are kept: `embedded` or `servers` [env: ORDERING_BACKEND]
    #[arg(long, value_name = "BACKEND")]
    pub backend: Option<String>,

    /// Where the HTTP API listens; port 0 takes a free one [env: ORDERING_LISTEN]
    #[arg(long, value_name = "HOST:PORT")]
    pub listen: Option<String>,

    /// Where a worker answers for its health and metrics [env: ORDERING_HEALTH_LISTEN]
    #[arg(long, value_name = "HOST:PORT")]
    pub health_listen: Option<String>,

    /// The folder of the embedded store [env: ORDERING_DATA_DIR]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<String>,

    /// RabbitMQ, one URL for each node, comma separated [env: ORDERING_AMQP_URLS, the place for passwords]
    #[arg(long, value_name = "URLS")]
    pub amqp_urls: Option<String>,

    /// Redis [env: ORDERING_REDIS_URL, the place for passwords]
    #[arg(long, value_name = "URL")]
    pub redis_url: Option<String>,

    /// Postgres [env: ORDERING_POSTGRES_URL, the place for passwords]
    #[arg(long, value_name = "URL")]
    pub postgres_url: Option<String>,

    /// Begins the names of everything on the servers [env: ORDERING_NAMESPACE]
    #[arg(long, value_name = "NAME")]
    pub namespace: Option<String>,

    /// Any setting by its name, such as `api.body_max=1MiB`; repeat it for several. `ordering check-config` lists all
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

impl SettingsArgs {
    /// Loads the settings for a role from the file, the process's environment and these flags.
    ///
    /// # Errors
    /// As [`settings::load`].
    pub fn load(&self, role: Role) -> Result<Loaded, SettingsError> {
        settings::load(
            role,
            &Given { file: self.config.clone(), environment: std::env::vars_os().collect(), flags: self.flags() },
        )
    }

    fn flags(&self) -> Vec<Flag> {
        let own = [
            ("--backend", "backend", &self.backend),
            ("--listen", "listen", &self.listen),
            ("--health-listen", "health_listen", &self.health_listen),
            ("--data-dir", "data_dir", &self.data_dir),
            ("--amqp-urls", "amqp_urls", &self.amqp_urls),
            ("--redis-url", "redis_url", &self.redis_url),
            ("--postgres-url", "postgres_url", &self.postgres_url),
            ("--namespace", "namespace", &self.namespace),
        ];
        let own = own
            .into_iter()
            .filter_map(|(flag, key, value)| Some(Flag { flag, key: key.to_owned(), value: Some(value.clone()?) }));
        let set = self.set.iter().map(|text| {
            let (key, value) = match text.split_once('=') {
                Some((key, value)) => (key, Some(value.to_owned())),
                None => (text.as_str(), None),
            };
            Flag { flag: "--set", key: key.trim().to_owned(), value }
        });
        own.chain(set).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flag_names_a_setting() {
        let some = Some(String::new());
        let args = SettingsArgs {
            config: None,
            backend: some.clone(),
            listen: some.clone(),
            health_listen: some.clone(),
            data_dir: some.clone(),
            amqp_urls: some.clone(),
            redis_url: some.clone(),
            postgres_url: some.clone(),
            namespace: some,
            set: vec!["api.body_max=1=2".to_owned()],
        };
        let flags = args.flags();
        assert_eq!(flags.len(), 9);
        for flag in &flags {
            assert!(settings::keys::all().any(|(name, _)| name == flag.key), "{flag:?}");
        }
        assert_eq!(flags[8].value.as_deref(), Some("1=2"));
    }
}
