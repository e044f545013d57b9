//! gRPC through a real gateway: messages, metadata and trailers arrive as they were sent and when they were sent, deadlines and
//! cancellations reach the server, and the gateway's own faults are told as gRPC tells them. The public interop client says the same
//! from outside: `make prove-grpc`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests stop at the first surprise")]

use bytes::{Buf as _, BytesMut};
use http::Request;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use wharf_e2e::far::{Asked, Far, Life, Says};
use wharf_e2e::pipes::{By, Came, From, Head, Opened, Pipe, open_two, pattern, run};
use wharf_harness::Wharf;

const WAIT: Duration = Duration::from_secs(20);

/// Between two messages of a slow stream: longer than [`BRIEF`] allows a pause, and twice as much is longer than it allows a
/// call that is no stream.
const PAUSE: Duration = Duration::from_millis(350);
/// So many of them are longer than [`BRIEF`] allows a silence.
const TIMES: u32 = 4;

/// Timeouts that are over soon: of a listener, a service and a route.
const BRIEF: [&str; 3] = ["body: 150ms, quiet: 900ms", "head: 2s, body: 150ms", "whole: 500ms"];

/// Nothing comes for so long.
async fn silence(from: &mut From, time: Duration) {
    let came = tokio::time::timeout(time, from.next()).await;
    assert!(came.is_err(), "{came:?} in the place of silence");
}

/// A message as it is framed: not compressed.
fn message(payload: &[u8]) -> Vec<u8> {
    [&[0][..], &(payload.len() as u32).to_be_bytes(), payload].concat()
}

/// The next message; `None`: the stream ended in order.
async fn next(from: &mut From, held: &mut BytesMut) -> Option<Vec<u8>> {
    loop {
        if let [_, a, b, c, d, ..] = held[..] {
            let len = u32::from_be_bytes([a, b, c, d]) as usize;
            if held.len() >= 5 + len {
                held.advance(5);
                return Some(held.split_to(len).to_vec());
            }
        }
        match from.next().await {
            Came::Some(piece) => held.extend(piece),
            Came::End if held.is_empty() => return None,
            end => panic!("{end:?} in the place of a message"),
        }
    }
}

fn ok_then(then: impl FnOnce(Pipe) -> Life + Send + 'static) -> Says {
    let fields = vec![("content-type", "application/grpc".to_owned()), ("x-first", "metadata".to_owned())];
    Says::Switch { fields, early: Vec::new(), then: Box::new(then) }
}

fn echo(mut pipe: Pipe) -> Life {
    Box::pin(async move {
        let mut held = BytesMut::new();
        while let Some(said) = next(&mut pipe.from, &mut held).await {
            if pipe.into.send(&message(&said)).await.is_err() {
                return;
            }
        }
        pipe.into.trailers(&[("grpc-status", "0"), ("x-last", "metadata"), ("x-last-bin", "AAEC")]);
    })
}

fn server(asked: &Asked) -> Says {
    match asked.target.as_str() {
        "/t.T/Echo" => ok_then(echo),
        // One answer for all that was said.
        "/t.T/Count" => ok_then(|mut pipe| {
            Box::pin(async move {
                let (mut held, mut count) = (BytesMut::new(), 0);
                while next(&mut pipe.from, &mut held).await.is_some() {
                    count += 1;
                }
                let _ = pipe.into.send(&message(format!("{count}").as_bytes())).await;
                pipe.into.trailers(&[("grpc-status", "0")]);
            })
        }),
        "/t.T/Refused" => Says::Ends {
            status: 200,
            fields: vec![
                ("content-type", "application/grpc".into()),
                ("grpc-status", "9".into()),
                ("grpc-message", "100%25 %E2%98%BA%0A".into()),
            ],
        },
        // A thousand messages, and then an error.
        "/t.T/Stream" => ok_then(|mut pipe| {
            Box::pin(async move {
                for at in 0..1_000 {
                    if pipe.into.send(&message(format!("{at}").as_bytes())).await.is_err() {
                        return;
                    }
                }
                pipe.into.trailers(&[("grpc-status", "10"), ("grpc-message", "enough")]);
            })
        }),
        "/t.T/Breaks" => ok_then(|mut pipe| {
            Box::pin(async move {
                let _ = pipe.into.send(&message(b"begun")).await;
                let _ = pipe.from.rest().await;
                pipe.reset();
            })
        }),
        // A message now and then, whatever is said.
        "/t.T/Tick" => ok_then(|mut pipe| {
            Box::pin(async move {
                for _ in 0..TIMES {
                    silence(&mut pipe.from, PAUSE).await;
                    if pipe.into.send(&message(b"tick")).await.is_err() {
                        return;
                    }
                }
                pipe.into.trailers(&[("grpc-status", "0")]);
            })
        }),
        // More than anybody takes.
        "/t.T/Flood" => ok_then(|mut pipe| Box::pin(async move { while pipe.into.send(&message(&pattern(16_000))).await.is_ok() {} })),
        "/t.T/Goes" => Says::Goes,
        "/t.T/Html" => Says::Answer { status: 503, fields: vec![("content-type", "text/html".into())], body: "<p>no</p>" },
        _ => Says::Nothing,
    }
}

