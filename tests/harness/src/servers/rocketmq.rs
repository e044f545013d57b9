//! RocketMQ: a name server, and a broker that has the gRPC proxy within itself (local mode), so that two processes do.
//!
//! Topics are not made here: whoever tests makes them with what it tests.

use super::{Server, accepts, free_port, installed};
use std::ffi::OsString;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// A cluster of one broker, or of more. Everything is gone when it is dropped.
pub struct RocketMq {
    names: Server,
    brokers: Vec<Server>,
    names_port: u16,
    grpc_port: u16,
}

/// What a cluster is to be.
#[derive(Clone, Copy, Debug)]
pub struct Wish {
    /// How many brokers, `b0` and so on.
    pub brokers: usize,
    /// The lock that a member of a group has on a queue ends so many milliseconds after the member was last heard of; the
    /// broker's default is a minute, which no test waits for.
    pub lock_ms: u32,
    /// A name and a secret: it answers only to who knows them.
    pub user: Option<(&'static str, &'static str)>,
}

impl Default for Wish {
    fn default() -> Wish {
        Wish { brokers: 1, lock_ms: 3_000, user: None }
    }
}

#[derive(Clone, Copy)]
struct Ports {
    number: usize,
    names: u16,
    broker: u16,
    replicas: u16,
    grpc: u16,
    remoting: u16,
}

/// What a JVM of 17 must be told so that the broker may map files; as in the distribution's own scripts.
const OPEN: &[&str] = &[
    "--add-exports=java.base/jdk.internal.ref=ALL-UNNAMED",
    "--add-exports=java.base/sun.nio.ch=ALL-UNNAMED",
    "--add-opens=java.base/java.nio=ALL-UNNAMED",
    "--add-opens=java.base/java.lang=ALL-UNNAMED",
    "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED",
];

impl RocketMq {
    /// Starts it and waits until it answers.
    ///
    /// # Panics
    /// As [`Server::start`].
    pub fn start(wish: Wish) -> RocketMq {
        let names_port = free_port();
        let names = Server::start(
            "rocketmq name server",
            move |dir| {
                fs::write(dir.join("names.conf"), format!("listenPort={names_port}\nbindAddress=127.0.0.1\n")).unwrap();
                let mut java = java(dir, 64);
                java.arg("org.apache.rocketmq.namesrv.NamesrvStartup").arg("-c").arg(dir.join("names.conf"));
                java
            },
            move |_| accepts(names_port),
        );
        let ports = |number| Ports {
            number,
            names: names_port,
            broker: broker_port(),
            replicas: free_port(),
            grpc: free_port(),
            remoting: free_port(),
        };
        let ports: Vec<Ports> = (0..wish.brokers).map(ports).collect();
        let brokers = ports.iter().map(|ports| start_broker(*ports, wish)).collect();
        RocketMq { names, brokers, names_port, grpc_port: ports[0].grpc }
    }

    /// `host:port` of the gRPC proxy.
    pub fn grpc(&self) -> String {
        format!("127.0.0.1:{}", self.grpc_port)
    }

    /// `host:port` of the name server.
    pub fn names(&self) -> String {
        format!("127.0.0.1:{}", self.names_port)
    }

    /// A broker with its proxy, to be killed and started again.
    pub fn broker(&mut self, number: usize) -> &mut Server {
        &mut self.brokers[number]
    }

    /// The name server, the same.
    pub fn name_server(&mut self) -> &mut Server {
        &mut self.names
    }
}

fn start_broker(ports: Ports, wish: Wish) -> Server {
    Server::start(
        "rocketmq broker and proxy",
        move |dir| {
            fs::create_dir_all(dir.join("conf")).unwrap();
            fs::write(dir.join("broker.conf"), broker_conf(dir, ports, wish.user)).unwrap();
            fs::write(dir.join("proxy.json"), proxy_conf(dir, ports, wish.user)).unwrap();
            let mut java = java(dir, 256);
            java.env("NAMESRV_ADDR", format!("127.0.0.1:{}", ports.names));
            java.arg(format!("-Drocketmq.broker.rebalance.lockMaxLiveTime={}", wish.lock_ms));
            java.args(["org.apache.rocketmq.proxy.ProxyStartup", "-pm", "local", "-bc"]).arg(dir.join("broker.conf"));
            java.arg("-pc").arg(dir.join("proxy.json"));
            java
        },
        // The proxy's port opens before the name server has heard of the broker, up to ten seconds.
        move |_| accepts(ports.grpc) && knows_broker(ports.names, ports.number).unwrap_or(false),
    )
}

