//! The protocol end to end over a real socket, with clients that mean harm or sleep.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::config::Limits;

/// Answers a ping, counts to three for a verification, refuses to drop.
struct Parrot;

impl Answers for Parrot {
    fn answer(&self, request: Request, item: &mut dyn FnMut(Value) -> bool) -> Result<(), Refusal> {
        match request {
            Request::Ping | Request::Umount => {
                item(json!({"pid": 7, "release": "0", "mountpoint": "/mnt"}));
            }
            Request::Stats => {
                // Until the client is gone, as a stream would.
                let filler = "x".repeat(1 << 16);
                while item(json!(filler)) {}
            }
            Request::Verify { rate_bytes_per_s } => {
                for extents in 1..=3 {
                    item(json!({"extents": extents, "rate": rate_bytes_per_s}));
                }
            }
            Request::Top | Request::Trace => {}
            Request::Push { .. } | Request::Warm { .. } | Request::Order { .. } => {}
            Request::Drop { path } => {
                return Err(Refusal(format!("no such file: {}", path.unwrap_or_default())));
            }
        }
        Ok(())
    }
}

struct Daemon {
    dir: tempfile::TempDir,
    server: Server,
    figures: Arc<ControlFigures>,
}

fn limits() -> Limits {
    Limits {
        control_clients_max: 2,
        control_request_bytes_max: 1024,
        control_patience: Duration::from_millis(300),
        ..Limits::on(2)
    }
}

fn start(dir: &Path, figures: &Arc<ControlFigures>) -> Result<Server, ServerError> {
    Server::start(CacheDirLock::take(dir)?, &limits(), figures.clone(), Arc::new(Parrot))
}

impl Daemon {
    fn new() -> Self {
        Self::with(&limits())
    }

    fn with(limits: &Limits) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let figures = Arc::new(ControlFigures::default());
        let server = CacheDirLock::take(dir.path())
            .and_then(|lock| Server::start(lock, limits, figures.clone(), Arc::new(Parrot)));
        let server = server.expect("the directory is ours");
        Self { dir, server, figures }
    }

    fn client(&self) -> Client {
        Client::connect(self.dir.path()).expect("the daemon runs")
    }

    fn raw(&self) -> UnixStream {
        let stream = UnixStream::connect(self.dir.path().join(SOCKET_NAME)).expect("the daemon runs");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("it is a socket");
        stream
    }

    /// Sends `bytes` as they are, and gives back all that comes.
    fn answer_to(&self, bytes: &[u8]) -> String {
        let mut stream = self.raw();
        // The daemon may have hung up on a long one already.
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        // Closing with unread input in the queue resets the connection, after what was sent.
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8(answer).expect("answers are JSON")
    }
}

#[test]
fn an_answer_comes_back_as_the_type_that_was_asked_for() {
    let daemon = Daemon::new();
    let pong: Pong = daemon.client().ask(&Request::Ping).expect("the parrot answers");
    assert_eq!(pong.pid, 7);
    assert_eq!(daemon.client().daemon_pid(), Some(std::process::id() as i32));
}

#[test]
fn a_stream_comes_in_order_and_ends() {
    let daemon = Daemon::new();
    let mut seen = Vec::new();
    let request = Request::Verify { rate_bytes_per_s: Some(5) };
    let all = daemon.client().stream(&request, |item| {
        seen.push((item["extents"].as_u64(), item["rate"].as_u64()));
        true
    });
    all.expect("the parrot counts");
    assert_eq!(seen, [(Some(1), Some(5)), (Some(2), Some(5)), (Some(3), Some(5))]);
}

#[test]
fn a_refusal_reaches_the_user_in_the_daemons_words() {
    let daemon = Daemon::new();
    let error = daemon.client().ask::<Dropped>(&Request::Drop { path: Some("a b".into()) });
    assert_eq!(error.expect_err("the parrot refuses").to_string(), "no such file: a b");
}