fn start(far: &Far) -> Wharf {
    start_with(far, ["quiet: 5m", "head: 2s", "whole: 60s"])
}

/// With these timeouts of listener, service and route.
fn start_with(far: &Far, [listener, service, route]: [&str; 3]) -> Wharf {
    let address = far.address();
    Wharf::start(format!(
        r#"
node: {{ state_dir: "@DIR@/state" }}
admin: {{ bind: "127.0.0.1:0" }}
access_log: {{ to: "@DIR@/access.log" }}
listeners: {{ main: {{ bind: "127.0.0.1:0", timeouts: {{ {listener} }} }} }}
services:
  up: {{ endpoints: ["{address}"], protocol: http2, timeouts: {{ {service} }} }}
  nowhere: {{ endpoints: ["127.0.0.1:1"], protocol: http2 }}
routes:
  - {{ name: t, match: {{ path: {{ prefix: /t.T }} }}, to: up, timeouts: {{ {route} }} }}
  - {{ name: small, match: {{ path: {{ prefix: /s.S }} }}, to: up, rewrite: {{ prefix: /t.T }}, body_bytes_max: 10 }}
  - {{ name: rare, match: {{ path: {{ prefix: /r.R }} }}, to: up, rewrite: {{ prefix: /t.T }}, rate_limits: [{{ rate: 1/h, burst: 1 }}] }}
  - {{ name: away, match: {{ path: {{ prefix: /a.A }} }}, to: up, access: {{ sources: {{ deny: [127.0.0.1] }} }} }}
  - {{ name: nowhere, match: {{ path: {{ prefix: /n.N }} }}, to: nowhere }}
"#
    ))
    .unwrap()
}

fn call(target: &str, fields: &[(&str, &str)]) -> Request<()> {
    let mut request =
        Request::post(format!("http://a.example{target}")).header("content-type", "application/grpc").header("te", "trailers");
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap()
}

/// A client of a gateway.
struct Call<'a>(&'a Wharf);

impl Call<'_> {
    async fn begin(&self, target: &str, fields: &[(&str, &str)], early: &[u8]) -> Opened {
        open_two(self.0.listener("main"), call(target, fields), early).await
    }

    /// All of a call that says one message at once: head, messages, trailers.
    async fn whole(&self, target: &str, fields: &[(&str, &str)]) -> (Head, Vec<Vec<u8>>, Head) {
        let (head, mut pipe) = self.begin(target, fields, &message(b"hello")).await.switched();
        pipe.into.finish().await;
        let (mut held, mut heard) = (BytesMut::new(), Vec::new());
        while let Some(message) = next(&mut pipe.from, &mut held).await {
            heard.push(message);
        }
        let trailers = pipe.from.trailers().await;
        (head, heard, trailers)
    }

    /// The status of a call, wherever it stands, and what is said to it.
    async fn status(&self, target: &str, fields: &[(&str, &str)]) -> (String, String) {
        let (head, _, trailers) = self.whole(target, fields).await;
        let of = |name| if trailers.field(name).is_empty() { head.field(name) } else { trailers.field(name) };
        (of("grpc-status"), of("grpc-message"))
    }
}

