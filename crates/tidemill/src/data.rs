//! Where a command keeps or finds its state: a directory, or a bucket of an S3-compatible store with a directory in front.
//!
//! In: what stands behind `--data-dir`. Out: a directory to work in. Of a bucket it is scratch: made for this process, filled from
//! the bucket, and removed at the end; what is in it and was not made durable in the bucket is lost with it, as it is with the
//! machine. Credentials come from the environment, and are told to nobody.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::Read,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use tidemill_base::{
    Error, Result,
    store::{
        bucket::{Bucket, Listener},
        disk::Standing,
        objects::Objects,
    },
};
use tidemill_connect::Connections;

/// Names of scratch directories begin so.
const SCRATCH: &str = "tidemill-scratch-";
/// Held by the process that a scratch directory is of.
const IN_USE: &str = "in-use";

/// A directory to work in, and what keeps its files.
pub struct Data {
    root: PathBuf,
    bucket: Option<Bucket>,
    // Behind the bucket: it is filled from there until the end.
    _standing: Option<Standing>,
    _scratch: Option<Scratch>,
}

impl Data {
    /// Where files lie.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The bucket that keeps them, if one does.
    pub fn bucket(&self) -> Option<&Bucket> {
        self.bucket.as_ref()
    }

    /// Takes `place` over, a directory or the address of a bucket, to change it. Of a bucket whoever owned it before is
    /// replaced at once; `scratch` says where its files are worked with.
    pub fn own(place: &Path, scratch: Option<&Path>, listener: Listener) -> Result<Self> {
        let Some(url) = address(place) else { return Ok(Self::directory(place)) };
        let objects = open(url)?;
        let scratch = Scratch::new(scratch)?;
        let root = scratch.make_data()?;
        let bucket = Bucket::own(objects.into(), &root, &who(), listener)?;
        Ok(Self { root, bucket: Some(bucket), _standing: None, _scratch: Some(scratch) })
    }

    /// Reads `place`, whoever owns it. Of a bucket the files come that are wanted, the others are there and empty.
    pub fn read(place: &Path, scratch: Option<&Path>, is_wanted: &(dyn Fn(&str) -> bool + Sync)) -> Result<Self> {
        let Some(url) = address(place) else { return Ok(Self::directory(place)) };
        let objects = open(url)?;
        let scratch = Scratch::new(scratch)?;
        let root = scratch.make_data()?;
        let standing = Bucket::read(&*objects, &root, is_wanted)?;
        Ok(Self { root, bucket: None, _standing: Some(standing), _scratch: Some(scratch) })
    }

    fn directory(place: &Path) -> Self {
        Self { root: place.to_path_buf(), bucket: None, _standing: None, _scratch: None }
    }
}

/// Connections to the servers of sources, whose clients may take settings from the environment.
pub fn connections() -> Connections {
    Connections::within(environment())
}

/// The environment's variables that are text.
fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

/// The address of a store, where `place` is one.
pub fn address(place: &Path) -> Option<&str> {
    place.to_str().filter(|text| text.contains("://"))
}

#[cfg(feature = "s3")]
fn open(url: &str) -> Result<Box<dyn Objects>> {
    Ok(Box::new(tidemill_connect::s3::S3::open(url, environment())?))
}

#[cfg(not(feature = "s3"))]
fn open(url: &str) -> Result<Box<dyn Objects>> {
    Err(Error::invalid(format!("'{url}': this program was built without stores; use a directory, or build it with s3")))
}

/// This process, as the next owner of a bucket tells it to people; no two are alike.
fn who() -> String {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let mut nonce = [0; 4];
    let _ = File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut nonce));
    format!("pid {} on {}, {:08x}", std::process::id(), host.trim(), u32::from_le_bytes(nonce))
}

/// A directory of this process, for nobody else to look into; removed when it is dropped.
struct Scratch {
    dir: PathBuf,
    _in_use: File,
}

impl Scratch {
    /// Makes one, and removes those of processes that were killed.
    fn new(parent: Option<&Path>) -> Result<Self> {
        let parent = parent.map_or_else(std::env::temp_dir, Path::to_path_buf);
        fs::create_dir_all(&parent).map_err(|e| Error::io("create", &parent, e))?;
        sweep(&parent);
        for n in 0.. {
            let dir = parent.join(format!("{SCRATCH}{}-{n}", std::process::id()));
            match DirBuilder::new().mode(0o700).create(&dir) {
                Ok(()) => {}
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => continue,
                Err(e) => return Err(Error::io("create", &dir, e)),
            }
            let path = dir.join(IN_USE);
            let in_use = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
            let in_use = in_use.and_then(|file| file.lock().map(|()| file)).map_err(|e| Error::io("lock", &path, e))?;
            return Ok(Self { dir, _in_use: in_use });
        }
        unreachable!("numbers do not end")
    }

    fn make_data(&self) -> Result<PathBuf> {
        let data = self.dir.join("data");
        fs::create_dir(&data).map_err(|e| Error::io("create", &data, e))?;
        Ok(data)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// A lock that nobody holds is of a process that is gone.
fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let is_ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(SCRATCH));
        let left =
            || OpenOptions::new().write(true).open(entry.path().join(IN_USE)).is_ok_and(|f| f.try_lock().is_ok());
        if is_ours && left() {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_directory_unless_it_is_an_address() {
        assert_eq!(address(Path::new("s3://b/x")), Some("s3://b/x"));
        assert_eq!(address(Path::new("./data")), None);
        let e = Data::own(Path::new("ftp://b/x"), None, Box::new(|_| ())).err().unwrap();
        assert!(e.message().contains("s3://BUCKET"), "{e}");
    }

    /// What a killed process has left goes with the next start; what is in use stays.
    #[test]
    fn scratch_of_killed_processes_is_swept_away() {
        let parent = std::env::temp_dir().join(format!("tidemill-scratches-{}", std::process::id()));
        let _ = fs::remove_dir_all(&parent);
        let first = Scratch::new(Some(&parent)).unwrap();
        let left = parent.join(format!("{SCRATCH}1-0"));
        fs::create_dir_all(left.join("data")).unwrap();
        File::create(left.join(IN_USE)).unwrap();
        fs::create_dir_all(parent.join("somebody-elses")).unwrap();
        let second = Scratch::new(Some(&parent)).unwrap();
        assert!(!left.exists() && first.dir.exists() && second.dir.exists());
        assert!(parent.join("somebody-elses").exists());
        drop((first, second));
        assert_eq!(fs::read_dir(&parent).unwrap().count(), 1);
        fs::remove_dir_all(parent).unwrap();
    }
}
