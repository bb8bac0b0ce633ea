//! Every way settings can be wrong, told as the operator reads it.

use std::path::Path;
use std::time::Duration;

use ordering::domain::Stage;
use ordering::settings::{self, Backend, Flag, Given, Handler, Loaded, Origin, Role};

/// What a process is started with.
#[derive(Default)]
struct Start {
    file: Option<&'static str>,
    environment: &'static [(&'static str, &'static str)],
    set: &'static [(&'static str, &'static str)],
}

impl Start {
    fn load(&self, role: Role) -> Result<Loaded, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.toml");
        let file = self.file.map(|text| {
            std::fs::write(&path, text).unwrap();
            path.clone()
        });
        let given = Given {
            file,
            environment: self.environment.iter().map(|(name, value)| (name.into(), value.into())).collect(),
            flags: self
                .set
                .iter()
                .map(|(key, value)| Flag { flag: "--set", key: (*key).to_owned(), value: Some((*value).to_owned()) })
                .collect(),
        };
        let folder = format!("{}/", folder.path().display());
        settings::load(role, &given).map_err(|error| error.to_string().replace(&folder, ""))
    }

    fn loaded(&self) -> Loaded {
        self.load(Role::All).unwrap_or_else(|error| panic!("{error}"))
    }

    fn error(&self) -> String {
        match self.load(Role::All) {
            Ok(_) => panic!("the settings were taken"),
            Err(error) => error,
        }
    }
}

fn file_error(file: &'static str) -> String {
    Start { file: Some(file), ..Start::default() }.error()
}

fn origin_and_value(loaded: &Loaded, key: &str) -> (String, String) {
    let setting = loaded.effective.iter().find(|s| s.key == key).unwrap();
    let origin = match &setting.origin {
        Origin::File { line, .. } => format!("file:{}", line.unwrap()),
        other => other.to_string(),
    };
    (origin, setting.value.clone())
}

#[test]
fn flags_win_over_the_environment_and_the_environment_over_the_file() {
    let loaded = Start {
        file: Some(
            "listen = \"localhost:1\"\nnamespace = \"file\"\n\n[redis]\ntimeout = \"1s\"\n\
             [stages.pre_processing]\nprefetch = 3\n",
        ),
        environment: &[
            ("ORDERING_LISTEN", "localhost:2"),
            ("ORDERING_NAMESPACE", "environment"),
            ("ORDERING_STAGES_PRE_PROCESSING_AT_ONCE", "7"),
            ("PATH", "/bin"),
        ],
        set: &[("listen", "localhost:3"), ("stages.post_processing.attempts_max", "9")],
    }
    .loaded();
    let settings = &loaded.settings;
    assert_eq!(settings.listen.to_string(), "localhost:3");
    assert_eq!(settings.namespace, "environment");
    assert_eq!(settings.redis.timeout, Duration::from_secs(1));
    assert_eq!(settings.stages[Stage::PreProcessing].prefetch(256, 7), 3);
    assert_eq!(settings.stages[Stage::PreProcessing].at_once, 7);
    assert_eq!(settings.stages[Stage::PostProcessing].retry.attempts_max, 9);
    for (key, origin, value) in [
        ("listen", "--set", "localhost:3"),
        ("namespace", "ORDERING_NAMESPACE", "environment"),
        ("redis.timeout", "file:5", "1s"),
        ("stages.pre-processing.prefetch", "file:7", "3"),
        ("stages.pre-processing.at_once", "ORDERING_STAGES_PRE_PROCESSING_AT_ONCE", "7"),
        ("redis.connections", "default", "4"),
    ] {
        assert_eq!(origin_and_value(&loaded, key), (origin.to_owned(), value.to_owned()), "{key}");
    }
}

