//! The same reading without a mount: one GET for each file, straight from the server, nothing cached.

use std::io;
use std::path::Path;

use bytes::Bytes;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::{ObjectStoreExt, path};
use tokio::runtime::{Builder, Runtime};

use crate::bed::s3::{ACCESS_KEY, REGION, SECRET_KEY};

/// A client of the test server, one request at a time.
pub(super) struct DirectReader {
    runtime: Runtime,
    store: Option<AmazonS3>,
}

impl DirectReader {
    pub fn new() -> io::Result<Self> {
        Ok(Self { runtime: Builder::new_current_thread().enable_all().build()?, store: None })
    }

    /// The object at `url`: `http://host:port/bucket/key`.
    pub fn read(&mut self, url: &Path) -> io::Result<Bytes> {
        let url = url.to_string_lossy();
        let mut parts = url.splitn(5, '/');
        let [Some(scheme), Some(""), Some(host), Some(bucket), Some(key)] =
            std::array::from_fn(|_| parts.next())
        else {
            return Err(io::Error::other(format!("{url} is not http://host:port/bucket/key")));
        };
        if self.store.is_none() {
            self.store = Some(client(&format!("{scheme}//{host}"), bucket)?);
        }
        let store = self.store.as_ref().expect("made just now");
        self.runtime.block_on(async {
            let reply = store.get(&path::Path::from(key)).await.map_err(io::Error::other)?;
            reply.bytes().await.map_err(io::Error::other)
        })
    }
}

fn client(endpoint: &str, bucket: &str) -> io::Result<AmazonS3> {
    let store = AmazonS3Builder::new()
        .with_endpoint(endpoint)
        .with_allow_http(true)
        .with_bucket_name(bucket)
        .with_region(REGION)
        .with_access_key_id(ACCESS_KEY)
        .with_secret_access_key(SECRET_KEY)
        .build();
    store.map_err(io::Error::other)
}
