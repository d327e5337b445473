//! A broker that keeps transactions, as far as one producer each needs it: a proxy before the client's mock cluster, which
//! shows every event as soon as it is produced.
//!
//! In: the client's connections. Out: the mock behind them, which gets the events of a transaction when it is committed, all
//! at once, and never those of one that is not: of a producer that was killed, whose successor asks for a producer's number
//! under the same `transactional.id`. So a reader of the mock sees what `read_committed` shows.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
};

/// Kafka's numbers of requests.
const PRODUCE: i16 = 0;
const METADATA: i16 = 3;
const FIND_COORDINATOR: i16 = 10;
const API_VERSIONS: i16 = 18;
const INIT_PRODUCER_ID: i16 = 22;
const END_TXN: i16 = 26;
/// Newer versions of a request to produce are written in another way.
const PRODUCE_VERSION_MAX: i16 = 7;

/// A producer's number and epoch.
type Producer = (i64, i16);

#[derive(Default)]
struct Transaction {
    producer: Option<Producer>,
    /// Requests to produce that wait for its end.
    requests: Vec<Vec<u8>>,
}

type Transactions = Arc<Mutex<BTreeMap<String, Transaction>>>;

/// Listens before the broker at `upstream` (`host:port`), and answers where.
pub fn before(upstream: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let ours = listener.local_addr().unwrap();
    let upstream = upstream.to_string();
    let transactions = Transactions::default();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let (upstream, transactions) = (upstream.clone(), transactions.clone());
            // A connection that ends is no fault: its process was killed.
            std::thread::spawn(move || Connection::new(client, &upstream, ours.port(), transactions)?.serve());
        }
    });
    ours.to_string()
}

struct Connection {
    client: TcpStream,
    broker: TcpStream,
    /// The broker's name and port as they stand in its answers, and ours of the same length.
    place: (Vec<u8>, Vec<u8>),
    transactions: Transactions,
}

impl Connection {
    fn new(client: TcpStream, upstream: &str, port: u16, transactions: Transactions) -> io::Result<Self> {
        let (host, theirs) = upstream.rsplit_once(':').unwrap();
        let with = |port: u16| [host.as_bytes(), &u32::from(port).to_be_bytes()].concat();
        let place = (with(theirs.parse().unwrap()), with(port));
        client.set_nodelay(true)?;
        Ok(Self { client, broker: TcpStream::connect(upstream)?, place, transactions })
    }

    fn serve(mut self) -> io::Result<()> {
        loop {
            let request = read_frame(&mut self.client)?;
            let mut r = Reader { bytes: &request, at: 0 };
            let (key, version, _) = (r.i16(), r.i16(), r.i32());
            let reply = match key {
                PRODUCE => self.produce(&request)?,
                INIT_PRODUCER_ID => self.init_producer(&request, version)?,
                END_TXN => self.end(&request, version)?,
                API_VERSIONS => {
                    let mut reply = self.ask(&request)?;
                    cap_produce(&mut reply, version);
                    reply
                }
                METADATA | FIND_COORDINATOR => {
                    let mut reply = self.ask(&request)?;
                    let (theirs, ours) = &self.place;
                    for at in 0..reply.len().saturating_sub(theirs.len() - 1) {
                        if reply[at..].starts_with(theirs) {
                            reply[at..at + ours.len()].copy_from_slice(ours);
                        }
                    }
                    reply
                }
                _ => self.ask(&request)?,
            };
            write_frame(&mut self.client, &reply)?;
        }
    }

    fn ask(&mut self, request: &[u8]) -> io::Result<Vec<u8>> {
        write_frame(&mut self.broker, request)?;
        read_frame(&mut self.broker)
    }

    /// Keeps the events of a transaction, and says that they are there.
    fn produce(&mut self, request: &[u8]) -> io::Result<Vec<u8>> {
        let mut r = Reader { bytes: request, at: 2 };
        let (version, correlation) = (r.i16(), r.i32());
        r.text();
        let Some(id) = r.text() else { return self.ask(request) };
        r.skip(6);
        let mut reply = correlation.to_be_bytes().to_vec();
        let topics = r.i32();
        reply.extend(topics.to_be_bytes());
        let mut producer = None;
        for _ in 0..topics {
            let name = r.text().unwrap();
            reply.extend((name.len() as i16).to_be_bytes());
            reply.extend(name.as_bytes());
            let partitions = r.i32();
            reply.extend(partitions.to_be_bytes());
            for _ in 0..partitions {
                reply.extend(r.i32().to_be_bytes());
                let length = r.i32() as usize;
                // Where the number and epoch of the producer stand in a batch of events.
                let mut of_batch = Reader { bytes: r.bytes, at: r.at + 43 };
                producer = Some((of_batch.i64(), of_batch.i16()));
                r.skip(length);
                // No error, from offset 0, at no time, and the log begins with offset 0.
                reply.extend([0; 2]);
                reply.extend([0; 8]);
                reply.extend((-1i64).to_be_bytes());
                reply.extend(&[0; 8][..if version >= 5 { 8 } else { 0 }]);
            }
        }
        reply.extend([0; 4]);
        let mut transactions = self.transactions.lock().unwrap();
        let transaction = transactions.entry(id).or_default();
        if transaction.producer != producer {
            return Err(io::Error::other("a producer that another one has taken the place of"));
        }
        transaction.requests.push(request.to_vec());
        Ok(reply)
    }

