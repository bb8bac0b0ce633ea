//! Carries faults out: breaks a part, waits, and heals it.

use std::sync::Arc;
use std::time::Duration;

use super::kinds::Kind;
use super::network::{Failure, Network, SIDES};
use super::processes::{Fleet, Process};
use super::schedule::Fault;
use super::servers::{EVERY, NODES, POSTGRES, Servers};

/// What a lost queue held is published again five seconds after the loss was noticed, which may take as long.
const RESTORED_AFTER: Duration = Duration::from_secs(15);

/// How long it takes until somebody notices that the standby is gone, and lets commits be without it.
const STANDBY_NOTICED: Duration = Duration::from_secs(2);
/// RabbitMQ's settings while all is well: those of `scripts/servers`.
const MEMORY: &str = "2GB";
const DISK: &str = "50MB";

/// Everything that can be broken.
pub struct World {
    // The servers go last.
    pub fleet: Arc<Fleet>,
    pub network: Network,
    pub servers: Servers,
}

impl Drop for World {
    /// Customers may still hold the processes.
    fn drop(&mut self) {
        self.fleet.all().for_each(Process::kill);
    }
}

impl World {
    /// What a fault strikes, for people.
    pub fn target(&self, fault: &Fault) -> String {
        match fault.kind {
            Kind::KillRabbitMq | Kind::FreezeRabbitMq | Kind::MemoryAlarm | Kind::DiskAlarm => node(fault).to_owned(),
            Kind::KillApi | Kind::FreezeApi => self.api(fault).name.clone(),
            Kind::KillWorker | Kind::FreezeWorker => self.worker(fault).name.clone(),
            Kind::KillPostgres | Kind::FreezePostgres | Kind::FailOver => POSTGRES[self.servers.leader()].to_owned(),
            Kind::KillStandby | Kind::FreezeStandby => POSTGRES[self.servers.standby()].to_owned(),
            Kind::CutRabbitMq
            | Kind::BlackHoleRabbitMq
            | Kind::SlowRabbitMq
            | Kind::MidFrameRabbitMq
            | Kind::CutRedis
            | Kind::BlackHoleRedis
            | Kind::SlowRedis
            | Kind::MidFrameRedis
            | Kind::CutPostgres
            | Kind::BlackHolePostgres
            | Kind::SlowPostgres
            | Kind::MidFramePostgres => {
                let server = EVERY[self.server(fault)];
                match side(fault) {
                    None => format!("everybody to {server}"),
                    Some(n @ 0..2) => format!("{} to {server}", self.fleet.apis[n].name),
                    Some(n) => format!("workers {} to {server}", n - 1),
                }
            }
            Kind::KillRedis | Kind::FreezeRedis | Kind::FlushRedis | Kind::EmptyRedis => "redis".to_owned(),
            Kind::RollingRestart | Kind::WipeRabbitMq => "everything".to_owned(),
        }
    }

    fn api(&self, fault: &Fault) -> &Process {
        &self.fleet.apis[fault.target % self.fleet.apis.len()]
    }

    fn worker(&self, fault: &Fault) -> &Process {
        &self.fleet.workers[fault.target % self.fleet.workers.len()]
    }

    /// Where the connections lead that a fault strikes.
    fn server(&self, fault: &Fault) -> usize {
        match fault.kind {
            Kind::CutRedis | Kind::BlackHoleRedis | Kind::SlowRedis | Kind::MidFrameRedis => 3,
            Kind::CutPostgres | Kind::BlackHolePostgres | Kind::SlowPostgres | Kind::MidFramePostgres => {
                4 + self.servers.leader()
            }
            _ => fault.target % NODES.len(),
        }
    }

