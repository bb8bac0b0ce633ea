//! The kinds of faults, and the parts they strike.

/// What can be broken at once, and what a second fault of a round must leave alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    RabbitMq,
    Redis,
    Postgres,
    Api,
    Worker,
    /// Nothing else goes beside it.
    Everything,
}

/// A kind of fault; its name is what `--only` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    KillRabbitMq,
    KillRedis,
    KillPostgres,
    KillStandby,
    KillApi,
    KillWorker,
    FreezeRabbitMq,
    FreezeRedis,
    FreezePostgres,
    FreezeStandby,
    FreezeApi,
    FreezeWorker,
    CutRabbitMq,
    CutRedis,
    CutPostgres,
    BlackHoleRabbitMq,
    BlackHoleRedis,
    BlackHolePostgres,
    SlowRabbitMq,
    SlowRedis,
    SlowPostgres,
    MidFrameRabbitMq,
    MidFrameRedis,
    MidFramePostgres,
    FlushRedis,
    EmptyRedis,
    MemoryAlarm,
    DiskAlarm,
    FailOver,
    RollingRestart,
    WipeRabbitMq,
}

impl Kind {
    pub const ALL: [Kind; 31] = [
        Kind::KillRabbitMq,
        Kind::KillRedis,
        Kind::KillPostgres,
        Kind::KillStandby,
        Kind::KillApi,
        Kind::KillWorker,
        Kind::FreezeRabbitMq,
        Kind::FreezeRedis,
        Kind::FreezePostgres,
        Kind::FreezeStandby,
        Kind::FreezeApi,
        Kind::FreezeWorker,
        Kind::CutRabbitMq,
        Kind::CutRedis,
        Kind::CutPostgres,
        Kind::BlackHoleRabbitMq,
        Kind::BlackHoleRedis,
        Kind::BlackHolePostgres,
        Kind::SlowRabbitMq,
        Kind::SlowRedis,
        Kind::SlowPostgres,
        Kind::MidFrameRabbitMq,
        Kind::MidFrameRedis,
        Kind::MidFramePostgres,
        Kind::FlushRedis,
        Kind::EmptyRedis,
        Kind::MemoryAlarm,
        Kind::DiskAlarm,
        Kind::FailOver,
        Kind::RollingRestart,
        Kind::WipeRabbitMq,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Kind::KillRabbitMq => "kill-rabbitmq",
            Kind::KillRedis => "kill-redis",
            Kind::KillPostgres => "kill-postgres",
            Kind::KillStandby => "kill-standby",
            Kind::KillApi => "kill-api",
            Kind::KillWorker => "kill-worker",
            Kind::FreezeRabbitMq => "freeze-rabbitmq",
            Kind::FreezeRedis => "freeze-redis",
            Kind::FreezePostgres => "freeze-postgres",
            Kind::FreezeStandby => "freeze-standby",
            Kind::FreezeApi => "freeze-api",
            Kind::FreezeWorker => "freeze-worker",
            Kind::CutRabbitMq => "cut-rabbitmq",
            Kind::CutRedis => "cut-redis",
            Kind::CutPostgres => "cut-postgres",
            Kind::BlackHoleRabbitMq => "black-hole-rabbitmq",
            Kind::BlackHoleRedis => "black-hole-redis",
            Kind::BlackHolePostgres => "black-hole-postgres",
            Kind::SlowRabbitMq => "slow-rabbitmq",
            Kind::SlowRedis => "slow-redis",
            Kind::SlowPostgres => "slow-postgres",
            Kind::MidFrameRabbitMq => "mid-frame-rabbitmq",
            Kind::MidFrameRedis => "mid-frame-redis",
            Kind::MidFramePostgres => "mid-frame-postgres",
            Kind::FlushRedis => "flush-redis",
            Kind::EmptyRedis => "empty-redis",
            Kind::MemoryAlarm => "memory-alarm",
            Kind::DiskAlarm => "disk-alarm",
            Kind::FailOver => "fail-over",
            Kind::RollingRestart => "rolling-restart",
            Kind::WipeRabbitMq => "wipe-rabbitmq",
        }
    }

    pub fn part(self) -> Part {
        match self {
            Kind::KillRabbitMq
            | Kind::FreezeRabbitMq
            | Kind::CutRabbitMq
            | Kind::BlackHoleRabbitMq
            | Kind::SlowRabbitMq
            | Kind::MidFrameRabbitMq
            | Kind::MemoryAlarm
            | Kind::DiskAlarm
            | Kind::WipeRabbitMq => Part::RabbitMq,
            Kind::KillRedis
            | Kind::FreezeRedis
            | Kind::CutRedis
            | Kind::BlackHoleRedis
            | Kind::SlowRedis
            | Kind::MidFrameRedis
            | Kind::FlushRedis
            | Kind::EmptyRedis => Part::Redis,
            Kind::KillPostgres
            | Kind::KillStandby
            | Kind::FreezePostgres
            | Kind::FreezeStandby
            | Kind::CutPostgres
            | Kind::BlackHolePostgres
            | Kind::SlowPostgres
            | Kind::MidFramePostgres
            | Kind::FailOver => Part::Postgres,
            Kind::KillApi | Kind::FreezeApi => Part::Api,
            Kind::KillWorker | Kind::FreezeWorker => Part::Worker,
            Kind::RollingRestart => Part::Everything,
        }
    }

    /// Whether nothing else may happen meanwhile: of two copies of an order, one in a queue and one in a record, one may be
    /// lost at a time.
    pub fn is_alone(self) -> bool {
        self == Kind::WipeRabbitMq || self.part() == Part::Everything
    }

    /// The kinds whose names begin with `text`: `kill`, or `kill-redis`.
    pub fn named(text: &str) -> Vec<Kind> {
        Kind::ALL.into_iter().filter(|kind| kind.name().starts_with(text)).collect()
    }
}
