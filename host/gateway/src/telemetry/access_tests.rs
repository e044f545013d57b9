//! What the access log promises its reader.

use super::super::line::{date_of, is_plain};
use super::*;
use crate::config::plan::Redact;
use serde_json::Value;
use std::path::PathBuf;
use wharf_core::exchange::ExchangeId;
use wharf_core::outlet::Endpoint;
use wharf_http::record::Part;

fn plain<'a>() -> Record<'a> {
    Record {
        part: Part::Whole,
        time_ms: 1_795_360_802_007,
        id: ExchangeId { time: 0x0123_4567_89ab_cdef, serial: 0xfedc_ba98_0000_0001 },
        listener: "web",
        protocol: "http/1.1",
        client: [10, 0, 0, 117].into(),
        method: "GET",
        authority: "api.example.com".as_bytes(),
        path: "/orders/4711".as_bytes(),
        query: None,
        user_agent: Some(b"curl/8.5.0"),
        route: "orders",
        status: 200,
        bytes_in: 0,
        bytes_out: 1234,
        duration: Duration::from_micros(731),
        endpoint: None,
        tries: 1,
        head_us: 0,
        fault: None,
        consumer: None,
        answered_by: None,
        exchange: None,
        response: None,
    }
}

/// Writes records to a new log in a folder and returns its lines.
fn lines(records: &[Record<'_>]) -> Vec<Value> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let mut writer = start(path.clone());
    let log = writer.for_core();
    records.iter().for_each(|record| log.record(record));
    drop(log);
    writer.close();
    std::fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn start(path: PathBuf) -> AccessWriter {
    start_counted(path, &Arc::default())
}

fn start_counted(path: PathBuf, metrics: &Arc<Registry>) -> AccessWriter {
    AccessWriter::start(&settings(path), metrics.clone()).unwrap().unwrap()
}

fn settings(path: PathBuf) -> Settings {
    Settings {
        target: LogTarget::File(path),
        also_stdout: false,
        template: None,
        request_headers: Vec::new(),
        response_headers: Vec::new(),
        redact: Redact::default(),
        rotate: None,
    }
}

/// The value of a series in the exposition.
fn counted(metrics: &Registry, series: &str) -> u64 {
    let text = metrics.render();
    let line = text.lines().find_map(|line| line.strip_prefix(series));
    line.map_or(0, |value| value.trim().parse().unwrap())
}

#[test]
fn a_line_says_what_happened_and_nothing_else() {
    let endpoint = Endpoint::new("orders".into(), "10.0.0.7:8080".parse().unwrap(), 1, None, Box::default());
    let full = Record {
        query: Some("a=1".as_bytes()),
        endpoint: Some(&endpoint),
        head_us: 1_000_431,
        fault: Some("timeout_head"),
        consumer: Some("ada"),
        answered_by: Some("degrade"),
        client: "2001:db8::1".parse().unwrap(),
        ..plain()
    };
    let lines = lines(&[plain(), full]);
    let expected = serde_json::json!({
        "time": "2026-11-22T15:20:02.007Z", "id": "0123456789abcdeffedcba9800000001", "listener": "web", "protocol": "http/1.1",
        "client": "10.0.0.117", "method": "GET", "authority": "api.example.com", "path": "/orders/4711", "user_agent": "curl/8.5.0",
        "route": "orders", "status": 200, "bytes_in": 0, "bytes_out": 1234, "duration_us": 731, "tries": 1,
    });
    assert_eq!(lines[0], expected);
    for (name, value) in [
        ("query", "a=1"),
        ("endpoint", "10.0.0.7:8080"),
        ("fault", "timeout_head"),
        ("consumer", "ada"),
        ("answered_by", "degrade"),
        ("client", "2001:db8::1"),
    ] {
        assert_eq!(lines[1][name], value, "{name}");
    }
    assert_eq!((&lines[1]["upstream_us"], &lines[1]["tries"]), (&1_000_431.into(), &1.into()));
}

#[test]
fn secrets_in_a_query_are_never_written() {
    for (query, expected) in [
        ("token=abc", "token=***"),
        ("a=1&Token=abc&b=2", "a=1&Token=***&b=2"),
        ("%74oken=abc", "%74oken=***"),
        ("%54%4f%4b%45%4e=abc&%zz=1", "%54%4f%4b%45%4e=***&%zz=1"),
        ("+token=abc", "+token=***"),
        ("token=a=b&token=c", "token=***&token=***"),
        ("token", "token"),
        ("tokens=1&mytokens_used=2", "tokens=1&mytokens_used=2"),
        ("", ""),
        ("&&=&", "&&=&"),
        // What some take for another argument, and others for more of the value.
        ("a=1;token=d", "a=1;token=***"),
        ("a=1;token=d;e=f&b=2", "a=1;token=***&b=2"),
        ("token=d;e", "token=***"),
        (";;token=d", ";;token=***"),
        ("a=1;b;c=2", "a=1;b;c=2"),
        // Encoded twice.
        ("tok%2565n=d", "tok%2565n=***"),
        ("%2574%256f%256B%2565n=d&a=1", "%2574%256f%256B%2565n=***&a=1"),
        ("a%3Btoken=1&a%2526token=1", "a%3Btoken=***&a%2526token=***"),
        // Parts of a name.
        ("x[token]=d", "x[token]=***"),
        ("x%5BToken%5D=d", "x%5BToken%5D=***"),
        ("x%255btoken%255d[]=d", "x%255btoken%255d[]=***"),
        ("token[]=d;token[0]=e", "token[]=***"),
        ("x[y][ token ]=d", "x[y][ token ]=***"),
        ("x[tokens]=1&x[a]=token", "x[tokens]=1&x[a]=token"),
    ] {
        let lines = lines(&[Record { query: Some(query.as_bytes()), ..plain() }]);
        assert_eq!(lines[0]["query"], expected, "{query}");
    }
}

#[test]
fn text_from_outside_cannot_break_a_line() {
    let nasty = "a\"b\\c\nd\re\tf\u{0}g\u{7f}h\u{9b}é\u{1f600}";
    let long = "x".repeat(10_000);
    let lines = lines(&[
        Record { path: nasty.as_bytes(), consumer: Some(nasty), authority: b"\"", ..plain() },
        Record { user_agent: Some(b"caf\xe9 \x00\x1b[2J"), ..plain() },
        Record { path: long.as_bytes(), query: Some(long.as_bytes()), ..plain() },
    ]);
    assert_eq!(lines.len(), 3);
    assert_eq!(
        (lines[0]["path"].as_str(), lines[0]["consumer"].as_str(), lines[0]["authority"].as_str()),
        (Some(nasty), Some(nasty), Some("\""))
    );
    assert_eq!(lines[1]["user_agent"], "café \u{0}\u{1b}[2J");
    assert_eq!(lines[2]["path"].as_str().unwrap().chars().count(), TEXT_MAX + 1);
}

#[test]
fn only_text_that_needs_no_change_is_copied_whole() {
    for byte in 0..=255u8 {
        for (at, len) in [(0, 1), (3, 7), (0, 8), (7, 8), (8, 9), (5, 20), (19, 20)] {
            let mut text = vec![b'a'; len];
            text[at] = byte;
            let plain = (0x20..0x7f).contains(&byte) && byte != b'"' && byte != b'\\';
            assert_eq!(is_plain(&text), plain, "0x{byte:02x} at {at} of {len}");
        }
    }
}

#[test]
fn days_become_dates() {
    for (day, date) in [(0, (1970, 1, 1)), (59, (1970, 3, 1)), (11_016, (2000, 2, 29)), (20_779, (2026, 11, 22)), (47_541, (2100, 3, 1))] {
        assert_eq!(date_of(day), date);
    }
}

#[test]
fn a_moved_file_is_opened_anew_when_asked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let mut writer = start(path.clone());
    let log = writer.for_core();
    log.record(&plain());
    log.flush();
    writer.reopener().reopen();
    // The writer takes messages in order, so once the second line is there, the first has been written before.
    log.record(&Record { route: "second", ..plain() });
    drop(log);
    writer.close();
    assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 2);

    let mut writer = start(path.clone());
    let log = writer.for_core();
    std::fs::rename(&path, folder.path().join("access.log.1")).unwrap();
    writer.reopener().reopen();
    log.record(&Record { route: "third", ..plain() });
    drop(log);
    writer.close();
    let new = std::fs::read_to_string(&path).unwrap();
    assert!(new.lines().count() == 1 && new.contains("third"), "{new}");
}