    /// A new producer: what an earlier one of its name has begun is given up.
    fn init_producer(&mut self, request: &[u8], version: i16) -> io::Result<Vec<u8>> {
        let mut r = Reader { bytes: request, at: 8 };
        r.text();
        let id = if version >= 2 { r.skip(1).compact_text() } else { r.text() };
        let transactions = self.transactions.clone();
        // While it is held no transaction comes to its end.
        let mut transactions = transactions.lock().unwrap();
        let reply = self.ask(request)?;
        let mut r = Reader { bytes: &reply, at: if version >= 2 { 5 } else { 4 } };
        let (_, error, producer) = (r.i32(), r.i16(), (r.i64(), r.i16()));
        if let Some(id) = id.filter(|_| error == 0) {
            transactions.insert(id, Transaction { producer: Some(producer), requests: Vec::new() });
        }
        Ok(reply)
    }

    /// The end of a transaction: its events are handed on, or dropped.
    fn end(&mut self, request: &[u8], version: i16) -> io::Result<Vec<u8>> {
        let mut r = Reader { bytes: request, at: 8 };
        r.text();
        let id = if version >= 3 { r.skip(1).compact_text() } else { r.text() };
        let (producer, commits) = ((r.i64(), r.i16()), r.i8() != 0);
        let transactions = self.transactions.clone();
        let mut transactions = transactions.lock().unwrap();
        let transaction = transactions.entry(id.unwrap_or_default()).or_default();
        if transaction.producer == Some(producer) {
            for produce in std::mem::take(&mut transaction.requests) {
                if commits {
                    let reply = self.ask(&produce)?;
                    assert!(refusal(&reply) == 0, "the mock refuses events with error {}", refusal(&reply));
                }
            }
        }
        self.ask(request)
    }
}

/// The error of the first partition that events went into.
fn refusal(reply: &[u8]) -> i16 {
    let mut r = Reader { bytes: reply, at: 8 };
    r.text();
    r.skip(8).i16()
}

/// The client must not write requests to produce in a way that is not read here.
fn cap_produce(reply: &mut [u8], version: i16) {
    let mut r = Reader { bytes: reply, at: 4 };
    if r.i16() != 0 {
        return;
    }
    let is_compact = version >= 3;
    let count = if is_compact { r.varint() - 1 } else { r.i32() as usize };
    for _ in 0..count {
        let (key, _, max_at) = (r.i16(), r.i16(), r.at);
        let max = r.i16();
        if is_compact {
            r.skip(1);
        }
        if key == PRODUCE && max > PRODUCE_VERSION_MAX {
            reply[max_at..max_at + 2].copy_from_slice(&PRODUCE_VERSION_MAX.to_be_bytes());
            return;
        }
    }
}

fn read_frame(from: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let mut frame = vec![0; u32::from_be_bytes(length) as usize];
    from.read_exact(&mut frame)?;
    Ok(frame)
}

fn write_frame(to: &mut TcpStream, frame: &[u8]) -> io::Result<()> {
    to.write_all(&[&(frame.len() as u32).to_be_bytes(), frame].concat())
}

/// Kafka's numbers and texts, one behind the other.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        self.at += N;
        self.bytes[self.at - N..self.at].try_into().unwrap()
    }

    fn i8(&mut self) -> i8 {
        i8::from_be_bytes(self.take())
    }

    fn i16(&mut self) -> i16 {
        i16::from_be_bytes(self.take())
    }

    fn i32(&mut self) -> i32 {
        i32::from_be_bytes(self.take())
    }

    fn i64(&mut self) -> i64 {
        i64::from_be_bytes(self.take())
    }

    fn varint(&mut self) -> usize {
        let (mut value, mut shift) = (0, 0);
        loop {
            let [byte] = self.take();
            value |= usize::from(byte & 127) << shift;
            if byte < 128 {
                return value;
            }
            shift += 7;
        }
    }

    fn skip(&mut self, bytes: usize) -> &mut Self {
        self.at += bytes;
        self
    }

    fn text_of(&mut self, length: usize) -> Option<String> {
        self.at += length;
        Some(String::from_utf8(self.bytes[self.at - length..self.at].to_vec()).unwrap())
    }

    fn text(&mut self) -> Option<String> {
        let length = self.i16();
        usize::try_from(length).ok().and_then(|length| self.text_of(length))
    }

    fn compact_text(&mut self) -> Option<String> {
        let length = self.varint();
        length.checked_sub(1).and_then(|length| self.text_of(length))
    }
}