#[test]
fn every_form_of_a_value_is_read() {
    let settings = Start {
        file: Some(
            "backend = 'servers'\namqp_urls = ['amqp://a', 'amqp://b:5673/v']\nmigrate_at_start = false\n\
             api.body_max = 1048576\nbatch = { bytes_max = \"64KiB\" }\nworker_name = 'w 1'\n\
             [stages.processing]\nhandler = 'simulated'\ndelay = '1m30s'\nfailure_rate = 1\n",
        ),
        ..Start::default()
    }
    .loaded()
    .settings;
    assert_eq!(settings.backend, Backend::Servers);
    assert_eq!(settings.rabbitmq.urls.len(), 2);
    assert_eq!(settings.rabbitmq.urls[1].expose(), "amqp://b:5673/v");
    assert!(!settings.migrate_at_start);
    assert_eq!(settings.api.body_max_bytes, 1 << 20);
    assert_eq!(settings.batch.bytes_max, 64 << 10);
    assert_eq!(&*settings.worker_name, "w 1");
    let handler = Handler::Simulated { delay: Duration::from_secs(90), failure_rate: 1.0 };
    assert_eq!(settings.stages[Stage::Processing].handler, handler);
    assert_eq!(settings.stages[Stage::Scheduling].handler, Handler::None);
}

#[test]
fn a_worker_has_a_name_of_its_own() {
    let name = Start::default().loaded().settings.worker_name;
    assert!(name.ends_with(&format!("-{}", std::process::id())), "{name}");
}

#[test]
fn all_problems_are_told_at_once_each_with_its_place() {
    let error = Start {
        file: Some(
            "lisen = \"localhost:1\"\n\n[api]\nbody_maxx = \"1MiB\"\nrequests_max = \"many\"\n\n\
             [redis]\ntimeout = 500\nconnections = 65\n",
        ),
        environment: &[("ORDERING_REDIS_ULR", "redis://x"), ("ORDERING_POSTGRES_POOL_MAX", "-1")],
        set: &[("postgres.pool_maxx", "8"), ("log.level", "inof")],
    }
    .error();
    assert_eq!(
        error,
        "the settings have 9 problems:
  lisen (a.toml, line 1): no such setting; did you mean `listen`?
  api.body_maxx (a.toml, line 4): no such setting; did you mean `api.body_max`?
  ORDERING_REDIS_ULR: no such setting; did you mean `ORDERING_REDIS_URL`?
  api.requests_max (a.toml, line 5): must be a whole number, without quotes, and is of type string
  redis.timeout (a.toml, line 8): must be a string with the unit in it, such as \"10s\", and is of type integer
  redis.connections (a.toml, line 9): `65` is no whole number from 1 to 64
  postgres.pool_max (ORDERING_POSTGRES_POOL_MAX): `-1` is no whole number from 1 to 1000
  postgres.pool_maxx (--set): no such setting; did you mean `postgres.pool_max`?
  log.level (--set): `inof` is none of `off`, `error`, `warn`, `info`, `debug`, `trace`"
    );
}

#[test]
fn what_is_in_the_wrong_place_is_told() {
    for (file, problem) in [
        ("body_max = 1", "body_max (a.toml, line 1): no such setting; did you mean `api.body_max`?"),
        ("\napi = 1", "api (a.toml, line 2): is a section of settings: write [api]"),
        ("[listen]\nhost = 'x'", "listen (a.toml, line 1): is a setting, not a section of settings"),
        (
            "[stages.packing]\nprefetch = 1",
            "stages.packing (a.toml, line 1): `packing` is no stage; the stages are scheduling, pre-processing, \
             processing and post-processing",
        ),
        ("[[redis]]\ntimeout = '1s'", "redis (a.toml, line 1): is a section of settings: write [redis]"),
        ("[wholly]\nelse = 1", "wholly (a.toml, line 1): no such setting; `ordering check-config` lists all there are"),
        (
            "[stages.pre-processing]\nprefetch = 1\n[stages.pre_processing]\nprefetch = 2",
            "stages.pre-processing.prefetch (a.toml, line 4): is given twice, first by a.toml, line 2",
        ),
    ] {
        assert_eq!(file_error(file), format!("the settings have a problem:\n  {problem}"));
    }
}

