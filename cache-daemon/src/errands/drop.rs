//! `cachectl drop`: forgets what is stored of a path. The next read fetches it again.

use fuse_frontend::source::{Ino, NodeKind, Walk};

use crate::cache::{Cache, Deed};
use crate::control::{Dropped, Refusal};
use crate::object::{ExtentKey, Object};

/// Forgets what is stored of `path`, a file or a directory relative to the mountpoint; of everything without one.
pub fn drop_path(cache: &Cache, path: Option<&str>) -> Result<Dropped, Refusal> {
    let catalog = cache.catalog();
    let path = path.unwrap_or_default();
    let relative = path.trim_matches('/');
    let ino = match relative {
        "" => Ino::ROOT,
        _ => catalog
            .resolve(relative.as_bytes())
            .ok_or_else(|| Refusal(format!("{path}: the data set has no such file or directory")))?,
    };
    let mut dropped = Dropped::default();
    walk(cache, ino, &mut dropped);
    Ok(dropped)
}

/// Forgets what is stored of the files at and below `top`.
fn walk(cache: &Cache, top: Ino, dropped: &mut Dropped) {
    let mut waiting = vec![top];
    while let Some(ino) = waiting.pop() {
        match cache.catalog().object(ino) {
            Some(object) => forget(cache, ino, &object, dropped),
            // A file replaced meanwhile is not listed either: ESTALE is nothing to do.
            None => {
                let _ = cache.catalog().entries(ino, 0, &mut |entry| {
                    match entry.attributes.kind {
                        NodeKind::Directory => waiting.push(entry.attributes.ino),
                        NodeKind::File => {
                            let ino = entry.attributes.ino;
                            if let Some(object) = cache.catalog().object(ino) {
                                forget(cache, ino, &object, dropped);
                            }
                        }
                    }
                    Walk::Continue
                });
            }
        }
    }
}

fn forget(cache: &Cache, ino: Ino, object: &Object, dropped: &mut Dropped) {
    let extent = |chunk| ExtentKey { object: object.fingerprint, chunk };
    let stored: u64 =
        (0..object.chunks()).filter_map(|chunk| cache.store().contains(&extent(chunk))).map(u64::from).sum();
    if stored > 0 {
        dropped.objects += 1;
        dropped.bytes += stored;
        cache.store().forget(&object.fingerprint, object.chunks());
        cache.journal().note(ino, 0, stored, Deed::Evicted);
        cache.eviction().forget(ino);
    }
}
