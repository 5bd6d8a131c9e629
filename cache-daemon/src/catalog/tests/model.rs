//! Random listings and random changes, against an oracle that keeps everything in maps of whole paths.

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::*;

/// A node as anyone can see it: kind, size, time, links, ETag.
type Seen = (NodeKind, u64, SystemTime, u32, String);

/// The data set by the rule of `key.rs`, the slow way.
#[derive(Clone, Default)]
struct Oracle {
    files: BTreeMap<String, Item>,
    /// Directories and their times.
    directories: BTreeMap<String, SystemTime>,
    hidden: u64,
}

fn is_path(key: &str) -> bool {
    let names = key.strip_suffix('/').unwrap_or(key);
    key.is_empty() || names.split('/').all(|name| !["", ".", ".."].contains(&name))
}

impl Oracle {
    fn new(items: &[Item]) -> Self {
        let mut shown = BTreeMap::<&str, &Item>::new();
        for item in items.iter().filter(|item| is_path(&item.key)) {
            let newest = shown.entry(&item.key).or_insert(item);
            if newest.modified <= item.modified {
                *newest = item;
            }
        }
        let mut hidden = (items.len() - shown.len()) as u64;
        let mut directories = BTreeMap::from([(String::new(), UNIX_EPOCH)]);
        for key in shown.keys() {
            let slashes = key.match_indices('/').map(|(at, _)| &key[..at]);
            directories.extend(slashes.map(|path| (path.to_owned(), UNIX_EPOCH)));
        }
        let is_marker = |key: &str| key.is_empty() || key.ends_with('/');
        shown.retain(|key, item| {
            let is_beside = !is_marker(key) && directories.contains_key(*key);
            hidden += u64::from(is_beside || (is_marker(key) && item.size_bytes > 0));
            !is_beside
        });
        for (path, time) in &mut directories {
            let below =
                shown.iter().filter(|(key, _)| path.is_empty() || key.starts_with(&format!("{path}/")));
            *time = below.map(|(_, item)| item.modified).max().unwrap_or(UNIX_EPOCH);
        }
        shown.retain(|key, _| !is_marker(key));
        let files = shown.into_iter().map(|(key, item)| (key.to_owned(), item.clone())).collect();
        Self { files, directories, hidden }
    }

    fn tree(&self) -> BTreeMap<String, Seen> {
        let files = self.files.iter().map(|(key, item)| {
            (key.clone(), (NodeKind::File, item.size_bytes, item.modified, 1, item.etag.to_string()))
        });
        let directories = self.directories.iter().map(|(path, &time)| {
            let is_in = |other: &&String| {
                !other.is_empty() && other.rsplit_once('/').map_or("", |(parent, _)| parent) == path
            };
            let links = 2 + self.directories.keys().filter(is_in).count() as u32;
            (path.clone(), (NodeKind::Directory, 0, time, links, String::new()))
        });
        files.chain(directories).collect()
    }
}

/// What a walk of `catalog` from the root finds, and the number of each path.
fn walk(catalog: &Catalog) -> (BTreeMap<String, Seen>, BTreeMap<String, Ino>) {
    let (mut tree, mut numbers) = (BTreeMap::new(), BTreeMap::new());
    let root = catalog.attributes(Ino::ROOT).expect("the root is always there");
    let mut ahead = vec![(String::new(), root)];
    while let Some((path, attributes)) = ahead.pop() {
        assert_eq!(catalog.attributes(attributes.ino), Some(attributes));
        assert_eq!(catalog.path(attributes.ino), Some(path.clone().into_bytes()));
        assert_eq!(catalog.resolve(path.as_bytes()), Some(attributes.ino));
        if attributes.kind == NodeKind::Directory {
            let mut names = Vec::new();
            let entries = catalog.entries(attributes.ino, 0, &mut |entry| {
                names.push(entry.name.to_vec());
                let name = std::str::from_utf8(entry.name).expect("keys are UTF-8");
                let slash = if path.is_empty() { "" } else { "/" };
                ahead.push((format!("{path}{slash}{name}"), entry.attributes));
                Walk::Continue
            });
            entries.expect("it is a directory");
            assert!(names.is_sorted());
            for (_, child) in &ahead[ahead.len() - names.len()..] {
                assert_eq!(catalog.parent(child.ino), Some(attributes.ino));
            }
        }
        let object = catalog.object(attributes.ino);
        assert_eq!(object.is_some(), attributes.kind == NodeKind::File);
        let etag = object.map_or(String::new(), |object| {
            assert_eq!((object.key.as_str(), object.size_bytes), (path.as_str(), attributes.size_bytes));
            object.etag.to_string()
        });
        let Attributes { kind, size_bytes, modified, links, .. } = attributes;
        numbers.insert(path.clone(), attributes.ino);
        assert!(tree.insert(path, (kind, size_bytes, modified, links, etag)).is_none(), "a name twice");
    }
    (tree, numbers)
}

