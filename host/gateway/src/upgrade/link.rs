//! The line between a gateway and the one that takes over from it: a pair of Unix sockets, which nobody else can reach.
//!
//! A frame is two lengths (big endian, 32 bits each), a JSON object and a blob. JSON, because the two ends are two
//! versions of this program: a field that one of them does not know does no harm. Open files travel beside the first byte
//! of a frame (unix(7), SCM_RIGHTS).

use crate::upgrade::store::{Question, Said};
use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};
use std::io::{IoSlice, IoSliceMut, Read as _};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Longest JSON and longest blob of a frame: a store's largest key and value fit.
const PART_MAX: usize = 1024 * 1024;
/// Files that travel with one frame. The kernel takes 253.
pub(super) const FILES_MAX: usize = 64;

/// What the two say to each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Message {
    /// Old to new, with files: sockets that listen for connections of this listener. Several, where there are many.
    Sockets {
        /// `None`: of the admin API.
        listener: Option<String>,
        /// Where they listen.
        address: SocketAddr,
    },
    /// Old to new, the last with files: the lock on the catalog's folder.
    Lock {
        /// See [`super::PROTOCOL`].
        protocol: u32,
    },
    /// New to old: is there, has taken the sockets, and begins to prepare itself.
    Begun,
    /// New to old: could serve, but for the store.
    Prepared,
    /// Old to new: nobody uses the store any more.
    Yours,
    /// New to old: connections are accepted. Of these listeners.
    Serving {
        /// Their names.
        taken: Vec<String>,
    },
    /// Either way: do this with the store that you have or know the way to. The blob is the value.
    Ask {
        /// Given back with the answer.
        id: u64,
        /// What to do.
        question: Question,
    },
    /// The answer. The blob is the value.
    Said {
        /// Of the question.
        id: u64,
        /// What became of it.
        said: Said,
    },
}

/// A message and its blob as bytes.
fn framed(message: &Message, blob: &[u8]) -> Result<Vec<u8>> {
    let json = serde_json::to_vec(message)?;
    if json.len() > PART_MAX || blob.len() > PART_MAX {
        bail!("a message of {} and {} bytes is longer than the {PART_MAX} that are read", json.len(), blob.len());
    }
    let mut frame = Vec::with_capacity(8 + json.len() + blob.len());
    frame.extend_from_slice(&(json.len() as u32).to_be_bytes());
    frame.extend_from_slice(&(blob.len() as u32).to_be_bytes());
    frame.extend_from_slice(&json);
    frame.extend_from_slice(blob);
    Ok(frame)
}

/// The two lengths of a frame.
fn lengths(head: [u8; 8]) -> Result<(usize, usize)> {
    let [a, b, c, d, e, f, g, h] = head;
    let (json, blob) = (u32::from_be_bytes([a, b, c, d]) as usize, u32::from_be_bytes([e, f, g, h]) as usize);
    if json > PART_MAX || blob > PART_MAX {
        bail!("a frame of {json} and {blob} bytes is longer than the {PART_MAX} that are read");
    }
    Ok((json, blob))
}

/// Sends one message with files, waiting.
///
/// # Errors
/// The other end has gone, or takes nothing within the stream's time-out.
pub(super) fn send_files(stream: &UnixStream, message: &Message, files: &[BorrowedFd<'_>]) -> Result<()> {
    let frame = framed(message, &[])?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_MAX))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    if files.len() > FILES_MAX || !beside.push(SendAncillaryMessage::ScmRights(files)) {
        bail!("{} files are more than the {FILES_MAX} that travel at once", files.len());
    }
    let sent = sendmsg(stream, &[IoSlice::new(&frame)], &mut beside, SendFlags::NOSIGNAL)?;
    // Some hundred bytes into an empty socket: they fit, or something is badly wrong.
    if sent != frame.len() {
        bail!("only {sent} of {} bytes could be sent", frame.len());
    }
    Ok(())
}

/// Receives one message with its files, waiting.
///
/// # Errors
/// The other end has gone, says nothing within the stream's time-out, or is no gateway.
pub(super) fn receive_files(stream: &UnixStream) -> Result<(Message, Vec<OwnedFd>)> {
    let mut head = [0; 8];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_MAX))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    // The files come with the first byte; others run with us only after we have said so, so nobody else inherits them.
    let received = recvmsg(stream, &mut [IoSliceMut::new(&mut head)], &mut beside, RecvFlags::CMSG_CLOEXEC)?;
    let mut files = Vec::new();
    for message in beside.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            files.extend(received);
        }
    }
    let mut reader = stream;
    let rest = head.get_mut(received.bytes..).context("more bytes than there is room")?;
    if received.bytes == 0 {
        bail!("the other process has closed the line");
    }
    reader.read_exact(rest)?;
    let (json, blob) = lengths(head)?;
    let mut text = vec![0; json];
    reader.read_exact(&mut text)?;
    reader.read_exact(&mut vec![0; blob])?;
    Ok((serde_json::from_slice(&text).context("the other process speaks another language")?, files))
}

/// Reads one message.
///
/// # Errors
/// The other end has gone, or is no gateway.
pub(super) async fn read(from: &mut (impl AsyncRead + Unpin)) -> Result<(Message, Bytes)> {
    let mut head = [0; 8];
    from.read_exact(&mut head).await?;
    let (json, blob) = lengths(head)?;
    let mut text = vec![0; json];
    from.read_exact(&mut text).await?;
    let mut rest = vec![0; blob];
    from.read_exact(&mut rest).await?;
    Ok((serde_json::from_slice(&text).context("the other process speaks another language")?, rest.into()))
}

/// Writes one message.
///
/// # Errors
/// The other end has gone.
pub(super) async fn write(to: &mut (impl AsyncWrite + Unpin), message: &Message, blob: &[u8]) -> Result<()> {
    to.write_all(&framed(message, blob)?).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::os::fd::AsFd as _;

    #[test]
    fn files_arrive_with_the_message_that_they_were_sent_with() {
        let (one, other) = UnixStream::pair().unwrap();
        let sockets: Vec<TcpListener> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        for socket in &sockets {
            let message = Message::Sockets { listener: Some("main".into()), address: socket.local_addr().unwrap() };
            send_files(&one, &message, &[socket.as_fd(), socket.as_fd()]).unwrap();
        }
        for socket in &sockets {
            let (message, files) = receive_files(&other).unwrap();
            assert_eq!(message, Message::Sockets { listener: Some("main".into()), address: socket.local_addr().unwrap() });
            assert_eq!(files.len(), 2);
            for file in files {
                assert_eq!(TcpListener::from(file).local_addr().unwrap(), socket.local_addr().unwrap());
            }
        }
    }

    #[test]
    fn whoever_speaks_another_language_is_refused_in_words() {
        let (one, other) = UnixStream::pair().unwrap();
        rustix::io::write(&one, b"\0\0\0\x02\0\0\0\0[]").unwrap();
        assert!(receive_files(&other).unwrap_err().to_string().contains("another language"));
        rustix::io::write(&one, b"GET / HTTP/1.1\r\n").unwrap();
        assert!(receive_files(&other).unwrap_err().to_string().contains("longer than"));
        drop(one);
    }

    #[test]
    fn a_line_that_was_closed_is_told() {
        let (one, other) = UnixStream::pair().unwrap();
        drop(one);
        assert!(receive_files(&other).unwrap_err().to_string().contains("closed the line"));
    }
}
