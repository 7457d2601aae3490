//! A worker that is later than its client: the bytes that the next client gets without a `QuarantinePool`, and with one.
//!
//! ```sh
//! cargo run --example late_worker
//! ```
//!
//! A server keeps its connections in a table, and its workers know them by number. Client A asks for something that takes 1 s, and
//! leaves after half of it. Client B comes, and gets the same place in the table. (In a real server it would be ten seconds,
//! and the table large; the story is the same.)

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use cenote::quarantine::{Handle, Owner, QuarantinePool};

/// The work that a client asks for takes so long.
const WORK: Duration = Duration::from_millis(1_000);
/// Client A stays so long.
const PATIENCE: Duration = Duration::from_millis(500);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let bytes = story(Plain::default())?;
    println!("with a table of places:    client B asked for nothing, and got {:?}", text(&bytes));
    let pool = QuarantinePool::builder(Connection::default)
        .max_size(16)
        .grace(Duration::from_millis(100))
        .reset(|connection| *connection.get_mut().expect("no panic") = None)
        .build()?;
    let bytes = story(Quarantined { pool: pool.clone() })?;
    println!("with a quarantine pool:    client B asked for nothing, and got {:?}", text(&bytes));
    println!("{:#?}", pool.stats());
    match bytes.is_empty() {
        true => Ok(()),
        false => Err("client B got bytes of client A".into()),
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

type Connection = Mutex<Option<TcpStream>>;

/// Where a server keeps its connections.
trait Table: Send + Sync + 'static {
    /// How a worker names a connection.
    type Name: Copy + Send + 'static;
    /// What the one who serves the connection keeps until its client is gone.
    type Place: Send;
    fn enter(&self, stream: TcpStream) -> io::Result<(Self::Place, Self::Name)>;
    fn leave(&self, place: Self::Place, name: Self::Name);
    /// A worker has its answer.
    fn answer(&self, name: Self::Name, answer: &[u8]) -> Result<(), String>;
}

/// Places that are used again at once.
#[derive(Default)]
struct Plain(Mutex<Vec<Option<TcpStream>>>);

impl Table for Plain {
    type Name = usize;
    type Place = ();

    fn enter(&self, stream: TcpStream) -> io::Result<((), usize)> {
        let mut places = self.0.lock().expect("no panic");
        let free = places.iter().position(Option::is_none);
        let place = free.unwrap_or_else(|| {
            places.push(None);
            places.len() - 1
        });
        places[place] = Some(stream);
        Ok(((), place))
    }

    fn leave(&self, (): (), name: usize) {
        self.0.lock().expect("no panic")[name] = None;
    }

    fn answer(&self, name: usize, answer: &[u8]) -> Result<(), String> {
        match &mut self.0.lock().expect("no panic")[name] {
            Some(stream) => stream.write_all(answer).map_err(|error| error.to_string()),
            None => Err("nobody is there".to_owned()),
        }
    }
}

struct Quarantined {
    pool: QuarantinePool<Connection>,
}

impl Table for Quarantined {
    type Name = Handle;
    type Place = Owner<Connection>;

    fn enter(&self, stream: TcpStream) -> io::Result<(Owner<Connection>, Handle)> {
        let mut reserved = self.pool.reserve().map_err(io::Error::other)?;
        *reserved.get_mut().expect("no panic") = Some(stream);
        Ok(reserved.publish())
    }

    fn leave(&self, place: Owner<Connection>, _: Handle) {
        place.release();
    }

    fn answer(&self, name: Handle, answer: &[u8]) -> Result<(), String> {
        let connection = self.pool.enter(name).map_err(|stale| stale.to_string())?;
        match &mut *connection.lock().expect("no panic") {
            Some(stream) => stream.write_all(answer).map_err(|error| error.to_string()),
            None => Err("nobody is there".to_owned()),
        }
    }
}

/// What client B gets.
fn story(table: impl Table) -> io::Result<Vec<u8>> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let table = Arc::new(table);
    let server = thread::spawn(move || {
        for stream in listener.incoming().take(2) {
            let (stream, table) = (stream?, Arc::clone(&table));
            let reader = stream.try_clone()?;
            let (place, name) = table.enter(stream)?;
            thread::spawn(move || serve(&table, reader, place, name));
        }
        io::Result::Ok(())
    });

    let mut a = TcpStream::connect(address)?;
    a.write_all(b"?")?;
    sleep(PATIENCE);
    a.shutdown(Shutdown::Both)?;
    drop(a);
    sleep(Duration::from_millis(50));

    let mut b = TcpStream::connect(address)?;
    let end = Instant::now() + WORK;
    let mut received = Vec::new();
    while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        b.set_read_timeout(Some(left))?;
        let mut bytes = [0; 64];
        match b.read(&mut bytes) {
            Ok(0) => break,
            Ok(length) => received.extend(&bytes[..length]),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(error) => return Err(error),
        }
    }
    server.join().expect("no panic")?;
    Ok(received)
}

/// Starts a worker for each request, until the client is gone.
fn serve<T: Table>(table: &Arc<T>, mut client: TcpStream, place: T::Place, name: T::Name) {
    let mut request = [0; 1];
    while client.read(&mut request).is_ok_and(|length| length > 0) {
        let table = Arc::clone(table);
        thread::spawn(move || {
            sleep(WORK);
            if let Err(why) = table.answer(name, b"the balance of client A") {
                println!("                           the late worker was told: {why}");
            }
        });
    }
    table.leave(place, name);
}
