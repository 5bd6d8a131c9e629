//! `s3-origin` as a client sees it: object_store where it can, the steering port where it cannot.

use std::collections::BTreeSet;
use std::sync::Arc;

use epochcache_tests::bed::s3::{ACCESS_KEY, Origin, REGION, SECRET_KEY, Weather};
use futures::{StreamExt, TryStreamExt};
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::list::{PaginatedListOptions, PaginatedListStore};
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt, RetryConfig};
use tempfile::TempDir;

struct Bed {
    origin: Origin,
    _root: TempDir,
}

impl Bed {
    fn new(weather: &Weather) -> Self {
        Self::of(&BTreeSet::new(), weather)
    }

    /// A bed whose bucket holds `keys` already.
    fn of(keys: &BTreeSet<String>, weather: &Weather) -> Self {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("data")).unwrap();
        for key in keys {
            let path = root.path().join("data").join(key);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, b"x").unwrap();
        }
        Self { origin: Origin::start(root.path(), weather).unwrap(), _root: root }
    }

    fn client_with(&self, secret: &str) -> Arc<AmazonS3> {
        let store = AmazonS3Builder::new()
            .with_endpoint(self.origin.endpoint())
            .with_allow_http(true)
            .with_bucket_name("data")
            .with_region(REGION)
            .with_access_key_id(ACCESS_KEY)
            .with_secret_access_key(secret)
            .with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() })
            .build();
        Arc::new(store.unwrap())
    }

    fn client(&self) -> Arc<AmazonS3> {
        self.client_with(SECRET_KEY)
    }
}

async fn list_page(store: &AmazonS3, options: PaginatedListOptions) -> (BTreeSet<String>, Option<String>) {
    let page = store.list_paginated(None, options).await.unwrap();
    let keys = page.result.objects.iter().map(|meta| meta.location.to_string());
    (keys.collect(), page.page_token)
}

#[tokio::test]
async fn a_listing_of_5_000_keys_is_complete_in_pages_of_1_000() {
    let expected: BTreeSet<_> =
        (0..5_000).map(|number| format!("train/n{:03}/{number:05}.jpg", number % 50)).collect();
    let bed = Bed::of(&expected, &Weather::default());
    let store = bed.client();
    let listed: Vec<_> = store.list(Some(&Path::from("train"))).try_collect().await.unwrap();
    assert_eq!(listed.iter().map(|meta| meta.location.to_string()).collect::<BTreeSet<_>>(), expected);
    let counters = bed.origin.counters().unwrap();
    assert_eq!((counters.list, counters.head, counters.get), (5, 0, 0));

    let from = Path::from("train/n049/04899.jpg");
    let rest: Vec<_> = store.list_with_offset(Some(&Path::from("train")), &from).try_collect().await.unwrap();
    assert_eq!(rest.len(), expected.range(from.to_string()..).count() - 1);

    let level = store.list_with_delimiter(Some(&Path::from("train"))).await.unwrap();
    assert_eq!((level.common_prefixes.len(), level.objects.len()), (50, 0));
    let page = PaginatedListOptions { max_keys: Some(7), ..Default::default() };
    let (keys, token) = list_page(&store, page).await;
    assert_eq!(keys, expected.iter().take(7).cloned().collect());
    let page = PaginatedListOptions { max_keys: Some(7), page_token: token, ..Default::default() };
    assert_eq!(list_page(&store, page).await.0, expected.iter().skip(7).take(7).cloned().collect());
}

#[tokio::test]
async fn a_key_with_an_empty_part_is_listed_and_fails_the_listing_of_object_store() {
    let bed = Bed::new(&Weather::default());
    for number in 0..10 {
        bed.origin.put("data", &format!("a/{number}"), b"x").unwrap();
    }
    bed.origin.put("data", "a//b", b"odd").unwrap();
    let listed: Result<Vec<_>, _> = bed.client().list(None).try_collect().await;
    let error = listed.expect_err("object_store 0.14 refuses empty path segments").to_string();
    assert!(error.contains("a//b"), "{error}");
}

