//! Listings are complete, whatever the keys and the servers, and cost about a request per page.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt};
use proptest::prelude::*;

use super::fake::{Behaviour, Encoding, Fake};
use super::*;
use crate::checksum;
use crate::object::ObjectKey;
use crate::origin::{Origin, OriginLimits, OriginOptions};
use crate::stats::origin::OriginFigures;

/// All keys, sorted; panics on errors, on pages that are too long, and on keys that come twice.
async fn keys(origin: &Origin) -> BTreeSet<String> {
    let mut pages = origin.list();
    let mut keys = BTreeSet::new();
    while let Some(page) = pages.recv().await {
        let page = page.unwrap();
        assert!(page.len() <= PAGE_KEYS);
        for listed in page {
            assert!(keys.insert(listed.key.clone()), "{} came twice", listed.key);
        }
    }
    keys
}

fn tree(directories: usize, files: usize) -> Vec<String> {
    let file = |n: usize| format!("n{:05}/{:06}.jpg", n / files, n % files);
    (0..directories * files).map(file).collect()
}

fn below(prefix: &str, keys: &[String]) -> Vec<String> {
    keys.iter().map(|key| format!("{prefix}{key}")).collect()
}

/// Keys that break clients: each a different way.
fn hostile() -> Vec<String> {
    [
        "a//b",
        "./x",
        "../x",
        "d/./y",
        "/lead",
        "trail/",
        "a+b",
        "a%41",
        "a b",
        "ctl\u{1}\t\n\r\u{7f}x",
        "é/ü&<>\"'",
        "\u{1F600}",
        "%",
        "n00001",
        "~",
    ]
    .map(str::to_owned)
    .to_vec()
}

#[tokio::test]
async fn twenty_thousand_keys_in_a_thousand_directories_cost_about_twenty_requests() {
    let tree = tree(1000, 20);
    let fake = Fake::serve(below("set/", &tree), Behaviour::default()).await;
    let (origin, figures) = fake.origin("s3://bucket/set");
    assert_eq!(keys(&origin).await, tree.into_iter().collect());
    let (lists, by_directory) = fake.lists();
    assert!(lists <= 20 + 12 && by_directory == 1, "{lists} requests, {by_directory} by directory");
    assert_eq!((figures.lists.get(), figures.keys_listed.get()), (lists as u64, 20_000));
}

#[tokio::test]
async fn two_large_directories_are_split_by_their_children() {
    let tree: Vec<_> =
        below("train/", &tree(100, 60)).into_iter().chain(below("val/", &tree(100, 10))).collect();
    let fake = Fake::serve(tree.clone(), Behaviour::default()).await;
    let (origin, _) = fake.origin("s3://bucket");
    assert_eq!(keys(&origin).await, tree.into_iter().collect());
    let (lists, by_directory) = fake.lists();
    assert!(lists <= 7 + 3 + 7 && by_directory == 3, "{lists} requests, {by_directory} by directory");
}

#[tokio::test]
async fn one_page_costs_one_request_and_a_flat_directory_one_a_page() {
    for (files, expected) in [(0, 1), (1, 1), (1000, 1), (1001, 3), (3500, 5)] {
        let flat: Vec<_> = (0..files).map(|n| format!("{n:07}.jpg")).collect();
        let fake = Fake::serve(flat.clone(), Behaviour::default()).await;
        let (origin, _) = fake.origin("s3://bucket");
        assert_eq!(keys(&origin).await, flat.into_iter().collect());
        assert_eq!(fake.lists().0, expected, "for {files} files");
    }
}

