//! Apache Kafka: one broker that is its own controller.

use super::{Server, accepts, free_port, installed};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// A broker. Killed and started again it has its messages and its port.
pub struct Kafka {
    server: Server,
    port: u16,
}

impl Kafka {
    /// A broker that keeps no group waiting for more members, and makes no topic that nobody has asked for.
    ///
    /// # Panics
    /// It does not start.
    pub fn start() -> Kafka {
        Kafka::start_with("")
    }

    /// The same with further lines of its configuration.
    ///
    /// # Panics
    /// It does not start.
    pub fn start_with(more: &str) -> Kafka {
        let (home, port, voters) = (installed("kafka"), free_port(), free_port());
        let more = more.to_owned();
        let server = Server::start(
            "Kafka",
            move |dir| {
                let lib = format!("{}/lib/*", home.display());
                let config = dir.join("server.properties");
                if !config.exists() {
                    fs::write(&config, properties(dir, port, voters, &more)).unwrap();
                    let formatted = Command::new("java")
                        .args(["-Xmx64m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", &lib, "kafka.tools.StorageTool", "format"])
                        .args(["-t", "AAAAAAAAQACAAAAAAAAAAQ", "-c"])
                        .arg(&config)
                        .stdout(Stdio::null())
                        .output()
                        .unwrap();
                    assert!(formatted.status.success(), "{}", String::from_utf8_lossy(&formatted.stderr));
                }
                let mut command = Command::new("java");
                command.args(["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto"]);
                let classes = home.join("classes.jsa");
                if classes.exists() {
                    command.arg(format!("-XX:SharedArchiveFile={}", classes.display()));
                }
                command.args(["-cp", &lib, "kafka.Kafka"]).arg(config).current_dir(dir);
                command
            },
            move |_| accepts(port),
        );
        Kafka { server, port }
    }

    /// `127.0.0.1:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Its process.
    pub fn server(&mut self) -> &mut Server {
        &mut self.server
    }
}

fn properties(dir: &Path, port: u16, voters: u16, more: &str) -> String {
    let log = dir.join("log");
    format!(
        "process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{voters}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{voters}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs={}
num.network.threads=2
num.io.threads=2
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
log.cleaner.dedupe.buffer.size=2097152
{more}
",
        log.display()
    )
}