#[test]
fn metadata_messages_and_trailers_arrive_as_they_were_sent() {
    let far = Far::start(By::Two, server);
    let wharf = start(&far);
    run(async {
        let fields = [
            ("x-mine", "a, b"),
            ("x-mine-bin", "AAECAw=="),
            ("grpc-encoding", "identity"),
            ("grpc-accept-encoding", "gzip"),
            ("user-agent", "grpc-test/1"),
        ];
        let (head, heard, trailers) = Call(&wharf).whole("/t.T/Echo", &fields).await;
        assert_eq!((head.field("content-type").as_str(), head.field("x-first").as_str()), ("application/grpc", "metadata"));
        assert_eq!(heard, [b"hello".to_vec()]);
        assert_eq!(
            (trailers.field("grpc-status").as_str(), trailers.field("x-last").as_str(), trailers.field("x-last-bin").as_str()),
            ("0", "metadata", "AAEC")
        );
        let asked = far.asked().remove(0);
        for (name, value) in fields {
            assert_eq!(asked.field(name), value);
        }
        assert_eq!((asked.method.as_str(), asked.field("te").as_str()), ("POST", "trailers"));
        // A status without a message, and one whose text is encoded, pass untouched.
        let said = Call(&wharf).status("/t.T/Refused", &[]).await;
        assert_eq!(said, ("9".into(), "100%25 %E2%98%BA%0A".into()));
    });
}

#[test]
fn every_kind_of_stream_passes_message_by_message() {
    let far = Far::start(By::Two, server);
    let wharf = start(&far);
    run(async {
        // To and fro: the next is said when the last was answered, so nothing may be held back.
        let mut pipe = Call(&wharf).begin("/t.T/Echo", &[], b"").await.pipe();
        let mut held = BytesMut::new();
        for at in 0..200 {
            let said = format!("message {at}").into_bytes();
            pipe.into.send(&message(&said)).await.unwrap();
            assert_eq!(next(&mut pipe.from, &mut held).await, Some(said));
        }
        for size in [0, 1, 16_379, 16_384, 70_000, 4 << 20] {
            let said = message(&pattern(size));
            let (sent, heard) = tokio::join!(pipe.into.send(&said), next(&mut pipe.from, &mut held));
            sent.unwrap();
            assert!(heard == Some(pattern(size)), "a message of {size} bytes");
        }
    });
}

#[test]
fn a_call_without_a_message_ends_whenever_its_end_comes() {
    let far = Far::start(By::Two, server);
    let wharf = start(&far);
    run(async {
        let begun = Instant::now();
        // With its head; at once behind it; and when the server has had the head for long.
        for late in [None, Some(false), Some(true)] {
            let address = wharf.listener("main");
            let stream = tokio::net::TcpStream::connect(address).await.unwrap();
            let (send, connection) = h2::client::handshake(stream).await.unwrap();
            tokio::spawn(connection);
            let mut send = send.ready().await.unwrap();
            let (response, mut stream) = send.send_request(call("/t.T/Count", &[]), late.is_none()).unwrap();
            if late == Some(true) {
                let end = Instant::now() + WAIT;
                while far.count() == 0 && Instant::now() < end {
                    tokio::time::sleep(Duration::from_millis(1)).await; // look again
                }
            }
            if late.is_some() {
                stream.send_data(bytes::Bytes::new(), true).unwrap();
            }
            let response = tokio::time::timeout(WAIT, response).await.unwrap().unwrap();
            let mut pipe = Pipe::two(stream, response.into_body());
            assert_eq!(next(&mut pipe.from, &mut BytesMut::new()).await, Some(b"0".to_vec()), "{late:?}");
            assert_eq!(pipe.from.rest().await.1, Came::End);
            assert_eq!(pipe.from.trailers().await.field("grpc-status"), "0");
            // Its end is a DATA frame of its own: some servers wait for that.
            assert!(far.asked().iter().all(|asked| !asked.ended && asked.field("content-length").is_empty()), "{late:?}");
        }
        assert!(begun.elapsed() < Duration::from_secs(2), "nobody waited for a deadline: {:?}", begun.elapsed());
    });
}