#[tokio::test]
async fn a_large_directory_without_directories_is_split_by_how_its_names_go_on() {
    let counted = |n: usize| format!("train/ILSVRC2012_train_{n:08}.JPEG");
    let hashed = |n: usize| format!("{:08x}.jpg", checksum::crc32c(&n.to_le_bytes()));
    for names in [&counted as &dyn Fn(usize) -> String, &hashed] {
        let flat: Vec<_> = (0..20_000).map(names).collect();
        let behaviour = Behaviour { page_keys: 200, ..Behaviour::default() };
        let fake = Fake::serve(below("set/", &flat), behaviour).await;
        let (origin, _) = fake.origin("s3://bucket/set");
        assert_eq!(keys(&origin).await, flat.into_iter().collect());
        let starts = fake.lists.lock().iter().filter(|query| query.contains("start-after=")).count();
        let all = fake.lists().0;
        assert!(starts > 16 && all <= 100 + 2 + 10 + 16, "{all} requests, {starts} starts");
    }
}

#[tokio::test]
async fn hostile_keys_among_five_thousand_are_all_delivered_by_every_kind_of_server() {
    for encoding in [Encoding::Url, Encoding::Pretended, Encoding::Unknown] {
        for namespace in [true, false] {
            let all: Vec<_> = tree(100, 50).into_iter().chain(hostile()).collect();
            let behaviour = Behaviour { encoding, namespace, ..Behaviour::default() };
            let fake = Fake::serve(below("set/", &all), behaviour).await;
            let (origin, _) = fake.origin("s3://bucket/set/");
            assert_eq!(keys(&origin).await, all.into_iter().collect(), "{encoding:?}");
        }
    }
}

#[tokio::test]
async fn a_doubtful_spelling_is_resolved_by_asking() {
    for encoding in [Encoding::Url, Encoding::Pretended] {
        // Every key could be encoded, and `a+b` decodes to another key that is there too.
        let mut all: Vec<_> = ["a+b", "a%20b", "a%2Bb", "x"].map(str::to_owned).to_vec();
        if encoding == Encoding::Url {
            all.push("a b".to_owned());
        }
        let fake = Fake::serve(all.clone(), Behaviour { encoding, ..Behaviour::default() }).await;
        let (origin, _) = fake.origin("s3://bucket");
        assert_eq!(keys(&origin).await, all.into_iter().collect(), "{encoding:?}");
    }
}

#[tokio::test]
async fn ranges_that_end_within_pages_and_on_keys_lose_nothing() {
    // Markers are keys equal to the split points; small pages make many ranges.
    let mut all = tree(60, 7);
    all.extend((0..60).map(|n| format!("n{n:05}/")));
    let fake = Fake::serve(all.clone(), Behaviour { page_keys: 10, ..Behaviour::default() }).await;
    let (origin, _) = fake.origin("s3://bucket");
    assert_eq!(keys(&origin).await, all.into_iter().collect());
}

#[tokio::test]
async fn refused_and_broken_requests_are_repeated() {
    let tree = tree(100, 30);
    let behaviour = Behaviour { refuse_every: 4, cut_every: 5, ..Behaviour::default() };
    let fake = Fake::serve(tree.clone(), behaviour).await;
    let (origin, figures) = fake.origin("s3://bucket");
    assert_eq!(keys(&origin).await, tree.into_iter().collect());
    assert!(figures.throttled.get() > 0 && figures.retries.get() > 0, "{figures:?}");
}

#[tokio::test]
async fn a_listing_that_fails_ends_with_the_error_that_tells_why() {
    for (status, code, says) in [
        (404, "NoSuchBucket", "does not exist"),
        (403, "AccessDenied", "access denied"),
        (403, "InvalidAccessKeyId", "access denied"),
        (400, "InvalidArgument", "HTTP 400 InvalidArgument"),
    ] {
        let behaviour = Behaviour { refuse_all: Some((status, code)), ..Behaviour::default() };
        let fake = Fake::serve(Vec::new(), behaviour).await;
        let (origin, _) = fake.origin("s3://bucket/set");
        let checked = origin.check().await.unwrap_err().to_string();
        let listed = origin.list().recv().await.unwrap().unwrap_err().to_string();
        assert_eq!(checked, listed);
        assert!(checked.contains(says) && !checked.contains('\n'), "{checked}");
        assert_eq!(fake.requests(), 2, "such answers are not asked for again");
    }
}

