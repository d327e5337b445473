//! An S3-compatible store, as whole objects whose calls wait for their answer.
//!
//! In: `s3://BUCKET/PREFIX` and settings as AWS's own tools take them from the environment (`AWS_ACCESS_KEY_ID`,
//! `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`, `AWS_REGION`, `AWS_ENDPOINT_URL`). Out: [`Objects`]. The client and its threads
//! stay inside. An error says what the server said in a sentence; keys are in none. Objects as partitions of a source are in
//! `s3/source.rs`, over the same client.

mod listing;
pub(crate) mod source;

use std::{error::Error as _, future::Future, io::Write, path::Path, str::FromStr, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use object_store::{
    ClientOptions, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, RetryConfig, WriteMultipart,
    aws::{AmazonS3Builder, AmazonS3ConfigKey},
    path::Path as Key,
};
use tidemill_base::{
    Error, Kind, Result,
    store::objects::{Objects, Range},
};
use tokio::runtime::Runtime;

/// One request, its answer included. A part of [`PART_BYTES`] has to be through by then.
const ANSWER: Duration = Duration::from_secs(30);
const CONNECTION: Duration = Duration::from_secs(5);
/// How long the client tries by itself; then it is told that the store is away, and asked again from above.
const TRIES: Duration = Duration::from_secs(5);
/// What is larger goes in parts of this size.
const PART_BYTES: usize = 8 << 20;
/// Parts on their way at once.
const PARTS_AT_ONCE: usize = 4;
/// Objects read at once, of those that are read together.
const READ_AT_ONCE: usize = 16;
/// Pieces of a file that wait for the network.
const PIECES_AHEAD: usize = 4;

/// A bucket, or what is below a prefix of one.
pub struct S3 {
    client: Client,
    prefix: String,
}

/// One bucket's client and its threads.
pub(crate) struct Client {
    store: Arc<dyn ObjectStore>,
    runtime: Runtime,
    place: Arc<Place>,
}

/// What errors tell of where a bucket is.
pub(crate) struct Place {
    bucket: String,
    /// As people wrote it: the bucket and what is below it.
    name: String,
    endpoint: String,
    /// What is to be looked at where the bucket is not there.
    said_in: &'static str,
}

impl S3 {
    /// Opens `s3://BUCKET` or `s3://BUCKET/PREFIX`. Of `environment` the variables that begin with `AWS_` count. Nothing is
    /// asked of the server yet.
    pub fn open(url: &str, environment: impl IntoIterator<Item = (String, String)>) -> Result<Self> {
        let (bucket, prefix) = parse(url)?;
        let name = match prefix.is_empty() {
            true => format!("s3://{bucket}"),
            false => format!("s3://{bucket}/{prefix}"),
        };
        Ok(Self { client: Client::open(&bucket, name, "--data-dir", environment)?, prefix })
    }

    fn key(&self, key: &str) -> Key {
        Key::from(match self.prefix.is_empty() {
            true => key.to_string(),
            false => format!("{}/{key}", self.prefix),
        })
    }
}

impl Client {
    /// A client of a bucket. Nothing is asked of the server yet.
    fn open(
        bucket: &str,
        name: String,
        said_in: &'static str,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self> {
        let retry = RetryConfig { max_retries: 2, retry_timeout: TRIES, ..RetryConfig::default() };
        let client = ClientOptions::new().with_timeout(ANSWER).with_connect_timeout(CONNECTION);
        let mut builder = AmazonS3Builder::new().with_region("us-east-1").with_retry(retry).with_client_options(client);
        let mut endpoint = "AWS".to_string();
        for (name, value) in environment {
            let Ok(key) = AmazonS3ConfigKey::from_str(&name.to_ascii_lowercase()) else { continue };
            if !name.starts_with("AWS_") || value.is_empty() {
                continue;
            }
            if matches!(key, AmazonS3ConfigKey::Endpoint | AmazonS3ConfigKey::S3Endpoint) {
                // Who says http:// means it.
                builder = builder.with_allow_http(value.starts_with("http://"));
                endpoint.clone_from(&value);
            }
            builder = builder.with_config(key, value);
        }
        let store = builder.with_bucket_name(bucket).build();
        let store = store.map_err(|e| Error::invalid(format!("{name}: {}", words(&e))))?;
        let place = Place { bucket: bucket.to_string(), name, endpoint, said_in };
        Self::of(Arc::new(store), place)
    }

    fn of(store: Arc<dyn ObjectStore>, place: Place) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("s3")
            .enable_all()
            .build()
            .map_err(|e| Error::unavailable(format!("{}: cannot start its threads: {e}", place.name)))?;
        Ok(Self { store, runtime, place: Arc::new(place) })
    }

    /// Runs something on the client's threads and waits for it.
    fn wait<T: Send + 'static>(
        &self,
        what: &str,
        act: impl Future<Output = object_store::Result<T>> + Send + 'static,
    ) -> Result<T> {
        let (done, is_done) = std::sync::mpsc::sync_channel(1);
        self.runtime.spawn(async move {
            let _ = done.send(act.await);
        });
        let done = is_done.recv().map_err(|_| Error::internal("a request to the store ended without an answer"))?;
        done.map_err(|e| self.place.error(what, &e))
    }
}

