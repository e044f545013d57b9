//! What the service manager is told: that this process serves, which one it is, and that it ends (sd_notify(3)).
//!
//! A datagram to the socket that `NOTIFY_SOCKET` names; nothing, where there is none. Nobody waits for an answer, and a
//! manager that does not listen is no reason not to serve.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// It serves, and it is this process: after an upgrade another one than the manager has started.
pub fn serves() {
    tell(&format!("READY=1\nMAINPID={}\nSTATUS=serving", std::process::id()));
}

/// It has been told to end, and ends when exchanges in flight are over.
pub fn ends() {
    tell("STOPPING=1\nSTATUS=ending: exchanges in flight are given their time");
}

fn tell(state: &str) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else { return };
    if let Err(error) = send(&socket, state) {
        tracing::warn!(socket = %socket.display(), %error, "the service manager cannot be told what this process does");
    }
}

fn send(socket: &OsStr, state: &str) -> io::Result<()> {
    // `@` stands for the zero byte that begins a name outside the file system.
    let address = match socket.as_bytes().split_first() {
        Some((b'@', name)) => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(at: &UnixDatagram, named: &OsStr) -> String {
        send(named, "READY=1\nMAINPID=7").unwrap();
        let mut room = [0; 100];
        let read = at.recv(&mut room).unwrap();
        String::from_utf8_lossy(&room[..read]).into_owned()
    }

    #[test]
    fn the_manager_is_told_by_a_path_or_a_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        assert_eq!(heard(&UnixDatagram::bind(&path).unwrap(), path.as_os_str()), "READY=1\nMAINPID=7");

        let name = format!("wharf-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        assert_eq!(heard(&UnixDatagram::bind_addr(&address).unwrap(), OsStr::new(&format!("@{name}"))), "READY=1\nMAINPID=7");
    }

    #[test]
    fn a_manager_that_is_not_there_is_an_error_and_no_more() {
        assert!(send(OsStr::new("/nobody/listens/here"), "READY=1").is_err());
    }
}