#[tokio::test]
async fn what_is_no_s3_server_is_said_at_once_and_a_busy_one_after_three_attempts() {
    for (status, code, says, requests) in
        [(200, "html", "is this an S3 endpoint?", 1), (503, "SlowDown", "3 attempt", 3)]
    {
        let behaviour = Behaviour { refuse_all: Some((status, code)), ..Behaviour::default() };
        let fake = Fake::serve(Vec::new(), behaviour).await;
        let error = fake.origin("s3://bucket").0.check().await.unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
        assert_eq!(fake.requests(), requests);
    }
}

#[tokio::test]
async fn a_listing_that_breaks_off_halfway_does_not_look_complete() {
    for refuse_from in 1..12 {
        let behaviour =
            Behaviour { refuse_all: Some((403, "ExpiredToken")), refuse_from, ..Behaviour::default() };
        let fake = Fake::serve(tree(1000, 20), behaviour).await;
        let (origin, _) = fake.origin("s3://bucket");
        let mut pages = origin.list();
        let mut last = None;
        while let Some(page) = pages.recv().await {
            assert!(!matches!(last, Some(Err(_))), "nothing follows an error");
            last = Some(page);
        }
        assert!(matches!(last, Some(Err(OriginError::Denied { .. }))), "after {refuse_from} answers");
    }
}

#[tokio::test]
async fn while_a_long_listing_runs_its_share_is_about_that_of_the_keys_that_came() {
    let trees = [tree(200, 100), (0..20_000).map(|n| format!("flat_{n:06}.jpg")).collect::<Vec<_>>()];
    for tree in trees {
        let fake = Fake::serve(tree.clone(), Behaviour { page_keys: 210, ..Behaviour::default() }).await;
        let (origin, figures) = fake.origin("s3://bucket");
        let (mut pages, mut came, mut seen) = (origin.list(), 0, Vec::new());
        while let Some(page) = pages.recv().await {
            came += page.unwrap().len();
            if let Some(share) = figures.listing_share() {
                seen.push((share, figures.keys_listed.get() as f64 / tree.len() as f64));
            }
        }
        assert_eq!((came, figures.listing_share()), (tree.len(), Some(1.0)));
        let off = seen.iter().map(|(share, came)| (share - came).abs()).fold(0.0, f64::max);
        assert!(seen.len() > 20 && off < 0.2, "{off} off in {} moments", seen.len());
        assert!(seen.is_sorted_by(|a, b| a.0 <= b.0));
    }
}

#[tokio::test]
async fn more_directories_than_a_page_names_are_split_all_the_same() {
    let tree = tree(3000, 7);
    let behaviour = Behaviour { page_keys: 100, ..Behaviour::default() };
    let fake = Fake::serve(tree.clone(), behaviour).await;
    let (origin, _) = fake.origin("s3://bucket");
    assert_eq!(keys(&origin).await, tree.into_iter().collect());
    let lists = fake.lists.lock();
    // Pages that follow in one part go on by token; the longest part is a fraction of the 210 pages.
    let mut starts: Vec<_> = lists.iter().filter_map(|query| query.split("start-after=").nth(1)).collect();
    starts.sort_unstable();
    assert!(lists.len() < 250 && starts.len() > 12, "{} requests, starts: {starts:?}", lists.len());
}

