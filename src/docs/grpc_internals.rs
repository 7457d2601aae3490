//! How a call travels through `grpc`, which file does what, and which invariants the files rely on.
//!
//! # A call's way
//!
//! ```text
//!   tonic's generated client
//!        │ Request<Body>
//!        ▼
//!   call/mod.rs            the loop: lease ──▶ send ──▶ verdict ──▶ again, or the outcome
//!        │   call/head.rs, call/deadline.rs     the request's head; the deadline around each wait
//!        │   call/verdict.rs                    may it be sent again, and if not, as what does it fail?
//!        │   call/response_body.rs              the caller reads the response through it
//!        │
//!        │ Source::lease
//!        ├───────────────────────┬──────────────────────────┐
//!        ▼                       ▼                          ▼
//!   client_pool/            stream_pool/               conn/mod.rs
//!     mod, guard, place,      address, member, waiter    ClientConn
//!     lending, stats          balance, keeper               │
//!        └──────┬────────────────┘                          │
//!               ▼                                           │
//!            sizing.rs   how many connections, and which    │
//!            group.rs    the members of one pool            │
//!               │                                           │
//!               └───────────────────┬───────────────────────┘
//!                                   ▼
//!   conn/shared.rs         a connection behind its handles: lock, publish, run effects
//!        │   conn/machine.rs                    (state, event, now) -> (state, effects)
//!        │   conn/lease.rs                      what one call holds of a connection
//!        │   conn/membership.rs                 what a connection knows of its pool
//!        │
//!        ├──▶ conn/dialing.rs   one task: attempt, pause, attempt ──▶ dial/   resolve, happy_eyeballs,
//!        │                                                            │      socket, connector, tls,
//!        │                                                            │      backoff, gate
//!        │                                            server.rs  ◀────┘  what was learned of the target
//!        ▼
//!   link/                  one socket, from its preface to its close
//!            link/request_body.rs  ──▶  hyper and h2  ──▶  link/tap.rs  ──▶  TLS, TCP
//!            link/one_task.rs drives hyper; conn/driver.rs drives that, and ends it
//! ```
//!
//! # A frame's way back
//!
//! Bytes arrive at the tap, above TLS and below hyper. `link/frames.rs` reads the frame headers in them; it is pure, and
//! fuzzed. The tap acts on what concerns the whole link (SETTINGS, GOAWAY, the end of the socket) and moves the phase of the
//! `Link`, which only goes forward:
//!
//! ```text
//!   Preface ──▶ Open ──▶ Draining ──▶ Vacant ──▶ Ended ──▶ Closed
//! ```
//!
//! The tap runs inside hyper's `poll_read`. So it only notes what has happened; the task that drives the link
//! (`link/one_task.rs`) reports it to the connection after that poll, when neither hyper nor h2 holds a lock. The
//! connection applies it to its machine, publishes the state, and notifies its pool, which may dial, wake callers, or
//! move them. No pool runs inside a poll of hyper's.
//!
//! # Arrows
//!
//! Each room imports only rooms below it; `tests/architecture.rs` holds them to it.
//!
//! | room | may import |
//! |---|---|
//! | `link` | none: it reports through the trait `Observer` |
//! | `dial` | `link` |
//! | `server` | `dial` |
//! | `conn` | `server`, `dial`, `link`; it knows its pool only as the trait `Pool` |
//! | `call` | `conn`, `dial`, `link` |
//! | `sizing` | `conn` |
//! | `group` | `conn`, `server` |
//! | `client_pool`, `stream_pool` | `call`, `conn`, `group`, `sizing`, `link` |
//! | `observe` | `conn`, `link` |
//!
//! # Pure functions
//!
//! Each decision is a function without a lock, a task or a socket, with a table as its test:
//!
//! | file | decides |
//! |---|---|
//! | `conn/machine.rs` | the state of a connection after an event, and what the shell has to do |
//! | `call/verdict.rs` | whether a call that failed may be sent again, and what it fails with if not |
//! | `call/framing.rs` | whether a response ended within a message |
//! | `metadata.rs` | what of a peer's status tonic can decode |
//! | `sizing.rs` | which connection takes the next caller, and how many connections a load needs |
//! | `link/frames.rs` | what a stretch of bytes says in HTTP/2 frames |
//! | `dial/happy_eyeballs.rs` | in which order the addresses of a host are tried |
//! | `dial/backoff.rs` | how long the pause after a failed attempt is |
//!
//! # Invariants
//!
//! * **State.** A connection's state changes only in `Shared::update`, one event at a time, under the connection's lock.
//!   The atomic mirror that `ClientConn::state` reads is stored under the same lock, so it is never older than the
//!   lock's last release. Wakers, pools and drops of what was replaced run after the lock.
//! * **One dial.** At most one task dials for a connection. A pool's connections dial through one gate, so an outage is not
//!   a storm of dials.
//! * **Ready means the server's SETTINGS.** A connection is never Ready on its own preface alone, and with a health check
//!   only while the server reports that it serves.
//! * **Handles.** `ClientConn`s, calls and response bodies are strong references to a connection; tasks, sockets and pools'
//!   lists are weak ones. So the drop of the last handle closes the socket, and a task never keeps a connection open.
//! * **Callers.** A handle of a `ClientPool` counts as one caller of its connection from the moment of the choice until it
//!   is dropped, whether a caller or the stock holds it. The choice and the count happen under the group's lock, so two
//!   callers do not get the last stream of a connection. The last handle of a broken connection discards it.
//! * **Slots.** A call has one of the link's slots from before its request is given to hyper until its response body is at
//!   its end or dropped, so a link never has more streams than its server allows.
//! * **Sent again.** A request is sent again only if no server can have processed it: nothing of it has left, the server
//!   refused its stream, or a GOAWAY does not cover it. What has left once is sent again once, as gRFC A6 has it. Whether
//!   anything has left is decided by the tap, which counts the heads that were written; once that has been answered with
//!   "nothing", no byte of the request leaves any more.
//! * **Deadlines.** Each wait of a call is bounded by its deadline: the lease, the response's head, and each message of its
//!   body. A call that fails when its deadline has passed fails with DEADLINE_EXCEEDED, whatever else happened.
//! * **What was learned of a server** (addresses that lead nowhere, how often it may be pinged, its TLS sessions, whether
//!   it is there at all) is kept in `server.rs`, for all connections of a pool, and outlives each of them.
//! * **User code** (connectors, message streams, credentials) is never called under a lock of this crate, and a panic in it
//!   ends the attempt or the call that it belongs to, not the connection.