#[test]
fn a_file_that_is_no_toml_is_told_by_line_and_not_quoted() {
    let error = file_error("listen = 'localhost:1'\nredis_url = redis://:hunter2@host\n");
    assert!(error.contains("a.toml, line 2: no valid TOML: "), "{error}");
    assert!(!error.contains("hunter2"), "{error}");

    let given = Given { file: Some(Path::new("/nowhere/a.toml").to_owned()), ..Given::default() };
    let error = settings::load(Role::All, &given).err().unwrap().to_string();
    let expected = "  /nowhere/a.toml: the settings file cannot be read: No such file or directory (os error 2)";
    assert_eq!(error.lines().nth(1), Some(expected));
}

#[test]
fn contradictions_are_told() {
    for (file, problem) in [
        (
            "[stages.processing]\ndelay = '1s'",
            "stages.processing.delay (a.toml, line 2): is set, and stages.processing.handler is `none`, which takes no \
             time and never fails: set it to `simulated`",
        ),
        (
            "[stages.processing]\nbackoff_cap = '500ms'",
            "stages.processing.backoff_cap (a.toml, line 2): `500ms` is shorter than stages.processing.backoff_base, 1s",
        ),
        (
            "[stages.processing]\nbackoff_base = '10s'\nbackoff_cap = '5s'",
            "stages.processing.backoff_base (a.toml, line 2): `10s` is longer than stages.processing.backoff_cap, 5s",
        ),
        (
            "health_listen = '127.0.0.1:8080'",
            "health_listen (a.toml, line 1): is the address of `listen`: two listeners need two ports",
        ),
        (
            "rabbitmq.heartbeat = '2500ms'",
            "rabbitmq.heartbeat (a.toml, line 1): `2s500ms` is no whole number of seconds",
        ),
        (
            "redis.in_flight_ttl = '1m'\nredis.ended_ttl = '2m'",
            "redis.ended_ttl (a.toml, line 2): is longer than redis.in_flight_ttl, 1m",
        ),
    ] {
        assert_eq!(file_error(file), format!("the settings have a problem:\n  {problem}"));
    }
}

#[test]
fn a_wrong_value_is_not_told_a_second_time_as_a_contradiction() {
    let error = file_error("[stages.processing]\nhandler = 'simulatd'\ndelay = '1s'");
    assert_eq!(
        error,
        "the settings have a problem:\n  stages.processing.handler (a.toml, line 2): `simulatd` is none of `none`, \
         `simulated`, `http`"
    );
}

#[test]
fn values_out_of_range_are_told_with_the_range() {
    for (file, problem) in [
        ("stages.scheduling.prefetch = 10001", "`10001` is no whole number from 0 to 10000"),
        ("batch.bytes_max = 1023", "`1023` is not from 1KiB to 8MiB"),
        ("api.body_max = '17MiB'", "`17MiB` is not from 1KiB to 8MiB"),
        ("stages.scheduling.failure_rate = 1.5", "`1.5` is no number from 0 to 1"),
        ("stages.scheduling.failure_rate = nan", "`NaN` is no number from 0 to 1"),
        ("stop_timeout = '1h'", "`1h` is not from 0s to 10m"),
        ("stop_timeout = '10'", "`10` is no duration; write from 0s to 10m, with units: 250ms, 10s, 5m, 1h30m, 30d"),
        (
            "api.body_max = '256KB'",
            "`256KB` is no size; write from 1KiB to 8MiB, such as 256KiB, 1MiB or a number of bytes",
        ),
        (
            "listen = ':8080'",
            "`:8080` has no host; write HOST:PORT, such as 127.0.0.1:8080 (0.0.0.0 for every interface)",
        ),
        ("namespace = 'Mine'", "`Mine` is no namespace: 1 to 48 of a-z, 0-9, `_` and `-`, a letter first"),
        ("backend = 'postgres'", "`postgres` is none of `embedded`, `servers`"),
        ("migrate_at_start = 'yes'", "must be true or false, without quotes, and is of type string"),
        ("worker_name = \"a\\u0007\"", "has control characters"),
    ] {
        let error = file_error(file);
        assert!(error.ends_with(&format!(", line 1): {problem}")), "{file}: {error}");
    }
}