#[test]
fn a_full_disk_costs_lines_and_counts_them() {
    let metrics = Arc::default();
    let mut writer = start_counted("/dev/full".into(), &metrics);
    let log = writer.for_core();
    (0..7).for_each(|_| log.record(&plain()));
    drop(log);
    writer.close();
    assert_eq!(counted(&metrics, "wharf_access_log_lost_total{reason=\"disk_full\"}"), 7, "{}", metrics.render());
}

#[test]
fn a_slow_writer_costs_lines_and_never_the_request() {
    // A pipe that nobody reads stands for a disk that hangs.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, rustix::fs::Mode::from_raw_mode(0o600), 0).unwrap();
    let mut reader = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let metrics = Arc::default();
    let mut writer = start_counted(path, &metrics);
    let log = writer.for_core();
    let many = 100_000;
    for _ in 0..many {
        log.record(&plain());
    }
    log.flush();
    let lost = counted(&metrics, "wharf_access_log_lost_total{reason=\"queue_full\"}");
    assert!(lost > 0 && lost < many, "{lost}");
    // Somebody reads again: what was queued comes out whole.
    let mut read = 0;
    let mut piece = [0; 65536];
    while read < many - lost {
        let len = std::io::Read::read(&mut reader, &mut piece).unwrap();
        read += piece[..len].iter().filter(|&&byte| byte == b'\n').count() as u64;
    }
    drop(log);
    writer.close();
    assert_eq!(read + lost, many);
}

#[test]
fn a_line_costs_little() {
    // Printed for the report; counted instructions come from the callgrind script.
    let folder = tempfile::tempdir().unwrap();
    let writer = start(folder.path().join("access.log"));
    let log = writer.for_core();
    let endpoint = Endpoint::new("orders".into(), "10.0.0.7:8080".parse().unwrap(), 1, None, Box::default());
    let record = Record { endpoint: Some(&endpoint), ..plain() };
    let many = 200_000;
    let mut pen = log.0.borrow_mut();
    let started = Instant::now();
    for _ in 0..many {
        pen.write(&record);
        if pen.buffer.len() >= BUFFER_BYTES {
            pen.buffer.clear();
        }
    }
    println!("{} ns a line", started.elapsed().as_nanos() / many);
    pen.lines = 0;
}
