//! From one connection to a mesh: which of the gRPC pools for how many servers.
//!
//! | there is | take |
//! |---|---|
//! | one server, or one name in front of many (a load balancer, a sidecar), and few calls at once | `grpc::ClientConn` |
//! | the same, and more calls at once than one connection carries | `grpc::ClientPool` for handlers that get and put; `grpc::StreamPool::channel` for one client that lives long |
//! | many addresses, each call knows its own (shards, peers of a cluster) | `grpc::StreamPool::get` |
//! | several servers that are all the same | `grpc::StreamPool::balance` |
//! | routes, weights, zones, outlier ejection, certificates that change | xDS, or a mesh: below |
//!
//! # One name, many addresses
//!
//! A connection stays with the address that it found first. Behind a name that resolves to many, calls of one connection all go
//! to one server; behind a load balancer of TCP connections, too. `max_connection_age` makes a connection dial
//! again after a while, so that it finds servers that were added. To use all of them at once, balance:
//!
//! ```
//! # #[cfg(feature = "grpc")] {
//! use std::time::Duration;
//! use cenote::grpc::{Addresses, StreamPool};
//!
//! let pool = StreamPool::new();
//! // A headless service of Kubernetes: its name resolves to its pods.
//! let pods = Addresses::dns("http", "greeter.default.svc.cluster.local", 5000, Duration::from_secs(30));
//! let channel = pool.balance(pods);
//! // GreeterClient::new(channel.clone())
//! # }
//! ```
//!
//! Kubernetes' DNS lags behind its pods by the records' time to live. A pod that is gone is passed over as soon as its
//! connection is lost, whatever DNS says; a new one is found with the next look-up.
//!
//! # Addresses from elsewhere
//!
//! `Addresses::discover` takes any tower `Discover`, which is any stream of `Change`s: from a watch on Kubernetes' endpoint slices,
//! from Consul or etcd, from a file, or from an xDS client of which only the endpoints are wanted (EDS).
//!
//! ```
//! # #[cfg(feature = "grpc")] {
//! use cenote::grpc::{Addresses, StreamPool};
//! use tokio_stream::StreamExt;
//! use tower::discover::Change;
//!
//! let (changes, received) = tokio::sync::mpsc::unbounded_channel();
//! let stream = tokio_stream::wrappers::UnboundedReceiverStream::new(received);
//! let addresses = Addresses::discover(stream.map(Ok::<_, std::convert::Infallible>));
//! let channel = StreamPool::new().balance(addresses);
//!
//! changes.send(Change::Insert("pod-1", "http://10.1.0.7:5000".to_owned())).unwrap();
//! changes.send(Change::Remove("pod-1")).unwrap();
//! # drop(channel);
//! # }
//! ```
//!
//! # What this is not
//!
//! The choice is between two addresses drawn at random, by the streams that this process has under way on them. It knows no weights, no
//! zones, no latencies and no load that others put on a server. A server that answers fast with errors looks like a good one
//! (health checks catch one that says so of itself). There is no retry of calls that may have been processed, no hedging, no circuit
//! breaker: tower has layers for those.
//!
//! Who needs more than that in one process can have it from an xDS control plane: the crate `tonic-xds` (by tonic's authors;
//! still an alpha at the time of writing) is a tonic service with routes, clusters and their balancing, in the place of
//! `BalancedChannel`. Who needs it in all processes, of all languages, puts a mesh beside them: then the only address is the
//! sidecar's, on loopback, and the first two rows of the table are all that is left to choose from.