#[tokio::test]
async fn if_match_serves_its_version_and_refuses_any_other() {
    let bed = Bed::new(&Weather::default());
    let store = bed.client();
    let path = Path::from("k");
    let put = store.put(&path, "one".into()).await.unwrap();
    let listed = store.list(None).next().await.unwrap().unwrap();
    assert_eq!(put.e_tag, listed.e_tag);
    assert_eq!(store.head(&path).await.unwrap().e_tag, listed.e_tag);

    let options = || GetOptions { if_match: listed.e_tag.clone(), ..Default::default() };
    let got = store.get_opts(&path, options()).await.unwrap();
    assert_eq!(got.meta.e_tag, listed.e_tag);
    assert_eq!(got.bytes().await.unwrap(), "one");

    store.put(&path, "two".into()).await.unwrap();
    let refused = store.get_opts(&path, options()).await;
    assert!(matches!(refused, Err(object_store::Error::Precondition { .. })), "{refused:?}");
    assert_eq!(bed.origin.counters().unwrap().precondition_failed, 1);
}

#[tokio::test]
async fn ranges_large_bodies_and_counters_agree() {
    let bed = Bed::new(&Weather { delay_ms: 5, ..Weather::default() });
    let store = bed.client();
    let path = Path::from("train/large");
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|number| ((number * 31) >> 3) as u8).collect();
    store.put(&path, bytes.clone().into()).await.unwrap();
    bed.origin.reset().unwrap();

    assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), bytes);
    let range = GetOptions { range: Some(GetRange::Bounded(1_000_000..2_500_000)), ..Default::default() };
    let part = store.get_opts(&path, range).await.unwrap().bytes().await.unwrap();
    assert_eq!(part, bytes[1_000_000..2_500_000]);
    futures::future::join_all(
        (0..8).map(|_| async { store.get(&path).await.unwrap().bytes().await.unwrap() }),
    )
    .await;

    let counters = bed.origin.counters().unwrap();
    assert_eq!((counters.get, counters.ranged, counters.unconditional), (10, 1, 10));
    assert_eq!(counters.get_bytes, 9 * 3_000_000 + 1_500_000);
    assert_eq!((counters.gets_in_flight, counters.gets_in_flight_max), (0, 8));
    let log = bed.origin.log().unwrap();
    assert!(log.iter().all(|request| request.elapsed_us >= 5_000), "{log:?}");
}

#[tokio::test]
async fn strangers_are_turned_away() {
    let bed = Bed::new(&Weather::default());
    bed.origin.put("data", "k", b"x").unwrap();
    for wrong in [bed.client_with("wrong").get(&Path::from("k")).await, unsigned(&bed).await] {
        assert!(wrong.is_err());
    }
    assert!(bed.client().get(&Path::from("k")).await.is_ok());
}

async fn unsigned(bed: &Bed) -> object_store::Result<object_store::GetResult> {
    let store = AmazonS3Builder::new()
        .with_endpoint(bed.origin.endpoint())
        .with_allow_http(true)
        .with_bucket_name("data")
        .with_skip_signature(true)
        .build()
        .unwrap();
    store.get(&Path::from("k")).await
}

#[tokio::test]
async fn faults_hit_the_share_that_was_asked_for() {
    let bed = Bed::new(&Weather::default());
    let store = bed.client();
    let path = Path::from("k");
    store.put(&path, vec![7; 100_000].into()).await.unwrap();

    bed.origin.set_weather(&Weather { fail_share: 0.2, truncate_share: 0.2, ..Weather::default() }).unwrap();
    let mut failed = 0;
    for _ in 0..200 {
        let bytes = match store.get(&path).await {
            Ok(reply) => reply.bytes().await,
            Err(error) => Err(error),
        };
        match bytes {
            Ok(bytes) => assert_eq!(bytes.len(), 100_000),
            Err(_) => failed += 1,
        }
    }
    let counters = bed.origin.counters().unwrap();
    assert_eq!(failed, counters.injected_503 + counters.injected_truncated);
    assert!((15..70).contains(&counters.injected_503), "{counters:?}");
    assert!((15..70).contains(&counters.injected_truncated), "{counters:?}");

    bed.origin.set_weather(&Weather { stall_share: 1.0, stall_ms: 100, ..Weather::default() }).unwrap();
    let began = std::time::Instant::now();
    assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap().len(), 100_000);
    assert!(began.elapsed().as_millis() >= 100);
}