#[test]
fn every_request_survives_its_line() {
    let requests = [
        Request::Ping,
        Request::Stats,
        Request::Verify { rate_bytes_per_s: None },
        Request::Drop { path: Some("a\n\"b".into()) },
        Request::Push { paths: vec!["train".into(), String::new()] },
        Request::Umount,
    ];
    for request in requests {
        let line = encode(&RequestLine { v: 1, request: request.clone() });
        assert_eq!(line.iter().filter(|&&byte| byte == b'\n').count(), 1);
        let back: RequestLine = serde_json::from_slice(&line).expect("it was just encoded");
        assert_eq!(back.request, request);
    }
}

#[test]
fn garbage_gets_an_error_line_and_the_daemon_lives_on() {
    let daemon = Daemon::new();
    let deep = [vec![b'['; 900], b"\n".to_vec()].concat();
    let cases: [&[u8]; 7] = [
        b"\n",
        b"hello\n",
        b"{}\n",
        b"\xff\xfe\0\n",
        b"{\"v\":1}\n",
        b"{\"v\":1,\"ask\":\"format\"}\n",
        &deep,
    ];
    for garbage in cases {
        let answer = daemon.answer_to(garbage);
        let line: Value = serde_json::from_str(&answer).expect("one line of JSON");
        assert!(line["error"].as_str().is_some_and(|why| why.contains("not a request")), "{answer}");
    }
    assert_eq!(daemon.figures.refused.get(), cases.len() as u64);
    daemon.client().ask::<Pong>(&Request::Ping).expect("the daemon lives");
}

proptest::proptest! {
    #[test]
    fn whatever_is_in_a_path_stays_on_one_line_and_comes_back(path in ".*", rate in proptest::num::u64::ANY) {
        for request in [Request::Drop { path: Some(path) }, Request::Verify { rate_bytes_per_s: Some(rate) }] {
            let line = encode(&RequestLine { v: PROTOCOL_VERSION, request: request.clone() });
            proptest::prop_assert_eq!(line.iter().position(|&byte| byte == b'\n'), Some(line.len() - 1));
            let back: RequestLine = serde_json::from_slice(&line).expect("it was just encoded");
            proptest::prop_assert_eq!(back.request, request);
        }
    }
}

#[test]
fn another_version_is_told_which_cachectl_to_use() {
    let daemon = Daemon::new();
    let answer = daemon.answer_to(b"{\"v\":2,\"ask\":\"something\",\"new\":1}\n");
    assert!(answer.contains("the cachectl of the daemon's release"), "{answer}");
}

#[test]
fn a_huge_line_is_cut_off() {
    let daemon = Daemon::new();
    let answer = daemon.answer_to(&vec![b'x'; 4 << 20]);
    // The refusal may be lost to the reset that unread input causes; the connection must be over either way.
    assert!(answer.is_empty() || answer.contains("longer than 1024 bytes"), "{answer}");
    daemon.client().ask::<Pong>(&Request::Ping).expect("the daemon lives");
}

#[test]
fn silent_clients_fill_their_slots_only_for_a_while() {
    // Long enough for three connections on a busy machine.
    let daemon = Daemon::with(&Limits { control_patience: Duration::from_secs(3), ..limits() });
    let (mut first, _second) = (daemon.raw(), daemon.raw());
    let mut third = daemon.raw();
    let mut answer = String::new();
    third.read_to_string(&mut answer).expect("it is answered at once");
    assert!(answer.contains("too many clients"), "{answer}");
    answer.clear();
    first.read_to_string(&mut answer).expect("the daemon hangs up");
    assert!(answer.contains("no request in time"), "{answer}");
    while daemon.figures.clients.get() > 0 {
        std::thread::sleep(Duration::from_millis(5));
    }
    daemon.client().ask::<Pong>(&Request::Ping).expect("slots are free again");
}

