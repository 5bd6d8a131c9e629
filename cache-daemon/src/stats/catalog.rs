//! Figures of the catalog: what the data set is, what of it is hidden, and how it changes.

use std::time::Duration;

use crate::catalog::{Catalog, HiddenReason, ListingReport};
use crate::figures;
use crate::stats::Gauge;

figures! {
    /// The catalog's figures.
    pub struct CatalogFigures("catalog") {
        files: Gauge, "files", "Files that the mount shows.";
        directories: Gauge, "directories", "Directories that the mount shows, the root not counted.";
        bytes: Gauge, "bytes", "Bytes in all files.";
        memory_bytes: Gauge, "bytes", "Memory that the catalog takes, mapped snapshot included.";
        held_versions: Gauge, "versions", "Replaced or removed versions that the kernel still refers to.";
        resting_numbers: Gauge, "numbers", "Inode numbers that are not given out again yet.";
        listings: Counter, "listings", "Listings of the origin, at start and in the background.";
        listing_ms: Gauge, "ms", "How long the last listing took.";
        new_files: Counter, "files", "Files found by a listing that were not there before.";
        changed_files: Counter, "files", "Files found by a listing with another version than before.";
        gone_files: Counter, "files", "Files that a listing no longer found.";
        replaced_files: Counter, "files", "Files whose new version was met by a read before a listing found it.";
        snapshots_saved: Counter, "snapshots", "Snapshots written.";
        snapshots_failed: Counter, "snapshots", "Snapshots that could not be written: the next start lists again.";
        snapshots_rejected: Counter, "snapshots", "Snapshots found corrupt, of another version or data set, and rebuilt.";
        hidden_empty_name: Gauge, "keys", "Keys hidden for an empty name in them (a//b).";
        hidden_dot_name: Gauge, "keys", "Keys hidden for a name . or .. in them.";
        hidden_control_character: Gauge, "keys", "Keys hidden for a control character in them, which cannot be asked for.";
        hidden_name_too_long: Gauge, "keys", "Keys hidden for a name of more than 255 bytes.";
        hidden_object_too_large: Gauge, "keys", "Objects hidden for a size of 4 PiB or more.";
        hidden_beside_directory: Gauge, "keys", "Files hidden by a directory of the same name.";
        hidden_marker_content: Gauge, "keys", "Directory markers (train/) whose bytes are not shown.";
        hidden_listed_twice: Gauge, "keys", "Keys listed more than once, of which the newest is shown.";
        hidden_catalog_full: Gauge, "keys", "Keys for which no number or no room is left.";
    }
}

impl CatalogFigures {
    /// The origin was listed, in `elapsed`, with the result `report`.
    pub fn listed(&self, report: &ListingReport, elapsed: Duration) {
        self.listings.increment();
        self.listing_ms.set(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX));
        self.new_files.add(report.new);
        self.changed_files.add(report.changed);
        self.gone_files.add(report.gone);
        for reason in HiddenReason::ALL {
            self.hidden(reason).set(report.hidden.get(reason));
        }
    }

    /// Sets the levels to those of `catalog` now: before a snapshot of the figures.
    pub fn observe(&self, catalog: &Catalog) {
        self.files.set(catalog.files());
        self.directories.set(catalog.directories());
        self.bytes.set(catalog.bytes());
        self.memory_bytes.set(catalog.memory_bytes());
        let (held, resting) = catalog.retired();
        self.held_versions.set(held);
        self.resting_numbers.set(resting);
    }

    fn hidden(&self, reason: HiddenReason) -> &Gauge {
        match reason {
            HiddenReason::EmptyName => &self.hidden_empty_name,
            HiddenReason::DotName => &self.hidden_dot_name,
            HiddenReason::ControlCharacter => &self.hidden_control_character,
            HiddenReason::NameTooLong => &self.hidden_name_too_long,
            HiddenReason::ObjectTooLarge => &self.hidden_object_too_large,
            HiddenReason::BesideDirectory => &self.hidden_beside_directory,
            HiddenReason::MarkerContent => &self.hidden_marker_content,
            HiddenReason::ListedTwice => &self.hidden_listed_twice,
            HiddenReason::CatalogFull => &self.hidden_catalog_full,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{Builder, Item};
    use crate::object::Etag;

    #[test]
    fn what_is_hidden_is_shown_by_reason() {
        let mut builder = Builder::new("memory:///");
        for key in ["a", "a//b", "c//d", ".."] {
            let modified = std::time::SystemTime::UNIX_EPOCH;
            builder.add(Item { key: key.to_owned(), size_bytes: 3, modified, etag: Etag::new("e") });
        }
        let (catalog, report) = builder.finish(None);
        let figures = CatalogFigures::default();
        figures.listed(&report, Duration::from_millis(7));
        figures.observe(&catalog);
        assert_eq!((figures.files.get(), figures.bytes.get(), figures.new_files.get()), (1, 3, 1));
        assert_eq!((figures.hidden_empty_name.get(), figures.hidden_dot_name.get()), (2, 1));
        assert_eq!((figures.listings.get(), figures.listing_ms.get()), (1, 7));
    }
}