/// Has the broker registered itself? One question of the remoting protocol: `GET_BROKER_CLUSTER_INFO`.
fn knows_broker(names: u16, number: usize) -> io::Result<bool> {
    let header = br#"{"code":106,"language":"JAVA","version":479,"opaque":1,"flag":0,"serializeTypeCurrentRPC":"JSON"}"#;
    let mut names = TcpStream::connect(("127.0.0.1", names))?;
    names.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut ask = Vec::from((4 + header.len() as u32).to_be_bytes());
    ask.extend_from_slice(&(header.len() as u32).to_be_bytes());
    ask.extend_from_slice(header);
    names.write_all(&ask)?;
    let mut length = [0; 4];
    names.read_exact(&mut length)?;
    let mut answer = vec![0; u32::from_be_bytes(length) as usize];
    names.read_exact(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).contains(&format!("\"b{number}\"")))
}

/// The broker listens two ports below its own as well.
fn broker_port() -> u16 {
    loop {
        let port = free_port();
        if port > 1026 && TcpListener::bind(("127.0.0.1", port - 2)).is_ok() {
            return port;
        }
    }
}

fn java(dir: &Path, heap_mib: u32) -> Command {
    let mut java = Command::new("java");
    java.env("ROCKETMQ_HOME", dir);
    let mut home = OsString::from("-Duser.home=");
    home.push(dir);
    java.arg(format!("-Xmx{heap_mib}m")).arg(format!("-XX:MaxDirectMemorySize={heap_mib}m"));
    java.args(["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Drocketmq.client.logUseSlf4j=false"]).arg(home).args(OPEN);
    java.arg("-cp").arg(installed("rocketmq").join("lib").join("*"));
    java
}

fn broker_conf(dir: &Path, ports: Ports, user: Option<(&str, &str)>) -> String {
    let Ports { number, names, broker, replicas, .. } = ports;
    let at = dir.display();
    let mut conf = format!(
        "brokerClusterName=wharf\nbrokerName=b{number}\nbrokerId=0\nnamesrvAddr=127.0.0.1:{names}\nbrokerIP1=127.0.0.1\n\
         bindAddress=127.0.0.1\nlistenPort={broker}\nhaListenPort={replicas}\n\
         storePathRootDir={at}/store\nstorePathCommitLog={at}/store/commitlog\n\
         mappedFileSizeCommitLog=67108864\nmappedFileSizeConsumeQueue=300000\nmappedFileSizeTimerLog=1048576\ntimerWheelEnable=false\n\
         autoCreateTopicEnable=false\nflushDiskType=ASYNC_FLUSH\ndiskMaxUsedSpaceRatio=99\n"
    );
    for (name, value) in asking(dir, user) {
        conf.push_str(&format!("{name}={value}\n"));
    }
    conf
}

fn proxy_conf(dir: &Path, ports: Ports, user: Option<(&str, &str)>) -> String {
    let Ports { names, grpc, remoting, .. } = ports;
    let mut conf = serde_json::json!({
        "rocketMQClusterName": "wharf", "proxyMode": "LOCAL", "namesrvAddr": format!("127.0.0.1:{names}"),
        "grpcServerPort": grpc, "remotingListenPort": remoting,
    });
    for (name, value) in asking(dir, user) {
        conf[name] = if value == "true" { true.into() } else { value.into() };
    }
    if user.is_some() {
        // It asks the broker that it has within itself.
        conf["authenticationMetadataProvider"] = "org.apache.rocketmq.proxy.auth.ProxyAuthenticationMetadataProvider".into();
    }
    conf.to_string()
}

/// The settings of a broker, and of a proxy, that asks who calls.
fn asking(dir: &Path, user: Option<(&str, &str)>) -> Vec<(&'static str, String)> {
    let Some((name, secret)) = user else { return Vec::new() };
    let inner = serde_json::json!({"accessKey": name, "secretKey": secret});
    let first = serde_json::json!({"username": name, "password": secret});
    let provider = "org.apache.rocketmq.auth.authentication.provider";
    vec![
        ("authenticationEnabled", "true".to_owned()),
        ("authenticationProvider", format!("{provider}.DefaultAuthenticationProvider")),
        ("authenticationMetadataProvider", format!("{provider}.LocalAuthenticationMetadataProvider")),
        ("authConfigPath", dir.join("auth").display().to_string()),
        ("initAuthenticationUser", first.to_string()),
        ("innerClientAuthenticationCredentials", inner.to_string()),
    ]
}