impl Place {
    /// What a failure means to whoever asked.
    fn error(&self, what: &str, e: &object_store::Error) -> Error {
        let (name, words) = (&self.name, words(e));
        let has = |code: &str| words.contains(code);
        match e {
            object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. } => {
                Error::conflict(format!("{name}: {what}: there is one already"))
            }
            _ if has("NoSuchBucket") => Error::invalid(format!(
                "{name}: there is no bucket '{}' at {}; create it, or see to {} and AWS_ENDPOINT_URL",
                self.bucket, self.endpoint, self.said_in
            )),
            object_store::Error::NotFound { .. } => Error::not_found(format!("{name}: {what}: there is none")),
            _ if has("169.254.") => Error::invalid(format!(
                "{name}: no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN where \
                 there is one)"
            )),
            object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
                Error::invalid(format!(
                    "{name}: {what}: refused: {words}; see to the credentials in AWS_ACCESS_KEY_ID \
                    and AWS_SECRET_ACCESS_KEY, and to what they may do there"
                ))
            }
            _ if ["InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied", "ExpiredToken", "InvalidToken"]
                .into_iter()
                .any(has) =>
            {
                Error::invalid(format!(
                    "{name}: {what}: refused: {words}; see to the credentials in AWS_ACCESS_KEY_ID \
                    and AWS_SECRET_ACCESS_KEY, and to what they may do there"
                ))
            }
            object_store::Error::InvalidPath { .. } => Error::invalid(format!("{name}: {what}: {words}")),
            object_store::Error::NotImplemented { .. } | object_store::Error::NotSupported { .. } => {
                Error::invalid(format!("{name}: {what}: the store cannot do it: {words}"))
            }
            _ => Error::unavailable(format!("{name}: {what}: {words}")),
        }
    }
}

/// A hold of the store, named so that the compiler sees no lifetime in it.
struct Held(Arc<dyn ObjectStore>);

/// All of an object.
async fn whole((store, from): (Held, Key)) -> object_store::Result<Vec<u8>> {
    Ok(store.0.get(&from).await?.bytes().await?.to_vec())
}

/// What went wrong, without what the client tells of itself: of an answer in XML its code and sentence, else the cause.
fn words(e: &object_store::Error) -> String {
    let mut text = e.to_string();
    let mut cause = e.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    let tag = |name: &str| {
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        Some(rest.split_once("</")?.0.to_string())
    };
    match (tag("Code"), tag("Message")) {
        (Some(code), Some(told)) => format!("{code}: {told}"),
        (Some(code), None) => code,
        _ => text,
    }
}

