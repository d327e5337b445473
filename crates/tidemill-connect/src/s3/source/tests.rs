//! Objects of a store in memory as a source: what is opened, in which order, and what is told of those that changed.

use arrow::datatypes::{DataType, Field, Schema};
use object_store::{ObjectStoreExt, memory::InMemory};
use tidemill_stream::source::Connector;

use super::*;

struct Bed {
    store: Arc<InMemory>,
    spec: SourceSpec,
    settings: ObjectSettings,
}

impl Bed {
    fn new(path: &str, follow: bool) -> Self {
        let settings = ObjectSettings {
            path: path.into(),
            format: FileFormat::plain("csv").unwrap(),
            follow,
            list_interval_ms: 1,
            properties: Vec::new(),
            properties_file: None,
        };
        let columns = Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, true)]));
        let spec = SourceSpec::new("shown", columns, Connector::S3(settings.clone()));
        Self { store: Arc::new(InMemory::new()), spec, settings }
    }

    fn put(&self, key: &str, text: &str) {
        let (store, key, text) = (self.store.clone(), Key::parse(key).unwrap(), text.to_string());
        now(async move { store.put(&key, text.into()).await.map(drop) });
    }

    fn delete(&self, key: &str) {
        let (store, key) = (self.store.clone(), Key::parse(key).unwrap());
        now(async move { store.delete(&key).await });
    }

    fn bucket(&self) -> Bucket {
        let wanted = Wanted::parse(&self.settings.path).unwrap();
        let place = Place { bucket: "b".into(), name: "s3://b".into(), endpoint: "memory".into(), said_in: "path" };
        Bucket::of(Client::of(self.store.clone(), place).unwrap(), wanted, &self.settings)
    }

    fn open(&self, known: &[&str]) -> Result<Vec<Opened>> {
        self.bucket().open(&self.spec, &known.iter().map(|name| name.to_string()).collect::<Vec<_>>())
    }
}

fn now(act: impl Future<Output = object_store::Result<()>>) {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(act).unwrap();
}

fn names(opened: &[Opened]) -> Vec<&str> {
    opened.iter().map(|o| o.partition.name()).collect()
}

fn rows(opened: &mut Opened) -> Result<usize> {
    let mut rows = 0;
    while let Read::Chunk(chunk) = opened.partition.read()? {
        rows += chunk.rows.num_rows();
    }
    Ok(rows)
}

#[test]
fn each_object_is_an_ordered_partition_and_a_bounded_source_has_no_other() {
    let bed = Bed::new("s3://b/d/*.csv", false);
    bed.put("d/b.csv", "id\n1\n2\n");
    bed.put("d/a.csv", "id\n3\n");
    let mut opened = bed.open(&[]).unwrap();
    assert_eq!(names(&opened), ["s3://b/d/a.csv", "s3://b/d/b.csv"]);
    assert!(opened.iter().all(|o| o.ordered));
    assert_eq!(opened.iter_mut().map(|o| rows(o).unwrap()).collect::<Vec<_>>(), [1, 2]);
    let print = opened[0].partition.print(None).unwrap();
    assert_eq!(bed.open(&["s3://b/d/a.csv"]).unwrap()[0].partition.print(Some(3)).unwrap(), print);
    bed.put("d/a.csv", "id\n4\n");
    let again = bed.open(&["s3://b/d/a.csv"]).unwrap();
    assert_ne!(again[0].partition.print(Some(3)).unwrap(), print, "as long as before, and another");

    let e = Bed::new("s3://b/none", false).open(&[]).err().unwrap();
    assert_eq!((e.kind(), e.message()), (Kind::NotFound, "no object matches 's3://b/none' at memory"));
}

/// A wrong header is known before anything is read of any object; of those that earlier runs have read nothing is fetched.
#[test]
fn new_objects_are_looked_at_when_the_source_is_opened() {
    let bed = Bed::new("s3://b", false);
    bed.put("a.csv", "id\n1\n");
    bed.put("b.csv", "other\n1\n");
    let e = bed.open(&[]).err().unwrap();
    assert!(e.message().starts_with("s3://b/b.csv: "), "{e}");
    let mut opened = bed.open(&["s3://b/b.csv"]).unwrap();
    assert_eq!(names(&opened), ["s3://b/b.csv", "s3://b/a.csv"]);
    assert!(rows(&mut opened[0]).is_err());
}

#[test]
fn a_followed_source_takes_what_comes_the_oldest_first_and_never_ends() {
    let bed = Bed::new("s3://b", true);
    let mut bucket = bed.bucket();
    let mut opened = bucket.open(&bed.spec, &[]).unwrap();
    assert_eq!(names(&opened), [LISTING_NAME]);
    assert!(!opened[0].ordered && matches!(opened[0].partition.read().unwrap(), Read::Pending));
    assert_eq!(opened[0].partition.trouble().unwrap(), "no object matches 's3://b' yet");
    bed.put("z.csv", "id\n1\n");
    pause(Duration::from_millis(2));
    bed.put("a.csv", "id\n1\n2\n");
    let mut new = Vec::new();
    for _ in 0..2_000 {
        new = bucket.open_new(&bed.spec, &[LISTING_NAME.to_string()]);
        if new.len() == 2 {
            break;
        }
        pause(Duration::from_millis(5));
    }
    assert_eq!(names(&new), ["s3://b/z.csv", "s3://b/a.csv"]);
    assert!(new.iter().all(|o| o.ordered && o.partition.comes_late()) && opened[0].partition.trouble().is_none());
    assert_eq!(new.iter_mut().map(|o| rows(o).unwrap()).collect::<Vec<_>>(), [1, 2]);
    let known = ["s3://b/z.csv", "s3://b/a.csv"].map(str::to_string);
    assert!(bucket.open_new(&bed.spec, &known).is_empty());

    // At most so many at once: the rest waits for its turn.
    (0..OPEN_MAX + 10).for_each(|i| bed.put(&format!("n/{i}.csv"), "id\n1\n"));
    let opened = bed.open(&[LISTING_NAME, "s3://b/z.csv"]).unwrap();
    assert_eq!(opened.len(), 2 + OPEN_MAX);
}

/// Replaced while it is read, or gone: named, and said what to do.
#[test]
fn an_object_that_changes_under_the_reader_is_a_conflict() {
    let text: String = (0..100_000).map(|i| format!("{i}\n")).collect();
    let bed = Bed::new("s3://b/a.csv", false);
    bed.put("a.csv", &format!("id\n{text}"));
    let read_one = || {
        let mut opened = bed.open(&[]).unwrap();
        assert!(matches!(opened[0].partition.read().unwrap(), Read::Chunk(_)));
        opened
    };
    let mut opened = read_one();
    bed.put("a.csv", &format!("id\n{text}7\n"));
    let e = rows(&mut opened[0]).unwrap_err();
    assert_eq!(e.kind(), Kind::Conflict);
    assert!(
        e.message().starts_with("s3://b/a.csv: the object was replaced while it was read; put the one back"),
        "{e}"
    );

    let mut opened = read_one();
    bed.delete("a.csv");
    let e = rows(&mut opened[0]).unwrap_err();
    assert_eq!(e.kind(), Kind::Conflict);
    assert!(
        e.message().contains("the object is no longer there, and its rows from") && e.message().contains("put it back"),
        "{e}"
    );

    let mut opened = bed.open(&["s3://b/a.csv"]).unwrap();
    assert!(opened[0].partition.is_gone());
    assert!(rows(&mut opened[0]).is_err(), "of a bounded source it is missed at once");
}
