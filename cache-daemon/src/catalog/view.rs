//! A view: a base and what lies over it, read as one tree.

use fuse_frontend::source::{Attributes, Ino, NodeKind};
use zerocopy::little_endian::U32;

use super::base::{Base, ROOT};
use super::overlay::{OverNode, Overlay, Standing};
use super::time::from_ns;
use super::version::Version;
use crate::object::{Etag, Fingerprint, Object, ObjectKey};

/// A base and its overlay.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub base: &'a Base,
    pub overlay: &'a Overlay,
}

/// A node as seen: live or held.
#[derive(Clone, Copy)]
pub(super) struct Node<'a> {
    pub number: u32,
    pub parent: u32,
    pub name: &'a [u8],
    pub kind: NodeKind,
    pub size_bytes: u64,
    pub modified_ns: i64,
    pub version: Version<'a>,
    /// Children in the base: go through [`View::current`].
    pub children: &'a [U32],
    pub subdirectories: u32,
    /// The key that it had, if it lost its name.
    pub lost_key: Option<&'a ObjectKey>,
}

impl<'a> View<'a> {
    /// The node at `number`; `None` if it is not in use.
    pub fn node(self, number: u32) -> Option<Node<'a>> {
        match self.overlay.nodes.get(&number) {
            Some(node) => over_node(number, node),
            None => self.base_node(number),
        }
    }

    fn base_node(self, number: u32) -> Option<Node<'a>> {
        let record = self.base.record(number)?;
        let kind = record.kind()?;
        let (children, subdirectories, version) = match kind {
            NodeKind::Directory => {
                (&self.base.children()[record.children()], record.subdirectories(), Version::Text(""))
            }
            NodeKind::File => (&[][..], 0, record.version.read(self.base.etags())?),
        };
        Some(Node {
            number,
            parent: record.parent.get(),
            name: self.base.name(record),
            kind,
            size_bytes: record.size_bytes.get(),
            modified_ns: record.modified_ns.get(),
            version,
            children,
            subdirectories,
            lost_key: None,
        })
    }

    /// The node that has the name of the base's child `child` now.
    pub fn current(self, child: U32) -> u32 {
        self.overlay.moved.get(&child.get()).copied().unwrap_or(child.get())
    }

    /// The name of the base's child `child`, whoever has it now.
    pub fn child_name(self, child: U32) -> &'a [u8] {
        self.base.record(child.get()).map_or(&[], |record| self.base.name(record))
    }

    /// The node that `name` in `dir` names.
    pub fn child(self, dir: &Node<'a>, name: &[u8]) -> Option<u32> {
        let place = dir.children.binary_search_by(|&child| self.child_name(child).cmp(name)).ok()?;
        Some(self.current(dir.children[place]))
    }

    /// The name in `dir` at which a walk stopped that is told to go on after `number`: the name that the
    /// number has there, or had until now.
    pub fn name_of_position(self, dir: u32, number: u32) -> Option<&'a [u8]> {
        let (parent, name) = match self.overlay.nodes.get(&number) {
            Some(node) => (node.parent, &*node.name),
            None => self.base.record(number).map(|record| (record.parent.get(), self.base.name(record)))?,
        };
        (parent == dir).then_some(name)
    }

    /// The path from the root to `node`, without a slash before it: its key.
    pub fn path(self, node: &Node<'_>) -> Vec<u8> {
        if let Some(key) = node.lost_key {
            return key.as_str().as_bytes().to_vec();
        }
        let mut names = Vec::with_capacity(8);
        let mut above = node.parent;
        while above != ROOT {
            // Directories above a node with a name are in the base: they are never replaced.
            let Some(record) = self.base.record(above) else { break };
            names.push(self.base.name(record));
            above = record.parent.get();
        }
        let mut path = Vec::with_capacity(64);
        for name in names.into_iter().rev() {
            path.extend_from_slice(name);
            path.push(b'/');
        }
        path.extend_from_slice(node.name);
        path
    }

    /// The key of `node`.
    pub fn key(self, node: &Node<'_>) -> ObjectKey {
        match node.lost_key {
            Some(key) => key.clone(),
            None => ObjectKey::new(String::from_utf8(self.path(node)).expect("names are UTF-8, see base.rs")),
        }
    }

    /// What `node` becomes once its name is another's.
    pub fn retired(self, node: &Node<'_>) -> OverNode {
        OverNode {
            parent: node.parent,
            name: node.name.into(),
            kind: node.kind,
            size_bytes: node.size_bytes,
            modified_ns: node.modified_ns,
            etag: Etag::new(node.version.to_string()),
            standing: Standing::Held { key: self.key(node) },
        }
    }

    /// Calls `visit` for each live file, with its key, in the tree's order.
    pub fn for_each_file(self, visit: &mut dyn FnMut(&Node<'a>, &str)) {
        let mut path = String::new();
        // Nodes to come, each with the length of its directory's path.
        let mut ahead = vec![(ROOT, 0)];
        while let Some((number, above_bytes)) = ahead.pop() {
            let Some(node) = self.node(number) else { continue };
            path.truncate(above_bytes);
            path.push_str(std::str::from_utf8(node.name).expect("names are UTF-8, see base.rs"));
            match node.kind {
                NodeKind::File => visit(&node, &path),
                NodeKind::Directory => {
                    if number != ROOT {
                        path.push('/');
                    }
                    let children = node.children.iter().rev();
                    ahead.extend(children.map(|&child| (self.current(child), path.len())));
                }
            }
        }
    }
}

fn over_node(number: u32, node: &OverNode) -> Option<Node<'_>> {
    let lost_key = match &node.standing {
        Standing::Live { .. } => None,
        Standing::Held { key } => Some(key),
        Standing::Resting => return None,
    };
    Some(Node {
        number,
        parent: node.parent,
        name: &node.name,
        kind: node.kind,
        size_bytes: node.size_bytes,
        modified_ns: node.modified_ns,
        version: Version::of(node.etag.as_str()),
        children: &[],
        subdirectories: 0,
        lost_key,
    })
}

impl Node<'_> {
    /// What stat(2) tells.
    pub fn attributes(&self) -> Attributes {
        let links = match self.kind {
            NodeKind::File => 1,
            NodeKind::Directory => 2 + self.subdirectories,
        };
        Attributes {
            ino: Ino(u64::from(self.number)),
            kind: self.kind,
            size_bytes: self.size_bytes,
            modified: from_ns(self.modified_ns),
            links,
        }
    }

    /// The version that a file is, given its key.
    pub fn object(&self, origin_url: &str, key: ObjectKey) -> Object {
        let etag = Etag::new(self.version.to_string());
        let fingerprint = Fingerprint::of(origin_url, key.as_str(), etag.as_str(), self.size_bytes);
        Object { key, etag, size_bytes: self.size_bytes, fingerprint }
    }
}