#[derive(Clone, Debug)]
enum Step {
    Apply(Vec<Item>),
    /// The last listing again, as it is.
    ApplyAgain,
    Replace(Index, Item),
    LookUp(Index),
    Forget(Index),
    Restart,
}

fn any_key() -> impl Strategy<Value = String> {
    let name = select(vec!["a", "b", "a-b", "a.b", "ab", "é", "0", "a", "b", "..", ".", ""]);
    (vec(name, 1..4), any::<bool>(), 0..8).prop_map(|(names, marker, root)| {
        let slash = if marker && names.len() > 1 { "/" } else { "" };
        if root == 0 { String::new() } else { names.join("/") + slash }
    })
}

fn any_item() -> impl Strategy<Value = Item> {
    let etags = ["x", "y", "\"00000000000000000000000000000abc\"", "\"00000000000000000000000000000abc-2\""];
    (any_key(), select(etags.to_vec()), 0_u64..3, 0_u64..3)
        .prop_map(|(key, etag, size_bytes, modified_s)| item(&key, etag, size_bytes, modified_s))
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => vec(any_item(), 0..40).prop_map(Step::Apply),
        1 => Just(Step::ApplyAgain),
        4 => (any::<Index>(), any_item()).prop_map(|(at, item)| Step::Replace(at, item)),
        6 => any::<Index>().prop_map(Step::LookUp),
        4 => any::<Index>().prop_map(Step::Forget),
        1 => Just(Step::Restart),
    ]
}

/// The catalog beside its oracle, and what the kernel knows.
struct Pair {
    catalog: Catalog,
    oracle: Oracle,
    listed: Vec<Item>,
    /// Versions that were replaced since the last listing.
    replaced: BTreeMap<String, Item>,
    /// The number of each path as last seen.
    numbers: BTreeMap<String, Ino>,
    tree: BTreeMap<String, Seen>,
    /// References the kernel holds, and what it must see behind them while they have no name.
    held: BTreeMap<Ino, (u64, Seen)>,
}