#[test]
fn what_the_client_gives_up_the_server_need_not_finish() {
    let (told, mut heard) = mpsc::unbounded_channel();
    let far = Far::start(By::Two, move |_| {
        let told = told.clone();
        ok_then(move |mut pipe| {
            Box::pin(async move {
                pipe.into.send(&message(b"begun")).await.unwrap();
                while let Came::Some(_) = pipe.from.next().await {}
                told.send(()).unwrap();
            })
        })
    });
    let wharf = start(&far);
    run(async {
        // After the first answer.
        let mut pipe = Call(&wharf).begin("/t.T/Echo", &[], b"").await.pipe();
        assert_eq!(next(&mut pipe.from, &mut BytesMut::new()).await, Some(b"begun".to_vec()));
        pipe.reset();
        tokio::time::timeout(WAIT, heard.recv()).await.unwrap().unwrap();
        // In the middle of a message.
        let pipe = Call(&wharf).begin("/t.T/Echo", &[], &message(b"half of it")[..9]).await.pipe();
        pipe.reset();
        tokio::time::timeout(WAIT, heard.recv()).await.unwrap().unwrap();
    });
}

#[test]
fn a_callers_deadline_is_kept_and_told() {
    let far = Far::start(By::Two, server);
    let wharf = start_with(&far, ["quiet: 5m", "head: 2s", "whole: 3s"]);
    run(async {
        for timeout in ["300m", "300000u", "1S"] {
            let begun = Instant::now();
            let (status, _) = Call(&wharf).status("/t.T/Sleep", &[("grpc-timeout", timeout)]).await;
            assert_eq!(status, "4");
            let took = begun.elapsed();
            assert!(took >= Duration::from_millis(250) && took < Duration::from_millis(1_900), "{timeout}: {took:?}");
            assert_eq!(far.asked()[0].field("grpc-timeout"), timeout, "the server is told");
        }
        // One that is none is the server's to refuse; the route's own bound holds (`timeouts.whole`).
        let (status, _) = Call(&wharf).status("/t.T/Sleep", &[("grpc-timeout", "soon")]).await;
        assert_eq!(status, "4");
    });
}

#[test]
fn faults_are_told_in_the_callers_way_wherever_they_happen() {
    let far = Far::start(By::Two, server);
    let wharf = start(&far);
    run(async {
        let call = Call(&wharf);
        // (target, status): nothing of these reaches the server.
        for (target, wanted) in [("/x.X/Echo", "12"), ("/a.A/Echo", "7"), ("/n.N/Echo", "14")] {
            let (status, text) = call.status(target, &[]).await;
            assert!(status == wanted && !text.is_empty(), "{target}: {status} {text}");
        }
        assert!(far.asked().is_empty());
        assert_eq!(call.status("/r.R/Echo", &[]).await.0, "0");
        assert_eq!(call.status("/r.R/Echo", &[]).await.0, "8");
        // What is said is what the error of an HTTP answer would say: for people, and of nothing behind the gateway.
        assert_eq!(call.status("/x.X/Echo", &[]).await.1, "nothing is served here");
        assert_eq!(call.status("/n.N/Echo", &[]).await.1, "the service behind cannot be reached");
        // A body beyond the route's limit, found before there is an answer or after it has begun.
        let (_, mut pipe) = call.begin("/s.S/Echo", &[], &message(&pattern(100))).await.switched();
        pipe.into.finish().await;
        let (bytes, _) = pipe.from.rest().await;
        assert!(bytes.is_empty(), "{} bytes", bytes.len());
        let (_, mut pipe) = call.begin("/s.S/Echo", &[], &message(b"x")).await.switched();
        assert_eq!(next(&mut pipe.from, &mut BytesMut::new()).await, Some(b"x".to_vec()));
        pipe.into.send(&message(&pattern(100))).await.unwrap();
        assert_eq!(pipe.from.rest().await, (Vec::new(), Came::End));
        let trailers = pipe.from.trailers().await;
        let said = "the body has more than the 10 bytes that this route takes (`body_bytes_max`)";
        assert_eq!((trailers.field("grpc-status").as_str(), trailers.field("grpc-message").as_str()), ("8", said));
        // A server that gives up before its head, and one that does so in the middle.
        assert_eq!(call.status("/t.T/Goes", &[]).await.0, "14");
        let (_, mut pipe) = call.begin("/t.T/Breaks", &[], &message(b"x")).await.switched();
        assert_eq!(next(&mut pipe.from, &mut BytesMut::new()).await, Some(b"begun".to_vec()));
        pipe.into.finish().await;
        let (bytes, end) = pipe.from.rest().await;
        let status = pipe.from.trailers().await.field("grpc-status");
        assert!(bytes.is_empty() && (end == Came::Broken || matches!(status.as_str(), "13" | "14")), "{end:?} {status}");
        // What is no gRPC is passed on as it is: the client makes a status of it.
        match call.begin("/t.T/Html", &[], b"").await {
            Opened::Answered(head, body) => assert_eq!((head.status, &body[..]), (503, &b"<p>no</p>"[..])),
            _ => panic!("not answered"),
        }
    });
}