#[tokio::test]
async fn a_large_flat_directory_beside_a_small_one_is_split_within() {
    let names = |directory: &str, count: usize| -> Vec<String> {
        (0..count).map(|n| format!("{directory}/ILSVRC2012_{n:08}.JPEG")).collect()
    };
    let both = [names("train", 20_000), names("val", 600)].concat();
    let fake = Fake::serve(below("set/", &both), Behaviour { page_keys: 200, ..Behaviour::default() }).await;
    let (origin, _) = fake.origin("s3://bucket/set");
    assert_eq!(keys(&origin).await, both.into_iter().collect());
    let lists = fake.lists.lock();
    let starts = lists.iter().filter(|query| query.contains("start-after=set%2Ftrain")).count();
    assert!(lists.len() <= 103 + 4 + 10 + 16 && starts > 16, "{} requests, {starts} starts", lists.len());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn whatever_the_keys_and_the_server_every_key_is_listed_once(
        names in prop::collection::btree_set("([a-c0-2%+ ]{0,2}/){0,2}[a-c0-3é+% .]{1,4}", 0..120),
        page_keys in 1_usize..25, namespace in any::<bool>(), prefix in "(set/)?",
        encoding in prop::sample::select(vec![Encoding::Url, Encoding::Pretended, Encoding::Unknown]),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let names: Vec<_> = names.into_iter().collect();
        let listed = runtime.block_on(async {
            let behaviour = Behaviour { encoding, namespace, page_keys, ..Behaviour::default() };
            let fake = Fake::serve(below(&prefix, &names), behaviour).await;
            keys(&fake.origin(&format!("s3://bucket/{prefix}")).0).await
        });
        prop_assert_eq!(listed, names.into_iter().collect());
    }
}

#[tokio::test]
async fn a_local_directory_is_walked_with_hostile_names_links_and_loops() {
    let root = tempfile::tempdir().unwrap();
    let at = |key: &str| root.path().join(key);
    std::fs::create_dir_all(at("sub/deep")).unwrap();
    let mut expected = BTreeSet::new();
    for key in ["ctl\u{1}\t\n", "a b%20+", "sub/é", "sub/deep/f#12", "..x"] {
        std::fs::write(at(key), key).unwrap();
        expected.insert(key.to_owned());
    }
    std::os::unix::fs::symlink(at("..x"), at("link")).unwrap();
    std::os::unix::fs::symlink(root.path(), at("sub/loop")).unwrap();
    std::os::unix::fs::symlink("/nonexistent", at("dangling")).unwrap();
    std::fs::write(at("").join(std::ffi::OsStr::from_bytes(b"\xff")), "").unwrap();
    expected.insert("link".to_owned());
    for n in 0..1100 {
        std::fs::write(at(&format!("sub/{n:04}")), "").unwrap();
        expected.insert(format!("sub/{n:04}"));
    }
    let figures = Arc::new(OriginFigures::default());
    let origin =
        Origin::open(root.path().to_str().unwrap(), &OriginOptions::default(), figures.clone()).unwrap();
    assert_eq!(keys(&origin).await, expected);
    assert_eq!(figures.keys_not_utf8.get(), 1);
}

#[tokio::test]
async fn a_local_listing_and_a_head_give_the_same_version() {
    let root = tempfile::tempdir().unwrap();
    std::fs::write(root.path().join("x"), "12345").unwrap();
    let origin =
        Origin::open(root.path().to_str().unwrap(), &OriginOptions::default(), Arc::default()).unwrap();
    let page = origin.list().recv().await.unwrap().unwrap();
    let head = origin.head(&ObjectKey::new("x")).await.unwrap().unwrap();
    assert_eq!((&page[0].etag, page[0].size_bytes), (&head.etag, 5));
}

#[tokio::test]
async fn stores_of_tests_are_listed_below_the_prefix_only() {
    let store = Arc::new(InMemory::new());
    for key in ["set/a", "set/b/c", "settle/x", "other"] {
        store.put(&key.into(), "1".into()).await.unwrap();
    }
    let store: Arc<dyn ObjectStore> = store;
    let origin = Origin::over(store, "memory://m/set", OriginLimits::default(), Arc::default());
    assert_eq!(keys(&origin).await, ["a", "b/c"].map(str::to_owned).into());
    origin.check().await.unwrap();
}

#[tokio::test]
async fn a_listing_that_nobody_reads_stops() {
    let fake = Fake::serve(tree(1000, 100), Behaviour::default()).await;
    let (origin, _) = fake.origin("s3://bucket");
    let mut pages = origin.list();
    pages.recv().await.unwrap().unwrap();
    drop(pages);
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert!(fake.lists().0 < 90, "{} requests", fake.lists().0);
}