impl Pair {
    fn new(items: Vec<Item>) -> Self {
        let (catalog, report) = listing(items.clone()).finish(None);
        let oracle = Oracle::new(&items);
        assert_eq!(report.hidden.total(), oracle.hidden);
        let (tree, numbers) = walk(&catalog);
        let pair = Self {
            catalog,
            oracle,
            listed: items,
            replaced: BTreeMap::new(),
            numbers,
            tree,
            held: BTreeMap::new(),
        };
        assert_eq!(pair.tree, pair.oracle.tree());
        pair
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Apply(items) => {
                self.listed = items;
                self.apply();
            }
            Step::ApplyAgain => self.apply(),
            Step::Replace(at, to) => self.replace(at, &to),
            Step::LookUp(at) => self.look_up(at),
            Step::Forget(at) if !self.held.is_empty() => {
                let ino = *at.get(&self.held.keys().copied().collect::<Vec<_>>());
                self.forget(ino);
            }
            Step::Forget(_) => {}
            Step::Restart => self.restart(),
        }
        self.check();
    }

    fn apply(&mut self) {
        let (changes, report) = self.catalog.apply(listing(self.listed.clone()));
        let after = Oracle::new(&self.listed_or_newer());
        let before = std::mem::replace(&mut self.oracle, after);
        assert_eq!(report.hidden.total(), self.oracle.hidden);
        let old: BTreeSet<_> = before.files.keys().collect();
        let new: BTreeSet<_> = self.oracle.files.keys().collect();
        assert_eq!(report.new, new.difference(&old).count() as u64);
        assert_eq!(report.gone, old.difference(&new).count() as u64);
        let is_same = |a: &Item, b: &Item| (&a.etag, a.size_bytes) == (&b.etag, b.size_bytes);
        let both = new.intersection(&old).map(|&key| (&before.files[key], &self.oracle.files[key]));
        assert_eq!(report.changed, both.filter(|(a, b)| !is_same(a, b)).count() as u64);
        self.check_told(&changes);
    }

    /// What was listed, but for versions that were replaced since the last listing and are newer.
    fn listed_or_newer(&mut self) -> Vec<Item> {
        let listed = Oracle::new(&self.listed).files;
        let mut replaced = std::mem::take(&mut self.replaced);
        replaced.retain(|key, newer| listed.get(key).is_some_and(|listed| listed.modified < newer.modified));
        let newer = |item: &Item| replaced.get(&item.key).unwrap_or(item).clone();
        self.listed.iter().map(newer).collect()
    }

    /// Every path whose number changed is told of, itself or with a directory above it.
    fn check_told(&self, changes: &[Change]) {
        let (_, numbers) = walk(&self.catalog);
        let told: BTreeSet<_> = changes
            .iter()
            .filter_map(|change| match change {
                Change::Replaced(Replacement { parent, name, .. })
                | Change::Added { parent, name, .. }
                | Change::Removed { parent, name, .. } => {
                    Some((*parent, String::from_utf8_lossy(name).into_owned()))
                }
                Change::Touched { .. } => None,
            })
            .collect();
        for path in self.numbers.keys().chain(numbers.keys()) {
            if self.numbers.get(path) == numbers.get(path) {
                continue;
            }
            let is_told = path.match_indices('/').map(|(at, _)| at).chain([path.len()]).any(|end| {
                let (parent, name) = path[..end].rsplit_once('/').unwrap_or(("", &path[..end]));
                // The directory above kept its number, or is told of itself.
                self.numbers.get(parent).is_some_and(|parent| told.contains(&(*parent, name.to_owned())))
            });
            assert!(is_told, "{path} {changes:?}");
        }
    }

    fn replace(&mut self, at: Index, to: &Item) {
        let files: Vec<_> = self.oracle.files.keys().cloned().collect();
        if files.is_empty() {
            return;
        }
        let key = at.get(&files);
        let item = self.oracle.files.get_mut(key).expect("one of them");
        let old = self.numbers[key];
        let is_same = (&item.etag, item.size_bytes) == (&to.etag, to.size_bytes);
        match self.catalog.replace(old, to) {
            None => assert!(is_same),
            Some(replacement) => {
                assert!(!is_same);
                assert_eq!(
                    (replacement.old, Some(replacement.new)),
                    (old, self.catalog.resolve(key.as_bytes()))
                );
                *item = Item { key: key.clone(), ..to.clone() };
                self.replaced.insert(key.clone(), item.clone());
            }
        }
    }

    fn look_up(&mut self, at: Index) {
        let paths: Vec<_> = self.tree.keys().filter(|path| !path.is_empty()).cloned().collect();
        if paths.is_empty() {
            return;
        }
        let path = at.get(&paths);
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let found = self.catalog.lookup_counted(self.numbers[parent], name.as_bytes());
        let found = found.expect("it is a directory").expect("it has this name");
        assert_eq!(found.ino, self.numbers[path]);
        self.held.entry(found.ino).or_insert((0, self.tree[path].clone())).0 += 1;
    }

    fn forget(&mut self, ino: Ino) {
        let (lookups, _) = self.held[&ino];
        let dropped = 1 + lookups / 2;
        self.catalog.forget(ino, dropped);
        if dropped < lookups {
            self.held.get_mut(&ino).expect("it is held").0 -= dropped;
            return;
        }
        self.held.remove(&ino);
        if !self.numbers.values().any(|&live| live == ino) {
            assert_eq!(self.catalog.attributes(ino), None);
            assert_eq!(self.catalog.object(ino), None);
        }
    }

    fn restart(&mut self) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("catalog");
        let len_bytes = self.catalog.save(&path).expect("it can be written");
        assert_eq!(path.metadata().expect("it is there").len(), len_bytes);
        self.catalog = Catalog::load(&path, URL).expect("it can be read");
        // The kernel has unmounted: nothing is held.
        self.held.clear();
        self.replaced.clear();
        let (tree, numbers) = walk(&self.catalog);
        assert_eq!((&tree, &numbers), (&self.tree, &self.numbers));
    }

    fn check(&mut self) {
        let (tree, numbers) = walk(&self.catalog);
        let expected = self.oracle.tree();
        assert_eq!(tree, expected);
        let live: BTreeMap<_, _> = numbers.iter().map(|(path, ino)| (*ino, path)).collect();
        assert_eq!(live.len(), numbers.len(), "a number twice");
        for (path, ino) in &numbers {
            // What names a version: everything but time and links.
            let version = |seen: &Seen| (seen.0, seen.1, seen.4.clone());
            let before = self.tree.get(path).map(version);
            let is_kept = before == Some(version(&tree[path]));
            assert_eq!(is_kept, self.numbers.get(path) == Some(ino), "{path}");
        }
        for (ino, (_, seen)) in &mut self.held {
            let attributes = self.catalog.attributes(*ino).expect("the kernel holds it");
            match live.get(ino) {
                Some(&path) => *seen = tree[path].clone(),
                None if seen.0 == NodeKind::Directory => assert_eq!(names(&self.catalog, *ino), [""; 0]),
                None => {
                    let object = self.catalog.object(*ino).expect("the kernel holds it");
                    let Attributes { kind, size_bytes, modified, links, .. } = attributes;
                    assert_eq!(*seen, (kind, size_bytes, modified, links, object.etag.to_string()));
                }
            }
        }
        let bytes: u64 = self.oracle.files.values().map(|item| item.size_bytes).sum();
        assert_eq!((self.catalog.files(), self.catalog.bytes()), (self.oracle.files.len() as u64, bytes));
        assert_eq!(self.catalog.directories() as usize + 1, self.oracle.directories.len());
        let mut fingerprints = BTreeSet::new();
        self.catalog.fingerprints(&mut |ino, fingerprint| {
            assert_eq!(self.catalog.object(ino).map(|object| object.fingerprint), Some(fingerprint));
            fingerprints.insert(ino);
        });
        let is_file = |ino: &&Ino| self.catalog.object(**ino).is_some();
        assert_eq!(fingerprints, live.keys().chain(self.held.keys()).filter(is_file).copied().collect());
        (self.tree, self.numbers) = (tree, numbers);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_catalog_is_what_the_oracle_says(items in vec(any_item(), 0..60), steps in vec(any_step(), 0..40)) {
        let mut pair = Pair::new(items);
        for step in steps {
            pair.step(step);
        }
    }

    #[test]
    fn a_walk_in_pieces_sees_each_name_that_stays_exactly_once(
        first in vec(0_u16..300, 0..200),
        second in vec((0_u16..300, 0_u16..3), 0..200),
        pieces in vec(1_usize..50, 1..40),
        change_after in 0_usize..10,
    ) {
        let key = |n: u16| format!("d/{n:03}");
        let one: BTreeSet<_> = first.iter().map(|&n| key(n)).collect();
        let two: BTreeSet<_> = second.iter().map(|&(n, _)| key(n)).collect();
        let before = one.iter().map(|key| item(key, "e0", 1, 1)).chain([item("d/", "m", 0, 1)]);
        let (catalog, _) = listing(before).finish(None);
        let dir = ino(&catalog, "d");
        let after = second.iter().map(|&(n, etag)| item(&key(n), &format!("e{etag}"), 1, 1));
        let mut after = Some(listing(after.chain([item("d/", "m", 0, 1)])));
        let (mut seen, mut position) = (Vec::new(), 0);
        for (turn, &piece) in pieces.iter().chain([&1000, &1000]).enumerate() {
            if turn >= change_after && let Some(after) = after.take() {
                catalog.apply(after);
            }
            let mut room = piece;
            catalog.entries(dir, position, &mut |entry| {
                if room == 0 {
                    return Walk::Stop;
                }
                room -= 1;
                position = entry.next;
                seen.push(format!("d/{}", String::from_utf8_lossy(entry.name)));
                Walk::Continue
            }).expect("it is a directory");
        }
        prop_assert!(seen.windows(2).all(|pair| pair[0] < pair[1]), "out of order or twice: {seen:?}");
        let seen: BTreeSet<_> = seen.into_iter().collect();
        prop_assert!(one.intersection(&two).all(|key| seen.contains(key)));
        prop_assert!(seen.iter().all(|key| one.contains(key) || two.contains(key)));
    }
}