#[test]
fn many_small_messages_wait_for_a_slow_reader_and_harm_no_other_call() {
    let far = Far::start(By::Two, server);
    let wharf = start(&far);
    run(async {
        // Nobody reads these. All calls to the server share a few connections.
        let mut stalled = Vec::new();
        for _ in 0..4 {
            stalled.push(Call(&wharf).begin("/t.T/Stream", &[], b"").await.pipe());
        }
        for _ in 0..100 {
            assert_eq!(Call(&wharf).status("/t.T/Echo", &[]).await.0, "0");
        }
        for mut pipe in stalled {
            let mut held = BytesMut::new();
            for at in 0..1_000 {
                assert_eq!(next(&mut pipe.from, &mut held).await, Some(format!("{at}").into_bytes()));
            }
            assert_eq!(next(&mut pipe.from, &mut held).await, None);
            let trailers = pipe.from.trailers().await;
            assert_eq!((trailers.field("grpc-status").as_str(), trailers.field("grpc-message").as_str()), ("10", "enough"));
        }
    });
}

#[test]
fn a_call_lasts_while_something_moves_in_it_one_way_or_the_other() {
    let far = Far::start(By::Two, server);
    let wharf = start_with(&far, BRIEF);
    run(async {
        let call = Call(&wharf);
        // Pauses both ways.
        let both = async {
            let mut pipe = call.begin("/t.T/Echo", &[], b"").await.pipe();
            let mut held = BytesMut::new();
            for _ in 0..TIMES {
                silence(&mut pipe.from, PAUSE).await;
                pipe.into.send(&message(b"still here")).await.unwrap();
                assert_eq!(next(&mut pipe.from, &mut held).await, Some(b"still here".to_vec()));
            }
            pipe.into.finish().await;
            assert_eq!(next(&mut pipe.from, &mut held).await, None);
            pipe.from.trailers().await.field("grpc-status")
        };
        // Only the server speaks, and its caller has not said that it is done; only the caller does.
        let down = async {
            let mut pipe = call.begin("/t.T/Tick", &[], b"").await.pipe();
            let mut held = BytesMut::new();
            for _ in 0..TIMES {
                assert_eq!(next(&mut pipe.from, &mut held).await, Some(b"tick".to_vec()));
            }
            assert_eq!(next(&mut pipe.from, &mut held).await, None);
            pipe.from.trailers().await.field("grpc-status")
        };
        let up = async {
            let mut pipe = call.begin("/t.T/Count", &[], b"").await.pipe();
            for _ in 0..TIMES {
                silence(&mut pipe.from, PAUSE).await;
                pipe.into.send(&message(b"still here")).await.unwrap();
            }
            pipe.into.finish().await;
            assert_eq!(next(&mut pipe.from, &mut BytesMut::new()).await, Some(TIMES.to_string().into_bytes()));
            assert_eq!(pipe.from.next().await, Came::End);
            pipe.from.trailers().await.field("grpc-status")
        };
        let (both, down, up) = tokio::join!(both, down, up);
        assert_eq!((both.as_str(), down.as_str(), up.as_str()), ("0", "0", "0"));
    });
}

