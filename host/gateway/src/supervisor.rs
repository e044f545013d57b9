//! What the supervisor that started us is told: that we serve, as which process, and that we end. The protocol is systemd's,
//! lines in a datagram to the socket that `NOTIFY_SOCKET` names; where nobody asked for it nothing is sent.
//!
//! It matters most in an upgrade: the process that the supervisor knows ends then, and without a word from the new one it
//! would take the service for ended, and end the new process as well. There is no watchdog here.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// How long a supervisor that does not read may keep us; it reads, or there is none.
const SEND_MAX: Duration = Duration::from_secs(1);

/// What there is to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// This process is the one to look after from now on. To be told before the one from which it takes over can end.
    Heir,
    /// Requests are served.
    Serving,
    /// No new connections are taken: it was told to end. Not to be told where another process goes on.
    Ending,
}

/// Tells it, if anybody wants to know. That it cannot be told is a line in the log and nothing else.
pub fn tell(state: State) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty()) else { return };
    if let Err(error) = send(&socket, &words(state, std::process::id())) {
        tracing::warn!(socket = %socket.display(), %error, ?state, "the supervisor cannot be told how we are");
    }
}

/// The lines of one message.
fn words(state: State, pid: u32) -> String {
    match state {
        State::Heir => format!("MAINPID={pid}\n"),
        State::Serving => format!("READY=1\nMAINPID={pid}\nSTATUS=serving\n"),
        State::Ending => "STOPPING=1\nSTATUS=ending\n".to_owned(),
    }
}

fn send(socket: &OsStr, text: &str) -> io::Result<()> {
    let to = match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    let from = UnixDatagram::unbound()?;
    from.set_write_timeout(Some(SEND_MAX))?;
    from.send_to_addr(text.as_bytes(), &to).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(by: &UnixDatagram) -> String {
        let mut bytes = [0; 200];
        by.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let length = by.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    #[test]
    fn a_supervisor_hears_which_process_serves() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let supervisor = UnixDatagram::bind(&path).unwrap();
        send(path.as_os_str(), &words(State::Serving, 7)).unwrap();
        assert_eq!(heard(&supervisor), "READY=1\nMAINPID=7\nSTATUS=serving\n");
        send(path.as_os_str(), &words(State::Ending, 7)).unwrap();
        assert!(heard(&supervisor).starts_with("STOPPING=1\n"));

        let name = format!("wharf-supervisor-{}", std::process::id());
        let supervisor = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        send(OsStr::new(&format!("@{name}")), &words(State::Heir, 8)).unwrap();
        assert_eq!(heard(&supervisor), "MAINPID=8\n", "an heir is not ready yet");
    }

    #[test]
    fn a_supervisor_that_is_gone_is_no_reason_to_fail() {
        let folder = tempfile::tempdir().unwrap();
        assert!(send(folder.path().join("nobody").as_os_str(), "READY=1\n").is_err());
    }
}