fn parse(url: &str) -> Result<(String, String)> {
    let bad = |why: &str| Error::invalid(format!("'{url}': {why}; write s3://BUCKET or s3://BUCKET/PREFIX"));
    let rest = url.strip_prefix("s3://").ok_or_else(|| bad("only s3:// is supported"))?;
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let is_good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    if bucket.contains('@') {
        return Err(Error::invalid(
            "credentials do not belong into the address of a store; set AWS_ACCESS_KEY_ID and \
             AWS_SECRET_ACCESS_KEY",
        ));
    }
    if bucket.is_empty() || !bucket.chars().all(is_good) {
        return Err(bad("the bucket's name may hold letters, digits, '-', '.', '_'"));
    }
    let prefix = prefix.trim_end_matches('/');
    let is_part = |part: &str| !part.is_empty() && !matches!(part, "." | "..") && part.chars().all(is_good);
    if !prefix.is_empty() && !prefix.split('/').all(is_part) {
        return Err(bad("the prefix may hold letters, digits, '-', '.', '_', and '/' between names"));
    }
    Ok((bucket.to_string(), prefix.to_string()))
}

impl Objects for S3 {
    fn name(&self) -> String {
        self.client.place.name.clone()
    }

    fn put_if_absent(&self, key: &str, bytes: &[u8]) -> Result<()> {
        let (store, to, bytes) = (self.client.store.clone(), self.key(key), Bytes::copy_from_slice(bytes));
        let put = async move {
            store.put_opts(&to, PutPayload::from_bytes(bytes), PutOptions::from(PutMode::Create)).await.map(drop)
        };
        self.client.wait(&format!("put {key}"), put)
    }

    fn put_file(&self, key: &str, path: &Path, range: Range) -> Result<()> {
        let (store, to, what) = (self.client.store.clone(), self.key(key), format!("put {key}"));
        if range.bytes <= PART_BYTES as u64 {
            let mut bytes = Vec::with_capacity(range.bytes as usize);
            range.read(path, |some| {
                bytes.extend_from_slice(some);
                Ok(())
            })?;
            return self.client.wait(&what, async move { store.put(&to, PutPayload::from(bytes)).await.map(drop) });
        }
        let (pieces, mut inbox) = tokio::sync::mpsc::channel::<Bytes>(PIECES_AHEAD);
        let expected = range.bytes;
        let put = async move {
            let mut upload = WriteMultipart::new_with_chunk_size(store.put_multipart(&to).await?, PART_BYTES);
            let (mut came, mut failed) = (0, None);
            while let Some(piece) = inbox.recv().await {
                came += piece.len() as u64;
                upload.put(piece);
                if let Err(e) = upload.wait_for_capacity(PARTS_AT_ONCE).await {
                    failed = Some(e);
                    break;
                }
            }
            // Nothing of it may be seen where the file could not be read to its end: the reader tells why.
            if failed.is_some() || came != expected {
                let _ = upload.abort().await;
                return failed.map_or(Ok(false), Err);
            }
            upload.finish().await.map(|_| true)
        };
        let (done, is_done) = std::sync::mpsc::sync_channel(1);
        self.client.runtime.spawn(async move {
            let _ = done.send(put.await);
        });
        let read = range.read(path, |some| {
            // Who takes no more says why below.
            pieces.blocking_send(Bytes::copy_from_slice(some)).map_err(|_| Error::unavailable("broken off"))
        });
        drop(pieces);
        let done = is_done.recv().map_err(|_| Error::internal("an upload ended without an answer"))?;
        match done.map_err(|e| self.client.place.error(&what, &e))? {
            true => Ok(()),
            false => read.and(Err(Error::internal("an upload was broken off"))),
        }
    }

    fn get(&self, key: &str) -> Result<Vec<u8>> {
        let (store, from) = (self.client.store.clone(), self.key(key));
        self.client.wait(&format!("get {key}"), async move { Ok(store.get(&from).await?.bytes().await?.to_vec()) })
    }

    fn get_all(&self, keys: &[String]) -> Result<Vec<Vec<u8>>> {
        let gets: Vec<_> = keys.iter().map(|key| (Held(self.client.store.clone()), self.key(key))).collect();
        let what = format!("get {} and others", keys.first().map_or("nothing", String::as_str));
        self.client.wait(&what, async move {
            let got: Vec<object_store::Result<Vec<u8>>> =
                stream::iter(gets).map(whole).buffered(READ_AT_ONCE).collect().await;
            got.into_iter().collect()
        })
    }

