//! `idle ADDRESS COUNT`: opens COUNT connections, makes one request on each, prints `READY open N bad M`, and holds
//! them until its standard input ends.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;
use wharf_bench_tools::raise_file_limit;

fn main() -> std::io::Result<()> {
    raise_file_limit();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let parsed = match args.as_slice() {
        [address, count] => address.parse::<SocketAddr>().ok().zip(count.parse::<usize>().ok()),
        _ => None,
    };
    let Some((address, count)) = parsed else {
        eprintln!("usage: idle ADDRESS COUNT");
        std::process::exit(2);
    };
    let mut open = Vec::with_capacity(count);
    let mut bad = 0;
    for _ in 0..count {
        match one(address) {
            Ok(stream) => open.push(stream),
            Err(_) => bad += 1,
        }
    }
    println!("READY open {} bad {bad}", open.len());
    std::io::stdout().flush()?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

fn one(address: SocketAddr) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET /b/100 HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
    let mut answer = Vec::new();
    let mut piece = [0; 2048];
    // The bench's upstream answers 100 letters; they are the end of the answer.
    while !answer.ends_with(&[b'x'; 100]) {
        match stream.read(&mut piece)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            n => answer.extend_from_slice(&piece[..n]),
        }
    }
    if answer.starts_with(b"HTTP/1.1 200") { Ok(stream) } else { Err(std::io::ErrorKind::InvalidData.into()) }
}
