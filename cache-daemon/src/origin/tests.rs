//! Reads: exactly the bytes of the version asked for, or the right error, whatever the origin does.

use std::sync::Arc;
use std::time::Duration;

use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt};

use super::faulty::{Faults, Faulty};
use super::list::fake::{Behaviour, Fake};
use super::*;

const BODY: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyz";

struct Bench {
    faulty: Arc<Faulty>,
    origin: Origin,
    figures: Arc<OriginFigures>,
    etag: Etag,
}

/// An origin over a store in memory that holds [`BODY`] as `set/x`, spoiled by `faults`.
async fn bench(faults: Faults, seed: u64) -> Bench {
    bench_within(Duration::from_secs(60), faults, seed).await
}

async fn bench_within(deadline: Duration, faults: Faults, seed: u64) -> Bench {
    let memory = Arc::new(InMemory::new());
    memory.put(&"set/x".into(), BODY.into()).await.unwrap();
    let faulty = Arc::new(Faulty::new(memory, faults, seed));
    let figures = Arc::new(OriginFigures::default());
    let limits = OriginLimits {
        request_timeout: Duration::from_millis(50),
        deadline,
        attempts_max: 30,
        first_pause: Duration::from_millis(1),
        jitter_seed: Some(seed),
        ..OriginLimits::default()
    };
    let store: Arc<dyn ObjectStore> = faulty.clone();
    let origin = Origin::over(store, "memory://m/set", limits, figures.clone());
    let etag = origin.head(&ObjectKey::new("x")).await.unwrap().unwrap().etag;
    Bench { faulty, origin, figures, etag }
}

impl Bench {
    async fn get(&self, range: Range<u64>) -> Result<Bytes, FetchError> {
        self.origin.get(&ObjectKey::new("x"), &self.etag, range, RequestSource::Demand).await
    }
}

#[tokio::test]
async fn reads_are_right_although_every_third_request_fails() {
    let faults = Faults {
        fail: 0.15,
        stall: 0.05,
        stall_for: Duration::from_secs(3600),
        truncate: 0.15,
        ..Faults::default()
    };
    let bench = bench(faults, 7).await;
    for start in 0..BODY.len() {
        let read = bench.get(start as u64..BODY.len() as u64).await.unwrap();
        assert_eq!(read, BODY[start..]);
    }
    assert!(bench.faulty.spoiled() > 5);
    let figures = &bench.figures;
    assert_eq!(figures.gets.get(), bench.faulty.gets());
    assert_eq!(figures.retries.get(), bench.faulty.gets() - BODY.len() as u64);
    assert!(figures.short_bodies.get() > 0 && figures.server_errors.get() > 0);
    assert_eq!((figures.failed_reads.get(), figures.in_flight.get()), (0, 0));
}

#[tokio::test]
async fn a_stall_longer_than_the_timeout_costs_one_attempt() {
    let stall = Faults { stall: 1.0, stall_for: Duration::from_secs(3600), ..Faults::default() };
    let bench = bench(stall, 1).await;
    let faulty = bench.faulty.clone();
    tokio::spawn(async move {
        while faulty.gets() == 0 {
            tokio::task::yield_now().await;
        }
        faulty.set(Faults::default());
    });
    assert_eq!(bench.get(0..5).await.unwrap(), BODY[..5]);
    assert_eq!((bench.figures.timeouts.get(), bench.faulty.gets()), (1, 2));
}

#[tokio::test]
async fn an_origin_that_never_answers_fails_within_the_deadline() {
    for faults in [
        Faults { fail: 1.0, ..Faults::default() },
        Faults { truncate: 1.0, ..Faults::default() },
        Faults { stall: 1.0, stall_for: Duration::from_secs(3600), ..Faults::default() },
    ] {
        let bench = bench_within(Duration::from_millis(300), faults, 1).await;
        let error = bench.get(0..5).await.unwrap_err();
        assert!(matches!(error, FetchError::Failed { attempts: 2.., .. }), "{error:?}");
        assert_eq!(bench.figures.failed_reads.get(), 1);
    }
}

#[tokio::test]
async fn another_version_is_never_read_and_never_asked_for_again() {
    let bench = bench(Faults { change_etag: 1.0, ..Faults::default() }, 1).await;
    assert_eq!(bench.get(0..5).await, Err(FetchError::Replaced));
    bench.faulty.set(Faults::default());
    bench.faulty.put(&"set/x".into(), BODY.into()).await.unwrap();
    assert_eq!(bench.get(0..5).await, Err(FetchError::Replaced));
    bench.faulty.delete(&"set/x".into()).await.unwrap();
    assert_eq!(bench.get(0..5).await, Err(FetchError::Gone));
    assert_eq!(bench.faulty.gets(), 3);
    assert!(bench.origin.head(&ObjectKey::new("x")).await.unwrap().is_none());
}

#[tokio::test]
async fn keys_that_cannot_be_asked_for_fail_without_a_request() {
    let bench = bench(Faults::default(), 1).await;
    for key in ["a//b", "./x", "../x", "x/", "/x", "ctl\u{1}", ""] {
        let read = bench.origin.get(&ObjectKey::new(key), &bench.etag, 0..5, RequestSource::Demand).await;
        assert!(matches!(read, Err(FetchError::Failed { attempts: 0, .. })), "{key:?}: {read:?}");
    }
    assert_eq!(bench.faulty.gets(), 0);
}