#[test]
fn a_call_in_which_nothing_moves_ends_and_says_so() {
    let far = Far::start(By::Two, server);
    let wharf = start_with(&far, BRIEF);
    run(async {
        let mut pipe = Call(&wharf).begin("/t.T/Echo", &[], &message(b"hello")).await.pipe();
        assert_eq!(next(&mut pipe.from, &mut BytesMut::new()).await, Some(b"hello".to_vec()));
        let begun = Instant::now();
        assert_eq!(pipe.from.rest().await, (Vec::new(), Came::End));
        let took = begun.elapsed();
        assert!(took > Duration::from_millis(850) && took < Duration::from_secs(5), "{took:?}");
        let trailers = pipe.from.trailers().await;
        let said = "the service behind did not answer in time";
        assert_eq!((trailers.field("grpc-status").as_str(), trailers.field("grpc-message").as_str()), ("4", said));
        // Nor does one go on whose caller takes nothing of its answer.
        let mut pipe = Call(&wharf).begin("/t.T/Flood", &[], b"").await.pipe();
        let begun = Instant::now();
        let end = begun + WAIT;
        while wharf.admin().metrics().get("wharf_http_in_flight", &[]) > 0.0 && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(5)).await; // look again
        }
        assert!(begun.elapsed() > Duration::from_millis(850) && Instant::now() < end, "{:?}", begun.elapsed());
        assert_eq!(pipe.from.rest().await.1, Came::Broken);
    });
    // Nor one that has no answer yet, whose caller has not said all and says nothing more.
    let wharf = start_with(&far, ["quiet: 300ms", "head: 2s", "whole: 20s"]);
    run(async {
        let begun = Instant::now();
        let (head, _) = Call(&wharf).begin("/t.T/Sleep", &[], &message(b"hello")).await.switched();
        let took = begun.elapsed();
        assert!(took > Duration::from_millis(250) && took < Duration::from_secs(5), "{took:?}");
        let said = "the request took too long to arrive";
        assert_eq!((head.field("grpc-status").as_str(), head.field("grpc-message").as_str()), ("4", said));
    });
}

#[test]
fn what_is_no_stream_yet_or_no_call_at_all_has_the_bounds_of_others() {
    let far = Far::start(By::Two, server);
    let wharf = start_with(&far, BRIEF);
    run(async {
        // No head of the answer within `timeouts.whole`, whatever the caller says in the meantime.
        let begun = Instant::now();
        assert_eq!(Call(&wharf).status("/t.T/Sleep", &[("grpc-timeout", "1M")]).await.0, "4");
        assert!(begun.elapsed() < Duration::from_millis(2_000), "{:?}", begun.elapsed());
        // Asked by somebody who does not speak gRPC.
        let request = Request::post("http://a.example/t.T/Tick").header("content-type", "text/plain").body(()).unwrap();
        let begun = Instant::now();
        let mut pipe = open_two(wharf.listener("main"), request, b"").await.pipe();
        let (_, end) = pipe.from.rest().await;
        assert!(begun.elapsed() < Duration::from_millis(900), "{:?} {end:?}", begun.elapsed());
    });
}

#[test]
fn a_callers_deadline_ends_a_stream_in_which_much_moves() {
    let far = Far::start(By::Two, server);
    let wharf = start_with(&far, BRIEF);
    run(async {
        let begun = Instant::now();
        let mut pipe = Call(&wharf).begin("/t.T/Echo", &[("grpc-timeout", "1200m")], b"").await.pipe();
        let mut held = BytesMut::new();
        let mut ended = false;
        while !ended {
            let _ = pipe.into.send(&message(b"on and on")).await;
            ended = next(&mut pipe.from, &mut held).await.is_none();
            // Beyond the `timeouts.whole` of the route, and not beyond what the caller said.
            assert!(begun.elapsed() < Duration::from_millis(3_000));
        }
        assert!(begun.elapsed() > Duration::from_millis(1_150), "{:?}", begun.elapsed());
        assert_eq!(pipe.from.trailers().await.field("grpc-status"), "4");
    });
}

#[test]
fn a_hundred_calls_share_a_connection() {
    let far = Far::start(By::Two, server);
    let wharf = start(&far);
    run(async {
        let stream = tokio::net::TcpStream::connect(wharf.listener("main")).await.unwrap();
        let (send, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let mut send = send.ready().await.unwrap();
        let mut calls = Vec::new();
        for _ in 0..100 {
            send = send.ready().await.unwrap();
            let (response, stream) = send.send_request(call("/t.T/Count", &[]), false).unwrap();
            calls.push((response, stream));
        }
        for (response, stream) in calls {
            // The head comes before there is a message.
            let response = tokio::time::timeout(WAIT, response).await.unwrap().unwrap();
            let mut pipe = Pipe::two(stream, response.into_body());
            pipe.into.send(&message(b"one")).await.unwrap();
            pipe.into.send(&message(b"two")).await.unwrap();
            pipe.into.finish().await;
            assert_eq!(next(&mut pipe.from, &mut BytesMut::new()).await, Some(b"2".to_vec()));
        }
    });
}
