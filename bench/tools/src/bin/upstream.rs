//! `upstream ADDRESS`: answers `GET /b/N` with N bytes, prebuilt; everything else with 100. Prints `READY ADDRESS`.
//!
//! It must cost next to nothing: whatever it burns, the proxies under test do not get. No bodies, no HTTP/1.0.

use std::collections::HashMap;
use std::io::Write as _;
use wharf_bench_tools::{Happened, Table, listen, raise_file_limit};

fn main() -> std::io::Result<()> {
    raise_file_limit();
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:0".to_owned());
    let listener = listen(&address)?;
    println!("READY {}", listener.local_addr()?);
    std::io::stdout().flush()?;
    let mut table: Table<()> = Table::new(&listener)?;
    let mut answers: HashMap<usize, Vec<u8>> = HashMap::new();
    let mut buffer = vec![0; 64 << 10];
    table.run(&listener, |table, happened| match happened {
        Happened::Accepted(stream) => drop(table.enter(stream, ())),
        Happened::Ready(place, gone) => {
            let Some(side) = table.get(place) else { return };
            let mut alive = !gone;
            while alive {
                let Some(n) = side.read(&mut buffer) else {
                    alive = false;
                    break;
                };
                let mut held = std::mem::take(&mut side.held);
                let mut data = &buffer[..n];
                if !held.is_empty() {
                    held.extend_from_slice(data);
                    data = &held;
                }
                while let Some(end) = memchr::memmem::find(data, b"\r\n\r\n") {
                    let size = size_asked(&data[..end]);
                    let answer = answers.entry(size).or_insert_with(|| answer(size));
                    alive &= side.send(answer).is_ok();
                    data = &data[end + 4..];
                }
                side.held = data.to_vec();
                if n < buffer.len() {
                    break;
                }
            }
            if !alive {
                table.leave(place);
            }
        }
    })
}

fn size_asked(head: &[u8]) -> usize {
    let Some(rest) = head.strip_prefix(b"GET /b/") else { return 100 };
    rest.iter().take_while(|byte| byte.is_ascii_digit()).take(8).fold(0, |size, byte| size * 10 + usize::from(byte - b'0'))
}

fn answer(size: usize) -> Vec<u8> {
    let mut bytes = format!("HTTP/1.1 200 OK\r\nServer: up\r\nContent-Type: text/plain\r\nContent-Length: {size}\r\n\r\n").into_bytes();
    bytes.resize(bytes.len() + size, b'x');
    bytes
}