#[test]
fn a_client_that_takes_nothing_is_dropped() {
    let daemon = Daemon::new();
    let mut stream = daemon.raw();
    stream.write_all(b"{\"v\":1,\"ask\":\"stats\"}\n").expect("the daemon reads");
    // Never reading, the parrot's endless answer fills the socket, and its send times out.
    while daemon.figures.requests.get() == 0 || daemon.figures.clients.get() > 0 {
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn only_the_owner_may_open_the_socket() {
    let daemon = Daemon::new();
    let meta = std::fs::metadata(daemon.dir.path().join(SOCKET_NAME)).expect("it is there");
    assert_eq!(meta.permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_live_daemons_socket_is_not_taken_and_a_dead_ones_is_replaced() {
    let mut daemon = Daemon::new();
    let second = start(daemon.dir.path(), &daemon.figures);
    assert!(matches!(second, Err(ServerError::InUse(_))));
    daemon.client().ask::<Pong>(&Request::Ping).expect("the first one is unharmed");

    daemon.server.stop();
    drop(daemon.server);
    assert!(matches!(Client::connect(daemon.dir.path()), Err(ClientError::NoDaemon(_))));
    // What a killed daemon leaves: a socket that nobody listens at.
    drop(
        std::os::unix::net::UnixListener::bind(daemon.dir.path().join(SOCKET_NAME))
            .expect("the name is free"),
    );
    assert!(matches!(Client::connect(daemon.dir.path()), Err(ClientError::NoDaemon(_))));
    let _server = start(daemon.dir.path(), &daemon.figures).expect("the old one is dead");
    Client::connect(daemon.dir.path()).expect("it listens").ask::<Pong>(&Request::Ping).expect("it answers");
}

#[test]
fn a_cache_directory_with_a_long_path_has_a_socket_too() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let long = dir.path().join("d".repeat(200));
    std::fs::create_dir(&long).expect("names go to 255 bytes");
    let _server = start(&long, &Arc::default()).expect("sun_path is not the limit");
    Client::connect(&long).expect("nor here").ask::<Pong>(&Request::Ping).expect("it answers");
}

#[test]
fn stopping_does_not_wait_for_a_client_that_says_nothing() {
    let mut daemon = Daemon::new();
    let _silent = daemon.raw();
    while daemon.figures.clients.get() == 0 {
        std::thread::sleep(Duration::from_millis(5));
    }
    daemon.server.stop();
    assert_eq!(daemon.figures.clients.get(), 0);
}

fn running(mountpoint: &str, pid: u32) -> RunningDaemon {
    RunningDaemon { pid, mountpoint: mountpoint.into(), cache_dir: "/c".into(), origin: "s3://b".into() }
}

#[test]
fn the_registry_lists_the_living_and_removes_the_dead() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let registry = Registry::at(dir.path().join("r"));
    assert_eq!(registry.running().expect("none is no error"), []);
    assert!(!dir.path().join("r").exists(), "looking must not make anything");
    let b = registry.register(&running("/b", 2)).expect("it registers");
    let _a = registry.register(&running("/a", 1)).expect("it registers");
    std::fs::write(dir.path().join("r/9.json"), serde_json::to_vec(&running("/dead", 9)).expect("plain"))
        .expect("the directory is ours");
    std::fs::write(dir.path().join("r/10.json"), "half a fi").expect("the directory is ours");

    let mountpoints =
        || -> Vec<_> { registry.running().expect("it is readable").into_iter().map(|d| d.pid).collect() };
    assert_eq!(mountpoints(), [1, 2]);
    assert!(!dir.path().join("r/9.json").exists());
    drop(b);
    assert_eq!(mountpoints(), [1]);
}

#[test]
fn a_registry_that_others_can_write_to_is_refused() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let open = dir.path().join("r");
    std::fs::create_dir(&open).expect("the directory is ours");
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o777)).expect("it is ours");
    std::os::unix::fs::symlink(dir.path(), dir.path().join("link")).expect("the directory is ours");
    for registry in [Registry::at(open), Registry::at(dir.path().join("link"))] {
        assert!(registry.register(&running("/m", 1)).is_err());
        assert!(registry.running().is_err());
    }
}