#[tokio::test]
async fn reads_and_heads_can_be_spawned() {
    let Bench { origin, etag, .. } = bench(Faults::default(), 1).await;
    let task = tokio::spawn(async move {
        let key = ObjectKey::new("x");
        origin.check().await.unwrap();
        let listed = origin.head(&key).await.unwrap().unwrap();
        (listed.is_version(&etag), origin.get(&key, &etag, 0..3, RequestSource::Readahead).await)
    });
    assert_eq!(task.await.unwrap(), (true, Ok(Bytes::from_static(&BODY[..3]))));
}

#[tokio::test]
async fn an_empty_range_costs_no_request() {
    let bench = bench(Faults::default(), 1).await;
    assert!(bench.get(7..7).await.unwrap().is_empty());
    assert_eq!(bench.faulty.gets(), 0);
}

#[tokio::test]
async fn a_local_file_is_read_in_the_version_that_was_listed() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("x %20\u{1}#12");
    std::fs::write(&file, BODY).unwrap();
    let origin =
        Origin::open(root.path().to_str().unwrap(), &OriginOptions::default(), Arc::default()).unwrap();
    let listed = origin.list().recv().await.unwrap().unwrap().remove(0);
    let key = ObjectKey::new(listed.key);
    let get = |range| origin.get(&key, &listed.etag, range, RequestSource::Readahead);
    assert_eq!(get(3..9).await.unwrap(), BODY[3..9]);
    std::fs::write(&file, b"short").unwrap();
    assert_eq!(get(3..9).await, Err(FetchError::Replaced));
    std::fs::remove_file(&file).unwrap();
    assert_eq!(get(3..9).await, Err(FetchError::Gone));
    for key in ["../x", "a//b", "./x", "x/", "/x", "", "x\0"] {
        let read = origin.get(&ObjectKey::new(key), &listed.etag, 0..1, RequestSource::Demand).await;
        assert!(matches!(read, Err(FetchError::Failed { attempts: 0, .. })), "{key:?}: {read:?}");
    }
    let missing = Origin::open("/no/such/directory", &OriginOptions::default(), Arc::default());
    assert!(missing.unwrap_err().to_string().contains("does not exist"));
}

#[tokio::test]
async fn over_http_every_get_asks_for_its_version() {
    let behaviour = Behaviour { refuse_every: 3, cut_every: 4, ..Behaviour::default() };
    let fake = Fake::serve(["set/a key+%41 é".to_owned()], behaviour).await;
    let (origin, figures) = fake.origin("s3://bucket/set");
    let listed = origin.list().recv().await.unwrap().unwrap().remove(0);
    let key = ObjectKey::new(listed.key);
    let whole = "set/a key+%41 é".as_bytes();
    for _ in 0..10 {
        let read = origin.get(&key, &listed.etag, 0..listed.size_bytes, RequestSource::Demand).await;
        assert_eq!(read.unwrap(), whole);
    }
    let other = Etag::new("\"other\"");
    assert_eq!(origin.get(&key, &other, 0..1, RequestSource::Demand).await, Err(FetchError::Replaced));
    assert!(fake.if_match.lock().iter().all(Option::is_some));
    assert!(figures.throttled.get() > 0 && figures.short_bodies.get() > 0, "{figures:?}");
}

#[tokio::test]
async fn a_retry_after_is_seen_through_object_store_and_in_our_own_requests() {
    // An hour is past every deadline, so a client that sees it gives up at once.
    let behaviour =
        Behaviour { refuse_all: Some((503, "SlowDown")), retry_after: 3600, ..Behaviour::default() };
    let fake = Fake::serve(Vec::new(), behaviour).await;
    let (origin, figures) = fake.origin("s3://bucket");
    let read = origin.get(&ObjectKey::new("x"), &Etag::new("\"e\""), 0..1, RequestSource::Demand).await;
    assert!(matches!(read, Err(FetchError::Failed { attempts: 1, .. })), "{read:?}");
    assert!(origin.check().await.unwrap_err().to_string().contains("SlowDown"));
    assert!(origin.head(&ObjectKey::new("x")).await.is_err());
    assert_eq!((fake.requests(), figures.throttled.get()), (3, 3));
}

#[tokio::test]
async fn nobody_listening_is_a_connection_error_that_says_so() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let options = OriginOptions {
        endpoint: Some(format!("http://127.0.0.1:{port}")),
        anonymous: true,
        limits: OriginLimits { attempts_max: 2, ..OriginLimits::default() },
        ..OriginOptions::default()
    };
    let figures = Arc::new(OriginFigures::default());
    let origin = Origin::open("s3://bucket", &options, figures.clone()).unwrap();
    let error = origin.check().await.unwrap_err().to_string();
    assert!(error.contains("refused") && error.contains("2 attempt"), "{error}");
    let read = origin.get(&ObjectKey::new("x"), &Etag::new("\"e\""), 0..1, RequestSource::Demand).await;
    assert!(matches!(read, Err(FetchError::Failed { attempts: 2, .. })), "{read:?}");
    assert_eq!(figures.connection_errors.get(), 4);
}