#[test]
fn roles_of_several_processes_need_servers() {
    for role in [Role::Api, Role::Worker, Role::Migrate] {
        let error = Start::default().load(role).err().unwrap();
        let start = format!(
            "the settings have a problem:\n  backend (default): `ordering {role}` needs the back end `servers`"
        );
        assert!(error.starts_with(&start), "{error}");
        assert!(error.contains("ORDERING_BACKEND=servers or --backend servers"), "{error}");
        let servers = Start { environment: &[("ORDERING_BACKEND", "servers")], ..Start::default() };
        assert!(servers.load(role).is_ok());
    }
    let explicit = Start { set: &[("backend", "embedded")], ..Start::default() };
    let error = explicit.load(Role::Api).err().unwrap();
    assert!(error.contains("backend (--set)"), "{error}");
}

#[test]
fn a_password_is_never_shown() {
    const WRONG: &[(&str, &str)] = &[
        ("amqp_urls", "amqp://me:hunter2@host:99999"),
        ("amqp_urls", "amqp://a,amqps://me:hunter2@host"),
        ("amqp_urls", "me:hunter2@host"),
        ("amqp_urls", "amqp://me:hunt,er2hunter2@host"),
        ("redis_url", "amqp://me:hunter2@host"),
        ("redis_url", "redis://:hunter2/x@host"),
        ("postgres_url", "mysql://me:hunter2@host"),
        ("postgres_url", "postgresql://me:hunter2@"),
        ("redis_url:redis://me:hunter2@host?x", "1"),
    ];
    for wrong in WRONG {
        let error = Start { set: std::slice::from_ref(wrong), ..Start::default() }.error();
        assert!(!error.contains("hunter2"), "{error}");
    }
    let error = file_error("redis_url = ['redis://:hunter2@host']\namqp_urls = ['amqp://me:hunter2@host', 1]");
    assert!(!error.contains("hunter2"), "{error}");

    let loaded = Start {
        environment: &[
            ("ORDERING_AMQP_URLS", "amqp://me:hunter2@a, amqp://me:hunter2@b"),
            ("ORDERING_REDIS_URL", "redis://:hunter2@host"),
            ("ORDERING_POSTGRES_URL", "host=db user=me password=hunter2"),
        ],
        ..Start::default()
    }
    .loaded();
    let (_, shown) = origin_and_value(&loaded, "amqp_urls");
    assert_eq!(shown, "amqp://me:***@a,amqp://me:***@b");
    assert!(!format!("{:?} {:?}", loaded.settings, loaded.effective).contains("hunter2"));
    assert!(loaded.settings.postgres.url.expose().contains("hunter2"));
}

#[test]
fn variables_of_others_are_left_alone() {
    Start {
        environment: &[
            ("ORDERING_CONFIG", "x"),
            ("ORDERING_SERVER", "x"),
            ("ORDERING_SERVERS_DIR", "x"),
            ("ORDERING_TEST_SEED", "7"),
            ("ORDERING_SERVICE_HOST", "10.0.0.1"),
            ("ORDERING_SERVICE_PORT", "80"),
            ("ORDERING_SERVICE_PORT_HTTP", "80"),
            ("ORDERING_PORT", "tcp://10.0.0.1:80"),
            ("ORDERING_PORT_80_TCP", "tcp://10.0.0.1:80"),
            ("ORDERING_PORT_80_TCP_ADDR", "10.0.0.1"),
            ("ORDERING_API_SERVICE_HOST", "10.0.0.1"),
            ("ORDERING_API_PORT_80_TCP_PROTO", "tcp"),
        ],
        ..Start::default()
    }
    .loaded();
    let error = Start { environment: &[("ORDERING_PORT", "8080")], ..Start::default() }.error();
    assert!(error.contains("ORDERING_PORT: no such setting"), "{error}");
    let error = Start { environment: &[("ORDERING_SERVERS", "x")], ..Start::default() }.error();
    assert!(error.ends_with("ORDERING_SERVERS: no such setting; did you mean `ORDERING_SERVER`?"), "{error}");
}