    fn get_into(&self, key: &str, out: &mut dyn Write) -> Result<()> {
        let (store, from, what) = (self.client.store.clone(), self.key(key), format!("get {key}"));
        let (pieces, inbox) = std::sync::mpsc::sync_channel::<object_store::Result<Bytes>>(PIECES_AHEAD);
        self.client.runtime.spawn(async move {
            let mut came = match store.get(&from).await {
                Ok(got) => got.into_stream(),
                Err(e) => {
                    let _ = pieces.send(Err(e));
                    return;
                }
            };
            while let Some(piece) = came.next().await {
                let pieces = pieces.clone();
                // Waits where the disk is slower than the network.
                let sent = tokio::task::spawn_blocking(move || pieces.send(piece).is_ok()).await;
                if !sent.unwrap_or(false) {
                    return;
                }
            }
        });
        for piece in inbox {
            let piece = piece.map_err(|e| self.client.place.error(&what, &e))?;
            out.write_all(&piece).map_err(|e| Error::new(Kind::Exhausted, format!("{what}: write: {e}")))?;
        }
        Ok(())
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>> {
        let (store, below) = (self.client.store.clone(), self.key(prefix.trim_end_matches('/')));
        let listed = async move {
            let all: Vec<object_store::Result<String>> =
                store.list(Some(&below)).map(|meta| meta.map(|m| m.location.to_string())).collect().await;
            all.into_iter().collect::<object_store::Result<Vec<String>>>()
        };
        let mut keys = self.client.wait(&format!("list {prefix}"), listed)?;
        if !self.prefix.is_empty() {
            let root = format!("{}/", self.prefix);
            keys = keys.iter().filter_map(|key| key.strip_prefix(&root)).map(str::to_string).collect();
        }
        keys.sort_unstable();
        Ok(keys)
    }

    fn delete(&self, keys: &[String]) -> Result<()> {
        if keys.is_empty() {
            return Ok(());
        }
        let (store, all): (_, Vec<_>) = (self.client.store.clone(), keys.iter().map(|key| Ok(self.key(key))).collect());
        let delete = async move {
            let mut deleted = store.delete_stream(stream::iter(all).boxed());
            while let Some(one) = deleted.next().await {
                match one {
                    Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
                    Err(e) => return Err(e),
                }
            }
            Ok(())
        };
        self.client.wait(&format!("delete {} objects", keys.len()), delete)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_names_a_bucket_and_perhaps_a_prefix() {
        let parsed = |url| parse(url).map(|(bucket, prefix)| format!("{bucket} {prefix}"));
        assert_eq!(parsed("s3://b").unwrap(), "b ");
        assert_eq!(parsed("s3://my-bucket/team/ctr/").unwrap(), "my-bucket team/ctr");
        for (url, why) in [
            ("gs://b/x", "only s3:// is supported"),
            ("s3://", "the bucket's name"),
            ("s3:///x", "the bucket's name"),
            ("s3://b/../x", "the prefix"),
            ("s3://b//x", "the prefix"),
            ("s3://b/x?y", "the prefix"),
        ] {
            let e = parsed(url).unwrap_err();
            assert!(e.message().contains(why) && e.message().contains("s3://BUCKET/PREFIX"), "{url}: {e}");
        }
        // A secret in an address is not said again.
        let e = parsed("s3://key:hush@b/x").unwrap_err();
        assert!(e.message().contains("do not belong") && !e.message().contains("hush"), "{e}");
    }

    /// Nothing listens there: said in one sentence, and soon.
    #[test]
    fn a_server_that_is_not_there_is_unavailable_and_no_key_is_told() {
        let environment = [
            ("AWS_ENDPOINT_URL", "http://127.0.0.1:1"),
            ("AWS_ACCESS_KEY_ID", "known"),
            ("AWS_SECRET_ACCESS_KEY", "hush"),
        ];
        let s3 = S3::open("s3://b/x", environment.map(|(name, value)| (name.into(), value.into()))).unwrap();
        let e = s3.get("commits/1").unwrap_err();
        assert_eq!(e.kind(), Kind::Unavailable, "{e}");
        assert!(e.message().starts_with("s3://b/x: get commits/1: ") && !e.message().contains("hush"), "{e}");
    }
}
