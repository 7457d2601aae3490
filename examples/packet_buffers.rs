//! A UDP echo server whose packets lie in buffers of one size, of which there are so many and no more, and in which no client
//! ever finds the bytes of another.
//!
//! ```sh
//! cargo run --release --example packet_buffers                            # with clients of its own, and a verdict
//! cargo run --release --example packet_buffers -- --listen 127.0.0.1:7007 # until Ctrl-C; try: nc -u 127.0.0.1 7007
//! ```
//!
//! One thread receives, others answer, and a buffer goes back to the pool on the thread that has answered. The cap on buffers is
//! also the bound of the queue between them: a packet that finds no buffer is dropped, as a router does.

use std::alloc::Layout;
use std::error::Error;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use cenote::PoolBox;
use cenote::block_pool::{BlockPool, Zeroing};
use clap::Parser;

#[derive(Parser)]
struct Args {
    /// Serve here until Ctrl-C, without clients of its own.
    #[arg(long)]
    listen: Option<SocketAddr>,
    /// Packets that each of the clients sends.
    #[arg(long, default_value_t = 20_000)]
    packets: u64,
    /// Clients.
    #[arg(long, default_value_t = 4)]
    clients: u64,
    /// Buffers, in chunks of 64.
    #[arg(long, default_value_t = 128)]
    buffers: usize,
    /// Threads that answer.
    #[arg(long, default_value_t = 2)]
    workers: usize,
}

/// Bytes of a buffer: what an Ethernet frame carries, and a little more.
const BUFFER: usize = 2048;

/// A packet on its way from the thread that received it to one that answers.
struct Packet {
    buffer: PoolBox<[u8]>,
    size: usize,
    from: SocketAddr,
}

#[derive(Default)]
struct Counts {
    answered: AtomicU64,
    /// For want of a buffer.
    dropped: AtomicU64,
}

/// Serves until `stop` is set.
fn serve(socket: &UdpSocket, pool: &BlockPool, workers: usize, stop: &AtomicBool, counts: &Counts) {
    let (queue, packets) = mpsc::channel::<Packet>();
    let packets = Mutex::new(packets);
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let packet = packets.lock().expect("no panic").recv();
                    let Ok(packet) = packet else { return };
                    // An answer that the socket does not take is lost, as any packet may be.
                    if socket.send_to(&packet.buffer[..packet.size], packet.from).is_ok() {
                        counts.answered.fetch_add(1, Ordering::Relaxed);
                    }
                    // The buffer goes back here, and is wiped.
                }
            });
        }
        while !stop.load(Ordering::Relaxed) {
            // A buffer of zeros: the pool wipes what comes back, so this writes nothing.
            match pool.alloc() {
                Ok(block) => {
                    let mut buffer = block.zeroed();
                    if let Ok((size, from)) = socket.recv_from(&mut buffer) {
                        debug_assert!(
                            buffer[size..].iter().all(|byte| *byte == 0),
                            "bytes of another packet"
                        );
                        let _ = queue.send(Packet { buffer, size, from });
                    }
                }
                Err(exhausted) => {
                    if counts.dropped.fetch_add(1, Ordering::Relaxed) == 0 {
                        println!("the first packet that is dropped: {exhausted}");
                    }
                    let _ = socket.recv_from(&mut [0]);
                }
            }
        }
        drop(queue);
    });
}

/// What a client saw.
#[derive(Default)]
struct Seen {
    answers: u64,
    /// Answers that are not what was sent.
    wrong: u64,
}

/// Sends packets of different lengths in bursts, and compares each answer with what it sent.
fn client(number: u64, packets: u64, server: SocketAddr) -> std::io::Result<Seen> {
    const BURST: u64 = 32;
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    let content = |packet: u64| {
        let size = 16 + (packet * 37 % 1400) as usize;
        let mut content = vec![(number * 16 + packet % 16) as u8; size];
        content[..8].copy_from_slice(&packet.to_le_bytes());
        content
    };
    let (mut seen, mut answer) = (Seen::default(), [0; BUFFER]);
    for first in (0..packets).step_by(BURST as usize) {
        let burst = first..packets.min(first + BURST);
        for packet in burst.clone() {
            // No buffer in the kernel: the packet is lost.
            let _ = socket.send(&content(packet));
        }
        for _ in burst {
            let Ok(size) = socket.recv(&mut answer) else { break };
            seen.answers += 1;
            let packet = answer[..8].try_into().map_or(u64::MAX, u64::from_le_bytes);
            seen.wrong += u64::from(packet >= packets || answer[..size] != content(packet));
        }
    }
    Ok(seen)
}

fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    let pool = BlockPool::builder(Layout::from_size_align(BUFFER, 64)?)
        .blocks_per_chunk(64)
        .max_chunks(args.buffers.div_ceil(64))
        .zeroing(Zeroing::OnFree)
        .build()?;
    let socket = UdpSocket::bind(args.listen.unwrap_or(([127, 0, 0, 1], 0).into()))?;
    let (server, stop, counts) = (socket.local_addr()?, AtomicBool::new(false), Counts::default());
    if args.listen.is_some() {
        println!("echo on udp://{server}, with {} buffers of {BUFFER} bytes", args.buffers);
        serve(&socket, &pool, args.workers, &stop, &counts);
        return Ok(());
    }

    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    let began = Instant::now();
    let seen = thread::scope(|scope| {
        scope.spawn(|| serve(&socket, &pool, args.workers, &stop, &counts));
        let clients: Vec<_> = (0..args.clients)
            .map(|number| scope.spawn(move || client(number, args.packets, server)))
            .collect();
        let seen: Result<Vec<Seen>, _> =
            clients.into_iter().map(|client| client.join().expect("no panic")).collect();
        stop.store(true, Ordering::Relaxed);
        seen
    })?;
    let (answers, wrong) =
        seen.iter().fold((0, 0), |(answers, wrong), seen| (answers + seen.answers, wrong + seen.wrong));
    let sent = args.packets * args.clients;
    println!(
        "{answers} of {sent} packets came back in {:.1?}; {wrong} with wrong bytes; {} found no buffer",
        began.elapsed(),
        counts.dropped.load(Ordering::Relaxed)
    );
    println!("{:#?}", pool.stats());
    println!("given back: {} chunks", pool.shrink());
    let all_is_well = wrong == 0 && answers > sent / 2 && pool.stats().in_use == 0;
    if all_is_well { Ok(()) } else { Err("packets were lost or mixed up, or buffers are missing".into()) }
}