#[test]
fn a_setting_given_by_two_flags_is_a_contradiction() {
    let error = Start { set: &[("listen", "localhost:1"), ("listen", "localhost:2")], ..Start::default() }.error();
    assert!(error.ends_with("listen (--set): is given twice, first by --set"), "{error}");
}

#[test]
fn settings_that_have_no_effect_are_noted() {
    let loaded = Start { file: Some("redis_url = 'redis://x'\n"), ..Start::default() }.loaded();
    let note = |key: &str| loaded.effective.iter().find(|s| s.key == key).unwrap().note;
    assert_eq!(note("redis_url"), Some("not used: backend is `embedded`"));
    assert_eq!(note("postgres_url"), None);
}

#[test]
fn a_service_is_set_up_whole_or_not_at_all() {
    let settings = Start {
        file: Some(
            "[stages.processing]\nhandler = 'http'\nurl = 'https://me:pw1@pay/charge'\n\
             headers = ['X-Team: payments', 'Authorization: Bearer pw2']\ncalls_per_second = 7\n",
        ),
        environment: &[(
            "ORDERING_STAGES_PROCESSING_SIGNING_SECRET",
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
        )],
        ..Start::default()
    }
    .loaded();
    let Handler::Http(http) = &settings.settings.stages[Stage::Processing].handler else { panic!("it is http") };
    assert_eq!((http.url.expose(), http.timeout), ("https://me:pw1@pay/charge", Duration::from_secs(10)));
    assert_eq!((http.headers.len(), http.secrets.len(), http.calls_per_second), (2, 2, Some(7)));
    assert_eq!((http.breaker.failures, http.breaker.pause_base), (5, Duration::from_secs(1)));
    let shown = |key: &str| origin_and_value(&settings, &format!("stages.processing.{key}")).1;
    assert_eq!(shown("url"), "https://me:***@pay/charge");
    assert_eq!(shown("headers"), "x-team: ***\nauthorization: ***");
    assert_eq!(shown("signing_secret"), "*** ***");
    let everything = format!("{:?} {:?}", settings.settings, settings.effective);
    for secret in ["pw1", "pw2", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"] {
        assert!(!everything.contains(secret), "{secret} is shown");
    }
}

#[test]
fn settings_of_a_service_that_cannot_work_are_told() {
    let error = file_error(
        "[stages.processing]\nhandler = 'http'\ndelay = '1s'\nsigning_secret = 'pw'\nheaders = ['Host: pw']\n\
         timeout = '2m'\nbreaker_pause_base = '1m'\n[stages.scheduling]\nurl = 'http://x'\n",
    );
    assert_eq!(
        error,
        "the settings have 7 problems:
  stages.processing.signing_secret (a.toml, line 4): must be `whsec_` and 24 to 64 bytes in base64; one is made by \
         `echo whsec_$(openssl rand -base64 32)`
  stages.processing.headers (a.toml, line 5): sets `host`, which is set by the handler itself
  stages.processing.timeout (a.toml, line 6): `2m` is not from 100ms to 1m40s
  stages.scheduling.url (a.toml, line 9): is set, and stages.scheduling.handler is `none`, which takes no time and \
         never fails: set it to `http`
  stages.processing.delay (a.toml, line 3): is set, and stages.processing.handler is `http`, which knows no such \
         setting: set it to `simulated`
  stages.processing.url (default): is not set, and stages.processing.handler is `http`: name the service to call
  stages.processing.breaker_pause_base (a.toml, line 7): `1m` is longer than stages.processing.breaker_pause_cap, 30s"
    );
}