    /// Breaks what the fault says, and heals it; comes back when the part runs again. What went wrong with that, if it
    /// is the program's fault.
    pub async fn inject(&self, fault: &Fault) -> Result<(), String> {
        tokio::time::sleep(fault.after).await;
        let lasts = fault.lasts;
        match fault.kind {
            Kind::KillRabbitMq => self.kill_server(node(fault), lasts).await,
            Kind::KillRedis => self.kill_server("redis", lasts).await,
            Kind::KillPostgres => {
                self.kill_server(POSTGRES[self.servers.leader()], lasts).await;
                self.servers.require_standby().await;
            }
            Kind::KillStandby => {
                let standby = POSTGRES[self.servers.standby()];
                self.servers.run(&["kill", standby]).await;
                tokio::time::sleep(STANDBY_NOTICED).await;
                self.servers.do_without_standby().await;
                tokio::time::sleep(lasts).await;
                self.servers.run(&["start", standby]).await;
                self.servers.require_standby().await;
            }
            Kind::FreezeStandby => {
                let standby = POSTGRES[self.servers.standby()];
                self.servers.run(&["pause", standby]).await;
                tokio::time::sleep(STANDBY_NOTICED).await;
                self.servers.do_without_standby().await;
                tokio::time::sleep(lasts).await;
                self.servers.run(&["resume", standby]).await;
                self.servers.require_standby().await;
            }
            Kind::KillApi => kill(self.api(fault), lasts).await,
            Kind::KillWorker => kill(self.worker(fault), lasts).await,
            Kind::FreezeRabbitMq => self.freeze_server(node(fault), lasts).await,
            Kind::FreezeRedis => self.freeze_server("redis", lasts).await,
            Kind::FreezePostgres => self.freeze_server(POSTGRES[self.servers.leader()], lasts).await,
            Kind::FreezeApi => freeze(self.api(fault), lasts).await,
            Kind::FreezeWorker => freeze(self.worker(fault), lasts).await,
            Kind::CutRabbitMq | Kind::CutRedis | Kind::CutPostgres => self.fail(Failure::Cut, fault).await,
            Kind::BlackHoleRabbitMq | Kind::BlackHoleRedis | Kind::BlackHolePostgres => {
                self.fail(Failure::BlackHole, fault).await;
            }
            Kind::SlowRabbitMq | Kind::SlowRedis | Kind::SlowPostgres => self.fail(Failure::Slow, fault).await,
            Kind::MidFrameRabbitMq | Kind::MidFrameRedis | Kind::MidFramePostgres => {
                self.fail(Failure::MidFrame, fault).await;
            }
            Kind::FlushRedis => self.servers.flush_redis().await,
            Kind::EmptyRedis => drop(self.servers.run(&["wipe", "redis"]).await),
            Kind::MemoryAlarm => {
                self.control(fault, &["set_vm_memory_high_watermark", "0.0000001"]).await;
                tokio::time::sleep(lasts).await;
                self.control(fault, &["set_vm_memory_high_watermark", "absolute", MEMORY]).await;
            }
            Kind::DiskAlarm => {
                self.control(fault, &["set_disk_free_limit", "9999GB"]).await;
                tokio::time::sleep(lasts).await;
                self.control(fault, &["set_disk_free_limit", DISK]).await;
            }
            Kind::FailOver => {
                self.servers.run(&["kill", POSTGRES[self.servers.leader()]]).await;
                tokio::time::sleep(lasts.min(STANDBY_NOTICED)).await;
                self.servers.promote_standby().await;
                tokio::time::sleep(lasts).await;
                self.servers.rebuild_standby().await;
            }
            Kind::RollingRestart => return self.restart_one_by_one().await,
            Kind::WipeRabbitMq => {
                self.control(fault, &["delete_vhost", "/"]).await;
                self.control(fault, &["add_vhost", "/"]).await;
                self.control(fault, &["set_permissions", "-p", "/", "guest", ".*", ".*", ".*"]).await;
                // Until what was lost is published again its records are the only copy.
                tokio::time::sleep(RESTORED_AFTER).await;
            }
        }
        Ok(())
    }

    async fn kill_server(&self, name: &str, lasts: Duration) {
        self.servers.run(&["kill", name]).await;
        tokio::time::sleep(lasts).await;
        self.servers.run(&["start", name]).await;
    }

    async fn freeze_server(&self, name: &str, lasts: Duration) {
        self.servers.run(&["pause", name]).await;
        tokio::time::sleep(lasts).await;
        self.servers.run(&["resume", name]).await;
    }

    async fn fail(&self, failure: Failure, fault: &Fault) {
        self.network.fail(failure, side(fault), self.server(fault), fault.lasts).await;
    }

    async fn control(&self, fault: &Fault, args: &[&str]) {
        self.servers.run(&[&["rabbitmqctl", node(fault), "-q"], args].concat()).await;
    }

    /// As for an upgrade: every process and every server in turn, each asked to end by itself.
    async fn restart_one_by_one(&self) -> Result<(), String> {
        let mut complaints = Vec::new();
        for process in self.fleet.all() {
            if let Err(complaint) = tokio::task::block_in_place(|| process.terminate()) {
                complaints.push(complaint);
            }
            tokio::task::block_in_place(|| process.start());
        }
        for name in NODES.into_iter().chain(["redis"]) {
            self.servers.run(&["stop", name]).await;
            self.servers.run(&["start", name]).await;
        }
        let (leader, standby) = (POSTGRES[self.servers.leader()], POSTGRES[self.servers.standby()]);
        self.servers.do_without_standby().await;
        for name in [standby, leader] {
            self.servers.run(&["stop", name]).await;
            self.servers.run(&["start", name]).await;
        }
        self.servers.require_standby().await;
        if complaints.is_empty() { Ok(()) } else { Err(complaints.join("; ")) }
    }
}

fn node(fault: &Fault) -> &'static str {
    NODES[fault.target % NODES.len()]
}

/// Whose connections fail: everybody's in two of three cases.
fn side(fault: &Fault) -> Option<usize> {
    let n = fault.target / NODES.len() % (3 * SIDES);
    (n < SIDES).then_some(n)
}

async fn kill(process: &Process, lasts: Duration) {
    tokio::task::block_in_place(|| process.kill());
    tokio::time::sleep(lasts).await;
    tokio::task::block_in_place(|| process.start());
}

async fn freeze(process: &Process, lasts: Duration) {
    process.freeze();
    tokio::time::sleep(lasts).await;
    process.thaw();
}
